//! Vector arithmetic that the compiler is trusted with: plain loops over eight lanes, compiled once
//! for each instruction set and chosen at run time.
//!
//! No operation is fused or reordered between the instruction sets, so every one of them gives the
//! same bits.

use std::ops::{Add, AddAssign, Div, Mul, Sub};

/// Lanes of a vector: one AVX-512 register of `f64`.
pub(crate) const LANES: usize = 8;

/// A computation worth wide vectors. `run` and all it calls must be `#[inline(always)]`, or they
/// are compiled without the wider instructions.
pub(crate) trait Kernel {
    type Output;
    fn run(self) -> Self::Output;
}

/// Instruction sets, narrowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(dead_code)] // Only tests choose, and only where there is a choice.
pub(crate) enum Level {
    Portable,
    Avx2,
    Avx512,
}

/// Runs a kernel with the widest instructions that the processor has.
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    {
        let allowed = allowed();
        #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
        fn avx512<K: Kernel>(kernel: K) -> K::Output {
            kernel.run()
        }
        #[target_feature(enable = "avx2")]
        fn avx2<K: Kernel>(kernel: K) -> K::Output {
            kernel.run()
        }
        use std::arch::is_x86_feature_detected as has;
        if allowed >= Level::Avx512
            && has!("avx512f")
            && has!("avx512vl")
            && has!("avx512dq")
            && has!("avx512bw")
        {
            // SAFETY: the features were just detected.
            return unsafe { avx512(kernel) };
        }
        if allowed >= Level::Avx2 && has!("avx2") {
            // SAFETY: the feature was just detected.
            return unsafe { avx2(kernel) };
        }
    }
    kernel.run()
}

#[cfg(not(test))]
#[cfg(target_arch = "x86_64")]
fn allowed() -> Level {
    Level::Avx512
}

#[cfg(test)]
thread_local! {
    /// What tests allow on this thread.
    pub(crate) static ALLOWED: std::cell::Cell<Level> = const { std::cell::Cell::new(Level::Avx512) };
}

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
fn allowed() -> Level {
    ALLOWED.get()
}

/// The sum of a slice, always in the same order.
#[inline(always)]
pub(crate) fn sum(x: &[f64]) -> f64 {
    let mut sums = V::splat(0.);
    let chunks = x.chunks_exact(LANES);
    let rest: f64 = chunks.remainder().iter().sum();
    for chunk in chunks {
        sums += V::load(chunk, 0);
    }
    sums.sum() + rest
}

/// Eight numbers.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(crate) struct V(pub(crate) [f64; LANES]);

impl V {
    #[inline(always)]
    pub(crate) fn splat(x: f64) -> Self {
        V([x; LANES])
    }

    /// Eight numbers of a slice, from `at` on.
    #[inline(always)]
    pub(crate) fn load(from: &[f64], at: usize) -> Self {
        let mut v = [0.; LANES];
        v.copy_from_slice(&from[at..at + LANES]);
        V(v)
    }

    #[inline(always)]
    pub(crate) fn store(self, to: &mut [f64], at: usize) {
        to[at..at + LANES].copy_from_slice(&self.0);
    }

    /// The first `n` lanes; `other` in the rest.
    #[inline(always)]
    pub(crate) fn first(self, n: usize, other: f64) -> Self {
        let mut out = self.0;
        for (k, o) in out.iter_mut().enumerate() {
            *o = if k < n { *o } else { other };
        }
        V(out)
    }

    /// The lanes' sum, in a fixed order.
    #[inline(always)]
    pub(crate) fn sum(self) -> f64 {
        let [a, b, c, d, e, f, g, h] = self.0;
        ((a + b) + (c + d)) + ((e + f) + (g + h))
    }

    #[inline(always)]
    pub(crate) fn map(self, f: impl Fn(f64) -> f64) -> Self {
        let mut out = self.0;
        for o in &mut out {
            *o = f(*o);
        }
        V(out)
    }

    #[inline(always)]
    pub(crate) fn zip(self, other: Self, f: impl Fn(f64, f64) -> f64) -> Self {
        let mut out = self.0;
        for (o, b) in out.iter_mut().zip(other.0) {
            *o = f(*o, b);
        }
        V(out)
    }

    /// Lane by lane `yes` where `self < bound`, `no` elsewhere.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // Four arrays in step are plainer by index.
    pub(crate) fn select_less(self, bound: Self, yes: Self, no: Self) -> Self {
        let mut out = no.0;
        for k in 0..LANES {
            out[k] = if self.0[k] < bound.0[k] { yes.0[k] } else { no.0[k] };
        }
        V(out)
    }

    #[inline(always)]
    pub(crate) fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    pub(crate) fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    pub(crate) fn abs(self) -> Self {
        self.map(f64::abs)
    }

    #[inline(always)]
    pub(crate) fn sqrt(self) -> Self {
        self.map(f64::sqrt)
    }
}

macro_rules! operator {
    ($($name:ident $method:ident $symbol:tt),*) => {$(
        impl $name for V {
            type Output = V;
            #[inline(always)]
            fn $method(self, other: V) -> V {
                let mut out = self.0;
                for k in 0..LANES {
                    out[k] = self.0[k] $symbol other.0[k];
                }
                V(out)
            }
        }
        impl $name<f64> for V {
            type Output = V;
            #[inline(always)]
            fn $method(self, other: f64) -> V {
                self $symbol V::splat(other)
            }
        }
    )*};
}
operator!(Add add +, Sub sub -, Mul mul *, Div div /);

impl AddAssign for V {
    #[inline(always)]
    fn add_assign(&mut self, other: V) {
        *self = *self + other;
    }
}
