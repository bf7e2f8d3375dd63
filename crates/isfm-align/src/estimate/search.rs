//! Where the infrared picture might lie: correlation of features over scales, rotations and all shifts.

use std::sync::Arc;

use rayon::prelude::*;
use rustfft::num_complex::Complex;
use rustfft::{Fft, FftPlanner};

use super::features::{CHANNELS, Features};
use super::plane::Octaves;
use crate::homography::product;

type C = Complex<f32>;

/// A place that the infrared picture may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// From infrared pixels to visible ones.
    pub matrix: [f64; 9],
    /// How much it stands out: the correlation times the root of the structure that both have there.
    pub score: f64,
}

/// What is searched through.
#[derive(Clone, Debug)]
pub(super) struct Space {
    /// Visible pixels of an infrared one, from and to.
    pub scales: [f64; 2],
    /// Rotations, from minus this to this, in radians.
    pub rotation: f64,
    /// How many candidates are kept.
    pub keep: usize,
}

/// The infrared picture is searched for with so many pixels on its longer side.
const PATCH: f64 = 96.;
/// It has at least so many each way.
const LEAST_PATCH: usize = 8;
/// The visible picture has at least so many on its longer side, where it has them.
const LEAST: f64 = 112.;
const MOST: f64 = 520.;
const SCALE_STEP: f64 = 1.10;
const ROTATION_STEP: f64 = 0.075;
/// Directions that a whole neighbourhood of so many pixels each way has are no mark of a place.
const NEAR: usize = 6;
/// So much of the infrared picture's structure must lie on the visible one.
const OVERLAP: f32 = 0.4;

/// Finds places for frames of one rig together.
pub(super) fn candidates(frames: &[(&Octaves, &Octaves)], space: &Space) -> Vec<Candidate> {
    let Some(&(visible, infrared)) = frames.first() else { return Vec::new() };
    let visible = (visible.full().width as f64, visible.full().height as f64);
    let infrared = (infrared.full().width as f64, infrared.full().height as f64);
    let steps = |from: f64, to: f64, step: f64| {
        let count = ((to - from) / step).ceil().max(0.) as usize;
        (0..=count).map(move |i| {
            if count == 0 { (from + to) / 2. } else { from + (to - from) * i as f64 / count as f64 }
        })
    };
    let [low, high] = space.scales.map(f64::ln);
    let scales: Vec<f64> = steps(low, high, SCALE_STEP.ln()).map(f64::exp).collect();
    let angles: Vec<f64> = steps(-space.rotation, space.rotation, ROTATION_STEP).collect();

    // Scales that are looked for in a visible picture of one size go together.
    let level = |scale: f64| {
        let covered = scale * infrared.0.max(infrared.1) / visible.0.max(visible.1);
        let wanted = (PATCH / covered).clamp(LEAST, MOST);
        ((wanted / LEAST).ln() / 1.25_f64.ln()).round() as i32
    };
    let mut found = Vec::new();
    let mut rest = &scales[..];
    while let Some(&first) = rest.first() {
        let count = rest.iter().take_while(|s| level(**s) == level(first)).count();
        let (these, others) = rest.split_at(count);
        rest = others;
        let longer = LEAST * 1.25_f64.powi(level(first));
        let kappa = (visible.0.max(visible.1) / longer).max(1.);
        let most = these[these.len() - 1] / kappa;
        let reach = infrared.0.hypot(infrared.1) * most;
        let ground = Ground::of(frames, kappa, reach);
        let tries: Vec<(f64, f64)> =
            these.iter().flat_map(|&s| angles.iter().map(move |&a| (s, a))).collect();
        let each: Vec<Vec<Candidate>> =
            tries.par_iter().map(|&(scale, angle)| ground.place(frames, scale, angle)).collect();
        found.extend(each.into_iter().flatten());
    }
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    let corners = |m: &[f64; 9]| {
        [[0., 0.], [infrared.0, 0.], [0., infrared.1], [infrared.0, infrared.1]]
            .map(|corner| crate::homography::applied(m, corner))
    };
    let mut kept: Vec<Candidate> = Vec::new();
    for candidate in found {
        let own = corners(&candidate.matrix);
        let extent = (own[3][0] - own[0][0]).hypot(own[3][1] - own[0][1]);
        let near = |other: &Candidate| {
            let theirs = corners(&other.matrix);
            let apart = own.iter().zip(&theirs).map(|(a, b)| (a[0] - b[0]).hypot(a[1] - b[1]));
            apart.sum::<f64>() / 4. < 0.05 * extent
        };
        if !kept.iter().any(near) {
            kept.push(candidate);
            if kept.len() == space.keep {
                break;
            }
        }
    }
    kept
}

/// Visible pictures of one size, ready to be searched.
struct Ground {
    kappa: f64,
    width: usize,
    height: usize,
    transform: Transform,
    frames: Vec<Spectra>,
}

struct Spectra {
    second: Vec<C>,
    fourth: Vec<C>,
    energy: Vec<C>,
    known: Vec<C>,
}

impl Ground {
    fn of(frames: &[(&Octaves, &Octaves)], kappa: f64, reach: f64) -> Self {
        let full = frames[0].0.full();
        let side = |n: usize| ((n as f64 / kappa).round() as usize).max(1);
        let (width, height) = (side(full.width), side(full.height));
        // A template may stick out by the share that need not overlap.
        let room = |n: usize| {
            let beside = (0.6 * reach.min(1.5 * width.max(height) as f64)).ceil() as usize;
            smooth((n + beside + 1).max(LEAST_PATCH))
        };
        let transform = Transform::new(room(width), room(height));
        let frames = frames
            .iter()
            .map(|(visible, _)| {
                let plane = visible.full();
                let (w, h) = (plane.width as f64, plane.height as f64);
                let features =
                    Features::of(&plane.reduced(0., 0., w, h, (width, height))).sharpened(NEAR);
                let spectrum = |value: &dyn Fn(usize) -> C| {
                    let mut plane = transform.padded(width, height, value);
                    transform.forward(&mut plane);
                    plane
                };
                let data = |at: usize| &features.data[at * CHANNELS..][..CHANNELS];
                Spectra {
                    second: spectrum(&|at| C::new(data(at)[0], data(at)[1])),
                    fourth: spectrum(&|at| C::new(data(at)[2], data(at)[3])),
                    energy: spectrum(&|at| C::new(features.energy[at], 0.)),
                    known: spectrum(&|at| C::new(f32::from(features.known[at]), 0.)),
                }
            })
            .collect();
        Self { kappa, width, height, transform, frames }
    }

    /// The best places for the infrared picture, scaled and turned so.
    fn place(&self, frames: &[(&Octaves, &Octaves)], scale: f64, angle: f64) -> Vec<Candidate> {
        let plane = frames[0].1.full();
        let (w, h) = (plane.width as f64, plane.height as f64);
        let own = scale / self.kappa;
        let (sin, cos) = angle.sin_cos();
        let extent = |a: f64, b: f64| (own * (a * cos.abs() + b * sin.abs())).round() as usize;
        let width = extent(w, h).clamp(LEAST_PATCH, self.transform.width);
        let height = extent(h, w).clamp(LEAST_PATCH, self.transform.height);
        // From the template's pixels to infrared ones, centre on centre.
        let centre = |n: f64| (n - 1.) / 2.;
        let (tx, ty) = (centre(width as f64), centre(height as f64));
        let turn = [cos / own, sin / own, 0., -sin / own, cos / own, 0., 0., 0., 1.];
        let to_centre = [1., 0., -tx, 0., 1., -ty, 0., 0., 1.];
        let back = [1., 0., centre(w), 0., 1., centre(h), 0., 0., 1.];
        let matrix = product(&back, &product(&turn, &to_centre));

        let transform = &self.transform;
        let count = transform.width * transform.height;
        let mut products = vec![C::default(); count];
        let mut energies = vec![C::default(); count];
        let mut structure = 0.;
        for ((_, infrared), spectra) in frames.iter().zip(&self.frames) {
            let features =
                Features::of(&infrared.sampled(&matrix, 1. / own, (width, height))).sharpened(NEAR);
            structure += features.energy.iter().sum::<f32>();
            let data = |at: usize| &features.data[at * CHANNELS..][..CHANNELS];
            let mut plane = transform.padded(width, height, &|at| C::new(data(at)[0], data(at)[1]));
            transform.forward(&mut plane);
            for ((sum, a), v) in products.iter_mut().zip(&plane).zip(&spectra.second) {
                *sum += a.conj() * v;
            }
            let mut plane = transform.padded(width, height, &|at| C::new(data(at)[2], data(at)[3]));
            transform.forward(&mut plane);
            for ((sum, a), v) in products.iter_mut().zip(&plane).zip(&spectra.fourth) {
                *sum += a.conj() * v;
            }
            // Both real planes in one transform: their spectra are the parts that are even and odd.
            let mut plane = transform.padded(width, height, &|at| {
                C::new(f32::from(features.known[at]), features.energy[at])
            });
            transform.forward(&mut plane);
            for y in 0..transform.height {
                let mirrored = (transform.height - y) % transform.height * transform.width;
                for x in 0..transform.width {
                    let at = y * transform.width + x;
                    let z = plane[at];
                    let m = plane[mirrored + (transform.width - x) % transform.width].conj();
                    let known = (z + m).scale(0.5);
                    let energy = (z - m) * C::new(0., -0.5);
                    let (v, a) =
                        (known.conj() * spectra.energy[at], energy.conj() * spectra.known[at]);
                    // Real parts of the sum are the one, imaginary parts the other.
                    energies[at] += v + a * C::new(0., 1.);
                }
            }
        }
        transform.backward(&mut products);
        transform.backward(&mut energies);
        let least = 0.05 * structure + 1e-9;
        let score = |at: usize| {
            let (v, a) = (energies[at].re, energies[at].im);
            if a < OVERLAP * structure {
                return 0.;
            }
            products[at].re / ((v.max(0.) + least) * (a.max(0.) + least)).sqrt().sqrt()
        };
        // Shifts, those to the left and upwards wrapped around.
        let (tw, th) = (transform.width, transform.height);
        let scores: Vec<f32> = (0..count).map(score).collect();
        let mut tops: Vec<(f32, usize)> = Vec::new();
        for y in 0..th {
            for x in 0..tw {
                let value = scores[y * tw + x];
                if value <= 0. || (tops.len() == 4 && value <= tops[3].0) {
                    continue;
                }
                let top = [(0, 1), (1, 0), (1, 1), (1, tw - 1)].iter().all(|&(dy, dx)| {
                    let one = scores[(y + dy) % th * tw + (x + dx) % tw];
                    let other = scores[(y + th - dy) % th * tw + (x + tw - dx) % tw];
                    value >= one && value > other
                });
                if top {
                    let place = tops.partition_point(|t| t.0 >= value);
                    tops.insert(place, (value, y * tw + x));
                    tops.truncate(4);
                }
            }
        }
        let wrapped = |t: usize, n: usize, own: usize| {
            if t >= own.max(1) { t as f64 - n as f64 } else { t as f64 }
        };
        let to_template = [own * cos, -own * sin, 0., own * sin, own * cos, 0., 0., 0., 1.];
        tops.into_iter()
            .map(|(score, at)| {
                let x = wrapped(at % tw, tw, self.width);
                let y = wrapped(at / tw, th, self.height);
                let from_centre = [1., 0., -centre(w), 0., 1., -centre(h), 0., 0., 1.];
                let to = [1., 0., tx + x, 0., 1., ty + y, 0., 0., 1.];
                let k = self.kappa;
                let up = [k, 0., (k - 1.) / 2., 0., k, (k - 1.) / 2., 0., 0., 1.];
                let matrix = product(&up, &product(&to, &product(&to_template, &from_centre)));
                Candidate { matrix, score: f64::from(score) }
            })
            .collect()
    }
}

/// The least product of 2, 3 and 5 from `n` on.
fn smooth(n: usize) -> usize {
    let is_smooth = |mut n: usize| {
        for p in [2, 3, 5] {
            while n.is_multiple_of(p) {
                n /= p;
            }
        }
        n == 1
    };
    (n.max(1)..).find(|&n| is_smooth(n)).unwrap_or(n)
}

/// Fourier transforms of planes of one size. Spectra lie transposed.
struct Transform {
    width: usize,
    height: usize,
    rows: [Arc<dyn Fft<f32>>; 2],
    columns: [Arc<dyn Fft<f32>>; 2],
}

impl Transform {
    fn new(width: usize, height: usize) -> Self {
        let mut planner = FftPlanner::new();
        let rows = [planner.plan_fft_forward(width), planner.plan_fft_inverse(width)];
        let columns = [planner.plan_fft_forward(height), planner.plan_fft_inverse(height)];
        Self { width, height, rows, columns }
    }

    /// A plane with `value` in its upper left `width`×`height` pixels, numbered row by row.
    fn padded(&self, width: usize, height: usize, value: &dyn Fn(usize) -> C) -> Vec<C> {
        let mut plane = vec![C::default(); self.width * self.height];
        for y in 0..height {
            for x in 0..width {
                plane[y * self.width + x] = value(y * width + x);
            }
        }
        plane
    }

    fn forward(&self, plane: &mut Vec<C>) {
        self.run(plane, 0);
    }

    fn backward(&self, plane: &mut Vec<C>) {
        self.run(plane, 1);
        let scale = 1. / (self.width * self.height) as f32;
        plane.iter_mut().for_each(|v| *v = v.scale(scale));
    }

    fn run(&self, plane: &mut Vec<C>, way: usize) {
        self.rows[way].process(plane);
        let mut turned = transposed(plane, self.width, self.height);
        self.columns[way].process(&mut turned);
        *plane = transposed(&turned, self.height, self.width);
    }
}

/// In blocks, so that neither side's lines fall out of the cache.
fn transposed(plane: &[C], width: usize, height: usize) -> Vec<C> {
    const BLOCK: usize = 16;
    let mut out = vec![C::default(); plane.len()];
    for top in (0..height).step_by(BLOCK) {
        for left in (0..width).step_by(BLOCK) {
            for y in top..(top + BLOCK).min(height) {
                for x in left..(left + BLOCK).min(width) {
                    out[x * height + y] = plane[y * width + x];
                }
            }
        }
    }
    out
}
