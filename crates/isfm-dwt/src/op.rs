//! Analysis and synthesis as Candle operations; each one's gradient is the other.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Result, Shape, Tensor};
use isfm_ops::cpu::slice;

use crate::axis::Border;
use crate::kernel::{Parts, analyse, synthesise};
use crate::layout::Maps;
use crate::wavelet::Bank;

/// A linear map from maps to their bands, or its transpose.
#[derive(Clone)]
pub(crate) struct Transform {
    pub(crate) bank: Arc<Bank>,
    pub(crate) border: Border,
    pub(crate) maps: Maps,
    /// The sizes of the approximation; the details have three times as many channels.
    pub(crate) bands: Maps,
}

/// Which bands an operation gives or takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Approx,
    Details,
    Both,
}

impl Transform {
    fn details(&self) -> Maps {
        Maps { channels: 3 * self.bands.channels, ..self.bands }
    }

    /// All bands of `x`, in one pass over it.
    ///
    /// While gradients are tracked each half is an operation of its own instead: the backward of
    /// splitting one result would pad both halves to full size again.
    pub(crate) fn analysis(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let op = |part| Analysis { transform: self.clone(), part };
        if x.track_op() {
            return Ok((x.apply_op1(op(Part::Approx))?, x.apply_op1(op(Part::Details))?));
        }
        self.split(&x.apply_op1_no_bwd(&op(Part::Both))?)
    }

    /// What the bands sum up to.
    pub(crate) fn synthesis(&self, approx: &Tensor, details: &Tensor) -> Result<Tensor> {
        approx.apply_op2(details, Synthesis { transform: self.clone(), part: Part::Both })
    }

    /// The halves of [`Part::Both`]'s result; contiguous views, nothing is copied.
    fn split(&self, both: &Tensor) -> Result<(Tensor, Tensor)> {
        let n = self.bands.elements();
        let approx = both.narrow(0, 0, n)?.reshape(self.bands.dims())?;
        let details = both.narrow(0, n, 3 * n)?.reshape(self.details().dims())?;
        Ok((approx, details))
    }

    fn run_analysis<E: isfm_ops::simd::Real>(&self, part: Part, x: &[E]) -> Vec<E> {
        let n = self.bands.elements();
        let (approx, details) = match part {
            Part::Approx => (n, 0),
            Part::Details => (0, 3 * n),
            Part::Both => (n, 3 * n),
        };
        let mut out = vec![E::zero(); approx + details];
        let (a, d) = out.split_at_mut(approx);
        let parts = Parts {
            approx: (part != Part::Details).then_some(a),
            details: (part != Part::Approx).then_some(d),
        };
        analyse(&self.bank, self.border, &self.maps, &self.bands, x, parts);
        out
    }

    fn run_synthesis<E: isfm_ops::simd::Real>(&self, parts: Parts<&[E]>) -> Vec<E> {
        let mut out = vec![E::zero(); self.maps.elements()];
        synthesise(&self.bank, self.border, &self.maps, &self.bands, parts, &mut out);
        out
    }
}

/// From maps to bands. [`Part::Both`] gives them one after the other, flat.
struct Analysis {
    transform: Transform,
    part: Part,
}

impl Analysis {
    fn shape(&self) -> Shape {
        let t = &self.transform;
        match self.part {
            Part::Approx => t.bands.dims().into(),
            Part::Details => t.details().dims().into(),
            Part::Both => (4 * t.bands.elements()).into(),
        }
    }
}

impl CustomOp1 for Analysis {
    fn name(&self) -> &'static str {
        "wavelet-analysis"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &candle_core::Layout) -> Result<(CpuStorage, Shape)> {
        let (t, part) = (&self.transform, self.part);
        let out = match x {
            CpuStorage::F64(_) => CpuStorage::F64(t.run_analysis(part, slice(x, layout)?)),
            _ => CpuStorage::F32(t.run_analysis(part, slice(x, layout)?)),
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
            let (approx, details) = self.transform.split(&grad)?;
            return approx.apply_op2_no_bwd(&details, &op).map(Some);
        }
        grad.apply_op1_no_bwd(&op).map(Some)
    }
}

/// From bands to maps: the transpose of [`Analysis`], from one half (the other is zero) or both.
struct Synthesis {
    transform: Transform,
    part: Part,
}

impl CustomOp1 for Synthesis {
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
        let out = match half {
            CpuStorage::F64(_) => {
                CpuStorage::F64(t.run_synthesis(parts(part, slice(half, layout)?)))
            }
            _ => CpuStorage::F32(t.run_synthesis(parts(part, slice(half, layout)?))),
        };
        Ok((out, t.maps.dims().into()))
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

impl CustomOp2 for Synthesis {
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
        macro_rules! run {
            () => {
                self.transform.run_synthesis(Parts {
                    approx: Some(slice(approx, approx_layout)?),
                    details: Some(slice(details, details_layout)?),
                })
            };
        }
        let out = match approx {
            CpuStorage::F64(_) => CpuStorage::F64(run!()),
            _ => CpuStorage::F32(run!()),
        };
        Ok((out, self.transform.maps.dims().into()))
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
        let (approx, details) = self.transform.split(&bands)?;
        Ok((Some(approx), Some(details)))
    }
}
