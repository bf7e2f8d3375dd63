//! Weights out of the files that people have: safetensors and what `torch.save` writes.
//!
//! # What is read
//! Safetensors files; zip files of `torch.save`'s, their entries deflated or not; its format before
//! PyTorch 1.6. Pickled objects are data here: no class is looked up, no function is called.
//! Tensors may be views with any offset and strides and may share storages, and become contiguous
//! `F32`. Every type that PyTorch and safetensors have is read but for complex, quantised and sparse
//! ones and those of fewer than 8 bits.
//!
//! # Which tensors are meant
//! A caller says which names it wants, and gets them from the dictionary with the most of them,
//! under whatever keys it lies (`state_dict`, `model`, `params` …) and whatever prefix its names
//! have there (`model.`, `net.`, `generator.` …). A module that was pickled as a whole counts as
//! the dictionary that its `state_dict()` would be. If two are equal, a moving average comes first
//! (`ema`, `params_ema`, `average` …), which is what training programs test; after that, two with
//! different tensors are an error that names both.
//!
//! # What is refused before memory is taken for it
//! A file may be anybody's. Nothing in it is followed recursively, and it has at most 64 MiB of
//! pickled objects, 2²¹ of them, 2¹⁷ tensors of 64 axes, 16 MiB of safetensors header; a tensor
//! lies within its storage, and storages and tensors take at most 16 times the file, or 64 MiB.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Cursor, Read, Seek};
use std::path::Path;

use candle_core::{Device, Tensor};

use crate::{Error, Result};

mod choose;
mod difference;
mod element;
mod form;
mod listing;
mod pickle;
mod tensors;
mod torch;

pub use difference::{Difference, Misshapen};

use form::{Form, form};
use listing::{Input, Listing, Place};

/// Tensors by name, in a fixed order.
pub type Tensors = BTreeMap<String, Tensor>;

/// What a file of weights holds.
#[derive(Clone, Debug)]
pub struct Contents {
    /// The tensors that are wanted, by their bare names, contiguous and F32 whatever the file stores.
    pub tensors: Tensors,
    /// The bare names of the tensors beside them, which are not loaded. If no tensor is wanted, the
    /// names in the file's largest dictionary.
    pub others: Vec<String>,
    /// What a safetensors file says of itself.
    pub metadata: BTreeMap<String, String>,
}

/// What DataParallel, torch.compile and FSDP put into names, before them or into their middle.
const PREFIXES: [&str; 4] =
    ["module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."];

/// A tensor's name without what PyTorch's wrappers (`DataParallel`, `torch.compile`) put before it.
pub fn bare_name(mut name: &str) -> &str {
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)) {
        name = rest;
    }
    name
}

/// What tensors and storages may take in any case, and by how much they may exceed the file.
const LEAST_BUDGET: u64 = 64 << 20;
const BUDGET_FACTOR: u64 = 16;
/// As much is read of what is no file but a pipe.
const MAX_PIPE: u64 = 4 << 30;

/// Reads the tensors whose bare names are `wanted` from a safetensors file or one that `torch.save`
/// wrote; which of the two it is, the content says. A [bare name](bare_name) is one without the
/// prefix that all have; the [module](self) says which tensors are taken if there are several.
///
/// # Errors
/// [`Error::Read`] if the file cannot be read; [`Error::Weights`], saying what it is as far as that
/// can be told, if it is not one of the two, is truncated or damaged, would take more memory than
/// such a file can mean, or has two tensors of one bare name, or two sets of tensors of which
/// neither is to be preferred.
pub fn read(path: &Path, device: &Device, wanted: impl Fn(&str) -> bool) -> Result<Contents> {
    let failed = |source| Error::Read { path: path.to_path_buf(), source };
    let origin = path.display().to_string();
    let mut file = File::open(path).map_err(failed)?;
    let mut head = Vec::new();
    file.by_ref().take(form::HEAD as u64).read_to_end(&mut head).map_err(failed)?;
    let form = form(&head).map_err(|what| Error::weights(&origin, what.into()))?;
    let about = file.metadata().map_err(failed)?;
    if about.is_file() {
        return contents(&origin, form, &mut file, about.len(), device, &wanted);
    }
    file.take(MAX_PIPE).read_to_end(&mut head).map_err(failed)?;
    from_bytes(&origin, &head, device, wanted)
}

/// As [`read`], from a file's bytes; `origin` names them in errors.
///
/// # Errors
/// As [`read`].
pub fn from_bytes(
    origin: &str,
    bytes: &[u8],
    device: &Device,
    wanted: impl Fn(&str) -> bool,
) -> Result<Contents> {
    let form = form(&bytes[..bytes.len().min(form::HEAD)]);
    let form = form.map_err(|what| Error::weights(origin, what.into()))?;
    contents(origin, form, &mut Cursor::new(bytes), bytes.len() as u64, device, &wanted)
}

fn contents(
    origin: &str,
    form: Form,
    input: &mut (impl Read + Seek),
    length: u64,
    device: &Device,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<Contents> {
    let mut read = || {
        let input: &mut dyn Input = input;
        let mut listing = match form {
            Form::Safetensors => tensors::list(input, length),
            Form::Zip => torch::list_zip(input),
            Form::Pickles => torch::list_pickles(input, length),
        }?;
        let dictionaries = std::mem::take(&mut listing.dictionaries);
        let choice = choose::choose(&dictionaries, wanted)?;
        let metadata = std::mem::take(&mut listing.metadata);
        let tensors = load(&choice.tensors, listing, length, device)?;
        Ok(Contents { tensors, others: choice.others, metadata })
    };
    read().map_err(|message| Error::weights(origin, message))
}

/// Loads tensors of a file of `length` bytes, each storage once.
fn load(
    places: &BTreeMap<String, &Result<Place, String>>,
    mut listing: Listing<'_>,
    length: u64,
    device: &Device,
) -> Result<Tensors, String> {
    let budget = length.saturating_mul(BUDGET_FACTOR).max(LEAST_BUDGET);
    let mut left = budget;
    let mut blobs = BTreeSet::new();
    let mut order = Vec::with_capacity(places.len());
    for (name, place) in places {
        let wrong = |problem: String| format!("{name}: {problem}");
        let place = place.as_ref().map_err(|problem| wrong(problem.clone()))?;
        let stored = listing.blobs[place.blob];
        let needed = place.bytes().filter(|&bytes| bytes <= stored).ok_or_else(|| {
            let (shape, strides) = (&place.shape, &place.strides);
            wrong(format!(
                "a shape of {shape:?} with the strides {strides:?} does not lie within its \
                 storage of {stored} bytes"
            ))
        })?;
        let storage = if needed > 0 && blobs.insert(place.blob) { stored } else { 0 };
        let size = place.elements().and_then(|count| count.checked_mul(4)?.checked_add(storage));
        left = size.and_then(|size| left.checked_sub(size)).ok_or_else(|| {
            wrong(format!(
                "with it, tensors take more than {budget} bytes, {BUDGET_FACTOR} times the file"
            ))
        })?;
        order.push((place.blob, name, place, needed));
    }
    order.sort_by_key(|&(blob, ..)| blob);

    let mut all = Tensors::new();
    let mut last = (usize::MAX, Vec::new());
    for (blob, name, place, needed) in order {
        let wrong = |problem: String| format!("{name}: {problem}");
        if needed > 0 && last.0 != blob {
            last = (blob, (listing.read)(blob).map_err(wrong)?);
        }
        let values = place.values(if needed > 0 { &last.1 } else { &[] }).map_err(wrong)?;
        let tensor = Tensor::from_vec(values, place.shape.as_slice(), device);
        all.insert(name.clone(), tensor.map_err(|e| wrong(e.to_string()))?);
    }
    Ok(all)
}
