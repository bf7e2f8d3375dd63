//! `isfm train`: a network on folders of pairs.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use candle_core::Device;
use clap::Parser;
use isfm_align::Alignment;
use isfm_model::{Checkpoint, Config, Preset};
use isfm_train::{
    Corrupt, DataSet, Outcome, PairFolder, RunFile, RunOptions, State, TrainConfig, Trainer,
    TrainerBuilder,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::options::{DeviceName, preset, threads};
use crate::ranks::Ranks;
use crate::{Console, ConsoleArgs, Usage, stop_after_step};

/// Train a network on pairs of visible and infrared pictures.
///
/// A run file has model, settings, folders and validation in one place; other options override it, and
/// a resumed run remembers it. The output folder gets `weights.safetensors` (for `isfm fuse --weights`),
/// checkpoints, `log.jsonl` and `curve.svg`.
///
/// A run can be stopped at any moment, `kill -9` included, and goes on with --resume as if it had not
/// been. Ctrl-C finishes the step, writes a checkpoint and ends; a second one ends at once.
///
/// Built with the feature `mpi`, it trains on as many processes as `mpirun` or `srun` start, with the same
/// result whatever their number: each computes some of a step's micro-batches (--micro-batch).
#[derive(Parser, Debug)]
#[command(
    name = "train",
    after_help = "Examples:\n  \
        isfm train --data DIR --preset live -o runs/live\n  \
        isfm train --run run.toml -o runs/live\n  \
        isfm train -o runs/live --resume\n  \
        mpirun -n 4 isfm train --data DIR --preset live --batch 8 --micro-batch 1 -o runs/live"
)]
pub struct Args {
    /// A whole run as a TOML or JSON file: sections model, train, data and validation
    #[arg(long, value_name = "FILE")]
    pub run: Option<PathBuf>,
    /// Folder with vi/NAME and ir/NAME, or with train/vi and train/ir; instead of the run file's
    #[arg(long, value_name = "DIR", required_unless_present_any = ["run", "resume"])]
    pub data: Option<PathBuf>,
    /// Where infrared pictures lie on visible ones, if they do not line up: what `isfm align` writes. Of each pair the
    /// largest rectangle that both cover is trained on
    #[arg(long, value_name = "H.json", requires = "data")]
    pub align: Option<PathBuf>,
    /// A configuration by name
    #[arg(
        long,
        value_name = "NAME",
        value_parser = preset(),
        conflicts_with = "config",
        required_unless_present_any = ["config", "run", "resume"]
    )]
    pub preset: Option<Preset>,
    /// A configuration as a JSON file
    #[arg(long, value_name = "FILE.json")]
    pub config: Option<PathBuf>,
    /// Folder for weights, checkpoints and log; must be empty unless resuming
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// Go on with the run in the output folder; settings not given are the run's own
    #[arg(long)]
    pub resume: bool,
    /// Passes over the data [default: 100]; a run file's `steps` goes before it
    #[arg(long, value_name = "N")]
    pub epochs: Option<usize>,
    /// Pairs per step [default: 4]
    #[arg(long, value_name = "N")]
    pub batch: Option<usize>,
    /// Pairs whose gradient is computed at once, a divisor of the batch; smaller ones need less memory, and
    /// several ranks need at least one each [default: the batch]
    #[arg(long, value_name = "N")]
    pub micro_batch: Option<usize>,
    /// Side of the square samples [default: 128]
    #[arg(long, value_name = "N")]
    pub patch: Option<usize>,
    /// Highest learning rate [default: 1e-4]
    #[arg(long, value_name = "N")]
    pub lr: Option<f64>,
    /// Seed of initial weights, order and augmentation [default: 3407]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Start from these weights (.safetensors or .pth) instead of random ones
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    pub weights: Option<PathBuf>,
    /// cpu, cuda or cuda:N; of several ranks on a machine each takes a GPU of its own for `cuda`
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: DeviceName,
    /// Threads to use, at most as many as the machine has; all by default
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
    /// Memory for decoded images, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    pub cache: usize,
    /// Minutes between checkpoints (one is also written after every epoch)
    #[arg(long, value_name = "MINUTES", default_value = "5", value_parser = minutes)]
    pub checkpoint_minutes: Duration,
    /// Stop, with a checkpoint, after so many steps
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: Option<u64>,
    /// What becomes of pairs that cannot be read, or whose images differ in size: `refuse` decodes all of
    /// them first and ends if there is one; `skip:N` names each, trains on others instead, and ends at
    /// more than N; `skip` at more than a tenth of the pairs [default: skip]
    #[arg(long, value_name = "HOW")]
    pub corrupt: Option<Corrupt>,
    /// What is said.
    #[command(flatten)]
    pub console: ConsoleArgs,
}

fn minutes(text: &str) -> Result<Duration, String> {
    let minutes = text.parse::<f64>().ok();
    let time = minutes.and_then(|minutes| Duration::try_from_secs_f64(60. * minutes).ok());
    time.ok_or_else(|| "needs a number of minutes, from 0 to 3e17".to_owned())
}

/// Does what the arguments ask, as one of `ranks`.
pub fn run(mut args: Args, ranks: &Ranks) -> Result<Vec<String>> {
    if !ranks.is_first() {
        args.console = ConsoleArgs { quiet: true, json: false };
    }
    let console = Console::new(args.console, []);
    let (mut trainer, pairs) = begin(&args, console, ranks)?;
    let of_ranks = match ranks.collective().size() {
        1 => String::new(),
        size => format!(", {size} ranks"),
    };
    console.note(format_args!(
        "{pairs} pairs, {} of them held back, {} steps, {} an epoch, {} done{of_ranks}; files in {}",
        trainer.held_back().len(),
        trainer.total_steps(),
        trainer.steps_per_epoch(),
        trainer.steps_done(),
        args.output.display()
    ));

    let stop = ranks.agree(stop_after_step(ranks.is_first()).map_err(Into::into))?;
    ranks.end_if_others_are_gone(&stop);
    let options = RunOptions {
        checkpoint_every: args.checkpoint_minutes,
        stop_after: args.steps.map(|steps| usize::try_from(steps).unwrap_or(usize::MAX)),
        stop: Some(stop),
        threads: args.threads,
        progress: !args.console.quiet,
        ..RunOptions::default()
    };
    let outcome = trainer.run(&options)?;
    let weights = args.output.join("weights.safetensors");
    let left_out = trainer.left_out().len();
    if left_out > 0 && ranks.is_first() {
        eprintln!("{left_out} of {pairs} pairs were left out");
    }
    let (done, total) = (trainer.steps_done(), trainer.total_steps());
    match outcome {
        Outcome::Finished => {
            console.note(format_args!("finished; weights in {}", weights.display()));
        }
        Outcome::Stopped => {
            console.note(format_args!("stopped after step {done} of {total}; go on with --resume"))
        }
    }
    console.tell(&json!({
        "type": "summary", "finished": matches!(outcome, Outcome::Finished), "steps": done,
        "of": total, "pairs": pairs, "left_out": left_out, "weights": weights,
    }));
    Ok(Vec::new())
}

/// The run that the arguments ask for, begun or gone on with, and how many pairs it has.
fn begin(args: &Args, console: Console, ranks: &Ranks) -> Result<(Trainer, usize)> {
    let stored = ranks.agree(stored(args, ranks).map_err(Usage::of))?;
    let prepared = ranks.agree(prepare(args, stored, console).map_err(Usage::of))?;
    let (builder, device, pairs) = prepared;
    let group = ranks.collective_on(&device).map_err(Usage::of)?;
    let builder = builder.device(device).collective(group);
    let trainer =
        if args.resume { builder.resume(&args.output) } else { builder.create(&args.output) };
    let trainer = trainer.map_err(Usage::of)?;
    for warning in trainer.warnings() {
        console.note(format_args!("warning: {warning}"));
    }
    for problem in trainer.left_out() {
        console.note(format_args!("warning: left out: {problem}"));
    }
    Ok((trainer, pairs))
}

/// What a checkpoint says of its run.
#[derive(Serialize, Deserialize)]
struct Stored {
    run: Option<String>,
    model: Config,
    train: TrainConfig,
}

/// That of the run to go on with, which rank 0 reads for all.
fn stored(args: &Args, ranks: &Ranks) -> Result<Option<Stored>> {
    let read = || {
        let state = State::latest(&args.output)?.0;
        let State { run, model, train, .. } = state;
        Ok(Some(Stored { run, model, train }))
    };
    let own = if args.resume && ranks.is_first() { read() } else { Ok(None) };
    let own = ranks.agree(own)?;
    let mut text = serde_json::to_vec(&own)?;
    ranks.collective().broadcast(&mut text)?;
    let first: Option<Stored> = serde_json::from_slice(&text)?;
    // One that was not asked to go on is refused by the trainer.
    Ok(first.filter(|_| args.resume))
}

/// The trainer to be, where it is to compute, and how many pairs it has.
fn prepare(
    args: &Args,
    stored: Option<Stored>,
    console: Console,
) -> Result<(TrainerBuilder, Device, usize)> {
    let file = match (&args.run, stored.as_ref().and_then(|state| state.run.as_ref())) {
        (Some(path), _) => Some(RunFile::read(path)?),
        (None, Some(text)) => Some(RunFile::parse("of the checkpoint", text)?),
        (None, None) => None,
    };
    let cache = args.cache.saturating_mul(1 << 20);
    let data: DataSet = match (&args.data, &file) {
        (Some(folder), _) => {
            let folder = match &args.align {
                Some(path) => PairFolder::open_aligned(folder, Alignment::read(path)?)?,
                None => PairFolder::open(folder)?,
            };
            folder.cache_bytes(cache).into()
        }
        (None, Some(file)) => file.open_data(cache)?,
        (None, None) => bail!("needs --data, or --run with a section [[data]]"),
    };
    for (folder, _) in data.folders() {
        if let Some(first) = folder.unpaired().first() {
            let count = folder.unpaired().len();
            console.note(format_args!(
                "warning: {count} images without a partner, the first {}",
                first.display()
            ));
        }
        for ambiguous in folder.ambiguous() {
            console.note(format_args!("warning: left out: {ambiguous}"));
        }
        for (side, skipped) in ["visible", "infrared"].into_iter().zip(folder.skipped()) {
            if skipped.total() > 0 {
                console.note(format_args!(
                    "warning: not taken for pictures beside the {side} ones: {skipped}"
                ));
            }
        }
    }
    let pairs = data.len();
    // A new file on resuming says what the run is meant to be; the trainer compares.
    let given = args.run.as_ref().and(file.as_ref());
    let model = match (&args.preset, &args.config, given.and_then(|f| f.model.clone()), &stored) {
        (Some(preset), ..) => (*preset).into(),
        (None, Some(path), ..) => Config::read(path)?,
        (None, None, Some(model), _) => model,
        (None, None, None, Some(state)) => state.model.clone(),
        (None, None, None, None) => bail!("needs --preset, --config, or --run with [model]"),
    };
    let mut train = match (given, stored) {
        (Some(file), _) => file.train.clone(),
        (None, Some(state)) => state.train,
        (None, None) => TrainConfig::default(),
    };
    train.epochs = args.epochs.unwrap_or(train.epochs);
    train.batch = args.batch.unwrap_or(train.batch);
    train.micro_batch = args.micro_batch.or(train.micro_batch);
    train.patch = args.patch.unwrap_or(train.patch);
    train.seed = args.seed.unwrap_or(train.seed);
    train.schedule.peak = args.lr.unwrap_or(train.schedule.peak);

    let device = args.device.open()?;
    let mut builder = Trainer::builder(model.clone(), data).config(train);
    if let Some(file) = &file {
        builder = builder.run_file(file);
    }
    let corrupt = args.corrupt.or_else(|| file.as_ref().and_then(|file| file.corrupt));
    builder = builder.corrupt(corrupt.unwrap_or_default());
    if let Some(path) = &args.weights {
        let file = Checkpoint::read(path, Some(&model), &Device::Cpu)?;
        builder = builder.weights(file.weights);
    }
    Ok((builder, device, pairs))
}
