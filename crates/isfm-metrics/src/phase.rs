//! Phase congruency, and the metric that compares it, Qp.

use rayon::prelude::*;
use rustfft::num_complex::Complex;

use crate::fourier::{Fourier, filtered, frequency};
use crate::moments::{gaussian, same};
use crate::plane::{Grid, Grids};
use crate::{Sample, Triple};

const SCALES: usize = 4;
const ORIENTATIONS: usize = 6;
/// Wavelength of the finest scale in pixels, and the factor from each to the next.
const FINEST: f64 = 3.;
const FACTOR: f64 = 2.1;
/// Width of the log-Gabor filters: standard deviation over centre frequency.
const SIGMA_ON_F: f64 = 0.55;
/// Distance of the orientations over the standard deviation of the angular Gaussian.
const THETA_ON_SIGMA: f64 = 1.2;
/// Standard deviations above the mean noise where energy begins to count, and the factor by which
/// the estimate is known to be too large.
const NOISE_K: f64 = 2.;
const NOISE_FACTOR: f64 = 1.7;
/// Where and how sharply responses that only few scales share are discounted.
const CUT_OFF: f64 = 0.5;
const SHARPNESS: f64 = 10.;
const EPSILON: f64 = 1e-4;
/// Responses below this many grey levels are rounding.
const ROUNDING: f64 = 1e-8;

/// Phase congruency above which a source has a feature.
const FEATURE: f64 = 0.1;
/// Keeps correlations of flat places finite.
const C: f64 = 1e-4;

/// Qp: how well the fused image kept the sources' features, by phase congruency:
/// P_p · P_M · P_m.
///
/// For each image, phase congruency p and the maximum and minimum moments M and m of its covariance
/// over orientations (edge and corner strength) are computed with Kovesi's log-Gabor filters: four
/// scales from 3 pixels on with factor 2.1, six orientations, σ/f .55, noise threshold k = 2,
/// cut-off .5, sharpness 10. For each of the three, P is the mean, over the pixels where p of either
/// source exceeds .1, of the largest of three correlations with the fused image: of the visible
/// image, of the infrared one, and of the one with the larger p; each is counted where that one's p
/// exceeds .1 and its map is 0 elsewhere. A correlation is (σ_xf + C)/(σ_x σ_f + C), C = 10⁻⁴, in a
/// Gaussian window of 11×11, σ = 1.5, zero padding.
///
/// About 0 to 1; higher is better. 0 where neither source has a feature, as for constant images.
/// Not stretched: phase congruency does not depend on contrast, but for the noise threshold.
///
/// Zhao, Laganière, Liu, "Performance assessment of combinative pixel-level image fusion based on an
/// absolute feature measurement", Int. J. Innovative Computing, Information and Control 2007;
/// Kovesi, "Image features from phase congruency", Videre 1999. Conventions are those of Liu's
/// toolbox, except that for odd sizes its low-pass filter is off by one frequency and this one is
/// not, and that responses below 10⁻⁸ grey levels count as none.
///
/// Checked against plain NumPy written from the papers (`tests/fixtures/make.py`).
pub fn qp<T: Sample>(triple: &Triple<'_, T>) -> f64 {
    qp_of(&Grids::of(triple))
}

pub(crate) fn qp_of(images: &Grids) -> f64 {
    let (w, h) = images.size();
    let bank = Bank::new(w, h);
    let [visible, infrared, fused] =
        [&images.visible, &images.infrared, &images.fused].map(|g| bank.features(g));
    let larger: Vec<bool> = visible.p.iter().zip(&infrared.p).map(|(v, i)| v > i).collect();
    let select = |v: &[f64], i: &[f64]| -> Vec<f64> {
        larger.iter().zip(v).zip(i).map(|((&larger, &v), &i)| if larger { v } else { i }).collect()
    };
    let either = select(&visible.p, &infrared.p);
    let masks: [Vec<bool>; 3] =
        [&visible.p, &infrared.p, &either].map(|p| p.iter().map(|&p| p > FEATURE).collect());
    if !masks[2].contains(&true) {
        return 0.;
    }
    let maps = |f: fn(&Features) -> &Vec<f64>| {
        let (v, i) = (f(&visible), f(&infrared));
        agreement([v, i, &select(v, i)], f(&fused), &masks, w, h)
    };
    maps(|f| &f.p) * maps(|f| &f.maximum) * maps(|f| &f.minimum)
}

/// The mean largest correlation over the places where either source has a feature.
fn agreement(
    sources: [&Vec<f64>; 3],
    fused: &[f64],
    masks: &[Vec<bool>; 3],
    w: usize,
    h: usize,
) -> f64 {
    let window = gaussian::<11>(1.5);
    let smooth = |pixels: Vec<f64>| same(&Grid::from_pixels(pixels, w, h), &window);
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).collect::<Vec<_>>();
    let [mean_f, square_f] = [fused.to_vec(), product(fused, fused)].map(smooth);
    let (mean_f, square_f) = (mean_f.pixels(), square_f.pixels());
    let mut best = vec![0.; w * h];
    for (k, (source, mask)) in sources.iter().zip(masks).enumerate() {
        let source: Vec<f64> =
            source.iter().zip(mask).map(|(&s, &m)| if m { s } else { 0. }).collect();
        let (squares, products) = (product(&source, &source), product(&source, fused));
        let [mean, square, cross] = [source, squares, products].map(smooth);
        best.par_iter_mut().enumerate().for_each(|(p, best)| {
            let value = if mask[p] {
                let (m, f) = (mean.pixels()[p], mean_f[p]);
                let variances = (square.pixels()[p] - m * m) * (square_f[p] - f * f);
                (cross.pixels()[p] - m * f + C) / (variances.abs().sqrt() + C)
            } else {
                0.
            };
            *best = if k == 0 || value > *best { value } else { *best };
        });
    }
    let features = masks[2].iter().filter(|&&m| m).count();
    best.iter().sum::<f64>() / features as f64
}

/// What is compared.
struct Features {
    p: Vec<f64>,
    maximum: Vec<f64>,
    minimum: Vec<f64>,
}

/// The filters for one size of image.
struct Bank {
    fourier: Fourier,
    /// By scale.
    radial: Vec<Vec<f64>>,
    /// By orientation.
    angular: Vec<Vec<f64>>,
    /// By orientation: the finest filter's energy, and that of all filters' noise over the noise
    /// power.
    energies: Vec<(f64, f64)>,
}

impl Bank {
    fn new(w: usize, h: usize) -> Self {
        let fourier = Fourier::new(w, h);
        // An odd number of frequencies is taken to reach ±½ as well.
        let scaled = |k: usize, n: usize| match n {
            1 => 0.,
            n if n % 2 == 1 => frequency(k, n) / (n - 1) as f64,
            n => frequency(k, n) / n as f64,
        };
        let radial: Vec<Vec<f64>> = (0..SCALES)
            .map(|scale| {
                let centre = 1. / (FINEST * FACTOR.powi(scale as i32));
                let width = 2. * SIGMA_ON_F.ln().powi(2);
                fourier.filter(|u, v| {
                    if u == 0 && v == 0 {
                        return 0.;
                    }
                    let radius = scaled(u, w).hypot(scaled(v, h));
                    let plain = (frequency(u, w) / w as f64).hypot(frequency(v, h) / h as f64);
                    let low_pass = 1. / (1. + (plain / 0.45).powi(30));
                    (-(radius / centre).ln().powi(2) / width).exp() * low_pass
                })
            })
            .collect();
        let sigma = std::f64::consts::PI / ORIENTATIONS as f64 / THETA_ON_SIGMA;
        let angular: Vec<Vec<f64>> = (0..ORIENTATIONS)
            .map(|o| {
                let (sin, cos) = angle(o).sin_cos();
                fourier.filter(|u, v| {
                    let (x, y) = (scaled(u, w), -scaled(v, h));
                    let apart = (y * cos - x * sin).atan2(x * cos + y * sin);
                    (-(apart * apart) / (2. * sigma * sigma)).exp()
                })
            })
            .collect();
        let energies = angular.iter().map(|a| energies(&radial, a, w, h)).collect();
        Self { fourier, radial, angular, energies }
    }

    fn features(&self, g: &Grid) -> Features {
        let n = g.pixels().len();
        let spectrum = self.fourier.spectrum(g.pixels(), &vec![0.; n]);
        let (mut energy, mut amplitude) = (vec![0.; n], vec![0.; n]);
        // Covariance of phase congruency: x², y², xy.
        let mut covariance = vec![[0.; 3]; n];
        for (o, angular) in self.angular.iter().enumerate() {
            let (sin, cos) = angle(o).sin_cos();
            let responses: Vec<Vec<Complex<f64>>> = self
                .radial
                .iter()
                .map(|radial| {
                    let filter: Vec<f64> = radial.iter().zip(angular).map(|(r, a)| r * a).collect();
                    self.fourier.image(filtered(&spectrum, &filter))
                })
                .collect();
            let threshold = noise(&responses[0], self.energies[o]);
            (energy.par_iter_mut()).zip(&mut amplitude).zip(&mut covariance).enumerate().for_each(
                |(p, ((energy, amplitude), covariance))| {
                    let responses = std::array::from_fn(|s| responses[s][p]);
                    let (e, a) = congruent(responses, threshold);
                    *energy += e;
                    *amplitude += a;
                    let pc = if a > ROUNDING { e / a } else { 0. };
                    let (x, y) = (pc * cos, pc * sin);
                    covariance[0] += x * x;
                    covariance[1] += y * y;
                    covariance[2] += x * y;
                },
            );
        }
        let p = energy.iter().zip(&amplitude).map(|(e, a)| e / (a + EPSILON)).collect();
        let moments = covariance.iter().map(|[xx, yy, xy]| {
            let n = ORIENTATIONS as f64;
            let (xx, yy, xy) = (xx * 2. / n, yy * 2. / n, xy / n);
            let root = (xy * xy + (xx - yy) * (xx - yy)).sqrt() + EPSILON;
            ((yy + xx + root) / 2., (yy + xx - root) / 2.)
        });
        let (maximum, minimum) = moments.unzip();
        Features { p, maximum, minimum }
    }
}

fn angle(orientation: usize) -> f64 {
    orientation as f64 * std::f64::consts::PI / ORIENTATIONS as f64
}

/// Of one orientation: Σ F² of the finest filter, and 2 Σ Σ f² + 4 Σ Σ f_i f_j over all pairs of
/// scales, f the real part of a filter in space (times the square root of the pixels).
fn energies(radial: &[Vec<f64>], angular: &[f64], w: usize, h: usize) -> (f64, f64) {
    let finest: f64 = radial[0].iter().zip(angular).map(|(r, a)| (r * a) * (r * a)).sum();
    // By Parseval's theorem; the spectrum of the real part is the filter's even part. The sum over
    // pairs is half of the squared sum less the sum of squares, so all together is 2 (Σ f)².
    let total: f64 = (0..w)
        .map(|u| {
            let row = (0..h).map(|v| {
                let (k, opposite) = (u * h + v, (w - u) % w * h + (h - v) % h);
                let sum: f64 = radial
                    .iter()
                    .map(|r| (r[k] * angular[k] + r[opposite] * angular[opposite]) / 2.)
                    .sum();
                sum * sum
            });
            row.sum::<f64>()
        })
        .sum();
    (finest, 2. * total)
}

/// The energy that noise alone would have, from the finest scale's median response.
fn noise(finest: &[Complex<f64>], (filter, all): (f64, f64)) -> f64 {
    let mut squares: Vec<f64> = finest.iter().map(|z| z.norm_sqr()).collect();
    let middle = squares.len() / 2;
    let (below, &mut upper, _) = squares.select_nth_unstable_by(middle, f64::total_cmp);
    let median = if finest.len() % 2 == 1 {
        upper
    } else {
        0.5 * (upper + below.iter().fold(0., |a: f64, &b| a.max(b)))
    };
    if filter == 0. {
        return 0.;
    }
    let power = median / std::f64::consts::LN_2 / filter;
    let tau = (power * all / 2.).sqrt();
    let half_pi = std::f64::consts::FRAC_PI_2;
    (tau * half_pi.sqrt() + NOISE_K * ((2. - half_pi) * tau * tau).sqrt()) / NOISE_FACTOR
}

/// Weighted energy, and the sum of amplitudes, of one pixel in one orientation.
fn congruent(responses: [Complex<f64>; SCALES], threshold: f64) -> (f64, f64) {
    let mut sum = Complex { re: 0., im: 0. };
    let (mut amplitude, mut largest) = (0., 0f64);
    for z in responses {
        let a = z.norm_sqr().sqrt();
        sum += z;
        amplitude += a;
        largest = largest.max(a);
    }
    let mean = sum / (sum.norm_sqr().sqrt() + EPSILON);
    let mut energy = 0.;
    for z in responses {
        energy += z.re * mean.re + z.im * mean.im - (z.re * mean.im - z.im * mean.re).abs();
    }
    let width = amplitude / (largest + EPSILON) / SCALES as f64;
    let weight = 1. / (1. + ((CUT_OFF - width) * SHARPNESS).exp());
    (weight * (energy - threshold).max(0.), amplitude)
}
