use std::sync::Arc;

use candle_core::Tensor;

use crate::axis::{Border, Sampling};
use crate::data_format::{DataFormat, Maps};
use crate::levels::{check_levels, check_stationary, decompose, first_of, fit, mismatch};
use crate::op::{analysis, require_float, synthesis};
use crate::plane::PlaneTransform;
use crate::wavelet::Wavelet;
use crate::{Error, Result};

/// One level of a 2-D transform: C channels of approximation and 3C of details.
#[derive(Clone, Debug)]
pub struct Subbands {
    /// LL, the approximation (PyWavelets' cA): C channels.
    pub approx: Tensor,
    /// LH, HL, HH, in this order (PyWavelets' cH, cV, cD): 3C channels.
    pub details: Tensor,
    /// The format of both.
    pub format: DataFormat,
}

impl Subbands {
    /// Vertical changes, horizontal edges (PyWavelets' cH): C channels, a view.
    ///
    /// # Errors
    /// If `details` does not have 3C channels.
    pub fn lh(&self) -> Result<Tensor> {
        self.detail(0)
    }

    /// Horizontal changes, vertical edges (PyWavelets' cV): C channels, a view.
    ///
    /// # Errors
    /// If `details` does not have 3C channels.
    pub fn hl(&self) -> Result<Tensor> {
        self.detail(1)
    }

    /// Diagonal changes (PyWavelets' cD): C channels, a view.
    ///
    /// # Errors
    /// If `details` does not have 3C channels.
    pub fn hh(&self) -> Result<Tensor> {
        self.detail(2)
    }

    /// All four bands, \[LL | LH | HL | HH\] along the channels: 4C channels.
    ///
    /// # Errors
    /// If the two tensors do not fit together.
    pub fn packed(&self) -> Result<Tensor> {
        let bands = [&self.approx, &self.details];
        Ok(Tensor::cat(&bands, self.format.channel_dim())?)
    }

    fn detail(&self, k: usize) -> Result<Tensor> {
        let dim = self.format.channel_dim();
        let channels = self.approx.dim(dim)?;
        Ok(self.details.narrow(dim, k * channels, channels)?)
    }
}

/// One level of the 2-D discrete wavelet transform (the paper's DWT, eq. 3).
///
/// For Haar and a 2×2 block a, b over c, d: LL = (a+b+c+d)/2, LH = (a+b−c−d)/2,
/// HL = (a−b+c−d)/2, HH = (a−b−c+d)/2. Values are those of PyWavelets' `dwt2`; only
/// [`Border::Drop`] on odd sizes is not one of its modes. The gradient is the exact adjoint,
/// borders included.
///
/// # Shapes
/// `x` is B×H×W×C or B×C×H×W by `format`; each band has [`Border::outputs`] of H and W:
/// ⌊H/2⌋×⌊W/2⌋ with [`Border::Drop`].
///
/// # Errors
/// [`Error::Shape`] unless `x` has four dimensions and at least one position (2×2 with
/// [`Border::Drop`]); [`Error::DType`] for element types other than `F16`, `F32` and `F64`.
pub fn dwt2(x: &Tensor, wavelet: &Wavelet, border: Border, format: DataFormat) -> Result<Subbands> {
    const OP: &str = "dwt2";
    let maps = maps(OP, "x", x, format)?;
    let least = border.fewest();
    if maps.height < least || maps.width < least {
        let needed = format!("{} with H and W at least {least}", format.name());
        return Err(Error::shape(OP, "x", x, needed));
    }
    let outputs = |n| border.outputs(n, wavelet.taps());
    let transform = PlaneTransform {
        bank: wavelet.decomposition(),
        sampling: Sampling::Decimated(border),
        maps,
        bands: maps.resized(outputs(maps.height), outputs(maps.width)),
    };
    let (approx, details) = analysis(transform, x)?;
    Ok(Subbands { approx, details, format })
}

/// The inverse of [`dwt2`], and for an orthogonal wavelet such as Haar with [`Border::Drop`] or
/// [`Border::Periodization`] also its adjoint.
///
/// A row or column that [`Border::Drop`] dropped does not come back: the result has even sizes.
///
/// # Shapes
/// `approx` B×h×w×C, `details` B×h×w×3C (LH | HL | HH), or B×C×h×w and B×3C×h×w. The result has
/// 2h×2w positions with [`Border::Drop`] and [`Border::Periodization`], else 2h+2−taps by
/// 2w+2−taps: after a map of odd sizes one more than that had, which [`waverec2`] cuts off.
///
/// # Errors
/// [`Error::Shape`] unless the two fit together and are large enough for the filters; an error
/// unless both have the same element type, `F16`, `F32` or `F64`.
pub fn idwt2(
    approx: &Tensor,
    details: &Tensor,
    wavelet: &Wavelet,
    border: Border,
    format: DataFormat,
) -> Result<Tensor> {
    const OP: &str = "idwt2";
    let bands = maps(OP, "approx", approx, format)?;
    let inputs = |m| border.inputs(m, wavelet.taps());
    let (Some(height), Some(width)) = (inputs(bands.height), inputs(bands.width)) else {
        let needed = format!("{} with H and W large enough for the filters", format.name());
        return Err(Error::shape(OP, "approx", approx, needed));
    };
    same(OP, &bands, approx, details)?;
    let transform = PlaneTransform {
        bank: wavelet.reconstruction(),
        sampling: Sampling::Decimated(border.of_inverse()),
        maps: bands.resized(height, width),
        bands,
    };
    Ok(synthesis(transform, approx, details)?)
}

/// Several levels of [`dwt2`], each on the approximation of the one before.
///
/// The result is in PyWavelets' `wavedec2` order: the coarsest approximation (C channels), then the
/// details (3C channels: LH | HL | HH) from the coarsest level to the finest. No levels give `[x]`.
///
/// # Errors
/// [`Error::Levels`] for more than 64 levels, or if with [`Border::Drop`] a level would have fewer
/// than 2×2 positions to work on; otherwise as [`dwt2`].
pub fn wavedec2(
    x: &Tensor,
    wavelet: &Wavelet,
    border: Border,
    format: DataFormat,
    levels: usize,
) -> Result<Vec<Tensor>> {
    const OP: &str = "wavedec2";
    let Maps { height, width, .. } = maps(OP, "x", x, format)?;
    check_levels(OP, border, &[height, width], levels)?;
    decompose(x, levels, |approx, _| {
        let bands = dwt2(approx, wavelet, border, format)?;
        Ok((bands.approx, bands.details))
    })
}

/// The inverse of [`wavedec2`], from coefficients in its order.
///
/// Where the reconstruction of a level is one row or column larger than the details of the next
/// (odd sizes), the last one is cut off, as PyWavelets does. Where it is one smaller (that row or
/// column was dropped by [`Border::Drop`]), the last one is repeated in its place. So sizes
/// divisible by 2^levels come back exactly, other sizes one larger where they are odd, which
/// `narrow` cuts off; with [`Border::Drop`] without what the first level dropped, and with an
/// estimate of what the later ones did.
///
/// # Errors
/// [`Error::Shape`] without coefficients, or if a level's sizes are further apart than that;
/// otherwise as [`idwt2`].
pub fn waverec2(
    coefficients: &[Tensor],
    wavelet: &Wavelet,
    border: Border,
    format: DataFormat,
) -> Result<Tensor> {
    const OP: &str = "waverec2";
    let (approx, details) = first_of(OP, coefficients)?;
    let (rows, columns) = format.plane_dims();
    let mut approx = approx.clone();
    for details in details {
        let size = maps(OP, "details", details, format)?;
        maps(OP, "approx", &approx, format)?;
        approx = fit(OP, &approx, rows, size.height)?;
        approx = fit(OP, &approx, columns, size.width)?;
        approx = idwt2(&approx, details, wavelet, border, format)?;
    }
    Ok(approx)
}

/// The stationary (undecimated) 2-D wavelet transform: every level keeps all positions, and
/// shifting the map shifts the coefficients.
///
/// The map is taken as periodic. Coefficients are PyWavelets' `swt2(…, trim_approx=True)`: the
/// coarsest approximation (C channels), then the details (3C channels: LH | HL | HH) from the
/// coarsest level to the finest, all of the map's size. [`Wavelet::rescaled`] by 1/√2 gives its
/// `norm=True`. The gradient is the exact adjoint.
///
/// # Errors
/// [`Error::Levels`] unless height and width are multiples of 2^`levels`; otherwise as [`dwt2`].
pub fn swt2(
    x: &Tensor,
    wavelet: &Wavelet,
    format: DataFormat,
    levels: usize,
) -> Result<Vec<Tensor>> {
    const OP: &str = "swt2";
    let maps = maps(OP, "x", x, format)?;
    check_stationary(OP, &[maps.height, maps.width], levels)?;
    decompose(x, levels, |approx, level| {
        let sampling = Sampling::Undecimated { dilation: 1 << level };
        let bank = wavelet.decomposition();
        Ok(analysis(PlaneTransform { bank, sampling, maps, bands: maps }, approx)?)
    })
}

/// The inverse of [`swt2`]: the mean of what every shift's decimated coefficients reconstruct,
/// which for coefficients that were changed is cycle spinning.
///
/// # Errors
/// [`Error::Shape`] without coefficients or for shapes that do not fit together;
/// [`Error::Levels`] as [`swt2`].
pub fn iswt2(coefficients: &[Tensor], wavelet: &Wavelet, format: DataFormat) -> Result<Tensor> {
    const OP: &str = "iswt2";
    let (approx, details) = first_of(OP, coefficients)?;
    let maps = maps(OP, "approx", approx, format)?;
    check_stationary(OP, &[maps.height, maps.width], details.len())?;
    // Even and odd shifts each reconstruct all, along either axis.
    let bank = Arc::new(wavelet.reconstruction().scaled(0.5));
    let mut approx = approx.clone();
    for (k, details_of_level) in details.iter().enumerate() {
        same(OP, &maps, &approx, details_of_level)?;
        let sampling = Sampling::Undecimated { dilation: 1 << (details.len() - 1 - k) };
        let transform = PlaneTransform { bank: bank.clone(), sampling, maps, bands: maps };
        approx = synthesis(transform, &approx, details_of_level)?;
    }
    Ok(approx)
}

/// The sizes of a 4-D tensor of an element type with kernels.
fn maps(op: &'static str, what: &'static str, x: &Tensor, format: DataFormat) -> Result<Maps> {
    require_float(op, x)?;
    match x.dims4() {
        Ok(dims) => Ok(Maps::new(format, dims)),
        Err(_) => Err(Error::shape(op, what, x, format!("4 dimensions, {}", format.name()))),
    }
}

/// Refuses details that do not belong to the approximation.
fn same(op: &'static str, bands: &Maps, approx: &Tensor, details: &Tensor) -> Result<()> {
    let needed = Maps { channels: 3 * bands.channels, ..*bands };
    let same_type = details.dtype() == approx.dtype();
    if same_type && maps(op, "details", details, bands.format)? == needed {
        return Ok(());
    }
    Err(mismatch(op, details, approx, &needed.dims().into()))
}
