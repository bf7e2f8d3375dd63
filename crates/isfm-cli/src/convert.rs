//! `isfm convert`: weights, a released `.pth` among them, as one self-contained safetensors file.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use candle_core::Device;
use clap::Parser;
use isfm_model::{Checkpoint, Config};
use serde_json::json;

use crate::options::ElementType;
use crate::{Console, ConsoleArgs, Usage};

/// Turn weights into one self-contained safetensors file.
///
/// Reads safetensors and what `torch.save` writes, the released `.pth` among them, with the wrappers and
/// prefixes that people's files have. No code of the file is run.
#[derive(Parser, Debug)]
#[command(
    name = "convert",
    after_help = "Example:\n  isfm convert --weights released.pth -o isfm.safetensors"
)]
pub struct Args {
    /// Weights to read (.safetensors or .pth)
    #[arg(long, value_name = "FILE")]
    pub weights: PathBuf,
    /// Their configuration as JSON, if the file does not carry it and its shapes do not tell
    #[arg(long, value_name = "FILE.json")]
    pub config: Option<PathBuf>,
    /// The safetensors file to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Element type of the stored weights
    #[arg(long, value_name = "TYPE", default_value = "f16")]
    pub dtype: ElementType,
    /// What is said.
    #[command(flatten)]
    pub console: ConsoleArgs,
}

/// Does what the arguments ask.
pub fn run(args: Args) -> Result<Vec<String>> {
    if args.output.is_dir() {
        let folder = args.output.display();
        return Err(Usage::of(anyhow!("{folder} is a folder: name the file to write")));
    }
    let config = args.config.map(Config::read).transpose().map_err(Usage::of)?;
    let checkpoint = Checkpoint::read(&args.weights, config.as_ref(), &Device::Cpu);
    let checkpoint = checkpoint.map_err(Usage::of)?;
    let console = Console::new(args.console, [args.output.as_path()]);
    checkpoint.write(&args.output, args.dtype.into())?;
    let mut bytes = None;
    if isfm_files::is_stream(&args.output) {
        console.say(args.output.display());
    } else {
        let length = std::fs::metadata(&args.output).context("the file just written")?.len();
        console.say(format_args!("{} ({length} bytes)", args.output.display()));
        bytes = Some(length);
    }
    console.tell(&json!({ "type": "file", "output": args.output, "bytes": bytes }));
    Ok(Vec::new())
}
