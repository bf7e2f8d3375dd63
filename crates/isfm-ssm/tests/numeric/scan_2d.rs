//! The four-direction scan against an oracle of plain loops, and its gradients against finite
//! differences of that oracle, so that no line is shared between the two sides.

use crate::common::{Case, NAMES, Sizes, params, scan};
use candle_core::{DType, Device, Tensor};
use isfm_testing::{Numbers, dot, refused, relative, values};
use proptest::prelude::*;

fn size(b: usize, h: usize, w: usize, d: usize, r: usize, n: usize) -> Sizes {
    Sizes { b, h, w, d, r, n }
}

/// One step, one row, one column, and lengths that are and are not multiples of a chunk's 32 steps.
fn cases() -> Vec<Sizes> {
    vec![
        size(1, 1, 1, 1, 1, 1),
        size(2, 1, 1, 5, 2, 4),
        size(1, 1, 9, 5, 1, 4),
        size(1, 13, 1, 16, 2, 8),
        size(2, 5, 7, 5, 2, 16),
        size(1, 7, 5, 16, 1, 16),
        size(1, 9, 11, 32, 2, 20),
        size(2, 6, 4, 40, 8, 16),
        size(1, 17, 19, 40, 2, 1),
        size(1, 8, 16, 20, 2, 8),
        size(3, 3, 3, 3, 3, 3),
        size(1, 16, 4, 33, 2, 13),
        size(1, 4, 5, 150, 3, 4),
        size(1, 3, 5, 300, 2, 9),
        size(1, 1, 45, 5, 2, 4),
        size(2, 37, 1, 3, 1, 5),
    ]
}

#[test]
fn equals_the_oracle() {
    for (seed, sizes) in cases().into_iter().enumerate() {
        let case = Case::new(sizes, seed as u64);
        let want = case.oracle();
        let double = relative(&case.run(DType::F64), &want);
        assert!(double < 1e-13, "{sizes:?} f64: {double:e}");
        // Rounding of f32 inputs and of exp and softplus; seen: 2e-7.
        let single = relative(&case.run(DType::F32), &want);
        assert!(single < 1e-6, "{sizes:?} f32: {single:e}");
    }
}

/// Central differences of the oracle's Σ dy·y at `picks` elements of each input, against the
/// crate's f64 gradients; then the f32 gradients against the f64 ones.
fn check_gradients(case: &Case, seed: u64, picks: usize) {
    let mut numbers = Numbers(seed ^ 0x5eed);
    let dy = case.weights(seed ^ 0x5eed);
    let double = case.gradients(&dy, DType::F64);
    for (i, name) in NAMES.iter().enumerate() {
        let got = values(&double[i]);
        let scale = got.iter().fold(0f64, |m, g| m.max(g.abs()));
        let len = case.inputs[i].len();
        for pick in 0..picks.min(len) {
            let at = if len <= picks { pick } else { (numbers.unit() * len as f64) as usize };
            let step = 1e-5;
            let mut moved = case.clone();
            moved.inputs[i][at] += step;
            let up = dot(&moved.oracle(), &dy);
            moved.inputs[i][at] -= 2. * step;
            let slope = (up - dot(&moved.oracle(), &dy)) / (2. * step);
            // Truncation is about step² = 1e-10, rounding about 1e-16·|loss|/step = 1e-10.
            let error = (slope - got[at]).abs();
            let what = format!("{:?} {name}[{at}]", case.sizes);
            assert!(error <= 1e-7 * (1. + scale), "{what}: {}, the slope is {slope}", got[at]);
        }
    }
    for (i, single) in case.gradients(&dy, DType::F32).iter().enumerate() {
        let error = relative(single, &double[i]);
        // The agreement that the golden values ask of f32 gradients; seen: 6e-7.
        assert!(error < 1e-5, "{:?} f32 gradient of {}: {error:e}", case.sizes, NAMES[i]);
    }
}

#[test]
fn gradients_are_the_oracles_slopes() {
    for (seed, sizes) in cases().into_iter().enumerate() {
        check_gradients(&Case::new(sizes, 100 + seed as u64), seed as u64, 12);
    }
}

/// More than one chunk in each half, so that states and gradients pass between chunks.
#[test]
fn gradients_across_many_chunks() {
    for sizes in [size(1, 15, 19, 5, 2, 4), size(1, 12, 12, 18, 1, 9)] {
        check_gradients(&Case::new(sizes, 7), 7, 8);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_sizes(
        b in 1usize..3, h in 1usize..10, w in 1usize..10, d in 1usize..40,
        r in 1usize..5, n in 1usize..22, seed: u64,
    ) {
        let case = Case::new(size(b, h, w, d, r, n), seed);
        let want = case.oracle();
        prop_assert!(relative(&case.run(DType::F64), &want) < 1e-13);
        prop_assert!(relative(&case.run(DType::F32), &want) < 2e-6);
    }
}

/// The whole resolution of a camera frame, with decays near 1 so that states remember far back.
#[test]
fn long_sequence() {
    let mut case = Case::new(size(1, 480, 640, 3, 1, 4), 11);
    case.inputs[3].fill(-4.);
    case.inputs[4].iter_mut().for_each(|a| *a -= 1.);
    // 307,200 steps of f32 rounding; seen: 3e-7.
    let error = relative(&case.run(DType::F32), &case.oracle());
    assert!(error < 1e-6, "{error:e}");
    let dy = case.weights(5);
    let double = case.gradients(&dy, DType::F64);
    for (i, single) in case.gradients(&dy, DType::F32).iter().enumerate() {
        let error = relative(single, &double[i]);
        assert!(error < 1e-5, "gradient of {}: {error:e}", NAMES[i]);
    }
}

fn finite(x: &Tensor) -> bool {
    values(x).iter().all(|v| v.is_finite())
}

#[test]
fn huge_steps_neither_overflow_nor_turn_to_nan() {
    for bias in [100., 1e10, -1e10] {
        let mut case = Case::new(size(1, 6, 7, 5, 2, 4), 3);
        case.inputs[3].fill(bias);
        let want = case.oracle();
        for dtype in [DType::F32, DType::F64] {
            let got = case.run(dtype);
            assert!(finite(&got), "bias {bias} {dtype:?}");
            // One rounding of dt at 1e10 is 1e3: only the relative size is the same.
            let error = relative(&got, &want);
            assert!(error < 1e-5, "bias {bias} {dtype:?}: {error:e}");
            let gradients = case.gradients(&want.ones_like().unwrap(), dtype);
            for (name, g) in NAMES.iter().zip(gradients) {
                assert!(finite(&g), "bias {bias} {dtype:?} {name}");
            }
        }
    }
}

#[test]
fn nan_stays_in_its_image_and_channel() {
    let sizes = size(2, 5, 6, 20, 2, 4);
    let clean = Case::new(sizes, 4);
    let mut dirty = clean.clone();
    dirty.inputs[0][7] = f64::NAN; // channel 7 of the first position of the first image
    for dtype in [DType::F32, DType::F64] {
        let (clean, dirty) = (values(&clean.run(dtype)), values(&dirty.run(dtype)));
        for (i, (c, d)) in clean.iter().zip(&dirty).enumerate() {
            let hit = i < 30 * 20 && i % 20 == 7;
            assert!(if hit { d.is_nan() } else { c == d }, "{dtype:?} {i}: {c} {d}");
        }
    }
    let ones = dirty.weights(0).ones_like().unwrap();
    assert!(finite(&dirty.gradients(&ones, DType::F32)[0].get(1).unwrap()));
}

#[test]
fn wrong_inputs_are_refused() {
    let case = Case::new(size(1, 2, 3, 4, 1, 2), 0);
    let good = case.tensors(DType::F32);
    assert!(scan(&good).is_ok());
    for i in 0..good.len() {
        let mut bad = good.clone();
        bad[i] = bad[i].unsqueeze(0).unwrap();
        refused(scan(&bad), &["selective_scan_2d", "needs"]);
        let mut bad = good.clone();
        bad[i] = bad[i].to_dtype(DType::F64).unwrap();
        assert!(scan(&bad).is_err(), "{}", NAMES[i]);
        let mut bad = good.clone();
        bad[i] = bad[i].narrow(0, 0, 0).unwrap();
        assert!(scan(&bad).is_err(), "{}", NAMES[i]);
    }
    let half: Vec<_> = good.iter().map(|t| t.to_dtype(DType::F16).unwrap()).collect();
    refused(scan(&half), &["F32 or F64"]);
}

#[test]
fn a_map_needs_parameters_of_four_directions() {
    let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
    for k in [1, 3, 5] {
        let params =
            params(&[zeros(&[k, 4, 1]), zeros(&[k, 4]), zeros(&[k * 4, 2]), zeros(&[k * 4])]);
        for directions in [k, 4] {
            let x_dbl = zeros(&[1, 2, 3, directions, 5]);
            let needs =
                format!("selective_scan_2d: dt_projs_weight is [{k}, 4, 1], needs [4, 4, R]");
            refused(params.over_map(&zeros(&[1, 2, 3, 4]), &x_dbl), &[&needs]);
        }
    }
}

/// Inputs that are views: transposed, narrowed.
#[test]
fn views_are_read_as_what_they_show() {
    let case = Case::new(size(2, 4, 4, 6, 1, 2), 9);
    let mut inputs = case.tensors(DType::F64);
    let want = scan(&inputs).unwrap();
    inputs[0] = inputs[0].transpose(1, 3).unwrap().contiguous().unwrap().transpose(1, 3).unwrap();
    inputs[1] = Tensor::cat(&[&inputs[1], &inputs[1]], 0).unwrap().narrow(0, 2, 2).unwrap();
    let got = scan(&inputs).unwrap();
    assert_eq!(values(&want), values(&got));
}
