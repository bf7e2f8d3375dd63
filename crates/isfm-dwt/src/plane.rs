//! The 2-D transform on the CPU: analysis (a map to its four bands) and synthesis (its transpose).
//!
//! Both formats are planes of rows of pixels (see [`Maps::pixel`]); only the detail bands lie
//! differently: side by side in each pixel, or in planes of their own. A task is a row of output,
//! so that results do not depend on the number of threads.

use std::mem::MaybeUninit;
use std::sync::Arc;

use candle_core::Shape;
use isfm_ops::simd::{Kernel, Real, Simd, dispatch};
use rayon::prelude::*;

use crate::axis::{Axis, Sampling, Table, Terms};
use crate::data_format::{DataFormat, Maps};
use crate::haar::{HaarAnalysis, HaarSynthesis};
use crate::line::{Line, Scratch, merge, split, split_wanted};
use crate::op::{Parts, TASK, Transform, zeroed};
use crate::wavelet::Bank;

/// [`TASK`] for the butterfly, which takes much less time than any filter.
const HAAR_TASK: usize = 4 * TASK;

/// One level in two dimensions.
#[derive(Clone)]
pub(crate) struct PlaneTransform {
    pub(crate) bank: Arc<Bank>,
    pub(crate) sampling: Sampling,
    pub(crate) maps: Maps,
    /// The sizes of the approximation; the details have three times as many channels.
    pub(crate) bands: Maps,
}

/// One row of the four bands.
pub(crate) struct Row<T> {
    pub(crate) approx: Option<T>,
    pub(crate) details: DetailRow<T>,
}

pub(crate) enum DetailRow<T> {
    Absent,
    /// W × 3 × pixel.
    Interleaved(T),
    /// Three times W, one element a pixel.
    Planes([T; 3]),
}

impl<'a, E: Real> Row<&'a mut [MaybeUninit<E>]> {
    #[inline(always)]
    pub(crate) fn zeroed(self) -> Row<&'a mut [E]> {
        let details = match self.details {
            DetailRow::Absent => DetailRow::Absent,
            DetailRow::Interleaved(d) => DetailRow::Interleaved(zeroed(d)),
            DetailRow::Planes(d) => DetailRow::Planes(d.map(zeroed)),
        };
        Row { approx: self.approx.map(zeroed), details }
    }
}

/// Output rows of all four bands, in the order of planes and rows.
fn rows_mut<'a, T>(bands: &Maps, parts: Parts<&'a mut [T]>) -> Vec<Row<&'a mut [T]>> {
    let count = bands.elements() / bands.row();
    let absent = || Row { approx: None, details: DetailRow::Absent };
    let mut rows: Vec<_> = std::iter::repeat_with(absent).take(count).collect();
    if let Some(approx) = parts.approx {
        for (row, a) in rows.iter_mut().zip(approx.chunks_mut(bands.row())) {
            row.approx = Some(a);
        }
    }
    if let Some(details) = parts.details {
        match bands.format {
            DataFormat::ChannelsLast => {
                for (row, d) in rows.iter_mut().zip(details.chunks_mut(3 * bands.row())) {
                    row.details = DetailRow::Interleaved(d);
                }
            }
            DataFormat::ChannelsFirst => {
                let (w, band) = (bands.width, bands.elements() / bands.batch);
                let images = rows.chunks_mut(band / w).zip(details.chunks_mut(3 * band));
                for (rows, image) in images {
                    let (lh, rest) = image.split_at_mut(band);
                    let (hl, hh) = rest.split_at_mut(band);
                    let three = lh.chunks_mut(w).zip(hl.chunks_mut(w)).zip(hh.chunks_mut(w));
                    for (row, ((lh, hl), hh)) in rows.iter_mut().zip(three) {
                        row.details = DetailRow::Planes([lh, hl, hh]);
                    }
                }
            }
        }
    }
    rows
}

/// One plane of all four bands.
fn plane_of<'a, E>(bands: &Maps, parts: Parts<&'a [E]>, plane: usize) -> Row<&'a [E]> {
    let size = bands.height * bands.row();
    let details = parts.details.map_or(DetailRow::Absent, |d| match bands.format {
        DataFormat::ChannelsLast => DetailRow::Interleaved(&d[3 * plane * size..][..3 * size]),
        DataFormat::ChannelsFirst => {
            let (image, channel) = (plane / bands.channels, plane % bands.channels);
            DetailRow::Planes([0, 1, 2].map(|k| {
                let plane = (3 * image + k) * bands.channels + channel;
                &d[plane * size..][..size]
            }))
        }
    });
    Row { approx: parts.approx.map(|a| &a[plane * size..][..size]), details }
}

impl<E> Row<&[E]> {
    /// Of a plane with rows of `width`, row `i`.
    #[inline(always)]
    fn row(&self, i: usize, width: usize) -> Self {
        let details = match &self.details {
            DetailRow::Absent => DetailRow::Absent,
            DetailRow::Interleaved(d) => DetailRow::Interleaved(&d[3 * i * width..][..3 * width]),
            DetailRow::Planes(d) => DetailRow::Planes(d.map(|d| &d[i * width..][..width])),
        };
        Self { approx: self.approx.map(|a| &a[i * width..][..width]), details }
    }
}

impl PlaneTransform {
    fn axes(&self) -> [Axis; 2] {
        let axis = |n| Axis::new(self.bank.taps(), self.sampling, n);
        [axis(self.maps.height), axis(self.maps.width)]
    }

    /// Whether the transform is the 2×2 butterfly.
    fn is_haar(&self) -> bool {
        self.bank.is_haar() && self.axes().iter().all(Axis::is_blocks)
    }
}

// SAFETY: both walk over all rows of all bands, or of the signal, and fill each.
unsafe impl Transform for PlaneTransform {
    fn signal(&self) -> Shape {
        self.maps.dims().into()
    }

    fn haar_map(&self) -> Option<isfm_kernels::Map> {
        let Maps { batch, height, width, channels, format } = self.maps;
        let map = isfm_kernels::Map { batch, height, width, channels };
        (self.is_haar() && format == DataFormat::ChannelsLast).then_some(map)
    }

    fn approx(&self) -> Shape {
        self.bands.dims().into()
    }

    fn details(&self) -> Shape {
        Maps { channels: 3 * self.bands.channels, ..self.bands }.dims().into()
    }

    fn analyse<E: Real>(&self, x: &[E], out: Parts<&mut [MaybeUninit<E>]>) {
        let Self { bank, maps, bands, .. } = self;
        let (h, stride, pixel) = (bands.height, maps.row(), maps.pixel());
        let plane_of = |at: usize| &x[at / h * maps.height * stride..][..maps.height * stride];
        let tasks = rows_mut(bands, out).into_par_iter().enumerate();
        if self.is_haar() {
            let tasks = tasks.with_min_len(HAAR_TASK.div_ceil(2 * stride));
            return tasks.for_each(|(at, out)| {
                let rows = &plane_of(at)[at % h * 2 * stride..][..2 * stride];
                let (top, bottom) = rows.split_at(stride);
                dispatch(HaarAnalysis { top, bottom, pixel, width: bands.width, out });
            });
        }
        let tasks = tasks.with_min_len(TASK.div_ceil(2 * stride));
        let [vertical, horizontal] = self.axes();
        let vertical = &Table::analysis(bank, &vertical, stride);
        let horizontal = &Line::new(bank, horizontal, pixel);
        tasks.for_each_init(Buffers::default, |buffers, (at, out)| {
            let (plane, terms, out) = (plane_of(at), vertical.at(at % h), out.zeroed());
            dispatch(FilterAnalysis { plane, terms, horizontal, buffers, out });
        });
    }

    fn synthesise<E: Real>(&self, parts: Parts<&[E]>, out: &mut [MaybeUninit<E>]) {
        let Self { bank, maps, bands, .. } = self;
        let (stride, pixel) = (maps.row(), maps.pixel());
        if self.is_haar() {
            // An odd last row is a task too, one without work: nothing was computed from it.
            let pairs = maps.height.div_ceil(2);
            let planes = out.chunks_mut(maps.height * stride);
            let tasks: Vec<_> = planes.flat_map(|p| p.chunks_mut(2 * stride)).collect();
            let tasks =
                tasks.into_par_iter().with_min_len(HAAR_TASK.div_ceil(2 * stride)).enumerate();
            return tasks.for_each(|(at, out)| {
                if at % pairs < bands.height {
                    let (top, bottom) = out.split_at_mut(stride);
                    let bands = plane_of(bands, parts, at / pairs).row(at % pairs, bands.row());
                    dispatch(HaarSynthesis { bands, pixel, top, bottom });
                } else {
                    zeroed(out);
                }
            });
        }
        let [vertical, horizontal] = self.axes();
        let triples = &Table::synthesis(bank, &vertical, 3 * bands.row());
        let vertical = &Table::synthesis(bank, &vertical, bands.row());
        let horizontal = &Line::new(bank, horizontal, pixel);
        let tasks = out.par_chunks_mut(stride).with_min_len(TASK.div_ceil(stride)).enumerate();
        tasks.for_each_init(Buffers::default, |buffers, (at, out)| {
            let (plane, i, out) = (at / maps.height, at % maps.height, zeroed(out));
            let (plane, terms) = (plane_of(bands, parts, plane), [vertical.at(i), triples.at(i)]);
            dispatch(FilterSynthesis { plane, terms, horizontal, buffers, out });
        });
    }
}

/// The buffers that a thread's tasks reuse.
struct Buffers<E> {
    lo: Vec<E>,
    hi: Vec<E>,
    more: [Vec<E>; 2],
    scratch: Scratch<E>,
}

impl<E: Real> Default for Buffers<E> {
    fn default() -> Self {
        Self { lo: vec![], hi: vec![], more: [vec![], vec![]], scratch: Scratch::default() }
    }
}

/// One output row by any filters.
struct FilterAnalysis<'a, 'b, E> {
    plane: &'a [E],
    /// The rows of the plane that the filters weight.
    terms: Terms<'a, E>,
    horizontal: &'a Line<E>,
    buffers: &'b mut Buffers<E>,
    out: Row<&'a mut [E]>,
}

impl<E: Real> Kernel<E> for FilterAnalysis<'_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { plane, terms, horizontal, buffers, out } = self;
        let Buffers { lo, hi, more: [first, second], scratch } = buffers;
        let (zero, pixel) = (E::zero(), horizontal.pixel);
        let stride = horizontal.axis.n * pixel;
        lo.resize(stride, zero);
        let outputs = 0..horizontal.axis.outputs;
        let width = outputs.len() * pixel;
        match out.details {
            DetailRow::Absent => {
                split_wanted(s, plane, terms, Some(lo), None);
                horizontal.analyse(s, scratch, lo, outputs, out.approx, None);
            }
            DetailRow::Planes([lh, hl, hh]) => {
                hi.resize(stride, zero);
                split(s, plane, terms, lo, hi);
                horizontal.analyse(s, scratch, lo, outputs.clone(), out.approx, Some(hl));
                horizontal.analyse(s, scratch, hi, outputs, Some(lh), Some(hh));
            }
            DetailRow::Interleaved(d) => {
                hi.resize(stride, zero);
                first.resize(width, zero);
                second.resize(width, zero);
                split(s, plane, terms, lo, hi);
                horizontal.analyse(s, scratch, lo, outputs.clone(), out.approx, Some(first));
                scatter(first, d, 1, pixel);
                horizontal.analyse(s, scratch, hi, outputs, Some(first), Some(second));
                scatter(first, d, 0, pixel);
                scatter(second, d, 2, pixel);
            }
        }
    }
}

/// Writes one detail band (0 to 2) among the two others.
#[inline(always)]
fn scatter<E: Copy>(from: &[E], to: &mut [E], band: usize, pixel: usize) {
    if pixel == 1 {
        for (to, &from) in to.chunks_exact_mut(3).zip(from) {
            to[band] = from;
        }
        return;
    }
    for (to, from) in to.chunks_exact_mut(3 * pixel).zip(from.chunks_exact(pixel)) {
        to[band * pixel..][..pixel].copy_from_slice(from);
    }
}

/// Adds one detail band (0 to 2) of `from` to `to`.
#[inline(always)]
fn gather_add<E: Real>(from: &[E], to: &mut [E], band: usize, pixel: usize) {
    for (from, to) in from.chunks_exact(3 * pixel).zip(to.chunks_exact_mut(pixel)) {
        for (to, &from) in to.iter_mut().zip(&from[band * pixel..]) {
            *to += from;
        }
    }
}

/// One row of a map from its bands, by any filters.
struct FilterSynthesis<'a, 'b, E> {
    plane: Row<&'a [E]>,
    /// The rows of the bands that the filters weight, and the same of interleaved details.
    terms: [Terms<'a, E>; 2],
    horizontal: &'a Line<E>,
    buffers: &'b mut Buffers<E>,
    out: &'b mut [E],
}

impl<E: Real> Kernel<E> for FilterSynthesis<'_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { plane, terms: [terms, triples], horizontal, buffers, out } = self;
        let Buffers { lo, hi, more: [by_lo, by_hi], scratch } = buffers;
        let (zero, pixel) = (E::zero(), horizontal.pixel);
        let width = horizontal.axis.outputs * pixel;
        lo.resize(width, zero);
        hi.resize(width, zero);
        let detailed = !matches!(plane.details, DetailRow::Absent);
        match plane.details {
            DetailRow::Absent => merge(s, plane.approx, None, terms, lo),
            DetailRow::Planes([lh, hl, hh]) => {
                merge(s, plane.approx, Some(lh), terms, lo);
                merge(s, Some(hl), Some(hh), terms, hi);
            }
            DetailRow::Interleaved(d) => {
                // Both filters weight whole rows of three bands, of which not all results are used.
                by_lo.resize(3 * width, zero);
                by_hi.resize(3 * width, zero);
                split(s, d, triples, by_lo, by_hi);
                merge(s, plane.approx, None, terms, lo);
                gather_add(by_hi, lo, 0, pixel);
                hi.fill(zero);
                gather_add(by_lo, hi, 1, pixel);
                gather_add(by_hi, hi, 2, pixel);
            }
        }
        let n = horizontal.axis.n;
        let bands = [Some(&lo[..]), detailed.then_some(&hi[..])];
        horizontal.synthesise(s, scratch, bands, 0..n, out);
        horizontal.fold(s, scratch, bands, out);
    }
}
