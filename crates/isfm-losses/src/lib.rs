#![doc = include_str!("../README.md")]

mod error;
mod filter;
pub mod plain;
mod term;

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

pub use error::{Error, Result};
use term::{Term, TermOp};

/// What each loss counts in [`fusion_loss`]'s total.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossWeights {
    /// Weight of [`content_loss`].
    pub content: f64,
    /// Weight of [`intensity_loss`].
    pub intensity: f64,
    /// Weight of [`gradient_loss`].
    pub gradient: f64,
    /// What the sources' stronger edges are multiplied by to be the target of [`gradient_loss`], above
    /// 0; the released program's is 1, which is not written.
    #[serde(skip_serializing_if = "is_one")]
    pub gradient_gain: f64,
    /// Weight of [`scd_loss`], which the released program does not have; 0 leaves it out. Not
    /// written when 0, so that a recipe without it reads as it always did.
    #[serde(skip_serializing_if = "is_zero")]
    pub scd: f64,
    /// Weight of [`ssim_loss`].
    pub ssim: f64,
    /// Weight of [`vif_loss`], like that of `scd`.
    #[serde(skip_serializing_if = "is_zero")]
    pub vif: f64,
}

fn is_zero(weight: &f64) -> bool {
    *weight == 0.
}

fn is_one(gain: &f64) -> bool {
    *gain == 1.
}

impl Default for LossWeights {
    /// The released network's: 1, 5, 5 and ½, without [`scd_loss`] and [`vif_loss`].
    fn default() -> Self {
        Self {
            content: 1.,
            intensity: 5.,
            gradient: 5.,
            gradient_gain: 1.,
            scd: 0.,
            ssim: 0.5,
            vif: 0.,
        }
    }
}

/// The losses of one batch, each a scalar (0-d) tensor that gradients flow through.
#[derive(Clone, Debug)]
pub struct FusionLoss {
    /// [`content_loss`], unweighted.
    pub content: Tensor,
    /// [`intensity_loss`], unweighted.
    pub intensity: Tensor,
    /// [`gradient_loss`] with the gain, unweighted.
    pub gradient: Tensor,
    /// [`ssim_loss`], unweighted.
    pub ssim: Tensor,
    /// [`scd_loss`], unweighted; none where its weight is 0.
    pub scd: Option<Tensor>,
    /// [`vif_loss`], unweighted; none where its weight is 0.
    pub vif: Option<Tensor>,
    /// The weighted sum.
    pub total: Tensor,
}

/// The losses and their weighted sum.
///
/// `fused` is taken as it is: put a network's output through [`clamp_unit`] first.
///
/// # Shapes
/// All images B×1×H×W in \[0, 1\], F32 or F64; the results are scalars.
///
/// # Errors
/// If the images differ in shape, type or device, or are not of the shape and type above.
///
/// Source: the paper's loss section, as released (weights 1, 5, 5, ½).
pub fn fusion_loss(
    fused: &Tensor,
    visible: &Tensor,
    infrared: &Tensor,
    weights: &LossWeights,
) -> Result<FusionLoss> {
    let content = content_loss(fused, visible, infrared)?;
    let intensity = intensity_loss(fused, visible, infrared)?;
    let gradient = if is_one(&weights.gradient_gain) {
        gradient_loss(fused, visible, infrared)?
    } else {
        // |G(f) − γ target| = γ |G(f / γ) − target|, G being linear.
        let gain = weights.gradient_gain;
        gradient_loss(&fused.affine(1. / gain, 0.)?, visible, infrared)?.affine(gain, 0.)?
    };
    let ssim = ssim_loss(fused, visible, infrared)?;
    let first =
        (content.affine(weights.content, 0.)? + intensity.affine(weights.intensity, 0.)?)?;
    let last = (gradient.affine(weights.gradient, 0.)? + ssim.affine(weights.ssim, 0.)?)?;
    let mut total = (first + last)?;
    let mut scd = None;
    if !is_zero(&weights.scd) {
        let loss = scd_loss(fused, visible, infrared)?;
        total = (total + loss.affine(weights.scd, 0.)?)?;
        scd = Some(loss);
    }
    let mut vif = None;
    if !is_zero(&weights.vif) {
        let loss = vif_loss(fused, visible, infrared)?;
        total = (total + loss.affine(weights.vif, 0.)?)?;
        vif = Some(loss);
    }
    Ok(FusionLoss { content, intensity, gradient, ssim, scd, vif, total })
}

/// mean|f − ir| + mean|f − vi|.
///
/// The slope of |x| at 0 is 0, as PyTorch's. Shapes and errors as for [`fusion_loss`]; a NaN pixel
/// makes the loss NaN. No gradient flows to the sources.
///
/// # Errors
/// As [`fusion_loss`].
pub fn content_loss(fused: &Tensor, visible: &Tensor, infrared: &Tensor) -> Result<Tensor> {
    apply(Term::Content, plain::content_loss, [fused, visible, infrared])
}

/// mean|f − max(ir, vi)|, the maximum taken pixel by pixel.
///
/// Shapes, slope at 0 and NaN as for [`content_loss`].
///
/// # Errors
/// As [`fusion_loss`].
pub fn intensity_loss(fused: &Tensor, visible: &Tensor, infrared: &Tensor) -> Result<Tensor> {
    apply(Term::Intensity, plain::intensity_loss, [fused, visible, infrared])
}

/// mean|G(f) − target|: the fused image's edges against the stronger of the sources' edges.
///
/// G(x) = 3·(Kx∗x + Ky∗x) with zero padding 1, Kx = \[\[−.2, 0, .2\], \[−1, 0, 1\], \[−.2, 0, .2\]\],
/// Ky = \[\[.2, 1, .2\], \[0, 0, 0\], \[−.2, −1, −.2\]\] (∗ does not flip the kernel). The target is,
/// pixel by pixel and with its sign, whichever of G(vi) and G(ir) has the larger magnitude; G(vi)
/// on a tie. Shapes, slope at 0 and NaN as for [`content_loss`].
///
/// # Errors
/// As [`fusion_loss`].
pub fn gradient_loss(fused: &Tensor, visible: &Tensor, infrared: &Tensor) -> Result<Tensor> {
    apply(Term::Gradient, plain::gradient_loss, [fused, visible, infrared])
}

/// ½(1 − SSIM(f, vi)) + ½(1 − SSIM(f, ir)); between 0 and 2.
///
/// SSIM's window is the product of two rows of 12 taps exp(−(i−6)²/(2·1.5²)), normalised, with
/// zero padding 6, so its map is (H+1)×(W+1); C1 = .01², C2 = .03²; the map's mean counts. Shapes
/// and NaN as for [`content_loss`].
///
/// # Errors
/// As [`fusion_loss`].
pub fn ssim_loss(fused: &Tensor, visible: &Tensor, infrared: &Tensor) -> Result<Tensor> {
    apply(Term::Ssim, plain::ssim_loss, [fused, visible, infrared])
}

/// 1 − ½(r(f − vi, ir) + r(f − ir, vi)), r Pearson's correlation over a picture: what is left of
/// the fused image without one source should be the other source. Between 0 and 2; the mean over
/// the batch.
///
/// r = cov / √((var + ε)(var + ε)) with ε = 10⁻⁵, the variance of about one grey level of 256, so
/// that r is 0 and its slope finite where a picture or a difference is constant; the slope is 0
/// where the source is. Shapes and NaN as for [`content_loss`].
///
/// # Errors
/// As [`fusion_loss`].
///
/// Source: Aslantas, Bendes, "A new image quality metric for image fusion: the sum of the
/// correlations of differences", AEÜ 2015, of which this is 1 − ½ SCD.
pub fn scd_loss(fused: &Tensor, visible: &Tensor, infrared: &Tensor) -> Result<Tensor> {
    apply(Term::Scd, plain::scd_loss, [fused, visible, infrared])
}

/// 1 − ½(VIF(f, vi) + VIF(f, ir)): how much of each source's information is in the fused image, on
/// the finest scale; at most 1, and below 0 where the fused image has more contrast than both.
///
/// VIF(f, s) = Σ ln(1 + g²σs² / (σf² − g cov + n)) / Σ ln(1 + σs² / n) over all places, with g =
/// max(0, cov / σs²) and n two squared grey levels of 255; variances and covariance are under
/// [`ssim_loss`]'s window. A source without contrast counts 0. Shapes and NaN as for
/// [`content_loss`].
///
/// # Errors
/// As [`fusion_loss`].
///
/// Source: Sheikh, Bovik, "Image information and visual quality", IEEE TIP 2006, in the pixel domain.
pub fn vif_loss(fused: &Tensor, visible: &Tensor, infrared: &Tensor) -> Result<Tensor> {
    apply(Term::Vif, plain::vif_loss, [fused, visible, infrared])
}

/// `x` limited to \[0, 1\], with PyTorch's gradient: 1 inside and at both bounds, 0 outside.
///
/// Candle's `clamp` halves the gradient at the bounds, where many pixels of an image lie. NaN stays
/// NaN. Any shape, F32 or F64, any device.
///
/// # Errors
/// If Candle cannot compare elements of this type.
pub fn clamp_unit(x: &Tensor) -> Result<Tensor> {
    // Detached, because a comparison in the graph is a node that never gets a gradient.
    let value = x.detach();
    let outside = (value.lt(0f64)? + value.gt(1f64)?)?;
    Ok(outside.where_cond(&value.clamp(0f64, 1f64)?, x)?)
}

/// From ordinary operations on the fused, the visible and the infrared image.
type Plain = fn(&Tensor, &Tensor, &Tensor) -> candle_core::Result<Tensor>;

fn apply(term: Term, plain: Plain, all: [&Tensor; 3]) -> Result<Tensor> {
    let (op, [fused, visible, infrared]) = (term.name(), all);
    if all.iter().any(|x| x.dims() != fused.dims()) {
        return Err(Error::ShapeMismatch { op, got: all.map(|x| x.dims().to_vec()) });
    }
    if !matches!(*fused.dims(), [b, 1, h, w] if b > 0 && h > 0 && w > 0) {
        return Err(Error::Shape { op, got: fused.dims().to_vec() });
    }
    let types = all.map(Tensor::dtype);
    if ![[DType::F32; 3], [DType::F64; 3]].contains(&types) {
        return Err(Error::DType { op, got: types });
    }
    for source in [visible, infrared] {
        if !source.device().same_device(fused.device()) {
            let (lhs, rhs) = (fused.device().location(), source.device().location());
            return Err(candle_core::Error::DeviceMismatchBinaryOp { lhs, rhs, op }.into());
        }
    }
    if !fused.device().is_cpu() {
        return Ok(plain(fused, visible, infrared)?);
    }
    let visible = visible.detach().contiguous()?;
    let infrared = infrared.detach().contiguous()?;
    Ok(fused.contiguous()?.apply_op1(TermOp { term, visible, infrared })?)
}
