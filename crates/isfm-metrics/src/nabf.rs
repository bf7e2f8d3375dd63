use crate::edges::{Border, Edge, Measure, Row, Sigmoid, kept, sums};
use crate::math::arctan_of_ratio;
use crate::plane::{Grid, Grids};
use crate::simd::sum;
use crate::{Sample, Triple};

/// Sobel sums are 8 times the slope.
const SLOPE: f64 = 1. / 8.;
/// Edges weaker than this weigh next to nothing.
const THRESHOLD: f64 = 2.;
const WEAK_WEIGHT: f64 = 0.001;
/// Of edge strength and of orientation.
const SIGMOIDS: [Sigmoid; 2] = [
    Sigmoid { gamma: 0.9999, kappa: -19., sigma: 0.5 },
    Sigmoid { gamma: 0.9995, kappa: -22., sigma: 0.5 },
];

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
    nabf_of(&Grids::of(triple), Weights::Strong)
}

/// How much edges count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weights {
    /// As [`nabf`] says.
    Strong,
    /// As there, but weak edges not at all.
    StrongOnly,
    /// As there, of grey levels from 0 to 1: none is strong, so that all count alike.
    Alike,
}

pub(crate) fn nabf_of(images: &Grids, weights: Weights) -> f64 {
    let weak = if weights == Weights::StrongOnly { 0. } else { WEAK_WEIGHT };
    let (artefacts, all) = match weights {
        Weights::Strong | Weights::StrongOnly => sums(images, Nabf { weak }),
        Weights::Alike => sums(&images.map(Grid::unit), Nabf { weak }),
    };
    if all > 0. { artefacts / all } else { 0. }
}

#[derive(Clone, Copy)]
struct Nabf {
    /// The weight of weak edges.
    weak: f64,
}

impl Measure for Nabf {
    const BORDER: Border = Border::Mirror;

    #[inline(always)]
    fn edge(gx: f64, gy: f64) -> Edge {
        let (gx, gy) = (gx * SLOPE, gy * SLOPE);
        let squares = gx * gx + gy * gy;
        let angle = arctan_of_ratio(gx, gy);
        let signed = if gx * gy < 0. { -angle } else { angle };
        (squares.sqrt(), if squares > 0. { signed } else { 0. })
    }

    #[inline(always)]
    fn weight(self, strength: f64) -> f64 {
        let weight = strength * strength.sqrt();
        if strength < THRESHOLD { self.weak } else { weight }
    }

    #[inline(always)]
    fn value(self, (s, source): Edge, (f, fused): Edge, weight: f64) -> f64 {
        use std::f64::consts::FRAC_PI_2;
        let (small, large) = if s < f { (s, f) } else { (f, s) };
        let strength = if small > 0. { small / large } else { 0. };
        let orientation = ((source - fused).abs() - FRAC_PI_2).abs() * (1. / FRAC_PI_2);
        (1. - kept(&SIGMOIDS, strength, orientation).sqrt()) * weight
    }

    /// Both sources' losses, where the fused edge is stronger than both; they take the place of the
    /// first source's.
    #[inline(always)]
    fn add(row: &mut Row, artefacts: &mut f64) {
        let [loss, other] = &mut row.values;
        let strengths = row.fused.strength.iter().zip(&row.sources[0].strength);
        let strengths = strengths.zip(&row.sources[1].strength);
        for ((loss, other), ((f, v), i)) in loss.iter_mut().zip(other).zip(strengths) {
            let both = *loss + *other;
            let strongest = if v < i { i } else { v };
            *loss = if strongest < f { both } else { 0. };
        }
        *artefacts += sum(loss);
    }
}
