//! Every instruction set gives the same. One test, because the level is one setting for the process.

#[path = "numeric/common.rs"]
mod common;

use candle_core::{DType, Module};
use common::{Case, NAMES, Sizes, built, with_gradients};
use isfm_ops::simd::{Level, set_level};
use isfm_ssm::{MambaConfig, mamba_layer, vision_mamba_layer};
use isfm_testing::{random, relative, values};

#[test]
fn every_level_agrees_with_f64() {
    scans();
    blocks();
}

fn at_every_level(check: impl Fn(Level)) {
    let levels = [Level::Portable, Level::Avx2, Level::Avx512];
    levels.into_iter().filter(|&level| set_level(Some(level)).is_ok()).for_each(check);
    set_level(None).unwrap();
}

fn scans() {
    for sizes in [
        Sizes { b: 2, h: 9, w: 7, d: 40, r: 2, n: 16 },
        Sizes { b: 1, h: 5, w: 31, d: 5, r: 1, n: 13 },
        Sizes { b: 1, h: 8, w: 8, d: 16, r: 9, n: 1 },
    ] {
        let case = Case::new(sizes, 21);
        let dy = case.weights(22);
        let want = case.oracle();
        let gradients = case.gradients(&dy, DType::F64);
        let mut wild = case.clone();
        wild.inputs[3].fill(1e30);
        at_every_level(|level| {
            let error = relative(&case.run(DType::F32), &want);
            // The agreement of the golden values for scans and for gradients.
            assert!(error < 1e-6, "{level:?} {sizes:?}: {error:e}");
            for (i, got) in case.gradients(&dy, DType::F32).iter().enumerate() {
                let error = relative(got, &gradients[i]);
                assert!(error < 1e-5, "{level:?} {sizes:?} {}: {error:e}", NAMES[i]);
            }
            assert!(values(&wild.run(DType::F32)).iter().all(|y| y.is_finite()), "{level:?}");
        });
    }
}

fn blocks() {
    for (c, len) in [(5, 9), (24, 70), (1, 1)] {
        let run = |dtype: DType| {
            let config = MambaConfig { d_state: 11, ..MambaConfig::new(c) };
            let (map, (layer, both)) = built(dtype, 1, |vb| {
                let both = vision_mamba_layer(&config, false, vb.pp("both"))?;
                Ok((mamba_layer(&config, vb.pp("one"))?, both))
            });
            let x = random(&[2, len, c], 2).to_dtype(dtype).unwrap();
            with_gradients(&map, both.forward(&layer.forward(&x).unwrap()).unwrap())
        };
        let want = run(DType::F64);
        at_every_level(|level| {
            for ((name, got), (_, want)) in run(DType::F32).iter().zip(&want) {
                let error = relative(got, want);
                // Rounding of f32 (6e-8) through two layers of a dozen operations each; single
                // channels leave sums where it cancels less.
                assert!(error < 1e-5, "{level:?} c={c}: {name}: {error:e}");
            }
        });
    }
}
