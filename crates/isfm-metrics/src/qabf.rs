use std::f64::consts::FRAC_PI_2;

use rayon::prelude::*;

use crate::edges::{Border, Sobel};
use crate::math::{arctan_of_ratio, exp};
use crate::plane::Grids;
use crate::simd::{Kernel, dispatch, sum};
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

/// One row's derivatives, and strengths and orientations of its edges.
struct Scratch {
    sobel: Sobel,
    fused: Edges,
    source: Edges,
    kept: Vec<f64>,
}

#[derive(Clone)]
struct Edges {
    strength: Vec<f64>,
    orientation: Vec<f64>,
}

impl Scratch {
    fn new(w: usize) -> Self {
        let row = vec![0.; w];
        let edges = Edges { strength: row.clone(), orientation: row.clone() };
        Self { sobel: Sobel::new(w), fused: edges.clone(), source: edges, kept: row }
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
        let Scratch { sobel, fused, source, kept } = self.scratch;
        let Grids { visible, infrared, .. } = self.images;
        let mut sums = (0., 0.);
        for y in self.rows {
            sobel.row(&self.images.fused, y, Border::Zero);
            edges(sobel, fused);
            for image in [visible, infrared] {
                sobel.row(image, y, Border::Zero);
                edges(sobel, source);
                let sources = source.strength.iter().zip(&source.orientation);
                let fused = fused.strength.iter().zip(&fused.orientation);
                for ((kept, s), f) in kept.iter_mut().zip(sources).zip(fused) {
                    *kept = quality((*s.0, *s.1), (*f.0, *f.1)) * s.0;
                }
                sums.0 += sum(kept);
                sums.1 += sum(&source.strength);
            }
        }
        sums
    }
}

#[inline(always)]
fn edges(sobel: &Sobel, edges: &mut Edges) {
    let slopes = sobel.gx.iter().zip(&sobel.gy);
    let out = edges.strength.iter_mut().zip(&mut edges.orientation);
    for ((strength, orientation), (&gx, &gy)) in out.zip(slopes) {
        let angle = arctan_of_ratio(gy, gx);
        let signed = if gx * gy < 0. { -angle } else { angle };
        *orientation = if gx == 0. { FRAC_PI_2 } else { signed };
        *strength = (gx * gx + gy * gy).sqrt();
    }
}

/// Q of a source's and the fused image's (strength, orientation).
#[inline(always)]
fn quality((s, source): (f64, f64), (f, fused): (f64, f64)) -> f64 {
    let (small, large) = if s < f { (s, f) } else { (f, s) };
    let strength = if s == f { f } else { small / large };
    let orientation = 1. - (source - fused).abs() * (1. / FRAC_PI_2);
    let g = 1. + exp(KAPPA_G * (strength - SIGMA_G));
    let a = 1. + exp(KAPPA_A * (orientation - SIGMA_A));
    GAMMA_G * GAMMA_A / (g * a)
}
