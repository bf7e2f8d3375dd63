//! What a CPU kernel needs from Candle's storage and from memory; shared by the crates above this
//! one.

use candle_core::{CpuStorage, DType, Layout, WithDType};

use crate::{Error, Result};

/// The elements of a contiguous tensor.
///
/// # Errors
/// If the tensor is not contiguous or not of type `E`.
pub fn slice<'a, E: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [E]> {
    let data = storage.as_slice::<E>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&data[start..end]),
        None => Err(Error::Candle(candle_core::Error::RequiresContiguous { op: "cpu kernel" })),
    }
}

/// Refuses element types that have no CPU kernel.
///
/// # Errors
/// [`Error::DType`] for anything but `F32` and `F64`.
pub fn require_float(op: &'static str, dtype: DType) -> Result<()> {
    match dtype {
        DType::F32 | DType::F64 => Ok(()),
        got => Err(Error::DType { op, got }),
    }
}

/// `n` zeros, for a result that a kernel is about to fill; see [`with_capacity`].
pub fn zeros<E: WithDType>(n: usize) -> Vec<E> {
    // Large zeroed memory comes untouched from the system: asking for large pages is not too late.
    let zeros = vec![E::zero(); n];
    ask_for_large_pages(zeros.as_ptr(), n);
    zeros
}

/// An empty vector with room for `n` elements.
///
/// A feature map of a megapixel is some tens of megabytes, and the allocator gives memory of that
/// size back to the system as soon as it is dropped. On Linux the next map's first touch of every
/// 4 KiB page is then a fault; with pages of 2 MiB, which this function asks for, there are 512
/// times fewer.
pub fn with_capacity<E>(n: usize) -> Vec<E> {
    let empty = Vec::with_capacity(n);
    ask_for_large_pages(empty.as_ptr(), n);
    empty
}

/// Memory smaller than this is not worth a system call.
#[cfg(target_os = "linux")]
const LARGE: usize = 4 << 20;

#[cfg(target_os = "linux")]
fn ask_for_large_pages<E>(start: *const E, n: usize) {
    let bytes = n * size_of::<E>();
    if bytes < LARGE {
        return;
    }
    const PAGE: usize = 4096;
    let (first, end) = (start.addr().next_multiple_of(PAGE), (start.addr() + bytes) / PAGE * PAGE);
    // SAFETY: the pages lie within one allocation, and the advice changes nothing in them. That it
    // may be refused (an old kernel, large pages switched off) only costs time.
    unsafe { libc::madvise(first as *mut _, end - first, libc::MADV_HUGEPAGE) };
}

#[cfg(not(target_os = "linux"))]
fn ask_for_large_pages<E>(_: *const E, _: usize) {}
