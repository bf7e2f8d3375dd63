use rayon::prelude::*;

use crate::math::ln;
use crate::plane::{Grid, Grids, bands};
use crate::simd::{Kernel, LANES, V, dispatch};
use crate::{Metric, Result, Sample, Triple, differences, fourier, wavelet};

/// What [`fmi`] compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Feature {
    /// The pixels themselves.
    Pixel,
    /// Horizontal central differences, one-sided at the border (the first result of MATLAB's
    /// `gradient`).
    Gradient,
    /// The orthonormal DCT-II of the whole image.
    Dct,
    /// One level of the discrete Meyer wavelet transform (PyWavelets' `dmey`, half-sample symmetric
    /// border), its four bands put together in one picture and stretched to 0…1.
    Wavelet,
}

impl Feature {
    fn metric(self) -> Metric {
        match self {
            Feature::Pixel => Metric::FmiPixel,
            Feature::Gradient => Metric::FmiGradient,
            Feature::Dct => Metric::FmiDct,
            Feature::Wavelet => Metric::FmiWavelet,
        }
    }
}

/// The window's side, and so the smallest width and height.
const SIDE: usize = 3;
const WINDOW: usize = SIDE * SIDE;
/// Rows of windows of one task.
const BAND: usize = 8;
/// Features closer than this are the same: what transforms leave of equal ones is rounding.
const SAME: f64 = 1e-9;
/// Variance of the place below which there is only one.
const CERTAIN: f64 = 1e-12;

/// FMI: feature mutual information, the mean over all 3×3 windows of ½(I(f, vi) + I(f, ir)).
///
/// In each window the feature values, column after column and scaled to 0…1, are taken for a
/// probability density over nine places, a for a source and f for the fused image. I is the
/// normalised mutual information 2(H(a) + H(f) − H(a, f)) / (H(a) + H(f)). The joint density is
/// Nelsen's: with c Pearson's correlation of the two lists of densities, φ times the
/// Fréchet–Hoeffding bound (upper where c ≥ 0, lower where c < 0) plus 1 − φ times the product of
/// the densities, φ = c / (the correlation of the bound itself). Entropies are −Σ p log|p|: φ
/// may exceed 1 and a "density" be negative, as in the authors' program, which takes the real part
/// of the logarithm.
///
/// From 0 to 1 (and barely beyond, see above); higher is better. Identical windows count as 1, a
/// constant window against any other as 0, so identical images of any kind give 1.
///
/// Haghighat, Aghagolzadeh, Seyedarabi, "A non-reference image fusion metric based on mutual
/// information of image features", Computers & Electrical Engineering 2011; the fast form of
/// Haghighat, Razian, "Fast-FMI: non-reference image fusion metric", AICT 2014. That program's
/// default, and what many tables call FMI_pixel, compares Canny-like edge maps instead of pixels;
/// its `dmey` has 102 taps where this one's has 62.
///
/// Checked against plain NumPy written from the papers (`tests/fixtures/make.py`), with SciPy's
/// `dctn` and PyWavelets' `dwt2`.
///
/// # Errors
/// [`Error::TooSmall`](crate::Error::TooSmall) below 3 pixels in width or height.
pub fn fmi<T: Sample>(triple: &Triple<'_, T>, feature: Feature) -> Result<f64> {
    fmi_of(&Grids::of(triple), feature)
}

pub(crate) fn fmi_of(images: &Grids, feature: Feature) -> Result<f64> {
    images.at_least(SIDE, feature.metric())?;
    Ok(match feature {
        Feature::Pixel => compare(images),
        Feature::Gradient => compare(&images.map(gradient)),
        Feature::Dct => compare(&images.map(fourier::dct2)),
        Feature::Wavelet => compare(&images.map(|g| stretched(wavelet::bands(g)))),
    })
}

fn gradient(g: &Grid) -> Grid {
    let mut out = Grid::zeros(g.w, g.h);
    for (slopes, row) in out.pixels_mut().chunks_exact_mut(g.w).zip(g.rows()) {
        differences::along(row, slopes);
    }
    out
}

/// From the least value to the greatest as 0…1; ones where there is only one value.
fn stretched(mut g: Grid) -> Grid {
    let (least, most) = g.range();
    let constant = most - least <= SAME;
    for p in g.pixels_mut() {
        *p = if constant { 1. } else { (*p - least) / (most - least) };
    }
    g
}

fn compare(Grids { visible, infrared, fused }: &Grids) -> f64 {
    let features = [visible, infrared, fused];
    let (w, h) = (fused.w - SIDE + 1, fused.h - SIDE + 1);
    let bands: Vec<f64> = bands(h, BAND).map(|rows| dispatch(Band { features, rows })).collect();
    0.5 * bands.iter().sum::<f64>() / (w * h) as f64
}

struct Band<'a> {
    features: [&'a Grid; 3],
    rows: std::ops::Range<usize>,
}

impl Kernel for Band<'_> {
    type Output = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        let w = self.features[0].w;
        let places = w - SIDE + 1;
        // One vector longer than the rows, which windows of the last places look into.
        let mut rows = vec![0.; 3 * SIDE * (w.next_multiple_of(LANES) + LANES)];
        let stride = rows.len() / (3 * SIDE);
        let mut total = 0.;
        for y in self.rows {
            for (k, row) in rows.chunks_exact_mut(stride).enumerate() {
                row[..w].copy_from_slice(self.features[k / SIDE].row(y + k % SIDE));
            }
            let mut sums = V::splat(0.);
            for x in (0..places).step_by(LANES) {
                // Column after column.
                let mut windows = [[V::splat(0.); WINDOW]; 3];
                for (k, window) in windows.iter_mut().enumerate() {
                    for (p, value) in window.iter_mut().enumerate() {
                        let row = k * SIDE + p % SIDE;
                        *value = V::load(&rows, row * stride + x + p / SIDE);
                    }
                }
                let fused = Density::of(&windows[2]);
                let mut both = V::splat(0.);
                for source in &windows[..2] {
                    let density = Density::of(source);
                    let mut apart = V::splat(0.);
                    for (a, b) in source.iter().zip(&windows[2]) {
                        apart = apart.max((*a - *b).abs());
                    }
                    let value = information(&density, &fused);
                    both += V::splat(SAME).select_less(apart, value, V::splat(1.));
                }
                sums += both.first(places - x, 0.);
            }
            total += sums.sum();
        }
        total
    }
}

/// A window's values as probabilities of nine places, and what is needed of them.
struct Density {
    p: [V; WINDOW],
    cumulative: [V; WINDOW],
    /// 1 where the window is constant, 0 elsewhere.
    constant: V,
    /// p minus its mean, and the sum of the squares.
    centred: [V; WINDOW],
    squares: V,
    /// Standard deviation of the place.
    deviation: V,
    /// In nats.
    entropy: V,
}

impl Density {
    #[inline(always)]
    fn of(values: &[V; WINDOW]) -> Self {
        let zero = V::splat(0.);
        let (mut least, mut most) = (values[0], values[0]);
        for v in &values[1..] {
            least = least.min(*v);
            most = most.max(*v);
        }
        let range = most - least;
        let constant = V::splat(SAME).select_less(range, zero, V::splat(1.));
        let mut p = [zero; WINDOW];
        let mut total = zero;
        for (p, v) in p.iter_mut().zip(values) {
            let scaled = (*v - least) / range;
            *p = zero.select_less(constant, V::splat(1.), scaled);
            total += *p;
        }
        let (mut cumulative, mut sum) = ([zero; WINDOW], zero);
        let (mut first, mut second, mut entropy) = (zero, zero, zero);
        for k in 0..WINDOW {
            p[k] = p[k] / total;
            sum += p[k];
            cumulative[k] = sum;
            let place = V::splat((k + 1) as f64);
            first += p[k] * place;
            second += p[k] * place * place;
            entropy = entropy - p_ln_p(p[k]);
        }
        let mean = sum * (1. / WINDOW as f64);
        let (mut centred, mut squares) = ([zero; WINDOW], zero);
        for k in 0..WINDOW {
            centred[k] = p[k] - mean;
            squares += centred[k] * centred[k];
        }
        // Below this a single place has it all, and the rest is rounding.
        let variance = second - first * first;
        let deviation = V::splat(CERTAIN).select_less(variance, variance, zero).sqrt();
        Self { p, cumulative, constant, centred, squares, deviation, entropy }
    }
}

/// p ln |p|, 0 for 0.
#[inline(always)]
fn p_ln_p(p: V) -> V {
    p * p.abs().max(V::splat(f64::MIN_POSITIVE)).map(ln)
}

/// Normalised mutual information of two densities.
#[inline(always)]
fn information(a: &Density, f: &Density) -> V {
    let (zero, one) = (V::splat(0.), V::splat(1.));
    let mut product = zero;
    for k in 0..WINDOW {
        product += a.centred[k] * f.centred[k];
    }
    let c = product / (a.squares * f.squares).sqrt();
    let c = zero.select_less(a.constant + f.constant, zero, c);

    // The bound's covariance; its densities are differences of the bound.
    let mut covariance = zero;
    for i in 0..WINDOW {
        for j in 0..WINDOW {
            let (x, y) = (f.cumulative[i], a.cumulative[j]);
            covariance += bound(c, x, y) - x * y;
        }
    }
    let deviations = f.deviation * a.deviation;
    let phi = c / (covariance / deviations);
    let phi = zero.select_less(deviations, phi, zero);
    let phi = zero.select_less(c.abs(), phi, zero);
    let rest = one - phi;

    let mut joint = zero;
    let mut above = [zero; WINDOW];
    for i in 0..WINDOW {
        let mut row = [zero; WINDOW];
        for j in 0..WINDOW {
            row[j] = bound(c, f.cumulative[i], a.cumulative[j]);
            let left = if j > 0 { row[j - 1] - above[j - 1] } else { zero };
            let density = row[j] - above[j] - left;
            joint = joint - p_ln_p(phi * density + rest * f.p[i] * a.p[j]);
        }
        above = row;
    }
    let entropies = a.entropy + f.entropy;
    let value = (entropies - joint) * 2. / entropies;
    let value = zero.select_less(entropies, value, zero);
    zero.select_less(a.constant + f.constant, zero, value)
}

/// The Fréchet–Hoeffding bound of a joint distribution: the upper for c ≥ 0, the lower for c < 0.
#[inline(always)]
fn bound(c: V, x: V, y: V) -> V {
    let zero = V::splat(0.);
    c.select_less(zero, (x + y - V::splat(1.)).max(zero), x.min(y))
}
