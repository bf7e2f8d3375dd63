//! Products of a weight matrix with very few rows, such as one step of a stream.

use crate::parallel::{fill_parts, window};
use crate::simd::{Kernel, Real, Simd, dispatch};

/// Up to so many rows, reading the weights where they lie beats packing them first.
pub(crate) const MOST: usize = 4;

/// About how many weights one task reads.
const TASK: usize = 65_536;

/// `x · weightᵀ + bias` for at most [`MOST`] rows of `x`; every weight is read once.
pub(crate) fn product<E: Real>(x: &[E], weight: &[E], bias: Option<&[E]>, cin: usize) -> Vec<E> {
    let (rows, cout) = (x.len() / cin, weight.len() / cin);
    let outputs = TASK.div_ceil(cin);
    // Output by output, the rows side by side.
    let sums = fill_parts(rows * cout, outputs * rows, |start, sums, _| {
        let first = start / rows;
        let count = sums.len() / rows;
        let weight = &weight[first * cin..][..count * cin];
        {
            let sums = &mut *sums;
            match rows {
                1 => dispatch(Dots::<E, 1> { x, weight, cin, sums }),
                2 => dispatch(Dots::<E, 2> { x, weight, cin, sums }),
                3 => dispatch(Dots::<E, 3> { x, weight, cin, sums }),
                _ => dispatch(Dots::<E, 4> { x, weight, cin, sums }),
            }
        }
        if let Some(bias) = bias {
            for (sums, &bias) in sums.chunks_exact_mut(rows).zip(&bias[first..]) {
                sums.iter_mut().for_each(|sum| *sum += bias);
            }
        }
    });
    if rows == 1 {
        return sums;
    }
    (0..rows * cout).map(|i| sums[i % cout * rows + i / cout]).collect()
}

struct Dots<'a, E, const R: usize> {
    /// R rows.
    x: &'a [E],
    weight: &'a [E],
    cin: usize,
    sums: &'a mut [E],
}

impl<E: Real, const R: usize> Kernel<E> for Dots<'_, E, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { x, weight, cin, sums } = self;
        let zero = s.splat(E::of(0.));
        for (weight, sums) in weight.chunks_exact(cin).zip(sums.chunks_exact_mut(R)) {
            // Two sums a row, so that one addition need not wait for the other.
            let mut acc = [[zero; R]; 2];
            let mut i = 0;
            while i + 2 * S::LANES <= cin {
                unroll!(half < 2, {
                    let at = i + half * S::LANES;
                    // SAFETY: at + LANES <= cin.
                    let w = s.load(unsafe { window(weight, at, S::LANES) });
                    unroll!(r < R, {
                        // SAFETY: x has R rows of cin elements.
                        let v = s.load(unsafe { window(x, r * cin + at, S::LANES) });
                        acc[half][r] = s.fma(v, w, acc[half][r]);
                    });
                });
                i += 2 * S::LANES;
            }
            while i < cin {
                let lanes = S::LANES.min(cin - i);
                let w = s.load_partial(&weight[i..][..lanes]);
                unroll!(r < R, {
                    let v = s.load_partial(&x[r * cin + i..][..lanes]);
                    acc[0][r] = s.fma(v, w, acc[0][r]);
                });
                i += lanes;
            }
            unroll!(r < R, {
                sums[r] = s.sum(s.add(acc[0][r], acc[1][r]));
            });
        }
    }
}
