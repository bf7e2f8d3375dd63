//! What both cameras see alike: the direction of edges, whichever side is brighter.
//!
//! An edge of direction θ is the complex number e^(2iθ), which is the same for both polarities, and e^(4iθ), which
//! tells directions apart more sharply. They are weighted by the gradient's magnitude, relative to that of its
//! neighbourhood, so that a weak edge of one picture counts as much as the strong one that it is in the other. This is
//! the idea of dense oriented features for pictures of different sensors (CFOG: Ye et al., "Fast and Robust Matching
//! for Multimodal Remote Sensing Image Registration", IEEE TGRS 57, 2019), with the histogram of directions in
//! its first two even harmonics instead of bins.

use rayon::prelude::*;

use super::plane::Plane;

/// Numbers of a pixel: real and imaginary parts of the second and of the fourth harmonic.
pub(super) const CHANNELS: usize = 4;

/// The weight of the fourth harmonic's products.
const FOURTH: f32 = 0.5;

/// Dense features of a plane.
#[derive(Clone, Debug)]
pub(super) struct Features {
    width: usize,
    height: usize,
    /// [`CHANNELS`] values of each pixel, row by row; 0 where nothing is known.
    pub data: Vec<f32>,
    /// The sum of squares of each pixel.
    pub energy: Vec<f32>,
    /// Whether a pixel and its neighbours are known.
    pub known: Vec<bool>,
}

/// How far the gradient's neighbourhood reaches that its magnitude is compared with, in pixels.
const AROUND: usize = 8;

impl Features {
    pub fn of(plane: &Plane) -> Self {
        let (width, height) = (plane.width, plane.height);
        let count = width * height;
        let mut known = vec![false; count];
        // A gradient is known where the smoothed pixels beside it are.
        const REACH: usize = 3;
        let solid = minimum(&plane.known, width, height, REACH);
        for (known, solid) in known.iter_mut().zip(&solid) {
            *known = *solid > 0.99;
        }
        let smooth = binomial(&plane.value, width, height);
        let mut gradient = vec![[0_f32; 2]; count];
        let mut square = vec![0_f32; count];
        for y in 1..height.saturating_sub(1) {
            for x in 1..width.saturating_sub(1) {
                let at = y * width + x;
                if known[at] {
                    let across = smooth[at + 1] - smooth[at - 1];
                    let down = smooth[at + width] - smooth[at - width];
                    gradient[at] = [across, down];
                    square[at] = across * across + down * down;
                }
            }
        }
        let inside: Vec<f32> = known.iter().map(|&k| f32::from(k)).collect();
        let (near, share) =
            (boxed(&square, width, height, AROUND), boxed(&inside, width, height, AROUND));
        let total: f64 = square.iter().map(|&v| f64::from(v)).sum();
        let pixels = known.iter().filter(|k| **k).count().max(1);
        let floor = (0.1 * total / pixels as f64) as f32 + 1e-6;
        let mut data = vec![0_f32; CHANNELS * count];
        for (at, out) in data.chunks_exact_mut(CHANNELS).enumerate() {
            let [across, down] = gradient[at];
            let magnitude = square[at].sqrt();
            if magnitude <= 0. {
                continue;
            }
            let usual = (near[at] / share[at].max(1e-3) + floor).sqrt();
            let weight = magnitude / (magnitude + usual);
            let (c, s) = (across / magnitude, down / magnitude);
            let (c2, s2) = (c * c - s * s, 2. * c * s);
            let (c4, s4) = (c2 * c2 - s2 * s2, 2. * c2 * s2);
            *<&mut [f32; 4]>::try_from(out).unwrap_or(&mut [0.; 4]) =
                [weight * c2, weight * s2, FOURTH * weight * c4, FOURTH * weight * s4];
        }
        let data = binomial_channels(&data, width, height);
        let energy = data.chunks_exact(CHANNELS).map(|p| p.iter().map(|v| v * v).sum()).collect();
        Self { width, height, data, energy, known }
    }
}

impl Features {
    /// Without what the neighbourhood has alike: the local mean of each channel is taken off.
    pub fn sharpened(mut self, reach: usize) -> Self {
        let (width, height) = (self.width, self.height);
        let inside: Vec<f32> = self.known.iter().map(|&k| f32::from(k)).collect();
        let share = boxed(&inside, width, height, reach);
        for c in 0..CHANNELS {
            let one: Vec<f32> = self.data.iter().skip(c).step_by(CHANNELS).copied().collect();
            let mean = boxed_signed(&one, width, height, reach);
            for (at, v) in self.data.iter_mut().skip(c).step_by(CHANNELS).enumerate() {
                *v = if self.known[at] { *v - mean[at] / share[at].max(1e-3) } else { 0. };
            }
        }
        self.energy =
            self.data.chunks_exact(CHANNELS).map(|p| p.iter().map(|v| v * v).sum()).collect();
        self
    }
}

/// The least value within `reach` pixels; beyond the plane it is 0.
fn minimum(data: &[f32], width: usize, height: usize, reach: usize) -> Vec<f32> {
    let along = |line: &[f32], out: &mut [f32]| {
        for (x, out) in out.iter_mut().enumerate() {
            *out = match x >= reach && x + reach < line.len() {
                true => line[x - reach..=x + reach].iter().fold(f32::INFINITY, |a, &b| a.min(b)),
                false => 0.,
            };
        }
    };
    let mut rows = vec![0.; data.len()];
    for (line, out) in data.chunks_exact(width).zip(rows.chunks_exact_mut(width)) {
        along(line, out);
    }
    let mut out = vec![0.; data.len()];
    for y in reach..height.saturating_sub(reach) {
        let out = &mut out[y * width..][..width];
        out.fill(f32::INFINITY);
        for row in rows[(y - reach) * width..(y + reach + 1) * width].chunks_exact(width) {
            out.iter_mut().zip(row).for_each(|(o, r)| *o = o.min(*r));
        }
    }
    out
}

/// [1 4 6 4 1]/16 both ways, the border repeated.
fn binomial(data: &[f32], width: usize, height: usize) -> Vec<f32> {
    smoothed::<1>(data, width, height)
}

fn binomial_channels(data: &[f32], width: usize, height: usize) -> Vec<f32> {
    smoothed::<CHANNELS>(data, width, height)
}

fn smoothed<const C: usize>(data: &[f32], width: usize, height: usize) -> Vec<f32> {
    let line = width * C;
    let mut rows = vec![0_f32; data.len()];
    rows.par_chunks_mut(line).zip(data.par_chunks(line)).for_each(|(out, row)| {
        let at = |x: isize, c: usize| row[x.clamp(0, width as isize - 1) as usize * C + c];
        let tap = |x: usize, c: usize| {
            let x = x as isize;
            0.375 * at(x, c)
                + 0.25 * (at(x - 1, c) + at(x + 1, c))
                + 0.0625 * (at(x - 2, c) + at(x + 2, c))
        };
        let inner = 2.min(width)..width.saturating_sub(2).max(2.min(width));
        for x in (0..inner.start).chain(inner.end..width) {
            for c in 0..C {
                out[x * C + c] = tap(x, c);
            }
        }
        let (from, to) = (inner.start * C, inner.end * C);
        for i in from..to {
            out[i] = 0.375 * row[i]
                + 0.25 * (row[i - C] + row[i + C])
                + 0.0625 * (row[i - 2 * C] + row[i + 2 * C]);
        }
    });
    let mut out = vec![0_f32; data.len()];
    out.par_chunks_mut(line).enumerate().for_each(|(y, out)| {
        let row = |d: isize| {
            let y = (y as isize + d).clamp(0, height as isize - 1) as usize;
            &rows[y * line..][..line]
        };
        let (a, b, c, d, e) = (row(-2), row(-1), row(0), row(1), row(2));
        for (i, out) in out.iter_mut().enumerate() {
            *out = 0.375 * c[i] + 0.25 * (b[i] + d[i]) + 0.0625 * (a[i] + e[i]);
        }
    });
    out
}

/// The mean over a square of `reach` pixels each way; beyond the plane there are zeros.
fn boxed(data: &[f32], width: usize, height: usize, reach: usize) -> Vec<f32> {
    let mut out = boxed_signed(data, width, height, reach);
    out.iter_mut().for_each(|v| *v = v.max(0.));
    out
}

fn boxed_signed(data: &[f32], width: usize, height: usize, reach: usize) -> Vec<f32> {
    let scale = 1. / (2 * reach + 1) as f64;
    let mut rows = vec![0_f32; data.len()];
    rows.par_chunks_mut(width).zip(data.par_chunks(width)).for_each(|(out, row)| {
        let mut sum: f64 = row.iter().take(reach).map(|&v| f64::from(v)).sum();
        for x in 0..width {
            if let Some(&next) = row.get(x + reach) {
                sum += f64::from(next);
            }
            if x > reach {
                sum -= f64::from(row[x - reach - 1]);
            }
            out[x] = (sum * scale) as f32;
        }
    });
    let mut sums = vec![0_f64; width];
    let add = |sums: &mut [f64], y: usize, sign: f64| {
        let row = &rows[y * width..][..width];
        sums.iter_mut().zip(row).for_each(|(s, &v)| *s += sign * f64::from(v));
    };
    for y in 0..reach.min(height) {
        add(&mut sums, y, 1.);
    }
    let mut out = vec![0_f32; data.len()];
    for y in 0..height {
        if y + reach < height {
            add(&mut sums, y + reach, 1.);
        }
        if y > reach {
            add(&mut sums, y - reach - 1, -1.);
        }
        let out = &mut out[y * width..][..width];
        out.iter_mut().zip(&sums).for_each(|(o, &s)| *o = (s * scale) as f32);
    }
    out
}
