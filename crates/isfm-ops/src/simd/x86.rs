use std::arch::x86_64::*;

use super::math::{
    EXP_MAX, EXP_MIN, EXP_P, LN2_HI, LN2_LO, LOG2_E, LOG2_E_LO, side_by_side, sum_each,
};
use super::{Kernel, Simd, sealed};

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
    ($token:ty, $v:ty, $quarter:ty, $lanes:expr, $fast_exp2:expr, $load:ident, $store:ident,
     [$($op:ident($($arg:ident: $from:ty),*) = $intrinsic:ident,)*] $($own:item)*) => {
        impl sealed::Sealed for $token {}

        impl Simd for $token {
            type E = f32;
            type V = $v;
            type Quarter = $quarter;
            const LANES: usize = $lanes;
            const FAST_EXP2: bool = $fast_exp2;

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
            $(
                #[inline(always)]
                fn $op(self, $($arg: $from),*) -> $v {
                    // SAFETY: see the note on the tokens.
                    unsafe { $intrinsic($($arg),*) }
                }
            )*
            $(
                #[inline(always)]
                $own
            )*
        }
    };
}

simd! {
    Avx512,
    __m512,
    __m512,
    16,
    true,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    [
        splat(x: f32) = _mm512_set1_ps,
        add(a: __m512, b: __m512) = _mm512_add_ps,
        sub(a: __m512, b: __m512) = _mm512_sub_ps,
        mul(a: __m512, b: __m512) = _mm512_mul_ps,
        div(a: __m512, b: __m512) = _mm512_div_ps,
        max(a: __m512, b: __m512) = _mm512_max_ps,
        min(a: __m512, b: __m512) = _mm512_min_ps,
        fma(a: __m512, b: __m512, c: __m512) = _mm512_fmadd_ps,
    ]
    fn select_gt(self, a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
        // SAFETY: see the note on the tokens.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), no, yes) }
    }
    fn exp(self, v: __m512) -> __m512 {
        // SAFETY: see the note on the tokens.
        unsafe {
            let c = _mm512_min_ps(self.splat(EXP_MAX), _mm512_max_ps(self.splat(EXP_MIN), v));
            let n = self.round(self.mul(c, self.splat(LOG2_E)));
            let r = _mm512_fnmadd_ps(n, self.splat(LN2_HI), c);
            let r = _mm512_fnmadd_ps(n, self.splat(LN2_LO), r);
            let mut p = self.splat(EXP_P[0]);
            for &k in &EXP_P[1..] {
                p = self.fma(p, r, self.splat(k));
            }
            let one = self.splat(1.);
            _mm512_scalef_ps(self.fma(p, self.mul(r, r), self.add(r, one)), n)
        }
    }
    fn exp2(self, v: __m512) -> __m512 {
        let n = self.round(v);
        self.power(n, self.sub(v, n))
    }
    // With no rounding between x and the power of two.
    fn exp_finite(self, x: __m512) -> __m512 {
        // Below -200 the result is 0 as well, and −∞ − n would be NaN.
        let x = self.max(self.splat(-200.), x);
        let log2e = self.splat(LOG2_E);
        let n = self.round(self.mul(x, log2e));
        // SAFETY: see the note on the tokens.
        let rest = unsafe { _mm512_fmsub_ps(x, log2e, n) };
        // What log₂e lacks in f32 would cost a digit at x = -70.
        self.power(n, self.fma(x, self.splat(LOG2_E_LO), rest))
    }
    // In the order of the default.
    fn sum(self, v: __m512) -> f32 {
        // SAFETY: see the note on the tokens.
        unsafe {
            let upper = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v));
            let s = _mm256_add_ps(_mm512_castps512_ps256(v), _mm256_castpd_ps(upper));
            let s = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps::<1>(s));
            let s = _mm_add_ps(s, _mm_movehl_ps(s, s));
            _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps::<1>(s, s)))
        }
    }
    // Lane 4j + i holds quarter j's share of row i.
    fn quarter(self, rows: [__m512; 4], _: usize) -> __m512 {
        let [a, b, c, d] = rows;
        // SAFETY: see the note on the tokens.
        unsafe {
            let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            _mm512_add_ps(
                _mm512_shuffle_ps::<0b01_00_01_00>(ab, cd),
                _mm512_shuffle_ps::<0b11_10_11_10>(ab, cd),
            )
        }
    }
    fn sum_quarters(self, quarters: [__m512; 4]) -> [f32; 16] {
        let [a, b, c, d] = quarters;
        // SAFETY: see the note on the tokens.
        let sums = unsafe {
            let ab = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b),
                _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b),
            );
            let cd = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b10_00_10_00>(c, d),
                _mm512_shuffle_f32x4::<0b11_01_11_01>(c, d),
            );
            _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd),
                _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd),
            )
        };
        let mut out = [0.; 16];
        self.store(sums, &mut out);
        out
    }
    fn load_partial(self, src: &[f32]) -> __m512 {
        if src.len() >= 16 {
            return self.load(src);
        }
        let mask = ((1u32 << src.len()) - 1) as u16;
        // SAFETY: see the note on the tokens; masked lanes are not read.
        unsafe { _mm512_maskz_loadu_ps(mask, src.as_ptr()) }
    }
}

// 2^r = 1 + r ln 2 + r² P(r) on [-1/2, 1/2], relative error 1.1e-7. The first two terms are exact,
// so that decays near 1 (which act over thousands of steps) are as good as f32 has them.
const EXP2_P: [f32; 4] = [1.330_026_3e-3, 9.669_708e-3, 5.550_56e-2, 0.240_222_82];

impl Avx512 {
    #[inline(always)]
    fn round(self, v: __m512) -> __m512 {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        // SAFETY: see the note on the tokens.
        unsafe { _mm512_roundscale_ps::<NEAREST>(v) }
    }

    /// 2^(n + r) for a whole n and r in [-1/2, 1/2].
    #[inline(always)]
    fn power(self, n: __m512, r: __m512) -> __m512 {
        let mut p = self.splat(EXP2_P[0]);
        for &k in &EXP2_P[1..] {
            p = self.fma(p, r, self.splat(k));
        }
        p = self.fma(p, r, self.splat(std::f32::consts::LN_2));
        p = self.fma(p, r, self.splat(1.));
        // SAFETY: see the note on the tokens.
        unsafe { _mm512_scalef_ps(p, n) }
    }
}

simd! {
    Avx2,
    __m256,
    [f32; 4],
    8,
    false,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    [
        splat(x: f32) = _mm256_set1_ps,
        add(a: __m256, b: __m256) = _mm256_add_ps,
        sub(a: __m256, b: __m256) = _mm256_sub_ps,
        mul(a: __m256, b: __m256) = _mm256_mul_ps,
        div(a: __m256, b: __m256) = _mm256_div_ps,
        max(a: __m256, b: __m256) = _mm256_max_ps,
        min(a: __m256, b: __m256) = _mm256_min_ps,
        fma(a: __m256, b: __m256, c: __m256) = _mm256_fmadd_ps,
    ]
    fn select_gt(self, a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 {
        // SAFETY: see the note on the tokens.
        unsafe { _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_GT_OQ>(a, b)) }
    }
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
    }
    fn sum(self, v: __m256) -> f32 {
        // SAFETY: see the note on the tokens.
        unsafe {
            let s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let s = _mm_add_ps(s, _mm_movehl_ps(s, s));
            _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps::<1>(s, s)))
        }
    }
    fn quarter(self, rows: [__m256; 4], n: usize) -> [f32; 4] {
        sum_each(self, rows, n)
    }
    fn sum_quarters(self, quarters: [[f32; 4]; 4]) -> [f32; 16] {
        side_by_side(quarters)
    }
}
