//! `selective_scan` against numbers of the released program (sequential reference scan in f32).

use std::collections::HashMap;

use candle_core::{DType, Tensor, Var};
use isfm_ssm::{ScanOptions, selective_scan};
use isfm_testing::{Golden, golden, relative};

/// The fixture's layout is channel-first; ours is channel-last.
fn channel_last(name: &str, t: &Tensor) -> Tensor {
    let t = match name {
        "u" | "delta" | "y" | "dy" => t.transpose(1, 2).unwrap(),
        "B" | "C" => t.permute((0, 3, 1, 2)).unwrap(),
        _ => t.clone(),
    };
    t.contiguous().unwrap()
}

fn check(case: &str, all: &Golden, dtype: DType) {
    let get = |name: &str| {
        let t = all.get(&format!("{case}.{name}"))?;
        Some(channel_last(name.trim_start_matches("grad."), t).to_dtype(dtype).unwrap())
    };
    let var = |name: &str| get(name).map(|t| (name.to_string(), Var::from_tensor(&t).unwrap()));
    let vars: HashMap<String, Var> =
        ["u", "delta", "A", "B", "C", "D", "delta_bias"].into_iter().filter_map(var).collect();
    let options = ScanOptions {
        d_skip: vars.get("D").map(|v| v.as_tensor()),
        delta_bias: vars.get("delta_bias").map(|v| v.as_tensor()),
        softplus: true,
        initial_state: None,
    };
    let y =
        selective_scan(&vars["u"], &vars["delta"], &vars["A"], &vars["B"], &vars["C"], &options)
            .unwrap();
    // The fixture itself is f32, rounded along the sequence: 1e-6, and 5e-6 for gradients, are its agreement.
    let error = relative(&y, &get("y").unwrap());
    assert!(error < 1e-6, "{case} {dtype:?} y: {error:e}");
    let grads = (y * get("dy").unwrap()).unwrap().sum_all().unwrap().backward().unwrap();
    for (name, var) in &vars {
        let want = get(&format!("grad.{name}")).unwrap();
        let error = relative(grads.get(var).unwrap(), &want);
        assert!(error < 5e-6, "{case} {dtype:?} gradient of {name}: {error:e}");
    }
}

#[test]
fn agrees_with_the_released_program() {
    let all = golden!("selective_scan.safetensors");
    for case in ["four_direction", "length_1", "single_group", "state_8_no_bias"] {
        check(case, &all, DType::F32);
        check(case, &all, DType::F64);
    }
}
