//! Turns weights, a released `.pth` among them, into one self-contained safetensors file.

use std::path::PathBuf;

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use clap::{Parser, ValueEnum};
use isfm_model::{Checkpoint, Config};

/// Turn weights into one self-contained safetensors file
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Weights to read (.safetensors or .pth)
    #[arg(long)]
    weights: PathBuf,
    /// Their configuration as JSON, if the file does not carry it and its shapes do not tell
    #[arg(long)]
    config: Option<PathBuf>,
    /// The safetensors file to write
    #[arg(long)]
    output: PathBuf,
    /// Element type of the stored weights
    #[arg(long, value_enum, default_value = "f16")]
    dtype: Stored,
}

#[derive(Clone, Copy, ValueEnum)]
enum Stored {
    F32,
    F16,
    Bf16,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let config = args.config.map(Config::read).transpose()?;
    let checkpoint = Checkpoint::read(&args.weights, config.as_ref(), &Device::Cpu)?;
    let dtype = match args.dtype {
        Stored::F32 => DType::F32,
        Stored::F16 => DType::F16,
        Stored::Bf16 => DType::BF16,
    };
    checkpoint.write(&args.output, dtype)?;
    let bytes = std::fs::metadata(&args.output).context("the file just written")?.len();
    println!("{} ({bytes} bytes)", args.output.display());
    Ok(())
}
