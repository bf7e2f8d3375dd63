use super::math::{fused, side_by_side, sum_each};
use super::{Real, Simd, sealed};

/// Vectors as plain arrays, for the compiler to vectorise as the target allows.
#[derive(Clone, Copy)]
pub struct Portable<E, const N: usize>(std::marker::PhantomData<E>);

impl<E, const N: usize> Portable<E, N> {
    #[inline(always)]
    pub(super) const fn new() -> Self {
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

impl<E, const N: usize> sealed::Sealed for Portable<E, N> {}

impl<E: Real, const N: usize> Simd for Portable<E, N> {
    type E = E;
    type V = [E; N];
    type Quarter = [E; 4];
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
        let mut out = c;
        for i in 0..N {
            out[i] = fused(a[i], b[i], c[i]);
        }
        out
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
    #[inline(always)]
    fn quarter(self, rows: [[E; N]; 4], n: usize) -> [E; 4] {
        sum_each(self, rows, n)
    }
    #[inline(always)]
    fn sum_quarters(self, quarters: [[E; 4]; 4]) -> [E; 16] {
        side_by_side(quarters)
    }
}
