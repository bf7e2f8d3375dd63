//! The scan on a GPU: inputs of any float type there, parameters, states and sums in `f32`.

use std::sync::OnceLock;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp3, DType, Layout, Result, Shape, Tensor};
use isfm_kernels::scan::Scan;
use isfm_ops::cuda::{kernel_type, run, storage, tensor};

use crate::scan::{Path, Spec};

/// The scan of [`crate::scan`]'s three inputs; the callers have checked the shapes.
pub(crate) fn apply(spec: Spec, first: &Tensor, proj: &Tensor, params: &Tensor) -> Result<Tensor> {
    let params = params.to_dtype(DType::F32)?.contiguous()?;
    let keep = first.track_op() || proj.track_op() || params.track_op();
    let op = CudaScan { spec, keep, kept: OnceLock::new() };
    first.contiguous()?.apply_op3(&proj.contiguous()?, &params, op)
}

struct CudaScan {
    spec: Spec,
    /// Whether a backward may follow.
    keep: bool,
    /// The states that enter each chunk.
    kept: OnceLock<Tensor>,
}

impl CudaScan {
    fn scan(&self) -> Scan {
        let s = &self.spec;
        let map = match s.path {
            Path::Line => None,
            Path::Cross { h, w } => Some((h, w)),
        };
        Scan {
            batch: s.batch,
            length: s.len,
            map,
            groups: s.groups,
            channels: s.channels,
            states: s.states,
            rank: s.rank,
            bias: s.bias,
            skip: s.skip,
            initial: s.init,
            softplus: s.softplus,
            log_a: s.log_a,
            last: s.last,
        }
    }
}

impl CustomOp3 for CudaScan {
    fn name(&self) -> &'static str {
        self.spec.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        candle_core::bail!("{}: some arguments are on a GPU, others are not", self.name())
    }

    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
        s3: &CudaStorage,
        l3: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let plan = self.scan().forward(kernel_type(self.name(), s1.dtype())?, self.keep);
        let mut outputs = run(plan, &[(s1, l1), (s2, l2), (s3, l3)])?.into_iter();
        let out = outputs.next();
        if let Some(kept) = outputs.next() {
            let len = self.scan().kept().map_err(isfm_ops::Error::CudaLimit)?;
            // A second forward of the same operation would keep the same states.
            let _ = self.kept.set(tensor(kept, len));
        }
        match out {
            Some(out) => Ok((out, self.spec.shape())),
            None => candle_core::bail!("{}: the plan has no output", self.name()),
        }
    }

    fn bwd(
        &self,
        first: &Tensor,
        proj: &Tensor,
        params: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(kept) = self.kept.get() else {
            candle_core::bail!("{}: a gradient without a forward before it", self.name());
        };
        let plan = self.scan().backward(kernel_type(self.name(), first.dtype())?);
        let grad = grad.contiguous()?;
        let tensors = [first, proj, params, &grad, kept];
        let held = tensors.map(Tensor::storage_and_layout);
        let mut inputs = Vec::with_capacity(held.len());
        for (held, layout) in &held {
            inputs.push((storage(self.name(), held)?, *layout));
        }
        let shapes = [first, proj, params].map(Tensor::shape);
        let outputs = run(plan, &inputs)?;
        let mut all = outputs.into_iter().zip(shapes).map(|(s, shape)| tensor(s, shape.clone()));
        Ok((all.next(), all.next(), all.next()))
    }
}
