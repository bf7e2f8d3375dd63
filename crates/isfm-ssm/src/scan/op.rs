use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Storage, Tensor};
use isfm_ops::{cpu, simd::Real};

use super::{Inputs, Path, Spec, backward, forward};

/// The scan as a Candle operation on (`u`, or `u` and dt stacked; rows of dt's factors, B and C;
/// flat parameters).
pub(crate) struct ScanOp<E> {
    spec: Spec,
    /// Whether a backward may follow.
    keep: bool,
    kept: OnceLock<Vec<E>>,
}

impl<E: Real> ScanOp<E> {
    /// Applies the scan; the callers have checked the shapes.
    pub(crate) fn apply(
        spec: Spec,
        first: &Tensor,
        proj: &Tensor,
        params: &Tensor,
    ) -> candle_core::Result<Tensor> {
        let keep = first.track_op() || proj.track_op() || params.track_op();
        let op = Self { spec, keep, kept: OnceLock::new() };
        first.contiguous()?.apply_op3(&proj.contiguous()?, &params.contiguous()?, op)
    }

    fn shape(&self) -> Shape {
        self.spec.shape()
    }
}

impl Spec {
    /// The shape of the output.
    pub(crate) fn shape(&self) -> Shape {
        let &Spec { batch, len, .. } = self;
        let width = self.width();
        if self.last {
            return Shape::from(self.elements() + self.state_elements());
        }
        match self.path {
            Path::Line => Shape::from((batch, len, width)),
            Path::Cross { h, w } => Shape::from((batch, h, w, width)),
        }
    }
}

impl<E: Real> CustomOp3 for ScanOp<E> {
    fn name(&self) -> &'static str {
        self.spec.name
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let io = Inputs::new(
            &self.spec,
            cpu::slice::<E>(s1, l1)?,
            cpu::slice::<E>(s2, l2)?,
            cpu::slice::<E>(s3, l3)?,
        );
        let (out, kept) = forward::forward(io, self.keep);
        if self.keep {
            // A second forward of the same operation would keep the same states.
            let _ = self.kept.set(kept);
        }
        Ok((E::to_cpu_storage_owned(out), self.shape()))
    }

    fn bwd(
        &self,
        first: &Tensor,
        proj: &Tensor,
        params: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let gradients = {
            let (s1, l1) = first.storage_and_layout();
            let (s2, l2) = proj.storage_and_layout();
            let (s3, l3) = params.storage_and_layout();
            let (s4, l4) = grad.storage_and_layout();
            let slice = |storage, layout| slice::<E>(self.spec.name, storage, layout);
            let io = Inputs::new(&self.spec, slice(&s1, l1)?, slice(&s2, l2)?, slice(&s3, l3)?);
            let kept = self.kept.get_or_init(|| forward::forward(io, true).1);
            backward::backward(io, slice(&s4, l4)?, kept)
        };
        let device = first.device();
        Ok((
            Some(Tensor::from_vec(gradients.first, first.shape(), device)?),
            Some(Tensor::from_vec(gradients.proj, proj.shape(), device)?),
            Some(Tensor::from_vec(gradients.params, params.shape(), device)?),
        ))
    }
}

fn slice<'a, E: Real>(
    op: &'static str,
    storage: &'a Storage,
    layout: &Layout,
) -> candle_core::Result<&'a [E]> {
    match storage {
        Storage::Cpu(storage) => Ok(cpu::slice::<E>(storage, layout)?),
        _ => candle_core::bail!("{op}: the gradient is computed on the CPU only"),
    }
}
