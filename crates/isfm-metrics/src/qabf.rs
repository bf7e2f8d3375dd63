use std::f64::consts::FRAC_PI_2;

use rayon::prelude::*;

use crate::plane::{Grid, Grids};
use crate::{Sample, Triple};

// Γ, κ and σ of the sigmoids for edge strength (g) and orientation (α).
const GAMMA_G: f64 = 0.9994;
const KAPPA_G: f64 = -15.;
const SIGMA_G: f64 = 0.5;
const GAMMA_A: f64 = 0.9879;
const KAPPA_A: f64 = -22.;
const SIGMA_A: f64 = 0.8;

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
pub fn qabf<T: Sample>(triple: &Triple<'_, T>) -> f64 {
    qabf_of(&Grids::of(triple))
}

pub(crate) fn qabf_of(g: &Grids) -> f64 {
    let (w, h) = g.size();
    // A sum for each row, added in order: the same for any number of threads.
    let rows: Vec<(f64, f64)> = (0..h)
        .into_par_iter()
        .map_init(
            || [(); 3].map(|()| vec![Edge::default(); w]),
            |[visible, infrared, fused], y| {
                edges(&g.visible, y, visible);
                edges(&g.infrared, y, infrared);
                edges(&g.fused, y, fused);
                let (mut kept, mut all) = (0., 0.);
                for source in [visible, infrared] {
                    for (s, f) in source.iter().zip(fused.iter()) {
                        if s.strength > 0. {
                            kept += quality(s, f) * s.strength;
                            all += s.strength;
                        }
                    }
                }
                (kept, all)
            },
        )
        .collect();
    let (kept, all) = rows.iter().fold((0., 0.), |(k, a), row| (k + row.0, a + row.1));
    if all > 0. { kept / all } else { 0. }
}

#[derive(Clone, Copy, Default)]
struct Edge {
    strength: f64,
    orientation: f64,
}

/// The edges of row `y`.
fn edges(g: &Grid, y: usize, out: &mut [Edge]) {
    let row = |y: Option<usize>| y.filter(|&y| y < g.h).map(|y| g.row(y));
    let (above, here, below) = (row(y.checked_sub(1)), row(Some(y)), row(Some(y + 1)));
    // Down a column first: [1, 2, 1] for gx and [1, 0, −1] for gy.
    let column = |x: usize| {
        let at = |row: Option<&[f64]>| row.map_or(0., |row| row[x]);
        let (a, b, c) = (at(above), at(here), at(below));
        (a + 2. * b + c, a - c)
    };
    let mut left = (0., 0.);
    let mut centre = column(0);
    for (x, out) in out.iter_mut().enumerate() {
        let right = if x + 1 < g.w { column(x + 1) } else { (0., 0.) };
        let gx = right.0 - left.0;
        let gy = left.1 + 2. * centre.1 + right.1;
        *out = Edge {
            strength: (gx * gx + gy * gy).sqrt(),
            orientation: if gx == 0. { FRAC_PI_2 } else { (gy / gx).atan() },
        };
        (left, centre) = (centre, right);
    }
}

fn quality(source: &Edge, fused: &Edge) -> f64 {
    let (s, f) = (source.strength, fused.strength);
    let strength = if s > f {
        f / s
    } else if s < f {
        s / f
    } else {
        f
    };
    let orientation = 1. - (source.orientation - fused.orientation).abs() / FRAC_PI_2;
    let g = 1. + (KAPPA_G * (strength - SIGMA_G)).exp();
    let a = 1. + (KAPPA_A * (orientation - SIGMA_A)).exp();
    GAMMA_G * GAMMA_A / (g * a)
}
