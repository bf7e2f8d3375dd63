//! What the programs' `--device` and `--threads` mean.

use anyhow::{Context, Result, bail, ensure};
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

/// What of `--threads` is used: no more than the machine has, and a warning if that is less.
pub fn threads(asked: Option<usize>) -> Result<Option<usize>> {
    let Some(asked) = asked else { return Ok(None) };
    ensure!(asked > 0, "--threads is 0, needs 1 or more");
    let most = std::thread::available_parallelism().map_or(1, usize::from);
    if asked > most {
        eprintln!("warning: --threads is {asked}, but this machine has {most}: {most} are used");
    }
    Ok(Some(asked.min(most)))
}
