//! Checks of arguments. Their errors name the operation, the argument, what it is and what it
//! should be.

use std::fmt::{Debug, Display};

use candle_core::{DType, Error, Result, Tensor};

/// The error for an argument whose shape or size an operation does not take.
pub fn shape_error(op: &str, what: &str, got: impl Debug, needed: impl Display) -> Error {
    Error::msg(format!("{op}: {what} is {got:?}, needs {needed}"))
}

/// Refuses a tensor whose shape is not `dims`.
///
/// # Errors
/// [`shape_error`].
pub fn dims(op: &str, what: &str, t: &Tensor, dims: &[usize]) -> Result<()> {
    if t.dims() == dims {
        Ok(())
    } else {
        Err(shape_error(op, what, t.dims(), format!("{dims:?}")))
    }
}

/// Refuses a tensor of another shape or element type than needed.
///
/// # Errors
/// [`shape_error`], or one that names both types.
pub fn like(op: &str, what: &str, t: &Tensor, shape: &[usize], dtype: DType) -> Result<()> {
    dims(op, what, t, shape)?;
    if t.dtype() == dtype {
        return Ok(());
    }
    let got = t.dtype();
    Err(Error::msg(format!("{op}: {what} has elements {got:?}, needs {dtype:?} as the input has")))
}

/// Refuses element types that have no kernel where the tensor is: anything but `F32` and `F64`, on
/// CUDA `F32`, `F16` and `BF16`.
///
/// # Errors
/// [`dtype_error`].
pub fn float(op: &str, x: &Tensor) -> Result<()> {
    let (cuda, got) = (x.device().is_cuda(), x.dtype());
    match (cuda, got) {
        (false, DType::F32 | DType::F64) | (true, DType::F32 | DType::F16 | DType::BF16) => Ok(()),
        _ => {
            Err(dtype_error(op, got, if cuda { "F32, F16 or BF16 on CUDA" } else { "F32 or F64" }))
        }
    }
}

/// The error for an element type without a kernel.
pub fn dtype_error(op: &str, got: DType, needed: &str) -> Error {
    Error::msg(format!("{op}: elements are {got:?}, needs {needed}"))
}

/// The error for an operation that has no kernel on a GPU; `instead` says what runs there.
pub fn no_cuda_kernel(op: &str, instead: &str) -> Error {
    Error::msg(format!("{op} has no CUDA kernel: {instead}"))
}

/// Refuses element types without a kernel, and arguments whose type is not the input's.
pub(crate) fn types(op: &str, x: &Tensor, others: &[(&str, &Tensor)]) -> Result<()> {
    float(op, x)?;
    others.iter().try_for_each(|(what, t)| like(op, what, t, t.dims(), x.dtype()))
}

/// The four sizes of a feature map.
pub(crate) fn map(op: &str, x: &Tensor) -> Result<(usize, usize, usize, usize)> {
    x.dims4().map_err(|_| shape_error(op, "x", x.dims(), "[batch, height, width, channels]"))
}

/// How many rows there are along the last axis, and its size.
pub(crate) fn rows(op: &str, x: &Tensor) -> Result<(usize, usize)> {
    match x.dims() {
        [] => Err(shape_error(op, "x", x.dims(), "at least one axis")),
        [rows @ .., columns] => Ok((rows.iter().product(), *columns)),
    }
}

/// Refuses a window of even size: it has no middle pixel.
pub(crate) fn odd(op: &str, k: usize) -> Result<()> {
    if k % 2 == 1 { Ok(()) } else { Err(shape_error(op, "window", k, "an odd size")) }
}
