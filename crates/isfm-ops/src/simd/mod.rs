//! One body per kernel, compiled once for each instruction set and chosen at run time.
//!
//! A kernel is written once, generic over a [`Simd`] token that says how wide a vector is and how
//! to compute with it. [`dispatch`] runs it with the widest token the processor has. No compiler
//! flags are needed, and the portable token (which the compiler vectorises for NEON, SSE2 or
//! WebAssembly by itself, on 64-bit Arm with fused multiply-adds) is both the fallback and the oracle
//! that the others are tested against. `f64` always takes the portable path: it is there for oracles
//! and finite differences, not for speed.
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

mod math;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use candle_core::WithDType;
use num_traits::Float;

pub use portable::Portable;

mod sealed {
    /// Only this crate's tokens and element types take part in a dispatch: whoever holds a token
    /// runs on a processor that has its instructions.
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// An element type the kernels compute in: `f32` (SIMD) or `f64` (portable). Sealed:
///
/// ```compile_fail,E0277
/// struct Half(u16);
/// impl isfm_ops::simd::Real for Half {}
/// ```
pub trait Real:
    sealed::Sealed
    + WithDType
    + Float
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
    /// What the compiler makes of plain code for the target (SSE2, NEON with fused multiply-adds, …).
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

/// A level that is none, or that this processor lacks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LevelError {
    /// A name that no level has.
    #[error("unknown SIMD level {0:?}: portable, avx2 or avx512")]
    Unknown(String),
    /// A level beyond the processor.
    #[error("SIMD level {asked:?} is not available: this processor has {detected:?}")]
    Unavailable {
        /// The level asked for.
        asked: Level,
        /// The widest the processor has.
        detected: Level,
    },
}

impl std::str::FromStr for Level {
    type Err = LevelError;

    fn from_str(s: &str) -> Result<Self, LevelError> {
        match s {
            "portable" => Ok(Self::Portable),
            "avx2" => Ok(Self::Avx2),
            "avx512" => Ok(Self::Avx512),
            _ => Err(LevelError::Unknown(s.to_string())),
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
/// [`LevelError::Unavailable`] if the processor lacks it.
pub fn set_level(level: Option<Level>) -> Result<(), LevelError> {
    let detected = Level::detected();
    match level {
        Some(asked) if asked > detected => Err(LevelError::Unavailable { asked, detected }),
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
/// bug in a kernel, never a caller's input. Sealed: a token is proof of its instruction set.
///
/// ```compile_fail,E0277
/// #[derive(Clone, Copy)]
/// struct Token;
/// impl isfm_ops::simd::Simd for Token {}
/// ```
///
/// Nor can one be made by hand:
///
/// ```compile_fail
/// let token = isfm_ops::simd::Portable::<f32, 8>::new();
/// ```
pub trait Simd: sealed::Sealed + Copy + Send + Sync {
    /// The element type.
    type E: Real;
    /// A vector of `LANES` elements.
    type V: Copy;
    /// What [`quarter`](Self::quarter) keeps of four vectors.
    type Quarter: Copy;
    /// Elements in a vector.
    const LANES: usize;
    /// Whether [`exp2`](Self::exp2) takes fewer instructions than [`exp`](Self::exp).
    const FAST_EXP2: bool = false;

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
    /// Four vectors on the way to the sums of their lanes. The first `n` of them count, the others
    /// are zero.
    fn quarter(self, rows: [Self::V; 4], n: usize) -> Self::Quarter;
    /// The sums of the lanes of four times four vectors, each in a fixed order of the lanes. With
    /// AVX-512 this takes a third of the instructions of sixteen [`sum`](Self::sum)s.
    fn sum_quarters(self, quarters: [Self::Quarter; 4]) -> [Self::E; 16];

    /// 2ˣ for finite x: eˣ of x ln 2, or with [`FAST_EXP2`](Self::FAST_EXP2) to 2e-7.
    #[inline(always)]
    fn exp2(self, v: Self::V) -> Self::V {
        self.exp(self.mul(v, self.splat(Self::E::of(std::f64::consts::LN_2))))
    }
    /// eˣ for any x but +∞.
    #[inline(always)]
    fn exp_finite(self, x: Self::V) -> Self::V {
        self.exp(x)
    }
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
        if size_of::<Self::E>() == size_of::<f32>() {
            return math::softplus_f32(self, v);
        }
        self.map(v, |x| if x > Self::E::of(20.) { x } else { x.exp().ln_1p() })
    }
}

/// The most lanes any token has.
pub const MAX_LANES: usize = 16;

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
        math::exp_f32(x)
    }
    #[inline(always)]
    fn ln_lane(x: f32) -> f32 {
        math::ln_f32(x)
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
