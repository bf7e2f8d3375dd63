//! The pyramid's operations: OpenCV's numbers, and laws of their own.

use crate::oracle::{pyramid as oracle, to_f32};
use candle_core::{DType, Tensor, Var};
use isfm_testing::{Numbers, assert_close, bits, dot, gradients, random, same_on_any_threads};
use isfm_testing::{tensor, values};
use proptest::prelude::*;

type Golden = ((usize, usize), &'static [u32], &'static [u32]);

/// (H, W), `cv2.pyrDown(x(H, W))` in units of 2⁻¹⁴, and `cv2.pyrUp(x(⌈H/2⌉, ⌈W/2⌉), dstsize=(W, H))`
/// in units of 2⁻¹², where x(h, w) has the elements (37k + 11) mod 64 / 64 for k = 0.. in float32.
/// Made with opencv-python-headless 5.0.0.93; 4.14.0.94 gives the same. No step of it rounds.
#[rustfmt::skip]
const OPENCV: &[Golden] = &[
    ((5, 7), &[8448, 9536, 8000, 6016, 9408, 8192, 6656, 6976, 10368, 7872, 6336, 7936], &[1360, 1696, 2112, 2016, 1920, 2336, 2840, 1424, 1504, 1664, 1824, 1984, 2144, 2264, 1680, 1376, 1152, 1696, 2240, 2016, 1560, 2192, 1760, 1408, 2080, 2752, 2400, 1752, 2672, 2240, 1888, 2560, 3232, 2880, 2232]),
    ((6, 8), &[8384, 9472, 7424, 7776, 6336, 7680, 8384, 8864, 7616, 8192, 9280, 7968], &[1360, 1696, 2112, 2016, 1920, 2336, 2840, 3008, 1424, 1504, 1664, 1824, 1984, 2144, 2264, 2304, 1680, 1376, 1152, 1696, 2240, 2016, 1560, 1408, 2192, 1760, 1408, 2080, 2752, 2400, 1752, 1536, 2672, 2240, 1888, 2560, 3232, 2880, 2232, 2016, 2832, 2400, 2048, 2720, 3392, 3040, 2392, 2176]),
    ((1, 1), &[2816], &[704]),
    ((1, 4), &[7872, 9312], &[1296, 1888, 2776, 3072]),
    ((2, 2), &[8832], &[704, 704, 704, 704]),
    ((9, 6), &[7488, 9088, 9440, 6848, 8448, 9056, 6208, 7488, 9568, 7488, 6848, 8800, 7232, 6272, 8160], &[1792, 2128, 2416, 1936, 1288, 1072, 2288, 2368, 2272, 1664, 1016, 800, 2896, 2592, 1984, 1376, 920, 768, 2736, 2304, 1696, 1600, 1720, 1760, 2320, 2016, 1728, 2080, 2584, 2752, 2160, 2240, 2400, 2560, 2680, 2720, 2000, 2464, 3008, 2784, 2328, 2176, 1584, 2176, 2848, 2496, 1848, 1632, 1176, 1768, 2440, 2088, 1440, 1224]),
];

#[test]
fn the_same_as_opencv() {
    let x = |h: usize, w: usize, dtype| {
        let v: Vec<f64> = (0..h * w).map(|k| ((k * 37 + 11) % 64) as f64 / 64.).collect();
        tensor(&v, &[h, w], dtype)
    };
    for &((h, w), down, up) in OPENCV {
        for dtype in [DType::F32, DType::F64] {
            let got = values(&(isfm_ops::pyr_down(&x(h, w, dtype)).unwrap() * 16384.).unwrap());
            assert_eq!(got, down.iter().map(|&v| f64::from(v)).collect::<Vec<_>>(), "{h}x{w}");
            let small = x(h.div_ceil(2), w.div_ceil(2), dtype);
            let got = values(&(isfm_ops::pyr_up(&small, h, w).unwrap() * 4096.).unwrap());
            assert_eq!(got, up.iter().map(|&v| f64::from(v)).collect::<Vec<_>>(), "{h}x{w}");
        }
    }
}

fn merge(v: &Tensor, i: &Tensor, p: f64, q: f64, sharpness: f64) -> Tensor {
    let full = |x: f64| (v.ones_like().unwrap() * x).unwrap();
    let control = Tensor::cat(&[full(p), full(q)], 1).unwrap();
    isfm_ops::merge_details(v, i, &control, sharpness).unwrap()
}

/// Details about as large as a pyramid's.
fn details(dims: &[usize], seed: u64, dtype: DType) -> Tensor {
    (random(dims, seed) * 0.2).unwrap().to_dtype(dtype).unwrap()
}

/// The same details from both: to the bit, whatever the control says.
#[test]
fn equal_details_stay() {
    for dtype in [DType::F32, DType::F64] {
        for dims in [[1, 1, 1, 1], [2, 1, 3, 7], [1, 1, 9, 40]] {
            let v = details(&dims, 1, dtype);
            for (p, q, sharpness) in [(0., 0., 1.), (3., 2., 0.), (-90., -40., 7.), (0.5, 1e6, -1.)]
            {
                assert_eq!(bits(&merge(&v, &v, p, q, sharpness)), bits(&v), "{p} {q} {sharpness}");
            }
        }
    }
}

#[test]
fn zeros_give_zeros() {
    let none = details(&[1, 1, 6, 19], 1, DType::F32).zeros_like().unwrap();
    let got = merge(&none, &none, 2., 3., 4.);
    assert!(bits(&got).iter().all(|&b| b == 0));
    let loss = |t: &[Tensor]| isfm_ops::merge_details(&t[0], &t[1], &t[2], 4.);
    let control = to_f32(&random(&[1, 2, 6, 19], 2));
    for gradient in gradients(&[none.clone(), none, control], loss) {
        assert!(values(&gradient).iter().all(|v| v.is_finite()));
    }
}

/// With no gain the result lies between the two; a large sharpness takes the stronger of them, a
/// preference the one preferred.
#[test]
fn the_stronger_detail_wins() {
    for dtype in [DType::F32, DType::F64] {
        let weak = details(&[2, 1, 11, 21], 1, dtype);
        let strong = (details(&[2, 1, 11, 21], 2, dtype) * 4.).unwrap();
        for sharpness in [60., 1e4] {
            assert_close(&merge(&weak, &strong, 0., 0., sharpness), &strong, 1e-6, "infrared");
            assert_close(&merge(&strong, &weak, 0., 0., sharpness), &strong, 1e-6, "visible");
        }
        assert_close(&merge(&weak, &strong, -80., 0., 0.), &weak, 1e-6, "preferred");
        assert_close(&merge(&weak, &strong, 80., 0., 0.), &strong, 1e-6, "preferred");
        let mean = ((&weak + &strong).unwrap() * 0.5).unwrap();
        assert_close(&merge(&weak, &strong, 0., 0., 0.), &mean, 1e-6, "neither");
    }
}

/// Opposite details have the match −1 (but for the noise): the gain is 1 + tanh q.
#[test]
fn a_gain_acts_where_details_differ() {
    let v = (details(&[1, 1, 9, 18], 1, DType::F64) * 100.).unwrap();
    let i = v.neg().unwrap();
    for q in [-1.5f64, 0.3, 2.] {
        let got = merge(&v, &i, -80., q, 0.);
        assert_close(&got, &(&v * (1. + q.tanh())).unwrap(), 1e-5, "gain");
    }
}

/// A NaN of a detail reaches the pixels whose windows see it, one of the control its own pixel, and
/// gradients too.
#[test]
fn nan_is_not_hidden() {
    let (h, w) = (9, 37);
    let at = 4 * w + 20;
    let spoilt = |channels: usize, at: usize, dtype| {
        let mut v = Numbers(3).vec(channels * h * w, -0.2, 0.2);
        v[at] = f64::NAN;
        tensor(&v, &[1, channels, h, w], dtype)
    };
    let reached = |t: &Tensor| -> Vec<usize> {
        let bad = values(t).into_iter().enumerate().filter(|(_, v)| v.is_nan());
        bad.map(|(i, _)| i).collect()
    };
    let window: Vec<usize> = (2..7).flat_map(|y| (18..23).map(move |x| y * w + x)).collect();
    for dtype in [DType::F32, DType::F64] {
        let (v, bad) = (details(&[1, 1, h, w], 1, dtype), spoilt(1, at, dtype));
        let control = random(&[1, 2, h, w], 2).to_dtype(dtype).unwrap();
        let op = |t: &[Tensor]| isfm_ops::merge_details(&t[0], &t[1], &t[2], 1.5);
        assert_eq!(reached(&op(&[bad.clone(), v.clone(), control.clone()]).unwrap()), window);
        assert_eq!(reached(&op(&[v.clone(), bad.clone(), control.clone()]).unwrap()), window);
        for place in [at, h * w + at] {
            let control = spoilt(2, place, dtype);
            assert_eq!(reached(&op(&[v.clone(), v.clone(), control.clone()]).unwrap()), [at]);
            let wider = reached(&gradients(&[v.clone(), v.clone(), control], op)[0]);
            assert!(wider.contains(&at));
        }
        let grads = gradients(&[bad.clone(), v.clone(), control], op);
        assert!(window.iter().all(|i| reached(&grads[2]).contains(i)));

        // The windows of the pixels 1..=3 along each axis of the half picture reach pixel 4, and
        // of 9..=11 pixel 20.
        let down = reached(&isfm_ops::pyr_down(&bad).unwrap());
        let half: Vec<usize> =
            (1..4).flat_map(|y| (9..12).map(move |x| y * w.div_ceil(2) + x)).collect();
        assert_eq!(down, half);
        let up = reached(&isfm_ops::pyr_up(&bad, 2 * h, 2 * w).unwrap());
        let double: Vec<usize> =
            (6..11).flat_map(|y| (38..43).map(move |x| y * 2 * w + x)).collect();
        assert_eq!(up, double);
    }
}

#[test]
fn pictures_need_not_be_contiguous() {
    let wide = to_f32(&random(&[2, 2, 13, 18], 3));
    let (v, i) = (wide.narrow(1, 0, 1).unwrap(), wide.narrow(1, 1, 1).unwrap());
    let turned = wide.transpose(2, 3).unwrap();
    let got = isfm_ops::pyr_down(&turned).unwrap();
    assert_close(&got, &oracle::pyr_down(&turned), 1e-6, "down");
    let got = isfm_ops::pyr_up(&turned, 35, 26).unwrap();
    assert_close(&got, &oracle::pyr_up(&turned, 35, 26), 1e-6, "up");
    let control = to_f32(&random(&[2, 2, 18, 13], 4)).transpose(2, 3).unwrap();
    let got = isfm_ops::merge_details(&v, &i, &control, 1.).unwrap();
    assert_close(&got, &oracle::merge_details(&v, &i, &control, 1.), 2e-6, "merge");
}

/// Larger than a task, and several images in one task: forward, all gradients, and the control's
/// alone, which takes a way of its own.
#[test]
fn tasks_do_not_show() {
    for (b, h, w) in [(1, 130, 150), (3, 5, 700), (40, 3, 2)] {
        let details = [1, 2].map(|seed| details(&[b, 1, h, w], seed, DType::F64));
        let control = random(&[b, 2, h, w], 3);
        let op = |t: &[Tensor]| isfm_ops::merge_details(&t[0], &t[1], &t[2], 0.7);
        let all = [details[0].clone(), details[1].clone(), control.clone()];
        let want = oracle::merge_details(&all[0], &all[1], &all[2], 0.7);
        assert_close(&op(&all).unwrap(), &want, 1e-12, "values");
        let grads = gradients(&all, op);
        let alone = gradients(&[control], |t| {
            isfm_ops::merge_details(&details[0], &details[1], &t[0], 0.7)
        });
        assert_eq!(bits(&alone[0]), bits(&grads[2]));
        let narrow = all.each_ref().map(to_f32);
        same_on_any_threads("merge", || {
            let grads = gradients(&narrow, op);
            (bits(&op(&narrow).unwrap()), grads.iter().map(bits).collect::<Vec<_>>())
        });
        let x = to_f32(&random(&[b, h, w], 4));
        let (down, up) = (isfm_ops::pyr_down(&x).unwrap(), isfm_ops::pyr_up(&x, 2 * h, 2 * w));
        assert_close(&down, &oracle::pyr_down(&x), 1e-6, "down");
        assert_close(&up.unwrap(), &oracle::pyr_up(&x, 2 * h, 2 * w), 1e-6, "up");
        same_on_any_threads("steps", || {
            let down = gradients(std::slice::from_ref(&x), |x| isfm_ops::pyr_down(&x[0]));
            let up = gradients(&down, |x| isfm_ops::pyr_up(&x[0], 2 * h, 2 * w));
            (bits(&down[0]), bits(&up[0]), bits(&isfm_ops::pyr_up(&x, 2 * h, 2 * w).unwrap()))
        });
    }
}

/// No gradient for what is not a variable.
#[test]
fn constants_have_no_gradient() {
    let inputs = [details(&[1, 1, 5, 6], 1, DType::F64), details(&[1, 1, 5, 6], 2, DType::F64)];
    let inputs = [&inputs[..], &[random(&[1, 2, 5, 6], 3)]].concat();
    for tracked in 0..3 {
        let mut all = inputs.clone();
        let var = Var::from_tensor(&all[tracked]).unwrap();
        all[tracked] = var.as_tensor().clone();
        let y = isfm_ops::merge_details(&all[0], &all[1], &all[2], 1.).unwrap();
        let grads = y.sum_all().unwrap().backward().unwrap();
        for (i, t) in all.iter().enumerate() {
            assert_eq!(grads.get(t).is_some(), i == tracked, "{i} {tracked}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_picture_agrees_with_the_oracle(b in 1usize..4, h in 1usize..12, w in 1usize..45) {
        let x = random(&[b, h, w], 1);
        assert_close(&isfm_ops::pyr_down(&x).unwrap(), &oracle::pyr_down(&x), 1e-12, "down");
        for (height, width) in [(2 * h, 2 * w), (2 * h - 1, 2 * w), (2 * h, 2 * w - 1)] {
            let got = isfm_ops::pyr_up(&x, height, width).unwrap();
            assert_close(&got, &oracle::pyr_up(&x, height, width), 1e-12, "up");
        }
        let [v, i] = [2, 3].map(|seed| details(&[b, 1, h, w], seed, DType::F64));
        let control = random(&[b, 2, h, w], 4);
        let got = isfm_ops::merge_details(&v, &i, &control, 2.).unwrap();
        assert_close(&got, &oracle::merge_details(&v, &i, &control, 2.), 1e-12, "merge");
        let [v, i, control] = [v, i, control].map(|t| to_f32(&t));
        let got = isfm_ops::merge_details(&v, &i, &control, 2.).unwrap();
        assert_close(&got, &oracle::merge_details(&v, &i, &control, 2.), 2e-6, "merge f32");
    }

    /// ⟨Ax, y⟩ = ⟨x, Aᵀy⟩.
    #[test]
    fn gradients_are_adjoint(h in 1usize..14, w in 1usize..40) {
        let half = [1, 2, h.div_ceil(2), w.div_ceil(2)];
        let (fine, coarse) = (random(&[1, 2, h, w], 1), random(&half, 2));
        let down = |x: &[Tensor]| (isfm_ops::pyr_down(&x[0])? * &coarse)?.sum_all();
        let forward = dot(&isfm_ops::pyr_down(&fine).unwrap(), &coarse);
        let back = dot(&fine, &gradients(std::slice::from_ref(&fine), down)[0]);
        prop_assert!((forward - back).abs() < 1e-12 * (h * w) as f64, "{} {}", forward, back);
        let up = |x: &[Tensor]| (isfm_ops::pyr_up(&x[0], h, w)? * &fine)?.sum_all();
        let forward = dot(&isfm_ops::pyr_up(&coarse, h, w).unwrap(), &fine);
        let back = dot(&coarse, &gradients(std::slice::from_ref(&coarse), up)[0]);
        prop_assert!((forward - back).abs() < 1e-12 * (h * w) as f64, "{} {}", forward, back);
    }

    /// A constant picture stays the same to the bit.
    #[test]
    fn constants_stay(h in 1usize..9, w in 1usize..40, value in -1e3f64..1e3) {
        for dtype in [DType::F32, DType::F64] {
            let full = |h, w| tensor(&vec![value; h * w], &[h, w], dtype);
            let down = isfm_ops::pyr_down(&full(h, w)).unwrap();
            prop_assert_eq!(bits(&down), bits(&full(h.div_ceil(2), w.div_ceil(2))));
            prop_assert_eq!(bits(&isfm_ops::pyr_up(&down, h, w).unwrap()), bits(&full(h, w)));
        }
    }
}

/// In one pass and as operations, which gradients are taken through: the same bits.
#[test]
fn a_level_is_the_same_in_one_pass() {
    for dtype in [DType::F32, DType::F64] {
        for (batch, h, w) in
            [(1, 1usize, 1usize), (2, 1, 5), (1, 7, 1), (2, 6, 10), (3, 67, 33), (1, 130, 301)]
        {
            let (small_h, small_w) = (h.div_ceil(2), w.div_ceil(2));
            let picture = |dims: [usize; 4], seed| random(&dims, seed).to_dtype(dtype).unwrap();
            let [v, i] = [1, 2].map(|seed| picture([batch, 1, h, w], seed));
            let small = [3, 4, 5].map(|seed| picture([batch, 1, small_h, small_w], seed));
            let control = (picture([batch, 2, small_h, small_w], 6) * 3.).unwrap();
            for control in [None, Some(&control)] {
                for limit in [None, Some((1.25, 1. / 255.))] {
                    let merged = |v: &Tensor| {
                        isfm_ops::merge_level(&isfm_ops::PyramidLevel {
                            pictures: [v, &i],
                            smaller: [&small[0], &small[1]],
                            fused: &small[2],
                            control,
                            sharpness: 4.,
                            limit,
                        })
                        .unwrap()
                    };
                    let name = format!("{batch}x{h}x{w} {dtype:?} {limit:?}");
                    same_on_any_threads(&name, || bits(&merged(&v)));
                    let steps = merged(Var::from_tensor(&v).unwrap().as_tensor());
                    assert!(steps.track_op());
                    assert_eq!(bits(&merged(&v)), bits(&steps), "{name}");
                }
            }
        }
    }
}
