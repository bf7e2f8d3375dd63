//! Every instruction set gives the oracle's numbers. One test: the level is one for the process.

#[path = "it/common.rs"]
mod common;

use candle_core::DType;
use common::{Case, NAMES, Sizes, relative};
use isfm_ops::simd::{Level, set_level};

#[test]
fn every_level_agrees_with_f64() {
    for sizes in [
        Sizes { b: 2, h: 9, w: 7, d: 40, r: 2, n: 16 },
        Sizes { b: 1, h: 5, w: 31, d: 5, r: 1, n: 13 },
        Sizes { b: 1, h: 8, w: 8, d: 16, r: 9, n: 1 },
    ] {
        let case = Case::new(sizes, 21);
        let dy = Case::new(sizes, 22).inputs[0].clone();
        let want = case.oracle();
        let gradients = case.gradients(&dy, DType::F64);
        let mut wild = case.clone();
        wild.inputs[3].fill(1e30);
        for level in [Level::Portable, Level::Avx2, Level::Avx512] {
            if set_level(Some(level)).is_err() {
                continue;
            }
            let error = relative(&case.run(DType::F32), &want);
            // The agreement of the golden values for scans and for gradients.
            assert!(error < 1e-6, "{level:?} {sizes:?}: {error:e}");
            for (i, got) in case.gradients(&dy, DType::F32).iter().enumerate() {
                let error = relative(got, &gradients[i]);
                assert!(error < 1e-5, "{level:?} {sizes:?} {}: {error:e}", NAMES[i]);
            }
            assert!(wild.run(DType::F32).iter().all(|y| y.is_finite()), "{level:?}");
        }
        set_level(None).unwrap();
    }
}
