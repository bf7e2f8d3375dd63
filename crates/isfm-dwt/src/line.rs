//! Weighted sums of stretches of samples, and one line of a transform made of them.
//!
//! Everything but Haar comes down to [`sum`] and [`split`]: a row of outputs is a weighted sum of
//! rows above and below, or of shifted windows of one extended line. To keep windows contiguous
//! the positions of an extended line that are read with stride 2 lie in two phases, even and odd.

use std::ops::Range;

use isfm_ops::simd::{Real, Simd};

use crate::axis::{Axis, Terms};
use crate::wavelet::Bank;

/// Vectors that are summed side by side, to hide the latency of an addition.
const UNROLL: usize = 4;

/// How far beyond their first element the sums of `len` read.
fn assert_reach<E>(base: &[E], offsets: &[usize], len: usize) {
    let last = offsets.iter().max().copied().unwrap_or(0);
    assert!(len == 0 || last + len <= base.len(), "a kernel reads beyond its samples");
}

/// `out[q] = Σ weights[t] · base[offsets[t] + q]`, or with `add` on top of what is there.
#[inline(always)]
pub(crate) fn sum<S: Simd>(
    s: S,
    base: &[S::E],
    offsets: &[usize],
    weights: &[S::E],
    out: &mut [S::E],
    add: bool,
) {
    assert_reach(base, offsets, out.len());
    let zero = s.splat(S::E::of(0.));
    let lanes = S::LANES;
    let mut at = 0;
    let mut wide = out.chunks_exact_mut(UNROLL * lanes);
    for out in &mut wide {
        let [mut a, mut b, mut c, mut d] = [zero; UNROLL];
        if add {
            a = s.load(out);
            b = s.load(&out[lanes..]);
            c = s.load(&out[2 * lanes..]);
            d = s.load(&out[3 * lanes..]);
        }
        for (&offset, &w) in offsets.iter().zip(weights) {
            let w = s.splat(w);
            // SAFETY: `assert_reach`.
            let x = unsafe { base.get_unchecked(offset + at..offset + at + UNROLL * lanes) };
            a = s.fma(w, s.load(x), a);
            b = s.fma(w, s.load(&x[lanes..]), b);
            c = s.fma(w, s.load(&x[2 * lanes..]), c);
            d = s.fma(w, s.load(&x[3 * lanes..]), d);
        }
        s.store(a, out);
        s.store(b, &mut out[lanes..]);
        s.store(c, &mut out[2 * lanes..]);
        s.store(d, &mut out[3 * lanes..]);
        at += UNROLL * lanes;
    }
    for out in wide.into_remainder().chunks_mut(lanes) {
        let mut a = if add { s.load_partial(out) } else { zero };
        for (&offset, &w) in offsets.iter().zip(weights) {
            // SAFETY: `assert_reach`.
            let x = unsafe { base.get_unchecked(offset + at..offset + at + out.len()) };
            a = s.fma(s.splat(w), s.load_partial(x), a);
        }
        s.store_partial(a, out);
        at += lanes;
    }
}

/// [`sum`] by the weights of both bands, reading once. `lo` and `hi` are of one length.
#[inline(always)]
pub(crate) fn split<S: Simd>(
    s: S,
    base: &[S::E],
    terms: Terms<S::E>,
    lo: &mut [S::E],
    hi: &mut [S::E],
) {
    assert_eq!(lo.len(), hi.len());
    assert_reach(base, terms.offsets, lo.len());
    let zero = s.splat(S::E::of(0.));
    let lanes = S::LANES;
    let mut at = 0;
    let mut wide_lo = lo.chunks_exact_mut(UNROLL * lanes);
    let mut wide_hi = hi.chunks_exact_mut(UNROLL * lanes);
    for (lo, hi) in (&mut wide_lo).zip(&mut wide_hi) {
        let [mut a, mut b, mut c, mut d] = [zero; UNROLL];
        let [mut e, mut f, mut g, mut h] = [zero; UNROLL];
        for ((&offset, &wl), &wh) in terms.offsets.iter().zip(terms.lo).zip(terms.hi) {
            let (wl, wh) = (s.splat(wl), s.splat(wh));
            // SAFETY: `assert_reach`.
            let x = unsafe { base.get_unchecked(offset + at..offset + at + UNROLL * lanes) };
            let (p, q) = (s.load(x), s.load(&x[lanes..]));
            let (u, v) = (s.load(&x[2 * lanes..]), s.load(&x[3 * lanes..]));
            a = s.fma(wl, p, a);
            b = s.fma(wl, q, b);
            c = s.fma(wl, u, c);
            d = s.fma(wl, v, d);
            e = s.fma(wh, p, e);
            f = s.fma(wh, q, f);
            g = s.fma(wh, u, g);
            h = s.fma(wh, v, h);
        }
        for (out, [a, b, c, d]) in [(lo, [a, b, c, d]), (hi, [e, f, g, h])] {
            s.store(a, out);
            s.store(b, &mut out[lanes..]);
            s.store(c, &mut out[2 * lanes..]);
            s.store(d, &mut out[3 * lanes..]);
        }
        at += UNROLL * lanes;
    }
    let rest = wide_lo.into_remainder().chunks_mut(lanes);
    for (lo, hi) in rest.zip(wide_hi.into_remainder().chunks_mut(lanes)) {
        let [mut a, mut b] = [zero; 2];
        for ((&offset, &wl), &wh) in terms.offsets.iter().zip(terms.lo).zip(terms.hi) {
            // SAFETY: `assert_reach`.
            let x = unsafe { base.get_unchecked(offset + at..offset + at + lo.len()) };
            let x = s.load_partial(x);
            a = s.fma(s.splat(wl), x, a);
            b = s.fma(s.splat(wh), x, b);
        }
        s.store_partial(a, lo);
        s.store_partial(b, hi);
        at += lanes;
    }
}

/// [`split`] into the bands that are wanted.
#[inline(always)]
pub(crate) fn split_wanted<S: Simd>(
    s: S,
    base: &[S::E],
    terms: Terms<S::E>,
    lo: Option<&mut [S::E]>,
    hi: Option<&mut [S::E]>,
) {
    match (lo, hi) {
        (Some(lo), Some(hi)) => split(s, base, terms, lo, hi),
        (Some(lo), None) => sum(s, base, terms.offsets, terms.lo, lo, false),
        (None, Some(hi)) => sum(s, base, terms.offsets, terms.hi, hi, false),
        (None, None) => {}
    }
}

/// Fills `out` with what low and high samples (an absent one is zero) sum up to.
#[inline(always)]
pub(crate) fn merge<S: Simd>(
    s: S,
    lo: Option<&[S::E]>,
    hi: Option<&[S::E]>,
    terms: Terms<S::E>,
    out: &mut [S::E],
) {
    if let Some(lo) = lo {
        sum(s, lo, terms.offsets, terms.lo, out, false);
    }
    match hi {
        Some(hi) => sum(s, hi, terms.offsets, terms.hi, out, lo.is_some()),
        None if lo.is_none() => out.fill(S::E::of(0.)),
        None => {}
    }
}

/// One thread's buffers; they grow to what the longest line needs.
pub(crate) struct Scratch<E> {
    padded: [Vec<E>; 2],
    phases: Vec<E>,
    folded: Vec<E>,
    offsets: Vec<usize>,
}

// Not derived: that would ask for `E: Default`.
impl<E> Default for Scratch<E> {
    fn default() -> Self {
        Self { padded: [vec![], vec![]], phases: vec![], folded: vec![], offsets: vec![] }
    }
}

/// `v` with `n` elements of unspecified value.
#[inline(always)]
fn sized<E: Real>(v: &mut Vec<E>, n: usize) -> &mut [E] {
    v.resize(n, E::of(0.));
    v
}

/// The filters of an axis along lines whose samples are `pixel` neighbouring elements each.
pub(crate) struct Line<E> {
    pub(crate) axis: Axis,
    pub(crate) pixel: usize,
    /// Weights in the order of positions, the even ones first if the stride is 2.
    lo: Vec<E>,
    hi: Vec<E>,
}

impl<E: Real> Line<E> {
    pub(crate) fn new(bank: &Bank, axis: Axis, pixel: usize) -> Self {
        let weights = |f: &[f64]| {
            let phase = |p| f.iter().rev().skip(p).step_by(axis.stride).map(|&w| E::of(w));
            (0..axis.stride).flat_map(phase).collect()
        };
        Self { axis, pixel, lo: weights(&bank.lo), hi: weights(&bank.hi) }
    }

    /// Taps of one phase.
    fn phase_taps(&self) -> usize {
        self.axis.taps / self.axis.stride
    }

    /// The outputs `range` of both bands (of those wanted) of the line `x`.
    #[inline(always)]
    pub(crate) fn analyse<S: Simd<E = E>>(
        &self,
        s: S,
        scratch: &mut Scratch<E>,
        x: &[E],
        range: Range<usize>,
        lo: Option<&mut [E]>,
        hi: Option<&mut [E]>,
    ) {
        let Axis { stride, dilation, .. } = self.axis;
        let taps = self.phase_taps();
        // Positions of each phase.
        let length = range.len() + (taps - 1) * dilation;
        let phases = sized(&mut scratch.phases, stride * length * self.pixel);
        self.extend(x, stride * range.start, length, phases);
        scratch.offsets.clear();
        for phase in 0..stride {
            let offset = |t| (phase * length + t * dilation) * self.pixel;
            scratch.offsets.extend((0..taps).map(offset));
        }
        let terms = Terms { offsets: &scratch.offsets, lo: &self.lo, hi: &self.hi };
        split_wanted(s, phases, terms, lo, hi);
    }

    /// The extended signal from position `first` on, phase by phase, `length` positions of each.
    #[inline(always)]
    fn extend(&self, x: &[E], first: usize, length: usize, phases: &mut [E]) {
        let Axis { stride, before, .. } = self.axis;
        let pixel = self.pixel;
        // Whole strides that lie inside the signal.
        let end = (before + self.axis.inside()).saturating_sub(first) / stride;
        let start = before.saturating_sub(first).div_ceil(stride).min(length);
        let end = end.clamp(start, length);
        for k in (0..start).chain(end..length) {
            for phase in 0..stride {
                let to = &mut phases[(phase * length + k) * pixel..][..pixel];
                match self.axis.source(first + stride * k + phase) {
                    Some(i) => to.copy_from_slice(&x[i * pixel..][..pixel]),
                    None => to.fill(E::of(0.)),
                }
            }
        }
        if start == end {
            return;
        }
        let inside = &x[(first + stride * start - before) * pixel..];
        let inside = &inside[..(end - start) * stride * pixel];
        if stride == 1 {
            phases[start * pixel..end * pixel].copy_from_slice(inside);
            return;
        }
        let (even, odd) = phases.split_at_mut(length * pixel);
        let (even, odd) = (&mut even[start * pixel..], &mut odd[start * pixel..]);
        deinterleave(inside, pixel, even, odd);
    }

    /// Adds up the bands (an absent one is zero) to the positions `range` of the extended signal:
    /// the transpose of filtering it.
    #[inline(always)]
    fn spread<S: Simd<E = E>>(
        &self,
        s: S,
        scratch: &mut Scratch<E>,
        bands: [Option<&[E]>; 2],
        range: Range<usize>,
        out: &mut [E],
    ) {
        let Axis { stride, dilation, .. } = self.axis;
        let (taps, pixel) = (self.phase_taps(), self.pixel);
        let first = range.start / stride;
        let length = range.end.div_ceil(stride) - first;
        let reach = (taps - 1) * dilation;
        let mut padded = bands;
        for ((band, padded), buffer) in bands.iter().zip(&mut padded).zip(&mut scratch.padded) {
            *padded = band.map(|band| {
                let buffer = sized(buffer, (length + reach) * pixel);
                pad(band, first as isize - reach as isize, pixel, buffer);
                &*buffer
            });
        }
        scratch.offsets.clear();
        scratch.offsets.extend((0..taps).map(|t| (reach - t * dilation) * pixel));
        let terms = |phase: usize| {
            let weights = phase * taps..(phase + 1) * taps;
            let (lo, hi) = (&self.lo[weights.clone()], &self.hi[weights]);
            Terms { offsets: &scratch.offsets, lo, hi }
        };
        if stride == 1 {
            return merge(s, padded[0], padded[1], terms(0), out);
        }
        let phases = sized(&mut scratch.phases, 2 * length * pixel);
        let (even, odd) = phases.split_at_mut(length * pixel);
        merge(s, padded[0], padded[1], terms(0), even);
        merge(s, padded[0], padded[1], terms(1), odd);
        interleave(even, odd, pixel, range.start % 2 == 1, out);
    }

    /// The samples `range` of a line as far as positions inside the signal go: to be completed by
    /// [`Self::fold`].
    #[inline(always)]
    pub(crate) fn synthesise<S: Simd<E = E>>(
        &self,
        s: S,
        scratch: &mut Scratch<E>,
        bands: [Option<&[E]>; 2],
        range: Range<usize>,
        out: &mut [E],
    ) {
        let inside = range.end.min(self.axis.inside()).saturating_sub(range.start);
        let (out, outside) = out.split_at_mut(inside * self.pixel);
        outside.fill(E::of(0.));
        if inside > 0 {
            let start = self.axis.before + range.start;
            self.spread(s, scratch, bands, start..start + inside, out);
        }
    }

    /// Adds what the bands bring to the positions outside to the samples these are copies of.
    #[inline(always)]
    pub(crate) fn fold<S: Simd<E = E>>(
        &self,
        s: S,
        scratch: &mut Scratch<E>,
        bands: [Option<&[E]>; 2],
        out: &mut [E],
    ) {
        let (axis, pixel) = (&self.axis, self.pixel);
        for range in [0..axis.before, axis.before + axis.inside()..axis.extended()] {
            if range.is_empty() || range.clone().all(|p| axis.source(p).is_none()) {
                continue;
            }
            let mut outside = std::mem::take(&mut scratch.folded);
            let values = sized(&mut outside, range.len() * pixel);
            self.spread(s, scratch, bands, range.clone(), values);
            for (position, values) in range.zip(values.chunks(pixel)) {
                if let Some(i) = axis.source(position) {
                    for (out, &v) in out[i * pixel..][..pixel].iter_mut().zip(values) {
                        *out += v;
                    }
                }
            }
            scratch.folded = outside;
        }
    }
}

/// Copies `band` from sample `first` on, which may lie before it; zeros where there is none.
#[inline(always)]
fn pad<E: Real>(band: &[E], first: isize, pixel: usize, out: &mut [E]) {
    let zero = E::of(0.);
    let skip = (first.max(0) as usize * pixel).min(band.len());
    let before = ((-first).max(0) as usize * pixel).min(out.len());
    let (head, rest) = out.split_at_mut(before);
    head.fill(zero);
    let n = rest.len().min(band.len() - skip);
    rest[..n].copy_from_slice(&band[skip..skip + n]);
    rest[n..].fill(zero);
}

/// Even and odd samples of `x`.
#[inline(always)]
fn deinterleave<E: Real>(x: &[E], pixel: usize, even: &mut [E], odd: &mut [E]) {
    if pixel == 1 {
        for ((pair, even), odd) in x.chunks_exact(2).zip(even).zip(odd) {
            [*even, *odd] = [pair[0], pair[1]];
        }
        return;
    }
    let pairs = x.chunks_exact(2 * pixel);
    for ((pair, even), odd) in pairs.zip(even.chunks_mut(pixel)).zip(odd.chunks_mut(pixel)) {
        even.copy_from_slice(&pair[..pixel]);
        odd.copy_from_slice(&pair[pixel..]);
    }
}

/// Even and odd samples in turn, from the first odd one if `skip`.
#[inline(always)]
fn interleave<E: Real>(mut even: &[E], mut odd: &[E], pixel: usize, skip: bool, mut out: &mut [E]) {
    if skip {
        out[..pixel].copy_from_slice(&odd[..pixel]);
        (even, odd, out) = (&even[pixel..], &odd[pixel..], &mut out[pixel..]);
    }
    if pixel == 1 {
        let mut pairs = out.chunks_exact_mut(2);
        for ((pair, &even), &odd) in (&mut pairs).zip(even).zip(odd) {
            [pair[0], pair[1]] = [even, odd];
        }
        if let [last] = pairs.into_remainder() {
            *last = even[even.len() - 1];
        }
        return;
    }
    for ((pair, even), odd) in
        out.chunks_mut(2 * pixel).zip(even.chunks(pixel)).zip(odd.chunks(pixel))
    {
        let (first, second) = pair.split_at_mut(pixel);
        first.copy_from_slice(even);
        second.copy_from_slice(&odd[..second.len()]);
    }
}
