use candle_core::{Device, Error, Result, Shape, Tensor};
use isfm_kernels::pointwise::{self as kernels, Gate};
use isfm_kernels::{Plan, Type};
use rayon::prelude::*;

use super::pointwise::{Pointwise, TASK, pointwise};
use crate::check;
use crate::memory::into_elements;
use crate::op::{Gradients, Input, Op, apply, apply_untracked};
use crate::simd::{Kernel, Real, Simd, dispatch};

/// x·sigmoid(x), element by element.
///
/// # Shapes
/// - `x`: any
/// - returns the same
///
/// # Errors
/// If the elements are not `F32` or `F64` (on CUDA `F32`, `F16` or `BF16`).
pub fn silu(x: &Tensor) -> Result<Tensor> {
    check::types("silu", x, &[])?;
    if x.elem_count() == 0 {
        return Ok(x.clone());
    }
    apply(Silu, &[x])
}

/// x ⊙ SiLU(z): a value gated by another.
///
/// # Shapes
/// - `x`, `z`: the same, any
/// - returns the same
///
/// # Errors
/// If the shapes or element types differ, or the elements are not `F32` or `F64` (on CUDA `F32`,
/// `F16` or `BF16`).
pub fn silu_gate(x: &Tensor, z: &Tensor) -> Result<Tensor> {
    gate(x, z, Gate::Silu)
}

/// x ⊙ sigmoid(z).
///
/// # Shapes
/// - `x`, `z`: the same, any
/// - returns the same
///
/// # Errors
/// If the shapes or element types differ, or the elements are not `F32` or `F64` (on CUDA `F32`,
/// `F16` or `BF16`).
pub fn sigmoid_gate(x: &Tensor, z: &Tensor) -> Result<Tensor> {
    gate(x, z, Gate::Sigmoid)
}

fn gate(x: &Tensor, z: &Tensor, gate: Gate) -> Result<Tensor> {
    check::types(gate.name(), x, &[("z", z)])?;
    check::dims(gate.name(), "z", z, x.dims())?;
    if x.elem_count() == 0 {
        return Ok(x.clone());
    }
    apply(gate, &[x, z])
}

/// [`silu`] of a map whose storage no other tensor shares; in place if the map is not tracked.
///
/// # Errors
/// As [`silu`].
pub fn silu_in_place(x: Tensor) -> Result<Tensor> {
    fn update<E: Real>(x: Tensor) -> Result<Tensor> {
        let shape = x.shape().clone();
        let mut values = into_elements::<E>(x)?;
        values.par_chunks_mut(TASK).for_each(|values| dispatch(SiluRows(values)));
        Tensor::from_vec(values, shape, &Device::Cpu)
    }
    if x.track_op() || !x.device().is_cpu() {
        return silu(&x);
    }
    with_float!(x.dtype(), E => update::<E>(x), else silu(&x))
}

/// SiLU in place.
pub(crate) struct SiluRows<'a, E>(pub(crate) &'a mut [E]);

impl<E: Real> Kernel<E> for SiluRows<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        for x in self.0.chunks_mut(S::LANES) {
            let [y] = Silu.apply(s, [s.load_partial(x)]);
            s.store_partial(y, x);
        }
    }
}

/// `x ⊙= SiLU(z)`.
pub(crate) struct GateRows<'a, E> {
    pub(crate) x: &'a mut [E],
    pub(crate) z: &'a [E],
}

impl<E: Real> Kernel<E> for GateRows<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        for (x, z) in self.x.chunks_mut(S::LANES).zip(self.z.chunks(S::LANES)) {
            let [y] = Gate::Silu.apply(s, [s.load_partial(x), s.load_partial(z)]);
            s.store_partial(y, x);
        }
    }
}

/// The gradients of x and z of x ⊙ SiLU(z): set, or added to what is there.
pub(crate) struct GateGradientRows<'a, E> {
    pub(crate) x: &'a [E],
    pub(crate) z: &'a [E],
    pub(crate) grad: &'a [E],
    pub(crate) add: [bool; 2],
    pub(crate) dx: &'a mut [E],
    pub(crate) dz: &'a mut [E],
}

impl<E: Real> Kernel<E> for GateGradientRows<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let zero = s.splat(E::of(0.));
        for at in (0..self.x.len()).step_by(S::LANES) {
            let lanes = S::LANES.min(self.x.len() - at);
            let x = s.load_partial(&self.x[at..][..lanes]);
            let grad = s.load_partial(&self.grad[at..][..lanes]);
            let (value, slope) = silu_and_slope(s, s.load_partial(&self.z[at..][..lanes]));
            let (dx, dz) = (&mut self.dx[at..][..lanes], &mut self.dz[at..][..lanes]);
            let start = if self.add[0] { s.load_partial(dx) } else { zero };
            s.store_partial(s.fma(grad, value, start), dx);
            let start = if self.add[1] { s.load_partial(dz) } else { zero };
            s.store_partial(s.fma(s.mul(grad, x), slope, start), dz);
        }
    }
}

/// SiLU's value and its derivative, sigmoid(x)·(1 + x·(1 − sigmoid(x))).
#[inline(always)]
fn silu_and_slope<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
    let one = s.splat(S::E::of(1.));
    let sigmoid = s.sigmoid(x);
    let value = s.mul(x, sigmoid);
    (value, s.mul(sigmoid, s.fma(x, s.sub(one, sigmoid), one)))
}

#[derive(Clone, Copy)]
struct Silu;

impl Pointwise<1, 1> for Silu {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [x]: [S::V; 1]) -> [S::V; 1] {
        [s.mul(x, s.sigmoid(x))]
    }
}

impl Op for Silu {
    fn name(&self) -> &'static str {
        "silu"
    }

    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        Ok(pointwise(*self, [inputs[0].data]))
    }

    fn plan(&self, t: Type, inputs: &[&Shape]) -> Result<Plan> {
        kernels::silu(t, inputs[0].elem_count()).map_err(Error::wrap)
    }

    fn gradients(&self, inputs: &[&Tensor], _: &Tensor, grad: &Tensor) -> Result<Gradients> {
        Ok([Some(apply_untracked(SiluGradient, &[inputs[0], grad])?), None, None])
    }
}

#[derive(Clone, Copy)]
struct SiluGradient;

impl Pointwise<2, 1> for SiluGradient {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [x, grad]: [S::V; 2]) -> [S::V; 1] {
        [s.mul(grad, silu_and_slope(s, x).1)]
    }
}

impl Op for SiluGradient {
    fn name(&self) -> &'static str {
        "silu gradient"
    }

    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        Ok(pointwise(*self, [inputs[0].data, inputs[1].data]))
    }

    fn plan(&self, t: Type, inputs: &[&Shape]) -> Result<Plan> {
        kernels::silu_backward(t, inputs[0].elem_count()).map_err(Error::wrap)
    }
}

/// The gate's factor and its derivative.
#[inline(always)]
fn value_and_slope<S: Simd>(gate: Gate, s: S, z: S::V) -> (S::V, S::V) {
    match gate {
        Gate::Silu => silu_and_slope(s, z),
        Gate::Sigmoid => {
            let sigmoid = s.sigmoid(z);
            (sigmoid, s.mul(sigmoid, s.sub(s.splat(S::E::of(1.)), sigmoid)))
        }
    }
}

impl Pointwise<2, 1> for Gate {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [x, z]: [S::V; 2]) -> [S::V; 1] {
        [s.mul(x, value_and_slope(self, s, z).0)]
    }
}

impl Op for Gate {
    fn name(&self) -> &'static str {
        match self {
            Self::Silu => "silu_gate",
            Self::Sigmoid => "sigmoid_gate",
        }
    }

    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        Ok(pointwise(*self, [inputs[0].data, inputs[1].data]))
    }

    fn plan(&self, t: Type, inputs: &[&Shape]) -> Result<Plan> {
        kernels::gate(t, *self, inputs[0].elem_count()).map_err(Error::wrap)
    }

    fn gradients(&self, inputs: &[&Tensor], _: &Tensor, grad: &Tensor) -> Result<Gradients> {
        let both = apply_untracked(GateGradient(*self), &[inputs[0], inputs[1], grad])?;
        Ok([Some(both.get(0)?), Some(both.get(1)?), None])
    }
}

/// The gradients of x and z, stacked.
#[derive(Clone, Copy)]
struct GateGradient(Gate);

impl Pointwise<3, 2> for GateGradient {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [x, z, grad]: [S::V; 3]) -> [S::V; 2] {
        let (value, slope) = value_and_slope(self.0, s, z);
        [s.mul(grad, value), s.mul(s.mul(grad, x), slope)]
    }
}

impl Op for GateGradient {
    fn name(&self) -> &'static str {
        "gate gradient"
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        Ok([&[2], inputs[0].dims()].concat().into())
    }

    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        Ok(pointwise(*self, [inputs[0].data, inputs[1].data, inputs[2].data]))
    }

    fn plan(&self, t: Type, inputs: &[&Shape]) -> Result<Plan> {
        kernels::gate_backward(t, self.0, inputs[0].elem_count()).map_err(Error::wrap)
    }
}
