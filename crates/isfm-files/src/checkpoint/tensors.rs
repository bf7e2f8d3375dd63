//! Safetensors files.

use std::collections::BTreeMap;

use safetensors::tensor::Metadata;

use super::element::Element;
use super::listing::{Dictionary, Input, Listing, Place, read_range};

/// The most bytes of a header: names and shapes of some 100,000 tensors.
const MAX_HEADER: u64 = 16 << 20;

/// Lists a file of `length` bytes.
pub(super) fn list(input: &mut dyn Input, length: u64) -> Result<Listing<'_>, String> {
    let broken = |problem: String| format!("broken or truncated ({problem})");
    let size = read_range(input, 0, 8).map_err(broken)?;
    let size = size.iter().rev().fold(0u64, |size, &byte| size << 8 | u64::from(byte));
    if size > MAX_HEADER {
        return Err(format!("a header of {size} bytes, more than the {MAX_HEADER} that are read"));
    }
    let header = read_range(input, 8, size).map_err(|e| broken(format!("its header is {e}")))?;
    let header: Metadata =
        serde_json::from_slice(&header).map_err(|e| broken(format!("its header: {e}")))?;
    let (start, end) = (8 + size, (8 + size).saturating_add(header.data_len() as u64));
    if end != length {
        return Err(broken(format!("{length} bytes, its header speaks of {end}")));
    }
    let mut tensors = BTreeMap::new();
    let mut ranges = Vec::new();
    for (name, info) in header.tensors() {
        let place = Element::of_safetensors(info.dtype).map(|element| Place {
            blob: ranges.len(),
            element,
            offset: 0,
            shape: info.shape.clone(),
            strides: Place::dense_strides(&info.shape),
        });
        let place = place.ok_or_else(|| format!("its type {:?} is not read", info.dtype));
        let (from, to) = info.data_offsets;
        ranges.push((start + from as u64, (to - from) as u64));
        tensors.insert(name, place);
    }
    Ok(Listing {
        dictionaries: vec![Dictionary { path: Vec::new(), tensors }],
        blobs: ranges.iter().map(|&(_, size)| size).collect(),
        metadata: header.metadata().clone().unwrap_or_default().into_iter().collect(),
        read: Box::new(move |blob| read_range(input, ranges[blob].0, ranges[blob].1)),
    })
}
