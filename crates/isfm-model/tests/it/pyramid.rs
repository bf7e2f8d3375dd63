//! The pyramid around the network.

use candle_core::{DType, Device, Tensor, Var};
use isfm_model::{Config, Pyramid, PyramidFusion, initial_weights};
use isfm_testing::{Differences, check_gradients, check_variables, random, values};

const PYRAMID: Pyramid = Pyramid { levels: 2, gates: true, deeper: 2 };

fn pictures(height: usize, width: usize) -> [Tensor; 2] {
    [3, 4].map(|seed| random(&[1, 1, height, width], seed).affine(0.5, 0.5).unwrap())
}

/// What a pyramid makes of a network's outputs.
fn fused(pyramid: Pyramid, v: &Tensor, i: &Tensor, outputs: &Tensor) -> isfm_model::Result<Tensor> {
    let bases = [pyramid.base(v)?, pyramid.base(i)?];
    pyramid.fuse_details(v, i, &pyramid.fuse_bases(bases.each_ref(), outputs)?)
}

#[test]
fn gradients_reach_every_gate() {
    let [visible, infrared] = pictures(13, 18);
    let outputs = random(&[1, PYRAMID.outputs(), 4, 5], 5);
    check_gradients("gates", &[outputs], Differences::default(), |x| {
        fused(PYRAMID, &visible, &infrared, &x[0]).map_err(candle_core::Error::wrap)
    });
}

#[test]
fn gradients_reach_a_fused_base() {
    let [visible, infrared] = pictures(9, 12);
    let pyramid = Pyramid { levels: 1, ..Pyramid::default() };
    check_gradients("base", &[random(&[1, 1, 5, 6], 5)], Differences::default(), |x| {
        fused(pyramid, &visible, &infrared, &x[0]).map_err(candle_core::Error::wrap)
    });
}

/// From the fused picture through the pyramid to the network's parameters.
#[test]
fn gradients_reach_the_network() {
    let config =
        Config { embed_dim: 4, depths: vec![1], d_state: 2, pyramid: PYRAMID, ..Config::default() };
    let weights = initial_weights(&config, 1, &Device::Cpu).unwrap();
    let variable = |t: &Tensor| Var::from_tensor(&t.to_dtype(DType::F64).unwrap()).unwrap();
    let variables: Vec<_> = weights.iter().map(|(name, t)| (name.clone(), variable(t))).collect();
    let tracked = variables.iter().map(|(name, v)| (name.clone(), v.as_tensor().clone())).collect();
    let fusion = PyramidFusion::from_weights(&config, &tracked).unwrap();
    let [visible, infrared] = pictures(16, 24);
    let how = Differences { one_by_one: 4, ..Differences::default() };
    let ends = |(name, _): &&(String, Var)| {
        name.starts_with("conv_final_fuse") || name.starts_with("conv1_before")
    };
    let some: Vec<_> = variables.iter().filter(ends).cloned().collect();
    assert!(some.len() >= 6);
    check_variables(&some, how, || {
        fusion.forward(&visible, &infrared).map_err(candle_core::Error::wrap)
    });
}

#[test]
fn without_levels_it_is_the_network() {
    let config = Config { embed_dim: 4, depths: vec![1], d_state: 2, ..Config::default() };
    let weights = initial_weights(&config, 1, &Device::Cpu).unwrap();
    let fusion = PyramidFusion::from_weights(&config, &weights).unwrap();
    let [visible, infrared] = pictures(8, 10).map(|t| t.to_dtype(DType::F32).unwrap());
    let alone = fusion.network().forward(&visible, &infrared).unwrap();
    let same = values(&fusion.forward(&visible, &infrared).unwrap()) == values(&alone);
    assert!(same);
}

#[test]
fn gates_of_another_shape_are_refused() {
    let [visible, infrared] = pictures(8, 8);
    assert_eq!(PYRAMID.base(&visible).unwrap().dims(), [1, 1, 2, 2]);
    for shape in [[1, 3, 2, 2], [1, PYRAMID.outputs(), 3, 2]] {
        assert!(fused(PYRAMID, &visible, &infrared, &random(&shape, 1)).is_err());
    }
}

#[test]
fn the_configuration_says_where_the_network_works() {
    let config = Config { pyramid: PYRAMID, ..Config::default() };
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(Config::from_json(&json).unwrap(), config);
    let paper = serde_json::to_string(&Config::default()).unwrap();
    assert!(!paper.contains("pyramid"), "files of the paper's network stay as they are: {paper}");
    for (wrong, said) in [
        (r#"{"pyramid":{"levels":9}}"#, "pyramid.levels"),
        (r#"{"pyramid":{"levels":2,"deeper":1}}"#, "pyramid.deeper"),
        (r#"{"pyramid":{"level":2}}"#, "level"),
    ] {
        let error = isfm_testing::chain(&Config::from_json(wrong).unwrap_err());
        assert!(error.contains(said), "{error}");
    }
}
