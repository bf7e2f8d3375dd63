//! Analysis and synthesis as Candle operations; each one's gradient is the other.

use std::mem::MaybeUninit;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Result, Shape, Tensor};
use half::f16;
use half::slice::HalfFloatSliceExt;
use isfm_ops::cpu::{slice, with_capacity};
use isfm_ops::simd::Real;
use rayon::prelude::*;

use crate::Error;

/// Elements a task should have at least, so that handing it out costs less than doing it.
pub(crate) const TASK: usize = 1 << 14;

/// The approximation and the details, or where one is not wanted or not given, none.
#[derive(Clone, Copy)]
pub(crate) struct Parts<T> {
    pub(crate) approx: Option<T>,
    pub(crate) details: Option<T>,
}

/// A linear map from a signal to its bands, and its transpose.
pub(crate) trait Transform: Clone + Send + Sync + 'static {
    /// The shape of the signal.
    fn signal(&self) -> Shape;
    /// The shape of the approximation.
    fn approx(&self) -> Shape;
    /// The shape of all details.
    fn details(&self) -> Shape;
    /// Fills `out`, of which nothing may be empty, with the bands of `x`.
    fn analyse<E: Real>(&self, x: &[E], out: Parts<&mut [MaybeUninit<E>]>);
    /// Fills `out`, which is not empty, with what the bands (an absent one is zero) sum up to.
    fn synthesise<E: Real>(&self, parts: Parts<&[E]>, out: &mut [MaybeUninit<E>]);
    /// The maps that the GPU's Haar kernels take, if this is their transform.
    #[cfg(feature = "cuda")]
    fn haar_map(&self) -> Option<isfm_kernels::map::Map> {
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

/// Which bands an operation gives or takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Approx,
    Details,
    Both,
}

/// The approximation and the details of `x`, which is contiguous, in one pass over it.
///
/// While gradients are tracked each is an operation of its own instead: the backward of splitting
/// one result would pad both halves to full size again.
pub(crate) fn analysis<T: Transform>(transform: T, x: &Tensor) -> Result<(Tensor, Tensor)> {
    let op = |part| Analysis { transform: transform.clone(), part };
    if x.track_op() {
        return Ok((x.apply_op1(op(Part::Approx))?, x.apply_op1(op(Part::Details))?));
    }
    halves(&transform, &x.apply_op1_no_bwd(&op(Part::Both))?)
}

/// What the bands, which are contiguous, sum up to.
pub(crate) fn synthesis<T: Transform>(
    transform: T,
    approx: &Tensor,
    details: &Tensor,
) -> Result<Tensor> {
    approx.apply_op2(details, Synthesis { transform, part: Part::Both })
}

/// The halves of [`Part::Both`]'s result; contiguous views, nothing is copied.
fn halves<T: Transform>(transform: &T, both: &Tensor) -> Result<(Tensor, Tensor)> {
    let (approx, details) = (transform.approx(), transform.details());
    let (n, m) = (approx.elem_count(), details.elem_count());
    Ok((both.narrow(0, 0, n)?.reshape(approx)?, both.narrow(0, n, m)?.reshape(details)?))
}

fn run_analysis<T: Transform, E: Real>(transform: &T, part: Part, x: &[E]) -> Vec<E> {
    let wanted = |other, shape: Shape| if part == other { 0 } else { shape.elem_count() };
    let n = wanted(Part::Details, transform.approx());
    let m = wanted(Part::Approx, transform.details());
    let mut out = with_capacity(n + m);
    if n + m > 0 {
        let (a, d) = out.spare_capacity_mut()[..n + m].split_at_mut(n);
        let (approx, details) = ((n > 0).then_some(a), (m > 0).then_some(d));
        transform.analyse(x, Parts { approx, details });
    }
    // SAFETY: `analyse` has filled what it was given, and that is all of it.
    unsafe { out.set_len(n + m) };
    out
}

fn run_synthesis<T: Transform, E: Real>(transform: &T, parts: Parts<&[E]>) -> Vec<E> {
    let n = transform.signal().elem_count();
    let mut out = with_capacity(n);
    if n > 0 {
        transform.synthesise(parts, &mut out.spare_capacity_mut()[..n]);
    }
    // SAFETY: `synthesise` has filled what it was given, and that is all of it.
    unsafe { out.set_len(n) };
    out
}

/// To the type that half precision is computed in.
fn widened(x: &[f16]) -> Vec<f32> {
    let mut out = vec![0.; x.len()];
    let chunks = out.par_chunks_mut(TASK).zip(x.par_chunks(TASK));
    chunks.for_each(|(out, x)| x.convert_to_f32_slice(out));
    out
}

fn narrowed(x: &[f32]) -> Vec<f16> {
    let mut out = vec![f16::ZERO; x.len()];
    let chunks = out.par_chunks_mut(TASK).zip(x.par_chunks(TASK));
    chunks.for_each(|(out, x)| out.convert_from_f32_slice(x));
    out
}

/// From signals to bands. [`Part::Both`] gives them one after the other, flat.
struct Analysis<T> {
    transform: T,
    part: Part,
}

impl<T: Transform> Analysis<T> {
    fn shape(&self) -> Shape {
        let t = &self.transform;
        match self.part {
            Part::Approx => t.approx(),
            Part::Details => t.details(),
            Part::Both => (t.approx().elem_count() + t.details().elem_count()).into(),
        }
    }
}

impl<T: Transform> CustomOp1 for Analysis<T> {
    fn name(&self) -> &'static str {
        "wavelet-analysis"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &candle_core::Layout) -> Result<(CpuStorage, Shape)> {
        let (t, part) = (&self.transform, self.part);
        let out = match x.dtype() {
            DType::F64 => CpuStorage::F64(run_analysis(t, part, slice::<f64>(x, layout)?)),
            DType::F16 => {
                let x = widened(slice(x, layout)?);
                CpuStorage::F16(narrowed(&run_analysis(t, part, &x)))
            }
            _ => CpuStorage::F32(run_analysis(t, part, slice::<f32>(x, layout)?)),
        };
        Ok((out, self.shape()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        layout: &candle_core::Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        crate::cuda::analysis(&self.transform, self.part, (x, layout), self.shape())
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let op = Synthesis { transform: self.transform.clone(), part: self.part };
        let grad = grad.contiguous()?;
        if self.part == Part::Both {
            let (approx, details) = halves(&self.transform, &grad)?;
            return approx.apply_op2_no_bwd(&details, &op).map(Some);
        }
        grad.apply_op1_no_bwd(&op).map(Some)
    }
}

/// From bands to signals: the transpose of [`Analysis`], from one half (the other is zero) or both.
struct Synthesis<T> {
    transform: T,
    part: Part,
}

impl<T: Transform> CustomOp1 for Synthesis<T> {
    fn name(&self) -> &'static str {
        "wavelet-synthesis"
    }

    fn cpu_fwd(
        &self,
        half: &CpuStorage,
        layout: &candle_core::Layout,
    ) -> Result<(CpuStorage, Shape)> {
        fn parts<E>(part: Part, half: &[E]) -> Parts<&[E]> {
            match part {
                Part::Details => Parts { approx: None, details: Some(half) },
                _ => Parts { approx: Some(half), details: None },
            }
        }
        let (t, part) = (&self.transform, self.part);
        let out = match half.dtype() {
            DType::F64 => {
                CpuStorage::F64(run_synthesis(t, parts(part, slice::<f64>(half, layout)?)))
            }
            DType::F16 => {
                let half = widened(slice(half, layout)?);
                CpuStorage::F16(narrowed(&run_synthesis(t, parts(part, &half))))
            }
            _ => CpuStorage::F32(run_synthesis(t, parts(part, slice::<f32>(half, layout)?))),
        };
        Ok((out, t.signal()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        half: &candle_core::CudaStorage,
        layout: &candle_core::Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        crate::cuda::synthesis(&self.transform, self.part, &[(half, layout)])
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let op = Analysis { transform: self.transform.clone(), part: self.part };
        grad.contiguous()?.apply_op1_no_bwd(&op).map(Some)
    }
}

impl<T: Transform> CustomOp2 for Synthesis<T> {
    fn name(&self) -> &'static str {
        "wavelet-synthesis"
    }

    fn cpu_fwd(
        &self,
        approx: &CpuStorage,
        approx_layout: &candle_core::Layout,
        details: &CpuStorage,
        details_layout: &candle_core::Layout,
    ) -> Result<(CpuStorage, Shape)> {
        fn both<'a, E>(approx: &'a [E], details: &'a [E]) -> Parts<&'a [E]> {
            Parts { approx: Some(approx), details: Some(details) }
        }
        let t = &self.transform;
        let out = match approx.dtype() {
            DType::F64 => {
                let approx = slice::<f64>(approx, approx_layout)?;
                CpuStorage::F64(run_synthesis(t, both(approx, slice(details, details_layout)?)))
            }
            DType::F16 => {
                let approx = widened(slice(approx, approx_layout)?);
                let details = widened(slice(details, details_layout)?);
                CpuStorage::F16(narrowed(&run_synthesis(t, both(&approx, &details))))
            }
            _ => {
                let approx = slice::<f32>(approx, approx_layout)?;
                CpuStorage::F32(run_synthesis(t, both(approx, slice(details, details_layout)?)))
            }
        };
        Ok((out, t.signal()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        approx: &candle_core::CudaStorage,
        approx_layout: &candle_core::Layout,
        details: &candle_core::CudaStorage,
        details_layout: &candle_core::Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let bands = [(approx, approx_layout), (details, details_layout)];
        crate::cuda::synthesis(&self.transform, Part::Both, &bands)
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let op = Analysis { transform: self.transform.clone(), part: Part::Both };
        let bands = grad.contiguous()?.apply_op1_no_bwd(&op)?;
        let (approx, details) = halves(&self.transform, &bands)?;
        Ok((Some(approx), Some(details)))
    }
}
