//! Released files: both namings, both forms, and everything that can be wrong with them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Module, Tensor};
use isfm_ssm::{MambaCheckpoint, MambaConfig, MambaLmConfig};
use isfm_testing::{Golden, difference, golden, refused, relative};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn fixture() -> Golden {
    golden!("mamba.safetensors")
}

/// The weights under the names of Hugging Face's `MambaForCausalLM`.
fn weights() -> HashMap<String, Tensor> {
    fixture().under("weights.").map(|(name, t)| (name.to_string(), t.clone())).collect()
}

fn rename(
    weights: HashMap<String, Tensor>,
    to: impl Fn(&str) -> String,
) -> HashMap<String, Tensor> {
    weights.into_iter().map(|(name, t)| (to(&name), t)).collect()
}

fn config() -> MambaLmConfig {
    MambaLmConfig {
        block: MambaConfig { d_state: 5, dt_rank: Some(3), ..MambaConfig::new(16) },
        ..MambaLmConfig::new(16, 2, 11)
    }
}

/// What the fixture's program computed from these weights.
fn check(file: &MambaCheckpoint) {
    assert_eq!(*file.config(), config());
    let all = fixture();
    let y = file.block(0).unwrap().forward(&all["block.x"]).unwrap();
    assert!(difference(&y, &all["block.y"]) < 1e-5);
    let tokens = all["model.tokens"].to_dtype(DType::U32).unwrap();
    let logits = file.lm().unwrap().forward(&tokens).unwrap();
    assert!(difference(&logits, &all["model.logits"]) < 1e-5);
    let start = file.stack().unwrap();
    let first = start.layers()[0].forward(&all["block.x"]).unwrap();
    assert_eq!(first.dims(), all["block.x"].dims());
    assert!(file.block(2).is_err());
}

#[test]
fn both_namings_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let no_head = || {
        let mut weights = weights();
        weights.remove("lm_head.weight");
        weights
    };
    let bare = |name: &str| name.replace("backbone.", "");
    let state_spaces = |name: &str| name.replace("embeddings", "embedding");
    for (file, weights) in [
        ("MambaForCausalLM", weights()),
        ("MambaModel", rename(no_head(), bare)),
        ("state-spaces", rename(weights(), state_spaces)),
        ("state-spaces, tied", rename(no_head(), state_spaces)),
        ("DataParallel", rename(weights(), |name| format!("module.{name}"))),
    ] {
        let path = folder.path().join(file);
        candle_core::safetensors::save(&weights, &path).unwrap();
        check(&MambaCheckpoint::read(&path, None, &Device::Cpu).unwrap());
        check(&MambaCheckpoint::read(&path, Some(&config()), &Device::Cpu).unwrap());
    }
}

#[test]
fn torch_files_are_read() {
    let path = fixtures().join("mamba_state_dict.bin");
    check(&MambaCheckpoint::read(path, None, &Device::Cpu).unwrap());
}

#[test]
fn half_precision_becomes_f32() {
    let half = weights().into_iter().map(|(n, t)| (n, t.to_dtype(DType::BF16).unwrap()));
    let file = MambaCheckpoint::from_tensors("memory", half, None).unwrap();
    assert!(file.tensors().values().all(|t| t.dtype() == DType::F32));
    let (got, want) = (&file.tensors()["layers.1.mixer.A_log"], weights());
    let want = &want["backbone.layers.1.mixer.A_log"];
    assert!(relative(got, want) < 4e-3, "8 bits of mantissa");
}

#[test]
fn an_untied_head_is_kept() {
    let mut weights = weights();
    let moved = (&weights["lm_head.weight"] + 1.).unwrap();
    weights.insert("lm_head.weight".to_string(), moved);
    let file = MambaCheckpoint::from_tensors("memory", weights, None).unwrap();
    assert!(!file.config().tie_embeddings);
    refused(
        MambaCheckpoint::from_tensors("memory", file.tensors().clone(), Some(&config())),
        &["lm_head.weight is not the embedding"],
    );
    let all = fixture();
    let tokens = all["model.tokens"].to_dtype(DType::U32).unwrap();
    let hidden = &all["model.hidden.2"];
    // Adding 1 to every weight adds the sum of the features to every logit.
    let want = all["model.logits"].broadcast_add(&hidden.sum_keepdim(2).unwrap()).unwrap();
    let got = file.lm().unwrap().forward(&tokens).unwrap();
    assert!(relative(&got, &want) < 1e-5);
}

#[test]
fn all_that_is_wrong_is_named_at_once() {
    let from = |weights: HashMap<String, Tensor>, config: Option<&MambaLmConfig>| {
        MambaCheckpoint::from_tensors("model.safetensors", weights, config)
    };
    let mut bad = weights();
    bad.remove("backbone.layers.1.mixer.D");
    bad.remove("backbone.norm_f.weight");
    bad.insert("backbone.layers.0.mixer.A_b_log".to_string(), bad["lm_head.weight"].clone());
    let short = bad["backbone.layers.1.mixer.conv1d.weight"].narrow(2, 0, 3).unwrap();
    bad.insert("backbone.layers.1.mixer.conv1d.weight".to_string(), short);
    refused(
        from(bad, None),
        &[
            "model.safetensors",
            "missing: layers.1.mixer.D, norm_f.weight",
            "unexpected: layers.0.mixer.A_b_log",
            "1 mis-shaped: layers.1.mixer.conv1d.weight is [32, 1, 3], needs [32, 1, 4]",
        ],
    );
    let larger = MambaLmConfig { n_layer: 64, ..config() };
    refused(from(weights(), Some(&larger)), &["missing: layers.10.mixer.A_log", "more"]);
    let other = MambaLmConfig { vocab_size: 12, ..config() };
    refused(from(weights(), Some(&other)), &["embedding.weight is [11, 16], needs [12, 16]"]);
    refused(from(HashMap::new(), None), &["no layers.0.mixer.A_log"]);
    let mut second = weights();
    second.insert("backbone.layers.0.mixer.A_log".into(), second["lm_head.weight"].get(0).unwrap());
    refused(from(second, None), &["A_log", "2 axes", "Mamba-2"]);
    let mut twice = weights();
    twice.insert("layers.0.mixer.D".into(), twice["backbone.layers.0.mixer.D"].clone());
    refused(from(twice, None), &["two tensors are layers.0.mixer.D"]);
    let mut far = weights();
    far.insert(
        "layers.18446744073709551615.norm.weight".into(),
        Tensor::new(1f32, &Device::Cpu).unwrap(),
    );
    refused(from(far, None), &["missing", "unexpected"]);
}

#[test]
fn broken_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let read = |bytes: &[u8]| {
        let path = folder.path().join("file.bin");
        std::fs::write(&path, bytes).unwrap();
        MambaCheckpoint::read(&path, None, &Device::Cpu)
    };
    refused(read(b""), &["file.bin", "not a safetensors file"]);
    refused(read(b"hello, world"), &["not a safetensors file"]);
    refused(read(&[0x80, 2, 0x8a, 10]), &["old format"]);
    let torch = std::fs::read(fixtures().join("mamba_state_dict.bin")).unwrap();
    refused(read(&torch[..torch.len() / 2]), &["truncated"]);
    let tensors = std::fs::read(fixtures().join("mamba.safetensors")).unwrap();
    refused(read(&tensors[..tensors.len() / 2]), &["truncated"]);
    refused(
        MambaCheckpoint::read(folder.path().join("none"), None, &Device::Cpu),
        &["none", "cannot read"],
    );
    refused(MambaCheckpoint::read(folder.path(), None, &Device::Cpu), &["cannot read"]);
}
