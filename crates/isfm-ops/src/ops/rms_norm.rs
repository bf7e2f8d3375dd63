use candle_core::{Result, Shape, Tensor};
use isfm_kernels::{Plan, Type};
use num_traits::Float;

use super::layer_norm::TASK;
use crate::check;
use crate::op::{Gradients, Input, Op, apply, apply_untracked, unpack};
use crate::parallel::{add_partials, fill_parts, in_parts, rows_per_partial};
use crate::simd::{Kernel, Real, Simd, dispatch};

const OP: &str = "rms_norm";

/// Root-mean-square norm on the last axis (Zhang and Sennrich, 2019):
/// `x / √(mean(x²) + eps) · weight`. candle-nn's has no backward pass on contiguous inputs.
///
/// # Shapes
/// - `x`: …×C
/// - `weight`: C
/// - returns …×C
///
/// # Errors
/// If a shape does not fit, C is 0, or the element types differ or are not `F32` or `F64`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    check::types(OP, x, &[("weight", weight)])?;
    let (rows, c) = check::rows(OP, x)?;
    check::dims(OP, "weight", weight, &[c])?;
    if c == 0 {
        return Err(check::shape_error(OP, "x", x.dims(), "at least one value in the last axis"));
    }
    if rows == 0 {
        return x.zeros_like();
    }
    apply(RmsNorm { eps }, &[x, weight])
}

pub(super) struct RmsNorm {
    pub(super) eps: f64,
}

impl Op for RmsNorm {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        let (x, weight) = (inputs[0].data, inputs[1].data);
        let (size, eps) = (TASK.div_ceil(weight.len()) * weight.len(), E::of(self.eps));
        Ok(fill_parts(x.len(), size, |start, out, _| {
            dispatch(Forward { x: &x[start..][..out.len()], weight, eps, out });
        }))
    }

    fn plan(&self, _: Type, _: &[&Shape]) -> Result<Plan> {
        Err(check::no_cuda_kernel(OP, "candle_nn::ops::rms_norm_slow runs there, with gradients"))
    }

    fn gradients(&self, inputs: &[&Tensor], _: &Tensor, grad: &Tensor) -> Result<Gradients> {
        let (x, weight) = (inputs[0], inputs[1]);
        let all = apply_untracked(Gradient { eps: self.eps }, &[x, weight, grad])?;
        let [dx, dw] = unpack(&all, [x.shape(), weight.shape()])?;
        Ok([Some(dx), Some(dw), None])
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

impl Op for Gradient {
    fn name(&self) -> &'static str {
        "rms_norm gradient"
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        Ok((inputs[0].elem_count() + inputs[1].elem_count()).into())
    }

    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        let (x, weight, grad) = (inputs[0].data, inputs[1].data, inputs[2].data);
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
        Ok(out)
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
