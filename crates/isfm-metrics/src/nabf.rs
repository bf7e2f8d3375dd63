use rayon::prelude::*;

use crate::edges::{Border, Sobel};
use crate::math::{arctan_of_ratio, exp};
use crate::plane::Grids;
use crate::simd::{Kernel, LANES, V, dispatch};
use crate::{Sample, Triple};

/// Sobel sums are 8 times the slope.
const SLOPE: f64 = 1. / 8.;
/// Edges weaker than this weigh next to nothing.
const THRESHOLD: f64 = 2.;
const WEAK_WEIGHT: f64 = 0.001;
// Γ, κ and σ of the sigmoids for edge strength (g) and orientation (α).
const GAMMA_G: f64 = 0.9999;
const KAPPA_G: f64 = -19.;
const SIGMA_G: f64 = 0.5;
const GAMMA_A: f64 = 0.9995;
const KAPPA_A: f64 = -22.;
const SIGMA_A: f64 = 0.5;
/// Rows of one task; fixed, so that sums do not depend on the threads.
const BAND: usize = 16;

/// Nabf: artefacts, that is edges of the fused image that neither source has,
/// Σ_{g_f > g_vi, g_f > g_ir} ((1 − Q_vi) w_vi + (1 − Q_ir) w_ir) / Σ(w_vi + w_ir).
///
/// Sobel / 8 with the image mirrored about its outermost pixels gives each image a strength
/// g = √(gx² + gy²) and an orientation α = arctan(gx/gy) (0 where both are 0). For a source and the
/// fused image, G = smaller strength / larger (0 where one is 0), A = ||α_source − α_fused| − π/2|
/// / (π/2), Q² = Γg / (1 + e^{κg(G − σg)}) · Γα / (1 + e^{κα(A − σα)}), with Γg = .9999, κg = −19,
/// σg = .5, Γα = .9995, κα = −22, σα = .5. Weights are w = g^1.5 for g ≥ 2 and .001 below.
///
/// From 0 to 1; lower is better. 0 where the fused image has no edge stronger than both sources',
/// as for identical or constant images.
///
/// Petrović, Xydeas, "Objective image fusion performance characterisation", ICCV 2005, as changed
/// by Shreyamsha Kumar, "Multifocus and multispectral image fusion based on pixel significance
/// using discrete cosine harmonic wavelet transform", Signal, Image and Video Processing 2013,
/// whose program the tables use. Some translations of it give weak edges the weight 0.
///
/// Checked against plain NumPy written from the papers (`tests/fixtures/make.py`).
pub fn nabf<T: Sample>(triple: &Triple<'_, T>) -> f64 {
    nabf_of(&Grids::of(triple))
}

pub(crate) fn nabf_of(images: &Grids) -> f64 {
    let (w, h) = images.size();
    let bands: Vec<(f64, f64)> = (0..h.div_ceil(BAND))
        .into_par_iter()
        .map_init(
            || [(); 3].map(|()| Sobel::new(w)),
            |sobels, band| {
                let rows = band * BAND..(band * BAND + BAND).min(h);
                dispatch(Band { images, rows, sobels })
            },
        )
        .collect();
    let (lost, all) = bands.iter().fold((0., 0.), |(l, a), band| (l + band.0, a + band.1));
    lost / all
}

struct Band<'a> {
    images: &'a Grids,
    rows: std::ops::Range<usize>,
    sobels: &'a mut [Sobel; 3],
}

impl Kernel for Band<'_> {
    /// Artefacts, and all weights.
    type Output = (f64, f64);

    #[inline(always)]
    fn run(self) -> (f64, f64) {
        let Grids { fused, visible, infrared } = self.images;
        let w = fused.w;
        let (mut artefacts, mut all) = (0., 0.);
        for y in self.rows {
            for (sobel, g) in self.sobels.iter_mut().zip([fused, visible, infrared]) {
                sobel.row(g, y, Border::Mirror);
            }
            let [f, v, i] = &*self.sobels;
            let (mut row_artefacts, mut row_all) = (V::splat(0.), V::splat(0.));
            for x in (0..w).step_by(LANES) {
                let (f, v, i) = (edge(f, x), edge(v, x), edge(i, x));
                let ((lost_v, weight_v), (lost_i, weight_i)) = (loss(v, f), loss(i, f));
                let strongest = v.strength.max(i.strength);
                let lost = strongest.select_less(f.strength, lost_v + lost_i, V::splat(0.));
                let n = w - x;
                row_artefacts += lost.first(n, 0.);
                row_all += (weight_v + weight_i).first(n, 0.);
            }
            artefacts += row_artefacts.sum();
            all += row_all.sum();
        }
        (artefacts, all)
    }
}

#[derive(Clone, Copy)]
struct Edge {
    strength: V,
    orientation: V,
}

#[inline(always)]
fn edge(sobel: &Sobel, x: usize) -> Edge {
    let (gx, gy) = (V::load(&sobel.gx, x) * SLOPE, V::load(&sobel.gy, x) * SLOPE);
    let squares = gx * gx + gy * gy;
    let angle = arctan_of_ratio(gx, gy);
    let zero = V::splat(0.);
    let signed = (gx * gy).select_less(zero, -angle, angle);
    Edge { strength: squares.sqrt(), orientation: zero.select_less(squares, signed, zero) }
}

/// What was lost of the source's edge, weighted, and the weight.
#[inline(always)]
fn loss(source: Edge, fused: Edge) -> (V, V) {
    use std::f64::consts::FRAC_PI_2;
    let zero = V::splat(0.);
    let (s, f) = (source.strength, fused.strength);
    let (small, large) = (s.min(f), s.max(f));
    let strength = zero.select_less(small, small / large, zero);
    let turn = (source.orientation - fused.orientation).abs() - FRAC_PI_2;
    let orientation = turn.abs() * (1. / FRAC_PI_2);
    let g = exp((strength - SIGMA_G) * KAPPA_G) + 1.;
    let a = exp((orientation - SIGMA_A) * KAPPA_A) + 1.;
    let q = (V::splat(GAMMA_G * GAMMA_A) / (g * a)).sqrt();
    let weight = s.select_less(V::splat(THRESHOLD), V::splat(WEAK_WEIGHT), s * s.sqrt());
    ((V::splat(1.) - q) * weight, weight)
}
