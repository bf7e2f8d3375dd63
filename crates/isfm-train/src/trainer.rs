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
use isfm_model::{Checkpoint, Config, Network, initial_weights};

use crate::augment::draw;
use crate::checkpoint::{LAST, PREVIOUS, write};
use crate::log::Log;
use crate::random::{Purpose, shuffle, stream};
use crate::{Adam, Error, PairFolder, Result, State, StepReport, TrainConfig, Update, curve};

/// So many steps without a slope, and a run is given up: the optimiser's memory, which decays by
/// a tenth a step, will not move it any more.
const STUCK: usize = 50;

/// Prepares a [`Trainer`].
#[must_use = "a builder does nothing until `create` or `resume`"]
pub struct TrainerBuilder {
    model: Config,
    data: PairFolder,
    train: TrainConfig,
    device: Device,
    weights: Option<BTreeMap<String, Tensor>>,
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

    /// Starts a run whose files go to the folder `output`, which is made, or must be empty. A
    /// first checkpoint, of step 0, is written at once.
    ///
    /// # Errors
    /// [`Error::OutputNotEmpty`]; [`Error::Setting`] for settings out of range or a batch larger
    /// than the data set; weights that do not fit the model; a folder that cannot be written.
    pub fn create(self, output: impl AsRef<Path>) -> Result<Trainer> {
        self.train.validate()?;
        let dir = output.as_ref().to_path_buf();
        std::fs::create_dir_all(&dir).map_err(Error::io(&dir))?;
        if std::fs::read_dir(&dir).map_err(Error::io(&dir))?.next().is_some() {
            return Err(Error::OutputNotEmpty(dir));
        }
        let vars = match &self.weights {
            Some(weights) => variables(weights, &self.device)?,
            None => {
                let seed = self.train.seed;
                variables(&initial_weights(&self.model, seed, &self.device)?, &self.device)?
            }
        };
        let adam = Adam::named(vars, self.train.adam.clone());
        let mut trainer = Trainer::assemble(self, adam, dir)?;
        trainer.save()?;
        Ok(trainer)
    }

    /// Goes on with the run in the folder `output` from its newest whole checkpoint; a damaged one
    /// is put aside as `damaged.safetensors` and told of by [`Trainer::warnings`].
    ///
    /// # Errors
    /// [`Error::NoCheckpoint`]; [`Error::Differs`] if model, settings or data are not the run's
    /// own; [`Error::OutputInUse`].
    pub fn resume(self, output: impl AsRef<Path>) -> Result<Trainer> {
        self.train.validate()?;
        let dir = output.as_ref().to_path_buf();
        let (state, path, newer) = State::latest(&dir)?;
        let given = settings(&self.model, &self.train, self.data.len(), self.data.fingerprint());
        let there = settings(&state.model, &state.train, state.pairs, state.fingerprint);
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
        let mut trainer = Trainer::assemble(self, adam, dir)?;
        trainer.seconds = state.seconds;
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
    /// All epochs are done.
    Finished,
    /// It was asked to stop; the run can be resumed.
    Stopped,
}

/// A training run, and the folder it keeps its files in:
///
/// | file | what |
/// | --- | --- |
/// | `weights.safetensors` | the weights at the end of the last whole epoch (or where the run was stopped), with their configuration |
/// | `last.safetensors`, `previous.safetensors` | checkpoints to resume from |
/// | `log.jsonl` | one [`StepReport`] a line |
/// | `curve.svg` | the loss curve |
pub struct Trainer {
    model: Config,
    train: TrainConfig,
    loader: Loader,
    network: Network,
    adam: Adam,
    device: Device,
    dir: PathBuf,
    log: Log,
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
    pub fn builder(model: Config, data: PairFolder) -> TrainerBuilder {
        let train = TrainConfig::default();
        TrainerBuilder { model, data, train, device: Device::Cpu, weights: None }
    }

    fn assemble(parts: TrainerBuilder, adam: Adam, dir: PathBuf) -> Result<Self> {
        let TrainerBuilder { model, train, data, device, .. } = parts;
        if data.len() < train.batch {
            let needed = format!("at most the {} pairs there are", data.len());
            return Err(Error::setting("batch", train.batch, &needed));
        }
        // Gradients flow to the variables through the network's tensors, which are the same ones.
        let network = Network::from_weights(&model, &tensors(&adam))?;
        let lock = lock(&dir)?;
        sweep(&dir)?;
        let log = Log::open(dir.join("log.jsonl"), adam.steps())?;
        let loader = Loader { data: Arc::new(data), train: train.clone() };
        let saved = (dir.join(LAST), adam.steps());
        Ok(Self {
            model,
            train,
            loader,
            network,
            adam,
            device,
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
        self.steps_per_epoch() * self.train.epochs
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
        &self.network
    }

    /// A copy of the weights as they are now, by released name.
    ///
    /// # Errors
    /// If a tensor cannot be copied.
    pub fn weights(&self) -> Result<BTreeMap<String, Tensor>> {
        let copy = |(name, var): (&String, &Var)| Ok((name.clone(), var.copy()?.detach()));
        self.adam.vars().iter().map(copy).collect()
    }

    /// Does one step, and writes its line to the log, but no checkpoint.
    ///
    /// # Errors
    /// [`Error::NonFinite`], with weights and state as before the step; [`Error::Stuck`]; a file that cannot be read
    /// or written; all epochs done already.
    pub fn step(&mut self) -> Result<StepReport> {
        if self.adam.steps() >= self.total_steps() {
            return Err(Error::setting("epochs", self.train.epochs, "more than are done"));
        }
        let batch = self.loader.batch(self.adam.steps())?;
        self.step_on(batch)
    }

    fn step_on(&mut self, batch: Batch) -> Result<StepReport> {
        let started = Instant::now();
        let step = self.adam.steps() + 1;
        let epoch = self.adam.steps() / self.steps_per_epoch();
        let rate = self.train.rate(epoch);
        let patch = self.train.patch;
        let shape = (batch.names.len(), 1, patch, patch);
        let visible = Tensor::from_vec(batch.visible, shape, &Device::Cpu)?;
        let infrared = Tensor::from_vec(batch.infrared, shape, &Device::Cpu)?;
        let [on_device, other] = [&visible, &infrared].map(|t| t.to_device(&self.device));
        let fused = self.network.forward(&on_device?, &other?)?;
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
            seconds: 0.,
        };
        let failed = |what: String| {
            let (samples, (checkpoint, checkpoint_step)) =
                (batch.names.clone(), self.saved.clone());
            Error::NonFinite { step, what, samples, checkpoint, checkpoint_step }
        };
        // The terms first: the total would only say that one of them failed.
        let bad = report.losses().into_iter().rev().find(|(_, v)| !v.is_finite());
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
        let seconds = started.elapsed().as_secs_f64();
        report.seconds = seconds as f32;
        self.seconds += seconds;
        self.log.append(&report)?;
        if self.unguided >= STUCK {
            return Err(Error::Stuck { step, steps: self.unguided });
        }
        Ok(report)
    }

    /// Writes a checkpoint; the one before it is kept.
    ///
    /// # Errors
    /// If it cannot be written; the earlier ones are then untouched.
    pub fn save(&mut self) -> Result<()> {
        self.log.sync()?;
        let state = State {
            model: self.model.clone(),
            train: self.train.clone(),
            pairs: self.loader.data.len(),
            fingerprint: self.loader.data.fingerprint(),
            step: self.adam.steps(),
            seconds: self.seconds,
            weights: tensors(&self.adam),
            moments: self.adam.moments().clone(),
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
        let metadata = BTreeMap::from([
            ("training".to_string(), serde_json::to_string(&self.train).unwrap_or_default()),
            ("training_step".to_string(), self.adam.steps().to_string()),
            ("training_pairs".to_string(), self.loader.data.len().to_string()),
            ("training_seconds".to_string(), format!("{:.0}", self.seconds)),
        ]);
        let (config, weights) = (self.model.clone(), self.weights()?);
        let file = Checkpoint { config, weights, self_contained: true, metadata };
        file.write(self.dir.join("weights.safetensors"), DType::F32)?;
        let curve = curve::svg(&self.log.reports()?);
        write(&self.dir.join("curve.svg"), curve.as_bytes())
    }

    /// Trains until all epochs are done or `options` says to stop; batches are made one ahead by
    /// another thread. Checkpoints are written on the way, and with the weights and the curve at
    /// the end of every epoch and when stopping.
    ///
    /// # Errors
    /// As [`Trainer::step`] and [`Trainer::save`]; the run can be resumed from the last checkpoint.
    pub fn run(&mut self, options: &RunOptions) -> Result<Outcome> {
        match options.threads {
            None => self.run_here(options),
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
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for step in steps {
                    let batch = loader.batch(step);
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
        let mut checkpointed = Instant::now();
        let mut means = Means::default();
        while self.adam.steps() < total {
            let batch = batches
                .recv()
                .map_err(|_| Error::Threads("the loading thread ended early".into()))??;
            let report = self.step_on(batch)?;
            means.add(&report);
            progress.step(&report, self.train.epochs, &means);

            let done = report.step;
            let epoch_ends = done % self.steps_per_epoch() == 0;
            let stop = options.stop.as_ref().is_some_and(|s| s.load(Ordering::Relaxed))
                || options.stop_after.is_some_and(|n| done - first >= n);
            let due = epoch_ends
                || stop
                || checkpointed.elapsed() >= options.checkpoint_every
                || (options.checkpoint_steps > 0 && done % options.checkpoint_steps == 0);
            if due {
                self.save()?;
                checkpointed = Instant::now();
            }
            if epoch_ends || stop {
                self.export()?;
            }
            if epoch_ends {
                progress.epoch(&report, self.train.epochs, &means);
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

/// The samples of one step.
#[derive(Default)]
struct Batch {
    names: Vec<String>,
    visible: Vec<f32>,
    infrared: Vec<f32>,
}

/// Makes any step's batch from its number alone.
#[derive(Clone)]
struct Loader {
    data: Arc<PairFolder>,
    train: TrainConfig,
}

impl Loader {
    fn steps_per_epoch(&self) -> usize {
        self.data.len() / self.train.batch
    }

    fn batch(&self, step: usize) -> Result<Batch> {
        let TrainConfig { batch, patch, seed, .. } = self.train;
        let (epoch, at) = (step / self.steps_per_epoch(), step % self.steps_per_epoch());
        let mut order: Vec<usize> = (0..self.data.len()).collect();
        shuffle(&mut stream(Purpose::Order, seed, epoch as u64, 0), &mut order);
        let mut out = Batch::default();
        for &index in order.iter().skip(at * batch).take(batch) {
            let pair = self.data.pair(index)?;
            let sample = draw(&pair, patch, seed, epoch, index)?;
            out.names.push(self.data.name(index).unwrap_or_default().to_string());
            out.visible.extend(sample.visible);
            out.infrared.extend(sample.infrared);
        }
        Ok(out)
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
    fingerprint: u64,
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
    out.insert("data.fingerprint".into(), format!("{fingerprint:016x}"));
    out
}

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(".lock");
    let file = File::options().create(true).append(true).open(&path).map_err(Error::io(&path))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Error::OutputInUse(dir.to_path_buf())),
        // A file system without locks: the lock is a kindness, not a need.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
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
