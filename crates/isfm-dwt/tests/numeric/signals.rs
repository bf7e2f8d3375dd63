//! One-dimensional and stationary transforms and packets: plain loops as the oracle, long lines,
//! threads, views, bad input.

use candle_core::{D, DType, Device, Tensor, Var};
use isfm_dwt::{
    Border, DataFormat, Error, Wavelet, WaveletPacket, dwt, dwt2, idwt, iswt, iswt2, swt, swt2,
    wavedec, waverec,
};
use isfm_testing::{bits, difference, random, same_bits, same_on_any_threads, values};

use crate::{MODES, cases};

/// cA by the definition: the low-pass over the extended signal, every second output.
fn oracle(x: &[f64], lo: &[f64], border: Border) -> Vec<f64> {
    let n = x.len() as isize;
    let at = |i: isize| -> f64 {
        let i = match border {
            Border::Zero if !(0..n).contains(&i) => return 0.,
            Border::Zero => i,
            Border::Constant => i.clamp(0, n - 1),
            Border::Symmetric | Border::Reflect => {
                // Whether the end sample comes twice.
                let twice = isize::from(border == Border::Symmetric);
                let mut i = i;
                while !(0..n).contains(&i) {
                    i = if i < 0 { -twice - i } else { 2 * n - 2 + twice - i };
                }
                i
            }
            _ => i.rem_euclid(n),
        };
        x[i as usize]
    };
    let outputs = (x.len() + lo.len() - 1) / 2;
    let output =
        |o| lo.iter().enumerate().map(|(j, w)| w * at(2 * o as isize + 1 - j as isize)).sum();
    (0..outputs).map(output).collect()
}

#[test]
fn long_lines_are_the_definition() {
    let wavelet = Wavelet::named("db4").unwrap();
    let lo = [
        -0.010597401785069032,
        0.0328830116668852,
        0.030841381835560764,
        -0.18703481171909309,
        -0.02798376941685985,
        0.6308807679298589,
        0.7148465705529157,
        0.2303778133088965,
    ];
    // More than one task, and ends that are no multiple of a vector.
    let x = random(&[100_003], 1);
    for (mode, border) in MODES.into_iter().take(5) {
        let (a, _) = dwt(&x, &wavelet, border, 0).unwrap();
        let want = oracle(&values(&x), &lo, border);
        let want = Tensor::from_vec(want, a.dims(), &Device::Cpu).unwrap();
        assert!(difference(&a, &want) < 1e-14, "{mode}");
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    for (name, wavelet, border) in cases(["haar", "db7"]) {
        for dims in [vec![1, 100_001, 1], vec![5, 1001, 3], vec![2, 77, 130]] {
            let x = random(&dims, 6).to_dtype(DType::F32).unwrap();
            let run = || -> candle_core::Result<Vec<_>> {
                let var = Var::from_tensor(&x)?;
                let mut all = wavedec(&var, &wavelet, border, 1, 2)?;
                let sum = (all[0].sqr()?.sum_all()? + all[1].sqr()?.sum_all()?)?;
                all.push(sum.backward()?.get(&var).unwrap().clone());
                all.push(waverec(&all[..3], &wavelet, border, 1)?);
                Ok(all.iter().map(bits).collect())
            };
            same_on_any_threads(&name, || run().unwrap());
        }
    }
}

/// With gradients tracked the two bands are computed apart; the values must be the same ones.
#[test]
fn tracked_or_not_gives_the_same_bits() {
    let wavelet = Wavelet::named("sym6").unwrap();
    for dims in [vec![3, 50], vec![3, 50, 70]] {
        let x = random(&dims, 3).to_dtype(DType::F32).unwrap();
        let plain = dwt(&x, &wavelet, Border::Reflect, 1).unwrap();
        let var = Var::from_tensor(&x).unwrap();
        let tracked = dwt(&var, &wavelet, Border::Reflect, 1).unwrap();
        assert!(same_bits(&plain.0, &tracked.0) && same_bits(&plain.1, &tracked.1));
    }
}

#[test]
fn views_are_read_right() {
    let wavelet = Wavelet::named("db2").unwrap();
    let view = random(&[9, 8, 10], 4).transpose(0, 2).unwrap().narrow(1, 1, 6).unwrap();
    let copy = view.force_contiguous().unwrap();
    let (a, d) = dwt(&view, &wavelet, Border::Periodic, D::Minus1).unwrap();
    let (b, e) = dwt(&copy, &wavelet, Border::Periodic, 2).unwrap();
    assert!(same_bits(&a, &b) && same_bits(&d, &e));
    let (a, d) = (a.transpose(0, 1).unwrap(), d.transpose(0, 1).unwrap());
    let back = idwt(&a, &d, &wavelet, Border::Periodic, 2).unwrap();
    let back = back.transpose(0, 1).unwrap().narrow(2, 0, 9).unwrap();
    assert!(difference(&back, &view) < 1e-12);
}

/// What makes it stationary: shifting the signal shifts the coefficients.
#[test]
fn stationary_transforms_shift_along() {
    let wavelet = Wavelet::named("db3").unwrap();
    let rolled = |x: &Tensor, by: usize| {
        let n = x.dim(0).unwrap();
        let parts = [x.narrow(0, n - by, by).unwrap(), x.narrow(0, 0, n - by).unwrap()];
        Tensor::cat(&parts, 0).unwrap()
    };
    let x = random(&[24], 1);
    let all = swt(&x, &wavelet, 0, 3).unwrap();
    for by in [1, 5] {
        for (a, b) in all.iter().zip(swt(&rolled(&x, by), &wavelet, 0, 3).unwrap()) {
            assert!(difference(&rolled(a, by), &b) < 1e-14);
        }
    }
}

#[test]
fn packet_trees_grow_and_shrink() {
    let haar = Wavelet::haar();
    let x = random(&[1, 8, 8, 2], 1);
    let mut tree =
        WaveletPacket::new2(&x, &haar, Border::Symmetric, DataFormat::ChannelsLast).unwrap();
    let paths = |tree: &WaveletPacket| {
        tree.leaves().map(|(p, _)| p.to_string()).collect::<Vec<_>>().join(" ")
    };
    tree.split("").unwrap();
    tree.split("v").unwrap();
    assert_eq!(paths(&tree), "a h va vh vv vd d");
    let bands = dwt2(&x, &haar, Border::Symmetric, DataFormat::ChannelsLast).unwrap();
    assert!(same_bits(tree.get("d").unwrap(), &bands.hh().unwrap()));
    assert!(tree.get("v").is_none());
    assert!(matches!(tree.merge(""), Err(Error::Node { .. })));
    assert!(matches!(tree.merge("a"), Err(Error::Node { .. })));
    assert!(matches!(tree.split("v"), Err(Error::Node { .. })));
    let small = bands.hh().unwrap().narrow(1, 0, 1).unwrap();
    assert!(matches!(tree.set("d", small.clone()), Err(Error::Shape { .. })));
    assert!(matches!(tree.set("x", small), Err(Error::Node { .. })));
    assert_eq!(paths(&tree), "a h va vh vv vd d");
    tree.merge("v").unwrap();
    assert_eq!(paths(&tree), "a h v d");
    tree.merge("").unwrap();
    assert_eq!(paths(&tree), "");
    assert!(tree.merge("").is_err());
    assert!(difference(&tree.reconstruct().unwrap(), &x) < 1e-14);
    assert!(WaveletPacket::new(&x, &haar, Border::Zero, 4).is_err());
    assert!(
        WaveletPacket::new2(&random(&[4], 1), &haar, Border::Zero, DataFormat::ChannelsLast)
            .is_err()
    );
}

#[test]
fn bad_input_is_an_error_that_says_so() {
    let db4 = Wavelet::named("db4").unwrap();
    let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
    for (_, border) in MODES {
        assert!(matches!(dwt(&zeros(&[3, 0]), &db4, border, 1), Err(Error::Shape { .. })));
        assert!(dwt(&zeros(&[3, 1]), &db4, border, 1).is_ok());
        assert!(dwt(&zeros(&[3, 4]), &db4, border, 2).is_err());
        assert!(dwt(&zeros(&[]), &db4, border, 0).is_err());
        // Nothing beside the axis is no error.
        let (a, d) = dwt(&zeros(&[0, 4]), &db4, border, 1).unwrap();
        let back = idwt(&a, &d, &db4, border, 1).unwrap();
        assert_eq!(back.dims(), [0, 4]);
        let (a, _) = dwt(&zeros(&[4, 0]), &db4, border, 0).unwrap();
        assert_eq!(a.dims(), [border.outputs(4, 8), 0]);
        let e = wavedec(&zeros(&[3, 9]), &db4, border, 1, 1000).unwrap_err();
        assert!(matches!(e, Error::Levels { op: "wavedec", levels: 1000, .. }), "{e}");
    }
    let e = dwt(&zeros(&[3, 1]), &db4, Border::Drop, 1).unwrap_err();
    assert!(e.to_string().contains("at least 2 along dimension 1"), "{e}");
    let e = dwt(&zeros(&[4]).to_dtype(DType::U8).unwrap(), &db4, Border::Zero, 0).unwrap_err();
    assert!(matches!(e, Error::DType { op: "dwt", got: DType::U8 }), "{e}");

    // Three samples a band are too few for eight taps, four are one pair.
    let e = idwt(&zeros(&[3]), &zeros(&[3]), &db4, Border::Zero, 0).unwrap_err();
    assert!(e.to_string().contains("more samples along dimension 0 for 8 taps"), "{e}");
    assert_eq!(idwt(&zeros(&[4]), &zeros(&[4]), &db4, Border::Zero, 0).unwrap().dims(), [2]);
    assert!(idwt(&zeros(&[0]), &zeros(&[0]), &db4, Border::Periodization, 0).is_err());
    assert!(idwt(&zeros(&[4]), &zeros(&[5]), &db4, Border::Zero, 0).is_err());
    let other = zeros(&[4]).to_dtype(DType::F64).unwrap();
    let e = idwt(&zeros(&[4]), &other, &db4, Border::Zero, 0).unwrap_err();
    assert!(e.to_string().contains("F64") && e.to_string().contains("F32"), "{e}");
    assert!(waverec(&[], &db4, Border::Zero, 0).is_err());
    let e = waverec(&[zeros(&[9]), zeros(&[5])], &db4, Border::Zero, 0).unwrap_err();
    assert!(e.to_string().contains("5 along dimension 0"), "{e}");

    let e = swt(&zeros(&[12]), &db4, 0, 3).unwrap_err();
    assert!(matches!(e, Error::Levels { op: "swt", levels: 3, most: 2, .. }), "{e}");
    assert!(swt(&zeros(&[0]), &db4, 0, 1).is_err());
    let e = swt2(&zeros(&[1, 8, 6, 1]), &db4, DataFormat::ChannelsLast, 2).unwrap_err();
    assert_eq!(e.to_string(), "swt2: 2 levels of 8x6, needs at most 1");
    assert!(iswt(&[], &db4, 0).is_err());
    assert!(iswt(&[zeros(&[4]), zeros(&[2])], &db4, 0).is_err());
    assert!(iswt(&[zeros(&[3]), zeros(&[3])], &db4, 0).is_err());
    let pair = [zeros(&[1, 4, 4, 1]), zeros(&[1, 4, 4, 1])];
    assert!(iswt2(&pair, &db4, DataFormat::ChannelsLast).is_err());

    let e = Wavelet::named("db21").unwrap_err();
    assert!(e.to_string().contains("\"db21\""), "{e}");
    assert!("bior1.2".parse::<Wavelet>().is_err() && "1.1".parse::<Wavelet>().is_err());
}

/// NaN and infinity stay where the filters take them; nothing else is touched.
#[test]
fn nan_stays_within_the_filters_reach() {
    let wavelet = Wavelet::named("db2").unwrap();
    let mut v = vec![0f32; 64];
    v[20] = f32::NAN;
    v[40] = f32::INFINITY;
    let x = Tensor::from_vec(v, 64, &Device::Cpu).unwrap();
    let (a, _) = dwt(&x, &wavelet, Border::Symmetric, 0).unwrap();
    let bad: Vec<_> =
        values(&a).iter().enumerate().filter(|(_, v)| !v.is_finite()).map(|(i, _)| i).collect();
    // Output o reads the samples 2o − 2 to 2o + 1.
    assert_eq!(bad, [10, 11, 20, 21]);
}
