//! SS2D and the VSS block against the same formulas in ordinary Candle operations.

use crate::common::{Case, Sizes, check_gradients, names_and_shapes, variables};
use candle_core::{D, DType, Device, Module, Tensor};
use candle_nn::{VarBuilder, VarMap};
use isfm_ssm::{Ss2dConfig, VssBlock, selective_scan_2d, vss_block};
use isfm_testing::{Numbers, random, refused, relative, tensor, values};

fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Tensor {
    let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1).unwrap()).unwrap();
    let var = x.sqr().unwrap().mean_keepdim(D::Minus1).unwrap();
    let x = x.broadcast_div(&(var + 1e-5).unwrap().sqrt().unwrap()).unwrap();
    x.broadcast_mul(weight).unwrap().broadcast_add(bias).unwrap()
}

fn linear(x: &Tensor, weight: &Tensor) -> Tensor {
    x.broadcast_matmul(&weight.t().unwrap()).unwrap()
}

/// A block whose parameters are all moved away from their initial values.
fn block(config: &Ss2dConfig, seed: u64) -> (VarMap, VssBlock) {
    let map = VarMap::new();
    let block = vss_block(config, VarBuilder::from_varmap(&map, DType::F64, &Device::Cpu)).unwrap();
    let mut numbers = Numbers(seed);
    for (_, var) in variables(&map) {
        let noise = tensor(&numbers.vec(var.elem_count(), -0.3, 0.3), var.dims(), DType::F64);
        var.set(&(var.as_tensor() + noise).unwrap()).unwrap();
    }
    (map, block)
}

#[test]
fn vss_block_is_its_formula() {
    let (b, h, w, c) = (2, 5, 6, 10);
    let config = Ss2dConfig { d_state: 3, dt_rank: Some(2), ..Ss2dConfig::new(c) };
    let d = config.d_inner();
    let (map, block) = block(&config, 3);
    let x = random(&[b, h, w, c], 4);
    let got = block.forward(&x).unwrap();

    let data = map.data().lock().unwrap();
    let get = |name: &str| data[name].as_tensor().clone();
    let own = |name: &str| get(&format!("self_attention.{name}"));
    let normed = layer_norm(&x, &get("ln_1.weight"), &get("ln_1.bias"));
    let xz = linear(&normed, &own("in_proj.weight"));
    let (inner, z) = (xz.narrow(3, 0, d).unwrap(), xz.narrow(3, d, d).unwrap());
    let nchw = inner.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap();
    let conv = nchw.conv2d(&own("conv2d_x.weight"), 1, 1, 1, d).unwrap();
    let conv = conv.permute((0, 2, 3, 1)).unwrap().broadcast_add(&own("conv2d_x.bias")).unwrap();
    let inner = candle_nn::ops::silu(&conv).unwrap().contiguous().unwrap();
    let projection = own("x_proj_weight");
    let x_dbl: Vec<Tensor> = (0..4).map(|k| linear(&inner, &projection.get(k).unwrap())).collect();
    let x_dbl = Tensor::stack(&x_dbl, 3).unwrap();
    let case = Case {
        sizes: Sizes { b, h, w, d, r: 2, n: 3 },
        inputs: [
            values(&inner),
            values(&x_dbl),
            values(&own("dt_projs_weight")),
            values(&own("dt_projs_bias")),
            values(&own("A_logs")),
            values(&own("Ds")),
        ],
    };
    let y = layer_norm(&case.oracle(), &own("out_norm.weight"), &own("out_norm.bias"));
    let y = linear(&(y * candle_nn::ops::silu(&z).unwrap()).unwrap(), &own("out_proj.weight"));
    let want = (x.broadcast_mul(&get("skip_scale")).unwrap() + y).unwrap();
    let error = relative(&got, &want);
    assert!(error < 1e-12, "{error:e}");
}

/// The gradient of the whole block against central differences of the block itself: that the
/// operations are put together so that every parameter's gradient arrives.
#[test]
fn every_parameter_of_the_block_gets_its_gradient() {
    let config = Ss2dConfig { d_state: 2, ..Ss2dConfig::new(6) };
    let (map, block) = block(&config, 5);
    check_gradients(&map, &random(&[1, 4, 5, 6], 6), usize::MAX, |x| block.forward(x));
}

#[test]
fn names_and_shapes_are_the_released_ones() {
    let (map, _) = block(&Ss2dConfig::new(128), 0);
    let want = [
        "ln_1.bias [128]",
        "ln_1.weight [128]",
        "self_attention.A_logs [1024, 16]",
        "self_attention.Ds [1024]",
        "self_attention.conv2d_x.bias [256]",
        "self_attention.conv2d_x.weight [256, 1, 3, 3]",
        "self_attention.dt_projs_bias [4, 256]",
        "self_attention.dt_projs_weight [4, 256, 8]",
        "self_attention.in_proj.weight [512, 128]",
        "self_attention.out_norm.bias [256]",
        "self_attention.out_norm.weight [256]",
        "self_attention.out_proj.weight [128, 256]",
        "self_attention.x_proj_weight [4, 40, 256]",
        "skip_scale [128]",
    ];
    assert_eq!(names_and_shapes(&map), want);
}

#[test]
fn initial_values_lie_where_they_should() {
    let map = VarMap::new();
    let vb = VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
    selective_scan_2d(&Ss2dConfig::new(32), vb).unwrap();
    let data = map.data().lock().unwrap();
    let within = |name: &str, low: f64, high: f64| {
        let all = values(&data[name]);
        assert!(all.iter().all(|&v| v >= low - 1e-6 && v <= high + 1e-6), "{name}");
    };
    within("A_logs", 0., 16f64.ln());
    within("Ds", 1., 1.);
    within("dt_projs_weight", -(2f64.powf(-0.5)), 2f64.powf(-0.5));
    within("x_proj_weight", -(64f64.powf(-0.5)), 64f64.powf(-0.5));
    let step = |v: &f64| v.exp().ln_1p();
    assert!(values(&data["dt_projs_bias"]).iter().map(step).all(|d| d > 9.9e-4 && d < 0.1001));

    assert_eq!(isfm_ssm::init::a_logs(2, 3), [0., 2f32.ln(), 3f32.ln(), 0., 2f32.ln(), 3f32.ln()]);
    let mut numbers = Numbers(0);
    let bias = isfm_ssm::init::dt_projs_bias(2000, || numbers.unit());
    let steps: Vec<f64> = bias.iter().map(|&v| step(&f64::from(v))).collect();
    assert!(steps.iter().all(|&d| d > 9.99e-4 && d < 0.10001));
    // Log-uniform: half of them below the geometric mean, give or take four deviations.
    let low = steps.iter().filter(|&&d| d < 1e-2).count();
    assert!((910..1090).contains(&low), "{low}");
}

#[test]
fn nonsense_configurations_are_refused() {
    let vb = || VarBuilder::zeros(DType::F32, &Device::Cpu);
    let good = Ss2dConfig::new(4);
    for (field, bad) in [
        ("d_model", Ss2dConfig { d_model: 0, dt_rank: Some(1), ..good }),
        ("d_state", Ss2dConfig { d_state: 0, ..good }),
        ("expand", Ss2dConfig { expand: 0, ..good }),
        ("expand", Ss2dConfig { expand: usize::MAX, ..good }),
        ("dt_rank", Ss2dConfig { dt_rank: Some(0), ..good }),
    ] {
        refused(vss_block(&bad, vb()), &[&format!("Ss2dConfig: {field} is")]);
    }
    let block = vss_block(&good, vb()).unwrap();
    let wrong = Tensor::zeros((1, 3, 3, 5), DType::F32, &Device::Cpu).unwrap();
    assert!(block.forward(&wrong).is_err());
    let empty = Tensor::zeros((0, 3, 3, 4), DType::F32, &Device::Cpu).unwrap();
    assert!(block.forward(&empty).is_err());
}
