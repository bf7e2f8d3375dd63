use rayon::prelude::*;

use crate::plane::Grids;
use crate::{Error, Metric, Result, Sample, Triple};

/// The window's side, and so the smallest width and height.
pub(crate) const WINDOW: usize = 7;
const C1: f64 = (0.01 * 255.) * (0.01 * 255.);
const C2: f64 = (0.03 * 255.) * (0.03 * 255.);
/// Output rows that one task computes; fixed, so that sums do not depend on the threads.
const BAND: usize = 32;

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
/// # Errors
/// [`Error::TooSmall`] below 7 pixels in width or height.
pub fn ssim<T: Sample>(triple: &Triple<'_, T>) -> Result<f64> {
    ssim_of(&Grids::of(triple))
}

/// Sums over a window's column: fused, its square, and for each source the source, its square and
/// its product with the fused image.
type Columns = [Vec<f64>; 8];

pub(crate) fn ssim_of(g: &Grids) -> Result<f64> {
    let (width, height) = g.size();
    if width.min(height) < WINDOW {
        let (metric, needed) = (Metric::Ssim, WINDOW);
        return Err(Error::TooSmall { metric, width, height, needed });
    }
    let (w, h) = (width - WINDOW + 1, height - WINDOW + 1);
    let bands: Vec<f64> = (0..h.div_ceil(BAND))
        .into_par_iter()
        .map(|band| {
            let first = band * BAND;
            let mut columns: Columns = [(); 8].map(|()| vec![0.; width]);
            let mut sums: Columns = [(); 8].map(|()| vec![0.; w]);
            let mut total = 0.;
            for y in first..first + WINDOW - 1 {
                add_row(&mut columns, g, y, 1.);
            }
            for y in first..(first + BAND).min(h) {
                add_row(&mut columns, g, y + WINDOW - 1, 1.);
                for (sum, column) in sums.iter_mut().zip(&columns) {
                    across(sum, column);
                }
                add_row(&mut columns, g, y, -1.);
                let [f, ff, v, vv, fv, i, ii, fi] = &sums;
                total += row_sum([f, ff, v, vv, fv]) + row_sum([f, ff, i, ii, fi]);
            }
            total
        })
        .collect();
    Ok(bands.iter().sum::<f64>() / (w * h) as f64)
}

fn add_row(columns: &mut Columns, g: &Grids, y: usize, sign: f64) {
    let [f, ff, v, vv, fv, i, ii, fi] = columns;
    let rows = [g.fused.row(y), g.visible.row(y), g.infrared.row(y)];
    let add = |out: &mut [f64], a: &[f64]| {
        for (out, a) in out.iter_mut().zip(a) {
            *out += sign * a;
        }
    };
    let add_product = |out: &mut [f64], a: &[f64], b: &[f64]| {
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            *out += sign * (a * b);
        }
    };
    for (out, row) in [f, v, i].into_iter().zip(rows) {
        add(out, row);
    }
    for (out, row) in [ff, vv, ii].into_iter().zip(rows) {
        add_product(out, row, row);
    }
    add_product(fv, rows[0], rows[1]);
    add_product(fi, rows[0], rows[2]);
}

/// The sums of each seven neighbours.
fn across(out: &mut [f64], columns: &[f64]) {
    let mut slices: [&[f64]; WINDOW] = [&[]; WINDOW];
    for (k, s) in slices.iter_mut().enumerate() {
        *s = &columns[k..k + out.len()];
    }
    let [a, b, c, d, e, f, g] = slices;
    for (x, out) in out.iter_mut().enumerate() {
        *out = ((a[x] + b[x]) + (c[x] + d[x])) + ((e[x] + f[x]) + g[x]);
    }
}

/// The SSIM map's sum over one row, from window sums.
fn row_sum([x, xx, y, yy, xy]: [&Vec<f64>; 5]) -> f64 {
    const N: f64 = (WINDOW * WINDOW) as f64;
    const SAMPLE: f64 = N / (N - 1.);
    let windows = x.iter().zip(xx).zip(y).zip(yy).zip(xy);
    windows
        .map(|((((&x, &xx), &y), &yy), &xy)| {
            let (mx, my) = (x / N, y / N);
            let vx = SAMPLE * (xx / N - mx * mx);
            let vy = SAMPLE * (yy / N - my * my);
            let cov = SAMPLE * (xy / N - mx * my);
            (2. * mx * my + C1) * (2. * cov + C2) / ((mx * mx + my * my + C1) * (vx + vy + C2))
        })
        .sum()
}
