//! Haar on blocks of 2×2: every sample is read once, every coefficient written once.

use isfm_ops::simd::{Kernel, MAX_LANES, Real, Simd};

use crate::line::{deinterleave, interleave};
use crate::plane::{DetailRow, Row};

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

/// Columns that are worked on together where samples are single elements: their even and odd ones
/// are sorted into lanes in the nearest cache.
const BLOCK: usize = 256;

/// The blocks' a, b, c, d to LL, LH, HL, HH or back, where they are.
#[inline(always)]
fn butterflies<S: Simd>(s: S, blocks: &mut [[S::E; BLOCK]; 4], n: usize) {
    const { assert!(BLOCK.is_multiple_of(MAX_LANES)) };
    let [a, b, c, d] = blocks;
    let vectors = |x| <[S::E]>::chunks_exact_mut(x, S::LANES).take(n.div_ceil(S::LANES));
    for (((a, b), c), d) in vectors(a).zip(vectors(b)).zip(vectors(c)).zip(vectors(d)) {
        let out = butterfly(s, s.load(a), s.load(b), s.load(c), s.load(d));
        for (v, to) in out.into_iter().zip([a, b, c, d]) {
            s.store(v, to);
        }
    }
}

/// One output row of the Haar analysis.
pub(crate) struct HaarAnalysis<'a, E> {
    pub(crate) top: &'a [E],
    pub(crate) bottom: &'a [E],
    pub(crate) pixel: usize,
    pub(crate) width: usize,
    pub(crate) out: Row<&'a mut [E]>,
}

impl<E: Real> Kernel<E> for HaarAnalysis<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { top, bottom, pixel, width, mut out } = self;
        if pixel == 1 {
            // Neighbouring columns in the lanes.
            let mut blocks = [[E::zero(); BLOCK]; 4];
            for j in (0..width).step_by(BLOCK) {
                let n = BLOCK.min(width - j);
                let [a, b, c, d] = &mut blocks;
                deinterleave(&top[2 * j..][..2 * n], 1, a, b);
                deinterleave(&bottom[2 * j..][..2 * n], 1, c, d);
                butterflies(s, &mut blocks, n);
                let [ll, lh, hl, hh] = &blocks;
                if let Some(out) = &mut out.approx {
                    out[j..][..n].copy_from_slice(&ll[..n]);
                }
                match &mut out.details {
                    DetailRow::Absent => {}
                    DetailRow::Interleaved(out) => {
                        let triples = out[3 * j..][..3 * n].chunks_exact_mut(3);
                        for (((out, &lh), &hl), &hh) in triples.zip(lh).zip(hl).zip(hh) {
                            [out[0], out[1], out[2]] = [lh, hl, hh];
                        }
                    }
                    DetailRow::Planes(out) => {
                        for (band, out) in [lh, hl, hh].into_iter().zip(out) {
                            out[j..][..n].copy_from_slice(&band[..n]);
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
pub(crate) struct HaarSynthesis<'a, E> {
    pub(crate) bands: Row<&'a [E]>,
    pub(crate) pixel: usize,
    pub(crate) top: &'a mut [E],
    pub(crate) bottom: &'a mut [E],
}

impl<E: Real> Kernel<E> for HaarSynthesis<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { bands, pixel, top, bottom } = self;
        let zero = s.splat(E::zero());
        let width = top.len() / pixel / 2;
        if pixel == 1 {
            let mut blocks = [[E::zero(); BLOCK]; 4];
            for j in (0..width).step_by(BLOCK) {
                let n = BLOCK.min(width - j);
                let [ll, lh, hl, hh] = &mut blocks;
                match bands.approx {
                    Some(from) => ll[..n].copy_from_slice(&from[j..][..n]),
                    None => ll.fill(E::zero()),
                }
                match &bands.details {
                    DetailRow::Absent => {
                        for band in [lh, hl, hh] {
                            band.fill(E::zero());
                        }
                    }
                    DetailRow::Interleaved(from) => {
                        let triples = from[3 * j..][..3 * n].chunks_exact(3);
                        for (((from, lh), hl), hh) in triples.zip(lh).zip(hl).zip(hh) {
                            [*lh, *hl, *hh] = [from[0], from[1], from[2]];
                        }
                    }
                    DetailRow::Planes(from) => {
                        for (band, from) in [lh, hl, hh].into_iter().zip(from) {
                            band[..n].copy_from_slice(&from[j..][..n]);
                        }
                    }
                }
                butterflies(s, &mut blocks, n);
                let [a, b, c, d] = &blocks;
                interleave(&a[..n], &b[..n], 1, false, &mut top[2 * j..][..2 * n]);
                interleave(&c[..n], &d[..n], 1, false, &mut bottom[2 * j..][..2 * n]);
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
