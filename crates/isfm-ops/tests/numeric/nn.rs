//! The layers and their builders.

use std::collections::HashMap;

use crate::oracle::{self, to_f32};
use candle_core::{DType, Device, Module, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use isfm_ops::nn;
use isfm_testing::{assert_close, random, values};

/// Weights that are variables stay so through the builders.
#[test]
fn gradients_reach_the_variables() {
    let shapes: [(&str, &[usize]); 9] = [
        ("conv.weight", &[4, 3, 3, 3]),
        ("conv.bias", &[4]),
        ("dw.weight", &[4, 1, 5, 5]),
        ("dw.bias", &[4]),
        ("norm.weight", &[4]),
        ("norm.bias", &[4]),
        ("in.weight", &[6, 4]),
        ("in.bias", &[6]),
        ("out.weight", &[2, 6]),
    ];
    let var = |(seed, (name, dims)): (u64, (&str, &[usize]))| {
        (name.to_string(), Var::from_tensor(&random(dims, seed)).unwrap())
    };
    let vars: HashMap<String, Var> = (0..).zip(shapes).map(var).collect();
    let tensors = vars.iter().map(|(n, v)| (n.clone(), v.as_tensor().clone())).collect();
    let vb = VarBuilder::from_tensors(tensors, DType::F64, &Device::Cpu);
    let conv = nn::conv2d(3, 4, 3, vb.pp("conv")).unwrap();
    let depthwise = nn::depthwise_conv2d(4, 5, vb.pp("dw")).unwrap();
    let norm = nn::layer_norm(4, vb.pp("norm")).unwrap();
    let first = nn::linear(4, 6, vb.pp("in")).unwrap();
    let last = nn::linear_no_bias(6, 2, vb.pp("out")).unwrap();
    assert!(nn::linear(6, 2, vb.pp("out")).is_err(), "there is no bias");
    assert!(nn::linear(6, 4, vb.pp("in")).is_err(), "another shape");

    let x = random(&[2, 5, 4, 3], 77);
    let layers: [&dyn Module; 5] = [&conv, &depthwise, &norm, &first, &last];
    let mut y = x.clone();
    for layer in layers {
        y = layer.forward(&y).unwrap();
    }
    let t = |name: &str| vars[name].as_tensor();
    let want = oracle::conv2d(&x, t("conv.weight"), Some(t("conv.bias")));
    let want = oracle::depthwise(&want, t("dw.weight"), Some(t("dw.bias")));
    let want = oracle::layer_norm(&want, t("norm.weight"), t("norm.bias"), 1e-5);
    let want = oracle::linear(&want, t("in.weight"), Some(t("in.bias")));
    assert_close(&y, &oracle::linear(&want, t("out.weight"), None), 1e-12, "layers");

    let grads = (&y * &y).unwrap().sum_all().unwrap().backward().unwrap();
    for (name, var) in &vars {
        let grad = grads.get(var).unwrap_or_else(|| panic!("{name} has no gradient"));
        assert!(values(grad).iter().any(|v| v.abs() > 1e-6), "{name}");
    }
}

#[test]
fn initial_values() {
    let map = VarMap::new();
    let vb = VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
    let spread = |t: &Tensor| {
        let v = values(t);
        let mean = v.iter().sum::<f64>() / v.len() as f64;
        let variance = v.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / v.len() as f64;
        (v.iter().fold(0f64, |m, x| m.max(x.abs())), variance.sqrt())
    };
    // Uniform within ±bound: never beyond, and with a deviation of bound/√3.
    let uniform = |t: &Tensor, fan_in: f64| {
        let (largest, deviation) = spread(t);
        let bound = fan_in.sqrt().recip();
        assert!(largest <= bound, "{largest} {bound}");
        assert!((deviation * 3f64.sqrt() / bound - 1.).abs() < 0.1, "{deviation} {bound}");
    };
    let conv = nn::conv2d(20, 600, 3, vb.pp("a")).unwrap();
    uniform(conv.weight(), 180.);
    uniform(conv.bias().unwrap(), 180.);
    let conv = nn::depthwise_conv2d(900, 5, vb.pp("b")).unwrap();
    uniform(conv.weight(), 25.);
    uniform(conv.bias().unwrap(), 25.);
    let linear = nn::linear(70, 90, vb.pp("c")).unwrap();
    assert!((spread(linear.weight()).1 / 0.02 - 1.).abs() < 0.1);
    assert!(values(linear.bias().unwrap()).iter().all(|&v| v == 0.));
    let norm = nn::layer_norm(9, vb.pp("d")).unwrap();
    assert!(values(norm.weight()).iter().all(|&v| v == 1.));
    assert!(values(norm.bias()).iter().all(|&v| v == 0.));
    assert_eq!(norm.eps(), 1e-5);
}

/// What candle-nn's fused functions cut: the gradient of what lies before them.
#[test]
fn norms_and_softmax_train() {
    let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
    let x = Var::from_tensor(&to_f32(&random(&[3, 8], 1))).unwrap();
    let ones = Tensor::ones(8, DType::F32, &Device::Cpu).unwrap();
    let layer = nn::LayerNorm::new(ones.clone(), ones.clone(), 1e-5);
    let rms = nn::RmsNorm::new(ones, 1e-5);
    for y in [
        layer.forward(&x).unwrap(),
        rms.forward(&x).unwrap(),
        isfm_ops::softmax_last_dim(&x).unwrap(),
        nn::layer_norm(8, vb.pp("norm")).unwrap().forward(&x).unwrap(),
    ] {
        let weights = to_f32(&random(y.dims(), 2));
        let loss = (y * weights).unwrap().sum_all().unwrap();
        assert!(loss.backward().unwrap().get(&x).is_some());
    }
}
