//! Decays, in the form that takes the fewest instructions, and prefetching.

use isfm_ops::simd::{Real, Simd};

/// δ as [`decay`] takes it: times log₂e where that computes 2ˣ, and at most `limit`, with which
/// every product with A is finite.
#[inline(always)]
pub(super) fn scaled<S: Simd>(s: S, delta: S::V, limit: S::V) -> S::V {
    if S::FAST_EXP2 {
        s.mul(s.min(limit, delta), s.splat(S::E::of(std::f64::consts::LOG2_E)))
    } else {
        delta
    }
}

/// exp(δ·A), given δ as [`scaled`] made it.
#[inline(always)]
pub(super) fn decay<S: Simd>(s: S, scaled_delta: S::V, a: S::V) -> S::V {
    let x = s.mul(scaled_delta, a);
    if S::FAST_EXP2 { s.exp2(x) } else { s.exp(x) }
}

/// Prefetches the cache line of element `at` from `start` on, if the processor can.
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
