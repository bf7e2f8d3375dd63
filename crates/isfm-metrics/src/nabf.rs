use rayon::prelude::*;

use crate::edges::{Border, Sobel};
use crate::math::{arctan_of_ratio, exp};
use crate::plane::Grids;
use crate::simd::{Kernel, dispatch, sum};
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
            || Scratch::new(w),
            |scratch, band| {
                let rows = band * BAND..(band * BAND + BAND).min(h);
                dispatch(Band { images, rows, scratch })
            },
        )
        .collect();
    let (lost, all) = bands.iter().fold((0., 0.), |(l, a), band| (l + band.0, a + band.1));
    lost / all
}

/// One row's derivatives and what follows from them.
struct Scratch {
    sobel: Sobel,
    fused: Edges,
    sources: [Edges; 2],
    /// Of each source.
    weights: [Vec<f64>; 2],
    losses: [Vec<f64>; 2],
}

#[derive(Clone)]
struct Edges {
    strength: Vec<f64>,
    orientation: Vec<f64>,
}

impl Scratch {
    fn new(w: usize) -> Self {
        let row = || vec![0.; w];
        let edges = || Edges { strength: row(), orientation: row() };
        Self {
            sobel: Sobel::new(w),
            fused: edges(),
            sources: [edges(), edges()],
            weights: [row(), row()],
            losses: [row(), row()],
        }
    }
}

struct Band<'a> {
    images: &'a Grids,
    rows: std::ops::Range<usize>,
    scratch: &'a mut Scratch,
}

impl Kernel for Band<'_> {
    /// Artefacts, and all weights.
    type Output = (f64, f64);

    #[inline(always)]
    fn run(self) -> (f64, f64) {
        let Scratch { sobel, fused, sources, weights, losses } = self.scratch;
        let Grids { visible, infrared, .. } = self.images;
        let (mut artefacts, mut all) = (0., 0.);
        for y in self.rows {
            sobel.row(&self.images.fused, y, Border::Mirror);
            edges(sobel, fused);
            for (k, image) in [visible, infrared].into_iter().enumerate() {
                sobel.row(image, y, Border::Mirror);
                edges(sobel, &mut sources[k]);
                let source = sources[k].strength.iter().zip(&sources[k].orientation);
                let fused = fused.strength.iter().zip(&fused.orientation);
                for (weight, &strength) in weights[k].iter_mut().zip(&sources[k].strength) {
                    let strong = strength * strength.sqrt();
                    *weight = if strength < THRESHOLD { WEAK_WEIGHT } else { strong };
                }
                let inputs = source.zip(fused).zip(&weights[k]);
                for (loss, ((s, f), weight)) in losses[k].iter_mut().zip(inputs) {
                    *loss = (1. - quality((*s.0, *s.1), (*f.0, *f.1))) * weight;
                }
                all += sum(&weights[k]);
            }
            // From here on the losses of the first source are those of both, where they count.
            let [loss, other] = losses;
            let strengths = fused.strength.iter().zip(&sources[0].strength);
            let strengths = strengths.zip(&sources[1].strength);
            for ((loss, other), ((f, v), i)) in loss.iter_mut().zip(other).zip(strengths) {
                let both = *loss + *other;
                let strongest = if v < i { i } else { v };
                *loss = if strongest < f { both } else { 0. };
            }
            artefacts += sum(loss);
        }
        (artefacts, all)
    }
}

#[inline(always)]
fn edges(sobel: &Sobel, edges: &mut Edges) {
    let slopes = sobel.gx.iter().zip(&sobel.gy);
    let out = edges.strength.iter_mut().zip(&mut edges.orientation);
    for ((strength, orientation), (&gx, &gy)) in out.zip(slopes) {
        let (gx, gy) = (gx * SLOPE, gy * SLOPE);
        let squares = gx * gx + gy * gy;
        let angle = arctan_of_ratio(gx, gy);
        let signed = if gx * gy < 0. { -angle } else { angle };
        *orientation = if squares > 0. { signed } else { 0. };
        *strength = squares.sqrt();
    }
}

/// Q of a source's and the fused image's (strength, orientation).
#[inline(always)]
fn quality((s, source): (f64, f64), (f, fused): (f64, f64)) -> f64 {
    use std::f64::consts::FRAC_PI_2;
    let (small, large) = if s < f { (s, f) } else { (f, s) };
    let strength = if small > 0. { small / large } else { 0. };
    let orientation = ((source - fused).abs() - FRAC_PI_2).abs() * (1. / FRAC_PI_2);
    let g = 1. + exp(KAPPA_G * (strength - SIGMA_G));
    let a = 1. + exp(KAPPA_A * (orientation - SIGMA_A));
    (GAMMA_G * GAMMA_A / (g * a)).sqrt()
}
