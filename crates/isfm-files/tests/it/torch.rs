//! A small writer of what `torch.save` writes, for files that no PyTorch would write too. All
//! functions give a piece of a pickle, which leaves one object on the stack.

use std::io::{Cursor, Write};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

pub(crate) type Bytes = Vec<u8>;

pub(crate) fn text(text: &str) -> Bytes {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

pub(crate) fn int(value: i64) -> Bytes {
    [&[0x8a, 8], &value.to_le_bytes()[..]].concat()
}

pub(crate) fn global(module: &str, name: &str) -> Bytes {
    format!("c{module}\n{name}\n").into()
}

pub(crate) fn tuple(items: &[Bytes]) -> Bytes {
    [b"(", &items.concat()[..], b"t"].concat()
}

pub(crate) fn call(module: &str, name: &str, arguments: &[Bytes]) -> Bytes {
    [global(module, name), tuple(arguments), b"R".to_vec()].concat()
}

/// Puts pairs into the dictionary before.
pub(crate) fn set(pairs: &[(&str, Bytes)]) -> Bytes {
    let pairs = pairs.iter().map(|(key, value)| [text(key), value.clone()].concat());
    [b"(", &pairs.collect::<Vec<_>>().concat()[..], b"u"].concat()
}

pub(crate) fn dict(pairs: &[(&str, Bytes)]) -> Bytes {
    [b"}".to_vec(), set(pairs)].concat()
}

pub(crate) fn ordered(pairs: &[(&str, Bytes)]) -> Bytes {
    [call("collections", "OrderedDict", &[]), set(pairs)].concat()
}

/// An object of a class with a state.
pub(crate) fn object(module: &str, name: &str, state: Bytes) -> Bytes {
    [global(module, name), b")\x81".to_vec(), state, b"b".to_vec()].concat()
}

/// A view of a storage.
pub(crate) fn view(class: &str, key: &str, offset: i64, shape: &[i64], strides: &[i64]) -> Bytes {
    let sizes = |sizes: &[i64]| tuple(&sizes.iter().map(|&size| int(size)).collect::<Vec<_>>());
    let id = [text("storage"), global("torch", class), text(key), text("cpu"), int(6)];
    let storage = [tuple(&id), b"Q".to_vec()].concat();
    let (shape, strides) = (sizes(shape), sizes(strides));
    let arguments = [storage, int(offset), shape, strides, b"\x89".to_vec(), ordered(&[])];
    call("torch._utils", "_rebuild_tensor_v2", &arguments)
}

/// A whole storage of floats.
pub(crate) fn tensor(key: &str, size: i64) -> Bytes {
    view("FloatStorage", key, 0, &[size], &[1])
}

/// The numbers 1, 2, …
pub(crate) fn floats(count: usize) -> Bytes {
    (1..=count).flat_map(|value| (value as f32).to_le_bytes()).collect()
}

/// The pickle of an object.
pub(crate) fn pickle(object: &[u8]) -> Bytes {
    [b"\x80\x02", object, b"."].concat()
}

pub(crate) fn zip_of(entries: &[(&str, Bytes)], method: CompressionMethod) -> Bytes {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(method);
    for (name, bytes) in entries {
        zip.start_file(*name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A file with that object and these storages.
pub(crate) fn pth(object: &[u8], storages: &[(&str, Bytes)]) -> Bytes {
    let names: Vec<_> = storages.iter().map(|(key, _)| format!("x/data/{key}")).collect();
    let mut entries = vec![("x/data.pkl", pickle(object)), ("x/byteorder", b"little".to_vec())];
    entries.extend(names.iter().zip(storages).map(|(name, (_, bytes))| (&name[..], bytes.clone())));
    zip_of(&entries, CompressionMethod::Stored)
}

/// The same in the form before PyTorch 1.6, of storages of floats.
pub(crate) fn old_pth(object: &[u8], storages: &[(&str, Bytes)]) -> Bytes {
    let magic = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
    let system = dict(&[("protocol_version", int(1001)), ("little_endian", b"\x88".to_vec())]);
    let keys: Vec<_> = storages.iter().map(|(key, _)| text(key)).collect();
    let keys = [b"]".to_vec(), b"(".to_vec(), keys.concat(), b"e".to_vec()].concat();
    let heads = [&magic[..], &int(1001), &system, object, &keys].map(pickle).concat();
    let behind = storages.iter().map(|(_, bytes)| {
        let count = bytes.len() as u64 / 4;
        [&count.to_le_bytes()[..], bytes].concat()
    });
    [heads, behind.collect::<Vec<_>>().concat()].concat()
}
