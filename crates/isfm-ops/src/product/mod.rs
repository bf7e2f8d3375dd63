//! The two register-blocked products that dense convolutions and linear layers are made of.
//!
//! Both keep a tile of the result in registers, broadcast one operand and run along the other with
//! vectors. Rows of the first operand are `step` apart and may overlap: a convolution's window
//! row, k pixels of all channels, is contiguous in a padded channel-last map, and the next pixel's
//! starts one pixel later. No im2col copy is needed.

pub(crate) mod few_rows;

use crate::parallel::window;
use crate::simd::{Kernel, Level, Real, Simd, dispatch, level};

/// Rows of one block, which stays in a near cache; a multiple of the register tile.
pub(crate) const ROWS: usize = 96;

/// Rows of a register tile.
const TILE: usize = 6;
/// Depth that is worked through at a time, so that the weights stay in a near cache.
const DEPTH: usize = 128;
/// Panels are padded to a multiple of this many columns: the widest vector.
const PAD: usize = crate::simd::MAX_LANES;

/// A depth×columns matrix, re-laid as panels of a few vectors' width that are read in order.
pub(crate) struct Packed<E> {
    data: Vec<E>,
    depth: usize,
    columns: usize,
    width: usize,
}

impl<E: Real> Packed<E> {
    /// The matrix whose row r, column j is `at(r, j)`.
    pub(crate) fn new(depth: usize, columns: usize, at: impl Fn(usize, usize) -> E) -> Self {
        // The width only affects speed: any width works with any vector.
        let full = if level() == Level::Avx512 { 4 * PAD } else { PAD };
        let padded = columns.next_multiple_of(PAD);
        let width = full.min(padded);
        let mut data = vec![E::of(0.); depth * padded];
        for first in (0..columns).step_by(width) {
            let width = width.min(padded - first);
            let panel = &mut data[depth * first..][..depth * width];
            let used = width.min(columns - first);
            for (r, row) in panel.chunks_exact_mut(width).enumerate() {
                for (j, w) in row[..used].iter_mut().enumerate() {
                    *w = at(r, first + j);
                }
            }
        }
        Self { data, depth, columns, width }
    }

    /// The matrix of a linear layer's weights, `outputs`×`inputs`.
    pub(crate) fn transposed(weights: &[E], inputs: usize, outputs: usize) -> Self {
        Self::new(inputs, outputs, |r, j| weights[j * inputs + r])
    }

    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// Sets every row of `out` to `bias`, or to zero.
    pub(crate) fn start_from(&self, bias: Option<&[E]>, out: &mut [E]) {
        match bias {
            Some(bias) => {
                out.chunks_exact_mut(self.columns).for_each(|row| row.copy_from_slice(bias));
            }
            None => out.fill(E::of(0.)),
        }
    }

    /// `out` += x · matrix, for contiguous rows.
    pub(crate) fn accumulate(&self, x: &[E], out: &mut [E]) {
        dispatch(Product {
            src: x,
            src_line: 0,
            step: self.depth,
            run: self.depth,
            reach: 1,
            weights: self,
            dst: out,
            dst_line: 0,
            lines: 1,
            count: x.len() / self.depth,
        });
    }
}

/// `dst[l][p] += Σ_i Σ_r src[l + i][p·step + r] · weights[i·run + r]` for every line l and place p.
pub(crate) struct Product<'a, E> {
    /// Lines of the first operand, `src_line` elements apart.
    pub(crate) src: &'a [E],
    pub(crate) src_line: usize,
    pub(crate) step: usize,
    /// Contiguous elements that one place reads of one line.
    pub(crate) run: usize,
    /// Lines that one place reads.
    pub(crate) reach: usize,
    pub(crate) weights: &'a Packed<E>,
    /// Lines of the result, `dst_line` elements apart; places are `weights.columns()` apart.
    pub(crate) dst: &'a mut [E],
    pub(crate) dst_line: usize,
    pub(crate) lines: usize,
    pub(crate) count: usize,
}

impl<E: Real> Kernel<E> for Product<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let w = self.weights;
        let padded = w.columns.next_multiple_of(PAD);
        for i in 0..self.reach {
            for r in (0..self.run).step_by(DEPTH) {
                let depth = DEPTH.min(self.run - r);
                for first in (0..w.columns).step_by(w.width) {
                    let width = w.width.min(padded - first);
                    let panel = &w.data[w.depth * first + (i * self.run + r) * width..];
                    for l in 0..self.lines {
                        let src = &self.src[(l + i) * self.src_line + r..];
                        let dst = &mut self.dst[l * self.dst_line..];
                        let mut line = Line {
                            src,
                            step: self.step,
                            depth,
                            panel: &panel[..depth * width],
                            width,
                            dst,
                            columns: w.columns,
                            first,
                        };
                        let mut p = 0;
                        while p + TILE <= self.count {
                            line.places::<S, TILE>(s, p);
                            p += TILE;
                        }
                        while p + 2 <= self.count {
                            line.places::<S, 2>(s, p);
                            p += 2;
                        }
                        if p < self.count {
                            line.places::<S, 1>(s, p);
                        }
                    }
                }
            }
        }
    }
}

struct Line<'a, E> {
    src: &'a [E],
    step: usize,
    depth: usize,
    panel: &'a [E],
    width: usize,
    dst: &'a mut [E],
    columns: usize,
    first: usize,
}

impl<E: Real> Line<'_, E> {
    #[inline(always)]
    fn places<S: Simd<E = E>, const M: usize>(&mut self, s: S, p: usize) {
        let mut j = 0;
        while j < self.width {
            let vectors = (self.width - j) / S::LANES;
            // The tile must fit the registers: 32 of 16 lanes, or 16 of fewer.
            if const { S::LANES == 16 } && vectors >= 4 {
                self.tile::<S, M, 4>(s, p, j);
                j += 4 * S::LANES;
            } else if vectors >= 2 {
                self.tile::<S, M, 2>(s, p, j);
                j += 2 * S::LANES;
            } else {
                self.tile::<S, M, 1>(s, p, j);
                j += S::LANES;
            }
        }
    }

    #[inline(always)]
    fn tile<S: Simd<E = E>, const M: usize, const N: usize>(&mut self, s: S, p: usize, j: usize) {
        let column = self.first + j;
        if column >= self.columns {
            return;
        }
        let src: [&[E]; M] =
            std::array::from_fn(|m| &self.src[(p + m) * self.step..][..self.depth]);
        assert!(j + N * S::LANES <= self.width && self.depth * self.width <= self.panel.len());
        let mut acc = [[s.splat(E::of(0.)); N]; M];
        let whole = column + N * S::LANES <= self.columns;
        unroll!(m < M, {
            let row = &self.dst[(p + m) * self.columns..][..self.columns];
            unroll!(n < N, {
                let from = (column + n * S::LANES).min(self.columns);
                let row = &row[from..];
                acc[m][n] = if whole { s.load(row) } else { s.load_partial(row) };
            });
        });
        for r in 0..self.depth {
            let mut w = [s.splat(E::of(0.)); N];
            unroll!(n < N, {
                let at = r * self.width + j + n * S::LANES;
                // SAFETY: r < depth and j + (n+1)·LANES <= width, so this ends inside the panel.
                w[n] = s.load(unsafe { window(self.panel, at, S::LANES) });
            });
            unroll!(m < M, {
                // SAFETY: each slice was cut to `depth` elements.
                let x = s.splat(unsafe { *src[m].get_unchecked(r) });
                unroll!(n < N, {
                    acc[m][n] = s.fma(x, w[n], acc[m][n]);
                });
            });
        }
        unroll!(m < M, {
            let row = &mut self.dst[(p + m) * self.columns..][..self.columns];
            unroll!(n < N, {
                let from = (column + n * S::LANES).min(self.columns);
                let row = &mut row[from..];
                if whole {
                    s.store(acc[m][n], row);
                } else {
                    s.store_partial(acc[m][n], row);
                }
            });
        });
    }
}

/// `sums[i][j] += Σ_p a[p·step_a + i] · b[p·step_b + j]`: the sum of outer products that weights'
/// gradients are.
pub(crate) struct OuterSum<'a, E> {
    pub(crate) a: &'a [E],
    pub(crate) step_a: usize,
    pub(crate) rows: usize,
    pub(crate) b: &'a [E],
    pub(crate) step_b: usize,
    pub(crate) columns: usize,
    pub(crate) count: usize,
    /// rows×columns.
    pub(crate) sums: &'a mut [E],
}

impl<E: Real> Kernel<E> for OuterSum<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(mut self, s: S) {
        let mut j = 0;
        while j < self.columns {
            let vectors = (self.columns - j) / S::LANES;
            if const { S::LANES == 16 } && vectors >= 4 {
                self.strip::<S, 4>(s, j);
                j += 4 * S::LANES;
            } else if vectors >= 2 {
                self.strip::<S, 2>(s, j);
                j += 2 * S::LANES;
            } else {
                self.strip::<S, 1>(s, j);
                j += S::LANES;
            }
        }
    }
}

impl<E: Real> OuterSum<'_, E> {
    #[inline(always)]
    fn strip<S: Simd<E = E>, const N: usize>(&mut self, s: S, j: usize) {
        let mut i = 0;
        while i + TILE <= self.rows {
            self.tile::<S, TILE, N>(s, i, j);
            i += TILE;
        }
        while i + 2 <= self.rows {
            self.tile::<S, 2, N>(s, i, j);
            i += 2;
        }
        if i < self.rows {
            self.tile::<S, 1, N>(s, i, j);
        }
    }

    #[inline(always)]
    fn tile<S: Simd<E = E>, const M: usize, const N: usize>(&mut self, s: S, i: usize, j: usize) {
        if self.count == 0 {
            return;
        }
        // A single vector may be the short one at the end of a row.
        let lanes = S::LANES.min(self.columns - j);
        let last = self.count - 1;
        assert!(N == 1 || j + N * S::LANES <= self.columns);
        assert!(last * self.step_a + i + M <= self.a.len());
        assert!(last * self.step_b + j + (N - 1) * S::LANES + lanes <= self.b.len());
        let mut acc = [[s.splat(E::of(0.)); N]; M];
        for p in 0..self.count {
            let mut b = [s.splat(E::of(0.)); N];
            unroll!(n < N, {
                let at = p * self.step_b + j + n * S::LANES;
                b[n] = if N > 1 || lanes == S::LANES {
                    // SAFETY: within what was asserted for the last p.
                    s.load(unsafe { window(self.b, at, S::LANES) })
                } else {
                    // SAFETY: as above.
                    s.load_partial(unsafe { window(self.b, at, lanes) })
                };
            });
            unroll!(m < M, {
                // SAFETY: within what was asserted for the last p.
                let a = s.splat(unsafe { *self.a.get_unchecked(p * self.step_a + i + m) });
                unroll!(n < N, {
                    acc[m][n] = s.fma(a, b[n], acc[m][n]);
                });
            });
        }
        unroll!(m < M, {
            let row = &mut self.sums[(i + m) * self.columns + j..][..(N - 1) * S::LANES + lanes];
            unroll!(n < N, {
                let row = &mut row[n * S::LANES..];
                let sum = s.add(s.load_partial(row), acc[m][n]);
                let lanes = row.len().min(S::LANES);
                s.store_partial(sum, &mut row[..lanes]);
            });
        });
    }
}

/// `sums += Σ a ⊗ b` over contiguous rows; each comes with its number of columns.
pub(crate) fn outer_sum<E: Real>(
    (a, rows): (&[E], usize),
    (b, columns): (&[E], usize),
    sums: &mut [E],
) {
    let count = a.len() / rows;
    dispatch(OuterSum { a, step_a: rows, rows, b, step_b: columns, columns, count, sums });
}

/// Adds every row of `rows` to `sums`.
pub(crate) fn add_columns<E: Real>(rows: &[E], sums: &mut [E]) {
    for row in rows.chunks_exact(sums.len()) {
        for (s, &v) in sums.iter_mut().zip(row) {
            *s += v;
        }
    }
}
