//! What this machine can do at most, measured in the same run as what is compared with it.

use std::hint::black_box;
use std::time::Instant;

use isfm_ops::simd::{Kernel, Simd, dispatch};
use rayon::prelude::*;

/// The three ceilings, for all threads of rayon's current pool together.
#[derive(Clone, Copy, Debug)]
pub struct Roofline {
    /// Exponentials a second: 2ˣ of numbers in the first-level cache, by the fewest instructions
    /// that give f32 accuracy (round, five multiply-adds, scale).
    pub exponentials: f64,
    /// Floating-point operations a second, a multiply-add being two: independent multiply-adds on
    /// registers.
    pub flops: f64,
    /// Bytes a second, read and written, of a copy far larger than the caches.
    pub bandwidth: f64,
}

impl Roofline {
    /// Measures for about a second; the best of several runs each.
    pub fn measure() -> Self {
        let threads = rayon::current_num_threads();
        const ROUNDS: usize = 4000;
        let numbers: Vec<f32> = (0..4096).map(|i| -(i as f32) / 400.).collect();
        let exponentials = best(|| {
            (0..threads).into_par_iter().for_each(|_| {
                for _ in 0..ROUNDS {
                    black_box(dispatch(Exponentials(black_box(&numbers))));
                }
            });
            (threads * ROUNDS * numbers.len()) as f64
        });
        let flops = best(|| {
            let done: f64 = (0..threads).into_par_iter().map(|_| dispatch(MultiplyAdds)).sum();
            black_box(done)
        });
        let n = 32 << 20;
        let from = vec![1f32; n];
        let mut to = vec![0f32; n];
        let bandwidth = best(|| {
            let chunk = n.div_ceil(4 * threads);
            let parts = to.par_chunks_mut(chunk).zip(from.par_chunks(chunk));
            parts.for_each(|(to, from)| to.copy_from_slice(from));
            black_box(&mut to);
            2. * (n * size_of::<f32>()) as f64
        });
        Self { exponentials, flops, bandwidth }
    }
}

/// The highest rate of what `work` says it has done.
fn best(mut work: impl FnMut() -> f64) -> f64 {
    let rate = |_| {
        let start = Instant::now();
        let done = work();
        done / start.elapsed().as_secs_f64()
    };
    (0..8).map(rate).fold(0., f64::max)
}

struct Exponentials<'a>(&'a [f32]);

impl Kernel<f32> for Exponentials<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd<E = f32>>(self, s: S) -> f32 {
        let mut sums = [s.splat(0.); 4];
        for block in self.0.chunks_exact(4 * S::LANES) {
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = s.add(*sum, exp2(s, s.load(&block[i * S::LANES..])));
            }
        }
        s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
    }
}

/// 2ˣ, as the scan computes it where it has AVX-512; elsewhere the library's eˣ.
#[inline(always)]
fn exp2<S: Simd<E = f32>>(s: S, x: S::V) -> S::V {
    #[cfg(target_arch = "x86_64")]
    if S::LANES == 16 && size_of::<S::V>() == 64 && align_of::<S::V>() == 64 {
        use std::arch::x86_64::*;
        use std::mem::transmute_copy;
        // SAFETY: only the AVX-512 token has such vectors, and it exists only where the processor
        // has the instructions.
        return unsafe {
            const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
            let v: __m512 = transmute_copy(&x);
            let n = _mm512_roundscale_ps::<NEAREST>(v);
            let r = _mm512_sub_ps(v, n);
            let mut p = _mm512_set1_ps(1.330_026_3e-3);
            for k in [9.669_708e-3, 5.550_56e-2, 0.240_222_82, std::f32::consts::LN_2, 1.] {
                p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(k));
            }
            transmute_copy(&_mm512_scalef_ps(p, n))
        };
    }
    s.exp(x)
}

struct MultiplyAdds;

impl Kernel<f32> for MultiplyAdds {
    /// Floating-point operations done.
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd<E = f32>>(self, s: S) -> f64 {
        const ROUNDS: usize = 4_000_000;
        const SUMS: usize = 12;
        let (a, b) = (s.splat(black_box(0.999)), s.splat(black_box(1e-3)));
        // Names instead of an array: LLVM keeps an array of vectors in memory here.
        macro_rules! sums {
            ($($x:ident)*) => {{
                $(let mut $x = s.splat(black_box(1.));)*
                for _ in 0..ROUNDS {
                    $($x = s.fma($x, a, b);)*
                }
                let mut sum = s.splat(0.);
                $(sum = s.add(sum, $x);)*
                black_box(s.sum(sum));
            }};
        }
        sums!(x0 x1 x2 x3 x4 x5 x6 x7 x8 x9 x10 x11);
        (ROUNDS * SUMS * S::LANES * 2) as f64
    }
}
