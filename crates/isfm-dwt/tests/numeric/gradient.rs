//! Gradients: finite differences, the adjoint identity, and what an orthogonal transform keeps.

use std::slice::from_ref;

use candle_core::{DType, Result, Tensor, Var};
use isfm_dwt::{
    Border, DataFormat, Subbands, Wavelet, WaveletPacket, dwt, dwt2, idwt, idwt2, iswt, iswt2, swt,
    swt2, wavedec, wavedec2, waverec, waverec2,
};
use isfm_testing::{Differences, check_gradients, difference, dot, golden, random};
use proptest::prelude::*;

use crate::{LAYOUTS, MODES, any_layout, from_nchw, padded_haar, product, wavelets};

const DROP: Border = Border::Drop;

/// A loss whose gradient is different everywhere.
fn loss(parts: &[&Tensor]) -> Result<Tensor> {
    let mut sum = Tensor::zeros((), DType::F64, &candle_core::Device::Cpu)?;
    for (k, x) in parts.iter().enumerate() {
        let weights = random(x.dims(), 100 + k as u64);
        sum = (sum + x.sqr()?.mul(&weights)?.sum_all()? + x.mul(&weights)?.sum_all()?)?;
    }
    Ok(sum)
}

/// Differences are exact for the quadratic loss up to rounding: 1e-16 × 100 terms / step 1e-3.
const EXACT: Differences = Differences { step: 1e-3, tolerance: 1e-11, one_by_one: usize::MAX };

fn check(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    check_gradients("wavelets", inputs, EXACT, f);
}

#[test]
fn of_dwt2() {
    for layout in LAYOUTS {
        for wavelet in wavelets() {
            for dims in [[2, 2, 5, 4], [1, 3, 2, 7], [1, 1, 2, 2]] {
                let x = from_nchw(&random(&dims, 1), layout);
                let run =
                    |x: &[Tensor]| -> Result<Subbands> { Ok(dwt2(&x[0], &wavelet, DROP, layout)?) };
                check(from_ref(&x), |x| run(x).and_then(|b| loss(&[&b.approx, &b.details])));
                check(from_ref(&x), |x| loss(&[&run(x)?.approx]));
                check(from_ref(&x), |x| loss(&[&run(x)?.details]));
                // A view in front of the loss: the gradient arrives with strides.
                check(&[x], |x| loss(&[&run(x)?.approx.transpose(1, 2)?]));
            }
        }
    }
}

#[test]
fn of_idwt2() {
    for layout in LAYOUTS {
        for wavelet in wavelets() {
            for (c, h, w) in [(2, 2, 3), (1, 1, 1)] {
                let approx = from_nchw(&random(&[2, c, h, w], 1), layout);
                let details = from_nchw(&random(&[2, 3 * c, h, w], 2), layout);
                let run = |a: &Tensor, d: &Tensor| loss(&[&idwt2(a, d, &wavelet, DROP, layout)?]);
                check(&[approx.clone(), details.clone()], |x| run(&x[0], &x[1]));
                check(from_ref(&approx), |x| run(&x[0], &details));
                check(from_ref(&details), |x| run(&approx, &x[0]));
            }
        }
    }
}

#[test]
fn of_levels() {
    for layout in LAYOUTS {
        for wavelet in wavelets() {
            let x = from_nchw(&random(&[1, 2, 7, 12], 1), layout);
            check(&[x], |x| {
                let levels = wavedec2(&x[0], &wavelet, DROP, layout, 2)?;
                let back = waverec2(&levels, &wavelet, DROP, layout)?;
                loss(&[&levels[0], &levels[1], &levels[2], &back])
            });
        }
    }
}

/// A loss on the transform of a tensor that is no leaf and of which one half is unused.
#[test]
fn inside_a_graph() {
    let x = random(&[1, 4, 4, 2], 1);
    check(&[x], |x| {
        let inner = (x[0].sqr()? * 0.5)?;
        let (haar, layout) = (Wavelet::haar(), DataFormat::ChannelsLast);
        let bands = dwt2(&inner, &haar, DROP, layout)?;
        let details = bands.hl()?.repeat((1, 1, 1, 3))?;
        let out = idwt2(&bands.approx, &details, &haar, DROP, layout)?;
        // Linear, so that the whole stays quadratic and differences exact.
        out.mul(&random(out.dims(), 9))?.sum_all()
    });
}

/// Every border, the network's included.
fn borders() -> impl Iterator<Item = Border> {
    MODES.into_iter().map(|(_, border)| border).chain([DROP])
}

/// By finite differences: short signals, so that a filter reaches over both ends and more than
/// once around, and a long one; each kind of wavelet.
#[test]
fn of_every_border() {
    for name in ["haar", "db2", "sym5", "coif1", "bior3.3", "rbio2.2"] {
        let wavelet = Wavelet::named(name).unwrap();
        for border in borders() {
            for (dims, dim) in [(vec![2, 2], 1), (vec![3, 2], 0), (vec![2, 5, 3], 1), (vec![20], 0)]
            {
                check(&[random(&dims, 1)], |x| {
                    let (a, d) = dwt(&x[0], &wavelet, border, dim)?;
                    loss(&[&a, &d])
                });
            }
            let both = [random(&[2, 6], 1), random(&[2, 6], 2)];
            check(&both, |x| loss(&[&idwt(&x[0], &x[1], &wavelet, border, 1)?]));
            check(&[random(&[21], 1)], |x| {
                let levels = wavedec(&x[0], &wavelet, border, 0, 2)?;
                loss(&[&levels[0], &levels[1], &levels[2], &waverec(&levels, &wavelet, border, 0)?])
            });
            for layout in LAYOUTS {
                for dims in [[1, 2, 5, 4], [1, 1, 3, 7]] {
                    check(&[from_nchw(&random(&dims, 1), layout)], |x| {
                        let b = dwt2(&x[0], &wavelet, border, layout)?;
                        loss(&[&b.approx, &b.details])
                    });
                }
                let approx = from_nchw(&random(&[1, 2, 6, 7], 1), layout);
                let details = from_nchw(&random(&[1, 6, 6, 7], 2), layout);
                let run = |x: &[Tensor]| idwt2(&x[0], &x[1], &wavelet, border, layout);
                // Linear in each half: a few of them are enough.
                if name != "coif1" {
                    check(&[approx, details], |x| loss(&[&run(x)?]));
                }
            }
        }
    }
}

#[test]
fn of_stationary_transforms() {
    for name in ["haar", "db3", "bior2.2"] {
        let wavelet = Wavelet::named(name).unwrap();
        check(&[random(&[2, 8], 1)], |x| {
            let c = swt(&x[0], &wavelet, 1, 2)?;
            loss(&[&c[0], &c[1], &c[2], &iswt(&c, &wavelet, 1)?])
        });
        check(&[random(&[4, 2], 1), random(&[4, 2], 2), random(&[4, 2], 3)], |x| {
            loss(&[&iswt(x, &wavelet, 0)?])
        });
        for layout in LAYOUTS {
            check(&[from_nchw(&random(&[1, 2, 4, 8], 1), layout)], |x| {
                let c = swt2(&x[0], &wavelet, layout, 2)?;
                loss(&[&c[0], &c[1], &c[2], &iswt2(&c, &wavelet, layout)?])
            });
        }
    }
}

#[test]
fn of_packets() {
    let wavelet = Wavelet::named("db2").unwrap();
    for border in borders() {
        check(&[random(&[2, 9], 1)], |x| {
            let mut tree = WaveletPacket::new(&x[0], &wavelet, border, 1)?;
            tree.split("")?;
            tree.split("d")?;
            let leaves: Vec<_> = tree.leaves().map(|(_, x)| x.clone()).collect();
            loss(&[&leaves[0], &leaves[1], &leaves[2], &tree.reconstruct()?])
        });
    }
}

/// ⟨Wx, y⟩ = ⟨x, Wᵀy⟩ for every wavelet, every border, odd and even sizes below and above the
/// filter's; the same for the inverse.
#[test]
fn adjoint_of_every_wavelet_and_border() {
    for (seed, name) in Wavelet::names().enumerate() {
        let wavelet = Wavelet::named(&name).unwrap();
        for border in borders() {
            for n in [2, 3, 7, 16, 45] {
                let x = Var::from_tensor(&random(&[n], seed as u64)).unwrap();
                let (a, d) = dwt(&x, &wavelet, border, 0).unwrap();
                let (y, z) = (random(a.dims(), 1), random(d.dims(), 2));
                let sum = (product(&a, &y) + product(&d, &z)).unwrap();
                let forward = sum.to_scalar::<f64>().unwrap();
                let backward = dot(&x, sum.backward().unwrap().get(&x).unwrap());
                // Sums of some 100 products of order 1.
                assert!((forward - backward).abs() < 1e-12, "{name} {border:?} {n}");

                let m = n + wavelet.taps() / 2;
                let (a, d) = (random(&[m], 3), random(&[m], 4));
                let (a, d) = (Var::from_tensor(&a).unwrap(), Var::from_tensor(&d).unwrap());
                let out = idwt(&a, &d, &wavelet, border, 0).unwrap();
                let sum = product(&out, &random(out.dims(), 5));
                let forward = sum.to_scalar::<f64>().unwrap();
                let grads = sum.backward().unwrap();
                let backward = dot(&a, grads.get(&a).unwrap()) + dot(&d, grads.get(&d).unwrap());
                assert!((forward - backward).abs() < 1e-12, "inverse {name} {border:?} {n}");
            }
        }
    }
}

/// pytorch_wavelets computes the same coefficients, but in the modes that copy samples to beyond
/// the ends its backward drops what these copies should bring: the gradient of a linear map x ↦ Wx
/// must satisfy ⟨Wx, y⟩ = ⟨x, Wᵀy⟩, and theirs does not (`fixtures/make_pytorch_wavelets.py`).
#[test]
fn where_pytorch_wavelets_is_wrong() {
    let fixture = golden!("pytorch_wavelets.safetensors");
    for name in ["haar", "db2", "db4"] {
        let wavelet = Wavelet::named(name).unwrap();
        for (mode, border) in MODES.into_iter().filter(|(mode, _)| *mode != "constant") {
            let get = |what: &str| &fixture[&*format!("{name}.{mode}.{what}")];
            let x = Var::from_tensor(get("x")).unwrap();
            let (low, high) = dwt(&x, &wavelet, border, 0).unwrap();
            assert!(difference(&low, get("low")) < 1e-14);
            assert!(difference(&high, get("high")) < 1e-14);
            let sum = (product(&low, get("y")) + product(&high, get("z"))).unwrap();
            let forward = sum.to_scalar::<f64>().unwrap();
            let ours = sum.backward().unwrap().get(&x).unwrap().clone();
            assert!((forward - dot(&x, &ours)).abs() < 1e-13, "{name} {mode}");
            let theirs = get("grad");
            let copies = name != "haar" && ["symmetric", "reflect", "periodic"].contains(&mode);
            if copies {
                assert!((forward - dot(&x, theirs)).abs() > 1e-2, "{name} {mode}");
                assert!(difference(&ours, theirs) > 0.4, "{name} {mode}");
            } else {
                assert!(difference(&ours, theirs) < 1e-14, "{name} {mode}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// ⟨Wx, y⟩ = ⟨x, Wᵀy⟩, where Wᵀy is the gradient of ⟨Wx, y⟩; any filters, any size.
    #[test]
    fn adjoint(
        (b, c, h, w) in (1usize..3, 1usize..20, 2usize..12, 2usize..40),
        layout in any_layout(), wavelet in proptest::sample::select(wavelets().to_vec()), seed in 0u64..1000,
    ) {
        let x = Var::from_tensor(&from_nchw(&random(&[b, c, h, w], seed), layout)).unwrap();
        let bands = dwt2(&x, &wavelet, DROP, layout).unwrap();
        let y = random(bands.approx.dims(), seed + 1);
        let z = random(bands.details.dims(), seed + 2);
        let forward = dot(&bands.approx, &y) + dot(&bands.details, &z);
        let sum = (product(&bands.approx, &y) + product(&bands.details, &z)).unwrap();
        let grads = sum.backward().unwrap();
        let backward = dot(&x, grads.get(&x).unwrap());
        // Rounding of sums of up to 20,000 products of order 1.
        prop_assert!((forward - backward).abs() < 1e-10, "{forward} {backward}");

        // The same for the inverse.
        let (y, z) = (Var::from_tensor(&y).unwrap(), Var::from_tensor(&z).unwrap());
        let out = idwt2(&y, &z, &wavelet, DROP, layout).unwrap();
        let u = random(out.dims(), seed + 3);
        let forward = dot(&out, &u);
        let grads = product(&out, &u).backward().unwrap();
        let backward = dot(&y, grads.get(&y).unwrap()) + dot(&z, grads.get(&z).unwrap());
        prop_assert!((forward - backward).abs() < 1e-10, "{forward} {backward}");
    }

    /// Haar is orthogonal: even sizes come back, and the energy stays.
    #[test]
    fn orthogonal(
        (b, c, h, w) in (1usize..3, 1usize..20, 1usize..5, 1usize..12),
        levels in 0usize..3, layout in any_layout(), general: bool, seed in 0u64..1000,
    ) {
        let wavelet = if general { padded_haar() } else { Wavelet::haar() };
        let x = from_nchw(&random(&[b, c, h << levels, w << levels], seed), layout);
        let coefficients = wavedec2(&x, &wavelet, DROP, layout, levels).unwrap();
        let energy: f64 = coefficients.iter().map(|c| dot(c, c)).sum();
        prop_assert!((energy - dot(&x, &x)).abs() <= 1e-13 * energy);
        let back = waverec2(&coefficients, &wavelet, DROP, layout).unwrap();
        prop_assert!(difference(&back, &x) < 1e-14);
    }
}
