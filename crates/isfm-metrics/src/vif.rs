use crate::math::ln;
use crate::moments::{Consumer, Moments, filter, gaussian, padded, slide, slide_any};
use crate::plane::{Grid, Grids};
use crate::simd::{LANES, V};
use crate::{Metric, Result, Sample, Triple};

/// The smallest width and height whose fourth scale still holds a window.
pub(crate) const SMALLEST: usize = 41;
/// Variance of the noise of the eye.
const NOISE: f64 = 2.;
const EPSILON: f64 = 1e-10;
/// Factors multiplied before one logarithm is taken of all. Each is between 1 and
/// 1 + (255/2)²/2 < 2¹³, so the product stays inside the range of `f64`.
const LOG_BATCH: usize = 64;

/// VIF: visual information fidelity in the pixel domain (VIFp), the source as the reference and
/// the fused image as the distorted one, VIF(vi, f) + VIF(ir, f).
///
/// Four scales; at scale s the Gaussian window has N = 2^(5−s) + 1 taps (17, 9, 5, 3) and σ = N/5;
/// before scales 2 to 4 both images are filtered with that scale's window and every second row and
/// column is kept. Filters see whole windows only ('valid'). With local variances σ1² (source),
/// σ2² (fused), covariance σ12, gain g = σ12/σ1² and rest sv = σ2² − g σ12,
///
/// VIF = Σ log(1 + g²σ1²/(sv + 2)) / Σ log(1 + σ1²/2) over all scales and pixels.
///
/// About 0 to 2, and above 2 where the fused image has more contrast than the sources; higher is
/// better. A source without any variation says nothing and counts as 1.
///
/// Sheikh, Bovik, "Image information and visual quality", IEEE Trans. Image Process. 2006.
/// Conventions are those of the authors' `vifp_mscale` (noise variance 2); the sum over sources is
/// the fusion papers'.
///
/// Checked against the ISFM authors' program and sewar's `vifp`.
///
/// # Errors
/// [`Error::TooSmall`](crate::Error::TooSmall) below 41 pixels in width or height, where the fourth scale is empty: a value
/// from fewer scales could not be compared with others.
pub fn vif<T: Sample>(triple: &Triple<'_, T>) -> Result<f64> {
    vif_of(&Grids::of(triple), Form::Whole)
}

/// What programs differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As [`vif`] says.
    Whole,
    /// At the first scale the products of two grey levels stop at 255, as those of MATLAB's bytes.
    Saturated,
    /// Zeros beyond the border, and windows of N taps at −(N + 1)/2, …, (N − 1)/2 in steps of
    /// N/(N − 1), weighed by a Gaussian about 0: they lie half a pixel or more off the centre.
    Shifted,
}

pub(crate) fn vif_of(images: &Grids, form: Form) -> Result<f64> {
    if form == Form::Shifted {
        return Ok(shifted(images));
    }
    images.at_least(SMALLEST, Metric::Vif)?;
    let sums = match form {
        Form::Saturated => any_scale(images, &window::<17>(), 255.),
        _ => scale::<17>(images),
    };
    let g = images.map(halved::<9>);
    let sums = sums.add(scale::<9>(&g));
    let g = g.map(halved::<5>);
    let sums = sums.add(scale::<5>(&g));
    let g = g.map(halved::<3>);
    let sums = sums.add(scale::<3>(&g));
    Ok(sums.0[0].ratio() + sums.0[1].ratio())
}

fn shifted(images: &Grids) -> f64 {
    let sums = shifted_scale::<17>(images);
    let g = images.map(shifted_half::<9>);
    let sums = sums.add(shifted_scale::<9>(&g));
    let g = g.map(shifted_half::<5>);
    let sums = sums.add(shifted_scale::<5>(&g));
    let g = g.map(shifted_half::<3>);
    let sums = sums.add(shifted_scale::<3>(&g));
    sums.0[0].ratio() + sums.0[1].ratio()
}

fn shifted_scale<const N: usize>(images: &Grids) -> Sums {
    any_scale(&images.map(|g| padded(g, N / 2)), &shifted_window::<N>(), f64::INFINITY)
}

fn shifted_half<const N: usize>(g: &Grid) -> Grid {
    filter(&padded(g, N / 2), &shifted_window::<N>(), 2)
}

fn shifted_window<const N: usize>() -> [f64; N] {
    let (n, sigma) = (N as f64, N as f64 / 5.);
    let place = |k: usize| -(n + 1.) / 2. + k as f64 * n / (n - 1.);
    let at = |k: usize| (-place(k).powi(2) / (2. * sigma * sigma)).exp();
    let sum: f64 = (0..N).map(at).sum();
    std::array::from_fn(|k| at(k) / sum)
}

fn window<const N: usize>() -> [f64; N] {
    gaussian(N as f64 / 5.)
}

/// One scale's contribution; both sources share the fused image's moments.
fn scale<const N: usize>(images: &Grids) -> Sums {
    let bands: Vec<Sums> = slide(images, &window::<N>());
    bands.into_iter().fold(Sums::default(), Sums::add)
}

/// As [`scale`], of any window and of products that are at most `most`.
fn any_scale(images: &Grids, window: &[f64], most: f64) -> Sums {
    let bands: Vec<Sums> = slide_any(images, window, most);
    bands.into_iter().fold(Sums::default(), Sums::add)
}

/// Numerator and denominator for one source.
#[derive(Clone, Copy, Default)]
struct Fraction {
    above: f64,
    below: f64,
}

impl Fraction {
    fn ratio(self) -> f64 {
        if self.below > 0. { self.above / self.below } else { 1. }
    }
    fn add(self, other: Self) -> Self {
        Self { above: self.above + other.above, below: self.below + other.below }
    }
}

/// Of the visible and of the infrared image.
#[derive(Clone, Copy, Default)]
struct Sums([Fraction; 2]);

impl Sums {
    fn add(self, other: Self) -> Self {
        Self([self.0[0].add(other.0[0]), self.0[1].add(other.0[1])])
    }
}

impl Consumer for Sums {
    #[inline(always)]
    fn row(&mut self, moments: &Moments, scratch: &mut [Vec<f64>; 2]) {
        let [f, ff, v, vv, fv, i, ii, fi] = moments;
        let [visible, infrared] = &mut self.0;
        add_row(visible, [v, vv, f, ff, fv], scratch);
        add_row(infrared, [i, ii, f, ff, fi], scratch);
    }
}

/// Adds one row's terms, from the windowed source, its square, the fused image, its square and the
/// product of both.
#[inline(always)]
fn add_row(
    sum: &mut Fraction,
    [m1, e1, m2, e2, e12]: [&Vec<f64>; 5],
    [above, below]: &mut [Vec<f64>; 2],
) {
    // One result a loop: for two the compiler would have too many slices to tell apart.
    let moments = m1.iter().zip(e1).zip(m2).zip(e2).zip(e12);
    for (above, ((((&m1, &e1), &m2), &e2), &e12)) in above.iter_mut().zip(moments) {
        *above = kept(m1, e1, m2, e2, e12);
    }
    for (below, (&m1, &e1)) in below.iter_mut().zip(m1.iter().zip(e1)) {
        *below = 1. + variance(m1, e1) * (1. / NOISE);
    }
    sum.above += sum_of_logarithms(above);
    sum.below += sum_of_logarithms(below);
}

#[inline(always)]
fn sum_of_logarithms(factors: &[f64]) -> f64 {
    let mut sum = 0.;
    for batch in factors.chunks(LOG_BATCH * LANES) {
        let mut product = V::splat(1.);
        let vectors = batch.chunks_exact(LANES);
        let rest: f64 = vectors.remainder().iter().product();
        for vector in vectors {
            product = product * V::load(vector, 0);
        }
        sum += if product.sum().is_finite() {
            product.map(ln).sum() + ln(rest)
        } else {
            // Saturated products are no covariances and have no bound.
            batch.iter().map(|&factor| ln(factor)).sum()
        };
    }
    sum
}

/// A variance from the means of a value and of its square; 0 where it is only rounding.
#[inline(always)]
fn variance(mean: f64, square: f64) -> f64 {
    let variance = square - mean * mean;
    if variance < EPSILON { 0. } else { variance }
}

/// What the upper logarithm of a pixel is taken of.
#[inline(always)]
fn kept(m1: f64, e1: f64, m2: f64, e2: f64, e12: f64) -> f64 {
    let var1 = variance(m1, e1);
    let var2 = e2 - m2 * m2;
    let var2 = if var2 > 0. { var2 } else { 0. };
    let covariance = e12 - m1 * m2;
    let gain = covariance / (var1 + EPSILON);
    // A flat source, or an inverted image, is no signal.
    let no_signal = (var1 == 0.) | (gain < 0.);
    let rest = if no_signal { var2 } else { var2 - gain * covariance };
    let rest = if var2 < EPSILON { 0. } else { rest };
    let gain = if no_signal | (var2 < EPSILON) { 0. } else { gain };
    let rest = if rest < EPSILON { EPSILON } else { rest };
    1. + gain * gain * var1 / (rest + NOISE)
}

/// An image of the next scale: the window over it, every second row and column of the result.
fn halved<const N: usize>(g: &Grid) -> Grid {
    filter(g, &window::<N>(), 2)
}
