//! How well blocks of the infrared picture match the visible one when they are moved a little.

use rayon::prelude::*;

use super::features::{CHANNELS, Features};

/// Blocks of a plane, with the sums of products of both pictures' features for each displacement of at most
/// `reach` pixels each way. Sums of several frames of one rig are added before anything is decided, so that a frame
/// without structure adds nothing, and what moves in the scene averages out.
#[derive(Clone, Debug)]
pub(super) struct Surfaces {
    pub reach: usize,
    /// The blocks' centres.
    pub centres: Vec<[f64; 2]>,
    /// Products of both, (2 reach + 1)² of each block, rows of displacements downwards.
    product: Vec<f32>,
    /// Squares of the visible picture's at each displacement.
    visible: Vec<f32>,
    /// Squares of the infrared picture's, one of each block.
    infrared: Vec<f32>,
    /// Block's edge.
    edge: usize,
    size: (usize, usize),
}

/// Parts of a plane: four across, three down.
pub(super) const PARTS: usize = 12;

/// A block counts if so much of it is known.
const KNOWN: f64 = 0.5;

impl Surfaces {
    /// Blocks of `edge` pixels that tile a plane, without sums yet.
    pub fn new(size: (usize, usize), edge: usize, reach: usize) -> Self {
        let (across, down) = ((size.0 / edge).max(1), (size.1 / edge).max(1));
        let start = |whole: usize, count: usize| whole.saturating_sub(count * edge) / 2;
        let (left, top) = (start(size.0, across), start(size.1, down));
        let half = (edge as f64 - 1.) / 2.;
        let centres: Vec<[f64; 2]> = (0..across * down)
            .map(|i| {
                let (x, y) = (left + i % across * edge, top + i / across * edge);
                [x as f64 + half, y as f64 + half]
            })
            .collect();
        let count = centres.len();
        let side = 2 * reach + 1;
        Self {
            reach,
            product: vec![0.; count * side * side],
            visible: vec![0.; count * side * side],
            infrared: vec![0.; count],
            centres,
            edge,
            size,
        }
    }

    /// Displacements each way.
    pub fn side(&self) -> usize {
        2 * self.reach + 1
    }

    /// Adds a frame's sums; both planes have the size.
    pub fn add(&mut self, visible: &Features, infrared: &Features) {
        let (width, height) = self.size;
        let (edge, reach, side) = (self.edge, self.reach, 2 * self.reach + 1);
        // The visible features with a border of zeros, so that every displacement is in it.
        let padded = (width + 2 * reach) * CHANNELS;
        let mut v = vec![0_f32; padded * (height + 2 * reach)];
        for (row, from) in v[padded * reach..]
            .chunks_exact_mut(padded)
            .zip(visible.data.chunks_exact(width * CHANNELS))
        {
            row[reach * CHANNELS..][..width * CHANNELS].copy_from_slice(from);
        }
        let energies = Integral::of(&visible.energy, width, height, reach);
        let half = (edge as f64 - 1.) / 2.;
        let blocks = self
            .product
            .par_chunks_exact_mut(side * side)
            .zip(self.visible.par_chunks_exact_mut(side * side))
            .zip(&mut self.infrared)
            .zip(&self.centres);
        blocks.for_each(|(((product, squares), own), centre)| {
            let (left, top) = ((centre[0] - half) as usize, (centre[1] - half) as usize);
            let (w, h) = (edge.min(width - left), edge.min(height - top));
            let rows = || (top..top + h).map(|y| y * width + left);
            let known: usize = rows()
                .map(|at| infrared.known[at..at + w].iter().filter(|known| **known).count())
                .sum();
            if (known as f64) < KNOWN * (edge * edge) as f64 {
                return;
            }
            *own += rows().map(|at| infrared.energy[at..at + w].iter().sum::<f32>()).sum::<f32>();
            for (dy, (product, squares)) in
                product.chunks_exact_mut(side).zip(squares.chunks_exact_mut(side)).enumerate()
            {
                for y in 0..h {
                    let a = &infrared.data[((top + y) * width + left) * CHANNELS..][..w * CHANNELS];
                    let row = &v[(top + y + dy) * padded + left * CHANNELS..];
                    for (dx, sum) in product.iter_mut().enumerate() {
                        *sum += dot(a, &row[dx * CHANNELS..][..w * CHANNELS]);
                    }
                }
                for (dx, squares) in squares.iter_mut().enumerate() {
                    *squares += energies.sum(left + dx, top + dy, w, h);
                }
            }
        });
    }

    /// The correlation of each block at each displacement; 0 where there is nothing to compare.
    pub fn correlations(&self) -> Vec<f32> {
        let side = self.side();
        // What a block without structure has is noise: it counts for less.
        let usual = self.infrared.iter().copied().map(f64::from).sum::<f64>()
            / self.infrared.iter().filter(|v| **v > 0.).count().max(1) as f64;
        let least = (0.25 * usual) as f32 + 1e-9;
        let blocks = self.product.chunks_exact(side * side);
        let blocks = blocks.zip(self.visible.chunks_exact(side * side)).zip(&self.infrared);
        let mut out = Vec::with_capacity(self.product.len());
        for ((product, visible), &own) in blocks {
            out.extend(
                product.iter().zip(visible).map(|(p, v)| p / ((own + least) * (v + least)).sqrt()),
            );
        }
        out
    }

    /// In which of [`PARTS`] rectangles of the plane each block lies.
    pub fn parts(&self) -> Vec<usize> {
        let (w, h) = (self.size.0 as f64, self.size.1 as f64);
        let part = |&[x, y]: &[f64; 2]| (3. * y / h) as usize * 4 + (4. * x / w) as usize;
        self.centres.iter().map(part).collect()
    }

    /// Sums over all blocks at these displacements (one of each, in pixels): products, and squares of the visible
    /// and the infrared features.
    pub fn totals(&self, at: impl Fn([f64; 2]) -> [f64; 2]) -> [f64; 3] {
        let side = self.side();
        let reach = self.reach as f64;
        let mut sums = [0.; 3];
        for (block, &centre) in self.centres.iter().enumerate() {
            let [x, y] = at(centre).map(|d| (d + reach).round().clamp(0., 2. * reach) as usize);
            let index = (block * side + y) * side + x;
            sums[0] += f64::from(self.product[index]);
            sums[1] += f64::from(self.visible[index]);
            sums[2] += f64::from(self.infrared[block]);
        }
        sums
    }
}

/// The sum of products, in a fixed order.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0_f32; 16];
    let (a_all, b_all) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    for (a, b) in a_all.0.iter().zip(b_all.0) {
        for i in 0..16 {
            lanes[i] += a[i] * b[i];
        }
    }
    let rest: f32 = a_all.1.iter().zip(b_all.1).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

/// Sums over rectangles of a plane with a border of zeros.
struct Integral {
    width: usize,
    sums: Vec<f64>,
}

impl Integral {
    fn of(data: &[f32], width: usize, height: usize, border: usize) -> Self {
        let full = width + 2 * border + 1;
        let mut sums = vec![0.; full * (height + 2 * border + 1)];
        for y in 0..height + 2 * border {
            let mut row = 0.;
            for x in 0..width + 2 * border {
                let inside =
                    (border..border + width).contains(&x) && (border..border + height).contains(&y);
                if inside {
                    row += f64::from(data[(y - border) * width + x - border]);
                }
                sums[(y + 1) * full + x + 1] = sums[y * full + x + 1] + row;
            }
        }
        Self { width: full, sums }
    }

    fn sum(&self, x: usize, y: usize, w: usize, h: usize) -> f32 {
        let at = |x: usize, y: usize| self.sums[y * self.width + x];
        (at(x + w, y + h) - at(x, y + h) - at(x + w, y) + at(x, y)).max(0.) as f32
    }
}
