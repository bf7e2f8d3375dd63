//! One axis of a separable transform as a table of weights.
//!
//! Filters and border together only decide which samples an output reads and with what weight.
//! The kernels see nothing but that table, so a wavelet or a border is never a code path, and the
//! transposed table is the exact adjoint, borders included.

use isfm_ops::simd::Real;

use crate::wavelet::Bank;

/// What a transform does at the edge of the signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Border {
    /// What the released fusion network does: an odd last row or column is dropped, so that each
    /// band has ⌊n/2⌋ samples, and nothing is read beyond the edge. A filter of more than two taps
    /// would read there; it finds the signal repeated (PyWavelets' `periodization` on even sizes),
    /// which keeps an orthogonal wavelet orthogonal.
    #[default]
    Drop,
}

impl Border {
    /// Samples per band of a signal of `n`.
    pub(crate) fn outputs(self, n: usize) -> usize {
        match self {
            Self::Drop => n / 2,
        }
    }

    /// Samples of the signal that `m` samples per band reconstruct.
    pub(crate) fn inputs(self, m: usize) -> usize {
        match self {
            Self::Drop => 2 * m,
        }
    }

    /// The sample that output 0 multiplies with tap 0.
    fn first(self, taps: usize) -> isize {
        match self {
            Self::Drop => (taps / 2) as isize,
        }
    }

    /// The sample of a signal of `n` that stands at position `i`, which may lie outside; `None` is
    /// a zero.
    fn source(self, i: isize, n: usize) -> Option<usize> {
        match self {
            Self::Drop => Some(i.rem_euclid((n - n % 2) as isize) as usize),
        }
    }
}

/// One weighted sample: its index, its weight in the low band and in the high band.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Weight<E> {
    pub(crate) index: usize,
    pub(crate) lo: E,
    pub(crate) hi: E,
}

/// For each output of an axis the samples it is the weighted sum of.
#[derive(Debug, PartialEq)]
pub(crate) struct Axis<E> {
    starts: Vec<usize>,
    weights: Vec<Weight<E>>,
}

impl<E: Real> Axis<E> {
    /// From a signal of `n >= 2` to its bands.
    pub(crate) fn analysis(bank: &Bank, border: Border, n: usize) -> Self {
        let first = border.first(bank.taps());
        let rows = (0..border.outputs(n)).map(|o| {
            let taps = bank.lo.iter().zip(&bank.hi).enumerate();
            taps.filter_map(move |(j, (&lo, &hi))| {
                let index = border.source(2 * o as isize + first - j as isize, n)?;
                Some(Weight { index, lo: E::of(lo), hi: E::of(hi) })
            })
        });
        Self::collect(rows)
    }

    /// From the bands to a signal of `n`: the transpose of [`Self::analysis`].
    pub(crate) fn synthesis(bank: &Bank, border: Border, n: usize) -> Self {
        let analysis = Self::analysis(bank, border, n);
        let mut rows = vec![Vec::new(); n];
        for o in 0..border.outputs(n) {
            for &Weight { index, lo, hi } in analysis.at(o) {
                rows[index].push(Weight { index: o, lo, hi });
            }
        }
        Self::collect(rows)
    }

    fn collect(rows: impl IntoIterator<Item = impl IntoIterator<Item = Weight<E>>>) -> Self {
        let mut axis = Self { starts: vec![0], weights: Vec::new() };
        for row in rows {
            axis.weights.extend(row);
            axis.starts.push(axis.weights.len());
        }
        axis
    }

    /// What output `o` sums.
    #[inline(always)]
    pub(crate) fn at(&self, o: usize) -> &[Weight<E>] {
        &self.weights[self.starts[o]..self.starts[o + 1]]
    }
}
