use rayon::prelude::*;

use crate::edges::{Border, Sobel};
use crate::plane::{Grid, bands};
use crate::simd::{Kernel, dispatch, sum};
use crate::{Plane, Sample};

/// SF: spatial frequency, √(mean (f(y,x+1) − f(y,x))² + mean (f(y+1,x) − f(y,x))²).
///
/// Each mean is over its own H×(W−1) or (H−1)×W differences; where there are none (one column or
/// one row) it counts as 0. From 0 (constant) to 255√2; higher is better: sharper, or noisier.
///
/// Eskicioglu, Fisher, "Image quality measures and their performance", IEEE Trans. Commun. 1995.
///
/// Checked against the ISFM authors' program.
pub fn spatial_frequency<T: Sample>(fused: &Plane<'_, T>) -> f64 {
    spatial_frequency_of(&Grid::of(fused), Mean::Differences)
}

/// AG: average gradient, mean √((gx² + gy²) / 2).
///
/// gx and gy are central differences (halved), one-sided at the border (NumPy's `gradient`), and 0
/// along an axis of one pixel. From 0 (constant) to 255; higher is better: sharper, or noisier.
///
/// Cui, Feng, Xu, Li, Chen, "Detail preserved fusion of visible and infrared images using regional
/// saliency extraction and multi-scale image decomposition", Optics Communications 2015.
///
/// Checked against the ISFM authors' program and NumPy's `gradient`.
pub fn average_gradient<T: Sample>(fused: &Plane<'_, T>) -> f64 {
    average_gradient_of(&Grid::of(fused))
}

/// EI: edge intensity, mean √(gx² + gy²) of the Sobel sums, with the outermost pixels repeated beyond
/// the border.
///
/// The sums are not divided by anything, so that a slope of one grey level a pixel counts 8. From 0
/// (constant) to below 255·3√2 = 1082; higher is better: sharper, or noisier.
///
/// Rajalingam, Priya, "Hybrid multimodality medical image fusion technique for feature enhancement in
/// medical diagnosis", International Journal of Engineering Science Invention 2018, is what the
/// benchmark VIFB (Zhang, Ye, Xiao, CVPR Workshops 2020) cites, whose choices these are.
///
/// Checked against VIFB's program and SciPy's `sobel`.
pub fn edge_intensity<T: Sample>(fused: &Plane<'_, T>) -> f64 {
    edge_intensity_of(&Grid::of(fused))
}

/// Rows of one task.
const BAND: usize = 32;

/// What a sum of differences is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mean {
    /// Their number.
    Differences,
    /// The number of pixels.
    Pixels,
}

pub(crate) fn spatial_frequency_of(g: &Grid, mean: Mean) -> f64 {
    let bands: Vec<(f64, f64)> =
        bands(g.h, BAND).map(|rows| dispatch(Squares { g, rows })).collect();
    let (across, down) = bands.iter().fold((0., 0.), |(a, d), band| (a + band.0, d + band.1));
    let (n_across, n_down) = match mean {
        Mean::Differences => (g.h * (g.w - 1), (g.h - 1) * g.w),
        Mean::Pixels => (g.h * g.w, g.h * g.w),
    };
    let mean = |sum: f64, n: usize| if n == 0 { 0. } else { sum / n as f64 };
    (mean(across, n_across) + mean(down, n_down)).sqrt()
}

pub(crate) fn average_gradient_of(g: &Grid) -> f64 {
    let bands: Vec<f64> = bands(g.h, BAND).map(|rows| dispatch(Slopes { g, rows })).collect();
    bands.iter().sum::<f64>() / g.pixels().len() as f64
}

pub(crate) fn edge_intensity_of(g: &Grid) -> f64 {
    let bands: Vec<f64> = bands(g.h, BAND).map(|rows| dispatch(Strengths { g, rows })).collect();
    bands.iter().sum::<f64>() / g.pixels().len() as f64
}

/// The sum of the strengths of Sobel edges.
struct Strengths<'a> {
    g: &'a Grid,
    rows: std::ops::Range<usize>,
}

impl Kernel for Strengths<'_> {
    type Output = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        let mut sobel = Sobel::new(self.g.w);
        let mut strengths = vec![0.; self.g.w];
        let mut total = 0.;
        for y in self.rows {
            sobel.row(self.g, y, Border::Replicate);
            for ((strength, gx), gy) in strengths.iter_mut().zip(&sobel.gx).zip(&sobel.gy) {
                *strength = (gx * gx + gy * gy).sqrt();
            }
            total += sum(&strengths);
        }
        total
    }
}

/// Squared differences to the left and to the upper neighbour.
struct Squares<'a> {
    g: &'a Grid,
    rows: std::ops::Range<usize>,
}

impl Kernel for Squares<'_> {
    type Output = (f64, f64);

    #[inline(always)]
    fn run(self) -> (f64, f64) {
        let mut squares = vec![0.; self.g.w];
        let (mut across, mut down) = (0., 0.);
        for y in self.rows {
            let row = self.g.row(y);
            for ((s, a), b) in squares.iter_mut().zip(row).zip(&row[1..]) {
                *s = (b - a) * (b - a);
            }
            across += sum(&squares[..row.len() - 1]);
            if y > 0 {
                for ((s, a), b) in squares.iter_mut().zip(self.g.row(y - 1)).zip(row) {
                    *s = (b - a) * (b - a);
                }
                down += sum(&squares);
            }
        }
        (across, down)
    }
}

/// The sum of √((gx² + gy²) / 2).
struct Slopes<'a> {
    g: &'a Grid,
    rows: std::ops::Range<usize>,
}

impl Kernel for Slopes<'_> {
    type Output = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        let w = self.g.w;
        let mut slopes = vec![0.; w];
        let mut total = 0.;
        for y in self.rows {
            along(self.g.row(y), &mut slopes);
            let (above, below) = (y.saturating_sub(1), (y + 1).min(self.g.h - 1));
            let scale = 1. / (below - above).max(1) as f64;
            let vertical = self.g.row(above).iter().zip(self.g.row(below));
            for (slope, (top, bottom)) in slopes.iter_mut().zip(vertical) {
                let gy = (bottom - top) * scale;
                *slope = ((*slope * *slope + gy * gy) * 0.5).sqrt();
            }
            total += sum(&slopes);
        }
        total
    }
}

/// Central differences along a row, one-sided at its ends; 0 in a row of one.
#[inline(always)]
pub(crate) fn along(row: &[f64], slopes: &mut [f64]) {
    let w = row.len();
    if w == 1 {
        slopes[0] = 0.;
        return;
    }
    for ((slope, left), right) in slopes[1..].iter_mut().zip(row).zip(&row[2..]) {
        *slope = (right - left) * 0.5;
    }
    slopes[0] = row[1] - row[0];
    slopes[w - 1] = row[w - 1] - row[w - 2];
}
