use crate::moments::{Consumer, Moments, gaussian, slide};
use crate::plane::{Grid, Grids};
use crate::simd::sum;
use crate::{Error, Metric, Result, Sample, Triple};

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
/// [`Error::TooSmall`] below 7 pixels in width or height.
pub fn ssim<T: Sample>(triple: &Triple<'_, T>) -> Result<f64> {
    ssim_of(&Grids::of(triple))
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
/// [`Error::TooSmall`] below 161 pixels in width or height.
pub fn ms_ssim<T: Sample>(triple: &Triple<'_, T>) -> Result<f64> {
    ms_ssim_of(&Grids::of(triple))
}

pub(crate) fn ssim_of(g: &Grids) -> Result<f64> {
    let (width, height) = g.size();
    if width.min(height) < WINDOW {
        let (metric, needed) = (Metric::Ssim, WINDOW);
        return Err(Error::TooSmall { metric, width, height, needed });
    }
    let places = ((width - WINDOW + 1) * (height - WINDOW + 1)) as f64;
    // Plain sums, which are exact for whole grey levels. Hidden from the optimiser, which drops the
    // factors and with them its own vector code.
    let bands: Vec<Similarity<true>> = slide(g, &std::hint::black_box([1.; WINDOW]));
    Ok(bands.iter().map(|b| b.visible[0] + b.infrared[0]).sum::<f64>() / places)
}

pub(crate) fn ms_ssim_of(g: &Grids) -> Result<f64> {
    let (width, height) = g.size();
    if width.min(height) < SMALLEST {
        let (metric, needed) = (Metric::MsSsim, SMALLEST);
        return Err(Error::TooSmall { metric, width, height, needed });
    }
    let window = gaussian::<11>(1.5);
    let (mut visible, mut infrared) = (1., 1.);
    let mut halved: Option<Grids> = None;
    for (scale, &weight) in WEIGHTS.iter().enumerate() {
        if scale > 0 {
            let g = halved.as_ref().unwrap_or(g);
            let (visible, infrared, fused) =
                (halve(&g.visible), halve(&g.infrared), halve(&g.fused));
            halved = Some(Grids { visible, infrared, fused });
        }
        let g = halved.as_ref().unwrap_or(g);
        let (w, h) = g.size();
        let places = ((w + 1 - window.len()) * (h + 1 - window.len())) as f64;
        let bands: Vec<Similarity<false>> = slide(g, &window);
        // The whole similarity at the coarsest scale, only cs before.
        let part = usize::from(scale + 1 < WEIGHTS.len());
        let mean = |sum: fn(&Similarity<false>) -> &[f64; 2]| {
            let mean = bands.iter().map(|b| sum(b)[part]).sum::<f64>() / places;
            mean.max(0.).powf(weight)
        };
        visible *= mean(|b| &b.visible);
        infrared *= mean(|b| &b.infrared);
    }
    Ok(visible + infrared)
}

/// Means of 2×2 pixels.
fn halve(g: &Grid) -> Grid {
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

/// Sums of the SSIM map, and of cs alone, for each source. `UNIFORM`: the moments are sums over 7×7
/// pixels, otherwise means.
#[derive(Default)]
struct Similarity<const UNIFORM: bool> {
    visible: [f64; 2],
    infrared: [f64; 2],
}

impl<const UNIFORM: bool> Consumer for Similarity<UNIFORM> {
    #[inline(always)]
    fn row(&mut self, moments: &Moments, scratch: &mut [Vec<f64>; 2]) {
        let [f, ff, v, vv, fv, i, ii, fi] = moments;
        add_row::<UNIFORM>(&mut self.visible, [f, ff, v, vv, fv], scratch);
        add_row::<UNIFORM>(&mut self.infrared, [f, ff, i, ii, fi], scratch);
    }
}

#[inline(always)]
fn add_row<const UNIFORM: bool>(
    sums: &mut [f64; 2],
    [x, xx, y, yy, xy]: [&Vec<f64>; 5],
    [ssim, cs]: &mut [Vec<f64>; 2],
) {
    let moments = x.iter().zip(xx).zip(y).zip(yy).zip(xy);
    for ((ssim, cs), ((((&x, &xx), &y), &yy), &xy)) in
        ssim.iter_mut().zip(cs.iter_mut()).zip(moments)
    {
        (*ssim, *cs) = if UNIFORM {
            const ONE: f64 = 1. / (WINDOW * WINDOW) as f64;
            similarity::<UNIFORM>(x * ONE, xx * ONE, y * ONE, yy * ONE, xy * ONE)
        } else {
            similarity::<UNIFORM>(x, xx, y, yy, xy)
        };
    }
    sums[0] += sum(ssim);
    sums[1] += sum(cs);
}

/// SSIM and cs from means.
#[inline(always)]
fn similarity<const UNIFORM: bool>(x: f64, xx: f64, y: f64, yy: f64, xy: f64) -> (f64, f64) {
    const N: f64 = (WINDOW * WINDOW) as f64;
    let sample = if UNIFORM { N / (N - 1.) } else { 1. };
    let (mxx, myy, mxy) = (x * x, y * y, x * y);
    let variances = ((xx - mxx) + (yy - myy)) * sample;
    let covariance = (xy - mxy) * sample;
    let (above, below) = (2. * covariance + C2, variances + C2);
    let means = (2. * mxy + C1, mxx + myy + C1);
    // cs is not asked for where the window is uniform: one division.
    let cs = if UNIFORM { 0. } else { above / below };
    (means.0 * above / (means.1 * below), cs)
}
