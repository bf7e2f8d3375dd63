use rayon::prelude::*;

use crate::plane::{Grid, Grids};
use crate::{Error, Metric, Result, Sample, Triple};

const SCALES: u32 = 4;
/// The smallest width and height whose fourth scale still holds a window.
pub(crate) const SMALLEST: usize = 41;
/// Variance of the noise of the eye.
const NOISE: f64 = 2.;
const EPSILON: f64 = 1e-10;
/// Output rows that one task computes; fixed, so that sums do not depend on the threads.
const BAND: usize = 16;
/// Terms multiplied before one logarithm is taken of all. Each is between 1 and 1 + 255²/8, so
/// the product stays far inside the range of `f64`.
const LOG_BATCH: usize = 16;

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
/// # Errors
/// [`Error::TooSmall`] below 41 pixels in width or height, where the fourth scale is empty: a value
/// from fewer scales could not be compared with others.
pub fn vif<T: Sample>(triple: &Triple<'_, T>) -> Result<f64> {
    vif_of(Grids::of(triple))
}

pub(crate) fn vif_of(images: Grids) -> Result<f64> {
    let (width, height) = images.size();
    if width.min(height) < SMALLEST {
        let (metric, needed) = (Metric::Vif, SMALLEST);
        return Err(Error::TooSmall { metric, width, height, needed });
    }
    let mut g = images;
    let mut sums = Sums::default();
    for scale in 1..=SCALES {
        let window = gaussian(scale);
        if scale > 1 {
            g = Grids {
                visible: halve(&g.visible, &window),
                infrared: halve(&g.infrared, &window),
                fused: halve(&g.fused, &window),
            };
        }
        sums = sums.add(scale_sums(&g, &window));
    }
    Ok(sums.visible.ratio() + sums.infrared.ratio())
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

#[derive(Clone, Copy, Default)]
struct Sums {
    visible: Fraction,
    infrared: Fraction,
}

impl Sums {
    fn add(self, other: Self) -> Self {
        Self {
            visible: self.visible.add(other.visible),
            infrared: self.infrared.add(other.infrared),
        }
    }
}

fn gaussian(scale: u32) -> Vec<f64> {
    let n = (1usize << (5 - scale)) + 1;
    let sigma = n as f64 / 5.;
    let centre = (n / 2) as f64;
    let at = |i: usize| (-(i as f64 - centre).powi(2) / (2. * sigma * sigma)).exp();
    let sum: f64 = (0..n).map(at).sum();
    (0..n).map(|i| at(i) / sum).collect()
}

/// out = Σ taps\[k\]·slice(k), for symmetric taps of an odd number. Down a column, the slices are
/// rows; along a row, they are the row shifted.
fn weighted_sum<'a>(out: &mut [f64], taps: &[f64], slice: impl Fn(usize) -> &'a [f64]) {
    let last = taps.len() - 1;
    let centre = taps.len() / 2;
    for (o, &c) in out.iter_mut().zip(slice(centre)) {
        *o = taps[centre] * c;
    }
    for (k, &tap) in taps[..centre].iter().enumerate() {
        for ((o, &a), &b) in out.iter_mut().zip(slice(k)).zip(slice(last - k)) {
            *o += tap * (a + b);
        }
    }
}

/// The window over an image, every second row and column of the result.
fn halve(g: &Grid, taps: &[f64]) -> Grid {
    let n = taps.len();
    let (w, h) = ((g.w - n + 1).div_ceil(2), (g.h - n + 1).div_ceil(2));
    let mut data = vec![0.; w * h];
    data.par_chunks_mut(BAND * w).enumerate().for_each(|(band, rows)| {
        let mut column = vec![0.; g.w];
        for (y, out) in rows.chunks_exact_mut(w).enumerate() {
            let y = 2 * (band * BAND + y);
            weighted_sum(&mut column, taps, |k| g.row(y + k));
            for (out, window) in out.iter_mut().zip(column.windows(n).step_by(2)) {
                *out = window.iter().zip(taps).map(|(a, t)| a * t).sum();
            }
        }
    });
    Grid { data, w, h }
}

fn product(a: &Grid, b: &Grid) -> Grid {
    let mut data = vec![0.; a.data.len()];
    let chunk = BAND * a.w;
    data.par_chunks_mut(chunk)
        .zip(a.data.par_chunks(chunk))
        .zip(b.data.par_chunks(chunk))
        .for_each(|((out, a), b)| {
            for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                *out = a * b;
            }
        });
    Grid { data, w: a.w, h: a.h }
}

/// One scale's contribution; both sources share the fused image's moments.
fn scale_sums(g: &Grids, taps: &[f64]) -> Sums {
    let (f, v, i) = (&g.fused, &g.visible, &g.infrared);
    let [ff, vv, ii, fv, fi] = [(f, f), (v, v), (i, i), (f, v), (f, i)].map(|(a, b)| product(a, b));
    let planes = [f, &ff, v, &vv, &fv, i, &ii, &fi];
    let n = taps.len();
    let (w, h) = (f.w - n + 1, f.h - n + 1);
    let bands: Vec<Sums> = (0..h.div_ceil(BAND))
        .into_par_iter()
        .map(|band| {
            let mut column = vec![0.; f.w];
            let mut rows = [(); 8].map(|()| vec![0.; w]);
            let mut terms = vec![(0., 0.); w];
            let mut sums = Sums::default();
            for y in band * BAND..(band * BAND + BAND).min(h) {
                for (row, plane) in rows.iter_mut().zip(planes) {
                    weighted_sum(&mut column, taps, |k| plane.row(y + k));
                    weighted_sum(row, taps, |k| &column[k..]);
                }
                let [f, ff, v, vv, fv, i, ii, fi] = &rows;
                let visible = row_sums([v, vv, f, ff, fv], &mut terms);
                let infrared = row_sums([i, ii, f, ff, fi], &mut terms);
                sums = sums.add(Sums { visible, infrared });
            }
            sums
        })
        .collect();
    bands.into_iter().fold(Sums::default(), Sums::add)
}

/// The sums over one row, from the windowed source, its square, the fused image, its square and
/// the product of both.
fn row_sums(
    [source, source2, fused, fused2, cross]: [&Vec<f64>; 5],
    terms: &mut [(f64, f64)],
) -> Fraction {
    let moments = source.iter().zip(source2).zip(fused).zip(fused2).zip(cross);
    for (term, ((((&m1, &e1), &m2), &e2), &e12)) in terms.iter_mut().zip(moments) {
        *term = pixel(m1, e1, m2, e2, e12);
    }
    let mut sums = Fraction::default();
    for batch in terms.chunks(LOG_BATCH) {
        let (mut above, mut below) = (1., 1.);
        for (a, b) in batch {
            above *= a;
            below *= b;
        }
        sums = sums.add(Fraction { above: f64::ln(above), below: f64::ln(below) });
    }
    sums
}

/// What the two logarithms of a pixel are taken of.
#[inline]
fn pixel(m1: f64, e1: f64, m2: f64, e2: f64, e12: f64) -> (f64, f64) {
    let mut var1 = (e1 - m1 * m1).max(0.);
    let var2 = (e2 - m2 * m2).max(0.);
    let covariance = e12 - m1 * m2;
    let mut gain = covariance / (var1 + EPSILON);
    let mut rest = var2 - gain * covariance;
    if var1 < EPSILON {
        (gain, rest, var1) = (0., var2, 0.);
    }
    if var2 < EPSILON {
        (gain, rest) = (0., 0.);
    }
    if gain < 0. {
        (gain, rest) = (0., var2);
    }
    let rest = rest.max(EPSILON);
    (1. + gain * gain * var1 / (rest + NOISE), 1. + var1 / NOISE)
}
