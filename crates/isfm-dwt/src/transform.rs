use candle_core::Tensor;
use isfm_ops::cpu::require_float;

use crate::axis::Border;
use crate::layout::{Layout, Maps};
use crate::op::Transform;
use crate::wavelet::Wavelet;
use crate::{Error, Result};

/// One level of a 2-D transform: C channels of approximation and 3C of details.
#[derive(Clone, Debug)]
pub struct Subbands {
    /// LL, the approximation (PyWavelets' cA): C channels.
    pub approx: Tensor,
    /// LH, HL, HH, in this order (PyWavelets' cH, cV, cD): 3C channels.
    pub details: Tensor,
    /// The layout of both.
    pub layout: Layout,
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

    /// All four bands, \[LL | LH | HL | HH\] along the channels: 4C channels (spec §3).
    ///
    /// # Errors
    /// If the two tensors do not fit together.
    pub fn packed(&self) -> Result<Tensor> {
        let bands = [&self.approx, &self.details];
        Ok(Tensor::cat(&bands, self.layout.channel_dim())?)
    }

    fn detail(&self, k: usize) -> Result<Tensor> {
        let dim = self.layout.channel_dim();
        let channels = self.approx.dim(dim)?;
        Ok(self.details.narrow(dim, k * channels, channels)?)
    }
}

/// One level of the 2-D discrete wavelet transform (spec §3, the paper's DWT).
///
/// For Haar and a 2×2 block a, b over c, d: LL = (a+b+c+d)/2, LH = (a+b−c−d)/2,
/// HL = (a−b+c−d)/2, HH = (a−b−c+d)/2; on even sizes PyWavelets' `dwt2`. The gradient is the exact
/// adjoint.
///
/// # Shapes
/// `x` is B×H×W×C or B×C×H×W by `layout`; each band is ⌊H/2⌋×⌊W/2⌋ with [`Border::Drop`].
///
/// # Errors
/// [`Error::Shape`] unless `x` has four dimensions and at least 2×2 positions; an error for element
/// types other than `F32` and `F64`.
pub fn dwt2(x: &Tensor, wavelet: &Wavelet, border: Border, layout: Layout) -> Result<Subbands> {
    const OP: &str = "dwt2";
    require_float(OP, x)?;
    let maps = maps(OP, "x", x, layout)?;
    if maps.height < 2 || maps.width < 2 {
        return Err(Error::Shape {
            op: OP,
            what: "x",
            got: format!("{:?}", x.dims()),
            needed: format!("{} with H and W at least 2", layout.name()),
        });
    }
    let bands = maps.resized(border.outputs(maps.height), border.outputs(maps.width));
    let transform = Transform { bank: wavelet.decomposition(), border, maps, bands };
    let (approx, details) = transform.analysis(&x.contiguous()?)?;
    Ok(Subbands { approx, details, layout })
}

/// The inverse of [`dwt2`], and for an orthogonal wavelet such as Haar also its adjoint.
///
/// A row or column that [`Border::Drop`] dropped does not come back: the result has even sizes.
///
/// # Shapes
/// `approx` B×h×w×C, `details` B×h×w×3C (LH | HL | HH), result B×2h×2w×C; or B×C×h×w, B×3C×h×w,
/// B×C×2h×2w.
///
/// # Errors
/// [`Error::Shape`] unless the two fit together and h and w are at least 1; an error unless both
/// have the same element type, `F32` or `F64`.
pub fn idwt2(
    approx: &Tensor,
    details: &Tensor,
    wavelet: &Wavelet,
    layout: Layout,
) -> Result<Tensor> {
    const OP: &str = "idwt2";
    require_float(OP, approx)?;
    let bands = maps(OP, "approx", approx, layout)?;
    if bands.height == 0 || bands.width == 0 {
        return Err(Error::Shape {
            op: OP,
            what: "approx",
            got: format!("{:?}", approx.dims()),
            needed: format!("{} with H and W at least 1", layout.name()),
        });
    }
    let needed = Maps { channels: 3 * bands.channels, ..bands };
    let same_type = details.dtype() == approx.dtype();
    if maps(OP, "details", details, layout)? != needed || !same_type {
        return Err(Error::Shape {
            op: OP,
            what: "details",
            got: format!("{:?} of {:?}", details.dims(), details.dtype()),
            needed: format!("{:?} of {:?}", needed.dims(), approx.dtype()),
        });
    }
    let border = Border::Drop;
    let maps = bands.resized(border.inputs(bands.height), border.inputs(bands.width));
    let transform = Transform { bank: wavelet.reconstruction(), border, maps, bands };
    Ok(transform.synthesis(&approx.contiguous()?, &details.contiguous()?)?)
}

/// Several levels of [`dwt2`], each on the approximation of the one before.
///
/// The result is in PyWavelets' `wavedec2` order: the coarsest approximation (C channels), then the
/// details (3C channels: LH | HL | HH) from the coarsest level to the finest. No levels give `[x]`.
///
/// # Errors
/// [`Error::Levels`] if a level would have fewer than 2×2 positions to work on; otherwise as
/// [`dwt2`].
pub fn wavedec2(
    x: &Tensor,
    wavelet: &Wavelet,
    border: Border,
    layout: Layout,
    levels: usize,
) -> Result<Vec<Tensor>> {
    const OP: &str = "wavedec2";
    require_float(OP, x)?;
    let Maps { height, width, .. } = maps(OP, "x", x, layout)?;
    let mut most = 0;
    let mut smaller = height.min(width);
    while smaller >= 2 && most < levels {
        smaller = border.outputs(smaller);
        most += 1;
    }
    if most < levels {
        return Err(Error::Levels { levels, height, width, most });
    }
    let mut coefficients = Vec::with_capacity(levels + 1);
    let mut approx = x.clone();
    for _ in 0..levels {
        let bands = dwt2(&approx, wavelet, border, layout)?;
        coefficients.push(bands.details);
        approx = bands.approx;
    }
    coefficients.push(approx);
    coefficients.reverse();
    Ok(coefficients)
}

/// The inverse of [`wavedec2`], from coefficients in its order.
///
/// Where the reconstruction of a level is one row or column larger than the details of the next
/// (borders that extend the signal), the last one is cut off, as PyWavelets does. Where it is one
/// smaller (that row or column was dropped by [`Border::Drop`]), the last one is repeated in its
/// place. So sizes divisible by 2^levels come back exactly; other sizes come back without what the
/// first level dropped, and with an estimate of what the later ones did.
///
/// # Errors
/// [`Error::Shape`] without coefficients, or if a level's sizes are further apart than that;
/// otherwise as [`idwt2`].
pub fn waverec2(coefficients: &[Tensor], wavelet: &Wavelet, layout: Layout) -> Result<Tensor> {
    const OP: &str = "waverec2";
    let Some((approx, details)) = coefficients.split_first() else {
        return Err(Error::Shape {
            op: OP,
            what: "coefficients",
            got: "empty".to_string(),
            needed: "an approximation, then details".to_string(),
        });
    };
    let (rows, columns) = layout.plane_dims();
    let mut approx = approx.clone();
    for details in details {
        let size = maps(OP, "details", details, layout)?;
        maps(OP, "approx", &approx, layout)?;
        approx = fit(&approx, rows, size.height)?;
        approx = fit(&approx, columns, size.width)?;
        approx = idwt2(&approx, details, wavelet, layout)?;
    }
    Ok(approx)
}

/// `x` with one sample less or more along `dim`, so that there are `n`.
fn fit(x: &Tensor, dim: usize, n: usize) -> Result<Tensor> {
    let have = x.dim(dim)?;
    if have == n {
        Ok(x.clone())
    } else if have == n + 1 {
        Ok(x.narrow(dim, 0, n)?)
    } else if have + 1 == n && have > 0 {
        Ok(Tensor::cat(&[x, &x.narrow(dim, have - 1, 1)?], dim)?)
    } else {
        Err(Error::Shape {
            op: "waverec2",
            what: "a level's details",
            got: format!("{n} along dimension {dim}"),
            needed: format!("{have}, or one more or less"),
        })
    }
}

/// The sizes of a 4-D tensor.
fn maps(op: &'static str, what: &'static str, x: &Tensor, layout: Layout) -> Result<Maps> {
    match x.dims4() {
        Ok(dims) => Ok(Maps::new(layout, dims)),
        Err(_) => Err(Error::Shape {
            op,
            what,
            got: format!("{:?}", x.dims()),
            needed: format!("4 dimensions, {}", layout.name()),
        }),
    }
}
