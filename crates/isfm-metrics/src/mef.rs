//! MEF-SSIM: the structural similarity of the fused image with a patch made of both sources, which
//! some toolboxes print as SSIM, and over three scales as MS-SSIM.
//!
//! Ma, Zeng, Wang, "Perceptual quality assessment for multi-exposure image fusion", IEEE Trans. Image
//! Process. 2015. In each 11×11 window a source less its mean is a structure of some strength. The
//! wanted patch has the larger strength and the mean of both structures, weighted by a power of
//! strength that rises with how alike the structures are. The similarity is
//! (2 σ₁₂ + C)/(σ₁² + σ₂² + C) with an 11×11 Gaussian of σ = 1.5.

use rayon::prelude::*;

use crate::moments::{filter, gaussian};
use crate::plane::{Grid, Grids};
use crate::simd::LANES;
use crate::ssim::halve;

const WINDOW: usize = 11;
/// Pixels of a window.
const N: f64 = (WINDOW * WINDOW) as f64;
const C: f64 = (0.03 * 255.) * (0.03 * 255.);
/// Added to a strength, so that it can be divided by.
const FAINT: f64 = 0.001;
/// The largest power.
const POWER: f64 = 10.;
/// Of the scales, from the finest; divided by their sum.
const WEIGHTS: [f64; 3] = [0.0448, 0.2856, 0.3001];
/// The smallest width and height whose third scale still holds a window.
pub(crate) const SMALLEST: usize = 44;

/// The mean similarity. The images must hold a window.
pub(crate) fn quality(images: &Grids) -> f64 {
    let Grids { visible: v, infrared: i, fused: f } = images;
    let pairs = [(v, v), (i, i), (v, i), (f, f), (f, v), (f, i)];
    let products: Vec<Grid> = pairs.par_iter().map(|(a, b)| times(a, b)).collect();
    let [vv, ii, vi, ff, fv, fi] = &products[..] else { unreachable!("six products") };
    // Plain sums, which are exact for whole grey levels: a flat window has no strength at all.
    let sums: Vec<Grid> =
        [v, i, vv, ii, vi].par_iter().map(|g| filter(g, &[1.; WINDOW], 1)).collect();
    let window = gaussian::<WINDOW>(1.5);
    let means: Vec<Grid> =
        [v, i, f, vv, ii, vi, ff, fv, fi].par_iter().map(|g| filter(g, &window, 1)).collect();
    let (w, h) = (sums[0].w, sums[0].h);
    let rows: Vec<f64> = (0..h)
        .into_par_iter()
        .map(|y| {
            let sums: Vec<&[f64]> = sums.iter().map(|g| g.row(y)).collect();
            let means: Vec<&[f64]> = means.iter().map(|g| g.row(y)).collect();
            let at = |x: usize| {
                let sums = std::array::from_fn(|k| sums[k][x]);
                similarity(sums, std::array::from_fn(|k| means[k][x]))
            };
            (0..w).map(at).sum()
        })
        .collect();
    rows.iter().sum::<f64>() / (w * h) as f64
}

/// The product over three scales. A negative mean counts as 0.
pub(crate) fn multi_scale_quality(images: &Grids) -> f64 {
    let second = images.map(halve);
    let third = second.map(halve);
    let total: f64 = WEIGHTS.iter().sum();
    let qualities = [images, &second, &third].map(quality);
    qualities.iter().zip(WEIGHTS).map(|(q, weight)| q.max(0.).powf(weight / total)).product()
}

fn times(a: &Grid, b: &Grid) -> Grid {
    let product = a.pixels().iter().zip(b.pixels()).map(|(a, b)| a * b);
    // Room for what a grid adds.
    let mut data = Vec::with_capacity(a.pixels().len() + LANES);
    data.extend(product);
    Grid::from_pixels(data, a.w, a.h)
}

/// Of one window, from the sums of v, i, v², i² and v·i and the Gaussian means of v, i, f, v², i²,
/// v·i, f², f·v and f·i.
fn similarity([v, i, vv, ii, vi]: [f64; 5], means: [f64; 9]) -> f64 {
    // Σ (a − mean a)(b − mean b).
    let centred = |ab: f64, a: f64, b: f64| (N * ab - a * b) / N;
    let (vv, ii, vi) = (centred(vv, v, v).max(0.), centred(ii, i, i).max(0.), centred(vi, v, i));
    let strengths = [vv.sqrt(), ii.sqrt()];
    let together = (vv + ii + 2. * vi).max(0.).sqrt();
    let alike = (together + f64::EPSILON) / (strengths[0] + strengths[1] + f64::EPSILON);
    let power = (std::f64::consts::FRAC_PI_2 * alike.min(1.)).tan().min(POWER);
    let strengths = strengths.map(|s| s + FAINT);
    let weights = strengths.map(|s| (s / WINDOW as f64).powf(power) + f64::EPSILON);
    let total = weights[0] + weights[1];
    let [cv, ci] = [0, 1].map(|k| weights[k] / total / strengths[k]);
    let norm = (cv * cv * vv + ci * ci * ii + 2. * cv * ci * vi).max(0.).sqrt();
    let scale = if norm > 0. { strengths[0].max(strengths[1]) / norm } else { 0. };
    let (cv, ci) = (cv * scale, ci * scale);

    let [v, i, f, vv, ii, vi, ff, fv, fi] = means;
    let (vv, ii, vi) = (vv - v * v, ii - i * i, vi - v * i);
    let wanted = cv * cv * vv + ci * ci * ii + 2. * cv * ci * vi;
    let covariance = cv * (fv - f * v) + ci * (fi - f * i);
    (2. * covariance + C) / (wanted + (ff - f * f) + C)
}
