use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Shape, Tensor};
use num_traits::Float;

use crate::shared::{
    add_partials, check_dims, check_types, fill_parts, in_parts, rows_of, rows_per_partial,
    shape_error,
};
use crate::simd::{Kernel, Real, Simd, dispatch};
use crate::{Result, cpu};

const OP: &str = "rms_norm";

/// Root-mean-square norm on the last axis (Zhang and Sennrich, 2019):
/// `x / √(mean(x²) + eps) · weight`. Candle's own cuts the graph where the input is contiguous.
///
/// # Shapes
/// - `x`: …×C
/// - `weight`: C
/// - returns …×C
///
/// # Errors
/// If a shape does not fit, C is 0, or the element types differ or are not `F32` or `F64`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    check_types(OP, x, &[("weight", weight)])?;
    let (rows, c) = rows_of(OP, x)?;
    check_dims(OP, "weight", weight, &[c])?;
    if c == 0 {
        return Err(shape_error(OP, "x", x.dims(), "at least one value in the last axis"));
    }
    if rows == 0 {
        return Ok(x.zeros_like()?);
    }
    Ok(x.contiguous()?.apply_op2(&weight.contiguous()?, RmsNorm { eps })?)
}

struct RmsNorm {
    eps: f64,
}

/// Values that one task normalises, about: a few tens of microseconds' work.
const TASK: usize = 16_384;

impl RmsNorm {
    fn storage<E: Real>(
        &self,
        x: (&CpuStorage, &Layout),
        weight: (&CpuStorage, &Layout),
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let src = cpu::slice::<E>(x.0, x.1)?;
        let weight = cpu::slice::<E>(weight.0, weight.1)?;
        let size = TASK.div_ceil(weight.len()) * weight.len();
        let out = fill_parts(src.len(), size, |start, out, _| {
            let x = &src[start..][..out.len()];
            dispatch(Forward { x, weight, eps: E::of(self.eps), out });
        });
        Ok((E::to_cpu_storage_owned(out), x.1.shape().clone()))
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        for_float!(OP, x, E => self.storage::<E>((x, lx), (w, lw)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let all = x.apply_op3_no_bwd(w, &grad.contiguous()?, &Gradient { eps: self.eps })?;
        let (n, c) = (x.elem_count(), w.elem_count());
        Ok((Some(all.narrow(0, 0, n)?.reshape(x.shape())?), Some(all.narrow(0, n, c)?)))
    }
}

/// 1/√(mean(x²) + eps) of a row.
#[inline(always)]
fn scale_of<S: Simd>(s: S, x: &[S::E], eps: S::E) -> S::E {
    let mut squares = s.splat(S::E::of(0.));
    for x in x.chunks(S::LANES) {
        let x = s.load_partial(x);
        squares = s.fma(x, x, squares);
    }
    (s.sum(squares) / S::E::of(x.len() as f64) + eps).sqrt().recip()
}

struct Forward<'a, E> {
    x: &'a [E],
    weight: &'a [E],
    eps: E,
    out: &'a mut [E],
}

impl<E: Real> Kernel<E> for Forward<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let c = self.weight.len();
        for (x, out) in self.x.chunks_exact(c).zip(self.out.chunks_exact_mut(c)) {
            let scale = s.splat(scale_of(s, x, self.eps));
            let parts = x.chunks(S::LANES).zip(self.weight.chunks(S::LANES));
            for ((x, w), out) in parts.zip(out.chunks_mut(S::LANES)) {
                let normal = s.mul(s.load_partial(x), scale);
                s.store_partial(s.mul(normal, s.load_partial(w)), out);
            }
        }
    }
}

/// The gradients of x and weight, one after the other, from x, the weight and the result's
/// gradient.
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
        let size = rows_per_partial(x.len() / c, c) * c;
        let (mut out, partials) = in_parts(x.len(), size, c, |start, [dx], _| {
            let mut dw = vec![E::of(0.); c];
            let (x, grad) = (&x[start..][..dx.len()], &grad[start..][..dx.len()]);
            dispatch(Backward { x, weight, grad, eps: E::of(self.eps), dx, dw: &mut dw });
            dw
        });
        let mut partials = partials.concat();
        add_partials(&mut partials, c);
        out.extend_from_slice(&partials);
        let shape = Shape::from(out.len());
        Ok((E::to_cpu_storage_owned(out), shape))
    }
}

impl CustomOp3 for Gradient {
    fn name(&self) -> &'static str {
        "rms_norm gradient"
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
}

struct Backward<'a, E> {
    x: &'a [E],
    weight: &'a [E],
    grad: &'a [E],
    eps: E,
    dx: &'a mut [E],
    dw: &'a mut [E],
}

impl<E: Real> Kernel<E> for Backward<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { x, weight, grad, eps, dx, dw } = self;
        let c = weight.len();
        let rows = x.chunks_exact(c).zip(grad.chunks_exact(c)).zip(dx.chunks_exact_mut(c));
        for ((x, grad), dx) in rows {
            let scale = scale_of(s, x, eps);
            // With g = grad·weight and h = scale·x: dx = scale·(g − h·mean(g·h)).
            let mut sum = s.splat(E::of(0.));
            let parts = x.chunks(S::LANES).zip(grad.chunks(S::LANES));
            let sums = weight.chunks(S::LANES).zip(dw.chunks_mut(S::LANES));
            for ((x, grad), (w, dw)) in parts.zip(sums) {
                let h = s.mul(s.load_partial(x), s.splat(scale));
                let term = s.mul(s.load_partial(grad), h);
                sum = s.fma(term, s.load_partial(w), sum);
                s.store_partial(s.add(s.load_partial(dw), term), dw);
            }
            let mean = s.splat(s.sum(sum) / E::of(c as f64) * scale);
            let parts = x.chunks(S::LANES).zip(grad.chunks(S::LANES));
            let parts = parts.zip(weight.chunks(S::LANES).zip(dx.chunks_mut(S::LANES)));
            for ((x, grad), (w, dx)) in parts {
                let g = s.mul(s.load_partial(grad), s.load_partial(w));
                let d = s.sub(g, s.mul(s.load_partial(x), mean));
                s.store_partial(s.mul(d, s.splat(scale)), dx);
            }
        }
    }
}
