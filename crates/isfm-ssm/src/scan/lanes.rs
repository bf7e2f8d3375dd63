//! The scan's own vector arithmetic: what [`Simd`] offers for any kernel, done with fewer
//! instructions where the scan spends its time.

use isfm_ops::simd::{Real, Simd};

/// Whether vectors are AVX-512 registers of f32.
///
/// Only `isfm_ops::simd::dispatch` starts a kernel, so `S` is one of its tokens; among them only
/// the AVX-512 one has vectors of 64 bytes that are aligned like a register.
#[inline(always)]
const fn is_avx512<S: Simd>() -> bool {
    cfg!(target_arch = "x86_64")
        && S::LANES == 16
        && size_of::<S::E>() == 4
        && size_of::<S::V>() == 64
        && align_of::<S::V>() == 64
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;
    use std::mem::transmute_copy;

    use isfm_ops::simd::Simd;

    // 2^r = 1 + r ln 2 + r² P(r) on [-1/2, 1/2], relative error 1.1e-7. The first two terms are
    // exact, so that decays near 1 (which act over thousands of steps) are as good as f32 has them.
    const EXP2: [f32; 4] = [1.330_026_3e-3, 9.669_708e-3, 5.550_56e-2, 0.240_222_82];

    /// 2^v for finite v: an infinite one would leave no fraction.
    ///
    /// # Safety
    /// `S` must be the AVX-512 token.
    #[inline(always)]
    pub(super) unsafe fn exp2<S: Simd>(v: S::V) -> S::V {
        // SAFETY: `S::V` is `__m512`, and the processor has AVX-512.
        unsafe {
            let v: __m512 = transmute_copy(&v);
            let n = round(v);
            transmute_copy(&power(n, _mm512_sub_ps(v, n)))
        }
    }

    /// eˣ for finite x, with no rounding between x and the power of two.
    ///
    /// # Safety
    /// `S` must be the AVX-512 token.
    #[inline(always)]
    pub(super) unsafe fn exp<S: Simd>(x: S::V) -> S::V {
        // SAFETY: `S::V` is `__m512`, and the processor has AVX-512.
        unsafe {
            let (x, log2e): (__m512, _) =
                (transmute_copy(&x), _mm512_set1_ps(std::f32::consts::LOG2_E));
            let n = round(_mm512_mul_ps(x, log2e));
            transmute_copy(&power(n, _mm512_fmsub_ps(x, log2e, n)))
        }
    }

    #[inline(always)]
    unsafe fn round(v: __m512) -> __m512 {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        // SAFETY: the callers have AVX-512.
        unsafe { _mm512_roundscale_ps::<NEAREST>(v) }
    }

    /// 2^(n + r) for a whole n and r in [-1/2, 1/2].
    #[inline(always)]
    unsafe fn power(n: __m512, r: __m512) -> __m512 {
        // SAFETY: the callers have AVX-512.
        unsafe {
            let mut p = _mm512_set1_ps(EXP2[0]);
            for &k in &EXP2[1..] {
                p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(k));
            }
            p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(std::f32::consts::LN_2));
            p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.));
            _mm512_scalef_ps(p, n)
        }
    }

    /// Four rows in one register: lane 4j + i holds quarter j's share of row i.
    ///
    /// # Safety
    /// `S` must be the AVX-512 token.
    #[inline(always)]
    pub(super) unsafe fn quarter<S: Simd>(rows: [S::V; 4]) -> S::V {
        // SAFETY: `S::V` is `__m512`, and the processor has AVX-512.
        unsafe {
            let [a, b, c, d]: [__m512; 4] = transmute_copy(&rows);
            let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            transmute_copy(&_mm512_add_ps(
                _mm512_shuffle_ps::<0b01_00_01_00>(ab, cd),
                _mm512_shuffle_ps::<0b11_10_11_10>(ab, cd),
            ))
        }
    }

    /// The sums of the 16 rows of four quarters.
    ///
    /// # Safety
    /// `S` must be the AVX-512 token.
    #[inline(always)]
    pub(super) unsafe fn sum_quarters<S: Simd>(quarters: [S::V; 4]) -> S::V {
        // SAFETY: `S::V` is `__m512`, and the processor has AVX-512.
        unsafe {
            let [a, b, c, d]: [__m512; 4] = transmute_copy(&quarters);
            let ab = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b),
                _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b),
            );
            let cd = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b10_00_10_00>(c, d),
                _mm512_shuffle_f32x4::<0b11_01_11_01>(c, d),
            );
            transmute_copy(&_mm512_add_ps(
                _mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd),
                _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd),
            ))
        }
    }
}

/// δ as [`decay`] takes it: times log₂e where that computes 2ˣ, and at most `limit`, with which
/// every product with A is finite.
#[inline(always)]
pub(super) fn scaled<S: Simd>(s: S, delta: S::V, limit: S::V) -> S::V {
    if is_avx512::<S>() {
        s.mul(s.min(limit, delta), s.splat(S::E::of(std::f64::consts::LOG2_E)))
    } else {
        delta
    }
}

/// exp(δ·A), given δ as [`scaled`] made it.
#[inline(always)]
pub(super) fn decay<S: Simd>(s: S, scaled_delta: S::V, a: S::V) -> S::V {
    let x = s.mul(scaled_delta, a);
    #[cfg(target_arch = "x86_64")]
    if is_avx512::<S>() {
        // SAFETY: as just checked.
        return unsafe { avx512::exp2::<S>(x) };
    }
    s.exp(x)
}

/// eˣ for x ≤ 0 or NaN.
#[inline(always)]
fn exp_negative<S: Simd>(s: S, x: S::V) -> S::V {
    #[cfg(target_arch = "x86_64")]
    if is_avx512::<S>() {
        // Where eˣ is 0 already; an infinite x would leave no fraction. NaN stays.
        let x = s.max(s.splat(S::E::of(-200.)), x);
        // SAFETY: as just checked.
        return unsafe { avx512::exp::<S>(x) };
    }
    s.exp(x)
}

// ln(1 + y)/y on [0, 1], relative error 3e-8.
const LOG1P: [f64; 9] = [
    5.232690027468886e-3,
    -2.9505219919230236e-2,
    7.822591750629002e-2,
    -1.3663242502300021e-1,
    1.9106004994412523e-1,
    -2.4842981692976743e-1,
    3.331909673175758e-1,
    -4.9999493136559914e-1,
    9.999999698798083e-1,
];

/// ln(1 + eˣ). In f32 max(x, 0) + ln(1 + e^−|x|), which needs no division and has no overflow;
/// above 20 it rounds to x, as the definition (spec.md §2) asks.
#[inline(always)]
pub(super) fn softplus<S: Simd>(s: S, x: S::V) -> S::V {
    if size_of::<S::E>() != 4 {
        return s.softplus(x);
    }
    let zero = s.splat(S::E::of(0.));
    // `min` and `max` return their second argument on NaN, which here is the one that carries it.
    let y = exp_negative(s, s.min(s.sub(zero, x), x));
    let mut p = s.splat(S::E::of(LOG1P[0]));
    for &k in &LOG1P[1..] {
        p = s.fma(p, y, s.splat(S::E::of(k)));
    }
    s.fma(p, y, s.max(zero, x))
}

/// Four vectors on the way to the sums of their lanes: with AVX-512 four times four take a third of
/// the instructions that sixteen sums by themselves would.
#[derive(Clone, Copy)]
pub(super) struct Quarter<S: Simd> {
    halfway: S::V,
    sums: [S::E; 4],
}

impl<S: Simd> Quarter<S> {
    #[inline(always)]
    pub(super) fn zero(s: S) -> Self {
        Self { halfway: s.splat(S::E::of(0.)), sums: [S::E::of(0.); 4] }
    }

    /// Of the first `n` rows; the rest are zero.
    #[inline(always)]
    pub(super) fn of(s: S, rows: [S::V; 4], n: usize) -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_avx512::<S>() {
            // SAFETY: as just checked.
            return Self { halfway: unsafe { avx512::quarter::<S>(rows) }, ..Self::zero(s) };
        }
        let mut sums = [S::E::of(0.); 4];
        for (sum, row) in sums.iter_mut().zip(rows).take(n) {
            *sum = s.sum(row);
        }
        Self { sums, ..Self::zero(s) }
    }

    /// The sums of all rows, in a fixed order of the lanes.
    #[inline(always)]
    pub(super) fn sums(s: S, quarters: [Self; 4]) -> [S::E; 16] {
        let mut sums = [S::E::of(0.); 16];
        #[cfg(target_arch = "x86_64")]
        if is_avx512::<S>() {
            let [a, b, c, d] = quarters;
            let halfway = [a.halfway, b.halfway, c.halfway, d.halfway];
            // SAFETY: as just checked.
            let all = unsafe { avx512::sum_quarters::<S>(halfway) };
            s.store(all, &mut sums);
            return sums;
        }
        for (sums, quarter) in sums.chunks_exact_mut(4).zip(quarters) {
            sums.copy_from_slice(&quarter.sums);
        }
        sums
    }
}

/// Asks for the cache line of element `at` from `start` on, if there is one.
#[inline(always)]
pub(super) fn prefetch<E>(start: *const E, at: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint only; it reads nothing and never faults, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(at).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (start, at);
}
