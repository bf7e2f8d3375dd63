//! Turns weights, a released `.pth` among them, into one self-contained safetensors file.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};
use clap::{Parser, ValueEnum};
use isfm_examples::Voice;
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

fn main() -> ExitCode {
    isfm_examples::end(convert(Args::parse()))
}

fn convert(args: Args) -> Result<()> {
    isfm_examples::on_interrupt(|code| isfm_files::exit(code))?;
    if args.output.is_dir() {
        bail!("{} is a folder: name the file to write", args.output.display());
    }
    let config = args.config.map(Config::read).transpose()?;
    let checkpoint = Checkpoint::read(&args.weights, config.as_ref(), &Device::Cpu)?;
    let dtype = match args.dtype {
        Stored::F32 => DType::F32,
        Stored::F16 => DType::F16,
        Stored::Bf16 => DType::BF16,
    };
    let voice = Voice::beside([args.output.as_path()]);
    checkpoint.write(&args.output, dtype)?;
    if isfm_files::is_stream(&args.output) {
        voice.say(args.output.display());
    } else {
        let bytes = std::fs::metadata(&args.output).context("the file just written")?.len();
        voice.say(format_args!("{} ({bytes} bytes)", args.output.display()));
    }
    Ok(())
}
