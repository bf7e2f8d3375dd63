//! Trains a network on a folder of image pairs.
//!
//! ```text
//! cargo run --release --example train -- --data DIR --preset small --output runs/small
//! cargo run --release --example train -- --data DIR --output runs/small --resume
//! ```
//!
//! `DIR` holds `vi/NAME` and `ir/NAME` (or `train/vi` and `train/ir`). The output folder gets
//! `weights.safetensors` (for `fuse --weights`), checkpoints, `log.jsonl` and `curve.svg`.
//! Ctrl-C finishes the step, writes a checkpoint and ends; a second one ends at once.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::Parser;
use isfm_examples::device::device;
use isfm_model::{Checkpoint, Config, Preset};
use isfm_train::{Outcome, PairFolder, RunOptions, State, TrainConfig, Trainer};

/// Train an ISFM network on pairs of visible and infrared images.
#[derive(Parser)]
#[command(name = "train", version)]
struct Args {
    /// Folder with vi/NAME and ir/NAME, or with train/vi and train/ir
    #[arg(long)]
    data: PathBuf,
    /// A configuration by name
    #[arg(long, conflicts_with = "config", required_unless_present_any = ["config", "resume"])]
    preset: Option<String>,
    /// A configuration as a JSON file
    #[arg(long)]
    config: Option<PathBuf>,
    /// Folder for weights, checkpoints and log; must be empty unless resuming
    #[arg(long)]
    output: PathBuf,
    /// Go on with the run in the output folder; settings not given are the run's own
    #[arg(long)]
    resume: bool,
    /// Passes over the data [default: 100]
    #[arg(long)]
    epochs: Option<usize>,
    /// Pairs per step [default: 4]
    #[arg(long)]
    batch: Option<usize>,
    /// Side of the square samples [default: 128]
    #[arg(long)]
    patch: Option<usize>,
    /// Highest learning rate [default: 1e-4]
    #[arg(long)]
    lr: Option<f64>,
    /// Seed of initial weights, order and augmentation [default: 3407]
    #[arg(long)]
    seed: Option<u64>,
    /// Start from these weights (.safetensors or .pth) instead of random ones
    #[arg(long, conflicts_with = "resume")]
    weights: Option<PathBuf>,
    /// cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Number of threads [default: all cores]
    #[arg(long)]
    threads: Option<usize>,
    /// Memory for decoded images, in MiB
    #[arg(long, default_value_t = 1024)]
    cache: usize,
    /// Minutes between checkpoints (one is also written after every epoch)
    #[arg(long, default_value_t = 5.)]
    checkpoint_minutes: f64,
    /// Stop, with a checkpoint, after so many steps
    #[arg(long)]
    steps: Option<usize>,
}

fn main() -> Result<()> {
    isfm::keep_freed_memory();
    let args = Args::parse();
    let data = PairFolder::open(&args.data)?.cache_bytes(args.cache.saturating_mul(1 << 20));
    if let Some(first) = data.unpaired().first() {
        let count = data.unpaired().len();
        eprintln!("warning: {count} images without a partner, the first {}", first.display());
    }
    let pairs = data.len();

    let stored = if args.resume { Some(State::latest(&args.output)?.0) } else { None };
    let model = match (&args.preset, &args.config, &stored) {
        (Some(name), _, _) => name.parse::<Preset>()?.into(),
        (None, Some(path), _) => Config::read(path)?,
        (None, None, Some(state)) => state.model.clone(),
        (None, None, None) => bail!("needs --preset or --config"),
    };
    let mut train = stored.map_or_else(TrainConfig::default, |state| state.train);
    train.epochs = args.epochs.unwrap_or(train.epochs);
    train.batch = args.batch.unwrap_or(train.batch);
    train.patch = args.patch.unwrap_or(train.patch);
    train.seed = args.seed.unwrap_or(train.seed);
    train.schedule.peak = args.lr.unwrap_or(train.schedule.peak);

    let device = device(&args.device)?;
    let mut builder = Trainer::builder(model.clone(), data).config(train).device(device);
    if let Some(path) = &args.weights {
        let file = Checkpoint::read(path, Some(&model), &candle_core::Device::Cpu)?;
        builder = builder.weights(file.weights);
    }
    let mut trainer =
        if args.resume { builder.resume(&args.output)? } else { builder.create(&args.output)? };
    for warning in trainer.warnings() {
        eprintln!("warning: {warning}");
    }
    eprintln!(
        "{pairs} pairs, {} epochs of {} steps, {} steps done; files in {}",
        trainer.config().epochs,
        trainer.steps_per_epoch(),
        trainer.steps_done(),
        args.output.display()
    );

    let stop = Arc::new(AtomicBool::new(false));
    let asked = stop.clone();
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("stopping after this step; again to stop at once");
    })?;
    ensure!(
        args.checkpoint_minutes.is_finite() && args.checkpoint_minutes >= 0.,
        "--checkpoint-minutes is {}, needs a number, 0 or more",
        args.checkpoint_minutes
    );
    let options = RunOptions {
        checkpoint_every: Duration::from_secs_f64(60. * args.checkpoint_minutes),
        stop_after: args.steps,
        stop: Some(stop),
        threads: args.threads,
        progress: true,
        ..RunOptions::default()
    };
    let outcome = trainer.run(&options)?;
    let weights = args.output.join("weights.safetensors");
    match outcome {
        Outcome::Finished => eprintln!("finished; weights in {}", weights.display()),
        Outcome::Stopped => eprintln!(
            "stopped after step {} of {}; go on with --resume",
            trainer.steps_done(),
            trainer.total_steps()
        ),
    }
    Ok(())
}
