use std::sync::OnceLock;

use candle_core::{DType, Device, Error, Result, Shape, Tensor};
use isfm_kernels::scan::{Path, Scan};
use isfm_kernels::{Plan, Type};
use isfm_ops::internal::float;
use isfm_ops::op::{Gradients, Input, Op, apply, with_slices};
use isfm_ops::simd::Real;

use super::{Inputs, backward, forward};

/// The scan of (`u`, or `u` and dt stacked; rows of dt's factors, B and C; flat parameters). The
/// callers have checked the shapes.
pub(crate) fn scan(
    name: &'static str,
    scan: Scan,
    first: &Tensor,
    proj: &Tensor,
    params: &Tensor,
) -> Result<Tensor> {
    float(name, first)?;
    // On a GPU parameters, states and sums are f32, whatever the inputs are.
    let params = match first.device() {
        Device::Cuda(_) => &params.to_dtype(DType::F32)?,
        _ => params,
    };
    let keep = [first, proj, params].into_iter().any(Tensor::track_op);
    apply(ScanOp { name, scan, keep, kept: OnceLock::new() }, &[first, proj, params])
}

struct ScanOp {
    name: &'static str,
    scan: Scan,
    /// Whether an input is tracked, so that a backward may follow.
    keep: bool,
    /// The states that enter each chunk, from the forward.
    kept: OnceLock<Tensor>,
}

impl Op for ScanOp {
    fn name(&self) -> &'static str {
        self.name
    }

    fn shape(&self, _: &[&Shape]) -> Result<Shape> {
        let scan = &self.scan;
        Ok(match scan.path() {
            _ if scan.has_last() => (scan.elements() + scan.state_elements()).into(),
            Path::Line => (scan.batch(), scan.length(), scan.width()).into(),
            Path::Cross { rows, cols } => (scan.batch(), rows, cols, scan.width()).into(),
        })
    }

    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        let io = Inputs::new(&self.scan, inputs[0].data, inputs[1].data, inputs[2].data);
        let (out, kept) = forward::forward(io, self.keep);
        if self.keep {
            let n = kept.len();
            let _ = self.kept.set(Tensor::from_vec(kept, n, &Device::Cpu)?);
        }
        Ok(out)
    }

    fn plan(&self, t: Type, _: &[&Shape]) -> Result<Plan> {
        self.scan.forward(t, self.keep).map_err(Error::wrap)
    }

    #[cfg(feature = "cuda")]
    fn cuda(
        &self,
        inputs: &[isfm_ops::internal::cuda::Input<'_>],
    ) -> Result<candle_core::CudaStorage> {
        use candle_core::backend::BackendStorage;
        use isfm_ops::internal::cuda::{kernel_type, run, tensor};

        let plan = self.plan(kernel_type(self.name, inputs[0].0.dtype())?, &[])?;
        let mut outputs = run(&plan, inputs)?.into_iter();
        let out = outputs.next();
        if let Some(kept) = outputs.next() {
            let len = self.scan.kept().map_err(Error::wrap)?;
            let _ = self.kept.set(tensor(kept, len));
        }
        out.ok_or_else(|| Error::msg(format!("{}: the plan has no output", self.name)))
    }

    fn gradients(&self, inputs: &[&Tensor], _: &Tensor, grad: &Tensor) -> Result<Gradients> {
        let Some(kept) = self.kept.get() else {
            return Err(Error::msg(format!("{}: a gradient without a forward", self.name)));
        };
        let all = [inputs[0], inputs[1], inputs[2], grad, kept];
        #[cfg(feature = "cuda")]
        if grad.device().is_cuda() {
            return self.gradients_on_cuda(all);
        }
        match grad.dtype() {
            DType::F64 => self.gradients_on_cpu::<f64>(all),
            _ => self.gradients_on_cpu::<f32>(all),
        }
    }
}

impl ScanOp {
    /// From the three inputs, the result's gradient and the states kept.
    fn gradients_on_cpu<E: Real>(&self, all: [&Tensor; 5]) -> Result<Gradients> {
        let gradients = with_slices::<E, _>(&all, |slices| {
            let io = Inputs::new(&self.scan, slices[0], slices[1], slices[2]);
            Ok(backward::backward(io, slices[3], slices[4]))
        })?;
        let tensor = |values: Vec<E>, like: &Tensor| {
            Tensor::from_vec(values, like.shape(), &Device::Cpu).map(Some)
        };
        Ok([
            tensor(gradients.first, all[0])?,
            tensor(gradients.proj, all[1])?,
            tensor(gradients.params, all[2])?,
        ])
    }

    #[cfg(feature = "cuda")]
    fn gradients_on_cuda(&self, all: [&Tensor; 5]) -> Result<Gradients> {
        use isfm_ops::internal::cuda::{kernel_type, run, storage, tensor};

        let t = kernel_type(self.name, all[0].dtype())?;
        let plan = self.scan.backward(t).map_err(Error::wrap)?;
        let held = all.map(Tensor::storage_and_layout);
        let mut inputs = Vec::with_capacity(held.len());
        for (held, layout) in &held {
            inputs.push((storage(self.name, held)?, *layout));
        }
        let mut outputs = run(&plan, &inputs)?.into_iter().zip(all);
        Ok([(); 3].map(|()| outputs.next().map(|(s, like)| tensor(s, like.shape().clone()))))
    }
}
