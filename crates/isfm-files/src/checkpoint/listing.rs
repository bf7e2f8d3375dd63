//! What every form of file is brought to: named places of tensors, and a way to their bytes.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};

use super::element::Element;

/// A file, or bytes in memory.
pub(super) trait Input: Read + Seek {}
impl<T: Read + Seek> Input for T {}

/// Where a tensor's numbers lie, and how.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Which of the file's blobs.
    pub(super) blob: usize,
    pub(super) element: Element,
    /// Elements before the first.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    /// Elements from one to the next along each axis.
    pub(super) strides: Vec<usize>,
}

impl Place {
    /// How many elements there are, unless that is no number, whatever axes are left out.
    pub(super) fn elements(&self) -> Option<u64> {
        let all = self.shape.iter().try_fold(1u64, |n, &size| n.checked_mul(size.max(1) as u64));
        if self.shape.contains(&0) { all.map(|_| 0) } else { all }
    }

    /// Bytes of the blob up to the end of the last element.
    pub(super) fn bytes(&self) -> Option<u64> {
        if self.elements()? == 0 {
            return Some(0);
        }
        let steps = self.shape.iter().zip(&self.strides);
        let mut last = steps.map(|(&size, &stride)| (size as u64 - 1).checked_mul(stride as u64));
        let last = last.try_fold(self.offset as u64, |last, step| last.checked_add(step?))?;
        last.checked_add(1)?.checked_mul(self.element.size() as u64)
    }

    /// The elements, row by row, out of a blob of at least [`Place::bytes`].
    pub(super) fn values(&self, blob: &[u8]) -> Result<Vec<f32>, String> {
        let mut values = Vec::new();
        let count = self.elements().unwrap_or(u64::MAX) as usize;
        if values.try_reserve_exact(count).is_err() {
            return Err(format!("no memory for {count} values"));
        }
        let size = self.element.size();
        // Axes along which the elements lie without gaps are one run.
        let mut axes = self.shape.len();
        let mut run = 1;
        while axes > 0 && (self.strides[axes - 1] == run || self.shape[axes - 1] == 1) {
            axes -= 1;
            run *= self.shape[axes];
        }
        let mut index = vec![0; axes];
        while values.len() < count {
            let steps = index.iter().zip(&self.strides);
            let start = self.offset + steps.map(|(at, stride)| at * stride).sum::<usize>();
            let run = blob.get(start * size..(start + run) * size).ok_or("beyond its storage")?;
            self.element
                .append(run, &mut values)
                .map_err(|value| format!("has the value {value:e}, which is beyond f32"))?;
            for axis in (0..axes).rev() {
                index[axis] += 1;
                if index[axis] < self.shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        Ok(values)
    }

    /// Row by row without gaps.
    pub(super) fn dense_strides(shape: &[usize]) -> Vec<usize> {
        let mut strides = vec![1usize; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis].saturating_mul(shape[axis].max(1));
        }
        strides
    }
}

/// Tensors that are together, by name; a text for one that cannot be read, saying why.
pub(super) struct Dictionary {
    /// Under which keys it lies, the outermost first.
    pub(super) path: Vec<String>,
    pub(super) tensors: BTreeMap<String, Result<Place, String>>,
}

/// What a file holds.
pub(super) struct Listing<'f> {
    pub(super) dictionaries: Vec<Dictionary>,
    /// The bytes of each blob.
    pub(super) blobs: Vec<u64>,
    /// Reads one.
    pub(super) read: Box<dyn FnMut(usize) -> Result<Vec<u8>, String> + 'f>,
    pub(super) metadata: BTreeMap<String, String>,
}

/// Reads `length` bytes from `start` on; memory is taken as they come.
pub(super) fn read_range(
    input: &mut dyn Input,
    start: u64,
    length: u64,
) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = input.seek(SeekFrom::Start(start));
    read.and_then(|_| input.take(length).read_to_end(&mut bytes)).map_err(|e| e.to_string())?;
    whole(bytes, length)
}

/// Unless there are fewer or more than `length`.
pub(super) fn whole(bytes: Vec<u8>, length: u64) -> Result<Vec<u8>, String> {
    if bytes.len() as u64 == length {
        return Ok(bytes);
    }
    Err(format!("damaged or truncated: {} bytes where {length} should be", bytes.len()))
}
