//! The CPU kernels: analysis (a map to its four bands) and synthesis (its transpose).
//!
//! Both layouts are planes of rows of pixels (see [`Maps::pixel`]); only the detail bands lie
//! differently: side by side in each pixel, or in planes of their own. A task is a row of output,
//! so that results do not depend on the number of threads.

use isfm_ops::simd::{Kernel, MAX_LANES, Real, Simd, dispatch};
use rayon::prelude::*;

use crate::axis::{Axis, Border};
use crate::layout::{Layout, Maps};
use crate::wavelet::Bank;

/// Elements a task should have at least, so that handing it out costs less than doing it.
const TASK: usize = 1 << 14;

/// The approximation and the detail bands, or where one is not wanted or not given, none.
#[derive(Clone, Copy)]
pub(crate) struct Parts<T> {
    pub(crate) approx: Option<T>,
    pub(crate) details: Option<T>,
}

/// One row of the four bands.
struct Row<T> {
    approx: Option<T>,
    details: DetailRow<T>,
}

enum DetailRow<T> {
    Absent,
    /// W × 3 × pixel.
    Interleaved(T),
    /// Three times W, one element a pixel.
    Planes([T; 3]),
}

/// Output rows of all four bands, in the order of planes and rows.
fn rows_mut<'a, E>(bands: &Maps, parts: Parts<&'a mut [E]>) -> Vec<Row<&'a mut [E]>> {
    let count = bands.elements() / bands.row();
    let absent = || Row { approx: None, details: DetailRow::Absent };
    let mut rows: Vec<_> = std::iter::repeat_with(absent).take(count).collect();
    if let Some(approx) = parts.approx {
        for (row, a) in rows.iter_mut().zip(approx.chunks_mut(bands.row())) {
            row.approx = Some(a);
        }
    }
    if let Some(details) = parts.details {
        match bands.layout {
            Layout::ChannelsLast => {
                for (row, d) in rows.iter_mut().zip(details.chunks_mut(3 * bands.row())) {
                    row.details = DetailRow::Interleaved(d);
                }
            }
            Layout::ChannelsFirst => {
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

/// Row `i` of plane `plane` of all four bands.
#[inline(always)]
fn row<'a, E>(bands: &Maps, parts: Parts<&'a [E]>, plane: usize, i: usize) -> Row<&'a [E]> {
    let at = plane * bands.height + i;
    let details = parts.details.map_or(DetailRow::Absent, |d| match bands.layout {
        Layout::ChannelsLast => {
            DetailRow::Interleaved(&d[at * 3 * bands.row()..][..3 * bands.row()])
        }
        Layout::ChannelsFirst => {
            let (image, channel) = (plane / bands.channels, plane % bands.channels);
            DetailRow::Planes([0, 1, 2].map(|k| {
                let plane = (3 * image + k) * bands.channels + channel;
                &d[(plane * bands.height + i) * bands.width..][..bands.width]
            }))
        }
    });
    Row { approx: parts.approx.map(|a| &a[at * bands.row()..][..bands.row()]), details }
}

/// `dst += weight * src`.
#[inline(always)]
fn add_scaled<E: Real>(dst: &mut [E], weight: E, src: &[E]) {
    for (d, &x) in dst.iter_mut().zip(src) {
        *d += weight * x;
    }
}

/// The bands of `x`, into `out`.
pub(crate) fn analyse<E: Real>(
    bank: &Bank,
    border: Border,
    maps: &Maps,
    bands: &Maps,
    x: &[E],
    out: Parts<&mut [E]>,
) {
    if x.is_empty() {
        return;
    }
    let (h, stride, pixel) = (bands.height, maps.row(), maps.pixel());
    let plane_of = |at: usize| &x[at / h * maps.height * stride..][..maps.height * stride];
    let tasks = rows_mut(bands, out).into_par_iter().enumerate();
    let tasks = tasks.with_min_len(TASK.div_ceil(2 * stride));
    if bank.is_haar() && border == Border::Drop {
        return tasks.for_each(|(at, out)| {
            let (top, bottom) = plane_of(at)[at % h * 2 * stride..][..2 * stride].split_at(stride);
            dispatch(HaarAnalysis { top, bottom, pixel, width: bands.width, out });
        });
    }
    let vertical = &Axis::analysis(bank, border, maps.height);
    let horizontal = &Axis::analysis(bank, border, maps.width);
    tasks.for_each_init(
        || [vec![E::zero(); stride], vec![E::zero(); stride]],
        |[lo, hi], (at, out)| {
            let (plane, i) = (plane_of(at), at % h);
            dispatch(FilterAnalysis { vertical, horizontal, plane, i, pixel, lo, hi, out });
        },
    );
}

/// What the four bands (an absent one is zero) sum up to, into `out`, which is zero.
pub(crate) fn synthesise<E: Real>(
    bank: &Bank,
    border: Border,
    maps: &Maps,
    bands: &Maps,
    parts: Parts<&[E]>,
    out: &mut [E],
) {
    if out.is_empty() {
        return;
    }
    let (stride, pixel) = (maps.row(), maps.pixel());
    if bank.is_haar() && border == Border::Drop {
        // An odd last row is a task too, one without work: nothing was computed from it.
        let pairs = maps.height.div_ceil(2);
        let planes = out.chunks_mut(maps.height * stride);
        let tasks: Vec<_> = planes.flat_map(|p| p.chunks_mut(2 * stride)).collect();
        let tasks = tasks.into_par_iter().with_min_len(TASK.div_ceil(2 * stride)).enumerate();
        return tasks.for_each(|(at, out)| {
            if at % pairs < bands.height {
                let (top, bottom) = out.split_at_mut(stride);
                let bands = row(bands, parts, at / pairs, at % pairs);
                dispatch(HaarSynthesis { bands, pixel, top, bottom });
            }
        });
    }
    let vertical = &Axis::synthesis(bank, border, maps.height);
    let horizontal = &Axis::synthesis(bank, border, maps.width);
    let tasks = out.par_chunks_mut(stride).with_min_len(TASK.div_ceil(stride)).enumerate();
    tasks.for_each_init(
        || [vec![E::zero(); bands.row()], vec![E::zero(); bands.row()]],
        |[lo, hi], (at, out)| {
            let (plane, i) = (at / maps.height, at % maps.height);
            dispatch(FilterSynthesis { vertical, horizontal, bands, parts, plane, i, lo, hi, out });
        },
    );
}

/// One output row by any filters.
struct FilterAnalysis<'a, 'b, E> {
    vertical: &'a Axis<E>,
    horizontal: &'a Axis<E>,
    plane: &'a [E],
    i: usize,
    pixel: usize,
    lo: &'b mut [E],
    hi: &'b mut [E],
    out: Row<&'a mut [E]>,
}

impl<E: Real> Kernel<E> for FilterAnalysis<'_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, _: S) {
        let Self { vertical, horizontal, plane, i, pixel, lo, hi, out } = self;
        lo.fill(E::zero());
        hi.fill(E::zero());
        for w in vertical.at(i) {
            let src = &plane[w.index * lo.len()..][..lo.len()];
            add_scaled(lo, w.lo, src);
            add_scaled(hi, w.hi, src);
        }
        // Each band by the filter along the columns and that along the rows: LL, LH, HL, HH. The
        // output is fresh, so it is zero.
        let across = |from: &[E], high: bool, to: &mut [E], stride: usize| {
            for (j, to) in to.chunks_mut(stride).enumerate() {
                for w in horizontal.at(j) {
                    let weight = if high { w.hi } else { w.lo };
                    add_scaled(&mut to[..pixel], weight, &from[w.index * pixel..][..pixel]);
                }
            }
        };
        if let Some(ll) = out.approx {
            across(lo, false, ll, pixel);
        }
        match out.details {
            DetailRow::Absent => {}
            DetailRow::Interleaved(d) => {
                across(hi, false, d, 3 * pixel);
                across(lo, true, &mut d[pixel..], 3 * pixel);
                across(hi, true, &mut d[2 * pixel..], 3 * pixel);
            }
            DetailRow::Planes([lh, hl, hh]) => {
                across(hi, false, lh, 1);
                across(lo, true, hl, 1);
                across(hi, true, hh, 1);
            }
        }
    }
}

/// One row of a map from its bands, by any filters.
struct FilterSynthesis<'a, 'b, E> {
    vertical: &'a Axis<E>,
    horizontal: &'a Axis<E>,
    bands: &'a Maps,
    parts: Parts<&'a [E]>,
    plane: usize,
    i: usize,
    lo: &'b mut [E],
    hi: &'b mut [E],
    out: &'b mut [E],
}

impl<E: Real> Kernel<E> for FilterSynthesis<'_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, _: S) {
        let Self { vertical, horizontal, bands, parts, plane, i, lo, hi, out } = self;
        let pixel = bands.pixel();
        lo.fill(E::zero());
        hi.fill(E::zero());
        let add = |to: &mut [E], weight: E, from: &[E], run: usize, stride: usize| {
            for (to, from) in to.chunks_mut(run).zip(from.chunks(stride)) {
                add_scaled(to, weight, &from[..run]);
            }
        };
        for w in vertical.at(i) {
            let row = row(bands, parts, plane, w.index);
            if let Some(ll) = row.approx {
                add_scaled(lo, w.lo, ll);
            }
            match row.details {
                DetailRow::Absent => {}
                DetailRow::Interleaved(d) => {
                    add(lo, w.hi, d, pixel, 3 * pixel);
                    add(hi, w.lo, &d[pixel..], pixel, 3 * pixel);
                    add(hi, w.hi, &d[2 * pixel..], pixel, 3 * pixel);
                }
                DetailRow::Planes([lh, hl, hh]) => {
                    add_scaled(lo, w.hi, lh);
                    add_scaled(hi, w.lo, hl);
                    add_scaled(hi, w.hi, hh);
                }
            }
        }
        for (j, to) in out.chunks_mut(pixel).enumerate() {
            for w in horizontal.at(j) {
                add_scaled(to, w.lo, &lo[w.index * pixel..][..pixel]);
                add_scaled(to, w.hi, &hi[w.index * pixel..][..pixel]);
            }
        }
    }
}

/// LL, LH, HL, HH of the block a, b over c, d; and, because it is its own inverse, a, b, c, d of
/// LL, LH, HL, HH (spec §3).
///
/// Halving first keeps intermediate sums of huge values from overflowing.
#[inline(always)]
fn butterfly<S: Simd>(s: S, a: S::V, b: S::V, c: S::V, d: S::V) -> [S::V; 4] {
    let half = s.splat(S::E::of(0.5));
    let [a, b, c, d] = [a, b, c, d].map(|v| s.mul(v, half));
    let (top, bottom) = (s.add(a, b), s.add(c, d));
    let (top_diff, bottom_diff) = (s.sub(a, b), s.sub(c, d));
    [
        s.add(top, bottom),
        s.sub(top, bottom),
        s.add(top_diff, bottom_diff),
        s.sub(top_diff, bottom_diff),
    ]
}

/// The first, second, … elements of up to `LANES` tuples that lie one after another.
#[inline(always)]
fn unzip<S: Simd, const N: usize>(s: S, tuples: &[S::E]) -> [S::V; N] {
    let mut parts = [[S::E::of(0.); MAX_LANES]; N];
    let mut split = |n: usize| {
        let tuples = &tuples[..N * n];
        for (k, part) in parts.iter_mut().enumerate() {
            for (l, x) in part[..n].iter_mut().enumerate() {
                *x = tuples[N * l + k];
            }
        }
    };
    // Loops of constant length become a few shuffles.
    if tuples.len() == N * S::LANES {
        split(S::LANES)
    } else {
        split(tuples.len() / N)
    }
    parts.map(|part| s.load(&part))
}

/// Undoes [`unzip`].
#[inline(always)]
fn zip<S: Simd, const N: usize>(s: S, parts: [S::V; N], tuples: &mut [S::E]) {
    let parts = parts.map(|v| {
        let mut part = [S::E::of(0.); MAX_LANES];
        s.store(v, &mut part);
        part
    });
    let count = tuples.len() / N;
    let mut join = |n: usize| {
        let tuples = &mut tuples[..N * n];
        for l in 0..n {
            for (k, part) in parts.iter().enumerate() {
                tuples[N * l + k] = part[l];
            }
        }
    };
    if count == S::LANES { join(S::LANES) } else { join(count) }
}

/// One output row of the Haar analysis.
struct HaarAnalysis<'a, E> {
    top: &'a [E],
    bottom: &'a [E],
    pixel: usize,
    width: usize,
    out: Row<&'a mut [E]>,
}

impl<E: Real> Kernel<E> for HaarAnalysis<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { top, bottom, pixel, width, mut out } = self;
        if pixel == 1 {
            // Neighbouring columns in the lanes.
            for j in (0..width).step_by(S::LANES) {
                let end = width.min(j + S::LANES);
                let [a, b] = unzip(s, &top[2 * j..2 * end]);
                let [c, d] = unzip(s, &bottom[2 * j..2 * end]);
                let [ll, lh, hl, hh] = butterfly(s, a, b, c, d);
                if let Some(out) = &mut out.approx {
                    s.store_partial(ll, &mut out[j..end]);
                }
                match &mut out.details {
                    DetailRow::Absent => {}
                    DetailRow::Interleaved(out) => zip(s, [lh, hl, hh], &mut out[3 * j..3 * end]),
                    DetailRow::Planes(out) => {
                        for (band, out) in [lh, hl, hh].into_iter().zip(out) {
                            s.store_partial(band, &mut out[j..end]);
                        }
                    }
                }
            }
            return;
        }
        // Neighbouring channels in the lanes.
        for j in 0..width {
            let (a, b) = top[2 * j * pixel..][..2 * pixel].split_at(pixel);
            let (c, d) = bottom[2 * j * pixel..][..2 * pixel].split_at(pixel);
            for k in (0..pixel).step_by(S::LANES) {
                let end = pixel.min(k + S::LANES);
                let load = |src: &[E]| s.load_partial(&src[k..end]);
                let [ll, lh, hl, hh] = butterfly(s, load(a), load(b), load(c), load(d));
                if let Some(out) = &mut out.approx {
                    s.store_partial(ll, &mut out[j * pixel..][k..end]);
                }
                if let DetailRow::Interleaved(out) = &mut out.details {
                    let out = &mut out[3 * j * pixel..][..3 * pixel];
                    s.store_partial(lh, &mut out[k..end]);
                    s.store_partial(hl, &mut out[pixel + k..pixel + end]);
                    s.store_partial(hh, &mut out[2 * pixel + k..2 * pixel + end]);
                }
            }
        }
    }
}

/// Two rows of a map from one row of its Haar bands; an odd last column is left alone.
struct HaarSynthesis<'a, E> {
    bands: Row<&'a [E]>,
    pixel: usize,
    top: &'a mut [E],
    bottom: &'a mut [E],
}

impl<E: Real> Kernel<E> for HaarSynthesis<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { bands, pixel, top, bottom } = self;
        let zero = s.splat(E::zero());
        let width = top.len() / pixel / 2;
        if pixel == 1 {
            for j in (0..width).step_by(S::LANES) {
                let end = width.min(j + S::LANES);
                let ll = bands.approx.map_or(zero, |ll| s.load_partial(&ll[j..end]));
                let [lh, hl, hh] = match &bands.details {
                    DetailRow::Absent => [zero; 3],
                    DetailRow::Interleaved(d) => unzip(s, &d[3 * j..3 * end]),
                    DetailRow::Planes(d) => d.map(|d| s.load_partial(&d[j..end])),
                };
                let [a, b, c, d] = butterfly(s, ll, lh, hl, hh);
                zip(s, [a, b], &mut top[2 * j..2 * end]);
                zip(s, [c, d], &mut bottom[2 * j..2 * end]);
            }
            return;
        }
        for j in 0..width {
            let (a_out, b_out) = top[2 * j * pixel..][..2 * pixel].split_at_mut(pixel);
            let (c_out, d_out) = bottom[2 * j * pixel..][..2 * pixel].split_at_mut(pixel);
            for k in (0..pixel).step_by(S::LANES) {
                let end = pixel.min(k + S::LANES);
                let ll = bands.approx.map_or(zero, |ll| s.load_partial(&ll[j * pixel..][k..end]));
                let [lh, hl, hh] = match &bands.details {
                    DetailRow::Interleaved(d) => {
                        [0, 1, 2].map(|n| s.load_partial(&d[(3 * j + n) * pixel..][k..end]))
                    }
                    _ => [zero; 3],
                };
                let [a, b, c, d] = butterfly(s, ll, lh, hl, hh);
                s.store_partial(a, &mut a_out[k..end]);
                s.store_partial(b, &mut b_out[k..end]);
                s.store_partial(c, &mut c_out[k..end]);
                s.store_partial(d, &mut d_out[k..end]);
            }
        }
    }
}
