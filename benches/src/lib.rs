//! What the benchmarks share. Run them with `cargo bench -p isfm-benches`.

use candle_core::{Device, Tensor, Var};

mod roofline;
mod scan;

pub use roofline::Roofline;
pub use scan::Scan;

/// A tensor of standard normal values.
pub fn random(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1., shape, &Device::Cpu).expect("a tensor on the CPU")
}

/// The same as a variable, so that gradients are computed.
pub fn random_var(shape: &[usize]) -> Var {
    Var::from_tensor(&random(shape)).expect("a variable on the CPU")
}

/// Grey images with values in [0, 1], B×1×H×W.
pub fn image(batch: usize, height: usize, width: usize) -> Tensor {
    Tensor::rand(0f32, 1., (batch, 1, height, width), &Device::Cpu).expect("a tensor on the CPU")
}
