//! The losses as one custom operation each: the value, and the gradient by hand.
//!
//! Candle's own convolutions would take most of a training step here, and its |x| has slope 1 at
//! 0, where PyTorch's has 0.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Shape, Storage, Tensor, WithDType};
use rayon::prelude::*;

use crate::filter::{Size, Window, gradient};

pub(crate) const C1: f64 = 1e-4;
pub(crate) const C2: f64 = 9e-4;
/// The variance of the noise that VIF supposes: 2 squared grey levels of 255.
pub(crate) const VIF_NOISE: f64 = 2. / (255. * 255.);
/// Keeps the gain finite where the source is flat.
pub(crate) const VIF_TINY: f64 = 1e-10;
/// Information of a picture without any, per place, so that its part of VIF is 0.
pub(crate) const NO_INFORMATION: f64 = 1e-3;
/// Added to the variances of [`Term::Scd`].
pub(crate) const FAINT: f64 = 1e-5;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Term {
    Content,
    Intensity,
    Gradient,
    Ssim,
    Scd,
    Vif,
}

impl Term {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Term::Content => "content_loss",
            Term::Intensity => "intensity_loss",
            Term::Gradient => "gradient_loss",
            Term::Ssim => "ssim_loss",
            Term::Scd => "scd_loss",
            Term::Vif => "vif_loss",
        }
    }
}

/// One loss as a function of the fused image (B×1×H×W). The sources are constants of the same
/// shape and type, contiguous and on the CPU.
pub(crate) struct TermOp {
    pub(crate) term: Term,
    pub(crate) visible: Tensor,
    pub(crate) infrared: Tensor,
}

impl CustomOp1 for TermOp {
    fn name(&self) -> &'static str {
        self.term.name()
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let value = match s {
            CpuStorage::F64(_) => CpuStorage::F64(vec![self.value::<f64>(s, l)?]),
            _ => CpuStorage::F32(vec![self.value::<f32>(s, l)? as f32]),
        };
        Ok((value, Shape::from(())))
    }

    fn bwd(&self, fused: &Tensor, _: &Tensor, up: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let fused = fused.contiguous()?;
        let slope = match fused.dtype() {
            DType::F64 => self.slope::<f64>(&fused)?,
            _ => self.slope::<f32>(&fused)?,
        };
        Ok(Some(slope.broadcast_mul(up)?))
    }
}

impl TermOp {
    /// The mean over the batch. Images are summed apart and in order, so that the value does not
    /// depend on the number of threads.
    fn value<E: WithDType>(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<f64> {
        let (_, _, h, w) = l.shape().dims4()?;
        let size = Size { h, w };
        let (visible, infrared) = (Source::of(&self.visible), Source::of(&self.infrared));
        let (v, i) = (visible.slice::<E>()?, infrared.slice::<E>()?);
        let sums: Vec<f64> = slice::<E>(s, l)?
            .par_chunks_exact(size.len())
            .zip(v.par_chunks_exact(size.len()))
            .zip(i.par_chunks_exact(size.len()))
            .map(|((fused, visible), infrared)| {
                let images = Images { fused, visible, infrared, size };
                match self.term {
                    Term::Content => images.content(),
                    Term::Intensity => images.intensity(),
                    Term::Gradient => images.gradient(),
                    Term::Ssim => images.ssim(),
                    Term::Scd => images.scd(),
                    Term::Vif => images.vif(),
                }
            })
            .collect();
        let mean = sums.iter().sum::<f64>() / self.count(size, sums.len());
        Ok(match self.term {
            Term::Ssim | Term::Scd | Term::Vif => 1. - 0.5 * mean,
            _ => mean,
        })
    }

    /// ∂loss/∂fused.
    fn slope<E: WithDType>(&self, fused: &Tensor) -> candle_core::Result<Tensor> {
        let (batch, _, h, w) = fused.dims4()?;
        let size = Size { h, w };
        let sources = [fused, &self.visible, &self.infrared].map(Source::of);
        let [f, v, i] = sources.each_ref().map(Source::slice::<E>);
        let scale = E::from_f64(1. / self.count(size, batch));
        let mut out = vec![E::zero(); batch * size.len()];
        out.par_chunks_exact_mut(size.len())
            .zip(f?.par_chunks_exact(size.len()))
            .zip(v?.par_chunks_exact(size.len()))
            .zip(i?.par_chunks_exact(size.len()))
            .for_each(|(((out, fused), visible), infrared)| {
                let images = Images { fused, visible, infrared, size };
                match self.term {
                    Term::Content => images.content_slope(scale, out),
                    Term::Intensity => images.intensity_slope(scale, out),
                    Term::Gradient => images.gradient_slope(scale, out),
                    Term::Ssim => images.ssim_slope(scale, out),
                    Term::Scd => images.scd_slope(scale, out),
                    Term::Vif => images.vif_slope(scale, out),
                }
            });
        Tensor::from_vec(out, fused.shape(), fused.device())
    }

    /// How many values the mean is over.
    fn count(&self, size: Size, batch: usize) -> f64 {
        let each = match self.term {
            Term::Ssim => size.windowed().len(),
            Term::Scd | Term::Vif => 1,
            _ => size.len(),
        };
        (each * batch) as f64
    }
}

/// A tensor's storage, held for reading.
struct Source<'a>(candle_core::StorageRef<'a>, &'a Layout);

impl<'a> Source<'a> {
    fn of(t: &'a Tensor) -> Self {
        let (storage, layout) = t.storage_and_layout();
        Self(storage, layout)
    }

    fn slice<E: WithDType>(&self) -> candle_core::Result<&[E]> {
        match &*self.0 {
            Storage::Cpu(s) => slice(s, self.1),
            _ => candle_core::bail!("a loss's source image left the CPU"),
        }
    }
}

fn slice<'a, E: WithDType>(s: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [E]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&s.as_slice::<E>()?[start..end]),
        None => Err(candle_core::Error::RequiresContiguous { op: "fusion loss" }),
    }
}

/// One image of each kind. Each loss has a method for the sum of its map, and one that writes
/// `scale` times the gradient of that sum (of −½ the sum for SSIM, and for SCD and VIF, whose maps are one value).
#[derive(Clone, Copy)]
struct Images<'a, E> {
    fused: &'a [E],
    visible: &'a [E],
    infrared: &'a [E],
    size: Size,
}

impl<E: WithDType> Images<'_, E> {
    fn pixels(&self) -> impl Iterator<Item = (E, E, E)> {
        let sources = self.visible.iter().zip(self.infrared);
        self.fused.iter().zip(sources).map(|(&f, (&v, &i))| (f, v, i))
    }

    fn content(&self) -> f64 {
        self.pixels().map(|(f, v, i)| (abs(f - i) + abs(f - v)).to_f64()).sum()
    }

    fn content_slope(&self, scale: E, out: &mut [E]) {
        for (out, (f, v, i)) in out.iter_mut().zip(self.pixels()) {
            *out = scale * (sign(f - i) + sign(f - v));
        }
    }

    fn intensity(&self) -> f64 {
        self.pixels().map(|(f, v, i)| abs(f - larger(v, i)).to_f64()).sum()
    }

    fn intensity_slope(&self, scale: E, out: &mut [E]) {
        for (out, (f, v, i)) in out.iter_mut().zip(self.pixels()) {
            *out = scale * sign(f - larger(v, i));
        }
    }

    /// G(fused) − target.
    fn gradient_residual(&self) -> Vec<E> {
        let mut residual = gradient(self.fused, self.size);
        let v = gradient(self.visible, self.size);
        let i = gradient(self.infrared, self.size);
        for ((r, v), i) in residual.iter_mut().zip(v).zip(i) {
            *r -= if abs(i) > abs(v) || is_nan(i) { i } else { v };
        }
        residual
    }

    fn gradient(&self) -> f64 {
        self.gradient_residual().into_iter().map(|r| abs(r).to_f64()).sum()
    }

    fn gradient_slope(&self, scale: E, out: &mut [E]) {
        let mut signs = self.gradient_residual();
        for s in &mut signs {
            *s = sign(*s);
        }
        for (out, g) in out.iter_mut().zip(gradient(&signs, self.size)) {
            // The operator's adjoint is its negative.
            *out = E::zero() - scale * g;
        }
    }

    fn ssim(&self) -> f64 {
        let window = Window::new();
        let fused = Moments::of(&window, self.fused, self.size);
        let mut sum = 0.;
        for source in [self.visible, self.infrared] {
            let source_moments = Moments::of(&window, source, self.size);
            let cross = window.apply(&product(self.fused, source), self.size);
            for (p, &cross) in cross.iter().enumerate() {
                sum += Ssim::at(&fused, &source_moments, cross, p).value().to_f64();
            }
        }
        sum
    }

    fn ssim_slope(&self, scale: E, out: &mut [E]) {
        let window = Window::new();
        let two = E::from_f64(2.);
        let scale = E::from_f64(-0.5) * scale;
        let fused = Moments::of(&window, self.fused, self.size);
        // ∂/∂ the windowed fused image and its windowed square, over both sources.
        let mut d_mean = vec![E::zero(); fused.mean.len()];
        let mut d_square = vec![E::zero(); fused.mean.len()];
        for source in [self.visible, self.infrared] {
            let moments = Moments::of(&window, source, self.size);
            let mut cross = window.apply(&product(self.fused, source), self.size);
            for (p, cross) in cross.iter_mut().enumerate() {
                let s = Ssim::at(&fused, &moments, *cross, p);
                let (m1, m2) = (fused.mean[p], moments.mean[p]);
                let (value, cd) = (s.value(), s.c * s.d);
                let one = E::one();
                d_mean[p] +=
                    scale * two * (m2 * (s.b - s.a) / cd - value * m1 * (one / s.c - one / s.d));
                d_square[p] -= scale * value / s.d;
                *cross = scale * two * s.a / cd;
            }
            let d_cross = window.adjoint(&cross, self.size);
            for ((out, d), &source) in out.iter_mut().zip(d_cross).zip(source) {
                *out += d * source;
            }
        }
        self.add_moments_slope(&window, [&d_mean, &d_square], out);
    }

    /// Adds to `out` what the slopes of the fused image's windowed mean and square make of its pixels.
    fn add_moments_slope(&self, window: &Window<E>, slopes: [&[E]; 2], out: &mut [E]) {
        let two = E::from_f64(2.);
        let [mean, square] = slopes.map(|slope| window.adjoint(slope, self.size));
        for (((out, m), s), &f) in out.iter_mut().zip(mean).zip(square).zip(self.fused) {
            *out += m + two * f * s;
        }
    }

    /// Each source's difference from the fused image, beside the other source.
    fn differences(&self) -> [impl Iterator<Item = (f64, f64)> + Clone; 2] {
        [(self.visible, self.infrared), (self.infrared, self.visible)].map(|(one, other)| {
            let x = self.fused.iter().zip(one).map(|(f, s)| f.to_f64() - s.to_f64());
            x.zip(other.iter().map(|y| y.to_f64()))
        })
    }

    /// The two sources' information that is in the fused image, each as a part of what is in itself.
    fn vif(&self) -> f64 {
        let window = Window::new();
        let fused = Moments::of(&window, self.fused, self.size);
        let one = |source: &[E]| {
            let moments = Moments::of(&window, source, self.size);
            let cross = window.apply(&product(self.fused, source), self.size);
            let (mut kept, mut own) = (0., 0.);
            for (p, &cross) in cross.iter().enumerate() {
                let at = Vif::at(&fused, &moments, cross, p);
                kept += at.kept();
                own += at.own();
            }
            kept / (own + cross.len() as f64 * NO_INFORMATION)
        };
        one(self.visible) + one(self.infrared)
    }

    fn vif_slope(&self, scale: E, out: &mut [E]) {
        let window = Window::new();
        let fused = Moments::of(&window, self.fused, self.size);
        let mut d_mean = vec![E::zero(); fused.mean.len()];
        let mut d_square = vec![E::zero(); fused.mean.len()];
        for source in [self.visible, self.infrared] {
            let moments = Moments::of(&window, source, self.size);
            let mut cross = window.apply(&product(self.fused, source), self.size);
            let at = |p: usize, cross: E| Vif::at(&fused, &moments, cross, p);
            let own: f64 = cross.iter().enumerate().map(|(p, &cross)| at(p, cross).own()).sum();
            let scale = -0.5 * scale.to_f64() / (own + cross.len() as f64 * NO_INFORMATION);
            for (p, cross) in cross.iter_mut().enumerate() {
                let [d_covariance, d_variance] = at(p, *cross).slope().map(|d| scale * d);
                // cov = cross − mean·mean, var = square − mean².
                let (m1, m2) = (fused.mean[p].to_f64(), moments.mean[p].to_f64());
                d_mean[p] += E::from_f64(-d_covariance * m2 - 2. * d_variance * m1);
                d_square[p] += E::from_f64(d_variance);
                *cross = E::from_f64(d_covariance);
            }
            let d_cross = window.adjoint(&cross, self.size);
            for ((out, d), &source) in out.iter_mut().zip(d_cross).zip(source) {
                *out += d * source;
            }
        }
        self.add_moments_slope(&window, [&d_mean, &d_square], out);
    }

    fn scd(&self) -> f64 {
        self.differences().map(|pixels| Correlation::of(pixels).value).iter().sum()
    }

    fn scd_slope(&self, scale: E, out: &mut [E]) {
        let scale = -0.5 * scale.to_f64();
        for pixels in self.differences() {
            let correlation = Correlation::of(pixels.clone());
            for (out, (x, y)) in out.iter_mut().zip(pixels) {
                *out += E::from_f64(scale * correlation.slope(x, y));
            }
        }
    }
}

/// Pearson's correlation of a difference x = f − one source with the other source y.
struct Correlation {
    value: f64,
    mean_x: f64,
    mean_y: f64,
    /// var x + ε.
    variance_x: f64,
    /// √((var x + ε)(var y + ε)).
    product: f64,
    pixels: f64,
}

impl Correlation {
    /// Two passes in `f64`: differences are small, and their variance smaller.
    fn of(pixels: impl Iterator<Item = (f64, f64)> + Clone) -> Self {
        let (mut n, mut mean_x, mut mean_y) = (0., 0., 0.);
        for (x, y) in pixels.clone() {
            n += 1.;
            mean_x += x;
            mean_y += y;
        }
        mean_x /= n;
        mean_y /= n;
        let (mut xx, mut yy, mut xy) = (0., 0., 0.);
        for (x, y) in pixels {
            let (x, y) = (x - mean_x, y - mean_y);
            xx += x * x;
            yy += y * y;
            xy += x * y;
        }
        let variance_x = xx / n + FAINT;
        let product = (variance_x * (yy / n + FAINT)).sqrt();
        Self { value: xy / n / product, mean_x, mean_y, variance_x, product, pixels: n }
    }

    /// ∂ value / ∂ the f that x was made of.
    fn slope(&self, x: f64, y: f64) -> f64 {
        let along = (y - self.mean_y) / self.product;
        let across = self.value * (x - self.mean_x) / self.variance_x;
        (along - across) / self.pixels
    }
}

/// An image and its square under the SSIM window.
struct Moments<E> {
    mean: Vec<E>,
    square: Vec<E>,
}

impl<E: WithDType> Moments<E> {
    fn of(window: &Window<E>, image: &[E], size: Size) -> Self {
        let square = window.apply(&product(image, image), size);
        Self { mean: window.apply(image, size), square }
    }
}

/// The four factors of SSIM = a·b / (c·d) at one place.
struct Ssim<E> {
    a: E,
    b: E,
    c: E,
    d: E,
}

impl<E: WithDType> Ssim<E> {
    fn at(x: &Moments<E>, y: &Moments<E>, cross: E, p: usize) -> Self {
        let two = E::from_f64(2.);
        let (c1, c2) = (E::from_f64(C1), E::from_f64(C2));
        let (m1, m2) = (x.mean[p], y.mean[p]);
        Self {
            a: two * m1 * m2 + c1,
            b: two * (cross - m1 * m2) + c2,
            c: m1 * m1 + m2 * m2 + c1,
            d: (x.square[p] - m1 * m1) + (y.square[p] - m2 * m2) + c2,
        }
    }

    fn value(&self) -> E {
        self.a * self.b / (self.c * self.d)
    }
}

/// The variances and the covariance of a source and the fused image under the window at one place.
struct Vif {
    source: f64,
    fused: f64,
    covariance: f64,
}

impl Vif {
    fn at<E: WithDType>(fused: &Moments<E>, source: &Moments<E>, cross: E, p: usize) -> Self {
        let variance = |m: &Moments<E>| {
            let mean = m.mean[p].to_f64();
            positive(m.square[p].to_f64() - mean * mean)
        };
        let covariance = cross.to_f64() - fused.mean[p].to_f64() * source.mean[p].to_f64();
        Self { source: variance(source), fused: variance(fused), covariance }
    }

    /// The gain from the source to the fused image, and the variance that is not the source's, noise
    /// included.
    fn gain(&self) -> (f64, f64) {
        let gain = positive(self.covariance / (self.source + VIF_TINY));
        (gain, positive(self.fused - gain * self.covariance) + VIF_NOISE)
    }

    fn kept(&self) -> f64 {
        let (gain, rest) = self.gain();
        (gain * gain * self.source / rest).ln_1p()
    }

    fn own(&self) -> f64 {
        (self.source / VIF_NOISE).ln_1p()
    }

    /// ∂ kept / ∂ the covariance and / ∂ the fused image's variance.
    fn slope(&self) -> [f64; 2] {
        let (gain, rest) = self.gain();
        if gain == 0. {
            return [0., 0.];
        }
        let ratio = gain * gain * self.source / rest;
        let free = if rest > VIF_NOISE { 1. } else { 0. };
        let per_gain = 2. * gain * self.source / rest;
        let d_covariance = per_gain / (self.source + VIF_TINY) + free * 2. * gain * ratio / rest;
        [d_covariance, -free * ratio / rest].map(|d| d / (1. + ratio))
    }
}

fn product<E: WithDType>(a: &[E], b: &[E]) -> Vec<E> {
    a.iter().zip(b).map(|(&a, &b)| a * b).collect()
}

fn abs<E: WithDType>(x: E) -> E {
    if x < E::zero() { E::zero() - x } else { x }
}

/// `x`, or 0 if it is negative; NaN stays NaN, which `f64::max` would drop.
fn positive(x: f64) -> f64 {
    if x < 0. { 0. } else { x }
}

/// −1, 0 or 1; NaN stays NaN.
fn sign<E: WithDType>(x: E) -> E {
    if x > E::zero() {
        E::one()
    } else if x < E::zero() {
        E::zero() - E::one()
    } else {
        x
    }
}

/// The larger; NaN if either is.
fn larger<E: WithDType>(a: E, b: E) -> E {
    if a > b || is_nan(a) { a } else { b }
}

fn is_nan<E: WithDType>(x: E) -> bool {
    x.to_f64().is_nan()
}
