//! The networks of the paper's ablations.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread::available_parallelism;

use candle_core::{DType, Device, Result, Tensor, Var};
use isfm_blocks::{Frequencies, GateSource};
use isfm_model::{
    Checkpoint, Config, Modules, Network, OperationCounts, ParameterCounts, Preset, Row, Spatial,
    Table, Weights, initial_weights, tensor_shapes,
};
use isfm_ssm::{Directions, Ss2dConfig};
use isfm_testing::{Differences, check_variables, difference, random, refused};

fn tiny() -> Config {
    Config { embed_dim: 4, depths: vec![1], d_state: 2, expand: 1, ..Config::default() }
}

/// Every network of every table once, small.
fn every_row() -> Vec<Row> {
    let mut rows: Vec<Row> = Table::ALL.iter().flat_map(|table| table.rows(&tiny())).collect();
    rows.sort_by_key(|row| serde_json::to_string(&row.config).unwrap());
    rows.dedup_by(|a, b| a.config == b.config);
    rows
}

/// Weights far from their initial values, so that no part's gradient is next to nothing.
fn wild(config: &Config) -> Weights {
    let initial = initial_weights(config, 3, &Device::Cpu).unwrap();
    let moved = |(i, (name, tensor)): (usize, (String, Tensor))| {
        let tensor = tensor.to_dtype(DType::F64).unwrap();
        let by = random(tensor.dims(), 50 + i as u64).affine(0.2, 0.).unwrap();
        (name, (tensor + by).unwrap())
    };
    initial.into_iter().enumerate().map(moved).collect()
}

fn pictures(batch: usize, height: usize, width: usize) -> [Tensor; 2] {
    [3, 4].map(|seed| random(&[batch, 1, height, width], seed).affine(0.5, 0.5).unwrap())
}

#[test]
fn every_parameter_of_every_network_gets_its_gradient() {
    // Networks this small keep one thread busy, and there are many.
    let rows = Mutex::new(every_row().into_iter());
    let next = || rows.lock().unwrap().next();
    std::thread::scope(|scope| {
        for _ in 0..available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(row) = next() {
                    every_parameter_gets_its_gradient(&row);
                }
            });
        }
    });
}

fn every_parameter_gets_its_gradient(Row { name, config }: &Row) {
    let variable = |(name, t): (String, Tensor)| (name, Var::from_tensor(&t).unwrap());
    let variables: Vec<_> = wild(config).into_iter().map(variable).collect();
    let tracked = variables.iter().map(|(n, v)| (n.clone(), v.as_tensor().clone())).collect();
    let network = Network::from_weights(config, &tracked).unwrap();
    // An odd size: the wavelet's map is interpolated.
    let [visible, infrared] = pictures(2, 5, 6);
    // K = 8 has eight times the same layer.
    let some = variables.iter().filter(|(name, _)| {
        config.layers() < 3 || !name.contains("_layers.") || name.contains("_layers.1.")
    });
    let some: Vec<_> = some.cloned().collect();
    println!("{name}: {} of {} tensors", some.len(), variables.len());
    // Norms over four channels that hardly differ bend sharply (third derivatives of 1e6): a smaller
    // step keeps the truncation below 1e-7, at which rounding then also is.
    let how = Differences { step: 5e-7, tolerance: 2e-7, one_by_one: 1 };
    check_variables(&some, how, || {
        network.forward(&visible, &infrared).map_err(candle_core::Error::wrap)
    });
}

/// Pictures of a batch do not see each other, and the same happens on one without a graph.
#[test]
fn every_network_fuses_each_picture_by_itself() {
    for Row { name, config } in every_row() {
        let network = Network::from_weights(&config, &wild(&config)).unwrap();
        let [visible, infrared] = pictures(2, 7, 4);
        let both = network.forward(&visible, &infrared).unwrap();
        assert_eq!(both.dims(), [2, 1, 7, 4], "{name}");
        let second = |t: &Tensor| t.narrow(0, 1, 1).unwrap();
        let one = network.forward(&second(&visible), &second(&infrared)).unwrap();
        assert!(difference(&one, &second(&both)) < 1e-12, "{name}");
        let swapped = network.forward(&infrared, &visible).unwrap();
        assert!(difference(&swapped, &both) > 1e-3, "{name} tells its sources apart");
    }
}

#[test]
fn every_network_is_saved_and_read_and_no_other_takes_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let paper = Checkpoint {
        config: tiny(),
        weights: initial_weights(&tiny(), 1, &Device::Cpu).unwrap(),
        self_contained: true,
        metadata: BTreeMap::new(),
    };
    for Row { name, config } in every_row() {
        assert_eq!(Config::from_json(&serde_json::to_string(&config).unwrap()).unwrap(), config);
        let path = folder.path().join("weights.safetensors");
        let weights = initial_weights(&config, 1, &Device::Cpu).unwrap();
        let written = Checkpoint { config: config.clone(), weights, ..paper.clone() };
        written.write(&path, DType::F32).unwrap();
        let read = Checkpoint::read(&path, None, &Device::Cpu).unwrap();
        assert_eq!(read.config, config, "{name}");
        assert_eq!(read.weights.len(), written.weights.len());
        if tensor_shapes(&config).unwrap() != tensor_shapes(&tiny()).unwrap() {
            let other = Checkpoint::read(&path, Some(&tiny()), &Device::Cpu);
            refused(other, &["do not fit the configuration"]);
        }
    }
}

/// Attention gathers keys and values before queries come; ordinary attention weighs every pair of
/// positions, which is the same product in another order.
#[test]
fn cross_attention_is_the_product_over_all_pairs() {
    let (c, height, width) = (4, 3, 5);
    let vars = candle_nn::VarMap::new();
    let vb = candle_nn::VarBuilder::from_varmap(&vars, DType::F64, &Device::Cpu);
    let attention = isfm_blocks::cross_attention(c, vb).unwrap();
    let data = vars.data().lock().unwrap();
    for (i, var) in data.values().enumerate() {
        var.set(&random(var.dims(), i as u64)).unwrap();
    }
    let get = |name: &str| data[name].as_tensor();
    let [a, b] = [1, 2].map(|seed| random(&[1, height, width, c], seed));
    let got = attention.forward(&a, &b).unwrap();

    let run = || -> Result<Tensor> {
        let flat = |x: &Tensor| x.reshape((height * width, c));
        let normed = |x: &Tensor, norm: &str| -> Result<Tensor> {
            let x = flat(x)?;
            let x = x.broadcast_sub(&x.mean_keepdim(1)?)?;
            let deviation = (x.sqr()?.mean_keepdim(1)? + 1e-5)?.sqrt()?;
            let x = x.broadcast_div(&deviation)?;
            let (weight, bias) = (get(&format!("{norm}.weight")), get(&format!("{norm}.bias")));
            x.broadcast_mul(weight)?.broadcast_add(bias)
        };
        let normed = [normed(&a, "ln_1")?, normed(&b, "ln_2")?];
        let part = |i: usize, k: usize| -> Result<Tensor> {
            let weight = get(["qkv_1.weight", "qkv_2.weight"][i]).narrow(0, k * c, c)?;
            normed[i].matmul(&weight.t()?)
        };
        let attend = |from: usize, to: usize| -> Result<Tensor> {
            let exp = |x: Tensor, over| -> Result<Tensor> {
                let x = x.exp()?;
                x.broadcast_div(&x.sum_keepdim(over)?)
            };
            let pairs = exp(part(from, 0)?, 1)?.matmul(&exp(part(to, 1)?, 0)?.t()?)?;
            pairs.matmul(&part(to, 2)?)
        };
        let y = (attend(0, 1)? + attend(1, 0)?)?.matmul(&get("out_proj.weight").t()?)?;
        let a = flat(&a)?.broadcast_mul(get("skip_scale"))?;
        let b = normed[1].broadcast_mul(get("skip_scale_2"))?;
        (a + b)?.add(&y)
    };
    let want = run().unwrap().reshape((1, height, width, c)).unwrap();
    assert!(difference(&got, &want) < 1e-12);
}

/// A network with guidance of no effect is the one without: z + z_f ⊙ z for z_f = 0.
#[test]
fn without_interaction_is_a_guidance_of_zero() {
    let own = Config {
        modules: Modules { spatial: Spatial::FgmOwnGate, ..Modules::default() },
        ..tiny()
    };
    let mut full = wild(&tiny());
    let alone: Weights = full
        .iter()
        .filter(|(name, _)| !name.contains(".proj."))
        .map(|(n, t)| (n.clone(), t.clone()))
        .collect();
    for (name, tensor) in &mut full {
        if name.contains(".proj.3.") {
            *tensor = tensor.zeros_like().unwrap();
        }
    }
    let [visible, infrared] = pictures(1, 6, 6);
    let forward = |config: &Config, weights: &Weights| {
        Network::from_weights(config, weights).unwrap().forward(&visible, &infrared).unwrap()
    };
    assert!(difference(&forward(&own, &alone), &forward(&tiny(), &full)) < 1e-12);
}

/// Gates of the frequencies alone: the same at every position, whatever the sources are.
#[test]
fn a_frequency_gate_is_one_vector() {
    let config = Ss2dConfig { d_state: 2, expand: 1, ..Ss2dConfig::new(4) };
    let vars = candle_nn::VarMap::new();
    let vb = candle_nn::VarBuilder::from_varmap(&vars, DType::F64, &Device::Cpu);
    let block = isfm_blocks::fg_block(&config, GateSource::Frequency, vb.clone()).unwrap();
    let names: Vec<_> = vars.data().lock().unwrap().keys().cloned().collect();
    assert!(!names.iter().any(|name| name.starts_with("in_proj_z") || name.starts_with("ln3")));
    for (i, var) in vars.all_vars().iter().enumerate() {
        var.set(&random(var.dims(), i as u64)).unwrap();
    }
    let [a, b] = [1, 2].map(|seed| random(&[1, 4, 6, 4], seed));
    let bands = Frequencies { low: random(&[1, 2, 3, 4], 3), high: random(&[1, 2, 3, 12], 4) };
    let fused = block.forward(&a, &b, Some(&bands)).unwrap();
    let gating = isfm_blocks::fgg(&config, GateSource::Both, vb).unwrap();
    let guidance = gating.guidance(Some(&bands)).unwrap();
    let data = vars.data().lock().unwrap();
    let get = |name: &str| data[name].as_tensor();
    let norm = |x: &Tensor, name: &str| -> Result<Tensor> {
        let (weight, bias) = (get(&format!("{name}.weight")), get(&format!("{name}.bias")));
        isfm_ops::layer_norm(x, weight, bias, 1e-5)
    };
    let run = || -> Result<Tensor> {
        let mut sum = None;
        let sources = [
            (&a, "in_proj_x", "conv2d_x", "out_norm1", "in_proj_g1", "ln1"),
            (&b, "in_proj_x2", "conv2d_x2", "out_norm2", "in_proj_g2", "ln2"),
        ];
        for (x, proj, conv, out_norm, gate, gate_norm) in sources {
            let weight = |name: &str| get(&format!("{name}.weight"));
            let y = isfm_ops::linear(x, weight(proj), None, isfm_ops::Epilogue::None)?;
            let bias = get(&format!("{conv}.bias"));
            let y =
                isfm_ops::depthwise_conv2d(&y, weight(conv), Some(bias), isfm_ops::Epilogue::Silu)?;
            let params = isfm_ssm::ScanParams {
                dt_projs_weight: get("dt_projs_weight").clone(),
                dt_projs_bias: get("dt_projs_bias").clone(),
                a_logs: get("A_logs").clone(),
                ds: get("Ds").clone(),
            };
            let scan = isfm_ssm::SelectiveScan2d::new(get("x_proj_weight").clone(), params)?;
            let y = norm(&candle_core::Module::forward(&scan, &y)?, out_norm)?;
            let gate =
                norm(&guidance.matmul(&weight(gate).t()?)?.reshape((1, 1, 1, 4))?, gate_norm)?;
            let y = y.broadcast_mul(&candle_nn::ops::silu(&gate)?)?;
            sum = Some(match sum {
                None => y,
                Some(sum) => (sum + y)?,
            });
        }
        let sum = sum.expect("two sources");
        isfm_ops::linear(&sum, get("out_proj.weight"), None, isfm_ops::Epilogue::None)
    };
    assert!(difference(&fused, &run().unwrap()) < 1e-12);
}

/// Rows and columns, each both ways, are the four directions: columns are the rows of the turned map.
#[test]
fn fewer_directions_are_those_of_four() {
    let (c, n) = (4, 2);
    let build = |directions, weights: &BTreeMap<String, Tensor>| {
        let config = Ss2dConfig { d_state: n, directions, ..Ss2dConfig::new(c) };
        let tensors = weights.clone().into_iter().collect();
        let vb = candle_nn::VarBuilder::from_tensors(tensors, DType::F64, &Device::Cpu);
        isfm_ssm::selective_scan_2d(&config, vb).unwrap()
    };
    let (d, r) = (2 * c, 1);
    let shapes: [(&str, Vec<usize>); 5] = [
        ("x_proj_weight", vec![4, r + 2 * n, d]),
        ("dt_projs_weight", vec![4, d, r]),
        ("dt_projs_bias", vec![4, d]),
        ("A_logs", vec![4 * d, n]),
        ("Ds", vec![4 * d]),
    ];
    let all: Vec<(&str, Tensor)> = shapes
        .iter()
        .enumerate()
        .map(|(i, (name, shape))| (*name, random(shape, i as u64)))
        .collect();
    // The tensors of these directions.
    let of = |kept: &[usize]| -> BTreeMap<String, Tensor> {
        all.iter()
            .map(|(name, tensor)| {
                let rows = tensor.dim(0).unwrap() / 4;
                let part = |&k: &usize| tensor.narrow(0, k * rows, rows).unwrap();
                let parts: Vec<_> = kept.iter().map(part).collect();
                (name.to_string(), Tensor::cat(&parts, 0).unwrap())
            })
            .collect()
    };
    let x = random(&[2, 3, 5, d], 9);
    let run = |directions, kept: &[usize]| {
        candle_core::Module::forward(&build(directions, &of(kept)), &x).unwrap()
    };
    let (rows, columns) = (0, 1);
    let both = run(Directions::RowsAndColumns, &[rows, columns]);
    let first = run(Directions::Rows, &[rows]);
    assert!(difference(&first, &both) > 1e-3);
    let four = run(Directions::All, &[0, 1, 2, 3]);
    let rows_both = run(Directions::RowsBothWays, &[0, 2]);
    let columns_both = {
        let turned = x.transpose(1, 2).unwrap().contiguous().unwrap();
        let scan = build(Directions::RowsBothWays, &of(&[1, 3]));
        candle_core::Module::forward(&scan, &turned).unwrap().transpose(1, 2).unwrap()
    };
    assert!(difference(&(rows_both + columns_both).unwrap(), &four) < 1e-12);
}

#[test]
fn parameters_and_operations_are_the_papers() {
    let config = Config::default();
    let counts = ParameterCounts::of(&config).unwrap();
    assert_eq!((counts.extractor, counts.mff, counts.isf), (975_104, 4_418_560, 3_163_520));
    assert_eq!((counts.other, counts.total()), (590_465, 9_147_905));
    let at = |height, width| OperationCounts::of(&config, height, width).unwrap().total();
    let small = at(128, 128);
    let hundredths = |operations: u128| (operations + 5_000_000) / 10_000_000; // of GFLOP
    assert_eq!(hundredths(2 * (small.layers + small.projections)), 20_381);
    assert_eq!(hundredths(small.flop()), 21_059);
    assert_eq!((at(480, 640).flop() + 5_000_000_000) / 10_000_000_000, 395); // 3.95 TFLOP
    // The 371 G of Table VIII: multiply-adds of layers alone at 256×256, to half a percent.
    assert_eq!(at(256, 256).layers / 1_000_000_000, 368);
}

/// The counts come from a formula, the tensors from the network: a layer's multiply-adds at a pixel
/// are the elements of its weight.
#[test]
fn operations_follow_from_the_tensors() {
    for Row { name, config } in every_row() {
        let (height, width) = (6, 10);
        let (pixels, positions) = (60, 15);
        let (mut layers, mut projections) = (0, 0);
        for (tensor, shape) in tensor_shapes(&config).unwrap() {
            let elements = shape.iter().product::<usize>() as u128;
            let last = tensor.rsplit('.').next().unwrap();
            let scans = if tensor.starts_with("ISF_layers") { 2 } else { 1 };
            let constant = config.modules.spatial == Spatial::FgmFrequencyGate;
            match last {
                "dt_projs_weight" | "x_proj_weight" => projections += scans * elements * pixels,
                "weight" if shape.len() > 1 => {
                    let band = tensor.contains("LFB")
                        || tensor.contains("GFHB")
                        || tensor.contains(".proj.");
                    let once = constant && tensor.contains("in_proj_g");
                    layers += elements
                        * if once {
                            1
                        } else if band {
                            positions
                        } else {
                            pixels
                        };
                }
                _ => {}
            }
        }
        if config.modules.spatial == Spatial::CrossAttention {
            let c = config.embed_dim as u128;
            layers += 4 * c * c * pixels; // keys with values, queries with both, for each source
        }
        let counted = OperationCounts::of(&config, height, width).unwrap().total();
        assert_eq!((counted.layers, counted.projections), (layers, projections), "{name}");
    }
}

#[test]
fn what_cannot_be_a_network_is_refused() {
    for (modules, words) in [
        (
            r#"{"spatial": "sum", "frequency": false, "lffb": false}"#,
            ["modules.lffb", "nothing reads"],
        ),
        (
            r#"{"spatial": "fgm-own-gate", "frequency": false, "hffb": false}"#,
            ["modules.hffb", "nothing reads"],
        ),
        (r#"{"spatial": "fusion"}"#, ["fusion", "cross-attention"]),
        (r#"{"directions": "three"}"#, ["three", "rows-and-columns"]),
        (r#"{"mff": true}"#, ["mff", "lffb"]),
    ] {
        refused(Config::from_json(&format!(r#"{{"modules": {modules}}}"#)), &words);
    }
    refused("VII".parse::<Table>(), &["VII", "III, IV, V, VI, K"]);
    assert_eq!("vi".parse::<Table>().unwrap(), Table::Vi);
}

#[test]
fn old_configurations_are_the_papers_network() {
    let json = r#"{"embed_dim":128,"depths":[1,1,1,1],"d_state":16,"expand":2}"#;
    assert_eq!(Config::from_json(json).unwrap(), Config::from(Preset::Paper));
    assert_eq!(serde_json::to_string(&Config::from(Preset::Paper)).unwrap(), json);
}
