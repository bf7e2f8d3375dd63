//! Weights out of the files that people have: safetensors and what `torch.save` writes.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use candle_core::pickle::PthTensors;
use candle_core::safetensors::Load;
use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;

use crate::{Error, Result};

/// Tensors by name, in a fixed order.
pub type Tensors = BTreeMap<String, Tensor>;

/// What a file of weights holds.
#[derive(Clone, Debug)]
pub struct Contents {
    /// Its tensors by their [bare names](bare_name), contiguous and F32 whatever the file stores.
    pub tensors: Tensors,
    /// What a safetensors file says of itself.
    pub metadata: BTreeMap<String, String>,
}

/// Under which keys programs put the weights into what they give to `torch.save`.
const WRAPPERS: [&str; 7] =
    ["state_dict", "model_state_dict", "model", "params", "params_ema", "module", "net"];

/// What DataParallel and torch.compile put before every name.
const PREFIXES: [&str; 2] = ["module.", "_orig_mod."];

/// A tensor's name without what PyTorch's wrappers (`DataParallel`, `torch.compile`) put before it.
pub fn bare_name(mut name: &str) -> &str {
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)) {
        name = rest;
    }
    name
}

/// Reads the tensors whose bare names are `wanted` from a safetensors file or one that `torch.save`
/// wrote in its zip form; which of the two it is, the content says.
///
/// In the zip form the weights may lie under one of the usual keys (`state_dict`,
/// `model_state_dict`, `model`, `params`, `params_ema`, `module`, `net`): of those and the bare
/// dictionary the one that holds the most tensors is taken, of equal ones the first named here.
///
/// # Errors
/// [`Error::Read`] if the file cannot be read; [`Error::Weights`], saying what it is as far as that
/// can be told, if it is not one of the two, is truncated, or two of its tensors have one bare name.
pub fn read(path: &Path, device: &Device, wanted: impl Fn(&str) -> bool) -> Result<Contents> {
    let failed = |source| Error::Read { path: path.to_path_buf(), source };
    let origin = path.display().to_string();
    let mut file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.by_ref().take(16).read_to_end(&mut bytes).map_err(failed)?;
    match form(&bytes) {
        Ok(Form::Torch) => return read_torch(path, &origin, device, wanted),
        Ok(Form::Safetensors) => _ = file.read_to_end(&mut bytes).map_err(failed)?,
        Err(_) => {}
    }
    from_safetensors(&origin, &bytes, device, wanted)
}

/// As [`read`], from the bytes of a safetensors file; `origin` names them in errors.
///
/// # Errors
/// As [`read`].
pub fn from_safetensors(
    origin: &str,
    bytes: &[u8],
    device: &Device,
    wanted: impl Fn(&str) -> bool,
) -> Result<Contents> {
    match form(bytes) {
        Ok(Form::Safetensors) => {}
        Ok(Form::Torch) => return Err(Error::weights(origin, "a zip file, no safetensors".into())),
        Err(what) => return Err(Error::weights(origin, what.into())),
    }
    let broken = |e| Error::weights(origin, format!("broken or truncated ({e})"));
    let file = SafeTensors::deserialize(bytes).map_err(broken)?;
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(broken)?;
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    let views = file.iter().map(|(name, view)| (name, move || view.load(device)));
    Ok(Contents { tensors: collect(origin, views, wanted)?, metadata })
}

fn read_torch(
    path: &Path,
    origin: &str,
    device: &Device,
    wanted: impl Fn(&str) -> bool,
) -> Result<Contents> {
    let mut found = None;
    for key in std::iter::once(None).chain(WRAPPERS.map(Some)) {
        let file = match PthTensors::new(path, key) {
            Ok(file) => file,
            // Without a key the file itself is at fault; with one, the key may just not be there.
            Err(e) if key.is_none() => {
                let message = format!("not a torch.save file, or truncated ({e})");
                return Err(Error::weights(origin, message));
            }
            Err(_) => continue,
        };
        let count = |file: &PthTensors| file.tensor_infos().len();
        if count(&file) > found.as_ref().map_or(0, count) {
            found = Some(file);
        }
    }
    let file =
        found.ok_or_else(|| Error::weights(origin, "a zip file without a state_dict".into()))?;
    let tensor = |name: &str| {
        let missing = || candle_core::Error::msg("not in the file");
        file.get(name)?.ok_or_else(missing)?.to_device(device)
    };
    let tensors = file.tensor_infos().keys().map(|name| (name.as_str(), move || tensor(name)));
    Ok(Contents { tensors: collect(origin, tensors, wanted)?, metadata: BTreeMap::new() })
}

/// Loads what is wanted.
fn collect<'a, L: FnOnce() -> candle_core::Result<Tensor>>(
    origin: &str,
    tensors: impl Iterator<Item = (&'a str, L)>,
    wanted: impl Fn(&str) -> bool,
) -> Result<Tensors> {
    let mut all = Tensors::new();
    for (name, load) in tensors {
        let bare = bare_name(name);
        if !wanted(bare) {
            continue;
        }
        let tensor = load().and_then(|t| t.to_dtype(DType::F32)?.contiguous());
        let tensor = tensor.map_err(|e| Error::weights(origin, format!("{name}: {e}")))?;
        if all.insert(bare.to_string(), tensor).is_some() {
            return Err(Error::weights(origin, format!("two tensors are {bare}")));
        }
    }
    Ok(all)
}

/// The two forms that are read.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Safetensors,
    Torch,
}

/// What a file's first bytes say it is, or what is wrong with it.
fn form(head: &[u8]) -> Result<Form, &'static str> {
    let starts = |with: &[&[u8]]| with.iter().any(|start| head.starts_with(start));
    let pictures: &[&[u8]] =
        &[b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"P5", b"P6"];
    // First, because a file begins with the length of its header, which can look like the others.
    if head.get(8) == Some(&b'{') && head[4..8] == [0; 4] {
        Ok(Form::Safetensors)
    } else if starts(&[b"PK\x03\x04", b"PK\x05\x06"]) {
        Ok(Form::Torch)
    } else if starts(&[b"\x80"]) {
        Err("PyTorch's old format; save it again with a PyTorch of 1.6 or later")
    } else if starts(&[b"version https://"]) {
        Err("a Git LFS pointer, not the file it stands for; run `git lfs pull`")
    } else if starts(pictures) {
        Err("a picture, not a safetensors file nor one of torch.save's")
    } else if starts(&[b"<"]) {
        Err("a web page or XML, not a safetensors file nor one of torch.save's")
    } else {
        Err("not a safetensors file, nor one of torch.save's, or truncated")
    }
}

/// How a set of tensors differs from the one that is needed. Its text names at most 12 tensors of
/// each kind, one kind a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Names that are needed and not there.
    pub missing: Vec<String>,
    /// Names that are there and not needed.
    pub unexpected: Vec<String>,
    /// Tensors of another shape than needed.
    pub misshapen: Vec<Misshapen>,
}

/// A tensor of another shape than needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misshapen {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub got: Vec<usize>,
    /// The shape that would be right.
    pub needed: Vec<usize>,
}

impl Difference {
    /// Holds `tensors` against the names and shapes that are needed.
    pub fn between(tensors: &Tensors, needed: &BTreeMap<String, Vec<usize>>) -> Self {
        let misshapen = tensors.iter().filter_map(|(name, tensor)| {
            let (got, needed) = (tensor.dims().to_vec(), needed.get(name)?.clone());
            (got != needed).then(|| Misshapen { name: name.clone(), got, needed })
        });
        Self {
            missing: needed.keys().filter(|n| !tensors.contains_key(*n)).cloned().collect(),
            unexpected: tensors.keys().filter(|n| !needed.contains_key(*n)).cloned().collect(),
            misshapen: misshapen.collect(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 12;
        let misshapen = |m: &Misshapen| format!("{} is {:?}, needs {:?}", m.name, m.got, m.needed);
        let mut separator = "";
        for (what, names) in [
            ("missing", &self.missing),
            ("unexpected", &self.unexpected),
            ("mis-shaped", &self.misshapen.iter().map(misshapen).collect()),
        ] {
            if names.is_empty() {
                continue;
            }
            let shown = names[..names.len().min(SHOWN)].join(", ");
            write!(f, "{separator}{} {what}: {shown}", names.len())?;
            if names.len() > SHOWN {
                write!(f, " and {} more", names.len() - SHOWN)?;
            }
            separator = "\n  ";
        }
        Ok(())
    }
}
