use candle_core::Tensor;
use candle_core::shape::Dim;

use crate::axis::{Border, Sampling};
use crate::levels::{check_levels, check_stationary, decompose, first_of, fit, mismatch};
use crate::op::{analysis, require_float, synthesis};
use crate::strip::StripTransform;
use crate::wavelet::Wavelet;
use crate::{Error, Result};

/// One level of the 1-D discrete wavelet transform along the dimension `dim`: approximation and
/// detail, PyWavelets' cA and cD.
///
/// The gradient is the exact adjoint, borders included.
///
/// # Shapes
/// `x` is of any shape; both results have it too, but for [`Border::outputs`] along `dim`.
///
/// # Errors
/// [`Error::Shape`] if `x` is empty along `dim` (with [`Border::Drop`]: has fewer than two
/// samples); [`Error::DType`] for element types other than `F16`, `F32` and `F64`.
pub fn dwt(
    x: &Tensor,
    wavelet: &Wavelet,
    border: Border,
    dim: impl Dim,
) -> Result<(Tensor, Tensor)> {
    const OP: &str = "dwt";
    let (dim, n) = along(OP, x, dim)?;
    if n < border.fewest() {
        let needed = format!("at least {} along dimension {dim}", border.fewest());
        return Err(Error::shape(OP, "x", x, needed));
    }
    let transform = StripTransform {
        bank: wavelet.decomposition(),
        sampling: Sampling::Decimated(border),
        dims: x.dims().to_vec(),
        dim,
        outputs: border.outputs(n, wavelet.taps()),
    };
    Ok(analysis(transform, x)?)
}

/// The inverse of [`dwt`].
///
/// # Shapes
/// Both bands have one shape. Of m samples along `dim` the result has 2m with
/// [`Border::Periodization`] and [`Border::Drop`], else 2m + 2 − taps: after a signal of odd
/// length one more than that had, which [`waverec`] cuts off.
///
/// # Errors
/// [`Error::Shape`] if the bands have different shapes or are too short for the filters;
/// an error for element types that differ, or are not `F16`, `F32` or `F64`.
pub fn idwt(
    approx: &Tensor,
    detail: &Tensor,
    wavelet: &Wavelet,
    border: Border,
    dim: impl Dim,
) -> Result<Tensor> {
    const OP: &str = "idwt";
    let (dim, outputs) = along(OP, approx, dim)?;
    same(OP, approx, detail)?;
    let Some(n) = border.inputs(outputs, wavelet.taps()) else {
        let needed = format!("more samples along dimension {dim} for {} taps", wavelet.taps());
        return Err(Error::shape(OP, "approx", approx, needed));
    };
    let mut dims = approx.dims().to_vec();
    dims[dim] = n;
    let transform = StripTransform {
        bank: wavelet.reconstruction(),
        sampling: Sampling::Decimated(border.of_inverse()),
        dims,
        dim,
        outputs,
    };
    Ok(synthesis(transform, approx, detail)?)
}

/// Several levels of [`dwt`], each on the approximation of the one before.
///
/// The result is in PyWavelets' `wavedec` order: the coarsest approximation, then the details from
/// the coarsest level to the finest. No levels give `[x]`. [`Wavelet::max_level`] says how many
/// make sense.
///
/// # Errors
/// [`Error::Levels`] for more than 64 levels, or where [`Border::Drop`] would leave nothing;
/// otherwise as [`dwt`].
pub fn wavedec(
    x: &Tensor,
    wavelet: &Wavelet,
    border: Border,
    dim: impl Dim,
    levels: usize,
) -> Result<Vec<Tensor>> {
    const OP: &str = "wavedec";
    let (dim, n) = along(OP, x, dim)?;
    check_levels(OP, border, &[n], levels)?;
    decompose(x, levels, |approx, _| dwt(approx, wavelet, border, dim))
}

/// The inverse of [`wavedec`], from coefficients in its order.
///
/// Where the reconstruction of a level is one sample longer than the detail of the next (odd
/// lengths), the last one is cut off, as PyWavelets does. Where it is one shorter (that sample was
/// dropped by [`Border::Drop`]), the last one is repeated in its place. The result of an odd length
/// has one sample more than it; `narrow` cuts that off.
///
/// # Errors
/// [`Error::Shape`] without coefficients, or if a level's lengths are further apart than that;
/// otherwise as [`idwt`].
pub fn waverec(
    coefficients: &[Tensor],
    wavelet: &Wavelet,
    border: Border,
    dim: impl Dim,
) -> Result<Tensor> {
    const OP: &str = "waverec";
    let (approx, details) = first_of(OP, coefficients)?;
    let (dim, _) = along(OP, approx, dim)?;
    let mut approx = approx.clone();
    for detail in details {
        let (_, n) = along(OP, detail, dim)?;
        approx = fit(OP, &approx, dim, n)?;
        approx = idwt(&approx, detail, wavelet, border, dim)?;
    }
    Ok(approx)
}

/// The stationary (undecimated) wavelet transform along `dim`: every level keeps all samples, and
/// shifting the signal shifts the coefficients.
///
/// The signal is taken as periodic. Coefficients are PyWavelets' `swt(…, trim_approx=True)`: the
/// coarsest approximation, then the details from the coarsest level to the finest.
/// [`Wavelet::rescaled`] by 1/√2 gives its `norm=True`. The gradient is the exact adjoint.
///
/// # Errors
/// [`Error::Levels`] unless the length is a multiple of 2^`levels`; otherwise as [`dwt`].
pub fn swt(x: &Tensor, wavelet: &Wavelet, dim: impl Dim, levels: usize) -> Result<Vec<Tensor>> {
    const OP: &str = "swt";
    let (dim, n) = along(OP, x, dim)?;
    check_stationary(OP, &[n], levels)?;
    decompose(x, levels, |approx, level| {
        let transform = StripTransform {
            bank: wavelet.decomposition(),
            sampling: Sampling::Undecimated { dilation: 1 << level },
            dims: x.dims().to_vec(),
            dim,
            outputs: n,
        };
        Ok(analysis(transform, approx)?)
    })
}

/// The inverse of [`swt`]: the mean of what every shift's decimated coefficients reconstruct, which
/// for coefficients that were changed is cycle spinning.
///
/// # Errors
/// [`Error::Shape`] without coefficients or for different shapes; [`Error::Levels`] as [`swt`].
pub fn iswt(coefficients: &[Tensor], wavelet: &Wavelet, dim: impl Dim) -> Result<Tensor> {
    const OP: &str = "iswt";
    let (approx, details) = first_of(OP, coefficients)?;
    let (dim, n) = along(OP, approx, dim)?;
    check_stationary(OP, &[n], details.len())?;
    // Even and odd shifts each reconstruct all.
    let bank = std::sync::Arc::new(wavelet.reconstruction().scaled(0.5));
    let mut approx = approx.clone();
    for (k, detail) in details.iter().enumerate() {
        same(OP, &approx, detail)?;
        let transform = StripTransform {
            bank: bank.clone(),
            sampling: Sampling::Undecimated { dilation: 1 << (details.len() - 1 - k) },
            dims: approx.dims().to_vec(),
            dim,
            outputs: n,
        };
        approx = synthesis(transform, &approx, detail)?;
    }
    Ok(approx)
}

/// Where the dimension is and how long.
fn along(op: &'static str, x: &Tensor, dim: impl Dim) -> Result<(usize, usize)> {
    require_float(op, x)?;
    let dim = dim.to_index(x.shape(), op)?;
    Ok((dim, x.dims()[dim]))
}

/// Refuses bands that do not belong together.
fn same(op: &'static str, approx: &Tensor, detail: &Tensor) -> Result<()> {
    if (detail.dims(), detail.dtype()) == (approx.dims(), approx.dtype()) {
        return Ok(());
    }
    Err(mismatch(op, detail, approx, approx.shape()))
}
