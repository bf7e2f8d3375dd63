use std::f64::consts::FRAC_PI_2;

use crate::edges::{Border, Edge, Measure, Row, Sigmoid, kept, sums};
use crate::math::arctan_of_ratio;
use crate::plane::{Grid, Grids};
use crate::simd::sum;
use crate::{Sample, Triple};

/// Of edge strength and of orientation.
const SIGMOIDS: [Sigmoid; 2] = [
    Sigmoid { gamma: 0.9994, kappa: -15., sigma: 0.5 },
    Sigmoid { gamma: 0.9879, kappa: -22., sigma: 0.8 },
];

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
    qabf_of(&Grids::of(triple), Scale::Bytes)
}

/// What grey levels are counted in, which matters where two strengths are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// 0 to 255.
    Bytes,
    /// 0 to 1.
    Unit,
    /// 0 to 255².
    Squares,
}

pub(crate) fn qabf_of(images: &Grids, scale: Scale) -> f64 {
    let (kept, all) = match scale {
        Scale::Bytes => sums(images, Qabf::<false> { unit: 1. }),
        // Divided first, as the program does: of such levels the order of sums decides which slopes are 0 and
        // which strengths equal.
        Scale::Unit => sums(&images.map(Grid::unit), Qabf::<true> { unit: 1. }),
        Scale::Squares => sums(images, Qabf::<false> { unit: 255. }),
    };
    if all > 0. { kept / all } else { 0. }
}

#[derive(Clone, Copy)]
struct Qabf<const AS_OCTAVE: bool> {
    /// What a grey level counts.
    unit: f64,
}

impl<const AS_OCTAVE: bool> Measure for Qabf<AS_OCTAVE> {
    const BORDER: Border = Border::Zero;
    const AS_OCTAVE: bool = AS_OCTAVE;

    #[inline(always)]
    fn edge(gx: f64, gy: f64) -> Edge {
        let angle = arctan_of_ratio(gy, gx);
        let signed = if gx * gy < 0. { -angle } else { angle };
        ((gx * gx + gy * gy).sqrt(), if gx == 0. { FRAC_PI_2 } else { signed })
    }

    #[inline(always)]
    fn weight(self, strength: f64) -> f64 {
        strength
    }

    #[inline(always)]
    fn value(self, (s, source): Edge, (f, fused): Edge, weight: f64) -> f64 {
        let (small, large) = if s < f { (s, f) } else { (f, s) };
        let strength = if s == f { f * self.unit } else { small / large };
        let orientation = 1. - (source - fused).abs() * (1. / FRAC_PI_2);
        kept(&SIGMOIDS, strength, orientation) * weight
    }

    #[inline(always)]
    fn add(row: &mut Row, kept: &mut f64) {
        for values in &row.values {
            *kept += sum(values);
        }
    }
}
