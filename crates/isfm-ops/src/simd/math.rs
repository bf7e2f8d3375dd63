//! Polynomials and lane-wise functions that the tokens share.

use super::{Real, Simd};

pub(super) const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// log₂e − `LOG2_E`.
#[cfg(target_arch = "x86_64")]
pub(super) const LOG2_E_LO: f32 = (std::f64::consts::LOG2_E - LOG2_E as f64) as f32;
// ln 2 in two parts, the first with few enough bits that n times it is exact.
pub(super) const LN2_HI: f32 = 0.693_359_4;
pub(super) const LN2_LO: f32 = -2.121_944_4e-4;
// e^r = 1 + r + r^2 P(r) on [-ln2/2, ln2/2] (Cephes expf).
pub(super) const EXP_P: [f32; 6] =
    [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5.000_000_3e-1];
pub(super) const EXP_MIN: f32 = -104.;
pub(super) const EXP_MAX: f32 = 89.;

/// x y + z, fused where every processor of the target has the instruction (NEON); elsewhere `mul_add`
/// may be a slow library call.
#[inline(always)]
pub(super) fn fused<E: Real>(x: E, y: E, z: E) -> E {
    if cfg!(target_arch = "aarch64") { x.mul_add(y, z) } else { x * y + z }
}

#[inline(always)]
pub(super) fn exp_f32(x: f32) -> f32 {
    let c = if x < EXP_MIN { EXP_MIN } else { x };
    let c = if c > EXP_MAX { EXP_MAX } else { c };
    // Adding and taking away 1.5 * 2^23 rounds to the nearest integer, and vectorises.
    let n = fused(c, LOG2_E, 12_582_912.) - 12_582_912.;
    let r = fused(n, -LN2_LO, fused(n, -LN2_HI, c));
    let mut p = EXP_P[0];
    for &k in &EXP_P[1..] {
        p = fused(p, r, k);
    }
    let p = fused(p, r * r, r) + 1.;
    let n = n as i32;
    let half = n >> 1;
    let pow2 = |k: i32| f32::from_bits(((k + 127) << 23) as u32);
    p * pow2(half) * pow2(n - half)
}

#[inline(always)]
pub(super) fn ln_f32(x: f32) -> f32 {
    // Split x = m 2^e with m in [sqrt(1/2), sqrt(2)), then the Cephes logf polynomial in m - 1.
    let bits = x.to_bits();
    let shifted = bits.wrapping_sub(0x3f35_04f3);
    let e = ((shifted as i32) >> 23) as f32;
    let m = f32::from_bits((shifted & 0x007f_ffff) + 0x3f35_04f3) - 1.;
    const P: [f32; 9] = [
        7.037_683_6e-2,
        -1.151_461e-1,
        1.167_699_9e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_5e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ];
    let mut p = P[0];
    for &k in &P[1..] {
        p = fused(p, m, k);
    }
    let z = m * m;
    let y = fused(e, LN2_LO, p * m * z) - 0.5 * z;
    fused(e, LN2_HI, m + y)
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

/// max(x, 0) + ln(1 + e^−|x|): softplus without a division and without an overflow, to the digits
/// that `f32` has.
#[inline(always)]
pub(super) fn softplus_f32<S: Simd>(s: S, x: S::V) -> S::V {
    let zero = s.splat(S::E::of(0.));
    // `min` and `max` return their second argument on NaN, which here is the one that carries it.
    let y = s.exp_finite(s.min(s.sub(zero, x), x));
    let mut p = s.splat(S::E::of(LOG1P[0]));
    for &k in &LOG1P[1..] {
        p = s.fma(p, y, s.splat(S::E::of(k)));
    }
    s.fma(p, y, s.max(zero, x))
}

/// The sums of the first `n` of four vectors, in a fixed order of the lanes; the rest 0.
#[inline(always)]
pub(super) fn sum_each<S: Simd>(s: S, rows: [S::V; 4], n: usize) -> [S::E; 4] {
    let mut sums = [S::E::of(0.); 4];
    for (sum, row) in sums.iter_mut().zip(rows).take(n) {
        *sum = s.sum(row);
    }
    sums
}

/// Four times four sums, one after the other.
#[inline(always)]
pub(super) fn side_by_side<E: Real>(quarters: [[E; 4]; 4]) -> [E; 16] {
    let mut sums = [E::of(0.); 16];
    for (sums, quarter) in sums.chunks_exact_mut(4).zip(quarters) {
        sums.copy_from_slice(&quarter);
    }
    sums
}
