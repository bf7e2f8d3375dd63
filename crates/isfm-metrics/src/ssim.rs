use crate::moments::{Consumer, Moments, gaussian, slide};
use crate::plane::{Grid, Grids};
use crate::simd::sum;
use crate::{Metric, Result, Sample, Triple, mef};

/// The window's side, and so the smallest width and height.
const WINDOW: usize = 7;

const C1: f64 = (0.01 * 255.) * (0.01 * 255.);
const C2: f64 = (0.03 * 255.) * (0.03 * 255.);

/// The exponents of MS-SSIM, from the finest scale to the coarsest.
const WEIGHTS: [f64; 5] = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333];
/// The smallest width and height whose fifth scale still holds a window of 11.
const SMALLEST: usize = 161;

/// SSIM: structural similarity with each source, SSIM(f, vi) + SSIM(f, ir).
///
/// SSIM = mean of (2 μx μy + C1)(2 σxy + C2) / ((μx² + μy² + C1)(σx² + σy² + C2)) over all whole
/// 7×7 windows, uniform weights, sample (n − 1) variances and covariance, C1 = (.01·255)²,
/// C2 = (.03·255)²: scikit-image's `structural_similarity` with `data_range=255`.
///
/// From −2 to 2; higher is better.
///
/// Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural
/// similarity", IEEE Trans. Image Process. 2004.
///
/// Checked against the ISFM authors' program and scikit-image's `structural_similarity`.
///
/// # Errors
/// [`Error::TooSmall`](crate::Error::TooSmall) below 7 pixels in width or height.
pub fn ssim<T: Sample>(triple: &Triple<'_, T>) -> Result<f64> {
    ssim_of(&Grids::of(triple), Form::Uniform)
}

/// MS-SSIM: structural similarity over five scales with each source,
/// MS-SSIM(f, vi) + MS-SSIM(f, ir).
///
/// With cs = (2 σxy + C2) / (σx² + σy² + C2) and SSIM as in [`ssim()`], but over a normalised 11×11
/// Gaussian window of σ = 1.5 (whole windows only, population variances), MS-SSIM is the product of
/// the mean cs at scales 1 to 4 and the mean SSIM at scale 5, to the powers .0448, .2856, .3001,
/// .2363 and .1333. A negative mean counts as 0. From scale to scale 2×2 pixels are averaged; an odd
/// last row or column is averaged with itself.
///
/// From 0 to 2; higher is better.
///
/// Wang, Simoncelli, Bovik, "Multiscale structural similarity for image quality assessment",
/// Asilomar 2003. `pytorch-msssim` gives the same wherever no scale has an odd side; there it pads
/// with zeros. What some fusion toolboxes call MS-SSIM is a multi-scale MEF-SSIM, another measure.
///
/// Checked against `pytorch-msssim`, and for odd sides against plain NumPy
/// (`tests/fixtures/make.py`).
///
/// # Errors
/// [`Error::TooSmall`](crate::Error::TooSmall) below 161 pixels in width or height.
pub fn ms_ssim<T: Sample>(triple: &Triple<'_, T>) -> Result<f64> {
    ms_ssim_of(&Grids::of(triple), MultiScale::Wang)
}

/// What programs differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As [`ssim()`] says.
    Uniform,
    /// As there, but with the C1 and C2 of grey levels that span 2.
    UniformOfTwo,
    /// An 11×11 Gaussian window of σ = 1.5, population variances.
    Gaussian,
    /// As there, but with the C1 and C2 of grey levels that span 1.
    GaussianOfOne,
    /// The fused image against a patch made of both sources, see [`mef`](crate::mef).
    MultiExposure,
}

/// What programs differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MultiScale {
    /// As [`ms_ssim`] says.
    Wang,
    /// With the C1 and C2 of grey levels that span 1; along an odd side the 2×2 pixels begin one
    /// before the border, with zeros beyond it.
    PaddedOfOne,
    /// Three scales of [`mef`](crate::mef).
    MultiExposure,
}

/// Taps of the Gaussian window.
const GAUSSIAN_WINDOW: usize = 11;

pub(crate) fn ssim_of(g: &Grids, form: Form) -> Result<f64> {
    let uniform = matches!(form, Form::Uniform | Form::UniformOfTwo);
    g.at_least(if uniform { WINDOW } else { GAUSSIAN_WINDOW }, Metric::Ssim)?;
    // Plain sums, which are exact for whole grey levels. Hidden from the optimiser, which drops the
    // factors and with them its own vector code.
    let taps = std::hint::black_box([1.; WINDOW]);
    let [visible, infrared] = match form {
        Form::Uniform => means::<UNIFORM, WINDOW>(g, &taps),
        Form::UniformOfTwo => means::<UNIFORM, WINDOW>(&g.map(|g| g.times(255. / 2.)), &taps),
        Form::Gaussian => means::<GAUSSIAN, GAUSSIAN_WINDOW>(g, &gaussian(1.5)),
        Form::GaussianOfOne => means::<GAUSSIAN, GAUSSIAN_WINDOW>(
            &g.map(|g| g.times(255.)),
            &single_precision_window(),
        ),
        Form::MultiExposure => return Ok(mef::quality(g)),
    };
    Ok(visible + infrared)
}

pub(crate) fn ms_ssim_of(g: &Grids, form: MultiScale) -> Result<f64> {
    match form {
        MultiScale::Wang => scales(g, &gaussian(1.5), halve),
        MultiScale::PaddedOfOne => {
            scales(&g.map(|g| g.times(255.)), &single_precision_window(), halve_padded)
        }
        MultiScale::MultiExposure => {
            g.at_least(mef::SMALLEST, Metric::MsSsim)?;
            Ok(mef::multi_scale_quality(g))
        }
    }
}

/// The Gaussian window in `f32`: its sum, not quite 1, is felt where C1 and C2 are small.
fn single_precision_window() -> [f64; GAUSSIAN_WINDOW] {
    let taps: [f32; GAUSSIAN_WINDOW] =
        std::array::from_fn(|k| (-(k as f64 - 5.).powi(2) / 4.5).exp() as f32);
    let sum = taps.iter().map(|&tap| f64::from(tap)).sum::<f64>() as f32;
    taps.map(|tap| f64::from(tap / sum))
}

fn scales(g: &Grids, window: &[f64; GAUSSIAN_WINDOW], halve: fn(&Grid) -> Grid) -> Result<f64> {
    g.at_least(SMALLEST, Metric::MsSsim)?;
    let mut products = [1.; 2];
    let mut halved: Option<Grids> = None;
    for (scale, &weight) in WEIGHTS.iter().enumerate() {
        if scale > 0 {
            halved = Some(halved.as_ref().unwrap_or(g).map(halve));
        }
        let g = halved.as_ref().unwrap_or(g);
        let last = scale + 1 == WEIGHTS.len();
        let means = if last {
            means::<GAUSSIAN, GAUSSIAN_WINDOW>
        } else {
            means::<CONTRAST, GAUSSIAN_WINDOW>
        };
        for (product, mean) in products.iter_mut().zip(means(g, window)) {
            *product *= mean.max(0.).powf(weight);
        }
    }
    Ok(products[0] + products[1])
}

/// The mean over all places of the window, of the fused image with each source.
fn means<const KIND: u8, const N: usize>(g: &Grids, taps: &[f64; N]) -> [f64; 2] {
    let (w, h) = g.size();
    let places = ((w + 1 - N) * (h + 1 - N)) as f64;
    let bands: Vec<Similarity<KIND>> = slide(g, taps);
    let sums = bands.iter().fold([0.; 2], |s, b| [s[0] + b.visible, s[1] + b.infrared]);
    sums.map(|sum| sum / places)
}

/// Means of 2×2 pixels; an odd last row or column is averaged with itself.
pub(crate) fn halve(g: &Grid) -> Grid {
    let (w, h) = (g.w.div_ceil(2), g.h.div_ceil(2));
    let mut out = Grid::zeros(w, h);
    for (y, out) in out.pixels_mut().chunks_exact_mut(w).enumerate() {
        let (upper, lower) = (g.row(2 * y), g.row((2 * y + 1).min(g.h - 1)));
        for ((out, a), b) in out.iter_mut().zip(upper.chunks(2)).zip(lower.chunks(2)) {
            let last = a.len() - 1;
            *out = 0.25 * ((a[0] + a[last]) + (b[0] + b[last]));
        }
    }
    out
}

/// Means of 2×2 pixels; along an odd side a line of zeros comes first.
fn halve_padded(g: &Grid) -> Grid {
    let (left, above) = (g.w % 2, g.h % 2);
    let mut even = Grid::zeros(g.w + left, g.h + above);
    let stride = even.w;
    for (y, row) in g.rows().enumerate() {
        even.pixels_mut()[(y + above) * stride + left..][..g.w].copy_from_slice(row);
    }
    halve(&even)
}

// What is summed: SSIM from sums over 7×7 pixels, SSIM from means, cs from means.
const UNIFORM: u8 = 0;
const GAUSSIAN: u8 = 1;
const CONTRAST: u8 = 2;

/// Sums of one of these over all places, for each source.
#[derive(Default)]
struct Similarity<const KIND: u8> {
    visible: f64,
    infrared: f64,
}

impl<const KIND: u8> Consumer for Similarity<KIND> {
    #[inline(always)]
    fn row(&mut self, moments: &Moments, [map, _]: &mut [Vec<f64>; 2]) {
        let [f, ff, v, vv, fv, i, ii, fi] = moments;
        self.visible += row_sum::<KIND>([f, ff, v, vv, fv], map);
        self.infrared += row_sum::<KIND>([f, ff, i, ii, fi], map);
    }
}

#[inline(always)]
fn row_sum<const KIND: u8>([x, xx, y, yy, xy]: [&Vec<f64>; 5], map: &mut [f64]) -> f64 {
    let moments = x.iter().zip(xx).zip(y).zip(yy).zip(xy);
    for (value, ((((&x, &xx), &y), &yy), &xy)) in map.iter_mut().zip(moments) {
        *value = similarity::<KIND>(x, xx, y, yy, xy);
    }
    sum(map)
}

#[inline(always)]
fn similarity<const KIND: u8>(x: f64, xx: f64, y: f64, yy: f64, xy: f64) -> f64 {
    const N: f64 = (WINDOW * WINDOW) as f64;
    let (mean, sample) = if KIND == UNIFORM { (1. / N, N / (N - 1.)) } else { (1., 1.) };
    let (x, xx, y, yy, xy) = (x * mean, xx * mean, y * mean, yy * mean, xy * mean);
    let (mxx, myy, mxy) = (x * x, y * y, x * y);
    let variances = ((xx - mxx) + (yy - myy)) * sample;
    let covariance = (xy - mxy) * sample;
    let (above, below) = (2. * covariance + C2, variances + C2);
    if KIND == CONTRAST {
        above / below
    } else {
        (2. * mxy + C1) * above / ((mxx + myy + C1) * below)
    }
}
