//! Files that were made or damaged to do harm, which must be errors: no panic, no abort, no memory
//! beyond what such a file can mean.

use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use isfm_files::checkpoint::{Contents, from_bytes, read};
use isfm_testing::{Numbers, refused};
use zip::CompressionMethod::{Deflated, Stored};

use crate::torch::*;

fn write(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("file.pth");
    std::fs::write(&path, bytes).unwrap();
    path
}

fn load(bytes: &[u8]) -> isfm_files::Result<Contents> {
    let folder = tempfile::tempdir().unwrap();
    read(&write(folder.path(), bytes), &Device::Cpu, |_| true)
}

/// One tensor `a` of a storage of 6 floats.
fn shaped(offset: i64, shape: &[i64], strides: &[i64]) -> Bytes {
    pth(&dict(&[("a", view("FloatStorage", "0", offset, shape, strides))]), &[("0", floats(6))])
}

#[test]
fn shapes_beyond_the_storage_take_no_memory() {
    const HUGE: i64 = i64::MAX;
    for (offset, shape, strides, said) in [
        (0, &[1_000_000, 1_000_000][..], &[1_000_000, 1][..], "storage of 24 bytes"),
        (0, &[7], &[1], "storage of 24 bytes"),
        (6, &[1], &[1], "storage of 24 bytes"),
        (HUGE, &[2], &[HUGE], "storage of 24 bytes"),
        (0, &[HUGE, HUGE], &[0, 0], "storage of 24 bytes"),
        (0, &[0, HUGE, HUGE], &[0, 0, 0], "storage of 24 bytes"),
        (0, &[1_000_000, 1_000_000], &[0, 0], "more than 67108864 bytes"),
        (0, &[0, 1_000_000_000], &[1, 1], ""),
        (-1, &[1], &[1], "not described"),
        (0, &[-1], &[1], "not described"),
        (0, &[1], &[-1], "not described"),
        (0, &[2], &[1, 1], "not described"),
        (0, &[1; 65], &[1; 65], "not described"),
    ] {
        match load(&shaped(offset, shape, strides)) {
            Ok(contents) => assert_eq!((said, contents.tensors["a"].elem_count()), ("", 0)),
            error => refused(error, &["a: ", said]),
        }
    }
}

#[test]
fn nesting_has_no_depth() {
    let deep = |open: &[u8], close: &[u8]| [open.repeat(300_000), close.repeat(300_000)].concat();
    for body in [
        [b"]".repeat(300_000), b"a".repeat(299_999)].concat(),
        [b"N".to_vec(), b"\x85".repeat(600_000)].concat(),
        [b"}".to_vec(), deep(b"X\x01\0\0\0a}", b"s")].concat(),
        [global("torch._utils", "_rebuild_parameter"), deep(b"h\0", b"")].concat(),
        // Each holds the one before; the first holds itself.
        [b"]q\0h\0a".to_vec(), b"\x85\x81".repeat(2)].concat(),
        [global("a", "b"), b"q\0)\x81".to_vec(), b"q\x01h\x01b".to_vec()].concat(),
        b"(".repeat(3_000_000),
        b"]2".iter().copied().chain(b"2".repeat(3_000_000)).collect(),
        b"]".repeat(3_000_000),
    ] {
        let error = load(&pth(&body, &[])).map(|contents| assert!(contents.tensors.is_empty()));
        if let Err(error) = error {
            assert!(error.to_string().contains("pickle"), "{error}");
        }
    }
    // Modules that each hold the next one twice: 2⁶⁰ ways to the last.
    let mut module = tensor("0", 6);
    for _ in 0..60 {
        let twice = [text("a"), module, b"q\x02".to_vec(), text("b"), b"h\x02".to_vec()].concat();
        module = object("m", "M", [b"}(".to_vec(), twice, b"u".to_vec()].concat());
    }
    refused(load(&pth(&module, &[("0", floats(6))])), &["more than 131072 tensors"]);
    let empty = object("m", "M", dict(&[]));
    let mut module = empty;
    for _ in 0..60 {
        let twice = [text("a"), module, b"q\x02".to_vec(), text("b"), b"h\x02".to_vec()].concat();
        module = object("m", "M", [b"}(".to_vec(), twice, b"u".to_vec()].concat());
    }
    refused(load(&pth(&module, &[])), &["without end"]);
}

#[test]
fn malformed_pickles_say_where() {
    for (body, said) in [
        (&b""[..], "ends too early"),
        (b"\x80", "ends too early"),
        (b".", "nothing on the stack"),
        (b"\xff.", "byte 3 of its pickle: no instruction"),
        (b"t.", "no mark"),
        (b"h\x07.", "not there"),
        (b"K\x01K\x02K\x03s.", "no dictionary"),
        (b"}(K\x01u.", "a key without a value"),
        (b"X\xff\xff\xff\xffa.", "ends too early"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffa.", "ends too early"),
        (b"\x95\0", "ends too early"),
        (b"cmodule", "ends too early"),
        (b"K\x01K\x02\x93.", "whose name is no text"),
        (b"(o.", "without a class"),
        (b"gx\n.", "no number"),
        (b"\x97.", "outside of it"),
    ] {
        let bytes = zip_of(&[("x/data.pkl", [b"\x80\x02", body].concat())], Stored);
        refused(load(&bytes), &["file.pth", said]);
    }
}

/// A pickle of another size than the entry's, and entries that grow.
#[test]
fn archives_hide_nothing() {
    let object = pickle(&dict(&[("a", tensor("0", 6))]));
    let entries = |data: Bytes| [("x/data.pkl", object.clone()), ("x/data/0", data)];
    assert_eq!(load(&zip_of(&entries(floats(6)), Deflated)).unwrap().tensors.len(), 1);
    // 100 MB of zeros in 100 kB, and a pickle of 65 MB.
    let bomb = zip_of(&entries(vec![0; 100 << 20]), Deflated);
    assert!(bomb.len() < 200_000);
    refused(load(&bomb), &["a: with it, tensors take more than 67108864 bytes"]);
    let padded = zip_of(&[("x/data.pkl", vec![b'N'; 65 << 20])], Deflated);
    refused(load(&padded), &["x/data.pkl has 68157440 bytes, more than the 67108864"]);
    // An entry that says it is larger, or smaller, than it is.
    let whole = zip_of(&entries(floats(6)), Deflated);
    let central = whole.windows(4).rposition(|w| w == b"PK\x01\x02").unwrap();
    for size in [12u32, 48] {
        let mut bytes = whole.clone();
        bytes[central + 24..central + 28].copy_from_slice(&size.to_le_bytes());
        assert!(load(&bytes).is_err(), "{size}");
    }
    let mut damaged = zip_of(&entries(floats(6)), Stored);
    let at = damaged.windows(24).position(|w| w == floats(6)).unwrap();
    damaged[at + 3] ^= 1;
    refused(load(&damaged), &["x/data/0", "checksum"]);

    let two = [("x/data.pkl", object.clone()), ("y/data.pkl", object.clone())];
    refused(load(&zip_of(&two, Stored)), &["several torch.save files"]);
    let twice = [("x/data.pkl", object.clone()), ("x\\data.pkl", object.clone())];
    refused(load(&zip_of(&twice, Stored)), &["two entries of one name"]);
    let big = [("data.pkl", object.clone()), ("byteorder", b"big".to_vec())];
    refused(load(&zip_of(&big, Stored)), &["big-endian"]);
    refused(load(&zip_of(&[("a.npy", vec![1])], Stored)), &["without a data.pkl", "a.npy"]);
    refused(load(&zip_of(&[("x/data.pkl", object)], Stored)), &["a: its storage \"0\" is not in"]);
}

fn safetensors(header: &str, data: usize) -> Bytes {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn safetensors_headers_are_held_against_the_file() {
    let one = |shape: &str, to: u64| {
        format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{to}]}}}}"#)
    };
    let nested = format!(r#"{{"a":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let overlap = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},
        "b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#;
    for (bytes, said) in [
        (safetensors(&one("[1000000000000]", 4_000_000_000_000), 8), "truncated"),
        (safetensors(&one("[4294967296,4294967296,4294967296]", 8), 8), "truncated"),
        (safetensors(&one("[2]", 8), 7), "truncated"),
        (safetensors(&one("[2]", 8), 9), "9 bytes"),
        (safetensors(&one("[-2]", 8), 8), "header"),
        (safetensors(&nested, 0), "recursion"),
        (safetensors(overlap, 6), "header"),
        (safetensors("{", 0), "header"),
        ([&[0, 0, 0, 2, 0, 0, 0, 0][..], b"{}"].concat(), "a header of 33554432 bytes"),
        (b"\xff\0\0\0\0\0\0\0{}".to_vec(), "truncated"),
    ] {
        let error = from_bytes("memory", &bytes, &Device::Cpu, |_| true);
        if let Err(error) = &error {
            assert!(error.to_string().len() < 400, "{error}");
        }
        let said = if said == "9 bytes" { "its header speaks of" } else { said };
        refused(error, &["memory", said]);
    }
    let other = r#"{"a":{"dtype":"C64","shape":[1],"data_offsets":[0,8]}}"#;
    let error = from_bytes("memory", &safetensors(other, 8), &Device::Cpu, |_| true);
    refused(error, &["a: its type C64 is not read"]);
}

/// A file of each form, small enough to try all that can be done to it.
fn samples() -> [Bytes; 4] {
    let pairs = [
        ("module.conv.weight", view("FloatStorage", "0", 1, &[2, 2], &[2, 1])),
        ("module.conv.bias", view("HalfStorage", "1", 0, &[3], &[2])),
    ];
    let lightning = dict(&[
        ("state_dict", ordered(&pairs)),
        ("epoch", int(3)),
        (
            "options",
            object("argparse", "Namespace", dict(&[("lr", b"G\0\0\0\0\0\0\0\0".to_vec())])),
        ),
    ]);
    let storages = [("0", floats(6)), ("1", vec![0x3c; 12])];
    let object = pickle(&lightning);
    let [(_, zero), (_, one)] = storages.clone();
    let entries = [("x/data.pkl", object), ("x/data/0", zero), ("x/data/1", one)];
    let tensors = [("a", Tensor::ones(3, DType::F16, &Device::Cpu).unwrap())];
    [
        pth(&lightning, &storages),
        zip_of(&entries, Deflated),
        old_pth(&dict(&pairs[..1]), &storages[..1]),
        safetensors::serialize(tensors.iter().map(|(n, t)| (n, t)), None).unwrap(),
    ]
}

#[test]
fn every_truncation_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    for bytes in samples() {
        assert!(!load(&bytes).unwrap().tensors.is_empty());
        for length in 0..bytes.len() {
            let path = write(folder.path(), &bytes[..length]);
            assert!(read(&path, &Device::Cpu, |_| true).is_err(), "{length} of {}", bytes.len());
        }
    }
}

#[test]
fn any_damage_is_an_error_or_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let mut numbers = Numbers(14);
    for bytes in samples() {
        let mut read_well = 0;
        for _ in 0..2000 {
            let mut damaged = bytes.clone();
            for _ in 0..1 + (3. * numbers.unit()) as usize {
                let at = (numbers.unit() * bytes.len() as f64) as usize;
                damaged[at] = (numbers.unit() * 256.) as u8;
            }
            let path = folder.path().join("damaged");
            std::fs::File::create(&path).unwrap().write_all(&damaged).unwrap();
            if let Ok(contents) = read(&path, &Device::Cpu, |_| true) {
                read_well += 1;
                assert!(contents.tensors.values().all(|t| t.elem_count() < 1 << 24));
            }
        }
        assert!(read_well < 2000);
    }
}
