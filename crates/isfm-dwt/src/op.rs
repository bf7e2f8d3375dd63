//! Analysis and synthesis as Candle operations; each one's gradient is the other.

use std::mem::MaybeUninit;

use candle_core::{DType, Result, Shape, Tensor};
use isfm_kernels::haar::{self as kernels, Bands};
use isfm_kernels::{Map, Plan, Type};
use isfm_ops::internal::{no_cuda_kernel, with_capacity};
use isfm_ops::op::{Gradients, Input, Op, apply, apply_untracked, unpack};
use isfm_ops::simd::Real;

use crate::Error;

/// Elements a task should have at least, so that handing it out costs less than doing it.
pub(crate) const TASK: usize = 1 << 14;

/// The approximation and the details; `None` for one that is not wanted or not given.
#[derive(Clone, Copy)]
pub(crate) struct Parts<T> {
    pub(crate) approx: Option<T>,
    pub(crate) details: Option<T>,
}

/// A linear map from a signal to its bands, and its transpose.
///
/// # Safety
/// [`analyse`](Self::analyse) and [`synthesise`](Self::synthesise) must write every element that
/// they are given.
pub(crate) unsafe trait Transform: Clone + Send + Sync + 'static {
    /// The shape of the signal.
    fn signal(&self) -> Shape;
    /// The shape of the approximation.
    fn approx(&self) -> Shape;
    /// The shape of all details.
    fn details(&self) -> Shape;
    /// Fills all of `out`, whose slices are not empty, with the bands of `x`.
    fn analyse<E: Real>(&self, x: &[E], out: Parts<&mut [MaybeUninit<E>]>);
    /// Fills all of `out`, which is not empty, with what the bands (an absent one is zero) sum up to.
    fn synthesise<E: Real>(&self, parts: Parts<&[E]>, out: &mut [MaybeUninit<E>]);
    /// The maps that the GPU's Haar kernels take, if this is their transform.
    fn haar_map(&self) -> Option<Map> {
        None
    }
}

/// Sets a part of a fresh result to zero: in a near cache, just before it is worked on.
pub(crate) fn zeroed<E: Real>(blank: &mut [MaybeUninit<E>]) -> &mut [E] {
    for e in &mut *blank {
        e.write(E::zero());
    }
    // SAFETY: every element has just been written.
    unsafe { &mut *(std::ptr::from_mut(blank) as *mut [E]) }
}

/// Refuses element types that have no kernel.
pub(crate) fn require_float(op: &'static str, x: &Tensor) -> crate::Result<()> {
    match (x.device().is_cuda(), x.dtype()) {
        (false, DType::F16 | DType::F32 | DType::F64) => Ok(()),
        (true, DType::F16 | DType::F32 | DType::BF16) => Ok(()),
        (_, got) => Err(Error::DType { op, got }),
    }
}

/// The approximation and the details of `x` in one pass over it.
///
/// While gradients are tracked each is an operation of its own instead: the backward of splitting
/// one result would pad both halves to full size again.
pub(crate) fn analysis<T: Transform>(transform: T, x: &Tensor) -> Result<(Tensor, Tensor)> {
    let op = |bands| Analysis { transform: transform.clone(), bands };
    if x.track_op() {
        return Ok((apply(op(Bands::Approx), &[x])?, apply(op(Bands::Details), &[x])?));
    }
    halves(&transform, &apply_untracked(op(Bands::Both), &[x])?)
}

/// What the bands sum up to.
pub(crate) fn synthesis<T: Transform>(
    transform: T,
    approx: &Tensor,
    details: &Tensor,
) -> Result<Tensor> {
    apply(Synthesis { transform, bands: Bands::Both }, &[approx, details])
}

/// The halves of [`Bands::Both`]'s result; contiguous views, nothing is copied.
fn halves<T: Transform>(transform: &T, both: &Tensor) -> Result<(Tensor, Tensor)> {
    let [approx, details] = unpack(both, [&transform.approx(), &transform.details()])?;
    Ok((approx, details))
}

/// The map of a transform that has a kernel on a GPU.
fn haar_map(t: &impl Transform) -> Result<Map> {
    t.haar_map().ok_or_else(|| {
        no_cuda_kernel(
            "this wavelet transform",
            "one level of Haar on blocks of two (Border::Drop, or even sizes) of B×H×W×C maps runs \
             there, the others on the CPU (Tensor::to_device)",
        )
    })
}

/// From signals to bands. [`Bands::Both`] gives them one after the other, flat.
struct Analysis<T> {
    transform: T,
    bands: Bands,
}

impl<T: Transform> Op for Analysis<T> {
    fn name(&self) -> &'static str {
        "wavelet-analysis"
    }

    fn shape(&self, _: &[&Shape]) -> Result<Shape> {
        let t = &self.transform;
        Ok(match self.bands {
            Bands::Approx => t.approx(),
            Bands::Details => t.details(),
            Bands::Both => (t.approx().elem_count() + t.details().elem_count()).into(),
        })
    }

    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        let wanted = |other, shape: Shape| if self.bands == other { 0 } else { shape.elem_count() };
        let n = wanted(Bands::Details, self.transform.approx());
        let m = wanted(Bands::Approx, self.transform.details());
        let mut out = with_capacity(n + m);
        if n + m > 0 {
            let (a, d) = out.spare_capacity_mut()[..n + m].split_at_mut(n);
            let (approx, details) = ((n > 0).then_some(a), (m > 0).then_some(d));
            self.transform.analyse(inputs[0].data, Parts { approx, details });
        }
        // SAFETY: `analyse` has written what it was given, and that is all of it.
        unsafe { out.set_len(n + m) };
        Ok(out)
    }

    fn widens(&self) -> bool {
        true
    }

    fn plan(&self, t: Type, _: &[&Shape]) -> Result<Plan> {
        let map = haar_map(&self.transform)?;
        kernels::haar(t, map, self.bands).map_err(candle_core::Error::wrap)
    }

    fn gradients(&self, _: &[&Tensor], _: &Tensor, grad: &Tensor) -> Result<Gradients> {
        let op = Synthesis { transform: self.transform.clone(), bands: self.bands };
        let dx = if self.bands == Bands::Both {
            let (approx, details) = halves(&self.transform, grad)?;
            apply_untracked(op, &[&approx, &details])
        } else {
            apply_untracked(op, &[grad])
        };
        Ok([Some(dx?), None, None])
    }
}

/// From bands to signals: the transpose of [`Analysis`], from one half (the other is zero) or both.
struct Synthesis<T> {
    transform: T,
    bands: Bands,
}

impl<T: Transform> Op for Synthesis<T> {
    fn name(&self) -> &'static str {
        "wavelet-synthesis"
    }

    fn shape(&self, _: &[&Shape]) -> Result<Shape> {
        Ok(self.transform.signal())
    }

    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        let first = Some(inputs[0].data);
        let parts = match self.bands {
            Bands::Approx => Parts { approx: first, details: None },
            Bands::Details => Parts { approx: None, details: first },
            Bands::Both => Parts { approx: first, details: inputs.get(1).map(|i| i.data) },
        };
        let n = self.transform.signal().elem_count();
        let mut out = with_capacity(n);
        if n > 0 {
            self.transform.synthesise(parts, &mut out.spare_capacity_mut()[..n]);
        }
        // SAFETY: `synthesise` has written what it was given, and that is all of it.
        unsafe { out.set_len(n) };
        Ok(out)
    }

    fn widens(&self) -> bool {
        true
    }

    fn plan(&self, t: Type, _: &[&Shape]) -> Result<Plan> {
        let map = haar_map(&self.transform)?;
        kernels::haar_inverse(t, map, self.bands).map_err(candle_core::Error::wrap)
    }

    fn gradients(&self, inputs: &[&Tensor], _: &Tensor, grad: &Tensor) -> Result<Gradients> {
        let op = Analysis { transform: self.transform.clone(), bands: self.bands };
        let bands = apply_untracked(op, &[grad])?;
        if inputs.len() == 1 {
            return Ok([Some(bands), None, None]);
        }
        let (approx, details) = halves(&self.transform, &bands)?;
        Ok([Some(approx), Some(details), None])
    }
}
