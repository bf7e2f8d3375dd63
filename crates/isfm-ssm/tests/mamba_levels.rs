//! Every instruction set gives the same block. One test: the level is one for the process.

#[path = "it/common.rs"]
mod common;

use candle_core::{DType, Device, Module};
use candle_nn::{VarBuilder, VarMap};
use common::{Numbers, relative, scramble, tensor, values};
use isfm_ops::simd::{Level, set_level};
use isfm_ssm::{MambaConfig, mamba_layer, vision_mamba_layer};

#[test]
fn every_level_agrees_with_f64() {
    for (c, len) in [(5, 9), (24, 70), (1, 1)] {
        let run = |dtype: DType| {
            let map = VarMap::new();
            let vb = VarBuilder::from_varmap(&map, dtype, &Device::Cpu);
            let config = MambaConfig { d_state: 11, ..MambaConfig::new(c) };
            let layer = mamba_layer(&config, vb.pp("one")).unwrap();
            let both = vision_mamba_layer(&config, false, vb.pp("both")).unwrap();
            scramble(&map, 1);
            let x = tensor(&Numbers(2).vec(2 * len * c, -1., 1.), &[2, len, c], dtype);
            let y = both.forward(&layer.forward(&x).unwrap()).unwrap();
            let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            let data = map.data().lock().unwrap();
            let mut all: Vec<(String, Vec<f64>)> =
                data.iter().map(|(n, v)| (n.clone(), values(grads.get(v).unwrap()))).collect();
            all.push(("result".to_string(), values(&y)));
            all.sort_by(|a, b| a.0.cmp(&b.0));
            all
        };
        let want = run(DType::F64);
        for level in [Level::Portable, Level::Avx2, Level::Avx512] {
            if set_level(Some(level)).is_err() {
                continue;
            }
            for ((name, got), (_, want)) in run(DType::F32).iter().zip(&want) {
                let error = relative(got, want);
                // Rounding of f32 (6e-8) through two layers of a dozen operations each; single
                // channels leave sums where it cancels less.
                assert!(error < 1e-5, "{level:?} c={c}: {name}: {error:e}");
            }
        }
        set_level(None).unwrap();
    }
}
