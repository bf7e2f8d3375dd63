//! Weighted sums of the three images and of their products over a sliding window: what SSIM,
//! MS-SSIM and VIF are computed from.

use rayon::prelude::*;

use crate::plane::{Grid, Grids, bands};
use crate::simd::{Kernel, LANES, V, dispatch};

/// Output rows of one task.
const BAND: usize = 16;

/// For each place of the window along one row, the weighted sums of f, f², v, v², f·v, i, i², f·i.
/// The rows may go on after the last place; what is there means nothing.
pub(crate) type Moments = [Vec<f64>; 8];

/// What is done with each row of moments.
pub(crate) trait Consumer: Default + Send {
    /// Takes one row; `scratch` has as many values as there are places. Must be
    /// `#[inline(always)]`, as everything it calls.
    fn row(&mut self, moments: &Moments, scratch: &mut [Vec<f64>; 2]);
}

/// Slides a separable window over all places where it fits. `taps` are symmetric and odd in
/// number, and no more than either side of the images. Returns one consumer for each band of rows,
/// from the top down.
pub(crate) fn slide<C: Consumer, const N: usize>(images: &Grids, taps: &[f64; N]) -> Vec<C> {
    let (w, h) = images.size();
    let (places, out_h) = (w + 1 - N, h + 1 - N);
    bands(out_h, BAND)
        .map_init(
            || Scratch {
                columns: [(); 8].map(|()| vec![0.; (w + N).next_multiple_of(LANES) + LANES]),
                rows: [(); 8].map(|()| vec![0.; places.next_multiple_of(LANES)]),
                spare: [(); 2].map(|()| vec![0.; places]),
            },
            |scratch, rows| dispatch(Band { images, taps, rows, scratch, consumer: C::default() }),
        )
        .collect()
}

/// As [`slide`] with any taps, the first that of the upper left pixel, and with products of grey
/// levels that are at most `most`. Slower, but compiled once for all windows.
pub(crate) fn slide_any<C: Consumer>(images: &Grids, taps: &[f64], most: f64) -> Vec<C> {
    let (w, h) = images.size();
    let (places, out_h) = (w + 1 - taps.len(), h + 1 - taps.len());
    bands(out_h, BAND)
        .map_init(
            || Scratch {
                columns: [(); 8].map(|()| vec![0.; w]),
                rows: [(); 8].map(|()| vec![0.; places]),
                spare: [(); 2].map(|()| vec![0.; places]),
            },
            |scratch, rows| {
                dispatch(AnyBand { images, taps, most, rows, scratch, consumer: C::default() })
            },
        )
        .collect()
}

struct AnyBand<'a, C> {
    images: &'a Grids,
    taps: &'a [f64],
    most: f64,
    rows: std::ops::Range<usize>,
    scratch: &'a mut Scratch,
    consumer: C,
}

impl<C: Consumer> Kernel for AnyBand<'_, C> {
    type Output = C;

    #[inline(always)]
    fn run(mut self) -> C {
        let Grids { fused, visible, infrared } = self.images;
        let Scratch { columns, rows, spare } = self.scratch;
        // Each moment's factors; a sum has one.
        let factors = [
            (fused, None),
            (fused, Some(fused)),
            (visible, None),
            (visible, Some(visible)),
            (fused, Some(visible)),
            (infrared, None),
            (infrared, Some(infrared)),
            (fused, Some(infrared)),
        ];
        for y in self.rows {
            for ((a, b), (column, row)) in factors.iter().zip(columns.iter_mut().zip(&mut *rows)) {
                column.fill(0.);
                for (k, &tap) in self.taps.iter().enumerate() {
                    match b {
                        None => {
                            for (sum, a) in column.iter_mut().zip(a.row(y + k)) {
                                *sum += tap * a;
                            }
                        }
                        Some(b) => {
                            let pixels = a.row(y + k).iter().zip(b.row(y + k));
                            for (sum, (a, b)) in column.iter_mut().zip(pixels) {
                                let product = a * b;
                                *sum += tap * if product < self.most { product } else { self.most };
                            }
                        }
                    }
                }
                row.fill(0.);
                for (k, &tap) in self.taps.iter().enumerate() {
                    for (sum, column) in row.iter_mut().zip(&column[k..]) {
                        *sum += tap * column;
                    }
                }
            }
            self.consumer.row(rows, spare);
        }
        self.consumer
    }
}

struct Scratch {
    /// Whole vectors: what comes after the last column or place means nothing.
    columns: Moments,
    rows: Moments,
    spare: [Vec<f64>; 2],
}

struct Band<'a, C, const N: usize> {
    images: &'a Grids,
    taps: &'a [f64; N],
    rows: std::ops::Range<usize>,
    scratch: &'a mut Scratch,
    consumer: C,
}

impl<C: Consumer, const N: usize> Kernel for Band<'_, C, N> {
    type Output = C;

    #[inline(always)]
    fn run(mut self) -> C {
        let Scratch { columns, rows, spare } = self.scratch;
        for y in self.rows {
            down(self.images, self.taps, y, columns);
            for (row, column) in rows.iter_mut().zip(columns.iter()) {
                along(self.taps, column, row);
            }
            self.consumer.row(rows, spare);
        }
        self.consumer
    }
}

/// The window's sums down each column. The products are made anew for every row: that is cheaper
/// than the memory they would fill.
#[inline(always)]
fn down<const N: usize>(images: &Grids, taps: &[f64; N], y: usize, columns: &mut Moments) {
    let mut rows: [[&[f64]; 3]; N] = [[&[]; 3]; N];
    for (k, rows) in rows.iter_mut().enumerate() {
        let Grids { fused, visible, infrared } = images;
        *rows = [fused.vectors(y + k), visible.vectors(y + k), infrared.vectors(y + k)];
    }
    for x in (0..images.fused.w).step_by(LANES) {
        let mut sums = [V::splat(0.); 8];
        for (&[f, v, i], &tap) in rows.iter().zip(taps) {
            let (f, v, i) = (V::load(f, x), V::load(v, x), V::load(i, x));
            let tap = V::splat(tap);
            let (tf, tv, ti) = (f * tap, v * tap, i * tap);
            let terms = [tf, tf * f, tv, tv * v, tf * v, ti, ti * i, tf * i];
            for k in 0..8 {
                sums[k] += terms[k];
            }
        }
        for (column, sum) in columns.iter_mut().zip(sums) {
            sum.store(column, x);
        }
    }
}

/// The window's sums along a row; both are whole vectors.
#[inline(always)]
fn along<const N: usize>(taps: &[f64; N], from: &[f64], to: &mut [f64]) {
    for x in (0..to.len()).step_by(LANES) {
        let from = &from[x..x + LANES + N - 1];
        let mut sum = V::load(from, N / 2) * V::splat(taps[N / 2]);
        for (k, &tap) in taps[..N / 2].iter().enumerate() {
            sum += (V::load(from, k) + V::load(from, N - 1 - k)) * V::splat(tap);
        }
        sum.store(to, x);
    }
}

/// The window over an image: at every place where it fits, or at every second, right and down. Every
/// place wants symmetric taps.
pub(crate) fn filter<const N: usize>(g: &Grid, taps: &[f64; N], step: usize) -> Grid {
    debug_assert!(step == 1 || step == 2);
    let (w, h) = ((g.w + 1 - N).div_ceil(step), (g.h + 1 - N).div_ceil(step));
    let mut out = Grid::zeros(w, h);
    out.pixels_mut().par_chunks_mut(BAND * w).enumerate().for_each(|(band, rows)| {
        dispatch(Filter { g, taps, step, first: step * band * BAND, rows, w });
    });
    out
}

/// The window over an image, centred on each pixel in turn, zeros beyond the border.
pub(crate) fn same<const N: usize>(g: &Grid, taps: &[f64; N]) -> Grid {
    filter(&padded(g, N / 2), taps, 1)
}

/// An image with so many zeros on each side.
pub(crate) fn padded(g: &Grid, by: usize) -> Grid {
    let mut padded = Grid::zeros(g.w + 2 * by, g.h + 2 * by);
    let stride = padded.w;
    for (y, row) in g.rows().enumerate() {
        padded.pixels_mut()[(y + by) * stride + by..][..g.w].copy_from_slice(row);
    }
    padded
}

struct Filter<'a, const N: usize> {
    g: &'a Grid,
    taps: &'a [f64; N],
    step: usize,
    /// The uppermost row that the first output row sees.
    first: usize,
    rows: &'a mut [f64],
    w: usize,
}

impl<const N: usize> Kernel for Filter<'_, N> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let width = (self.g.w + N).next_multiple_of(LANES) + LANES;
        // With a step of two, even and odd columns apart: only the places that are kept are summed.
        let (mut column, mut halves) = (vec![0.; width], [(); 2].map(|()| vec![0.; width]));
        let mut row = vec![0.; self.w.next_multiple_of(LANES)];
        for (y, out) in self.rows.chunks_exact_mut(self.w).enumerate() {
            let above = self.first + self.step * y;
            let rows: [&[f64]; N] = std::array::from_fn(|k| self.g.vectors(above + k));
            for x in (0..self.g.w).step_by(LANES) {
                let mut sum = V::splat(0.);
                for (row, &tap) in rows.iter().zip(self.taps) {
                    sum += V::load(row, x) * V::splat(tap);
                }
                sum.store(&mut column, x);
            }
            if self.step == 1 {
                along(self.taps, &column, &mut row);
            } else {
                let [even, odd] = &mut halves;
                for ((pair, even), odd) in column.chunks_exact(2).zip(even).zip(odd) {
                    (*even, *odd) = (pair[0], pair[1]);
                }
                along_halves(self.taps, &halves, &mut row);
            }
            out.copy_from_slice(&row[..self.w]);
        }
    }
}

/// The window's sums at every second place of a row, of which the even and the odd columns are
/// given; all are whole vectors.
#[inline(always)]
fn along_halves<const N: usize>(taps: &[f64; N], from: &[Vec<f64>; 2], to: &mut [f64]) {
    for x in (0..to.len()).step_by(LANES) {
        let [even, odd] = from.each_ref().map(|half| &half[x..x + LANES + N / 2]);
        let mut sum = V::splat(0.);
        for (k, &tap) in taps.iter().enumerate() {
            let half = if k % 2 == 0 { even } else { odd };
            sum += V::load(half, k / 2) * V::splat(tap);
        }
        sum.store(to, x);
    }
}

/// A normalised Gaussian of N taps, N odd.
pub(crate) fn gaussian<const N: usize>(sigma: f64) -> [f64; N] {
    let centre = (N / 2) as f64;
    let at = |i: usize| (-(i as f64 - centre).powi(2) / (2. * sigma * sigma)).exp();
    let sum: f64 = (0..N).map(at).sum();
    std::array::from_fn(|i| at(i) / sum)
}
