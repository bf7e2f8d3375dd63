//! Configurations, tensor names, parameter counts and initial values.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use isfm_model::{Config, Error, Network, ParameterCounts, Preset, initial_weights, tensor_shapes};
use isfm_testing::{refused, same_bits, values};

fn parse(json: &str) -> Result<Config, String> {
    Config::from_json(json).map_err(|e| e.to_string())
}

#[test]
fn the_paper_has_table_vii_parameters() {
    let paper = Config::from(Preset::Paper);
    assert_eq!(paper, Config::default());
    let counts = ParameterCounts::of(&paper).unwrap();
    let want = ParameterCounts {
        extractor: 975_104,
        mff: 4_418_560,
        isf: 3_163_520,
        other: 590_465,
        unused: 256,
    };
    assert_eq!(counts, want);
    assert_eq!(counts.total(), 9_147_905);
}

#[test]
fn names_and_shapes_are_the_released_checkpoints() {
    let listed: BTreeMap<String, Vec<usize>> =
        include_str!("../fixtures/checkpoint_keys_dim128_k4.txt")
            .lines()
            .filter(|line| !line.contains("dwt.") && !line.starts_with("norm."))
            .map(|line| {
                let (name, shape) = line.split_once(' ').unwrap();
                let dims = shape.trim_matches(['(', ')']).split(',');
                let dims = dims.filter_map(|d| d.trim().parse().ok()).collect();
                (name.to_string(), dims)
            })
            .collect();
    assert_eq!(tensor_shapes(&Config::default()).unwrap(), listed);
}

#[test]
fn json_takes_defaults_and_refuses_nonsense() {
    let want = Config { embed_dim: 16, depths: vec![1], ..Config::default() };
    assert_eq!(parse(r#"{"embed_dim": 16, "depths": [1]}"#), Ok(want.clone()));
    assert_eq!(parse("{}"), Ok(Config::default()));
    assert_eq!(parse(&serde_json::to_string(&want).unwrap()), Ok(want));
    for (json, said) in [
        (r#"{"embed_dim": 0}"#, "embed_dim is 0"),
        (r#"{"embed_dim": 18}"#, "a multiple of 4"),
        (r#"{"embed_dim": 100000}"#, "1 to 1024"),
        (r#"{"depths": []}"#, "depths"),
        (r#"{"depths": [1, 0]}"#, "entry of depths is 0"),
        (r#"{"d_state": 0}"#, "d_state"),
        (r#"{"expand": 9}"#, "expand is 9"),
        (r#"{"embed_dims": 16}"#, "embed_dims"),
        (r#"{"batch": 1}"#, "batch"),
        (r#"{"embed_dim": -4}"#, "-4"),
        ("{", "EOF"),
        ("[]", "expected a map"),
    ] {
        refused(Config::from_json(json), &[said]);
    }
}

#[test]
fn presets_are_known_by_name() {
    for preset in Preset::ALL {
        assert_eq!(preset.to_string().parse::<Preset>().unwrap(), preset);
        Config::from(preset).validate().unwrap();
    }
    refused("huge".parse::<Preset>(), &["small", "paper"]);
}

#[test]
fn initial_values_are_the_specified_ones() {
    let config = Config { embed_dim: 32, depths: vec![1], ..Config::default() };
    let weights = initial_weights(&config, 3407, &Device::Cpu).unwrap();
    let get = |name: &str| values(&weights[name]);
    let scan = "BMM_layers1.0.SPFusion_group.blocks.0.self_attention";

    for row in get(&format!("{scan}.A_logs")).chunks(16) {
        for (n, &a) in row.iter().enumerate() {
            assert!((a - ((n + 1) as f64).ln()).abs() < 1e-6);
        }
    }
    assert!(get(&format!("{scan}.Ds")).iter().all(|&d| d == 1.));
    for bias in get(&format!("{scan}.dt_projs_bias")) {
        let dt = bias.exp().ln_1p();
        assert!((0.999e-3..=0.1001).contains(&dt), "{dt}");
    }
    let within = |name: &str, bound: f32| {
        let (values, bound) = (get(name), f64::from(bound));
        let most = values.iter().fold(0f64, |m, v| m.max(v.abs()));
        assert!(most <= bound && most > 0.8 * bound, "{name}: {most}, bound {bound}");
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        assert!(mean.abs() < 0.2 * bound, "{name}: mean {mean}");
    };
    within(&format!("{scan}.dt_projs_weight"), 1. / (2f32).sqrt());
    within(&format!("{scan}.x_proj_weight"), 1. / 8.);
    within("conv1_before.2.weight", 1. / (32f32 * 9.).sqrt());
    within("conv1_before.2.bias", 1. / (32f32 * 9.).sqrt());
    within("MFF_layers.0.LFB.dw_conv_5.weight", 1. / 5.);

    let linear = get(&format!("{scan}.in_proj.weight"));
    let variance = linear.iter().map(|v| v * v).sum::<f64>() / linear.len() as f64;
    assert!((variance.sqrt() - 0.02).abs() < 0.001, "{}", variance.sqrt());
    assert!(get("ISF_layers.0.ISF.blocks.0.FGS.proj.0.bias").iter().all(|&b| b == 0.));
    assert!(get("ISF_layers.0.ISF.blocks.0.skip_scale_2").iter().all(|&b| b == 1.));
}

#[test]
fn a_seed_gives_the_same_weights_and_another_gives_others() {
    let config = Config { embed_dim: 8, depths: vec![1], ..Config::default() };
    let make = |seed| initial_weights(&config, seed, &Device::Cpu).unwrap();
    let (first, again, other) = (make(1), make(1), make(2));
    for (name, tensor) in &first {
        assert!(same_bits(tensor, &again[name]), "{name}");
    }
    let name = "conv1_before.0.weight";
    assert!(!same_bits(&first[name], &other[name]));
}

#[test]
fn inputs_the_network_cannot_take_are_refused() {
    let config = Config { embed_dim: 8, depths: vec![1], ..Config::default() };
    let weights = initial_weights(&config, 1, &Device::Cpu).unwrap();
    let network = Network::from_weights(&config, &weights).unwrap();
    let image =
        |shape: &[usize]| Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
    let good = image(&[1, 1, 4, 6]);
    for bad in
        [&[1, 3, 4, 6][..], &[4, 6], &[1, 1, 1, 6], &[1, 1, 4, 1], &[0, 1, 4, 6], &[1, 1, 0, 6]]
    {
        let error = network.forward(&image(bad), &good).unwrap_err();
        assert!(matches!(error, Error::Input { .. }), "{bad:?}: {error}");
    }
    refused(network.forward(&good, &image(&[1, 1, 4, 8])), &["[1, 1, 4, 8]", "[1, 1, 4, 6]"]);
    // The smallest images it does take, odd ones among them.
    for good in [[1, 1, 2, 2], [2, 1, 3, 5], [1, 1, 2, 9]] {
        let x = image(&good);
        assert_eq!(network.forward(&x, &x).unwrap().dims(), good);
    }
}
