//! One body per kernel, compiled once for each instruction set and chosen at run time.
//!
//! A kernel is written once, generic over a [`Simd`] token that says how wide a vector is and how
//! to compute with it. [`dispatch`] runs it with the widest token the processor has. No compiler
//! flags are needed, and the portable token (which the compiler vectorises for NEON or SSE2 by
//! itself) is both the fallback and the oracle that the others are tested against. `f64` always
//! takes the portable path: it is there for oracles and finite differences, not for speed.
//!
//! Everything between `dispatch` and the arithmetic must be `#[inline(always)]`, otherwise the
//! compiler emits a call into code without the wider instructions.
//!
//! ```
//! use isfm_ops::simd::{Kernel, Simd, dispatch};
//!
//! struct Sum<'a>(&'a [f32]);
//! impl Kernel<f32> for Sum<'_> {
//!     type Output = f32;
//!     #[inline(always)]
//!     fn run<S: Simd<E = f32>>(self, s: S) -> f32 {
//!         let mut acc = s.splat(0.);
//!         let mut chunks = self.0.chunks_exact(S::LANES);
//!         for c in &mut chunks {
//!             acc = s.add(acc, s.load(c));
//!         }
//!         s.sum(s.add(acc, s.load_partial(chunks.remainder())))
//!     }
//! }
//! assert_eq!(dispatch(Sum(&[1.; 37])), 37.);
//! ```

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use candle_core::WithDType;

use crate::Error;

/// An element type the kernels compute in: `f32` (SIMD) or `f64` (portable).
pub trait Real:
    WithDType
    + num_traits::Float
    + std::ops::AddAssign
    + std::ops::SubAssign
    + std::ops::MulAssign
    + std::iter::Sum
{
    /// Runs `kernel` with the widest [`Simd`] token allowed for this type.
    fn dispatch<K: Kernel<Self>>(kernel: K) -> K::Output;
    /// The value nearest to `x`.
    fn of(x: f64) -> Self;
    #[doc(hidden)]
    fn exp_lane(x: Self) -> Self;
    #[doc(hidden)]
    fn ln_lane(x: Self) -> Self;
}

/// A computation written once over any [`Simd`] token.
pub trait Kernel<E: Real> {
    /// What the computation returns.
    type Output;
    /// The computation. Implementations must be `#[inline(always)]`.
    fn run<S: Simd<E = E>>(self, simd: S) -> Self::Output;
}

/// Runs `kernel` with the widest instruction set that the processor has and [`set_level`] allows.
#[inline]
pub fn dispatch<E: Real, K: Kernel<E>>(kernel: K) -> K::Output {
    E::dispatch(kernel)
}

/// An instruction set a kernel can be compiled for, narrowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// What the compiler makes of plain code for the target (SSE2, NEON, …).
    Portable = 0,
    /// AVX2 and FMA, 8 lanes.
    Avx2 = 1,
    /// AVX-512 F, BW, DQ and VL, 16 lanes.
    Avx512 = 2,
}

impl Level {
    /// The widest level this processor has.
    pub fn detected() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = has!("avx2") && has!("fma");
            if avx2 && has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") {
                return Self::Avx512;
            }
            if avx2 {
                return Self::Avx2;
            }
        }
        Self::Portable
    }
}

impl std::str::FromStr for Level {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        match s {
            "portable" => Ok(Self::Portable),
            "avx2" => Ok(Self::Avx2),
            "avx512" => Ok(Self::Avx512),
            _ => Err(Error::UnknownSimdLevel(s.to_string())),
        }
    }
}

const UNSET: u8 = u8::MAX;
static FORCED: AtomicU8 = AtomicU8::new(UNSET);

/// The level in use: what [`set_level`] chose, else the environment variable `ISFM_SIMD`
/// (`portable`, `avx2` or `avx512`; a level the processor lacks, or another word, is ignored),
/// else what the processor has.
pub fn level() -> Level {
    match FORCED.load(Ordering::Relaxed) {
        0 => Level::Portable,
        1 => Level::Avx2,
        2 => Level::Avx512,
        _ => {
            static DEFAULT: OnceLock<Level> = OnceLock::new();
            *DEFAULT.get_or_init(|| {
                let detected = Level::detected();
                let asked = std::env::var("ISFM_SIMD").ok().and_then(|s| s.parse::<Level>().ok());
                asked.map_or(detected, |asked| asked.min(detected))
            })
        }
    }
}

/// Forces a level for the whole process, or with `None` goes back to the default.
///
/// # Errors
/// [`Error::SimdLevelUnavailable`] if the processor lacks it.
pub fn set_level(level: Option<Level>) -> Result<(), Error> {
    let detected = Level::detected();
    match level {
        Some(asked) if asked > detected => Err(Error::SimdLevelUnavailable { asked, detected }),
        Some(asked) => {
            FORCED.store(asked as u8, Ordering::Relaxed);
            Ok(())
        }
        None => {
            FORCED.store(UNSET, Ordering::Relaxed);
            Ok(())
        }
    }
}

/// Vectors of one element type on one instruction set.
///
/// Loads and stores take slices of at least `LANES` elements and panic on shorter ones; that is a
/// bug in a kernel, never a caller's input.
pub trait Simd: Copy + Send + Sync {
    /// The element type.
    type E: Real;
    /// A vector of `LANES` elements.
    type V: Copy;
    /// Elements in a vector.
    const LANES: usize;

    /// All lanes `x`.
    fn splat(self, x: Self::E) -> Self::V;
    /// The first `LANES` elements.
    fn load(self, src: &[Self::E]) -> Self::V;
    /// Writes to the first `LANES` elements.
    fn store(self, v: Self::V, dst: &mut [Self::E]);
    /// `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`.
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, fused where the instruction set can.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger of each lane; `b` where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller of each lane; `b` where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `if a > b { yes } else { no }` lane by lane.
    fn select_gt(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// eˣ, relative error below 2e-7 in `f32`; 0 and ∞ beyond the range, NaN stays.
    fn exp(self, v: Self::V) -> Self::V;

    /// The first `src.len()` lanes from `src` (at most `LANES`), the others 0.
    #[inline(always)]
    fn load_partial(self, src: &[Self::E]) -> Self::V {
        if src.len() >= Self::LANES {
            return self.load(src);
        }
        let mut lanes = [Self::E::of(0.); MAX_LANES];
        lanes[..src.len()].copy_from_slice(src);
        self.load(&lanes)
    }
    /// Writes the first `dst.len()` lanes (at most `LANES`).
    #[inline(always)]
    fn store_partial(self, v: Self::V, dst: &mut [Self::E]) {
        if dst.len() >= Self::LANES {
            return self.store(v, dst);
        }
        let mut lanes = [Self::E::of(0.); MAX_LANES];
        self.store(v, &mut lanes);
        let n = dst.len();
        dst.copy_from_slice(&lanes[..n]);
    }
    /// The first `n` lanes (at most `LANES`), the others 0.
    #[inline(always)]
    fn keep(self, v: Self::V, n: usize) -> Self::V {
        if n >= Self::LANES {
            return v;
        }
        let mut lanes = [Self::E::of(0.); MAX_LANES];
        self.store(v, &mut lanes);
        self.load_partial(&lanes[..n])
    }
    /// `f` on each lane; for steps that are not worth an instruction of their own.
    #[inline(always)]
    fn map(self, v: Self::V, f: impl Fn(Self::E) -> Self::E) -> Self::V {
        let mut lanes = [Self::E::of(0.); MAX_LANES];
        self.store(v, &mut lanes);
        for x in &mut lanes[..Self::LANES] {
            *x = f(*x);
        }
        self.load(&lanes)
    }
    /// The sum of the lanes, in a fixed order.
    #[inline(always)]
    fn sum(self, v: Self::V) -> Self::E {
        let mut lanes = [Self::E::of(0.); MAX_LANES];
        self.store(v, &mut lanes);
        let mut width = Self::LANES / 2;
        while width > 0 {
            for i in 0..width {
                lanes[i] += lanes[i + width];
            }
            width /= 2;
        }
        lanes[0]
    }
    /// ln x for finite x > 0; relative error below 3e-7 in `f32`.
    #[inline(always)]
    fn ln(self, v: Self::V) -> Self::V {
        self.map(v, Self::E::ln_lane)
    }
    /// 1 / (1 + e⁻ˣ).
    #[inline(always)]
    fn sigmoid(self, v: Self::V) -> Self::V {
        let one = self.splat(Self::E::of(1.));
        self.div(one, self.add(one, self.exp(self.sub(self.splat(Self::E::of(0.)), v))))
    }
    /// ln(1 + eˣ), x itself above 20 (as PyTorch's `softplus`); no overflow for any x.
    #[inline(always)]
    fn softplus(self, v: Self::V) -> Self::V {
        let one = self.splat(Self::E::of(1.));
        let twenty = self.splat(Self::E::of(20.));
        let y = self.exp(self.min(twenty, v));
        // ln(1+y) with the rounding of 1+y divided out again, so that small y keep their digits.
        let u = self.add(one, y);
        let rounded = self.sub(u, one);
        let tiny = self.splat(Self::E::of(f64::from(f32::MIN_POSITIVE)));
        let kept = self.mul(self.ln(u), self.div(y, self.max(rounded, tiny)));
        let small = self.select_gt(rounded, self.splat(Self::E::of(0.)), kept, y);
        self.select_gt(v, twenty, v, small)
    }
}

/// The most lanes any token has.
pub const MAX_LANES: usize = 16;

const LOG2_E: f32 = std::f32::consts::LOG2_E;
// ln 2 in two parts, the first with few enough bits that n times it is exact.
const LN2_HI: f32 = 0.693_359_4;
const LN2_LO: f32 = -2.121_944_4e-4;
// e^r = 1 + r + r^2 P(r) on [-ln2/2, ln2/2] (Cephes expf).
const EXP_P: [f32; 6] =
    [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5.000_000_3e-1];
const EXP_MIN: f32 = -104.;
const EXP_MAX: f32 = 89.;

#[inline(always)]
fn exp_f32(x: f32) -> f32 {
    let c = if x < EXP_MIN { EXP_MIN } else { x };
    let c = if c > EXP_MAX { EXP_MAX } else { c };
    // Adding and taking away 1.5 * 2^23 rounds to the nearest integer, and vectorises.
    let n = (c * LOG2_E + 12_582_912.) - 12_582_912.;
    let r = (c - n * LN2_HI) - n * LN2_LO;
    let mut p = EXP_P[0];
    for &k in &EXP_P[1..] {
        p = p * r + k;
    }
    let p = p * (r * r) + r + 1.;
    let n = n as i32;
    let half = n >> 1;
    let pow2 = |k: i32| f32::from_bits(((k + 127) << 23) as u32);
    p * pow2(half) * pow2(n - half)
}

#[inline(always)]
fn ln_f32(x: f32) -> f32 {
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
        p = p * m + k;
    }
    let z = m * m;
    let y = p * m * z + e * LN2_LO - 0.5 * z;
    m + y + e * LN2_HI
}

impl Real for f32 {
    #[inline]
    fn dispatch<K: Kernel<f32>>(kernel: K) -> K::Output {
        match level() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `level` never exceeds what the processor was detected to have.
            Level::Avx512 => unsafe { x86::run_avx512(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Level::Avx2 => unsafe { x86::run_avx2(kernel) },
            _ => kernel.run(Portable::<f32, 8>::new()),
        }
    }
    #[inline(always)]
    fn of(x: f64) -> f32 {
        x as f32
    }
    #[inline(always)]
    fn exp_lane(x: f32) -> f32 {
        exp_f32(x)
    }
    #[inline(always)]
    fn ln_lane(x: f32) -> f32 {
        ln_f32(x)
    }
}

impl Real for f64 {
    #[inline]
    fn dispatch<K: Kernel<f64>>(kernel: K) -> K::Output {
        kernel.run(Portable::<f64, 4>::new())
    }
    #[inline(always)]
    fn of(x: f64) -> f64 {
        x
    }
    #[inline(always)]
    fn exp_lane(x: f64) -> f64 {
        x.exp()
    }
    #[inline(always)]
    fn ln_lane(x: f64) -> f64 {
        x.ln()
    }
}

/// Vectors as plain arrays, for the compiler to vectorise as the target allows.
#[derive(Clone, Copy)]
pub struct Portable<E, const N: usize>(std::marker::PhantomData<E>);

impl<E, const N: usize> Portable<E, N> {
    #[inline(always)]
    const fn new() -> Self {
        Self(std::marker::PhantomData)
    }
}

#[inline(always)]
fn zip<E: Real, const N: usize>(a: [E; N], b: [E; N], f: impl Fn(E, E) -> E) -> [E; N] {
    let mut out = a;
    for i in 0..N {
        out[i] = f(a[i], b[i]);
    }
    out
}

impl<E: Real, const N: usize> Simd for Portable<E, N> {
    type E = E;
    type V = [E; N];
    const LANES: usize = N;

    #[inline(always)]
    fn splat(self, x: E) -> [E; N] {
        [x; N]
    }
    #[inline(always)]
    fn load(self, src: &[E]) -> [E; N] {
        let mut out = [E::of(0.); N];
        out.copy_from_slice(&src[..N]);
        out
    }
    #[inline(always)]
    fn store(self, v: [E; N], dst: &mut [E]) {
        dst[..N].copy_from_slice(&v);
    }
    #[inline(always)]
    fn add(self, a: [E; N], b: [E; N]) -> [E; N] {
        zip(a, b, |x, y| x + y)
    }
    #[inline(always)]
    fn sub(self, a: [E; N], b: [E; N]) -> [E; N] {
        zip(a, b, |x, y| x - y)
    }
    #[inline(always)]
    fn mul(self, a: [E; N], b: [E; N]) -> [E; N] {
        zip(a, b, |x, y| x * y)
    }
    #[inline(always)]
    fn div(self, a: [E; N], b: [E; N]) -> [E; N] {
        zip(a, b, |x, y| x / y)
    }
    #[inline(always)]
    fn fma(self, a: [E; N], b: [E; N], c: [E; N]) -> [E; N] {
        // Not `mul_add`: without the instruction that is a slow library call.
        zip(zip(a, b, |x, y| x * y), c, |x, y| x + y)
    }
    #[inline(always)]
    fn max(self, a: [E; N], b: [E; N]) -> [E; N] {
        zip(a, b, |x, y| if x > y { x } else { y })
    }
    #[inline(always)]
    fn min(self, a: [E; N], b: [E; N]) -> [E; N] {
        zip(a, b, |x, y| if x < y { x } else { y })
    }
    #[inline(always)]
    fn select_gt(self, a: [E; N], b: [E; N], yes: [E; N], no: [E; N]) -> [E; N] {
        let mut out = no;
        for i in 0..N {
            out[i] = if a[i] > b[i] { yes[i] } else { no[i] };
        }
        out
    }
    #[inline(always)]
    fn exp(self, v: [E; N]) -> [E; N] {
        let mut out = v;
        for i in 0..N {
            out[i] = E::exp_lane(v[i]);
        }
        out
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{EXP_MAX, EXP_MIN, EXP_P, Kernel, LN2_HI, LN2_LO, LOG2_E, Simd};
    use std::arch::x86_64::*;

    /// 16 lanes; exists only inside [`run_avx512`].
    #[derive(Clone, Copy)]
    pub(super) struct Avx512(());
    /// 8 lanes; exists only inside [`run_avx2`].
    #[derive(Clone, Copy)]
    pub(super) struct Avx2(());

    /// # Safety
    /// The processor must have AVX-512 F, BW, DQ, VL, AVX2 and FMA.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub(super) unsafe fn run_avx512<K: Kernel<f32>>(kernel: K) -> K::Output {
        kernel.run(Avx512(()))
    }

    /// # Safety
    /// The processor must have AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn run_avx2<K: Kernel<f32>>(kernel: K) -> K::Output {
        kernel.run(Avx2(()))
    }

    // SAFETY, for every intrinsic below: a token is only made inside the `run_*` function that
    // enables its instruction set, so whoever holds one runs on a processor that has them. Loads
    // and stores check the slice's length first.
    macro_rules! simd {
        ($token:ty, $v:ty, $lanes:expr, $splat:ident, $load:ident, $store:ident, $add:ident,
         $sub:ident, $mul:ident, $div:ident, $fma:ident, $max:ident, $min:ident,
         $select:item, $exp:item, $extra:item) => {
            impl Simd for $token {
                type E = f32;
                type V = $v;
                const LANES: usize = $lanes;

                #[inline(always)]
                fn splat(self, x: f32) -> $v {
                    // SAFETY: see the note on the tokens.
                    unsafe { $splat(x) }
                }
                #[inline(always)]
                fn load(self, src: &[f32]) -> $v {
                    assert!(src.len() >= $lanes);
                    // SAFETY: see the note on the tokens; the length was checked.
                    unsafe { $load(src.as_ptr()) }
                }
                #[inline(always)]
                fn store(self, v: $v, dst: &mut [f32]) {
                    assert!(dst.len() >= $lanes);
                    // SAFETY: see the note on the tokens; the length was checked.
                    unsafe { $store(dst.as_mut_ptr(), v) }
                }
                #[inline(always)]
                fn add(self, a: $v, b: $v) -> $v {
                    // SAFETY: see the note on the tokens.
                    unsafe { $add(a, b) }
                }
                #[inline(always)]
                fn sub(self, a: $v, b: $v) -> $v {
                    // SAFETY: see the note on the tokens.
                    unsafe { $sub(a, b) }
                }
                #[inline(always)]
                fn mul(self, a: $v, b: $v) -> $v {
                    // SAFETY: see the note on the tokens.
                    unsafe { $mul(a, b) }
                }
                #[inline(always)]
                fn div(self, a: $v, b: $v) -> $v {
                    // SAFETY: see the note on the tokens.
                    unsafe { $div(a, b) }
                }
                #[inline(always)]
                fn fma(self, a: $v, b: $v, c: $v) -> $v {
                    // SAFETY: see the note on the tokens.
                    unsafe { $fma(a, b, c) }
                }
                #[inline(always)]
                fn max(self, a: $v, b: $v) -> $v {
                    // SAFETY: see the note on the tokens.
                    unsafe { $max(a, b) }
                }
                #[inline(always)]
                fn min(self, a: $v, b: $v) -> $v {
                    // SAFETY: see the note on the tokens.
                    unsafe { $min(a, b) }
                }
                #[inline(always)]
                $select
                #[inline(always)]
                $exp
                #[inline(always)]
                $extra
            }
        };
    }

    simd!(
        Avx512,
        __m512,
        16,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_add_ps,
        _mm512_sub_ps,
        _mm512_mul_ps,
        _mm512_div_ps,
        _mm512_fmadd_ps,
        _mm512_max_ps,
        _mm512_min_ps,
        fn select_gt(self, a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
            // SAFETY: see the note on the tokens.
            unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), no, yes) }
        },
        fn exp(self, v: __m512) -> __m512 {
            // SAFETY: see the note on the tokens.
            unsafe {
                let c = _mm512_min_ps(self.splat(EXP_MAX), _mm512_max_ps(self.splat(EXP_MIN), v));
                let n = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(
                    self.mul(c, self.splat(LOG2_E)),
                );
                let r = _mm512_fnmadd_ps(n, self.splat(LN2_HI), c);
                let r = _mm512_fnmadd_ps(n, self.splat(LN2_LO), r);
                let mut p = self.splat(EXP_P[0]);
                for &k in &EXP_P[1..] {
                    p = self.fma(p, r, self.splat(k));
                }
                let one = self.splat(1.);
                _mm512_scalef_ps(self.fma(p, self.mul(r, r), self.add(r, one)), n)
            }
        },
        fn load_partial(self, src: &[f32]) -> __m512 {
            if src.len() >= 16 {
                return self.load(src);
            }
            let mask = ((1u32 << src.len()) - 1) as u16;
            // SAFETY: see the note on the tokens; masked lanes are not read.
            unsafe { _mm512_maskz_loadu_ps(mask, src.as_ptr()) }
        }
    );

    simd!(
        Avx2,
        __m256,
        8,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_add_ps,
        _mm256_sub_ps,
        _mm256_mul_ps,
        _mm256_div_ps,
        _mm256_fmadd_ps,
        _mm256_max_ps,
        _mm256_min_ps,
        fn select_gt(self, a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 {
            // SAFETY: see the note on the tokens.
            unsafe { _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_GT_OQ>(a, b)) }
        },
        fn exp(self, v: __m256) -> __m256 {
            // SAFETY: see the note on the tokens.
            unsafe {
                let c = _mm256_min_ps(self.splat(EXP_MAX), _mm256_max_ps(self.splat(EXP_MIN), v));
                let n = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(
                    self.mul(c, self.splat(LOG2_E)),
                );
                let r = _mm256_fnmadd_ps(n, self.splat(LN2_HI), c);
                let r = _mm256_fnmadd_ps(n, self.splat(LN2_LO), r);
                let mut p = self.splat(EXP_P[0]);
                for &k in &EXP_P[1..] {
                    p = self.fma(p, r, self.splat(k));
                }
                let p = self.fma(p, self.mul(r, r), self.add(r, self.splat(1.)));
                // Two factors, because 2^n alone leaves the range near its ends.
                let n = _mm256_cvtps_epi32(n);
                let half = _mm256_srai_epi32::<1>(n);
                let pow2 = |k| {
                    let biased = _mm256_add_epi32(k, _mm256_set1_epi32(127));
                    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
                };
                self.mul(self.mul(p, pow2(half)), pow2(_mm256_sub_epi32(n, half)))
            }
        },
        fn sum(self, v: __m256) -> f32 {
            // SAFETY: see the note on the tokens.
            unsafe {
                let s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let s = _mm_add_ps(s, _mm_movehl_ps(s, s));
                _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps::<1>(s, s)))
            }
        }
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Functions<'a>(&'a [f32]);
    impl Kernel<f32> for Functions<'_> {
        /// exp, ln(|x| + tiny), softplus, sigmoid and the sum of each vector's lanes.
        type Output = [Vec<f32>; 5];
        #[inline(always)]
        fn run<S: Simd<E = f32>>(self, s: S) -> Self::Output {
            let mut out: [Vec<f32>; 5] = Default::default();
            for c in self.0.chunks(S::LANES) {
                let v = s.load_partial(c);
                let positive = s.map(v, |x| x.abs() + 1e-30);
                let all = [s.exp(v), s.ln(positive), s.softplus(v), s.sigmoid(v)];
                for (o, v) in out.iter_mut().zip(all) {
                    let at = o.len();
                    o.resize(at + c.len(), 0.);
                    s.store_partial(v, &mut o[at..]);
                }
                out[4].push(s.sum(v));
            }
            out
        }
    }

    fn levels() -> Vec<Level> {
        let all = [Level::Portable, Level::Avx2, Level::Avx512];
        all.into_iter().filter(|&l| l <= Level::detected()).collect()
    }

    /// One test, because the level is one setting for the whole process.
    #[test]
    fn functions_agree_with_f64_at_every_level() {
        let mut xs: Vec<f32> = (-4000..4000).map(|i| i as f32 * 0.021_7).collect();
        xs.extend([0., -0., 19.999_999, 20., 20.000_002, 1e-30, -1e-30, 3e-8, -17.3, 88.7, -87.]);
        for level in levels() {
            set_level(Some(level)).unwrap();
            let [exp, ln, softplus, sigmoid, sums] = dispatch(Functions(&xs));
            for (i, &x) in xs.iter().enumerate() {
                let w = f64::from(x);
                let close = |got: f32, want: f64, rel: f64, what: &str| {
                    let err = (f64::from(got) - want).abs();
                    let floor = f64::from(f32::MIN_POSITIVE);
                    assert!(err <= rel * want.abs() + floor, "{what}({x}) {level:?}: {got} {want}");
                };
                close(exp[i], w.exp(), 2e-7, "exp");
                let p = f64::from(x.abs() + 1e-30);
                // Near x = 1 the relative error of ln is bounded by that of the rounded input.
                let err = (f64::from(ln[i]) - p.ln()).abs();
                assert!(err <= 3e-7 * p.ln().abs() + 1e-8, "ln({p}) {level:?}: {}", ln[i]);
                close(softplus[i], if x > 20. { w } else { w.exp().ln_1p() }, 5e-7, "softplus");
                close(sigmoid[i], 1. / (1. + (-w).exp()), 4e-7, "sigmoid");
            }
            let total: f64 = sums.iter().map(|&s| f64::from(s)).sum();
            let want: f64 = xs.iter().map(|&s| f64::from(s)).sum();
            assert!((total - want).abs() < 1e-2, "{level:?}: {total} {want}");

            let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e30, 200., -200.];
            let [exp, _, softplus, sigmoid, _] = dispatch(Functions(&special));
            assert!(exp[0].is_nan() && softplus[0].is_nan() && sigmoid[0].is_nan(), "{level:?}");
            assert_eq!(exp[1..], [f32::INFINITY, 0., f32::INFINITY, 0., f32::INFINITY, 0.]);
            assert_eq!(softplus[1..], [f32::INFINITY, 0., 1e30, 0., 200., 0.], "{level:?}");
            assert_eq!(sigmoid[1..], [1., 0., 1., 0., 1., 0.], "{level:?}");
        }
        set_level(None).unwrap();
        if Level::detected() < Level::Avx512 {
            assert!(set_level(Some(Level::Avx512)).is_err());
        }
        assert!("neon".parse::<Level>().is_err());
    }
}
