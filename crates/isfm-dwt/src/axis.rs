//! One axis of a separable transform: which samples an output reads, and with what weight.
//!
//! Sampling and border only decide where an extended signal begins and what stands at each of its
//! positions. The kernels read that extension and nothing else, so a wavelet or a border is never
//! a code path, and transposing "filter the extension" gives the exact adjoint, borders included:
//! what the transposed filters bring to a position outside is added to the sample it was a copy of.

use isfm_ops::simd::Real;

use crate::wavelet::Bank;

/// What a transform takes to lie beyond the ends of a signal `x[0]…x[n−1]`.
///
/// All but [`Drop`](Self::Drop) have the meaning, and the lengths, of PyWavelets' mode of the same
/// name. On even lengths, a filter of two taps (Haar) reads nothing beyond, and all agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Border {
    /// What the released fusion network does: an odd last row or column is dropped, so that each
    /// band has ⌊n/2⌋ samples, and the rest is treated as by [`Periodization`](Self::Periodization),
    /// which keeps an orthogonal wavelet orthogonal. Not in PyWavelets.
    #[default]
    Drop,
    /// Zeros: … 0 0 | x0 x1 … xn | 0 0 …
    Zero,
    /// The end sample: … x0 x0 | x0 x1 … xn | xn xn …
    Constant,
    /// Mirrored, with the end sample twice: … x1 x0 | x0 x1 … xn | xn xn−1 …
    Symmetric,
    /// Mirrored at the end sample: … x2 x1 | x0 x1 … xn | xn−1 xn−2 …
    Reflect,
    /// Repeated: … xn−1 xn | x0 x1 … xn | x0 x1 …; bands still overlap by the filter's length.
    Periodic,
    /// Repeated, and ⌈n/2⌉ samples per band, no more; an odd length is made even by its last
    /// sample. An orthogonal wavelet is then an orthogonal matrix on even lengths.
    Periodization,
}

impl Border {
    /// Whether bands are as short as they can be.
    fn wraps(self) -> bool {
        matches!(self, Self::Drop | Self::Periodization)
    }

    /// Samples per band of a signal of `n`, with filters of `taps`: PyWavelets' `dwt_coeff_len`.
    ///
    /// ```
    /// use isfm_dwt::Border;
    /// assert_eq!(Border::Symmetric.outputs(9, 8), 8);
    /// assert_eq!(Border::Periodization.outputs(9, 8), 5);
    /// ```
    pub fn outputs(self, n: usize, taps: usize) -> usize {
        match self {
            Self::Drop => n / 2,
            Self::Periodization => n.div_ceil(2),
            _ => (n + taps.saturating_sub(1)) / 2,
        }
    }

    /// The shortest signal there is anything to compute from.
    pub(crate) fn fewest(self) -> usize {
        if self == Self::Drop { 2 } else { 1 }
    }

    /// Samples that the inverse makes of `m` per band; `None` if the bands are too short for any.
    pub(crate) fn inputs(self, m: usize, taps: usize) -> Option<usize> {
        let n = if self.wraps() { 2 * m } else { (2 * m + 2).checked_sub(taps)? };
        (n > 0).then_some(n)
    }

    /// The border under which the inverse is the transpose of an analysis: what an analysis brings
    /// in from beyond the ends is cut off, or with shortest bands wrapped around.
    pub(crate) fn of_inverse(self) -> Self {
        if self.wraps() { self } else { Self::Zero }
    }

    /// The sample of a signal of `n` that stands at position `i`, which may lie outside; `None` is
    /// a zero.
    fn source(self, i: isize, n: usize) -> Option<usize> {
        let within = |period: usize| i.rem_euclid(period as isize) as usize;
        match self {
            Self::Drop => Some(within(n - n % 2)),
            Self::Zero => usize::try_from(i).ok().filter(|&i| i < n),
            Self::Constant => Some(i.clamp(0, n as isize - 1) as usize),
            Self::Symmetric => {
                let r = within(2 * n);
                Some(if r < n { r } else { 2 * n - 1 - r })
            }
            Self::Reflect => {
                let period = (2 * n - 2).max(1);
                let r = within(period);
                Some(if r < n { r } else { period - r })
            }
            Self::Periodic => Some(within(n)),
            Self::Periodization => Some(within(n + n % 2).min(n - 1)),
        }
    }
}

/// Which outputs of a convolution are kept, and how far apart its taps are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sampling {
    /// Every second one: the discrete wavelet transform.
    Decimated(Border),
    /// All, with `dilation` − 1 zeros between the taps and a periodic signal: the stationary
    /// transform.
    Undecimated {
        /// 2^(level − 1).
        dilation: usize,
    },
}

/// The geometry of one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    /// Samples of the signal.
    pub(crate) n: usize,
    /// Samples of each band.
    pub(crate) outputs: usize,
    pub(crate) taps: usize,
    /// Positions from one output to the next: 1 or 2.
    pub(crate) stride: usize,
    /// Positions from one tap to the next; 1 if `stride` is 2.
    pub(crate) dilation: usize,
    /// Positions of the extended signal before sample 0.
    pub(crate) before: usize,
    border: Border,
}

impl Axis {
    /// For a signal of `n >= 1` samples (2 for [`Border::Drop`]).
    pub(crate) fn new(taps: usize, sampling: Sampling, n: usize) -> Self {
        match sampling {
            Sampling::Decimated(border) => Self {
                n,
                outputs: border.outputs(n, taps),
                taps,
                stride: 2,
                dilation: 1,
                before: if border.wraps() { taps / 2 - 1 } else { taps - 2 },
                border,
            },
            Sampling::Undecimated { dilation } => Self {
                n,
                outputs: n,
                taps,
                stride: 1,
                dilation,
                before: (taps / 2 - 1) * dilation,
                border: Border::Periodic,
            },
        }
    }

    /// Positions of the extended signal: output `o` sums those from `stride · o` on.
    pub(crate) fn extended(&self) -> usize {
        self.stride * (self.outputs - 1) + (self.taps - 1) * self.dilation + 1
    }

    /// Leading samples of the signal that stand in the extension as they are.
    pub(crate) fn inside(&self) -> usize {
        if self.border == Border::Drop { self.n - self.n % 2 } else { self.n }
    }

    /// The sample at a position of the extended signal; `None` is a zero.
    pub(crate) fn source(&self, position: usize) -> Option<usize> {
        self.border.source(position as isize - self.before as isize, self.n)
    }

    /// Whether one level is the butterfly of neighbours if the filters are Haar's.
    pub(crate) fn is_blocks(&self) -> bool {
        self.stride == 2 && (self.n.is_multiple_of(2) || self.border == Border::Drop)
    }
}

/// Weighted samples: where each starts, its weight in the low band and in the high band.
#[derive(Clone, Copy)]
pub(crate) struct Terms<'a, E> {
    pub(crate) offsets: &'a [usize],
    pub(crate) lo: &'a [E],
    pub(crate) hi: &'a [E],
}

/// For each output of an axis the samples it is the weighted sum of.
#[derive(Debug)]
pub(crate) struct Table<E> {
    starts: Vec<usize>,
    offsets: Vec<usize>,
    lo: Vec<E>,
    hi: Vec<E>,
}

impl<E: Real> Table<E> {
    /// From a signal to its bands; offsets count `unit` elements a sample.
    pub(crate) fn analysis(bank: &Bank, axis: &Axis, unit: usize) -> Self {
        Self::collect((0..axis.outputs).map(|o| Self::row(bank, axis, o)), unit)
    }

    /// From the bands to a signal: the transpose of [`Self::analysis`].
    pub(crate) fn synthesis(bank: &Bank, axis: &Axis, unit: usize) -> Self {
        let mut rows = vec![Vec::new(); axis.n];
        for o in 0..axis.outputs {
            for (index, lo, hi) in Self::row(bank, axis, o) {
                rows[index].push((o, lo, hi));
            }
        }
        Self::collect(rows, unit)
    }

    fn row(bank: &Bank, axis: &Axis, o: usize) -> impl Iterator<Item = (usize, f64, f64)> {
        let taps = bank.lo.iter().zip(&bank.hi).rev().enumerate();
        taps.filter_map(move |(r, (&lo, &hi))| {
            Some((axis.source(axis.stride * o + r * axis.dilation)?, lo, hi))
        })
    }

    fn collect(
        rows: impl IntoIterator<Item = impl IntoIterator<Item = (usize, f64, f64)>>,
        unit: usize,
    ) -> Self {
        let mut table = Self { starts: vec![0], offsets: vec![], lo: vec![], hi: vec![] };
        for row in rows {
            for (index, lo, hi) in row {
                table.offsets.push(index * unit);
                table.lo.push(E::of(lo));
                table.hi.push(E::of(hi));
            }
            table.starts.push(table.offsets.len());
        }
        table
    }

    /// What output `o` sums.
    #[inline(always)]
    pub(crate) fn at(&self, o: usize) -> Terms<'_, E> {
        let range = self.starts[o]..self.starts[o + 1];
        Terms {
            offsets: &self.offsets[range.clone()],
            lo: &self.lo[range.clone()],
            hi: &self.hi[range],
        }
    }
}
