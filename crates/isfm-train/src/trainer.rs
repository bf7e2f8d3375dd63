use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::Optimizer;
use indicatif::{ProgressBar, ProgressStyle};
use isfm_losses::{FusionLoss, LossWeights, clamp_unit, fusion_loss};
use isfm_model::{Checkpoint, Config, Network, PyramidFusion, initial_weights};
use serde::{Deserialize, Serialize};

use crate::average::Average;
use crate::checkpoint::{LAST, PREVIOUS, write};
use crate::collective::{Group, fold, nodes, share};
use crate::corrupt::{LeftOut, Place};
use crate::loader::{Batch, Loader};
use crate::log::Log;
use crate::mixture::Split;
use crate::validate::{VALIDATIONS, Validator};
use crate::{
    Adam, Alone, Collective, Corrupt, DataSet, Error, Result, RunFile, State, StepReport,
    TrainConfig, Update, ValidationReport, curve,
};

/// So many steps without a slope, and a run is given up: the optimiser's memory, which decays by
/// a tenth a step, will not move it any more.
const STUCK: usize = 50;

const LOCK: &str = ".lock";
const LOG: &str = "log.jsonl";

/// Prepares a [`Trainer`].
#[must_use = "a builder does nothing until `create` or `resume`"]
pub struct TrainerBuilder {
    model: Config,
    data: DataSet,
    train: TrainConfig,
    device: Device,
    weights: Option<BTreeMap<String, Tensor>>,
    run: Option<String>,
    corrupt: Corrupt,
    group: Box<dyn Collective>,
}

/// Where a run begins or goes on.
struct Start {
    adam: Adam,
    average: Option<Average>,
    seconds: f64,
    best: Option<f64>,
    /// The checkpoint that it is in.
    saved: PathBuf,
    /// Whether there is a newer one, which is damaged.
    damaged: bool,
    warnings: Vec<String>,
}

impl Start {
    fn of(state: State, train: &TrainConfig, device: &Device, saved: PathBuf) -> Result<Self> {
        let vars = variables(&state.weights, device)?;
        let adam = Adam::restore(vars, train.adam.clone(), state.step, state.moments)?;
        let average = train.ema.zip(state.average);
        let average =
            average.map(|(decay, values)| Average::restore(decay, &adam, values)).transpose()?;
        let (seconds, best, warnings) = (state.seconds, state.best, Vec::new());
        Ok(Self { adam, average, seconds, best, saved, damaged: false, warnings })
    }
}

impl TrainerBuilder {
    /// The run's settings; the authors' recipe unless given.
    pub fn config(mut self, train: TrainConfig) -> Self {
        self.train = train;
        self
    }

    /// Where to compute; the CPU unless given.
    pub fn device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// Weights to start from, by released name, instead of random ones. A resumed run has its own.
    pub fn weights(mut self, weights: BTreeMap<String, Tensor>) -> Self {
        self.weights = Some(weights);
        self
    }

    /// The run file that these settings came from, whose content is kept in the checkpoints. It
    /// sets nothing: what it says has been given to the builder, or was overridden. A resumed run
    /// keeps its own unless given another.
    pub fn run_file(mut self, file: &RunFile) -> Self {
        self.run = Some(file.text().to_string());
        self
    }

    /// What becomes of pairs that cannot be trained on; a tenth of them may be left out unless given.
    /// A resumed run can be given another answer.
    pub fn corrupt(mut self, corrupt: Corrupt) -> Self {
        self.corrupt = corrupt;
        self
    }

    /// The group of processes that trains the network together; this process alone unless given.
    ///
    /// All ranks build their trainer with the same settings and data and then call the same methods in the
    /// same order. Each takes its share of a step's micro-batches ([`TrainConfig::micro_batch`]). Rank 0
    /// alone touches the output folder and validates; the others need not even see it. The weights are rank
    /// 0's.
    pub fn collective(mut self, group: impl Collective + 'static) -> Self {
        self.group = Box::new(group);
        self
    }

    /// Starts a run whose files go to the folder `output`, which is made, or must be empty but for what
    /// a run killed before its first checkpoint leaves. A first checkpoint, of step 0, is written at once.
    ///
    /// # Errors
    /// [`Error::OutputNotEmpty`]; [`Error::Setting`] for settings out of range or a batch larger
    /// than the data set or than memory; [`Error::Corrupt`]; weights that do not fit the model; a folder that
    /// cannot be written. Of a group, [`Error::World`] if a rank has other settings or data, and
    /// [`Error::OnRank`] for what only some of them cannot do.
    pub fn create(self, output: impl AsRef<Path>) -> Result<Trainer> {
        self.build(output.as_ref(), false)
    }

    /// Goes on with the run in the folder `output` from its newest whole checkpoint, on any number of ranks; a
    /// damaged one is put aside as `damaged.safetensors` and told of by [`Trainer::warnings`]. So is it if
    /// pictures were replaced under their names, which the run goes on with.
    ///
    /// # Errors
    /// [`Error::NoCheckpoint`]; [`Error::Differs`] if model, settings or data are not the run's
    /// own; [`Error::OutputInUse`]; of a group as [`TrainerBuilder::create`].
    pub fn resume(self, output: impl AsRef<Path>) -> Result<Trainer> {
        self.build(output.as_ref(), true)
    }

    fn build(mut self, dir: &Path, resume: bool) -> Result<Trainer> {
        let mut group = Group::new(std::mem::replace(&mut self.group, Box::new(Alone)));
        let own = self.own_micro_batches(&group);
        let own = group.agree(own)?;
        self.compare(&mut group, resume)?;

        // The folder is rank 0's.
        let start = match (group.is_first(), resume) {
            (false, _) => Ok(None),
            (true, false) => self.fresh(dir).map(Some),
            (true, true) => self.stored(dir).map(Some),
        };
        let start = group.agree(start)?;
        let Self { model, train, data, device, run, corrupt, .. } = self;
        let micro_batch = train.batch / train.micro_batches();
        let samples = own.start * micro_batch..own.end * micro_batch;
        let loader = Loader::new(data, train.clone(), corrupt, samples);
        let loader = loader.and_then(|loader| {
            let pairs = loader.split.pairs();
            if pairs < train.batch {
                let needed = format!("at most the {pairs} pairs there are");
                return Err(Error::setting("batch", train.batch, &needed));
            }
            if device.is_cpu() {
                fits(&model, &train)?;
            }
            Ok(loader)
        });
        let loader = group.agree(loader)?;
        let dir = dir.to_path_buf();
        let parts = Parts { model, train, loader, run, dir, own };

        // The others begin where rank 0 does.
        let (alone, last) = (group.size() == 1, parts.dir.join(LAST));
        let begun = match start {
            Some(start) => parts.assemble(start, true).and_then(|trainer| {
                let state = if alone { Vec::new() } else { trainer.state()?.bytes()? };
                Ok((state, Ok(trainer)))
            }),
            None => Ok((Vec::new(), Err(parts))),
        };
        let (mut state, begun) = group.agree(begun)?;
        if !alone {
            group.broadcast(&mut state)?;
        }
        let trainer = begun.or_else(|parts: Parts| {
            let state = State::parse(&last, &state)?;
            let start = Start::of(state, &parts.train, &device, last)?;
            parts.assemble(start, false)
        });
        let mut trainer = group.agree(trainer)?;
        trainer.group = group;
        if !resume {
            let saved = trainer.save();
            trainer.group.agree(saved)?;
        }
        Ok(trainer)
    }

    /// This rank's of a step's micro-batches.
    fn own_micro_batches(&self, group: &Group) -> Result<Range<usize>> {
        self.train.validate()?;
        let (count, size) = (self.train.micro_batches(), group.size());
        if count < size {
            let batch = self.train.batch;
            let got = self.train.micro_batch.unwrap_or(batch);
            let needed = format!(
                "a smaller divisor of batch = {batch}: {size} ranks need at least one micro-batch each, and \
                 there are {count}"
            );
            return Err(Error::setting("micro_batch", got, &needed));
        }
        Ok(share(count, group.rank(), size))
    }

    /// Whether all ranks are about to do the same.
    fn compare(&self, group: &mut Group, resume: bool) -> Result<()> {
        if group.size() == 1 {
            return Ok(());
        }
        let pairs =
            Split::of(&self.data, self.train.validation.as_ref()).map(|split| split.pairs());
        let pairs = group.agree(pairs)?;
        let print = ("fingerprint", self.data.fingerprint());
        let names = format!("{:016x}", self.data.names_fingerprint());
        let device = if self.device.is_cpu() { "cpu" } else { "gpu" };
        // What says most first.
        let mut own: Vec<(String, String)> = vec![
            ("program".into(), format!("isfm-train {}", env!("CARGO_PKG_VERSION"))),
            ("resume".into(), resume.to_string()),
            ("device".into(), device.into()),
            ("corrupt".into(), format!("{:?}", self.corrupt)),
            ("data.pairs".into(), self.data.len().to_string()),
            ("data.names".into(), names),
        ];
        own.extend(settings(&self.model, &self.train, pairs, print));
        let text = |of: &[(String, String)]| serde_json::to_vec(of).unwrap_or_default();
        let mut first = text(&own);
        group.broadcast(&mut first)?;
        let first = serde_json::from_slice::<Vec<(String, String)>>(&first).unwrap_or_default();
        let differs = group.gather(Ok(difference(&first, &own)))?;
        for (rank, differs) in differs.into_iter().enumerate() {
            if let Some((setting, first, given)) = differs {
                return Err(Error::World { rank, setting, first, given });
            }
        }
        Ok(())
    }

    /// A run's beginning, in a folder that has none.
    fn fresh(&self, dir: &Path) -> Result<Start> {
        std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
        for entry in std::fs::read_dir(dir).map_err(Error::io(dir))? {
            if !is_of_no_run(&entry.map_err(Error::io(dir))?.path()) {
                return Err(Error::OutputNotEmpty(dir.to_path_buf()));
            }
        }
        let vars = match &self.weights {
            Some(weights) => variables(weights, &self.device)?,
            None => {
                let seed = self.train.seed;
                variables(&initial_weights(&self.model, seed, &self.device)?, &self.device)?
            }
        };
        let adam = Adam::named(vars, self.train.adam.clone())?;
        let average = self.train.ema.map(|decay| Average::start(decay, &adam)).transpose()?;
        let (saved, warnings) = (dir.join(LAST), Vec::new());
        Ok(Start { adam, average, seconds: 0., best: None, saved, damaged: false, warnings })
    }

    /// Where the run in a folder was.
    fn stored(&mut self, dir: &Path) -> Result<Start> {
        let (state, path, newer) = State::latest(dir)?;
        let pairs = Split::of(&self.data, self.train.validation.as_ref())?.pairs();
        // A picture that was repaired is another, but the run's own all the same.
        let prints = (self.data.names_fingerprint(), self.data.fingerprint());
        let (now, then) = match state.names {
            Some(names) => (("names", prints.0), ("names", names)),
            None => (("fingerprint", prints.1), ("fingerprint", state.fingerprint)),
        };
        let given: Vec<_> = settings(&self.model, &self.train, pairs, now).into_iter().collect();
        let there: Vec<_> =
            settings(&state.model, &state.train, state.pairs, then).into_iter().collect();
        if let Some((setting, there, given)) = difference(&there, &given) {
            return Err(Error::Differs { path, setting, there, given });
        }

        self.run = self.run.take().or(state.run.clone());
        let (step, fingerprint) = (state.step, state.fingerprint);
        let mut start = Start::of(state, &self.train, &self.device, path.clone())?;
        if fingerprint != prints.1 {
            let told =
                "pictures were replaced since the checkpoint was written; going on with them";
            start.warnings.push(told.into());
        }
        if let Some(newer) = newer {
            let newer = newer.chain();
            start.warnings.push(format!("{newer}; going on from {} (step {step})", path.display()));
            start.damaged = true;
        }
        Ok(start)
    }
}

/// What a [`Trainer`] is made of besides where it starts.
struct Parts {
    model: Config,
    train: TrainConfig,
    loader: Loader,
    run: Option<String>,
    dir: PathBuf,
    /// This rank's of a step's micro-batches.
    own: Range<usize>,
}

impl Parts {
    /// The trainer, as if it were alone; the first rank's with the folder's files.
    fn assemble(self, start: Start, first: bool) -> Result<Trainer> {
        let Self { model, train, loader, run, dir, own } = self;
        let Start { adam, average, seconds, best, saved, damaged, warnings } = start;
        let adam = adam.with_clip(train.clip).with_weight_decay(train.weight_decay);
        // Gradients flow to the variables through the network's tensors, which are the same ones.
        let fusion = PyramidFusion::from_weights(&model, &tensors(&adam))?;
        let mut files = None;
        if first {
            let lock = lock(&dir)?;
            sweep(&dir)?;
            let log = Log::open(dir.join(LOG), adam.steps())?;
            let validator = train.validation.as_ref();
            let validator =
                validator.map(|settings| Validator::new(settings, &loader, &dir, adam.steps()));
            let mut validator = validator.transpose()?;
            if let Some(validator) = &mut validator {
                validator.best = best;
            }
            let last = dir.join(LAST);
            if damaged && last.exists() {
                // Out of the way, or the next checkpoint would push it over the whole one.
                let aside = dir.join("damaged.safetensors");
                std::fs::rename(&last, &aside).map_err(Error::io(&aside))?;
            }
            files = Some(Files { log, validator, _lock: lock });
        }
        let saved = (saved, adam.steps());
        let left_out = loader.left_out.as_ref().clone();
        Ok(Trainer {
            model,
            train,
            loader,
            fusion,
            adam,
            average,
            files,
            validated: None,
            run,
            dir,
            seconds,
            saved,
            warnings,
            unguided: 0,
            own,
            left_out,
            group: Group::new(Box::new(Alone)),
        })
    }
}

/// The first setting that two lists have differently, with both values; what one lacks is told as "nothing".
fn difference(
    first: &[(String, String)],
    other: &[(String, String)],
) -> Option<(String, String, String)> {
    let value = |of: &[(String, String)], setting: &String| {
        let found = of.iter().find(|(name, _)| name == setting);
        found.map_or_else(|| "nothing".to_string(), |(_, value)| value.clone())
    };
    let settings = first.iter().chain(other).map(|(setting, _)| setting);
    let both = settings.map(|name| (name.clone(), value(first, name), value(other, name)));
    both.into_iter().find(|(_, first, other)| first != other)
}

/// How [`Trainer::run`] behaves; nothing here changes what is computed.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Write a checkpoint when this much time has gone by since the last. (One is also written at
    /// the end of every epoch.)
    pub checkpoint_every: Duration,
    /// Write a checkpoint after this many steps, too; 0 for never.
    pub checkpoint_steps: usize,
    /// Stop, with a checkpoint, after this many steps of this call.
    pub stop_after: Option<usize>,
    /// Stop, with a checkpoint, after the step during which this becomes true.
    pub stop: Option<Arc<AtomicBool>>,
    /// Compute on a pool of this many threads instead of rayon's current one.
    pub threads: Option<usize>,
    /// Show a progress bar on a terminal, else a line per epoch, on standard error.
    pub progress: bool,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            checkpoint_every: Duration::from_secs(300),
            checkpoint_steps: 0,
            stop_after: None,
            stop: None,
            threads: None,
            progress: false,
        }
    }
}

/// How a call of [`Trainer::run`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done.
    Finished,
    /// It was asked to stop; the run can be resumed.
    Stopped,
}

/// A training run, and the folder it keeps its files in:
///
/// | file | what |
/// | --- | --- |
/// | `weights.safetensors` | the weights at the end of the last whole epoch (or where the run was stopped), with their configuration; their moving average where the settings ask for one |
/// | `last.safetensors`, `previous.safetensors` | checkpoints to resume from |
/// | `log.jsonl` | one [`StepReport`] a line |
/// | `curve.svg` | the loss curve, and the validations' criterion |
///
/// and with [validation](crate::Validation)
///
/// | file | what |
/// | --- | --- |
/// | `validation.jsonl` | one [`ValidationReport`] a line |
/// | `validation-1.png`, `validation-2.png` | two pairs held back, fused at the last validation |
/// | `best.safetensors` | the weights (or their average) of the best validation |
pub struct Trainer {
    model: Config,
    train: TrainConfig,
    loader: Loader,
    fusion: PyramidFusion,
    adam: Adam,
    average: Option<Average>,
    /// Those of rank 0.
    files: Option<Files>,
    /// Of the last step, if it was followed by one.
    validated: Option<ValidationReport>,
    run: Option<String>,
    dir: PathBuf,
    seconds: f64,
    /// The last checkpoint and its step.
    saved: (PathBuf, usize),
    warnings: Vec<String>,
    /// For how many steps every gradient has been 0.
    unguided: usize,
    /// This rank's of a step's micro-batches.
    own: Range<usize>,
    group: Group,
    /// What all ranks of a group know to be left out.
    left_out: LeftOut,
}

/// The files of a run that are open while it lasts.
struct Files {
    log: Log<StepReport>,
    validator: Option<Validator>,
    /// Held, not read: the system releases it however the process ends.
    _lock: File,
}

/// What a rank tells the others of its share of a step.
#[derive(Serialize, Deserialize)]
struct Share {
    /// The losses of each of its micro-batches, as the bits of their values.
    losses: Vec<Vec<u32>>,
    /// Whether it was asked to stop after this step.
    stop: bool,
    /// Damaged pairs among those it was to train on.
    left_out: Vec<(Place, String)>,
}

/// What a rank computes in a step.
struct Work {
    losses: Vec<Vec<f32>>,
    /// The last micro-batch's gradients; none if a loss is not finite.
    grads: Option<GradStore>,
    /// Their sums over the nodes of the tree that are this rank's, if there is more than one micro-batch.
    sums: Vec<Tensor>,
    names: Vec<String>,
    left_out: Vec<(Place, String)>,
}

impl std::fmt::Debug for Trainer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trainer")
            .field("dir", &self.dir)
            .field("model", &self.model)
            .field("train", &self.train)
            .field("step", &self.adam.steps())
            .finish_non_exhaustive()
    }
}

impl Trainer {
    /// Prepares a run of this model on this data.
    pub fn builder(model: Config, data: impl Into<DataSet>) -> TrainerBuilder {
        let (data, train) = (data.into(), TrainConfig::default());
        let (device, corrupt) = (Device::Cpu, Corrupt::default());
        let group = Box::new(Alone);
        TrainerBuilder { model, data, train, device, weights: None, run: None, corrupt, group }
    }

    /// Steps done.
    pub fn steps_done(&self) -> usize {
        self.adam.steps()
    }

    /// Steps of an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.loader.steps_per_epoch()
    }

    /// Steps of the whole run.
    pub fn total_steps(&self) -> usize {
        let epochs = self.steps_per_epoch().saturating_mul(self.train.epochs);
        self.train.steps.unwrap_or(epochs)
    }

    /// What is wrong with each pair that was left out so far ([`Corrupt`]), a text that names the file.
    pub fn left_out(&self) -> Vec<String> {
        self.loader.left_out.since(0)
    }

    /// The names of the pairs that a step trains on, counted from 0, if none is damaged; of several
    /// folders with their paths.
    pub fn pairs_of_step(&self, step: usize) -> Vec<String> {
        self.loader.names(step)
    }

    /// The names of the pairs held back for validation.
    pub fn held_back(&self) -> Vec<String> {
        let data = &self.loader.data;
        let folders = self.loader.split.held.iter().enumerate();
        let names = |(folder, pairs): (usize, &Vec<usize>)| {
            pairs.iter().map(|&pair| data.name(folder, pair)).collect::<Vec<_>>()
        };
        folders.flat_map(names).collect()
    }

    /// All validations so far, as `validation.jsonl` has them; none on other ranks than 0.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn validations(&self) -> Result<Vec<ValidationReport>> {
        let validator = self.files.as_ref().and_then(|files| files.validator.as_ref());
        validator.map_or(Ok(Vec::new()), |v| v.log.reports())
    }

    /// Time spent in steps so far, earlier runs included.
    pub fn seconds(&self) -> f64 {
        self.seconds
    }

    /// The run's settings.
    pub fn config(&self) -> &TrainConfig {
        &self.train
    }

    /// What went wrong without stopping the run.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The network as it is now.
    pub fn network(&self) -> &Network {
        self.fusion.network()
    }

    /// A copy of the weights as they are now, by released name.
    ///
    /// # Errors
    /// If a tensor cannot be copied.
    pub fn weights(&self) -> Result<BTreeMap<String, Tensor>> {
        let copy = |(name, var): (&String, &Var)| Ok((name.clone(), var.copy()?.detach()));
        self.adam.vars().iter().map(copy).collect()
    }

    /// A copy of what `weights.safetensors` holds: the weights' moving average, or the weights if
    /// the settings ask for none.
    ///
    /// # Errors
    /// If a tensor cannot be copied.
    pub fn averaged(&self) -> Result<BTreeMap<String, Tensor>> {
        match &self.average {
            Some(average) => Ok(average.tensors().clone()),
            None => self.weights(),
        }
    }

    /// Does one step, the validation that is due after it, and writes their lines to the logs, but
    /// no checkpoint.
    ///
    /// # Errors
    /// [`Error::NonFinite`], with weights and state as before the step; [`Error::Stuck`]; a file that cannot be read
    /// or written; all steps done already. Of a group every rank has the error of the first that failed, this
    /// step's or, for what another did after its step, at the next.
    pub fn step(&mut self) -> Result<StepReport> {
        self.group.begin();
        let done = self.next_step();
        done.map_err(|error| self.group.fail(error))
    }

    fn next_step(&mut self) -> Result<StepReport> {
        if self.adam.steps() >= self.total_steps() {
            let (setting, value) = match self.train.steps {
                Some(steps) => ("steps", steps),
                None => ("epochs", self.train.epochs),
            };
            return Err(Error::setting(setting, value, "more than are done"));
        }
        let batch = self.loader.batch(self.adam.steps());
        Ok(self.step_on(batch, || false)?.0)
    }

    /// A step, and whether any rank was asked to `stop` after it.
    fn step_on(
        &mut self,
        batch: Result<Batch>,
        stop: impl Fn() -> bool,
    ) -> Result<(StepReport, bool)> {
        let started = Instant::now();
        let step = self.adam.steps() + 1;
        let work = batch.and_then(|batch| self.work(batch));
        let (work, own) = match work {
            Ok(mut work) => {
                let left_out = std::mem::take(&mut work.left_out);
                let bits = |losses: &Vec<f32>| losses.iter().map(|v| v.to_bits()).collect();
                let losses = work.losses.iter().map(bits).collect();
                (Some(work), Ok(Share { losses, stop: stop(), left_out }))
            }
            Err(error) => (None, Err(error)),
        };
        let shares = self.group.gather(own)?;
        let Some(Work { grads, sums, names, .. }) = work else { return Err(Error::ended()) };
        let stop = shares.iter().any(|share| share.stop);
        let mut losses = Vec::with_capacity(self.train.micro_batches());
        let mut left_out = Vec::new();
        for share in shares {
            let value = |bits: Vec<u32>| bits.into_iter().map(f32::from_bits).collect();
            losses.extend(share.losses.into_iter().map(value));
            left_out.extend(share.left_out);
        }
        if self.group.size() > 1 {
            self.loader.left_out.hear(left_out.clone());
            let enough = self.left_out.extend(left_out);
            enough.map_err(|error| self.group.common(error))?;
        }
        let mut report = self.report(losses)?;

        // The terms first: the total would only say that one of them failed.
        let bad = report.all_losses().into_iter().rev().find(|(_, v)| !v.is_finite());
        if let Some((name, value)) = bad {
            return Err(self.not_finite(format!("loss `{name}` = {value}"), names)?);
        }
        let Some(mut grads) = grads else { return Err(Error::ended()) };
        self.reduce(&mut grads, sums)?;
        self.adam.set_learning_rate(report.rate);
        match self.adam.update(&grads)? {
            Update::Done => self.unguided = 0,
            Update::Unguided => self.unguided += 1,
            Update::NonFinite(name) => {
                return Err(self.not_finite(format!("the gradient of `{name}`"), names)?);
            }
        }
        report.norm = self.adam.norm().map(|norm| norm as f32);
        if let Some(average) = &mut self.average {
            average.update(&self.adam)?;
        }
        let seconds = started.elapsed().as_secs_f64();
        report.seconds = seconds as f32;
        self.seconds += seconds;
        if let Some(files) = &mut self.files {
            files.log.append(&report)?;
        }
        if self.unguided >= STUCK {
            let error = Error::Stuck { step, steps: self.unguided };
            return Err(self.group.common(error));
        }
        self.validate(step)?;
        Ok((report, stop))
    }

    /// This rank's share of a step: losses and gradients of its micro-batches, the gradients added up to the
    /// nodes of the tree that are its own.
    fn work(&self, batch: Batch) -> Result<Work> {
        let Batch { names, visible, infrared, left_out } = batch;
        let patch = self.train.patch;
        let count = self.train.micro_batches();
        let size = self.train.batch / count;
        let shape = (size, 1, patch, patch);
        let (mut losses, mut last, mut finite) = (Vec::new(), None, true);
        let mut leaf = |node: &Range<usize>| {
            if node.len() > 1 {
                return Ok(None);
            }
            let at = (node.start - self.own.start) * size * patch * patch;
            let samples = |of: &[f32]| {
                let these = &of[at..at + size * patch * patch];
                Tensor::from_slice(these, shape, &Device::Cpu)
            };
            let (visible, infrared) = (samples(&visible)?, samples(&infrared)?);
            let fused = self.fusion.forward(&visible, &infrared)?;
            let loss = self::losses(&fused, &visible, &infrared, &self.train.loss)?;
            let FusionLoss { total, content, intensity, gradient, ssim, scd, vif } = &loss;
            let always = [total, content, intensity, gradient, ssim];
            let values = always.into_iter().chain(scd).chain(vif);
            let values = values.map(|t| t.to_dtype(DType::F32)?.to_scalar::<f32>());
            let values = values.collect::<candle_core::Result<Vec<_>>>()?;
            finite &= values.iter().all(|value| value.is_finite());
            losses.push(values);
            if !finite {
                // The step will end with an error, and sums of the others are of no use.
                return Ok(Some(None));
            }
            let grads = loss.total.backward()?;
            let flat = if count > 1 { Some(self.flat(&grads)?) } else { None };
            last = Some(grads);
            Ok(Some(flat))
        };
        let add = |a: Option<Tensor>, b: Option<Tensor>| match a.zip(b) {
            Some((a, b)) => Ok(Some((a + b)?)),
            None => Ok(None),
        };
        let nodes = nodes(0..count, &self.own).into_iter();
        let sums: Vec<_> = nodes.map(|node| fold(node, &mut leaf, &add)).collect::<Result<_>>()?;
        let sums = sums.into_iter().flatten().collect();
        let grads = last.filter(|_| finite);
        Ok(Work { losses, grads, sums, names, left_out })
    }

    /// All gradients one after the other, in the order of the parameters' names.
    fn flat(&self, grads: &GradStore) -> Result<Tensor> {
        let found = self.adam.vars().values().filter_map(|var| grads.get(var));
        let flat = found.map(Tensor::flatten_all).collect::<candle_core::Result<Vec<_>>>()?;
        if flat.is_empty() {
            return Err(Error::Optimiser("no parameter has a gradient".into()));
        }
        Ok(Tensor::cat(&flat, 0)?)
    }

    /// Puts the means over all micro-batches of all ranks in the place of one's gradients.
    fn reduce(&mut self, grads: &mut GradStore, sums: Vec<Tensor>) -> Result<()> {
        let count = self.train.micro_batches();
        if count == 1 {
            return Ok(());
        }
        let mean = self.group.sum(sums, count)?.affine(1. / count as f64, 0.)?;
        let mut at = 0;
        for var in self.adam.vars().values() {
            if grads.get(var).is_some() {
                let of_var = mean.narrow(0, at, var.elem_count())?.reshape(var.shape())?;
                at += var.elem_count();
                grads.insert(var, of_var);
            }
        }
        Ok(())
    }

    /// What is known of a step before its update, from the losses of all micro-batches.
    fn report(&self, losses: Vec<Vec<f32>>) -> Result<StepReport> {
        let count = losses.len();
        let mut losses: Vec<_> = losses.into_iter().map(Some).collect();
        let mut leaf = |node: &Range<usize>| match losses.get_mut(node.start) {
            Some(losses) if node.len() == 1 => Ok(losses.take()),
            _ => Ok(None),
        };
        let add = |a: Vec<f32>, b: Vec<f32>| Ok(a.iter().zip(&b).map(|(a, b)| a + b).collect());
        let sums = fold(0..count, &mut leaf, &add)?;
        let mut means = sums.into_iter().map(|sum| sum * (1. / count as f64) as f32);
        let mut next = || means.next().unwrap_or(f32::NAN);
        let weights = &self.train.loss;
        Ok(StepReport {
            step: self.adam.steps() + 1,
            epoch: self.adam.steps() / self.steps_per_epoch(),
            rate: self.train.rate_of_step(self.adam.steps(), self.steps_per_epoch()),
            total: next(),
            content: next(),
            intensity: next(),
            gradient: next(),
            ssim: next(),
            scd: (weights.scd != 0.).then(&mut next),
            vif: (weights.vif != 0.).then(&mut next),
            norm: None,
            seconds: 0.,
        })
    }

    /// The error of all ranks, with the names of the whole batch and rank 0's checkpoint.
    fn not_finite(&mut self, what: String, names: Vec<String>) -> Result<Error> {
        let saved = (self.saved.0.to_string_lossy().into_owned(), self.saved.1);
        let all = self.group.gather(Ok((names, saved)))?;
        let (mut samples, mut checkpoints) = (Vec::new(), Vec::new());
        for (names, saved) in all {
            samples.extend(names);
            checkpoints.push(saved);
        }
        let (checkpoint, checkpoint_step) = checkpoints.swap_remove(0);
        let (step, checkpoint) = (self.adam.steps() + 1, checkpoint.into());
        Ok(self.group.common(Error::NonFinite { step, what, samples, checkpoint, checkpoint_step }))
    }

    /// Validates if it is due, on rank 0. Before any checkpoint of this step, so that a resumed run has no
    /// validation to make up for.
    fn validate(&mut self, step: usize) -> Result<()> {
        self.validated = None;
        let last = self.total_steps();
        let validator = self.files.as_ref().and_then(|files| files.validator.as_ref());
        if !validator.is_some_and(|v| v.is_due(step, last)) {
            return Ok(());
        }
        let weights = self.averaged()?;
        // Plain tensors: this network builds no graph.
        let fusion = PyramidFusion::from_weights(&self.model, &weights)?;
        let validator = self.files.as_mut().and_then(|files| files.validator.as_mut());
        let Some(validator) = validator else { return Ok(()) };
        let report = validator.run(&fusion, step)?;
        if report.best {
            validator.best = Some(report.criterion);
            let criterion = ("validation".to_string(), report.criterion.to_string());
            self.write_weights("best.safetensors", weights, Some(criterion))?;
        }
        self.validated = Some(report);
        Ok(())
    }

    fn write_weights(
        &self,
        name: &str,
        weights: BTreeMap<String, Tensor>,
        more: Option<(String, String)>,
    ) -> Result<()> {
        let metadata = BTreeMap::from([
            ("training".to_string(), serde_json::to_string(&self.train).unwrap_or_default()),
            ("training_step".to_string(), self.adam.steps().to_string()),
            ("training_pairs".to_string(), self.loader.split.pairs().to_string()),
            ("training_seconds".to_string(), format!("{:.0}", self.seconds)),
        ]);
        let metadata = metadata.into_iter().chain(more).collect();
        let config = self.model.clone();
        let file = Checkpoint { config, weights, self_contained: true, metadata };
        Ok(file.write(self.dir.join(name), DType::F32)?)
    }

    fn state(&self) -> Result<State> {
        let validator = self.files.as_ref().and_then(|files| files.validator.as_ref());
        Ok(State {
            model: self.model.clone(),
            train: self.train.clone(),
            pairs: self.loader.split.pairs(),
            fingerprint: self.loader.data.fingerprint(),
            names: Some(self.loader.data.names_fingerprint()),
            step: self.adam.steps(),
            seconds: self.seconds,
            best: validator.and_then(|v| v.best),
            run: self.run.clone(),
            weights: tensors(&self.adam),
            moments: self.adam.moments()?,
            average: self.average.as_ref().map(Average::values).transpose()?,
        })
    }

    /// Writes a checkpoint; the one before it is kept. Nothing on other ranks than 0.
    ///
    /// # Errors
    /// If it cannot be written; the earlier ones are then untouched.
    pub fn save(&mut self) -> Result<()> {
        let Some(files) = &self.files else { return Ok(()) };
        files.log.sync()?;
        if let Some(validator) = &files.validator {
            validator.log.sync()?;
        }
        let state = self.state()?;
        let last = self.dir.join(LAST);
        state.write(&last, Some(&self.dir.join(PREVIOUS)))?;
        self.saved = (last, state.step);
        Ok(())
    }

    /// Writes `weights.safetensors` and `curve.svg`. Nothing on other ranks than 0.
    ///
    /// # Errors
    /// If one of them cannot be written.
    pub fn export(&self) -> Result<()> {
        let Some(files) = &self.files else { return Ok(()) };
        self.write_weights("weights.safetensors", self.averaged()?, None)?;
        let curve = curve::svg(&files.log.reports()?, &self.validations()?);
        write(&self.dir.join("curve.svg"), curve.as_bytes())
    }

    /// Trains until all steps are done or `options` says to stop; batches are made ahead, on
    /// threads of their own, as many as compute. Checkpoints are written on the way, and with the weights and the curve at
    /// the end of every epoch and when stopping.
    ///
    /// Of a group, all ranks stop if one is told to, and none returns before all have come to the end.
    ///
    /// # Errors
    /// As [`Trainer::step`] and [`Trainer::save`]; the run can be resumed from the last checkpoint. Of a group
    /// every rank has the error of the first that failed.
    pub fn run(&mut self, options: &RunOptions) -> Result<Outcome> {
        self.group.begin();
        let outcome = self.run_on_threads(options);
        let outcome = outcome.map_err(|error| self.group.fail(error))?;
        // Rank 0 may have failed to write after the last step.
        self.group.agree(Ok(outcome))
    }

    fn run_on_threads(&mut self, options: &RunOptions) -> Result<Outcome> {
        if options.stop_after == Some(0) {
            return Err(Error::setting("stop_after", 0, "at least 1"));
        }
        match options.threads {
            None => self.run_here(options),
            Some(threads) if !(1..=isfm::Builder::MAX_THREADS).contains(&threads) => {
                let needed = format!("1 to {}", isfm::Builder::MAX_THREADS);
                Err(Error::setting("threads", threads, &needed))
            }
            Some(threads) => rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .map_err(|e| Error::Threads(e.to_string()))?
                .install(|| self.run_here(options)),
        }
    }

    fn run_here(&mut self, options: &RunOptions) -> Result<Outcome> {
        let loader = self.loader.clone();
        let steps = self.adam.steps()..self.total_steps();
        let (sender, batches) = sync_channel(1);
        // Not the pool that computes: waiting for a batch, it would have no thread left to make it.
        let threads = rayon::current_num_threads();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = pool.map_err(|e| Error::Threads(e.to_string()))?;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for step in steps {
                    let batch = pool.install(|| loader.batch(step));
                    let failed = batch.is_err();
                    if sender.send(batch).is_err() || failed {
                        break;
                    }
                }
            });
            // Moved in, so that the loader ends when this does.
            self.run_on(batches, options)
        })
    }

    fn run_on(
        &mut self,
        batches: mpsc::Receiver<Result<Batch>>,
        options: &RunOptions,
    ) -> Result<Outcome> {
        let (first, total) = (self.adam.steps(), self.total_steps());
        let progress = Progress::new(options.progress && self.group.is_first(), first, total);
        let epochs = total.div_ceil(self.steps_per_epoch());
        let mut checkpointed = Instant::now();
        let mut means = Means::default();
        let mut told = self.left_out().len();
        while self.adam.steps() < total {
            let ended = |_| Error::Threads("the loading thread ended early".into());
            let batch = batches.recv().map_err(ended).and_then(|batch| batch);
            let last = options.stop_after.is_some_and(|n| self.adam.steps() + 1 - first >= n);
            let asked = options.stop.as_ref();
            let stop = || last || asked.is_some_and(|stop| stop.load(Ordering::Relaxed));
            let (report, stop) = self.step_on(batch, stop)?;
            means.add(&report);
            progress.step(&report, epochs, &means);
            if let Some(report) = &self.validated {
                progress.validation(report);
            }
            for problem in self.loader.left_out.since(told) {
                progress.say(&format!("warning: left out: {problem}"));
                told += 1;
            }

            let done = report.step;
            let epoch_ends = done % self.steps_per_epoch() == 0;
            let ends = epoch_ends || stop || done == total;
            let due = ends
                || checkpointed.elapsed() >= options.checkpoint_every
                || (options.checkpoint_steps > 0 && done % options.checkpoint_steps == 0);
            // Before the checkpoint: killed in between, the run comes here again.
            if ends {
                self.export()?;
            }
            if due {
                self.save()?;
                checkpointed = Instant::now();
            }
            if epoch_ends {
                progress.epoch(&report, epochs, &means);
                means = Means::default();
            }
            if stop && done < total {
                progress.bar.abandon();
                return Ok(Outcome::Stopped);
            }
        }
        progress.bar.abandon();
        Ok(Outcome::Finished)
    }
}

/// Running means of an epoch's losses.
#[derive(Default)]
struct Means {
    steps: usize,
    sums: [f64; 5],
    seconds: f64,
}

impl Means {
    fn add(&mut self, report: &StepReport) {
        self.steps += 1;
        self.seconds += f64::from(report.seconds);
        for (sum, (_, loss)) in self.sums.iter_mut().zip(report.losses()) {
            *sum += f64::from(loss);
        }
    }
}

impl std::fmt::Display for Means {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let n = self.steps.max(1) as f64;
        let [total, content, intensity, gradient, ssim] = self.sums.map(|s| s / n);
        write!(
            f,
            "loss {total:.4} (content {content:.4} intensity {intensity:.4} \
             gradient {gradient:.4} ssim {ssim:.4})"
        )
    }
}

/// A bar on a terminal, lines elsewhere, or nothing.
struct Progress {
    bar: ProgressBar,
    lines: bool,
    total: usize,
}

impl Progress {
    fn new(wanted: bool, first: usize, total: usize) -> Self {
        let bar = if wanted { ProgressBar::new(total as u64) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template(
            "{elapsed_precise} {bar:24} {pos}/{len} {msg} · {eta} left",
        );
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.set_position(first as u64);
        bar.reset_eta();
        let lines = wanted && bar.is_hidden();
        Self { bar, lines, total }
    }

    fn step(&self, report: &StepReport, epochs: usize, means: &Means) {
        let epoch = report.epoch + 1;
        self.bar.set_message(format!("epoch {epoch}/{epochs} lr {:.3e} {means}", report.rate));
        self.bar.set_position(report.step as u64);
    }

    /// A line on standard error, if anything is shown at all.
    fn say(&self, text: &str) {
        if self.lines || !self.bar.is_hidden() {
            self.bar.suspend(|| eprintln!("{text}"));
        }
    }

    fn validation(&self, report: &ValidationReport) {
        let scores: Vec<_> =
            report.scores.iter().map(|(name, v)| format!("{name} {v:.4}")).collect();
        let best = if report.best { ", the best so far" } else { "" };
        let (step, criterion, scores) = (report.step, report.criterion, scores.join(" "));
        self.say(&format!("validation at step {step}: {criterion:+.4}{best} ({scores})"));
    }

    fn epoch(&self, report: &StepReport, epochs: usize, means: &Means) {
        if self.lines {
            let each = means.seconds / means.steps.max(1) as f64;
            let minutes = each * (self.total - report.step) as f64 / 60.;
            eprintln!(
                "epoch {}/{epochs} step {}/{} lr {:.3e} {means} · {each:.2} s a step, \
                 {minutes:.0} min left",
                report.epoch + 1,
                report.step,
                self.total,
                report.rate
            );
        }
    }
}

/// The losses are computed on the CPU, of one small image a pair.
fn losses(
    fused: &Tensor,
    visible: &Tensor,
    infrared: &Tensor,
    weights: &LossWeights,
) -> candle_core::Result<FusionLoss> {
    let fused = clamp_unit(&fused.to_device(&Device::Cpu)?)?;
    Ok(fusion_loss(&fused, visible, infrared, weights)?)
}

/// The parameters as they are: not copied.
fn tensors(adam: &Adam) -> BTreeMap<String, Tensor> {
    adam.vars().iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect()
}

fn variables(weights: &BTreeMap<String, Tensor>, device: &Device) -> Result<BTreeMap<String, Var>> {
    let variable = |tensor: &Tensor| {
        let tensor = tensor.to_dtype(DType::F32)?.to_device(device)?.contiguous()?;
        // A copy of its own: updates must not reach the caller's tensor.
        Var::from_tensor(&tensor.copy()?.detach())
    };
    weights.iter().map(|(name, tensor)| Ok((name.clone(), variable(tensor)?))).collect()
}

/// Every setting of a run by its dotted name, as text.
fn settings(
    model: &Config,
    train: &TrainConfig,
    pairs: usize,
    (kind, print): (&str, u64),
) -> BTreeMap<String, String> {
    fn flatten(name: &str, value: serde_json::Value, out: &mut BTreeMap<String, String>) {
        match value {
            serde_json::Value::Object(fields) => {
                for (field, value) in fields {
                    let dot = if name.is_empty() { "" } else { "." };
                    flatten(&format!("{name}{dot}{field}"), value, out);
                }
            }
            value => {
                out.insert(name.to_string(), value.to_string());
            }
        }
    }
    let mut out = BTreeMap::new();
    flatten("model", serde_json::to_value(model).unwrap_or_default(), &mut out);
    flatten("", serde_json::to_value(train).unwrap_or_default(), &mut out);
    out.insert("data.pairs".into(), pairs.to_string());
    out.insert(format!("data.{kind}"), format!("{print:016x}"));
    out
}

/// Whether a step can fit into what the system has left at all: a forward pass, of which training keeps
/// more, takes at least half of what is estimated for fusing as many pixels.
fn fits(model: &Config, train: &TrainConfig) -> Result<()> {
    let Some(left) = isfm::available_memory() else { return Ok(()) };
    let at_once = train.batch / train.micro_batches();
    let pixels = at_once.saturating_mul(train.patch * train.patch);
    let needed = pixels.saturating_mul(isfm::memory_per_pixel(model)) / 2;
    if needed <= left {
        return Ok(());
    }
    let got = format!("{at_once} samples of {patch}x{patch}", patch = train.patch);
    let needed =
        format!("fewer or smaller ones: {needed} bytes at least, of which {left} are left");
    let setting = if train.micro_batch.is_some() { "micro_batch" } else { "batch" };
    Err(Error::setting(setting, got, &needed))
}

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(LOCK);
    let file = File::options().create(true).append(true).open(&path).map_err(Error::io(&path))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Error::OutputInUse(dir.to_path_buf())),
        // A file system without locks: the lock is a kindness, not a need.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// Whether a file is what a run leaves that was killed before its first checkpoint.
fn is_of_no_run(path: &Path) -> bool {
    let names = [LOCK, LOG, VALIDATIONS];
    isfm_files::is_unfinished(path) || names.iter().any(|name| path.ends_with(name))
}

/// Removes unfinished files that a killed run left. The lock is held: nobody is writing them.
fn sweep(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir).map_err(Error::io(dir))? {
        let path = entry.map_err(Error::io(dir))?.path();
        if isfm_files::is_unfinished(&path) {
            std::fs::remove_file(&path).map_err(Error::io(&path))?;
        }
    }
    Ok(())
}
