//! Values of options that several subcommands take.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use isfm_model::Preset;

use crate::Usage;

/// Where to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceName {
    /// The processor.
    Cpu,
    /// The NVIDIA GPU of this number.
    Cuda(usize),
}

/// `cpu`, `cuda` (this process's own) or `cuda:N`.
impl FromStr for DeviceName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let number = match name.strip_prefix("cuda") {
            None if name == "cpu" => return Ok(Self::Cpu),
            Some("") => Some(own_gpu()),
            Some(rest) => rest.strip_prefix(':').and_then(|n| n.parse::<usize>().ok()),
            None => None,
        };
        let number = number.ok_or("it is none of cpu, cuda, cuda:N")?;
        if !cfg!(feature = "cuda") {
            return Err("this build has no CUDA support; build with --features cuda".to_owned());
        }
        Ok(Self::Cuda(number))
    }
}

/// The GPU of this process: the first, or where a launcher has started several processes on this machine,
/// one each in turn.
fn own_gpu() -> usize {
    let names = ["OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"];
    let own = names.iter().find_map(|name| std::env::var(name).ok()?.trim().parse().ok());
    let own: usize = own.unwrap_or(0);
    #[cfg(feature = "cuda")]
    let own = {
        let count = candle_core::cuda::cudarc::driver::CudaContext::device_count();
        own % count.ok().and_then(|count| usize::try_from(count).ok()).unwrap_or(1).max(1)
    };
    own
}

impl DeviceName {
    /// The device itself.
    ///
    /// # Errors
    /// If there is none of that number.
    pub fn open(self) -> Result<Device> {
        let Self::Cuda(number) = self else { return Ok(Device::Cpu) };
        let device = Device::new_cuda(number).with_context(|| format!("device cuda:{number}"));
        let device = device.map_err(Usage::of)?;
        isfm::keep_freed_device_memory(&device)?;
        Ok(device)
    }
}

/// What numbers are computed in or stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ElementType {
    /// 32 bits
    F32,
    /// 16 bits, half precision
    F16,
    /// 16 bits, with the range of f32
    Bf16,
}

impl From<ElementType> for DType {
    fn from(of: ElementType) -> Self {
        match of {
            ElementType::F32 => Self::F32,
            ElementType::F16 => Self::F16,
            ElementType::Bf16 => Self::BF16,
        }
    }
}

/// A configuration by its name.
pub fn preset() -> impl TypedValueParser<Value = Preset> {
    let names = Preset::ALL.map(Preset::name);
    PossibleValuesParser::new(names).try_map(|name| name.parse::<Preset>())
}

/// Two numbers, as `LOW,HIGH`.
pub fn low_high(text: &str) -> Result<(f64, f64), String> {
    let number = |text: &str| text.trim().parse().ok();
    let both = text.split_once(',').and_then(|(low, high)| number(low).zip(number(high)));
    both.ok_or_else(|| "needs LOW,HIGH, such as 0.5,99.5".to_owned())
}

/// A name and what it is of, as `NAME=PATH`; `form` says what is needed, with an example.
pub fn named(
    form: &'static str,
) -> impl Fn(&str) -> Result<(String, PathBuf), String> + Clone + Send + Sync + 'static {
    move |text| match text.split_once('=') {
        Some((name, path)) if !name.trim().is_empty() && !path.is_empty() => {
            Ok((name.trim().to_owned(), path.into()))
        }
        _ => Err(format!("needs {form}")),
    }
}

/// A number of threads, 1 or more: no more than the machine has, and a warning if that is less than
/// asked for.
pub fn threads(text: &str) -> Result<usize, String> {
    let asked = match text.parse::<usize>() {
        Ok(0) | Err(_) => return Err("needs a number of 1 or more".to_owned()),
        Ok(asked) => asked,
    };
    let most = std::thread::available_parallelism().map_or(1, usize::from);
    if asked > most {
        eprintln!("warning: --threads is {asked}, but this machine has {most}: {most} are used");
    }
    Ok(asked.min(most))
}

/// A size of pictures, as `WxH`.
pub fn size(text: &str) -> Result<(u32, u32), String> {
    let side = |text: &str| text.trim().parse().ok().filter(|side| (2..=65_536).contains(side));
    let both = text.split_once(['x', '×']).and_then(|(w, h)| side(w).zip(side(h)));
    both.ok_or_else(|| "needs WxH in pixels, each from 2 to 65536, such as 640x480".to_owned())
}

/// Runs `work` on so many threads, or on as many as the machine has.
///
/// # Errors
/// If they cannot be had, and those of `work`.
pub fn on_threads<T: Send>(
    threads: Option<usize>,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    // Of 0 rayon makes its own number.
    rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0)).build()?.install(work)
}
