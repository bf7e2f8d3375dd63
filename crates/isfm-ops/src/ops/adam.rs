//! A step of Adam, and what clipping and a look for numbers that are not finite need of gradients.

use candle_core::{Error, Result, Shape, Tensor};
pub use isfm_kernels::pointwise::AdamStep;
use isfm_kernels::sums::{self, MAGNITUDE_PART, magnitude_parts};
use isfm_kernels::{Plan, Type, pointwise as kernels};

use rayon::prelude::*;

use crate::check;
use crate::op::{Input, Op, apply_untracked};
use crate::simd::Real;

/// One step of Adam (Kingma & Ba, 2015) in PyTorch's formula. With g = gain · gradient:
/// mean ← mean + mean_rest (g − mean), square ← square_keep · square + square_rest · g²,
/// weights ← keep · weights − rate · mean / (√square / root + eps).
///
/// # Shapes
/// - `weights`, `gradient`: the same, any; N elements
/// - `moments`: 2×N, the running means of the gradient and of its square
/// - returns 3×N: the new weights and moments
///
/// # Errors
/// If a shape does not fit, or the elements are not `F32` (on the CPU also `F64`).
pub fn adam_step(
    weights: &Tensor,
    gradient: &Tensor,
    moments: &Tensor,
    step: AdamStep,
) -> Result<Tensor> {
    const OP: &str = "adam_step";
    check::types(OP, weights, &[("gradient", gradient), ("moments", moments)])?;
    check::dims(OP, "gradient", gradient, weights.dims())?;
    check::dims(OP, "moments", moments, &[2, weights.elem_count()])?;
    if weights.elem_count() == 0 {
        return Tensor::zeros((3, 0), weights.dtype(), weights.device());
    }
    apply_untracked(Adam(step), &[weights, gradient, moments])
}

/// The fewest elements that one task is given.
const TASK: usize = 1 << 14;

struct Adam(AdamStep);

impl Op for Adam {
    fn name(&self) -> &'static str {
        "adam_step"
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        Ok((3, inputs[0].elem_count()).into())
    }

    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        let AdamStep { gain, mean_rest, square_keep, square_rest, keep, rate, root, eps } = self.0;
        let of = |number: f32| E::of(f64::from(number));
        let (gain, mean_rest) = (of(gain), of(mean_rest));
        let (square_keep, square_rest) = (of(square_keep), of(square_rest));
        let (keep, rate, root, eps) = (of(keep), of(rate), of(root), of(eps));
        let [weights, gradient, moments] = [inputs[0].data, inputs[1].data, inputs[2].data];
        let (means, squares) = moments.split_at(weights.len());
        let mut next = [weights, means, squares].concat();
        let (weights, moments) = next.split_at_mut(weights.len());
        let (means, squares) = moments.split_at_mut(weights.len());
        let state = weights.par_iter_mut().zip(means).zip(squares);
        state.zip(gradient).with_min_len(TASK).for_each(|(((weight, mean), square), &g)| {
            let g = g * gain;
            *mean = *mean + (g - *mean) * mean_rest;
            *square = *square * square_keep + g * g * square_rest;
            *weight = *weight * keep - rate * (*mean / (square.sqrt() / root + eps));
        });
        Ok(next)
    }

    fn plan(&self, t: Type, inputs: &[&Shape]) -> Result<Plan> {
        check_f32(self.name(), t)?;
        kernels::adam(inputs[0].elem_count(), &self.0).map_err(Error::wrap)
    }
}

/// Of each part of 4096 consecutive elements the sum of the squares and the largest magnitude of those that
/// are numbers, from which the norm of a tensor follows, whether it is finite and whether it is 0, at the
/// cost of one element in 2048 on the way from a GPU.
///
/// # Shapes
/// - `x`: any, N elements
/// - returns ⌈N / 4096⌉×2
///
/// # Errors
/// If the elements are not `F32` (on the CPU also `F64`).
pub fn magnitudes(x: &Tensor) -> Result<Tensor> {
    if x.elem_count() == 0 {
        return Tensor::zeros((0, 2), x.dtype(), x.device());
    }
    apply_untracked(Magnitudes, &[x])
}

struct Magnitudes;

impl Op for Magnitudes {
    fn name(&self) -> &'static str {
        "magnitudes"
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        Ok((magnitude_parts(inputs[0].elem_count()), 2).into())
    }

    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        let part = |part: &[E]| {
            let start = (E::of(0.), E::of(0.));
            let (sum, most) = part.iter().fold(start, |(sum, most), &x| {
                let magnitude = x.abs();
                (sum + x * x, if magnitude > most { magnitude } else { most })
            });
            [sum, most]
        };
        let parts = inputs[0].data.par_chunks(MAGNITUDE_PART).with_min_len(TASK / MAGNITUDE_PART);
        Ok(parts.flat_map_iter(part).collect())
    }

    fn plan(&self, t: Type, inputs: &[&Shape]) -> Result<Plan> {
        check_f32(self.name(), t)?;
        sums::magnitudes(inputs[0].elem_count()).map_err(Error::wrap)
    }
}

fn check_f32(op: &str, t: Type) -> Result<()> {
    if t == Type::F32 {
        return Ok(());
    }
    candle_core::bail!("{op}: got {t:?}, needs F32 on CUDA")
}
