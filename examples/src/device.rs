//! Devices by name, as the programs' `--device` takes them.

use anyhow::{Context, Result, bail};
use candle_core::Device;

/// `cpu`, `cuda` or `cuda:N`.
pub fn device(name: &str) -> Result<Device> {
    if name == "cpu" {
        return Ok(Device::Cpu);
    }
    let number = match name.strip_prefix("cuda") {
        Some("") => Some(0),
        Some(rest) => rest.strip_prefix(':').and_then(|n| n.parse::<usize>().ok()),
        None => None,
    };
    let Some(number) = number else { bail!("device {name:?} is none of cpu, cuda, cuda:N") };
    if !cfg!(feature = "cuda") {
        bail!("device {name}: this build has no CUDA support; build with --features cuda");
    }
    let device = Device::new_cuda(number).with_context(|| format!("device {name}"))?;
    #[cfg(feature = "cuda")]
    isfm::keep_freed_device_memory(&device)?;
    Ok(device)
}
