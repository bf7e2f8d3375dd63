//! Tensors as luma planes, for [`Isfm::fuse_luma`](crate::Isfm::fuse_luma).

use candle_core::{DType, Layout, Storage, Tensor};

use crate::{Error, Result, Side};

/// Height and width of a tensor's planes.
///
/// # Errors
/// For another shape, element type or device than `fuse_luma` takes, and for planes without pixels.
pub(crate) fn plane_size(tensor: &Tensor, side: Side) -> Result<[usize; 2]> {
    let (height, width) = match *tensor.dims() {
        [h, w] | [1, h, w] | [_, 1, h, w] => (h, w),
        _ => return Err(Error::TensorShape { side, got: tensor.dims().to_vec() }),
    };
    if width == 0 || height == 0 {
        return Err(Error::Empty { side, width, height });
    }
    let what = match side {
        Side::Visible => "the visible tensor",
        Side::Infrared => "the infrared tensor",
    };
    if tensor.dtype() != DType::F32 {
        return Err(Error::DType { what, got: tensor.dtype(), needed: "F32" });
    }
    if !tensor.device().is_cpu() {
        return Err(Error::Device { what, got: tensor.device().location(), needed: "the CPU" });
    }
    Ok([height, width])
}

/// The values of a contiguous tensor that [`plane_size`] has accepted.
///
/// # Errors
/// For values that are not finite or lie outside [0, 1].
pub(crate) fn values<'a>(storage: &'a Storage, layout: &Layout, side: Side) -> Result<&'a [f32]> {
    let data = match (storage, layout.contiguous_offsets()) {
        (Storage::Cpu(storage), Some((start, end))) => &storage.as_slice::<f32>()?[start..end],
        _ => return Err(candle_core::Error::msg("not contiguous on the CPU").into()),
    };
    if let Some(index) = data.iter().position(|v| !v.is_finite()) {
        return Err(Error::NotFinite { side, value: data[index], index });
    }
    match data.iter().find(|v| !(-1e-3..=1.001).contains(*v)) {
        Some(&value) => Err(Error::OutOfRange { side, value }),
        None => Ok(data),
    }
}
