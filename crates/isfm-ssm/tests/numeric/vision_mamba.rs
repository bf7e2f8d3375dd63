//! The bidirectional block against plain loops and finite differences.

use crate::common::{built, check_gradients, mamba_branch, names_and_shapes, project};
use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{VarBuilder, VarMap};
use isfm_ssm::{MambaConfig, VisionMamba, vision_mamba, vision_mamba_layer};
use isfm_testing::{random, refused, relative, tensor, values};

fn block(config: &MambaConfig, average: bool) -> (VarMap, VisionMamba) {
    built(DType::F64, 1, |vb| vision_mamba(config, average, vb))
}

fn flip(x: &[f64], len: usize, d: usize) -> Vec<f64> {
    x.chunks(len * d).flat_map(|x| x.chunks(d).rev().flatten().copied()).collect()
}

#[test]
fn block_is_its_formula() {
    let config = MambaConfig { d_state: 3, ..MambaConfig::new(6) };
    let (batch, c, d) = (2, 6, 12);
    for (len, average) in [(1, false), (2, true), (21, false), (21, true)] {
        let (map, block) = block(&config, average);
        let x = random(&[batch, len, c], 3);
        let data = map.data().lock().unwrap();
        let projected = project(&values(&x), &values(&data["in_proj.weight"]), c);
        let half = |start: usize| -> Vec<f64> {
            projected.chunks(2 * d).flat_map(|row| row[start..start + d].to_vec()).collect()
        };
        let (u, z) = (half(0), half(d));
        let get = |suffix: &'static str| {
            let data = &data;
            move |name: &str| {
                let name = match (suffix, name) {
                    ("", name) => name.to_string(),
                    (_, "A_log") => "A_b_log".to_string(),
                    (_, "D") => "D_b".to_string(),
                    (_, name) => name.replacen('.', "_b.", 1),
                };
                values(&data[&name])
            }
        };
        let dims = [batch, len, d];
        let forwards = mamba_branch(&u, dims, &get(""));
        let backwards = flip(&mamba_branch(&flip(&u, len, d), dims, &get("_b")), len, d);
        let share = if average { 0.5 } else { 1. };
        let gated: Vec<f64> = forwards
            .iter()
            .zip(&backwards)
            .zip(&z)
            .map(|((f, b), z)| share * (f + b) * z / (1. + (-z).exp()))
            .collect();
        let want = project(&gated, &values(&data["out_proj.weight"]), d);
        let error = relative(&block.forward(&x).unwrap(), &tensor(&want, x.dims(), DType::F64));
        // Rounding of f64.
        assert!(error < 1e-12, "{len} {average}: {error:e}");
    }
}

/// With the same parameters both ways, a block sees no direction.
#[test]
fn equal_directions_commute_with_flipping() {
    let (map, block) = block(&MambaConfig::new(5), false);
    let data = map.data().lock().unwrap();
    for (name, var) in data.iter() {
        let one_way = name.replace("_b.", ".").replace("A_b_log", "A_log").replace("D_b", "D");
        if *name != one_way {
            var.set(data[&one_way].as_tensor()).unwrap();
        }
    }
    drop(data);
    let x = random(&[2, 13, 5], 3);
    let flipped = |x: &Tensor| tensor(&flip(&values(x), 13, 5), &[2, 13, 5], DType::F64);
    let got = block.forward(&flipped(&x)).unwrap();
    assert!(relative(&got, &flipped(&block.forward(&x).unwrap())) < 1e-13);
}

#[test]
fn gradients_agree_with_differences() {
    let small = MambaConfig { d_state: 3, ..MambaConfig::new(4) };
    for (config, len, average) in [
        (small, 8, false),
        (MambaConfig { bias: true, conv_bias: false, ..small }, 5, true),
        (MambaConfig { d_conv: 1, d_state: 1, ..small }, 1, false),
    ] {
        let (map, layer) = built(DType::F64, 2, |vb| vision_mamba_layer(&config, average, vb));
        check_gradients(&map, &random(&[2, len, 4], 3), 0, |x| layer.forward(x));
    }
}

#[test]
fn names_are_the_released_ones() {
    let (map, _) = block(&MambaConfig::new(192), false);
    // Vim-tiny's.
    let want = [
        "A_b_log [384, 16]",
        "A_log [384, 16]",
        "D [384]",
        "D_b [384]",
        "conv1d.bias [384]",
        "conv1d.weight [384, 1, 4]",
        "conv1d_b.bias [384]",
        "conv1d_b.weight [384, 1, 4]",
        "dt_proj.bias [384]",
        "dt_proj.weight [384, 12]",
        "dt_proj_b.bias [384]",
        "dt_proj_b.weight [384, 12]",
        "in_proj.weight [768, 192]",
        "out_proj.weight [192, 384]",
        "x_proj.weight [44, 384]",
        "x_proj_b.weight [44, 384]",
    ];
    assert_eq!(names_and_shapes(&map), want);
}

#[test]
fn wrong_inputs_are_refused() {
    let (_, block) = block(&MambaConfig::new(4), false);
    for dims in [&[2, 4][..], &[1, 0, 4], &[0, 3, 4], &[1, 3, 5], &[1, 2, 2, 4]] {
        let x = Tensor::zeros(dims, DType::F64, &Device::Cpu).unwrap();
        refused(block.forward(&x), &["vision_mamba", "[B, L, 4]"]);
    }
    let zero = MambaConfig { d_conv: 0, ..MambaConfig::new(4) };
    let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
    assert!(vision_mamba(&zero, false, vb).is_err());
}
