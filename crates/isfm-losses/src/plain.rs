//! The same losses from ordinary Candle operations.
//!
//! Slow on the CPU, but they run on any device; the functions at the crate's root use them for
//! images that are not on the CPU. They are also what the fast ones are tested against. Arguments
//! and results are as at the root; errors are Candle's own, where it refuses shapes, types or
//! devices.

use candle_core::{Result, Tensor};

use crate::filter::{GRADIENT, PAD, TAPS, gaussian};
use crate::term::{C1, C2, FAINT, NO_INFORMATION, VIF_NOISE, VIF_TINY};

/// See [`content_loss`](crate::content_loss).
pub fn content_loss(fused: &Tensor, visible: &Tensor, infrared: &Tensor) -> Result<Tensor> {
    let (v, i) = (visible.detach(), infrared.detach());
    abs(&(fused - i)?)?.mean_all()? + abs(&(fused - v)?)?.mean_all()?
}

/// See [`intensity_loss`](crate::intensity_loss).
pub fn intensity_loss(fused: &Tensor, visible: &Tensor, infrared: &Tensor) -> Result<Tensor> {
    let (v, i) = (visible.detach(), infrared.detach());
    abs(&(fused - select(&i.gt(&v)?, &i, &v)?)?)?.mean_all()
}

/// See [`gradient_loss`](crate::gradient_loss).
pub fn gradient_loss(fused: &Tensor, visible: &Tensor, infrared: &Tensor) -> Result<Tensor> {
    let kernel =
        Tensor::new(&GRADIENT, fused.device())?.to_dtype(fused.dtype())?.reshape((1, 1, 3, 3))?;
    let gradient = |x: &Tensor| x.contiguous()?.conv2d(&kernel, 1, 1, 1, 1);
    let (v, i) = (gradient(&visible.detach())?, gradient(&infrared.detach())?);
    let target = select(&i.abs()?.gt(&v.abs()?)?, &i, &v)?;
    abs(&(gradient(fused)? - target)?)?.mean_all()
}

/// The SSIM window as a kernel for images like this one.
fn window(like: &Tensor) -> Result<Tensor> {
    let taps = gaussian();
    let kernel: Vec<f64> = taps.iter().flat_map(|a| taps.map(|b| a * b)).collect();
    Tensor::from_vec(kernel, (1, 1, TAPS, TAPS), like.device())?.to_dtype(like.dtype())
}

/// See [`ssim_loss`](crate::ssim_loss).
pub fn ssim_loss(fused: &Tensor, visible: &Tensor, infrared: &Tensor) -> Result<Tensor> {
    let kernel = window(fused)?;
    let blur = |x: &Tensor| x.contiguous()?.conv2d(&kernel, PAD, 1, 1, 1);
    let ssim = |y: &Tensor| -> Result<Tensor> {
        let (mx, my) = (blur(fused)?, blur(y)?);
        let (mxx, myy, mxy) = (mx.sqr()?, my.sqr()?, (&mx * &my)?);
        let variances = ((blur(&fused.sqr()?)? - &mxx)? + (blur(&y.sqr()?)? - &myy)?)?;
        let covariance = (blur(&(fused * y)?)? - &mxy)?;
        let above = (mxy.affine(2., C1)? * covariance.affine(2., C2)?)?;
        let below = ((mxx + myy)?.affine(1., C1)? * variances.affine(1., C2)?)?;
        (above / below)?.mean_all()
    };
    (ssim(&visible.detach())? + ssim(&infrared.detach())?)?.affine(-0.5, 1.)
}

/// See [`scd_loss`](crate::scd_loss).
pub fn scd_loss(fused: &Tensor, visible: &Tensor, infrared: &Tensor) -> Result<Tensor> {
    let (v, i) = (visible.detach(), infrared.detach());
    let centred = |x: &Tensor| {
        let flat = x.flatten_from(1)?;
        flat.broadcast_sub(&flat.mean_keepdim(1)?)
    };
    let correlation = |x: &Tensor, y: &Tensor| -> Result<Tensor> {
        let (x, y) = (centred(x)?, centred(y)?);
        let variance = |x: &Tensor| x.sqr()?.mean(1)?.affine(1., FAINT);
        (&x * &y)?.mean(1)? / (variance(&x)? * variance(&y)?)?.sqrt()?
    };
    let sum = (correlation(&(fused - &v)?, &i)? + correlation(&(fused - &i)?, &v)?)?;
    sum.mean_all()?.affine(-0.5, 1.)
}

/// See [`vif_loss`](crate::vif_loss).
pub fn vif_loss(fused: &Tensor, visible: &Tensor, infrared: &Tensor) -> Result<Tensor> {
    let kernel = window(fused)?;
    let blur = |x: &Tensor| x.contiguous()?.conv2d(&kernel, PAD, 1, 1, 1);
    let mean = blur(fused)?;
    let variance = positive(&(blur(&fused.sqr()?)? - mean.sqr()?)?)?;
    let vif = |source: &Tensor| -> Result<Tensor> {
        let own_mean = blur(source)?;
        let own = positive(&(blur(&source.sqr()?)? - own_mean.sqr()?)?)?;
        let covariance = (blur(&(fused * source)?)? - (&mean * &own_mean)?)?;
        let gain = positive(&(&covariance / own.affine(1., VIF_TINY)?)?)?;
        let rest = positive(&(&variance - (&gain * &covariance)?)?)?.affine(1., VIF_NOISE)?;
        let kept = ((gain.sqr()? * &own)? / rest)?.affine(1., 1.)?.log()?;
        let own = own.affine(1. / VIF_NOISE, 1.)?.log()?;
        let own = own.flatten_from(1)?.mean(1)?.affine(1., NO_INFORMATION)?;
        (kept.flatten_from(1)?.mean(1)? / own)?.mean_all()
    };
    (vif(&visible.detach())? + vif(&infrared.detach())?)?.affine(-0.5, 1.)
}

/// `x`, or 0 where it is negative; NaN stays NaN.
fn positive(x: &Tensor) -> Result<Tensor> {
    select(&x.gt(0f64)?, x, &x.zeros_like()?)
}

/// |x| with slope 0 at 0; Candle's own has slope 1 there.
fn abs(x: &Tensor) -> Result<Tensor> {
    x * x.detach().sign()?
}

/// `a` where `mask`, else `b`; NaN where either is, which the comparison behind `mask` forgets.
fn select(mask: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    mask.where_cond(a, b)? + ((a * 0.)? + (b * 0.)?)?
}
