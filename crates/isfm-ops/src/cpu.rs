//! What a CPU kernel needs from Candle's storage; shared by the crates above this one.

use candle_core::{CpuStorage, DType, Layout, Tensor, WithDType};

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

/// Refuses element types that have no kernel where the tensor is.
///
/// # Errors
/// [`Error::DType`] for anything but `F32` and `F64`, on CUDA `F32`, `F16` and `BF16`.
pub fn require_float(op: &'static str, x: &Tensor) -> Result<()> {
    match (x.device().is_cuda(), x.dtype()) {
        (false, DType::F32 | DType::F64) => Ok(()),
        (true, DType::F32 | DType::F16 | DType::BF16) => Ok(()),
        (false, got) => Err(Error::DType { op, got, needed: "F32 or F64" }),
        (true, got) => Err(Error::DType { op, got, needed: "F32, F16 or BF16 on CUDA" }),
    }
}
