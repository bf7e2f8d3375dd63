//! What is read as weights, what is refused and how, and what differences are called.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use isfm_files::Error;
use isfm_files::checkpoint::{Contents, Difference, Misshapen, from_safetensors, read};

fn ones(dtype: DType, shape: &[usize]) -> Tensor {
    Tensor::ones(shape, dtype, &Device::Cpu).unwrap()
}

fn bytes(tensors: &[(&str, Tensor)], metadata: Option<HashMap<String, String>>) -> Vec<u8> {
    safetensors::serialize(tensors.iter().map(|(n, t)| (n, t)), metadata).unwrap()
}

fn all(path: &Path) -> isfm_files::Result<Contents> {
    read(path, &Device::Cpu, |_| true)
}

#[test]
fn wanted_tensors_become_f32_under_their_bare_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let tensors = [
        ("module.a", ones(DType::F16, &[2, 3])),
        ("_orig_mod.module.b", ones(DType::F64, &[1])),
        ("submodule.module.c", ones(DType::F32, &[])),
        ("unwanted", ones(DType::U8, &[4])),
    ];
    let metadata = HashMap::from([("by".to_string(), "a test".to_string())]);
    std::fs::write(&path, bytes(&tensors, Some(metadata))).unwrap();
    let found = read(&path, &Device::Cpu, |name| name != "unwanted").unwrap();
    let names: Vec<_> = found.tensors.keys().map(String::as_str).collect();
    assert_eq!(names, ["a", "b", "submodule.module.c"]);
    assert!(found.tensors.values().all(|t| t.dtype() == DType::F32));
    assert_eq!(found.tensors["a"].to_vec2::<f32>().unwrap(), [[1.; 3]; 2]);
    assert_eq!(found.metadata, BTreeMap::from([("by".to_string(), "a test".to_string())]));

    let twice = [("module.a", ones(DType::F32, &[1])), ("a", ones(DType::F32, &[1]))];
    let error = from_safetensors("memory", &bytes(&twice, None), &Device::Cpu, |_| true);
    assert_eq!(error.unwrap_err().to_string(), "weights memory: two tensors are a");
}

#[test]
fn files_that_are_no_weights_say_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let whole = bytes(&[("a", ones(DType::F32, &[100]))], None);
    for (name, bytes, said) in [
        ("empty", &b""[..], "not a safetensors file"),
        ("text", b"hello, I am not a checkpoint", "not a safetensors file"),
        ("pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        ("page.pth", b"<!DOCTYPE html><html>", "a web page"),
        ("picture", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a picture"),
        ("old.pth", b"\x80\x02\x8a\x0a", "old format"),
        ("half", &whole[..whole.len() / 2], "truncated"),
        ("header", &whole[..20], "truncated"),
        ("zip", b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "without a state_dict"),
        ("half.pth", b"PK\x03\x04\0\0\0\0\0\0\0\0\0\0\0", "truncated"),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = all(&path).unwrap_err();
        assert!(matches!(error, Error::Weights { .. }), "{error}");
        let error = error.to_string();
        assert!(error.contains(name) && error.contains(said), "{name}: {error}");
    }
    for path in [folder.path(), Path::new("no such file")] {
        let error = all(path).unwrap_err();
        let Error::Read { source, .. } = &error else { panic!("{error}") };
        assert_eq!(error.to_string(), format!("cannot read {}", path.display()));
        let both = format!("{error}: {source}");
        assert_eq!(candle_core::Error::from(error).to_string(), both);
    }
    let error = from_safetensors("memory", b"PK\x03\x04", &Device::Cpu, |_| true).unwrap_err();
    assert_eq!(error.to_string(), "weights memory: a zip file, no safetensors");
}

#[test]
fn a_difference_names_twelve_of_a_kind() {
    let tensors = ["a", "b", "c"].map(|n| (n.to_string(), ones(DType::F32, &[2, 1])));
    let needed: BTreeMap<_, _> =
        (0..14).map(|i| (format!("n{i:02}"), vec![])).chain([("a".to_string(), vec![2])]).collect();
    let difference = Difference::between(&tensors.clone().into(), &needed);
    assert_eq!(difference.missing.len(), 14);
    assert_eq!(difference.unexpected, ["b", "c"]);
    let misshapen = Misshapen { name: "a".to_string(), got: vec![2, 1], needed: vec![2] };
    assert_eq!(difference.misshapen, [misshapen]);
    let want = "14 missing: n00, n01, n02, n03, n04, n05, n06, n07, n08, n09, n10, n11 and 2 more\n  \
                2 unexpected: b, c\n  1 mis-shaped: a is [2, 1], needs [2]";
    assert_eq!(difference.to_string(), want);
    let fits = tensors.iter().map(|(n, t)| (n.clone(), t.dims().to_vec())).collect();
    assert!(Difference::between(&tensors.into(), &fits).is_empty());
}
