//! Sobel edges, row by row, and what the fused image kept of them.

use rayon::prelude::*;

use crate::math::exp;
use crate::plane::{Grid, Grids, bands};
use crate::simd::{Kernel, dispatch, sum};

/// Rows of one task.
const BAND: usize = 16;

/// What lies beyond an image's border.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Border {
    /// Zeros.
    Zero,
    /// The image mirrored about its outermost pixels, which are not repeated.
    Mirror,
    /// The outermost pixels, repeated.
    Replicate,
}

impl Border {
    fn row(self, y: isize, g: &Grid) -> Option<usize> {
        let last = g.h as isize - 1;
        let inside = match self {
            Border::Zero => y,
            Border::Mirror if last == 0 => 0,
            Border::Mirror if y < 0 => -y,
            Border::Mirror if y > last => 2 * last - y,
            Border::Mirror => y,
            Border::Replicate => y.clamp(0, last),
        };
        (0..=last).contains(&inside).then_some(inside as usize)
    }
}

/// One row's derivatives.
#[derive(Clone, Debug)]
pub(crate) struct Sobel {
    /// From left to right, 8 times the slope.
    pub(crate) gx: Vec<f64>,
    /// From below to above, 8 times the slope.
    pub(crate) gy: Vec<f64>,
    /// Sums down the columns, one pixel further on the left and on the right.
    smooth: Vec<f64>,
    slope: Vec<f64>,
    zeros: Vec<f64>,
}

impl Sobel {
    pub(crate) fn new(w: usize) -> Self {
        let row = vec![0.; w];
        let sums = vec![0.; w + 2];
        Self { gx: row.clone(), gy: row.clone(), smooth: sums.clone(), slope: sums, zeros: row }
    }

    /// [`row`](Self::row) of [`Border::Zero`] with the sums of nine taps that GNU Octave's `conv2` makes: column by
    /// column from the left, in each from below to above. Both derivatives have the other sign.
    #[inline(always)]
    fn row_as_octave(&mut self, g: &Grid, y: usize) {
        let Self { gx, gy, zeros, .. } = self;
        let (w, y) = (g.w, y as isize);
        let row = |y| Border::Zero.row(y, g).map_or(&zeros[..], |y| g.row(y));
        let (above, centre, below) = (row(y - 1), row(y), row(y + 1));
        for x in 0..w {
            let at = |row: &[f64], x: usize| row.get(x).copied().unwrap_or(0.);
            // Left of the first pixel there is none.
            let (l, r) = (x.wrapping_sub(1), x + 1);
            let left = at(below, l) + 2. * at(centre, l) + at(above, l);
            gx[x] = left - at(below, r) - 2. * at(centre, r) - at(above, r);
            let left = at(below, l) - at(above, l) + 2. * at(below, x) - 2. * at(above, x);
            gy[x] = left + at(below, r) - at(above, r);
        }
    }

    #[inline(always)]
    pub(crate) fn row(&mut self, g: &Grid, y: usize, border: Border) {
        let Self { gx, gy, smooth, slope, zeros } = self;
        let w = g.w;
        let [above, below] =
            [-1, 1].map(|d| border.row(y as isize + d, g).map_or(&zeros[..], |y| g.row(y)));
        let rows = above.iter().zip(g.row(y)).zip(below);
        let sums = smooth[1..].iter_mut().zip(&mut slope[1..]);
        for ((smooth, slope), ((a, b), c)) in sums.zip(rows) {
            *smooth = a + 2. * b + c;
            *slope = a - c;
        }
        for sums in [&mut *smooth, &mut *slope] {
            (sums[0], sums[w + 1]) = match border {
                Border::Zero => (0., 0.),
                Border::Mirror if w == 1 => (sums[1], sums[1]),
                Border::Mirror => (sums[2], sums[w - 1]),
                Border::Replicate => (sums[1], sums[w]),
            };
        }
        let (left, right) = (&smooth[..w], &smooth[2..w + 2]);
        for ((gx, left), right) in gx.iter_mut().zip(left).zip(right) {
            *gx = right - left;
        }
        let (left, centre, right) = (&slope[..w], &slope[1..w + 1], &slope[2..w + 2]);
        for (((gy, a), b), c) in gy.iter_mut().zip(left).zip(centre).zip(right) {
            *gy = a + 2. * b + c;
        }
    }
}

/// Strength and orientation of one pixel's edge.
pub(crate) type Edge = (f64, f64);

/// One row's edges.
#[derive(Clone)]
pub(crate) struct Edges {
    pub(crate) strength: Vec<f64>,
    orientation: Vec<f64>,
}

impl Edges {
    #[inline(always)]
    fn read<M: Measure>(&mut self, sobel: &Sobel) {
        let out = self.strength.iter_mut().zip(&mut self.orientation);
        for ((strength, orientation), (&gx, &gy)) in out.zip(sobel.gx.iter().zip(&sobel.gy)) {
            (*strength, *orientation) = M::edge(gx, gy);
        }
    }

    #[inline(always)]
    fn iter(&self) -> impl Iterator<Item = Edge> {
        self.strength.iter().copied().zip(self.orientation.iter().copied())
    }
}

/// Γ / (1 + e^{κ(x − σ)}).
pub(crate) struct Sigmoid {
    pub(crate) gamma: f64,
    pub(crate) kappa: f64,
    pub(crate) sigma: f64,
}

/// How much of an edge is kept: the product of the sigmoids of how alike strengths and orientations
/// are.
#[inline(always)]
pub(crate) fn kept([g, a]: &[Sigmoid; 2], strength: f64, orientation: f64) -> f64 {
    let below_g = 1. + exp(g.kappa * (strength - g.sigma));
    let below_a = 1. + exp(a.kappa * (orientation - a.sigma));
    g.gamma * a.gamma / (below_g * below_a)
}

/// A quotient of sums over the edges of both sources.
pub(crate) trait Measure: Copy + Send + Sync {
    const BORDER: Border;
    /// Whether derivatives are summed as GNU Octave does; then the border is [`Border::Zero`].
    const AS_OCTAVE: bool = false;
    /// The edge of Sobel sums.
    fn edge(gx: f64, gy: f64) -> Edge;
    /// How much an edge of this strength counts.
    fn weight(self, strength: f64) -> f64;
    /// What a source's pixel contributes, for its edge, the fused image's and the weight.
    fn value(self, source: Edge, fused: Edge, weight: f64) -> f64;
    /// Adds one row's values to their sum.
    fn add(row: &mut Row, sum: &mut f64);
}

/// One row of the three images.
pub(crate) struct Row {
    sobel: Sobel,
    pub(crate) fused: Edges,
    pub(crate) sources: [Edges; 2],
    weights: Vec<f64>,
    /// Of each source's pixels.
    pub(crate) values: [Vec<f64>; 2],
}

impl Row {
    fn new(w: usize) -> Self {
        let row = || vec![0.; w];
        let edges = || Edges { strength: row(), orientation: row() };
        let (sobel, sources) = (Sobel::new(w), [edges(), edges()]);
        Self { sobel, fused: edges(), sources, weights: row(), values: [row(), row()] }
    }
}

/// The sums of all values and of all weights.
pub(crate) fn sums<M: Measure>(images: &Grids, measure: M) -> (f64, f64) {
    let (w, h) = images.size();
    let bands: Vec<(f64, f64)> = bands(h, BAND)
        .map_init(|| Row::new(w), |row, rows| dispatch(Band { images, rows, row, measure }))
        .collect();
    bands.iter().fold((0., 0.), |(values, weights), band| (values + band.0, weights + band.1))
}

struct Band<'a, M> {
    images: &'a Grids,
    rows: std::ops::Range<usize>,
    row: &'a mut Row,
    measure: M,
}

impl<M: Measure> Kernel for Band<'_, M> {
    type Output = (f64, f64);

    #[inline(always)]
    fn run(self) -> (f64, f64) {
        let Grids { visible, infrared, fused } = self.images;
        let row = self.row;
        let mut sums = (0., 0.);
        for y in self.rows {
            let derive = |sobel: &mut Sobel, image| match M::AS_OCTAVE {
                true => sobel.row_as_octave(image, y),
                false => sobel.row(image, y, M::BORDER),
            };
            derive(&mut row.sobel, fused);
            row.fused.read::<M>(&row.sobel);
            for (k, image) in [visible, infrared].into_iter().enumerate() {
                derive(&mut row.sobel, image);
                row.sources[k].read::<M>(&row.sobel);
                for (weight, &strength) in row.weights.iter_mut().zip(&row.sources[k].strength) {
                    *weight = self.measure.weight(strength);
                }
                let inputs = row.sources[k].iter().zip(row.fused.iter()).zip(&row.weights);
                for (value, ((source, fused), &weight)) in row.values[k].iter_mut().zip(inputs) {
                    *value = self.measure.value(source, fused, weight);
                }
                sums.1 += sum(&row.weights);
            }
            M::add(row, &mut sums.0);
        }
        sums
    }
}
