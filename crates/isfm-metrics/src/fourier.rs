//! Two-dimensional Fourier and cosine transforms of whole images.

use std::sync::Arc;

use rayon::prelude::*;
use rustfft::{Fft, FftPlanner, num_complex::Complex};

use crate::plane::Grid;

/// Rows transposed by one task.
const BLOCK: usize = 8;

/// The frequency, in cycles per n pixels, of the `k`-th value of a transform of n.
pub(crate) fn frequency(k: usize, n: usize) -> f64 {
    if k < n.div_ceil(2) { k as f64 } else { k as f64 - n as f64 }
}

/// The transforms of images of one size.
pub(crate) struct Fourier {
    w: usize,
    h: usize,
    /// Along rows and along columns.
    forward: [Arc<dyn Fft<f64>>; 2],
    inverse: [Arc<dyn Fft<f64>>; 2],
}

/// The spectrum of an image: one row for each horizontal frequency, one column for each vertical
/// one, both in the order of [`frequency`].
pub(crate) type Spectrum = Vec<Complex<f64>>;

impl Fourier {
    pub(crate) fn new(w: usize, h: usize) -> Self {
        let mut planner = FftPlanner::new();
        let forward = [w, h].map(|n| planner.plan_fft_forward(n));
        let inverse = [w, h].map(|n| planner.plan_fft_inverse(n));
        Self { w, h, forward, inverse }
    }

    /// The spectrum of `re` + i·`im`: both images by one transform.
    pub(crate) fn spectrum(&self, re: &[f64], im: &[f64]) -> Spectrum {
        let mut z: Spectrum = re.iter().zip(im).map(|(&re, &im)| Complex { re, im }).collect();
        rows(&mut z, &self.forward[0]);
        let mut z = transpose(&z, self.w);
        rows(&mut z, &self.forward[1]);
        z
    }

    /// The image of a spectrum, row by row.
    pub(crate) fn image(&self, mut spectrum: Spectrum) -> Vec<Complex<f64>> {
        rows(&mut spectrum, &self.inverse[1]);
        let mut z = transpose(&spectrum, self.h);
        rows(&mut z, &self.inverse[0]);
        let scale = 1. / (self.w * self.h) as f64;
        z.par_iter_mut().for_each(|z| *z *= scale);
        z
    }

    /// A real function of the frequencies (horizontal, vertical), in the order of a spectrum.
    pub(crate) fn filter(&self, response: impl Fn(usize, usize) -> f64 + Sync) -> Vec<f64> {
        let mut values = vec![0.; self.w * self.h];
        values.par_chunks_mut(self.h).enumerate().for_each(|(u, row)| {
            for (v, value) in row.iter_mut().enumerate() {
                *value = response(u, v);
            }
        });
        values
    }
}

/// A spectrum times a real filter.
pub(crate) fn filtered(spectrum: &[Complex<f64>], filter: &[f64]) -> Spectrum {
    spectrum.par_iter().zip(filter).map(|(z, f)| z * f).collect()
}

/// Transforms every row.
fn rows(z: &mut [Complex<f64>], fft: &Arc<dyn Fft<f64>>) {
    let scratch = fft.get_inplace_scratch_len();
    z.par_chunks_mut(fft.len()).for_each_init(
        || vec![Complex::default(); scratch],
        |scratch, row| fft.process_with_scratch(row, scratch),
    );
}

/// Columns for rows, of rows of `w`.
fn transpose<T: Copy + Default + Send + Sync>(z: &[T], w: usize) -> Vec<T> {
    let h = z.len() / w;
    let mut out = vec![T::default(); z.len()];
    out.par_chunks_mut(BLOCK * h).enumerate().for_each(|(block, columns)| {
        let first = block * BLOCK;
        for (y, row) in z.chunks_exact(w).enumerate() {
            for (column, value) in columns[y..].iter_mut().step_by(h).zip(&row[first..]) {
                *column = *value;
            }
        }
    });
    out
}

/// The orthonormal two-dimensional DCT-II.
pub(crate) fn dct2(g: &Grid) -> Grid {
    let mut planner = FftPlanner::new();
    let [across, down] = [g.w, g.h].map(|n| planner.plan_fft_forward(n));
    let along_rows = transpose(&dct_rows(g.pixels(), &across), g.w);
    let along_both = transpose(&dct_rows(&along_rows, &down), g.h);
    let mut out = Grid::zeros(g.w, g.h);
    out.pixels_mut().copy_from_slice(&along_both);
    out
}

/// The DCT of each row by a Fourier transform of the same length: the even samples upwards, then
/// the odd ones downwards (Makhoul, "A fast cosine transform in one and two dimensions", IEEE
/// Trans. Acoust. Speech Signal Process. 1980).
fn dct_rows(x: &[f64], fft: &Arc<dyn Fft<f64>>) -> Vec<f64> {
    let n = fft.len();
    let mut out = vec![0.; x.len()];
    let twiddles: Vec<Complex<f64>> = (0..n)
        .map(|k| {
            let norm = if k == 0 { 1. / n as f64 } else { 2. / n as f64 };
            let angle = -std::f64::consts::PI * k as f64 / (2. * n as f64);
            Complex::from_polar(norm.sqrt(), angle)
        })
        .collect();
    let scratch = vec![Complex::default(); fft.get_inplace_scratch_len()];
    out.par_chunks_mut(n).zip(x.par_chunks(n)).for_each_init(
        || (vec![Complex::default(); n], scratch.clone()),
        |(z, scratch), (out, x)| {
            let samples = x.iter().step_by(2).chain(x.iter().skip(1).step_by(2).rev());
            for (z, &x) in z.iter_mut().zip(samples) {
                *z = Complex { re: x, im: 0. };
            }
            fft.process_with_scratch(z, scratch);
            for ((out, z), t) in out.iter_mut().zip(z.iter()).zip(&twiddles) {
                *out = (z * t).re;
            }
        },
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(w: usize, h: usize) -> Grid {
        let mut g = Grid::zeros(w, h);
        for (k, p) in g.pixels_mut().iter_mut().enumerate() {
            *p = ((k * k * 37 + k * 11) % 256) as f64;
        }
        g
    }

    #[test]
    fn there_and_back() {
        for (w, h) in [(1, 1), (1, 6), (7, 1), (12, 10), (13, 9), (31, 16)] {
            let (a, b) = (image(w, h), image(w, h + 3));
            let fourier = Fourier::new(w, h);
            let b = &b.pixels()[w * 3..];
            let back = fourier.image(fourier.spectrum(a.pixels(), b));
            for ((z, a), b) in back.iter().zip(a.pixels()).zip(b) {
                assert!((z.re - a).abs() < 1e-11 && (z.im - b).abs() < 1e-11);
            }
        }
    }

    #[test]
    fn frequencies() {
        assert_eq!([0, 1, 2, 3].map(|k| frequency(k, 4)), [0., 1., -2., -1.]);
        assert_eq!([0, 1, 2, 3, 4].map(|k| frequency(k, 5)), [0., 1., 2., -2., -1.]);
        // A cosine of two cycles across: its whole energy is at (±2, 0).
        let (w, h) = (10, 4);
        let wave: Vec<f64> = (0..w * h)
            .map(|p| (std::f64::consts::TAU * 2. * (p % w) as f64 / w as f64).cos())
            .collect();
        let fourier = Fourier::new(w, h);
        let spectrum = fourier.spectrum(&wave, &vec![0.; w * h]);
        for (k, z) in spectrum.iter().enumerate() {
            let (u, v) = (frequency(k / h, w), frequency(k % h, h));
            let want = if u.abs() == 2. && v == 0. { (w * h) as f64 / 2. } else { 0. };
            assert!((z.re - want).abs() < 1e-12 && z.im.abs() < 1e-12);
        }
    }

    #[test]
    fn cosines_by_their_definition() {
        for (w, h) in [(1, 1), (2, 1), (1, 5), (8, 6), (9, 7)] {
            let g = image(w, h);
            let got = dct2(&g);
            let norm = |k: usize, n: usize| (if k == 0 { 1. } else { 2. } / n as f64).sqrt();
            let cosine = |k: usize, x: usize, n: usize| {
                (std::f64::consts::PI * k as f64 * (2 * x + 1) as f64 / (2 * n) as f64).cos()
            };
            for (v, row) in got.rows().enumerate() {
                for (u, got) in row.iter().enumerate() {
                    let mut want = 0.;
                    for (y, row) in g.rows().enumerate() {
                        for (x, p) in row.iter().enumerate() {
                            want += p * cosine(u, x, w) * cosine(v, y, h);
                        }
                    }
                    want *= norm(u, w) * norm(v, h);
                    assert!((got - want).abs() < 1e-10, "{w}x{h} ({u}, {v}): {got} {want}");
                }
            }
        }
    }
}
