use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::Optimizer;
use indicatif::{ProgressBar, ProgressStyle};
use isfm_losses::{FusionLoss, LossWeights, clamp_unit, fusion_loss};
use isfm_model::{Checkpoint, Config, Network, PyramidFusion, initial_weights};

use crate::average::Average;
use crate::checkpoint::{LAST, PREVIOUS, write};
use crate::loader::{Batch, Loader};
use crate::log::Log;
use crate::mixture::Split;
use crate::validate::{VALIDATIONS, Validator};
use crate::{
    Adam, Corrupt, DataSet, Error, Result, RunFile, State, StepReport, TrainConfig, Update,
    ValidationReport, curve,
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

    /// Starts a run whose files go to the folder `output`, which is made, or must be empty but for what
    /// a run killed before its first checkpoint leaves. A first checkpoint, of step 0, is written at once.
    ///
    /// # Errors
    /// [`Error::OutputNotEmpty`]; [`Error::Setting`] for settings out of range or a batch larger
    /// than the data set or than memory; [`Error::Corrupt`]; weights that do not fit the model; a folder that cannot be written.
    pub fn create(self, output: impl AsRef<Path>) -> Result<Trainer> {
        self.train.validate()?;
        let dir = output.as_ref().to_path_buf();
        std::fs::create_dir_all(&dir).map_err(Error::io(&dir))?;
        for entry in std::fs::read_dir(&dir).map_err(Error::io(&dir))? {
            if !is_of_no_run(&entry.map_err(Error::io(&dir))?.path()) {
                return Err(Error::OutputNotEmpty(dir));
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
        let mut trainer = Trainer::assemble(self, adam, average, dir)?;
        trainer.save()?;
        Ok(trainer)
    }

    /// Goes on with the run in the folder `output` from its newest whole checkpoint; a damaged one
    /// is put aside as `damaged.safetensors` and told of by [`Trainer::warnings`]. So is it if pictures
    /// were replaced under their names, which the run goes on with.
    ///
    /// # Errors
    /// [`Error::NoCheckpoint`]; [`Error::Differs`] if model, settings or data are not the run's
    /// own; [`Error::OutputInUse`].
    pub fn resume(mut self, output: impl AsRef<Path>) -> Result<Trainer> {
        self.train.validate()?;
        let dir = output.as_ref().to_path_buf();
        let (state, path, newer) = State::latest(&dir)?;
        let pairs = Split::of(&self.data, self.train.validation.as_ref())?.pairs();
        // A picture that was repaired is another, but the run's own all the same.
        let prints = (self.data.names_fingerprint(), self.data.fingerprint());
        let (now, then) = match state.names {
            Some(names) => (("names", prints.0), ("names", names)),
            None => (("fingerprint", prints.1), ("fingerprint", state.fingerprint)),
        };
        let given = settings(&self.model, &self.train, pairs, now);
        let there = settings(&state.model, &state.train, state.pairs, then);
        // One that either side lacks is among the other's.
        for setting in there.keys().chain(given.keys()) {
            let value = |of: &BTreeMap<String, String>| {
                of.get(setting).map_or("nothing", String::as_str).to_string()
            };
            let (there, given, setting) = (value(&there), value(&given), setting.clone());
            if given != there {
                return Err(Error::Differs { path, setting, there, given });
            }
        }

        let vars = variables(&state.weights, &self.device)?;
        let adam = Adam::restore(vars, self.train.adam.clone(), state.step, state.moments)?;
        let average = self.train.ema.zip(state.average);
        let average =
            average.map(|(decay, values)| Average::restore(decay, &adam, values)).transpose()?;
        self.run = self.run.or(state.run);
        let mut trainer = Trainer::assemble(self, adam, average, dir)?;
        trainer.seconds = state.seconds;
        if state.fingerprint != prints.1 {
            let told =
                "pictures were replaced since the checkpoint was written; going on with them";
            trainer.warnings.push(told.into());
        }
        if let Some(validator) = &mut trainer.validator {
            validator.best = state.best;
        }
        trainer.saved = (path.clone(), state.step);
        if let Some(newer) = newer {
            trainer.warnings.push(format!(
                "{}; going on from {} (step {})",
                newer.chain(),
                path.display(),
                state.step
            ));
            // Out of the way, or the next checkpoint would push it over the whole one.
            let last = trainer.dir.join(LAST);
            if last.exists() {
                let aside = trainer.dir.join("damaged.safetensors");
                std::fs::rename(&last, &aside).map_err(Error::io(&aside))?;
            }
        }
        Ok(trainer)
    }
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
    validator: Option<Validator>,
    /// Of the last step, if it was followed by one.
    validated: Option<ValidationReport>,
    run: Option<String>,
    dir: PathBuf,
    log: Log<StepReport>,
    seconds: f64,
    /// The last checkpoint and its step.
    saved: (PathBuf, usize),
    warnings: Vec<String>,
    /// For how many steps every gradient has been 0.
    unguided: usize,
    /// Held, not read: the system releases it however the process ends.
    _lock: File,
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
        TrainerBuilder { model, data, train, device, weights: None, run: None, corrupt }
    }

    fn assemble(
        parts: TrainerBuilder,
        adam: Adam,
        average: Option<Average>,
        dir: PathBuf,
    ) -> Result<Self> {
        let TrainerBuilder { model, train, data, device, run, corrupt, .. } = parts;
        let loader = Loader::new(data, train.clone(), corrupt)?;
        let pairs = loader.split.pairs();
        if pairs < train.batch {
            let needed = format!("at most the {pairs} pairs there are");
            return Err(Error::setting("batch", train.batch, &needed));
        }
        if device.is_cpu() {
            fits(&model, &train)?;
        }
        let adam = adam.with_clip(train.clip).with_weight_decay(train.weight_decay);
        // Gradients flow to the variables through the network's tensors, which are the same ones.
        let fusion = PyramidFusion::from_weights(&model, &tensors(&adam))?;
        let lock = lock(&dir)?;
        sweep(&dir)?;
        let log = Log::open(dir.join(LOG), adam.steps())?;
        let validator = train
            .validation
            .as_ref()
            .map(|settings| Validator::new(settings, &loader, &dir, adam.steps()));
        let validator = validator.transpose()?;
        let saved = (dir.join(LAST), adam.steps());
        Ok(Self {
            model,
            train,
            loader,
            fusion,
            adam,
            average,
            validator,
            validated: None,
            run,
            dir,
            log,
            seconds: 0.,
            saved,
            warnings: Vec::new(),
            unguided: 0,
            _lock: lock,
        })
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

    /// All validations so far, as `validation.jsonl` has them.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn validations(&self) -> Result<Vec<ValidationReport>> {
        self.validator.as_ref().map_or(Ok(Vec::new()), |v| v.log.reports())
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
    /// or written; all steps done already.
    pub fn step(&mut self) -> Result<StepReport> {
        if self.adam.steps() >= self.total_steps() {
            let (setting, value) = match self.train.steps {
                Some(steps) => ("steps", steps),
                None => ("epochs", self.train.epochs),
            };
            return Err(Error::setting(setting, value, "more than are done"));
        }
        let batch = self.loader.batch(self.adam.steps())?;
        self.step_on(batch)
    }

    fn step_on(&mut self, batch: Batch) -> Result<StepReport> {
        let started = Instant::now();
        let step = self.adam.steps() + 1;
        let epoch = self.adam.steps() / self.steps_per_epoch();
        let rate = self.train.rate_of_step(self.adam.steps(), self.steps_per_epoch());
        let patch = self.train.patch;
        let shape = (batch.names.len(), 1, patch, patch);
        let visible = Tensor::from_vec(batch.visible, shape, &Device::Cpu)?;
        let infrared = Tensor::from_vec(batch.infrared, shape, &Device::Cpu)?;
        let fused = self.fusion.forward(&visible, &infrared)?;
        let loss = losses(&fused, &visible, &infrared, &self.train.loss)?;
        let value = |t: &Tensor| t.to_dtype(DType::F32)?.to_scalar::<f32>();
        let mut report = StepReport {
            step,
            epoch,
            rate,
            total: value(&loss.total)?,
            content: value(&loss.content)?,
            intensity: value(&loss.intensity)?,
            gradient: value(&loss.gradient)?,
            ssim: value(&loss.ssim)?,
            scd: loss.scd.as_ref().map(value).transpose()?,
            vif: loss.vif.as_ref().map(value).transpose()?,
            norm: None,
            seconds: 0.,
        };
        let failed = |what: String| {
            let (samples, (checkpoint, checkpoint_step)) =
                (batch.names.clone(), self.saved.clone());
            Error::NonFinite { step, what, samples, checkpoint, checkpoint_step }
        };
        // The terms first: the total would only say that one of them failed.
        let bad = report.all_losses().into_iter().rev().find(|(_, v)| !v.is_finite());
        if let Some((name, value)) = bad {
            return Err(failed(format!("loss `{name}` = {value}")));
        }
        let grads = loss.total.backward()?;
        // The graph and all it holds is let go before the update makes its own copies.
        drop((loss, fused));
        self.adam.set_learning_rate(rate);
        match self.adam.update(&grads)? {
            Update::Done => self.unguided = 0,
            Update::Unguided => self.unguided += 1,
            Update::NonFinite(name) => return Err(failed(format!("the gradient of `{name}`"))),
        }
        report.norm = self.adam.norm().map(|norm| norm as f32);
        if let Some(average) = &mut self.average {
            average.update(&self.adam)?;
        }
        let seconds = started.elapsed().as_secs_f64();
        report.seconds = seconds as f32;
        self.seconds += seconds;
        self.log.append(&report)?;
        if self.unguided >= STUCK {
            return Err(Error::Stuck { step, steps: self.unguided });
        }
        self.validate(step)?;
        Ok(report)
    }

    /// Validates if it is due. Before any checkpoint of this step, so that a resumed run has no
    /// validation to make up for.
    fn validate(&mut self, step: usize) -> Result<()> {
        self.validated = None;
        let last = self.total_steps();
        if !self.validator.as_ref().is_some_and(|v| v.is_due(step, last)) {
            return Ok(());
        }
        let weights = self.averaged()?;
        // Plain tensors: this network builds no graph.
        let fusion = PyramidFusion::from_weights(&self.model, &weights)?;
        let Some(validator) = &mut self.validator else { return Ok(()) };
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

    /// Writes a checkpoint; the one before it is kept.
    ///
    /// # Errors
    /// If it cannot be written; the earlier ones are then untouched.
    pub fn save(&mut self) -> Result<()> {
        self.log.sync()?;
        if let Some(validator) = &self.validator {
            validator.log.sync()?;
        }
        let state = State {
            model: self.model.clone(),
            train: self.train.clone(),
            pairs: self.loader.split.pairs(),
            fingerprint: self.loader.data.fingerprint(),
            names: Some(self.loader.data.names_fingerprint()),
            step: self.adam.steps(),
            seconds: self.seconds,
            best: self.validator.as_ref().and_then(|v| v.best),
            run: self.run.clone(),
            weights: tensors(&self.adam),
            moments: self.adam.moments()?,
            average: self.average.as_ref().map(Average::values).transpose()?,
        };
        let last = self.dir.join(LAST);
        state.write(&last, Some(&self.dir.join(PREVIOUS)))?;
        self.saved = (last, state.step);
        Ok(())
    }

    /// Writes `weights.safetensors` and `curve.svg`.
    ///
    /// # Errors
    /// If one of them cannot be written.
    pub fn export(&self) -> Result<()> {
        self.write_weights("weights.safetensors", self.averaged()?, None)?;
        let curve = curve::svg(&self.log.reports()?, &self.validations()?);
        write(&self.dir.join("curve.svg"), curve.as_bytes())
    }

    /// Trains until all steps are done or `options` says to stop; batches are made ahead, on
    /// threads of their own, as many as compute. Checkpoints are written on the way, and with the weights and the curve at
    /// the end of every epoch and when stopping.
    ///
    /// # Errors
    /// As [`Trainer::step`] and [`Trainer::save`]; the run can be resumed from the last checkpoint.
    pub fn run(&mut self, options: &RunOptions) -> Result<Outcome> {
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
        let progress = Progress::new(options.progress, first, total);
        let epochs = total.div_ceil(self.steps_per_epoch());
        let mut checkpointed = Instant::now();
        let mut means = Means::default();
        let mut told = self.left_out().len();
        while self.adam.steps() < total {
            let batch = batches
                .recv()
                .map_err(|_| Error::Threads("the loading thread ended early".into()))??;
            let report = self.step_on(batch)?;
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
            let stop = options.stop.as_ref().is_some_and(|s| s.load(Ordering::Relaxed))
                || options.stop_after.is_some_and(|n| done - first >= n);
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
    let pixels = train.batch.saturating_mul(train.patch * train.patch);
    let needed = pixels.saturating_mul(isfm::memory_per_pixel(model)) / 2;
    if needed <= left {
        return Ok(());
    }
    let got = format!("{} samples of {patch}x{patch}", train.batch, patch = train.patch);
    let needed =
        format!("fewer or smaller ones: {needed} bytes at least, of which {left} are left");
    Err(Error::setting("batch", got, &needed))
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
