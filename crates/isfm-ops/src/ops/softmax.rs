use candle_core::{Result, Shape, Tensor};
use isfm_kernels::{Plan, Type};

use super::layer_norm::TASK;
use crate::check;
use crate::op::{Gradients, Input, Op, apply, apply_untracked};
use crate::parallel::fill_parts;
use crate::simd::{Kernel, Real, Simd, dispatch};

const OP: &str = "softmax_last_dim";

/// e^(xᵢ − max x) / Σⱼ e^(xⱼ − max x) along the last axis. candle-nn's function of this name has no
/// backward pass.
///
/// A row with a NaN or +∞, or of nothing but −∞, becomes NaN, as in PyTorch.
///
/// # Shapes
/// - `x`: …×C
/// - returns …×C
///
/// # Errors
/// If `x` has no axis, or the elements are not `F32` or `F64`.
pub fn softmax_last_dim(x: &Tensor) -> Result<Tensor> {
    check::types(OP, x, &[])?;
    check::rows(OP, x)?;
    if x.elem_count() == 0 {
        return Ok(x.clone());
    }
    apply(Softmax, &[x])
}

pub(super) struct Softmax;

fn columns(shape: &Shape) -> usize {
    shape.dims().last().copied().unwrap_or(1)
}

impl Op for Softmax {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        let (x, c) = (inputs[0].data, columns(inputs[0].shape));
        Ok(fill_parts(x.len(), TASK.div_ceil(c) * c, |start, out, _| {
            dispatch(Forward { x: &x[start..][..out.len()], c, out });
        }))
    }

    fn plan(&self, _: Type, _: &[&Shape]) -> Result<Plan> {
        Err(check::no_cuda_kernel(OP, "candle_nn::ops::softmax runs there, with gradients"))
    }

    fn gradients(&self, _: &[&Tensor], result: &Tensor, grad: &Tensor) -> Result<Gradients> {
        Ok([Some(apply_untracked(Gradient, &[result, grad])?), None, None])
    }
}

struct Forward<'a, E> {
    x: &'a [E],
    c: usize,
    out: &'a mut [E],
}

impl<E: Real> Kernel<E> for Forward<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        for (x, out) in self.x.chunks_exact(self.c).zip(self.out.chunks_exact_mut(self.c)) {
            // NaN is ignored here and comes back through the exponential.
            let most = x.iter().fold(E::neg_infinity(), |most, &x| if x > most { x } else { most });
            let mut sum = s.splat(E::of(0.));
            for (x, out) in x.chunks(S::LANES).zip(out.chunks_mut(S::LANES)) {
                let e = s.exp(s.sub(s.load_partial(x), s.splat(most)));
                sum = s.add(sum, s.keep(e, x.len()));
                s.store_partial(e, out);
            }
            let scale = s.splat(s.sum(sum).recip());
            for out in out.chunks_mut(S::LANES) {
                s.store_partial(s.mul(s.load_partial(out), scale), out);
            }
        }
    }
}

/// y ⊙ (g − Σ g ⊙ y) from the result y and its gradient g.
struct Gradient;

impl Op for Gradient {
    fn name(&self) -> &'static str {
        "softmax_last_dim gradient"
    }

    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        let (y, grad, c) = (inputs[0].data, inputs[1].data, columns(inputs[0].shape));
        Ok(fill_parts(y.len(), TASK.div_ceil(c) * c, |start, out, _| {
            let n = out.len();
            dispatch(Backward { y: &y[start..][..n], grad: &grad[start..][..n], c, out });
        }))
    }
}

struct Backward<'a, E> {
    y: &'a [E],
    grad: &'a [E],
    c: usize,
    out: &'a mut [E],
}

impl<E: Real> Kernel<E> for Backward<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { y, grad, c, out } = self;
        let rows = y.chunks_exact(c).zip(grad.chunks_exact(c));
        for ((y, grad), out) in rows.zip(out.chunks_exact_mut(c)) {
            let mut sum = s.splat(E::of(0.));
            for (y, grad) in y.chunks(S::LANES).zip(grad.chunks(S::LANES)) {
                sum = s.fma(s.load_partial(y), s.load_partial(grad), sum);
            }
            let mean = s.splat(s.sum(sum));
            let parts = y.chunks(S::LANES).zip(grad.chunks(S::LANES));
            for ((y, grad), out) in parts.zip(out.chunks_mut(S::LANES)) {
                let g = s.sub(s.load_partial(grad), mean);
                s.store_partial(s.mul(s.load_partial(y), g), out);
            }
        }
    }
}
