//! Haar on blocks of 2×2: every sample is read once, every coefficient written once.

use std::mem::MaybeUninit;

use isfm_ops::simd::{Kernel, Real, Simd};

use crate::op::zeroed;
use crate::plane::{DetailRow, Row};

/// LL, LH, HL, HH of the block a, b over c, d; and, because it is its own inverse, a, b, c, d of
/// LL, LH, HL, HH.
///
/// Halving first keeps intermediate sums of huge values from overflowing.
#[inline(always)]
fn butterfly<S: Simd>(s: S, a: S::V, b: S::V, c: S::V, d: S::V) -> [S::V; 4] {
    let half = s.splat(S::E::of(0.5));
    let (a, b, c, d) = (s.mul(a, half), s.mul(b, half), s.mul(c, half), s.mul(d, half));
    let (top, bottom) = (s.add(a, b), s.add(c, d));
    let (top_diff, bottom_diff) = (s.sub(a, b), s.sub(c, d));
    [
        s.add(top, bottom),
        s.sub(top, bottom),
        s.add(top_diff, bottom_diff),
        s.sub(top_diff, bottom_diff),
    ]
}

/// [`butterfly`] of single elements. Written as plain loops over these, where samples are single
/// elements, because the compiler then sorts even and odd columns into lanes by itself.
#[inline(always)]
fn butterfly_of<E: Real>(a: E, b: E, c: E, d: E) -> [E; 4] {
    let half = E::of(0.5);
    let [a, b, c, d] = [a * half, b * half, c * half, d * half];
    let (top, bottom, top_diff, bottom_diff) = (a + b, c + d, a - b, c - d);
    [top + bottom, top - bottom, top_diff + bottom_diff, top_diff - bottom_diff]
}

/// Columns worked on together; a band that is not wanted or not given has a stand-in of that size.
const BLOCK: usize = 512;

/// A stretch of two rows to the four bands.
#[inline(always)]
fn to_planes<E: Real>(
    top: &[E],
    bottom: &[E],
    ll: &mut [MaybeUninit<E>],
    lh: &mut [MaybeUninit<E>],
    hl: &mut [MaybeUninit<E>],
    hh: &mut [MaybeUninit<E>],
) {
    let columns = top.chunks_exact(2).zip(bottom.chunks_exact(2));
    let bands = ll.iter_mut().zip(lh).zip(hl).zip(hh);
    for ((top, bottom), (((ll, lh), hl), hh)) in columns.zip(bands) {
        let out = butterfly_of(top[0], top[1], bottom[0], bottom[1]);
        ll.write(out[0]);
        lh.write(out[1]);
        hl.write(out[2]);
        hh.write(out[3]);
    }
}

/// The same with the details side by side.
#[inline(always)]
fn to_triples<E: Real>(
    top: &[E],
    bottom: &[E],
    ll: &mut [MaybeUninit<E>],
    details: &mut [MaybeUninit<E>],
) {
    let columns = top.chunks_exact(2).zip(bottom.chunks_exact(2));
    for ((top, bottom), (ll, out)) in columns.zip(ll.iter_mut().zip(details.chunks_exact_mut(3))) {
        let [approx, lh, hl, hh] = butterfly_of(top[0], top[1], bottom[0], bottom[1]);
        ll.write(approx);
        out[0].write(lh);
        out[1].write(hl);
        out[2].write(hh);
    }
}

/// The four bands to a stretch of two rows.
#[inline(always)]
fn from_planes<E: Real>(
    ll: &[E],
    lh: &[E],
    hl: &[E],
    hh: &[E],
    top: &mut [MaybeUninit<E>],
    bottom: &mut [MaybeUninit<E>],
) {
    let columns = top.chunks_exact_mut(2).zip(bottom.chunks_exact_mut(2));
    let bands = ll.iter().zip(lh).zip(hl).zip(hh);
    for ((top, bottom), (((&ll, &lh), &hl), &hh)) in columns.zip(bands) {
        let [a, b, c, d] = butterfly_of(ll, lh, hl, hh);
        top[0].write(a);
        top[1].write(b);
        bottom[0].write(c);
        bottom[1].write(d);
    }
}

/// The same from details side by side.
#[inline(always)]
fn from_triples<E: Real>(
    ll: &[E],
    details: &[E],
    top: &mut [MaybeUninit<E>],
    bottom: &mut [MaybeUninit<E>],
) {
    let columns = top.chunks_exact_mut(2).zip(bottom.chunks_exact_mut(2));
    for ((top, bottom), (&ll, from)) in columns.zip(ll.iter().zip(details.chunks_exact(3))) {
        let [a, b, c, d] = butterfly_of(ll, from[0], from[1], from[2]);
        top[0].write(a);
        top[1].write(b);
        bottom[0].write(c);
        bottom[1].write(d);
    }
}

/// One output row of the Haar analysis.
pub(crate) struct HaarAnalysis<'a, E> {
    pub(crate) top: &'a [E],
    pub(crate) bottom: &'a [E],
    pub(crate) pixel: usize,
    pub(crate) width: usize,
    pub(crate) out: Row<&'a mut [MaybeUninit<E>]>,
}

impl<E: Real> Kernel<E> for HaarAnalysis<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { top, bottom, pixel, width, mut out } = self;
        if pixel == 1 {
            let mut spare = [[MaybeUninit::uninit(); BLOCK]; 4];
            for j in (0..width).step_by(BLOCK) {
                let n = BLOCK.min(width - j);
                let (top, bottom) = (&top[2 * j..][..2 * n], &bottom[2 * j..][..2 * n]);
                let [ll, lh, hl, hh] = spare.each_mut().map(|s| &mut s[..n]);
                let ll = out.approx.as_mut().map_or(ll, |out| &mut out[j..][..n]);
                match &mut out.details {
                    DetailRow::Absent => to_planes(top, bottom, ll, lh, hl, hh),
                    DetailRow::Interleaved(d) => {
                        to_triples(top, bottom, ll, &mut d[3 * j..][..3 * n]);
                    }
                    DetailRow::Planes(d) => {
                        let [lh, hl, hh] = d.each_mut().map(|d| &mut d[j..][..n]);
                        to_planes(top, bottom, ll, lh, hl, hh);
                    }
                }
            }
            return;
        }
        let mut out = out.zeroed();
        // The lanes hold neighbouring channels.
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
pub(crate) struct HaarSynthesis<'a, E> {
    pub(crate) bands: Row<&'a [E]>,
    pub(crate) pixel: usize,
    pub(crate) top: &'a mut [MaybeUninit<E>],
    pub(crate) bottom: &'a mut [MaybeUninit<E>],
}

impl<E: Real> Kernel<E> for HaarSynthesis<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { bands, pixel, top, bottom } = self;
        let width = top.len() / pixel / 2;
        if pixel == 1 {
            let zeros = [E::zero(); BLOCK];
            for j in (0..width).step_by(BLOCK) {
                let n = BLOCK.min(width - j);
                let ll = bands.approx.map_or(&zeros[..n], |ll| &ll[j..][..n]);
                let (top, bottom) = (&mut top[2 * j..][..2 * n], &mut bottom[2 * j..][..2 * n]);
                match &bands.details {
                    DetailRow::Absent => {
                        let none = &zeros[..n];
                        from_planes(ll, none, none, none, top, bottom);
                    }
                    DetailRow::Interleaved(d) => {
                        from_triples(ll, &d[3 * j..][..3 * n], top, bottom);
                    }
                    DetailRow::Planes(d) => {
                        let [lh, hl, hh] = d.map(|d| &d[j..][..n]);
                        from_planes(ll, lh, hl, hh, top, bottom);
                    }
                }
            }
            for odd in [top, bottom] {
                zeroed(&mut odd[2 * width..]);
            }
            return;
        }
        let (top, bottom) = (zeroed(top), zeroed(bottom));
        let zero = s.splat(E::zero());
        for j in 0..width {
            let (a_out, b_out) = top[2 * j * pixel..][..2 * pixel].split_at_mut(pixel);
            let (c_out, d_out) = bottom[2 * j * pixel..][..2 * pixel].split_at_mut(pixel);
            for k in (0..pixel).step_by(S::LANES) {
                let end = pixel.min(k + S::LANES);
                // No closures here: they are not always compiled with the kernel's instructions.
                let ll = match bands.approx {
                    Some(ll) => s.load_partial(&ll[j * pixel..][k..end]),
                    None => zero,
                };
                let mut details = [zero; 3];
                if let DetailRow::Interleaved(d) = &bands.details {
                    for (n, detail) in details.iter_mut().enumerate() {
                        *detail = s.load_partial(&d[(3 * j + n) * pixel..][k..end]);
                    }
                }
                let [lh, hl, hh] = details;
                let [a, b, c, d] = butterfly(s, ll, lh, hl, hh);
                s.store_partial(a, &mut a_out[k..end]);
                s.store_partial(b, &mut b_out[k..end]);
                s.store_partial(c, &mut c_out[k..end]);
                s.store_partial(d, &mut d_out[k..end]);
            }
        }
    }
}
