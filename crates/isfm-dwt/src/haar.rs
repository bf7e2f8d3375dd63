//! Haar on blocks of 2×2: every sample is read once, every coefficient written once.

use isfm_ops::simd::{Kernel, MAX_LANES, Real, Simd};

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
