use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};
use num_traits::Float;

use crate::shared::{
    add_partials, check_dims, check_types, fill_parts, in_parts, rows_of, rows_per_partial,
    shape_error,
};
use crate::simd::{Kernel, Real, Simd, dispatch};
use crate::{Result, cpu};

const OP: &str = "layer_norm";

/// Layer norm on the last axis: `(x − mean)/√(variance + eps) · weight + bias`, the variance being
/// the mean of the squared deviations (no Bessel correction).
///
/// # Shapes
/// - `x`: …×C
/// - `weight`, `bias`: C
/// - returns …×C
///
/// # Errors
/// If a shape does not fit, C is 0, or the element types differ or are not `F32` or `F64`.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    check_types(OP, x, &[("weight", weight), ("bias", bias)])?;
    let (rows, c) = rows_of(OP, x)?;
    check_dims(OP, "weight", weight, &[c])?;
    check_dims(OP, "bias", bias, &[c])?;
    if c == 0 {
        return Err(shape_error(OP, "x", x.dims(), "at least one value in the last axis"));
    }
    if rows == 0 {
        return Ok(x.zeros_like()?);
    }
    let (weight, bias) = (weight.contiguous()?, bias.contiguous()?);
    Ok(x.contiguous()?.apply_op3(&weight, &bias, LayerNorm { eps })?)
}

struct LayerNorm {
    eps: f64,
}

/// Values that one task normalises, about: a few tens of microseconds' work.
const TASK: usize = 16_384;

impl LayerNorm {
    fn storage<E: Real>(
        &self,
        x: (&CpuStorage, &Layout),
        weight: (&CpuStorage, &Layout),
        bias: (&CpuStorage, &Layout),
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let src = cpu::slice::<E>(x.0, x.1)?;
        let weight = cpu::slice::<E>(weight.0, weight.1)?;
        let bias = cpu::slice::<E>(bias.0, bias.1)?;
        let size = TASK.div_ceil(weight.len()) * weight.len();
        let out = fill_parts(src.len(), size, |start, out, _| {
            let x = &src[start..][..out.len()];
            dispatch(NormRows { x: Some(x), weight, bias, eps: E::of(self.eps), out });
        });
        Ok((E::to_cpu_storage_owned(out), x.1.shape().clone()))
    }
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        for_float!(OP, x, E => self.storage::<E>((x, lx), (w, lw), (b, lb)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        lx: &Layout,
        y: &candle_core::CudaStorage,
        ly: &Layout,
        z: &candle_core::CudaStorage,
        lz: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        crate::cuda::layer_norm(self.eps, [(x, lx), (y, ly), (z, lz)])
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let all = x.apply_op3_no_bwd(w, &grad.contiguous()?, &Gradient { eps: self.eps })?;
        let (n, c) = (x.elem_count(), w.elem_count());
        let dx = all.narrow(0, 0, n)?.reshape(x.shape())?;
        let dw = all.narrow(0, n, c)?;
        let db = all.narrow(0, n + c, c)?.reshape(b.shape())?;
        Ok((Some(dx), Some(dw), Some(db)))
    }
}

/// Walks over a row vector by vector; the last may be short.
macro_rules! vectors {
    ($s:ident, $S:ty, $c:expr, |$at:ident, $lanes:ident| $body:expr) => {{
        let mut $at = 0;
        while $at + <$S>::LANES <= $c {
            let $lanes = <$S>::LANES;
            $body;
            $at += <$S>::LANES;
        }
        if $at < $c {
            let $lanes = $c - $at;
            $body;
        }
    }};
}

/// The mean of a row and 1/√(variance + eps).
#[inline(always)]
fn statistics<S: Simd>(s: S, x: &[S::E], eps: S::E) -> (S::E, S::E) {
    let n = S::E::of(x.len() as f64);
    let mut sum = s.splat(S::E::of(0.));
    vectors!(s, S, x.len(), |i, lanes| sum = s.add(sum, s.load_partial(&x[i..][..lanes])));
    let mean = s.sum(sum) / n;
    let mut squares = s.splat(S::E::of(0.));
    vectors!(s, S, x.len(), |i, lanes| {
        let d = s.sub(s.load_partial(&x[i..][..lanes]), s.splat(mean));
        let d = s.keep(d, lanes);
        squares = s.fma(d, d, squares);
    });
    let variance = s.sum(squares) / n;
    (mean, (variance + eps).sqrt().recip())
}

/// Normalises rows; where `x` is not given, those of `out` itself.
pub(crate) struct NormRows<'a, E> {
    pub(crate) x: Option<&'a [E]>,
    pub(crate) weight: &'a [E],
    pub(crate) bias: &'a [E],
    pub(crate) eps: E,
    pub(crate) out: &'a mut [E],
}

impl<E: Real> Kernel<E> for NormRows<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { x, weight, bias, eps, out } = self;
        let c = weight.len();
        for (r, out) in out.chunks_exact_mut(c).enumerate() {
            let (mean, scale) = statistics(s, x.map_or(&*out, |x| &x[r * c..][..c]), eps);
            let (mean, scale) = (s.splat(mean), s.splat(scale));
            vectors!(s, S, c, |i, lanes| {
                let x = x.map_or(&*out, |x| &x[r * c..][..c]);
                let normal = s.mul(s.sub(s.load_partial(&x[i..][..lanes]), mean), scale);
                let w = s.load_partial(&weight[i..][..lanes]);
                let y = s.fma(normal, w, s.load_partial(&bias[i..][..lanes]));
                s.store_partial(y, &mut out[i..][..lanes]);
            });
        }
    }
}

/// The gradients of x, weight and bias, one after the other, from x, the weight and the result's
/// gradient: one pass over the rows gives all three.
struct Gradient {
    eps: f64,
}

impl Gradient {
    fn storage<E: Real>(
        &self,
        x: (&CpuStorage, &Layout),
        weight: (&CpuStorage, &Layout),
        grad: (&CpuStorage, &Layout),
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = cpu::slice::<E>(x.0, x.1)?;
        let weight = cpu::slice::<E>(weight.0, weight.1)?;
        let grad = cpu::slice::<E>(grad.0, grad.1)?;
        let c = weight.len();
        let rows = x.len() / c;
        let size = rows_per_partial(rows, 2 * c) * c;
        let (mut out, partials) = in_parts(x.len(), size, 2 * c, |start, [dx], _| {
            let mut sums = vec![E::of(0.); 2 * c];
            let (dw, db) = sums.split_at_mut(c);
            let (x, grad) = (&x[start..][..dx.len()], &grad[start..][..dx.len()]);
            dispatch(Backward { x, weight, grad, eps: E::of(self.eps), dx, dw, db });
            sums
        });
        let mut partials = partials.concat();
        add_partials(&mut partials, 2 * c);
        out.extend_from_slice(&partials);
        let shape = Shape::from(out.len());
        Ok((E::to_cpu_storage_owned(out), shape))
    }
}

impl CustomOp3 for Gradient {
    fn name(&self) -> &'static str {
        "layer_norm gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        g: &CpuStorage,
        lg: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        for_float!(OP, x, E => self.storage::<E>((x, lx), (w, lw), (g, lg)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        lx: &Layout,
        y: &candle_core::CudaStorage,
        ly: &Layout,
        z: &candle_core::CudaStorage,
        lz: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        crate::cuda::layer_norm_gradient(self.eps, [(x, lx), (y, ly), (z, lz)])
    }
}

struct Backward<'a, E> {
    x: &'a [E],
    weight: &'a [E],
    grad: &'a [E],
    eps: E,
    dx: &'a mut [E],
    dw: &'a mut [E],
    db: &'a mut [E],
}

impl<E: Real> Kernel<E> for Backward<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let c = self.weight.len();
        let n = E::of(c as f64);
        let zero = s.splat(E::of(0.));
        let rows = self.x.chunks_exact(c).zip(self.grad.chunks_exact(c));
        for ((x, grad), dx) in rows.zip(self.dx.chunks_exact_mut(c)) {
            let (mean, scale) = statistics(s, x, self.eps);
            let (mean, scale) = (s.splat(mean), s.splat(scale));
            // With g = grad·weight and h the normalised row: dx = scale·(g − mean(g) − h·mean(g·h)).
            let (mut sum_g, mut sum_gh) = (zero, zero);
            vectors!(s, S, c, |i, lanes| {
                let h = s.mul(s.sub(s.load_partial(&x[i..][..lanes]), mean), scale);
                let dy = s.load_partial(&grad[i..][..lanes]);
                let g = s.mul(dy, s.load_partial(&self.weight[i..][..lanes]));
                sum_g = s.add(sum_g, g);
                sum_gh = s.fma(g, s.keep(h, lanes), sum_gh);
                let (dw, db) = (&mut self.dw[i..][..lanes], &mut self.db[i..][..lanes]);
                s.store_partial(s.fma(dy, h, s.load_partial(dw)), dw);
                s.store_partial(s.add(dy, s.load_partial(db)), db);
            });
            let (mean_g, mean_gh) = (s.splat(s.sum(sum_g) / n), s.splat(s.sum(sum_gh) / n));
            vectors!(s, S, c, |i, lanes| {
                let h = s.mul(s.sub(s.load_partial(&x[i..][..lanes]), mean), scale);
                let dy = s.load_partial(&grad[i..][..lanes]);
                let g = s.mul(dy, s.load_partial(&self.weight[i..][..lanes]));
                let d = s.sub(s.sub(g, mean_g), s.mul(h, mean_gh));
                s.store_partial(s.mul(d, scale), &mut dx[i..][..lanes]);
            });
        }
    }
}
