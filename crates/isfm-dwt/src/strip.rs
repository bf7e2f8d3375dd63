//! The 1-D transform on the CPU, along any axis of a tensor.

use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::Arc;

use candle_core::Shape;
use isfm_ops::simd::{Kernel, Real, Simd, dispatch};
use rayon::prelude::*;

use crate::axis::{Axis, Sampling, Table, Terms};
use crate::line::{Line, Scratch, merge, split_wanted};
use crate::op::{Parts, TASK, Transform, zeroed};
use crate::wavelet::Bank;

/// Elements per sample from which whole samples are weighted where they lie; shorter ones are
/// gathered into lines first.
const LONG: usize = 64;

/// One level along one axis of a tensor.
#[derive(Clone)]
pub(crate) struct StripTransform {
    pub(crate) bank: Arc<Bank>,
    pub(crate) sampling: Sampling,
    /// The shape of the signal.
    pub(crate) dims: Vec<usize>,
    pub(crate) dim: usize,
    /// Samples of a band.
    pub(crate) outputs: usize,
}

impl StripTransform {
    fn axis(&self) -> Axis {
        Axis::new(self.bank.taps(), self.sampling, self.dims[self.dim])
    }

    /// Outputs of a task: few enough to stay in a near cache, but more than the samples beyond its
    /// own that it also has to read.
    fn piece(&self) -> usize {
        let axis = self.axis();
        ((TASK / 4) / self.inner()).max(64).max((axis.taps - 1) * axis.dilation)
    }

    /// Elements of a sample: everything behind the axis.
    fn inner(&self) -> usize {
        self.dims[self.dim + 1..].iter().product()
    }
}

// SAFETY: both walk over all lines of all bands, or of the signal, and fill each.
unsafe impl Transform for StripTransform {
    fn signal(&self) -> Shape {
        self.dims.clone().into()
    }

    fn approx(&self) -> Shape {
        let mut dims = self.dims.clone();
        dims[self.dim] = self.outputs;
        dims.into()
    }

    fn details(&self) -> Shape {
        self.approx()
    }

    fn analyse<E: Real>(&self, x: &[E], out: Parts<&mut [MaybeUninit<E>]>) {
        let (axis, inner) = (self.axis(), self.inner());
        let (whole, band) = (axis.n * inner, axis.outputs * inner);
        let signal = |line: usize| &x[line * whole..][..whole];
        if inner >= LONG {
            let table = &Table::analysis(&self.bank, &axis, inner);
            let tasks = chunks(out, band, inner).into_par_iter();
            return tasks.with_min_len(TASK.div_ceil(2 * inner)).for_each(|task| {
                let (lo, hi) = (task.approx.map(zeroed), task.details.map(zeroed));
                let (x, terms) = (signal(task.line), table.at(task.start / inner));
                dispatch(Work::LongAnalysis { x, terms, lo, hi });
            });
        }
        let line = &Line::new(&self.bank, axis, inner);
        let piece = self.piece();
        let tasks = chunks(out, band, piece * inner).into_par_iter();
        let tasks = tasks.with_min_len(TASK.div_ceil(2 * band));
        tasks.for_each_init(Scratch::default, |scratch, task| {
            let (lo, hi) = (task.approx.map(zeroed), task.details.map(zeroed));
            let (x, start) = (signal(task.line), task.start / inner);
            let range = start..(start + piece).min(axis.outputs);
            dispatch(Work::ShortAnalysis { line, x, range, scratch, lo, hi });
        });
    }

    fn synthesise<E: Real>(&self, parts: Parts<&[E]>, out: &mut [MaybeUninit<E>]) {
        let (axis, inner) = (self.axis(), self.inner());
        let (whole, band) = (axis.n * inner, axis.outputs * inner);
        let bands = |line: usize| {
            [parts.approx, parts.details].map(|b| b.map(|b| &b[line * band..][..band]))
        };
        let outs = Parts { approx: Some(&mut *out), details: None };
        if inner >= LONG {
            let table = &Table::synthesis(&self.bank, &axis, inner);
            let tasks = chunks(outs, whole, inner).into_par_iter();
            return tasks.with_min_len(TASK.div_ceil(inner)).for_each(|task| {
                if let Some(out) = task.approx.map(zeroed) {
                    let (bands, terms) = (bands(task.line), table.at(task.start / inner));
                    dispatch(Work::LongSynthesis { bands, terms, out });
                }
            });
        }
        let line = &Line::new(&self.bank, axis, inner);
        let piece = axis.stride * self.piece();
        let tasks = chunks(outs, whole, piece * inner).into_par_iter();
        let tasks = tasks.with_min_len(TASK.div_ceil(whole));
        tasks.for_each_init(Scratch::default, |scratch, task| {
            if let Some(out) = task.approx.map(zeroed) {
                let (bands, start) = (bands(task.line), task.start / inner);
                let range = start..(start + piece).min(axis.n);
                dispatch(Work::ShortSynthesis { line, bands, range, scratch, out });
            }
        });
        // SAFETY: the tasks above have written every element.
        let out = unsafe { &mut *(std::ptr::from_mut(out) as *mut [E]) };
        let lines = out.par_chunks_mut(whole).enumerate().with_min_len(TASK.div_ceil(whole));
        lines.for_each_init(Scratch::default, |scratch, (at, out)| {
            dispatch(Work::Fold { line, bands: bands(at), scratch, out });
        });
    }
}

/// A piece of one line of both bands.
struct Task<'a, T> {
    line: usize,
    /// Elements of the line before the piece.
    start: usize,
    approx: Option<&'a mut [T]>,
    details: Option<&'a mut [T]>,
}

/// Lines of `line` elements cut in pieces of at most `size`, where the bands are wanted.
fn chunks<'a, T>(out: Parts<&'a mut [T]>, line: usize, size: usize) -> Vec<Task<'a, T>> {
    let cut = |band: Option<&'a mut [T]>| {
        band.map(|band| band.chunks_mut(line).flat_map(move |l| l.chunks_mut(size)))
    };
    let (mut approx, mut details) = (cut(out.approx), cut(out.details));
    let per_line = line.div_ceil(size);
    (0..)
        .map_while(|at| {
            let approx = approx.as_mut().and_then(Iterator::next);
            let details = details.as_mut().and_then(Iterator::next);
            let (line, start) = (at / per_line, at % per_line * size);
            let any = approx.is_some() || details.is_some();
            any.then_some(Task { line, start, approx, details })
        })
        .collect()
}

/// The work of a task. A long line's samples are weighted where they lie, a short one's are
/// gathered; positions outside a short one's signal are folded back at the end.
enum Work<'a, 'b, E> {
    LongAnalysis {
        x: &'a [E],
        terms: Terms<'a, E>,
        lo: Option<&'a mut [E]>,
        hi: Option<&'a mut [E]>,
    },
    LongSynthesis {
        bands: [Option<&'a [E]>; 2],
        terms: Terms<'a, E>,
        out: &'a mut [E],
    },
    ShortAnalysis {
        line: &'a Line<E>,
        x: &'a [E],
        range: Range<usize>,
        scratch: &'b mut Scratch<E>,
        lo: Option<&'a mut [E]>,
        hi: Option<&'a mut [E]>,
    },
    ShortSynthesis {
        line: &'a Line<E>,
        bands: [Option<&'a [E]>; 2],
        range: Range<usize>,
        scratch: &'b mut Scratch<E>,
        out: &'a mut [E],
    },
    Fold {
        line: &'a Line<E>,
        bands: [Option<&'a [E]>; 2],
        scratch: &'b mut Scratch<E>,
        out: &'a mut [E],
    },
}

impl<E: Real> Kernel<E> for Work<'_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        match self {
            Self::LongAnalysis { x, terms, lo, hi } => split_wanted(s, x, terms, lo, hi),
            Self::LongSynthesis { bands: [lo, hi], terms, out } => merge(s, lo, hi, terms, out),
            Self::ShortAnalysis { line, x, range, scratch, lo, hi } => {
                line.analyse(s, scratch, x, range, lo, hi);
            }
            Self::ShortSynthesis { line, bands, range, scratch, out } => {
                line.synthesise(s, scratch, bands, range, out);
            }
            Self::Fold { line, bands, scratch, out } => line.fold(s, scratch, bands, out),
        }
    }
}
