//! The 1-D Mamba block: its formula, Hugging Face's numbers, streams, gradients.

use std::collections::HashMap;

use crate::common::{
    built, check_gradients, mamba_branch, names_and_shapes, project, variables, with_gradients,
};
use candle_core::{DType, Device, Module, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use isfm_ssm::{
    Mamba, MambaConfig, MambaLmConfig, MambaState, mamba, mamba_layer, mamba_lm, mamba_stack,
};
use isfm_testing::{
    Golden, Numbers, assert_close, bits, difference, golden, random, refused, relative,
    same_on_any_threads, tensor, values,
};

/// A block with every parameter away from its initial value.
fn block(config: &MambaConfig, dtype: DType) -> (VarMap, Mamba) {
    built(dtype, 5, |vb| mamba(config, vb))
}

/// Small sizes with every option, and every size 1 somewhere.
fn configs() -> Vec<MambaConfig> {
    let small = MambaConfig { d_state: 3, dt_rank: Some(2), ..MambaConfig::new(5) };
    vec![
        small,
        MambaConfig { bias: true, ..small },
        MambaConfig { conv_bias: false, d_conv: 1, ..small },
        MambaConfig { d_conv: 2, d_state: 1, dt_rank: Some(1), expand: 1, ..small },
        MambaConfig { expand: 3, d_conv: 7, d_state: 17, ..MambaConfig::new(1) },
    ]
}

#[test]
fn block_is_its_formula() {
    for config in configs() {
        for len in [1, 2, 3, 40] {
            let (batch, c, d) = (2, config.d_model, config.d_inner());
            let (map, block) = block(&config, DType::F64);
            let x = random(&[batch, len, c], 1);
            let data = map.data().lock().unwrap();
            let get = |name: &str| {
                let zeros = vec![0.; 2 * d.max(c)];
                data.get(name).map_or(zeros, |v| values(v))
            };
            let projected = project(&values(&x), &get("in_proj.weight"), c);
            let bias = get("in_proj.bias");
            let part = |start: usize| -> Vec<f64> {
                let rows = projected.chunks(2 * d).map(|row| &row[start..start + d]);
                rows.flat_map(|r| r.iter().zip(&bias[start..]).map(|(v, b)| v + b)).collect()
            };
            let y = mamba_branch(&part(0), [batch, len, d], &get);
            let gate = part(d);
            let gated: Vec<f64> =
                y.iter().zip(&gate).map(|(y, z)| y * z / (1. + (-z).exp())).collect();
            let mut want = project(&gated, &get("out_proj.weight"), d);
            let bias = get("out_proj.bias");
            want.iter_mut().enumerate().for_each(|(i, v)| *v += bias[i % c]);
            let error = relative(&block.forward(&x).unwrap(), &tensor(&want, x.dims(), DType::F64));
            // Rounding of f64 along 40 steps.
            assert!(error < 1e-12, "{config:?} {len}: {error:e}");
        }
    }
}

#[test]
fn gradients_of_the_block_and_of_its_state() {
    for config in configs() {
        let (map, block) = block(&config, DType::F64);
        let x = random(&[2, 9, config.d_model], 2);
        check_gradients(&map, &x, 0, |x| block.forward(x));
        // Through both results of two pieces, one shorter than the convolution.
        check_gradients(&map, &x, 0, |x| {
            let start = block.initial_state(2)?;
            let (first, state) = block.forward_with_state(&x.narrow(1, 0, 2)?, &start)?;
            let (second, state) = block.forward_with_state(&x.narrow(1, 2, 7)?, &state)?;
            let parts = [first, second, state.conv, state.ssm].map(|t| t.flatten_all());
            Tensor::cat(&parts.into_iter().collect::<candle_core::Result<Vec<_>>>()?, 0)
        });
    }
}

#[test]
fn gradients_of_layers_and_models() {
    let config = configs()[0];
    let (map, (layer, stack)) = built(DType::F64, 9, |vb| {
        Ok((mamba_layer(&config, vb.pp("layer"))?, mamba_stack(&config, 2, vb.pp("stack"))?))
    });
    let x = random(&[2, 6, config.d_model], 2);
    check_gradients(&map, &x, 0, |x| stack.forward(&layer.forward(x)?));

    let config = MambaLmConfig { block: config, n_layer: 1, vocab_size: 7, tie_embeddings: true };
    let (map, model) = built(DType::F64, 9, |vb| mamba_lm(&config, vb));
    let tokens = Tensor::new(&[[3u32, 0, 6, 6, 2]], &Device::Cpu).unwrap();
    let scale = tensor(&[1.], &[1, 1, 1], DType::F64);
    check_gradients(&map, &scale, 0, |x| model.forward(&tokens)?.broadcast_mul(x));
}

/// Sample by sample, 10,000 of them, in f32.
#[test]
fn a_stream_of_steps_equals_the_whole() {
    let (_, block) = block(&MambaConfig::new(16), DType::F32);
    let (batch, len) = (2, 10_000);
    let x = (random(&[batch, len, 16], 3) * 3.).unwrap().to_dtype(DType::F32).unwrap();
    let whole = block.forward(&x).unwrap();
    let mut state = block.initial_state(batch).unwrap();
    let steps: Vec<Tensor> = (0..len)
        .map(|t| block.step(&x.narrow(1, t, 1).unwrap().squeeze(1).unwrap(), &mut state).unwrap())
        .collect();
    let joined = Tensor::stack(&steps, 1).unwrap();
    let size = values(&whole).iter().fold(0f64, |m, v| m.max(v.abs()));
    let worst = difference(&joined, &whole);
    assert!(size > 0.3 && worst < 1e-5, "{worst:e} of {size}");
    assert!(!state.conv.track_op() && !state.ssm.track_op(), "a stream must not grow a graph");
}

/// Pieces of any length, shorter than the convolution too, and the layers around the block.
#[test]
fn pieces_of_a_sequence_equal_the_whole() {
    let config = MambaLmConfig {
        block: MambaConfig { d_state: 3, ..MambaConfig::new(6) },
        ..MambaLmConfig::new(6, 2, 9)
    };
    let (_, model) = built(DType::F64, 4, |vb| mamba_lm(&config, vb));
    let (batch, len) = (2, 75);
    let ids = Numbers(8).vec(batch * len, 0., 9.).iter().map(|v| *v as u32).collect();
    let tokens = Tensor::from_vec(ids, (batch, len), &Device::Cpu).unwrap();
    let whole = model.forward(&tokens).unwrap();
    for lengths in [vec![75], vec![1; 75], vec![1, 2, 3, 33, 32, 4], vec![40, 35]] {
        let mut states = model.initial_state(batch).unwrap();
        let (mut at, mut parts) = (0, Vec::new());
        for n in lengths {
            let piece = tokens.narrow(1, at, n).unwrap();
            if n == 1 {
                let next = model.step(&piece.squeeze(1).unwrap(), &mut states).unwrap();
                parts.push(next.unsqueeze(1).unwrap());
            } else {
                let (logits, next) = model.forward_with_state(&piece, &states).unwrap();
                states = next;
                parts.push(logits);
            }
            at += n;
        }
        let error = relative(&Tensor::cat(&parts, 1).unwrap(), &whole);
        assert!(error < 1e-12, "{error:e}");
    }
}

/// The fixture's weights as variables under this crate's names.
fn fixture_weights(all: &Golden, dtype: DType) -> HashMap<String, Var> {
    let weights = all.under("weights.").filter(|(name, _)| *name != "lm_head.weight");
    let variable = |(name, t): (&str, &Tensor)| {
        let name = name.replace("backbone.", "").replace("embeddings.", "embedding.");
        (name, Var::from_tensor(&t.to_dtype(dtype).unwrap()).unwrap())
    };
    weights.map(variable).collect()
}

#[test]
fn agrees_with_hugging_face() {
    let all = golden!("mamba.safetensors");
    let close = |got: &Tensor, want: &Tensor, what: &str| assert_close(got, want, 1e-5, what);
    let block_config = MambaConfig { d_state: 5, dt_rank: Some(3), ..MambaConfig::new(16) };
    for dtype in [DType::F32, DType::F64] {
        let get = |name: &str| all[name].to_dtype(dtype).unwrap();
        let vars = fixture_weights(&all, dtype);
        let tensors = vars.iter().map(|(n, v)| (n.clone(), v.as_tensor().clone())).collect();
        let vb = VarBuilder::from_tensors(tensors, dtype, &Device::Cpu);

        let block = mamba(&block_config, vb.pp("layers.0.mixer")).unwrap();
        let x = Var::from_tensor(&get("block.x")).unwrap();
        let y = block.forward(&x).unwrap();
        close(&y, &get("block.y"), "block");
        let grads = (y * get("block.dy")).unwrap().sum_all().unwrap().backward().unwrap();
        close(grads.get(&x).unwrap(), &get("block.dx"), "gradient of the block's input");
        let mut seen = 0;
        for (name, var) in &vars {
            if let Some(want) = all.get(&format!("block.gradients.backbone.{name}")) {
                close(grads.get(var).unwrap(), want, &format!("block's gradient of {name}"));
                seen += 1;
            }
        }
        assert_eq!(seen, 9);

        let config =
            MambaLmConfig { block: block_config, n_layer: 2, vocab_size: 11, tie_embeddings: true };
        let model = mamba_lm(&config, vb.clone()).unwrap();
        let tokens = all["model.tokens"].to_dtype(DType::U32).unwrap();
        let mut stream =
            vars["embedding.weight"].embedding(&tokens.flatten_all().unwrap()).unwrap();
        stream = stream.reshape((2, 9, 16)).unwrap();
        let embedded = stream.clone();
        for (i, layer) in model.stack().layers().iter().enumerate() {
            stream = layer.forward(&stream).unwrap();
            close(&stream, &get(&format!("model.hidden.{i}")), &format!("after layer {i}"));
        }
        let last = model.stack().forward(&embedded).unwrap();
        close(&last, &get("model.hidden.2"), "after the last norm");
        let logits = model.forward(&tokens).unwrap();
        close(&logits, &get("model.logits"), "logits");
        let loss = (logits * get("model.dlogits")).unwrap().sum_all().unwrap();
        let grads = loss.backward().unwrap();
        for (name, var) in &vars {
            let theirs = match name.as_str() {
                "embedding.weight" => "backbone.embeddings.weight".to_string(),
                name => format!("backbone.{name}"),
            };
            let want = get(&format!("model.gradients.{theirs}"));
            close(grads.get(var).unwrap(), &want, &format!("gradient of {name}"));
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let (map, block) = block(&MambaConfig::new(40), DType::F32);
    let x = random(&[3, 70, 40], 6).to_dtype(DType::F32).unwrap();
    same_on_any_threads("block", || {
        let all = with_gradients(&map, block.forward(&x).unwrap());
        all.into_iter().map(|(name, t)| (name, bits(&t))).collect::<Vec<_>>()
    });
}

#[test]
fn names_and_shapes_are_the_released_ones() {
    let (map, _) = block(&MambaConfig::new(768), DType::F32);
    // mamba-130m's.
    let want = [
        "A_log [1536, 16]",
        "D [1536]",
        "conv1d.bias [1536]",
        "conv1d.weight [1536, 1, 4]",
        "dt_proj.bias [1536]",
        "dt_proj.weight [1536, 48]",
        "in_proj.weight [3072, 768]",
        "out_proj.weight [768, 1536]",
        "x_proj.weight [80, 1536]",
    ];
    assert_eq!(names_and_shapes(&map), want);
}

#[test]
fn initial_values_are_the_released_ones() {
    let map = VarMap::new();
    let vb = VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
    let config = MambaLmConfig {
        block: MambaConfig { bias: true, ..MambaConfig::new(32) },
        tie_embeddings: false,
        ..MambaLmConfig::new(32, 4, 50)
    };
    mamba_lm(&config, vb).unwrap();
    let snapshot = || {
        let mut numbers = Numbers(3);
        isfm_ssm::init::mamba(&map, || numbers.unit()).unwrap();
        variables(&map).into_iter().map(|(n, v)| (n, values(&v))).collect::<HashMap<_, _>>()
    };
    let all = snapshot();
    assert!(snapshot() == all, "the same draws give the same values");
    let own = |name: &str| &all[&format!("layers.2.mixer.{name}")];
    let row: Vec<f64> = (1..=16).map(|i| f64::from((f64::from(i)).ln() as f32)).collect();
    assert!(own("A_log").chunks(16).all(|r| r == row));
    assert!(own("D").iter().all(|&v| v == 1.));
    let reach = |values: &[f64]| values.iter().fold(0f64, |m, v| m.max(v.abs()));
    let check = |name: &str, bound: f64| {
        let got = reach(own(name));
        assert!(got <= bound && got > 0.9 * bound, "{name}: {got}, should reach {bound}");
    };
    check("in_proj.weight", 32f64.powf(-0.5));
    check("x_proj.weight", 64f64.powf(-0.5));
    check("dt_proj.weight", 2f64.powf(-0.5));
    check("conv1d.weight", 0.5);
    check("conv1d.bias", 0.5);
    check("out_proj.weight", 64f64.powf(-0.5) / 2.);
    assert!(reach(own("in_proj.bias")) == 0. && reach(own("out_proj.bias")) == 0.);
    let steps = own("dt_proj.bias").iter().map(|v| v.exp().ln_1p());
    assert!(steps.into_iter().all(|dt| dt > 9.99e-4 && dt < 0.10001));
    assert!(all["layers.0.norm.weight"].iter().chain(&all["norm_f.weight"]).all(|&v| v == 1.));
    for name in ["embedding.weight", "lm_head.weight"] {
        let mean_square = all[name].iter().map(|v| v * v).sum::<f64>() / 1600.;
        // The standard deviation of this mean of 1600 squares is 3.5 %.
        assert!((mean_square.sqrt() / 0.02 - 1.).abs() < 0.1, "{name}");
    }
}

#[test]
fn wrong_inputs_are_refused() {
    let config = configs()[0];
    let (_, block) = block(&config, DType::F32);
    let state = block.initial_state(2).unwrap();
    let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
    let run = |dims: &[usize]| block.forward_with_state(&zeros(dims), &state);
    refused(run(&[2, 3]), &["mamba", "x", "[2, 3]", "[B, L, 5]"]);
    refused(run(&[2, 3, 4]), &["[2, 3, 4]", "[B, L, 5]"]);
    refused(run(&[2, 0, 5]), &["at least 1"]);
    refused(run(&[0, 2, 5]), &["at least 1"]);
    refused(run(&[3, 4, 5]), &["state.conv", "[2, 3, 10]", "[3, 3, 10]"]);
    let x = zeros(&[2, 3, 5]);
    let other = MambaState { ssm: zeros(&[2, 10, 4]), ..state.clone() };
    refused(block.forward_with_state(&x, &other), &["state.ssm", "[2, 10, 4]", "[2, 10, 3]"]);
    let wide = MambaState { conv: state.conv.to_dtype(DType::F64).unwrap(), ..state.clone() };
    refused(block.forward_with_state(&x, &wide), &["state.conv", "F64"]);
    for dims in [&[2, 3][..], &[2, 0, 5], &[2, 3, 6]] {
        assert!(block.forward(&zeros(dims)).is_err(), "{dims:?}");
    }

    // A refused step leaves the state as it was.
    let mut moved = state.clone();
    block.step(&zeros(&[2, 5]).affine(1., 1.).unwrap(), &mut moved).unwrap();
    let before = (values(&moved.conv), values(&moved.ssm));
    assert!(block.step(&zeros(&[2, 4]), &mut moved).is_err());
    assert!(block.step(&zeros(&[2, 1, 5]), &mut moved).is_err());
    assert!(before == (values(&moved.conv), values(&moved.ssm)));

    let vb = || VarBuilder::zeros(DType::F32, &Device::Cpu);
    for (field, bad) in [
        ("d_model", MambaConfig { d_model: 0, dt_rank: Some(1), ..config }),
        ("d_state", MambaConfig { d_state: 0, ..config }),
        ("d_conv", MambaConfig { d_conv: 0, ..config }),
        ("d_conv", MambaConfig { d_conv: usize::MAX, ..config }),
        ("expand", MambaConfig { expand: 1 << 19, ..config }),
        ("dt_rank", MambaConfig { dt_rank: Some(0), ..config }),
    ] {
        refused(mamba(&bad, vb()), &[&format!("MambaConfig: {field} is")]);
    }

    let model = mamba_lm(&MambaLmConfig::new(4, 1, 6), vb()).unwrap();
    let states = model.initial_state(1).unwrap();
    let run = |tokens: Tensor| model.forward_with_state(&tokens, &states).map(|r| r.0);
    let ids = |v: &[u32]| Tensor::new(v, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    assert!(run(ids(&[0, 5])).is_ok());
    for (tokens, word) in [
        (ids(&[0, 6]), "below 6"),
        (ids(&[1]).squeeze(0).unwrap(), "[B, L]"),
        (ids(&[1]).to_dtype(DType::I64).unwrap(), "U32"),
        (ids(&[1, 2]).narrow(1, 0, 0).unwrap(), "at least 1"),
    ] {
        refused(run(tokens), &[word]);
    }
    assert!(model.forward_with_state(&ids(&[1]), &[]).is_err());
}
