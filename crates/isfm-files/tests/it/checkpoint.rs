//! What is read as weights, what is refused and how, and what differences are called.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use isfm_files::Error;
use isfm_files::checkpoint::{Contents, Difference, Misshapen, from_bytes, read};
use isfm_testing::refused;

use crate::torch::*;

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
    assert_eq!(found.others, ["unwanted"]);
    assert!(found.tensors.values().all(|t| t.dtype() == DType::F32));
    assert_eq!(found.tensors["a"].to_vec2::<f32>().unwrap(), [[1.; 3]; 2]);
    assert_eq!(found.metadata, BTreeMap::from([("by".to_string(), "a test".to_string())]));

    let twice = [("module.a", ones(DType::F32, &[1])), ("a", ones(DType::F32, &[1]))];
    let error = from_bytes("memory", &bytes(&twice, None), &Device::Cpu, |_| true);
    assert_eq!(error.unwrap_err().to_string(), "weights memory: two tensors are a");
}

#[test]
fn files_that_are_no_weights_say_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let whole = bytes(&[("a", ones(DType::F32, &[100]))], None);
    for (name, bytes, said) in [
        ("empty", &b""[..], "empty"),
        ("text", b"hello, I am not a checkpoint", "not a safetensors file"),
        ("pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        ("page.pth", b"<!DOCTYPE html><html>", "a web page"),
        ("picture", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a picture"),
        ("old.pth", b"\x80\x02\x8a\x0a", "old format, broken or truncated"),
        ("half", &whole[..whole.len() / 2], "truncated"),
        ("header", &whole[..20], "truncated"),
        ("zip", b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "without a data.pkl"),
        ("half.pth", b"PK\x03\x04\0\0\0\0\0\0\0\0\0\0\0", "truncated"),
        ("plain.pkl", b"\x80\x02}.", "a pickle, but not one of torch.save's"),
        ("marked.html", b"\xef\xbb\xbf\r\n <html>", "a web page"),
        ("config.json", b"\xef\xbb\xbf{\"embed_dim\": 8}", "JSON text, perhaps a configuration"),
        ("wide.txt", b"\xff\xfeh\0", "16-bit"),
        ("photo.webp", b"RIFF\0\0\0\0WEBP", "WebP"),
        ("packed.gz", b"\x1f\x8b\x08\0", "gzip"),
        ("packed.zst", b"\x28\xb5\x2f\xfd", "zstd"),
        ("model.onnx", b"\x08\x07\x12\x07pytorch", "ONNX"),
        ("model.gguf", b"GGUF\x03\0\0\0", "GGUF"),
        ("model.h5", b"\x89HDF\r\n", "HDF5"),
        ("array.npy", b"\x93NUMPY\x01\0", "NumPy"),
        ("zeros.pth", &[0; 600], "nothing but zeros"),
        ("oldest.tar", &[&[b'x'; 257][..], b"ustar\x0000"].concat(), "a tar archive"),
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
    refused(from_bytes("memory", b"PK\x03\x04", &Device::Cpu, |_| true), &["memory", "truncated"]);
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

/// What a network of two tensors wants.
fn wanted(name: &str) -> bool {
    name == "conv.weight" || name == "conv.bias"
}

fn load(bytes: &[u8]) -> isfm_files::Result<Contents> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.pth");
    std::fs::write(&path, bytes).unwrap();
    read(&path, &Device::Cpu, wanted)
}

/// The two tensors, with `prefix` before their names; of the storages 0 and 1, or 2 and 3.
fn network(prefix: &str, first: usize) -> Vec<(String, Bytes)> {
    let name = |name| format!("{prefix}{name}");
    let key = |at: usize| (first + at).to_string();
    vec![(name("conv.weight"), tensor(&key(0), 6)), (name("conv.bias"), tensor(&key(1), 2))]
}

fn state(prefix: &str, first: usize) -> Bytes {
    let network = network(prefix, first);
    ordered(&network.iter().map(|(n, t)| (n.as_str(), t.clone())).collect::<Vec<_>>())
}

/// Of the values 1, 2, …; the second network's are others.
fn storages() -> [(&'static str, Bytes); 4] {
    let others = |count: usize| floats(count + 2)[8..].to_vec();
    [("0", floats(6)), ("1", floats(2)), ("2", others(6)), ("3", others(2))]
}

#[track_caller]
fn check(contents: &Contents, first: f32) {
    let names: Vec<_> = contents.tensors.keys().map(String::as_str).collect();
    assert_eq!(names, ["conv.bias", "conv.weight"]);
    let row = |count: usize| (0..count).map(|at| first + at as f32).collect::<Vec<_>>();
    assert_eq!(contents.tensors["conv.weight"].to_vec1::<f32>().unwrap(), row(6));
    assert_eq!(contents.tensors["conv.bias"].to_vec1::<f32>().unwrap(), row(2));
}

#[test]
fn wrappers_and_prefixes_are_seen_through() {
    let keys = [
        "state_dict",
        "model_state_dict",
        "model",
        "params",
        "params_ema",
        "ema",
        "module",
        "net",
        "network",
        "generator",
        "netG",
        "weights",
        "my own",
    ];
    let prefixes = [
        "",
        "module.",
        "_orig_mod.",
        "model.",
        "net.",
        "module.model.",
        "_orig_mod.module.",
        "generator._orig_mod.",
        "model.net.module.",
        "anything.at.all.",
    ];
    for prefix in prefixes {
        check(&load(&pth(&state(prefix, 0), &storages())).unwrap(), 1.);
        for key in keys {
            let one = dict(&[("epoch", int(3)), (key, state(prefix, 0))]);
            let two = dict(&[("checkpoint", one.clone())]);
            let three = dict(&[("best", two.clone()), ("loss", b"N".to_vec())]);
            for object in [one, two, three] {
                check(&load(&pth(&object, &storages())).unwrap(), 1.);
            }
        }
        let tensors = network(prefix, 0).into_iter().map(|(name, _)| {
            let count = if name.ends_with("weight") { 6 } else { 2 };
            let values: Vec<f32> = (1..=count).map(|v| v as f32).collect();
            (name, Tensor::new(values, &Device::Cpu).unwrap())
        });
        let flat = safetensors::serialize(tensors.collect::<Vec<_>>(), None).unwrap();
        check(&load(&flat).unwrap(), 1.);
    }
    // In the middle, as compiling or wrapping a part of a network leaves them.
    for name in ["conv._orig_mod.weight", "net.conv.module.weight"] {
        let bytes = pth(&dict(&[(name, tensor("0", 6))]), &storages());
        assert_eq!(load(&bytes).unwrap().tensors.len(), 1, "{name}");
    }
}

/// Objects of any class lie beside the weights; none is made, none is in the way.
#[test]
fn a_trainers_checkpoint_is_read() {
    let scalar = call("numpy.core.multiarray", "scalar", &[global("numpy", "dtype"), text("x")]);
    let hyper = object("argparse", "Namespace", dict(&[("lr", scalar)]));
    let attributes = [
        call("pytorch_lightning.utilities.parsing", "AttributeDict", &[]),
        set(&[("when", call("datetime", "datetime", &[b"C\x02ab".to_vec()]))]),
    ];
    let moments = dict(&[("exp_avg", tensor("2", 6)), ("step", int(9))]);
    let by_number = [b"}(".to_vec(), int(0), moments, b"u".to_vec()].concat();
    let mut names = network("model.", 0);
    names.push(("loss.vgg.conv.weight".to_string(), tensor("2", 6)));
    let names: Vec<_> = names.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
    let object = dict(&[
        ("pytorch-lightning_version", text("2.1.0")),
        ("evil", call("os", "system", &[text("touch evil")])),
        ("hyper_parameters", hyper),
        ("attributes", attributes.concat()),
        ("state_dict", ordered(&names)),
        (
            "optimizer_states",
            [b"](".to_vec(), dict(&[("state", by_number)]), b"e".to_vec()].concat(),
        ),
    ]);
    let contents = load(&pth(&object, &storages())).unwrap();
    check(&contents, 1.);
    assert!(contents.others.is_empty(), "what has another prefix is not the network's");
    assert!(!Path::new("evil").exists());
}

#[test]
fn what_is_there_twice_is_chosen_by_a_rule_or_named() {
    let both =
        |a: &str, b: &str| load(&pth(&dict(&[(a, state("", 0)), (b, state("", 2))]), &storages()));
    for (weights, average) in
        [("params", "params_ema"), ("model", "model_ema"), ("state_dict", "averaged_model")]
    {
        check(&both(weights, average).unwrap(), 3.);
        check(&both(average, weights).unwrap(), 1.);
    }
    check(&both("model", "optimizer").unwrap(), 1.);
    refused(both("netG_A", "netG_B"), &["more than once", "`netG_A`", "`netG_B`"]);
    let mut flat = network("a.", 0);
    flat.extend(network("b.", 2));
    let flat: Vec<_> = flat.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
    refused(load(&pth(&dict(&flat), &storages())), &["more than once", "`a.`", "`b.`"]);
    // The same tensors under two names are one set, and more of them come before fewer.
    let same = dict(&[("model", state("", 0)), ("state_dict", state("module.", 0))]);
    check(&load(&pth(&same, &storages())).unwrap(), 1.);
    let part = dict(&[("part", dict(&[("conv.bias", tensor("3", 2))])), ("all", state("x.", 0))]);
    check(&load(&pth(&part, &storages())).unwrap(), 1.);
}

#[test]
fn modules_pickled_whole_are_read_as_their_state() {
    let parameter = |key, size| {
        let data = [tensor(key, size), b"\x88".to_vec(), ordered(&[])];
        call("torch._utils", "_rebuild_parameter", &data)
    };
    let conv = dict(&[
        ("_parameters", ordered(&[("weight", parameter("0", 6)), ("bias", parameter("1", 2))])),
        ("_buffers", ordered(&[])),
        ("_modules", ordered(&[])),
        ("cache", tensor("2", 6)),
    ]);
    let modules = ordered(&[("conv", object("torch.nn.modules.conv", "Conv1d", conv))]);
    let net = object("their.package", "Net", dict(&[("_modules", modules)]));
    let contents = load(&pth(&dict(&[("model", net)]), &storages())).unwrap();
    check(&contents, 1.);
    assert!(contents.others.is_empty());
}

#[test]
fn views_of_any_layout_become_contiguous() {
    let values: Vec<f32> = (1..=6).map(|v| v as f32).collect();
    for (offset, shape, strides, want) in [
        (0, &[2i64, 3][..], &[3i64, 1][..], &[1., 2., 3., 4., 5., 6.][..]),
        (0, &[3, 2], &[1, 3], &[1., 4., 2., 5., 3., 6.]),
        (2, &[2], &[3], &[3., 6.]),
        (1, &[2, 2], &[0, 1], &[2., 3., 2., 3.]),
        (5, &[3], &[0], &[6., 6., 6.]),
        (3, &[], &[], &[4.]),
        (0, &[1, 2, 1, 3], &[100, 3, 50, 1], &[1., 2., 3., 4., 5., 6.]),
        (0, &[1, 2, 1, 3], &[6, 1, 6, 2], &[1., 3., 5., 2., 4., 6.]),
        (9, &[0, 2], &[2, 1], &[]),
    ] {
        let object = dict(&[("conv.weight", view("FloatStorage", "0", offset, shape, strides))]);
        let bytes = pth(&object, &[("0", floats(6))]);
        let tensor = load(&bytes).unwrap().tensors["conv.weight"].clone();
        assert_eq!(tensor.dims(), shape.iter().map(|&s| s as usize).collect::<Vec<_>>());
        let got: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(got, want, "{shape:?} {strides:?} of {values:?}");
    }
    // Tied tensors, and both forms before and after PyTorch 1.6.
    let tied = dict(&[("conv.weight", tensor("0", 6)), ("conv.bias", tensor("0", 2))]);
    for bytes in [pth(&tied, &storages()[..1]), old_pth(&tied, &storages()[..1])] {
        check(&load(&bytes).unwrap(), 1.);
    }
}

#[test]
fn every_type_is_read_or_named() {
    let one = |class: &str, bytes: &[u8]| {
        let object = dict(&[("conv.bias", view(class, "0", 0, &[2], &[1]))]);
        load(&pth(&object, &[("0", bytes.to_vec())]))
    };
    let double = |v: f64| [1f64.to_le_bytes(), v.to_le_bytes()].concat();
    for (class, bytes) in [
        ("DoubleStorage", &double(-2.)[..]),
        ("HalfStorage", &[0, 0x3c, 0, 0xc0]),
        ("BFloat16Storage", &[0x80, 0x3f, 0, 0xc0]),
        ("IntStorage", &[1, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff]),
        ("CharStorage", &[1, 0xfe]),
    ] {
        let values = one(class, bytes).unwrap().tensors["conv.bias"].to_vec1::<f32>().unwrap();
        assert_eq!(values, [1., -2.], "{class}");
    }
    refused(one("DoubleStorage", &double(1e300)), &["conv.bias", "1e300", "beyond f32"]);
    refused(one("ComplexFloatStorage", &[0; 16]), &["conv.bias", "ComplexFloatStorage"]);
    let sparse = call("torch._utils", "_rebuild_sparse_tensor", &[]);
    let sparse = pth(&dict(&[("conv.bias", sparse), ("conv.weight", tensor("0", 6))]), &storages());
    refused(load(&sparse), &["conv.bias", "_rebuild_sparse_tensor"]);
}
