//! What the benchmarks of whole networks share. Run them with `cargo bench -p isfm-benches`; those of the
//! scan, the Mamba blocks, the operations, the wavelets and the metrics are with their crates.

use candle_core::{DType, Device, Tensor, Var};
use isfm_model::{Config, Network, Preset, initial_weights};

mod roofline;
// The same inputs as in that crate's own benchmarks.
#[path = "../../crates/isfm-ssm/benches/scan_inputs/mod.rs"]
mod scan;

pub use isfm_testing::best;
pub use roofline::Roofline;
pub use scan::Scan;

/// A network with random weights of `dtype`; with `tracked`, gradients of them are computed.
///
/// # Errors
/// If Candle reports one.
pub fn network(
    preset: Preset,
    dtype: DType,
    device: &Device,
    tracked: bool,
) -> isfm_model::Result<Network> {
    let config = Config::from(preset);
    let mut weights = initial_weights(&config, 1, device)?;
    for tensor in weights.values_mut() {
        *tensor = tensor.to_dtype(dtype)?;
        if tracked {
            *tensor = Var::from_tensor(tensor)?.into_inner();
        }
    }
    Network::from_weights(&config, &weights)
}

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
