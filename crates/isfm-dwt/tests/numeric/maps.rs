//! Values against plain loops, shapes, bad input, threads.

use candle_core::{DType, Device, Tensor, Var};
use isfm_dwt::{Border, DataFormat, Error, Wavelet, dwt2, idwt2, wavedec2, waverec2};
use isfm_testing::{bits, difference, random, same_bits, same_on_any_threads, values};

use crate::{LAYOUTS, from_nchw, padded_haar, plane, to_nchw, wavelets};

/// The definition of the released network's transform (`docs/paper-to-code.md`, "Wavelets"):
/// [LL, LH, HL, HH] of B×C×H×W.
fn oracle(x: &Tensor) -> [Tensor; 4] {
    let (b, c, height, width) = x.dims4().unwrap();
    let (h, w) = (height / 2, width / 2);
    let v = values(x);
    [[1., 1., 1.], [1., -1., -1.], [-1., 1., -1.], [-1., -1., 1.]].map(|[kb, kc, kd]| {
        let mut out = Vec::new();
        for plane in 0..b * c {
            for (i, j) in (0..h).flat_map(|i| (0..w).map(move |j| (i, j))) {
                let at = |di, dj| v[(plane * height + 2 * i + di) * width + 2 * j + dj];
                out.push((at(0, 0) + kb * at(0, 1) + kc * at(1, 0) + kd * at(1, 1)) / 2.);
            }
        }
        Tensor::from_vec(out, (b, c, h, w), &Device::Cpu).unwrap()
    })
}

/// Even, odd and smallest sizes; channels below, at, above and no multiple of the lanes; rows
/// shorter and longer than a vector.
const SHAPES: [[usize; 4]; 9] = [
    [1, 1, 2, 2],
    [1, 1, 3, 3],
    [2, 3, 5, 7],
    [1, 16, 4, 6],
    [2, 17, 3, 2],
    [1, 35, 2, 5],
    [3, 1, 8, 31],
    [1, 2, 2, 64],
    [1, 2, 7, 83],
];

#[test]
fn haar_is_the_definition() {
    for (seed, dims) in SHAPES.iter().enumerate() {
        let x = random(dims, seed as u64);
        let [ll, lh, hl, hh] = oracle(&x);
        for layout in LAYOUTS {
            for wavelet in [Wavelet::haar(), padded_haar()] {
                // Sums of four values below 1: a few roundings.
                for (dtype, tolerance) in [(DType::F32, 5e-7), (DType::F64, 1e-15)] {
                    let check = |got: Tensor, want: &Tensor| {
                        let d = difference(&got, &from_nchw(want, layout));
                        assert!(d <= tolerance, "{dims:?} {layout:?} {dtype:?} {wavelet:?}: {d}");
                    };
                    let x = from_nchw(&x, layout).to_dtype(dtype).unwrap();
                    let bands = dwt2(&x, &wavelet, Border::Drop, layout).unwrap();
                    assert_eq!(bands.approx.dtype(), dtype);
                    assert!(bands.approx.is_contiguous() && bands.details.is_contiguous());
                    check(bands.approx.clone(), &ll);
                    check(bands.lh().unwrap(), &lh);
                    check(bands.hl().unwrap(), &hl);
                    check(bands.hh().unwrap(), &hh);
                    check(bands.packed().unwrap(), &Tensor::cat(&[&ll, &lh, &hl, &hh], 1).unwrap());

                    let back = idwt2(&bands.approx, &bands.details, &wavelet, Border::Drop, layout)
                        .unwrap();
                    let (h, w) = (dims[2] / 2 * 2, dims[3] / 2 * 2);
                    let kept = random(dims, seed as u64).narrow(2, 0, h).unwrap();
                    check(back, &kept.narrow(3, 0, w).unwrap());
                }
            }
        }
    }
}

/// With gradients tracked the two halves are computed apart; the values must be the same ones.
#[test]
fn tracked_or_not_gives_the_same_bits() {
    for layout in LAYOUTS {
        for wavelet in [Wavelet::haar(), padded_haar()] {
            let x = random(&[2, 5, 7, 6], 3).to_dtype(DType::F32).unwrap();
            let plain = dwt2(&x, &wavelet, Border::Drop, layout).unwrap();
            let var = Var::from_tensor(&x).unwrap();
            let tracked = dwt2(&var, &wavelet, Border::Drop, layout).unwrap();
            assert!(same_bits(&plain.approx, &tracked.approx));
            assert!(same_bits(&plain.details, &tracked.details));
        }
    }
}

#[test]
fn views_are_read_right() {
    let big = random(&[3, 9, 8, 10], 4);
    let view = big.narrow(0, 1, 2).unwrap().transpose(1, 2).unwrap();
    let copy = view.force_contiguous().unwrap();
    for layout in LAYOUTS {
        let haar = Wavelet::haar();
        let a = dwt2(&view, &haar, Border::Drop, layout).unwrap();
        let b = dwt2(&copy, &haar, Border::Drop, layout).unwrap();
        assert!(same_bits(&a.approx, &b.approx) && same_bits(&a.details, &b.details));
        // Offsets without a stride: the halves of one buffer, as the transform gives them itself.
        let ab = idwt2(&a.approx, &a.details, &haar, Border::Drop, layout).unwrap();
        let (approx, details) =
            (a.approx.force_contiguous().unwrap(), a.details.force_contiguous().unwrap());
        assert!(same_bits(&ab, &idwt2(&approx, &details, &haar, Border::Drop, layout).unwrap()));
    }
}

#[test]
fn levels_of_odd_sizes() {
    let haar = Wavelet::haar();
    for layout in LAYOUTS {
        // 23 → 11 → 5 → 2 and 14 → 7 → 3 → 1: something is dropped at every level.
        let x = from_nchw(&random(&[2, 3, 23, 14], 5), layout);
        let levels = wavedec2(&x, &haar, Border::Drop, layout, 3).unwrap();
        let sizes: Vec<_> = levels
            .iter()
            .map(|t| (from_nchw_dims(t, layout)[1], from_nchw_dims(t, layout)[2..].to_vec()))
            .collect();
        assert_eq!(sizes, [(3, vec![2, 1]), (9, vec![2, 1]), (9, vec![5, 3]), (9, vec![11, 7])]);
        // A constant has no details, and repeating an approximation keeps it constant.
        let ones = x.ones_like().unwrap();
        let levels = wavedec2(&ones, &haar, Border::Drop, layout, 3).unwrap();
        let back = waverec2(&levels, &haar, Border::Drop, layout).unwrap();
        assert_eq!(from_nchw_dims(&back, layout), [2, 3, 22, 14]);
        assert!(difference(&back, &back.ones_like().unwrap()) < 1e-14);
        // What no level dropped comes back exactly: 16 and 8 are whole blocks of 8.
        let levels = wavedec2(&x, &haar, Border::Drop, layout, 3).unwrap();
        let back = waverec2(&levels, &haar, Border::Drop, layout).unwrap();
        let (rows, columns) = plane(layout);
        let whole = |x: &Tensor| x.narrow(rows, 0, 16).unwrap().narrow(columns, 0, 8).unwrap();
        assert!(difference(&whole(&back), &whole(&x)) < 1e-14);
    }
}

fn from_nchw_dims(x: &Tensor, layout: DataFormat) -> Vec<usize> {
    to_nchw(x, layout).dims().to_vec()
}

#[test]
fn waverec2_crops_what_is_one_too_large() {
    // As PyWavelets does where a border mode has extended the signal.
    let haar = Wavelet::haar();
    let coarse = [random(&[1, 3, 2, 1], 1), random(&[1, 3, 2, 3], 2)];
    let fine = random(&[1, 5, 4, 3], 3);
    let layout = DataFormat::ChannelsLast;
    let approx = idwt2(&coarse[0], &coarse[1], &haar, Border::Drop, layout).unwrap();
    let cropped = approx.narrow(1, 0, 5).unwrap();
    let want = idwt2(&cropped, &fine, &haar, Border::Drop, layout).unwrap();
    let [a, d] = coarse;
    assert!(same_bits(&waverec2(&[a, d, fine], &haar, Border::Drop, layout).unwrap(), &want));
}

#[test]
fn no_levels() {
    let x = random(&[1, 1, 1, 1], 0);
    let levels = wavedec2(&x, &Wavelet::haar(), Border::Drop, DataFormat::ChannelsLast, 0).unwrap();
    assert_eq!(levels.len(), 1);
    let back = waverec2(&levels, &Wavelet::haar(), Border::Drop, DataFormat::ChannelsLast).unwrap();
    assert!(same_bits(&back, &x));
}

#[test]
fn bad_input_is_an_error_that_says_so() {
    let haar = Wavelet::haar();
    let layout = DataFormat::ChannelsLast;
    let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
    for (dims, layout) in [
        (vec![1, 1, 1, 1], layout),
        (vec![1, 1, 8, 4], layout),
        (vec![1, 8, 1, 4], layout),
        (vec![1, 8, 8, 1], DataFormat::ChannelsFirst),
        (vec![1, 0, 8, 1], layout),
        (vec![8, 8], layout),
        (vec![], layout),
        (vec![1, 1, 8, 8, 1], layout),
    ] {
        let e = dwt2(&zeros(&dims), &haar, Border::Drop, layout).unwrap_err();
        assert!(matches!(e, Error::Shape { op: "dwt2", what: "x", .. }), "{dims:?}: {e}");
        assert!(e.to_string().contains(&format!("{dims:?}")), "{e}");
        assert!(wavedec2(&zeros(&dims), &haar, Border::Drop, layout, 1).is_err());
    }
    let half = zeros(&[1, 2, 2, 1]).to_dtype(DType::BF16).unwrap();
    let e = dwt2(&half, &haar, Border::Drop, layout).unwrap_err();
    assert!(e.to_string().contains("BF16"), "{e}");
    assert!(candle_core::Error::from(e).to_string().contains("BF16"));

    let approx = zeros(&[1, 4, 4, 2]);
    for dims in [&[1, 4, 4, 2][..], &[1, 4, 3, 6], &[2, 4, 4, 6], &[4, 4, 6], &[]] {
        let e = idwt2(&approx, &zeros(dims), &haar, Border::Drop, layout).unwrap_err();
        assert!(matches!(e, Error::Shape { op: "idwt2", what: "details", .. }), "{e}");
    }
    let other = zeros(&[1, 4, 4, 6]).to_dtype(DType::F64).unwrap();
    let e = idwt2(&approx, &other, &haar, Border::Drop, layout).unwrap_err();
    assert!(e.to_string().contains("F64") && e.to_string().contains("F32"), "{e}");
    assert!(
        idwt2(&zeros(&[1, 0, 4, 2]), &zeros(&[1, 0, 4, 6]), &haar, Border::Drop, layout).is_err()
    );

    let e = wavedec2(&zeros(&[1, 9, 30, 1]), &haar, Border::Drop, layout, 4).unwrap_err();
    assert!(matches!(e, Error::Levels { levels: 4, most: 3, .. }), "{e}");
    assert!(wavedec2(&zeros(&[1, 9, 30, 1]), &haar, Border::Drop, layout, usize::MAX).is_err());
    assert!(waverec2(&[], &haar, Border::Drop, layout).is_err());
    let levels = [zeros(&[1, 2, 2, 1]), zeros(&[1, 2, 2, 3]), zeros(&[1, 6, 4, 3])];
    let e = waverec2(&levels, &haar, Border::Drop, layout).unwrap_err();
    assert!(e.to_string().contains("6 along dimension 1"), "{e}");

    for (lo, hi) in [(&[1.; 3][..], &[1.; 3][..]), (&[1.; 2], &[1.; 4]), (&[], &[])] {
        let e = Wavelet::from_filters("mine", lo, hi, lo, hi).unwrap_err();
        assert!(e.to_string().contains("\"mine\""), "{e}");
    }
    assert!(Wavelet::from_filters("mine", &[f64::NAN; 2], &[1.; 2], &[1.; 2], &[1.; 2]).is_err());
}

#[test]
fn nothing_in_gives_nothing() {
    for layout in LAYOUTS {
        for wavelet in [Wavelet::haar(), padded_haar()] {
            for dims in [[0, 3, 4, 6], [2, 0, 4, 6]] {
                let x = Tensor::zeros(&dims, DType::F32, &Device::Cpu).unwrap();
                let x = from_nchw(&x, layout);
                let bands = dwt2(&x, &wavelet, Border::Drop, layout).unwrap();
                assert_eq!(bands.packed().unwrap().elem_count(), 0);
                let back =
                    idwt2(&bands.approx, &bands.details, &wavelet, Border::Drop, layout).unwrap();
                assert_eq!(back.dims(), x.dims());
            }
        }
    }
}

#[test]
fn nan_stays_in_its_block_and_huge_values_do_not_overflow() {
    for layout in LAYOUTS {
        let mut v = vec![1f32; 36];
        v[7] = f32::NAN;
        v[28..30].fill(f32::MAX);
        v[34..36].fill(-f32::MAX);
        let x = Tensor::from_vec(v, (1, 1, 6, 6), &Device::Cpu).unwrap();
        let bands = dwt2(&from_nchw(&x, layout), &Wavelet::haar(), Border::Drop, layout).unwrap();
        let nans = |t: &Tensor| values(t).iter().filter(|v| v.is_nan()).count();
        assert_eq!((nans(&bands.approx), nans(&bands.details)), (1, 3));
        // The last block is MAX, MAX over -MAX, -MAX.
        assert_eq!(values(&bands.approx)[8], 0.);
        assert_eq!(values(&bands.hl().unwrap())[8], 0.);
        assert_eq!(values(&bands.lh().unwrap())[8], f64::INFINITY);
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    for layout in LAYOUTS {
        for wavelet in wavelets() {
            // Large enough for several tasks.
            let x = from_nchw(&random(&[2, 19, 65, 63], 6).to_dtype(DType::F32).unwrap(), layout);
            same_on_any_threads(&format!("{layout:?} {}", wavelet.name()), || {
                let bands = dwt2(&x, &wavelet, Border::Drop, layout).unwrap();
                let back = idwt2(&bands.approx, &bands.details, &wavelet, Border::Drop, layout);
                [bands.approx, bands.details, back.unwrap()].map(|x| bits(&x))
            });
        }
    }
}
