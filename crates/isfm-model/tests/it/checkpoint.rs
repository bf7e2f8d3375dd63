//! Reading and writing weights, and everything that can be wrong with a file.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use isfm_model::{Checkpoint, Config, Error, Preset, initial_weights};
use isfm_testing::{refused, values};
use proptest::prelude::*;

fn small() -> Checkpoint {
    let config =
        Config { embed_dim: 8, depths: vec![1, 2], d_state: 4, expand: 3, ..Config::default() };
    let weights = initial_weights(&config, 5, &Device::Cpu).unwrap();
    let metadata = BTreeMap::from([("made by".to_string(), "a test".to_string())]);
    Checkpoint { config, weights, self_contained: true, metadata }
}

fn read(path: &Path, config: Option<&Config>) -> Result<Checkpoint, Error> {
    Checkpoint::read(path, config, &Device::Cpu)
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

#[test]
fn what_is_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let checkpoint = small();
    for (dtype, bound) in [(DType::F32, 0.), (DType::F16, 1e-3), (DType::BF16, 8e-3)] {
        checkpoint.write(&path, dtype).unwrap();
        let back = read(&path, None).unwrap();
        assert_eq!(back.config, checkpoint.config);
        assert_eq!(back.metadata, checkpoint.metadata);
        for (name, want) in &checkpoint.weights {
            assert_eq!(back.weights[name].dtype(), DType::F32);
            for (g, w) in values(&back.weights[name]).iter().zip(values(want)) {
                assert!((g - w).abs() <= bound * w.abs() + bound * 1e-3, "{name}: {g} {w}");
            }
        }
    }
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 1, "nothing is left beside the file");
}

#[test]
fn writing_needs_a_place_and_whole_weights() {
    let mut checkpoint = small();
    let error = checkpoint.write("Cargo.toml/no/folder/w.safetensors", DType::F32).unwrap_err();
    assert!(matches!(error, Error::Write { .. }), "{error}");
    checkpoint.weights.pop_first();
    let folder = tempfile::tempdir().unwrap();
    let error = checkpoint.write(folder.path().join("w"), DType::F32).unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn every_difference_is_named_in_one_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let Checkpoint { config, mut weights, .. } = small();
    weights.remove("conv1_before.0.bias").unwrap();
    let odd = weights.remove("conv_final_fuse.2.bias").unwrap();
    weights.insert("conv_final_fuse.9.bias".to_string(), odd.clone());
    weights.insert("conv2_before.0.bias".to_string(), odd);
    // The unused tensors of a released checkpoint are no difference.
    let unused = Tensor::zeros(8, DType::F32, &Device::Cpu).unwrap();
    for name in ["norm.weight", "norm.bias", "dwt.w_ll", "MFF_layers.0.idwt.filters"] {
        weights.insert(name.to_string(), unused.clone());
    }
    candle_core::safetensors::save(&weights.into_iter().collect(), &path).unwrap();
    let parts = [
        "2 missing: conv1_before.0.bias, conv_final_fuse.2.bias",
        "1 unexpected: conv_final_fuse.9.bias",
        "1 mis-shaped: conv2_before.0.bias is [1], needs [8]",
    ];
    refused(read(&path, Some(&config)), &parts);
}

#[test]
fn weights_of_another_configuration_say_which() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    small().write(&path, DType::F32).unwrap();
    let said =
        r#"look like the configuration {"embed_dim":8,"depths":[1,2],"d_state":4,"expand":3}"#;
    refused(read(&path, Some(&Preset::Small.into())), &[said]);
}

/// Any tensor may be missing or odd: the configuration is told by the others.
#[test]
fn differences_are_named_without_a_configuration_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let whole = small().weights;
    let odd = Tensor::zeros((3, 2), DType::F32, &Device::Cpu).unwrap();
    for name in whole.keys() {
        for misshapen in [false, true] {
            let mut weights = whole.clone();
            weights.remove(name);
            if misshapen {
                weights.insert(name.clone(), odd.clone());
            }
            let weights = weights.into_iter().collect();
            candle_core::safetensors::save(&weights, &path).unwrap();
            let said = if misshapen { "1 mis-shaped: " } else { "1 missing: " };
            refused(read(&path, None), &[&format!("{said}{name}")]);
        }
    }
    let others = [("fc.weight".to_string(), odd)].into();
    candle_core::safetensors::save(&others, &path).unwrap();
    refused(read(&path, None), &["no tensor of an ISFM network among its 1: fc.weight"]);
}

#[test]
fn a_configuration_may_begin_with_a_byte_order_mark() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    std::fs::write(&path, "\u{feff}{\"embed_dim\": 8}").unwrap();
    assert_eq!(Config::read(&path).unwrap().embed_dim, 8);
    assert_eq!(Config::from_json("\u{feff}{\"embed_dim\": 8}").unwrap().embed_dim, 8);
    std::fs::write(&path, b"\xff\xfe{\0}\0").unwrap();
    let error = Config::read(&path).unwrap_err();
    assert!(isfm_testing::chain(&error).contains("save it as UTF-8"), "{error}");
}

/// A fixture of `torch.save`'s, its dictionary under `key` in another one, beside an epoch's number.
fn under_key(fixture: &Path, key: &str) -> Vec<u8> {
    let mut from = zip::ZipArchive::new(std::fs::File::open(fixture).unwrap()).unwrap();
    let mut to = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for i in 0..from.len() {
        let mut entry = from.by_index(i).unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        let name = entry.name().unwrap().into_owned();
        if name.ends_with("data.pkl") {
            // Of pickle's protocol 2: a dictionary, key, value, set, key, value, set, the end.
            let length = [key.len() as u8, 0, 0, 0];
            let inner = &bytes[2..bytes.len() - 1];
            let start = [b"\x80\x02}X\x05\0\0\0epochK\x03sX", &length[..], key.as_bytes()];
            bytes = [&start.concat(), inner, b"s."].concat();
        }
        to.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        to.write_all(&bytes).unwrap();
    }
    to.finish().unwrap().into_inner()
}

#[test]
fn dictionaries_under_the_usual_keys_are_read_by_all_readers() {
    let isfm = fixture("tests/fixtures/tiny_pth.pth");
    let mamba = fixture("../isfm-ssm/tests/fixtures/mamba_state_dict.bin");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.pth");
    for key in ["state_dict", "model_state_dict", "model", "params", "params_ema", "module", "net"]
    {
        std::fs::write(&path, under_key(&isfm, key)).unwrap();
        let (got, want) = (read(&path, None), read(&isfm, None).unwrap());
        assert_eq!(got.unwrap().config, want.config, "{key}");
        std::fs::write(&path, under_key(&mamba, key)).unwrap();
        let read = |path| isfm_ssm::MambaCheckpoint::read(path, None, &Device::Cpu);
        let (got, want) = (read(&path), read(&mamba).unwrap());
        assert_eq!(got.unwrap().config(), want.config(), "{key}");
    }
}

/// A safetensors file begins with the length of its header, here one that looks like the first
/// bytes of PyTorch's old format and of a zip file.
#[test]
fn any_length_of_header_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let mut checkpoint = small();
    for magic in [b"\x80\x4b", b"PK"] {
        let mut bytes = Vec::new();
        for _ in 0..2 {
            bytes = checkpoint.to_safetensors(DType::F16).unwrap();
            let length = u16::from_le_bytes([bytes[0], bytes[1]]);
            let padding = u16::from_le_bytes(*magic).wrapping_sub(length);
            let comment = checkpoint.metadata.get_mut("made by").unwrap();
            comment.push_str(&"-".repeat(usize::from(padding)));
        }
        assert!(bytes.starts_with(magic));
        std::fs::write(&path, bytes).unwrap();
        read(&path, None).unwrap();
    }
}

#[test]
fn values_that_are_not_finite_are_refused() {
    let mut checkpoint = small();
    let name = "conv1_before.0.bias";
    // A sum of such values is not finite, but they are.
    let large = Tensor::full(-3e38f32, 8, &Device::Cpu).unwrap();
    checkpoint.weights.insert(name.to_string(), large);
    let bytes = checkpoint.to_safetensors(DType::F32).unwrap();
    Checkpoint::from_bytes("memory", &bytes, None, &Device::Cpu).unwrap();
    refused(checkpoint.to_safetensors(DType::F16), &[name, "-3e38", "F16", "store F32"]);
    let broken = Tensor::new(&[0f32, 1., f32::NAN, 0., 0., 0., 0., 0.], &Device::Cpu).unwrap();
    checkpoint.weights.insert(name.to_string(), broken);
    let bytes = checkpoint.to_safetensors(DType::F32).unwrap();
    let said = format!("{name} has the value NaN at 2");
    refused(Checkpoint::from_bytes("memory", &bytes, None, &Device::Cpu), &[&said]);
}

#[test]
fn files_that_are_no_weights_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let whole = small().to_safetensors(DType::F32).unwrap();
    let pth = std::fs::read(fixture("tests/fixtures/tiny_pth.pth")).unwrap();
    for (bytes, said) in [
        (&whole[..whole.len() / 2], "truncated"),
        (&whole[..100], "truncated"),
        (&pth[..pth.len() / 2], "truncated"),
        (b"hello, I am not a checkpoint", "not a safetensors file"),
        (b"\x02\0\0\0\0\0\0\0{}", "no tensors in it"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        refused(read(&path, None), &[said, "file"]);
    }
    let error = read(&folder.path().join("missing"), None).unwrap_err();
    assert!(matches!(error, Error::File(isfm_files::Error::Read { .. })), "{error}");
    for text in ["", "{", "[]", r#"{"embed_dim": "many"}"#, r#"{"embed_dim": 0}"#] {
        std::fs::write(&path, text).unwrap();
        assert!(matches!(Config::read(&path), Err(Error::ConfigFile { .. })), "{text}");
    }
    assert!(matches!(Config::read(folder.path().join("none.json")), Err(Error::File(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is done to a file, reading it gives an error or sound weights, never a panic.
    #[test]
    fn damaged_files_never_panic(at in 0usize..4000, byte: u8, pth: bool) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("damaged");
        let mut bytes = if pth {
            std::fs::read(fixture("tests/fixtures/tiny_pth.pth")).unwrap()
        } else {
            small().to_safetensors(DType::F16).unwrap()
        };
        // The headers are at the start of one and at the end of the other.
        let index = if pth && at % 2 == 0 { bytes.len() - 1 - at } else { at };
        bytes[index] = byte;
        std::fs::write(&path, &bytes).unwrap();
        let _ = read(&path, None);
    }
}
