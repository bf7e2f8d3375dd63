use std::f64::consts::FRAC_PI_2;

use rayon::prelude::*;

use crate::edges::{Border, Sobel};
use crate::math::{arctan_of_ratio, exp};
use crate::plane::Grids;
use crate::simd::{Kernel, LANES, V, dispatch};
use crate::{Sample, Triple};

// Γ, κ and σ of the sigmoids for edge strength (g) and orientation (α).
const GAMMA_G: f64 = 0.9994;
const KAPPA_G: f64 = -15.;
const SIGMA_G: f64 = 0.5;
const GAMMA_A: f64 = 0.9879;
const KAPPA_A: f64 = -22.;
const SIGMA_A: f64 = 0.8;
/// Rows of one task; fixed, so that sums do not depend on the threads.
const BAND: usize = 16;

/// Qabf: how much of the sources' edges the fused image kept,
/// Σ(Q_vi g_vi + Q_ir g_ir) / Σ(g_vi + g_ir).
///
/// Sobel with zero padding gives each image a strength g = √(gx² + gy²) and an orientation
/// α = arctan(gy/gx), π/2 where gx = 0. For a source and the fused image, G = smaller strength /
/// larger (the strength itself where they are equal), A = 1 − |α_source − α_fused| / (π/2) and
/// Q = Γg / (1 + e^{κg(G − σg)}) · Γα / (1 + e^{κα(A − σα)}), with Γg = .9994, κg = −15, σg = .5,
/// Γα = .9879, κα = −22, σα = .8.
///
/// From 0 to .9753, where both sigmoids saturate; higher is better. 0 where neither source has an
/// edge. Zero padding makes the border of a bright image an edge, so that is rare: black images,
/// and single pixels.
///
/// Xydeas, Petrović, "Objective image fusion performance measure", Electronics Letters 2000.
///
/// Checked against the ISFM authors' program.
pub fn qabf<T: Sample>(triple: &Triple<'_, T>) -> f64 {
    qabf_of(&Grids::of(triple))
}

pub(crate) fn qabf_of(g: &Grids) -> f64 {
    let (w, h) = g.size();
    let bands: Vec<(f64, f64)> = (0..h.div_ceil(BAND))
        .into_par_iter()
        .map_init(
            || Scratch::new(w),
            |scratch, band| {
                let rows = band * BAND..(band * BAND + BAND).min(h);
                dispatch(Band { images: g, rows, scratch })
            },
        )
        .collect();
    let (kept, all) = bands.iter().fold((0., 0.), |(k, a), band| (k + band.0, a + band.1));
    if all > 0. { kept / all } else { 0. }
}

struct Scratch {
    sobel: Sobel,
    /// Strength and orientation of the fused image's row.
    strength: Vec<f64>,
    orientation: Vec<f64>,
}

impl Scratch {
    fn new(w: usize) -> Self {
        let n = w.next_multiple_of(LANES);
        Self { sobel: Sobel::new(w), strength: vec![0.; n], orientation: vec![0.; n] }
    }
}

struct Band<'a> {
    images: &'a Grids,
    rows: std::ops::Range<usize>,
    scratch: &'a mut Scratch,
}

impl Kernel for Band<'_> {
    /// What was kept, of what there was.
    type Output = (f64, f64);

    #[inline(always)]
    fn run(self) -> (f64, f64) {
        let Scratch { sobel, strength, orientation } = self.scratch;
        let w = self.images.fused.w;
        let (mut kept, mut all) = (0., 0.);
        for y in self.rows {
            sobel.row(&self.images.fused, y, Border::Zero);
            for x in (0..w).step_by(LANES) {
                let edge = edge(V::load(&sobel.gx, x), V::load(&sobel.gy, x));
                edge.strength.store(strength, x);
                edge.orientation.store(orientation, x);
            }
            for source in [&self.images.visible, &self.images.infrared] {
                sobel.row(source, y, Border::Zero);
                let (mut row_kept, mut row_all) = (V::splat(0.), V::splat(0.));
                for x in (0..w).step_by(LANES) {
                    let s = edge(V::load(&sobel.gx, x), V::load(&sobel.gy, x));
                    let fused = Edge {
                        strength: V::load(strength, x),
                        orientation: V::load(orientation, x),
                    };
                    let q = quality(s, fused) * s.strength;
                    let n = w - x;
                    row_kept += if n < LANES { q.first(n, 0.) } else { q };
                    row_all += if n < LANES { s.strength.first(n, 0.) } else { s.strength };
                }
                kept += row_kept.sum();
                all += row_all.sum();
            }
        }
        (kept, all)
    }
}

#[derive(Clone, Copy)]
struct Edge {
    strength: V,
    orientation: V,
}

#[inline(always)]
fn edge(gx: V, gy: V) -> Edge {
    let angle = arctan_of_ratio(gy, gx);
    let signed = (gx * gy).select_less(V::splat(0.), -angle, angle);
    // Not only where gx = 0 does the ratio say nothing, but there |gx| < the smallest number.
    let orientation =
        gx.abs().select_less(V::splat(f64::MIN_POSITIVE), V::splat(FRAC_PI_2), signed);
    Edge { strength: (gx * gx + gy * gy).sqrt(), orientation }
}

#[inline(always)]
fn quality(source: Edge, fused: Edge) -> V {
    let (s, f) = (source.strength, fused.strength);
    let ratio = s.min(f) / s.max(f);
    // Equal strengths, zeros among them: neither is less.
    let strength = s.select_less(f, ratio, f.select_less(s, ratio, f));
    let orientation =
        V::splat(1.) - (source.orientation - fused.orientation).abs() * (1. / FRAC_PI_2);
    let g = exp((strength - SIGMA_G) * KAPPA_G) + 1.;
    let a = exp((orientation - SIGMA_A) * KAPPA_A) + 1.;
    V::splat(GAMMA_G * GAMMA_A) / (g * a)
}
