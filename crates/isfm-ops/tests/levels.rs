//! Every SIMD level against f64. One test, because the level is one setting for the process.

#[path = "numeric/oracle.rs"]
mod oracle;

use candle_core::{DType, Tensor};
use isfm_ops::simd::{Level, set_level};
use isfm_testing::{assert_close, gradients};
use oracle::{cases, to_f32};

#[test]
fn every_level_agrees_with_f64() {
    let levels = [Level::Portable, Level::Avx2, Level::Avx512];
    for (b, h, w, c, d) in [
        (1, 5, 13, 70, 35),
        (2, 4, 7, 5, 130),
        (1, 6, 9, 1, 1),
        (1, 3, 3, 24, 16),
        // One to four rows, which linear layers read in another way.
        (1, 1, 1, 70, 35),
        (1, 1, 2, 33, 5),
        (3, 1, 1, 70, 67),
        (1, 2, 2, 64, 20),
    ] {
        for case in cases(b, h, w, c, d) {
            let narrow: Vec<Tensor> = case.inputs.iter().map(to_f32).collect();
            let wide: Vec<Tensor> =
                narrow.iter().map(|t| t.to_dtype(DType::F64).unwrap()).collect();
            let (want, want_grads) = ((case.op)(&wide).unwrap(), gradients(&wide, &*case.op));
            for level in levels.into_iter().filter(|&l| l <= Level::detected()) {
                set_level(Some(level)).unwrap();
                // Rounding of a few hundred terms of about 1 each.
                let name = format!("{level:?} {}", case.name);
                assert_close(&(case.op)(&narrow).unwrap(), &want, 3e-6, &name);
                for (got, want) in gradients(&narrow, &*case.op).iter().zip(&want_grads) {
                    assert_close(got, want, 3e-6, &name);
                }
                set_level(None).unwrap();
            }
        }
    }
}
