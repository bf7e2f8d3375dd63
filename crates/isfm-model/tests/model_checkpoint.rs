//! Reading and writing weights, and everything that can be wrong with a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use isfm_model::{Checkpoint, Config, Error, initial_weights};
use proptest::prelude::*;

fn small() -> Checkpoint {
    let config = Config { embed_dim: 8, depths: vec![1, 2], d_state: 4, expand: 3 };
    let weights = initial_weights(&config, 5, &Device::Cpu).unwrap();
    let metadata = BTreeMap::from([("made by".to_string(), "a test".to_string())]);
    Checkpoint { config, weights, self_contained: true, metadata }
}

fn read(path: &Path, config: Option<&Config>) -> Result<Checkpoint, Error> {
    Checkpoint::read(path, config, &Device::Cpu)
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
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
            for (g, w) in numbers(&back.weights[name]).iter().zip(numbers(want)) {
                assert!((g - w).abs() <= bound * w.abs() + bound * 1e-3, "{name}: {g} {w}");
            }
        }
    }
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 1, "nothing is left beside the file");
}

#[test]
fn writing_needs_a_folder_and_whole_weights() {
    let mut checkpoint = small();
    let error = checkpoint.write("no/such/folder/w.safetensors", DType::F32).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
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
    let error = read(&path, Some(&config)).unwrap_err().to_string();
    for part in [
        "2 missing: conv1_before.0.bias, conv_final_fuse.2.bias",
        "1 unexpected: conv_final_fuse.9.bias",
        "1 of another shape: conv2_before.0.bias ([1], needs [8])",
    ] {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

#[test]
fn weights_of_another_configuration_say_which() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    small().write(&path, DType::F32).unwrap();
    let error = read(&path, Some(&Config::preset("small").unwrap())).unwrap_err().to_string();
    let said =
        r#"look like the configuration {"embed_dim":8,"depths":[1,2],"d_state":4,"expand":3}"#;
    assert!(error.contains(said), "{error}");
}

#[test]
fn values_that_are_not_finite_are_refused() {
    let mut checkpoint = small();
    let name = "conv1_before.0.bias";
    let broken = Tensor::new(&[0f32, 1., f32::NAN, 0., 0., 0., 0., 0.], &Device::Cpu).unwrap();
    checkpoint.weights.insert(name.to_string(), broken);
    let bytes = checkpoint.to_safetensors(DType::F32).unwrap();
    let error = Checkpoint::from_safetensors("memory", &bytes, None, &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains(name), "{error}");
}

#[test]
fn files_that_are_no_weights_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let whole = small().to_safetensors(DType::F32).unwrap();
    let pth = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny_pth.pth");
    let pth = std::fs::read(pth).unwrap();
    let empty_zip = b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let cases: [(PathBuf, &str); 9] = [
        (folder.path().join("missing.safetensors"), "cannot read"),
        (folder.path().to_path_buf(), "cannot read"),
        (write("empty.safetensors", b""), "not a safetensors file"),
        (write("text.pth", b"hello, I am not a checkpoint"), "not a safetensors file"),
        (write("half.safetensors", &whole[..whole.len() / 2]), "truncated"),
        (write("header.safetensors", &whole[..100]), "truncated"),
        (write("half.pth", &pth[..pth.len() / 2]), "truncated"),
        (write("zip.pth", empty_zip), "zip file without a state_dict"),
        (write("old.pth", b"\x80\x02\x8a\x0a"), "old format"),
    ];
    for (path, said) in cases {
        let error = read(&path, None).unwrap_err().to_string();
        assert!(error.contains(said), "{}: {error}", path.display());
    }
    let config = folder.path().join("config.json");
    for text in ["", "{", "[]", r#"{"embed_dim": "many"}"#] {
        std::fs::write(&config, text).unwrap();
        assert!(matches!(Config::read(&config), Err(Error::ConfigFile { .. })), "{text}");
    }
    assert!(matches!(Config::read(folder.path().join("none.json")), Err(Error::Io { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is done to a file, reading it gives an error or sound weights, never a panic.
    #[test]
    fn damaged_files_never_panic(at in 0usize..4000, byte: u8, pth: bool) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("damaged");
        let mut bytes = if pth {
            let pth = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny_pth.pth");
            std::fs::read(pth).unwrap()
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
