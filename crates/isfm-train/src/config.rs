use isfm_losses::LossWeights;
use serde::{Deserialize, Serialize};

use crate::{AdamConfig, Augment, Error, Result};

/// The learning rate, set once per epoch: a linear warm-up, then a cosine over all
/// epochs down to a floor. With [`TrainConfig::steps`] it is set at every step, and what is said
/// of epochs here holds of steps.
///
/// For epoch t of T: `start + t (peak − start) / warmup` for t < `warmup`, from then on
/// `floor + ½ (peak − floor) (1 + cos(π t / T))`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Schedule {
    /// The rate of epoch 0.
    pub start: f64,
    /// The rate that the warm-up climbs to.
    pub peak: f64,
    /// The rate that the cosine ends at.
    pub floor: f64,
    /// Epochs of warm-up, or steps.
    pub warmup: usize,
}

impl Default for Schedule {
    /// The authors' values.
    fn default() -> Self {
        Self { start: 1e-5, peak: 1e-4, floor: 5e-6, warmup: 5 }
    }
}

impl Schedule {
    /// The rate of `epoch` (from 0) of `epochs`.
    pub fn rate(&self, epoch: usize, epochs: usize) -> f64 {
        let t = epoch as f64;
        if epoch < self.warmup {
            return self.start + t * (self.peak - self.start) / self.warmup as f64;
        }
        let angle = std::f64::consts::PI * t / epochs.max(1) as f64;
        self.floor + 0.5 * (self.peak - self.floor) * (1. + angle.cos())
    }
}

/// Everything besides data and model that decides what a run computes. Two runs with equal
/// settings, data and model give the same weights on the same machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Pairs per step. The last partial batch of an epoch is dropped.
    pub batch: usize,
    /// Pairs whose gradient is computed at once, a divisor of `batch`, all of which it is unless given. The
    /// gradients of a step's micro-batches are added in the order of a fixed tree
    /// ([`Collective::sum`](crate::Collective::sum)). Smaller ones need less memory; several ranks need
    /// at least one each, and how many ranks there are then changes no bit of the run. Another size
    /// rounds differently.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<usize>,
    /// Passes over the data.
    pub epochs: usize,
    /// Steps of the whole run, instead of epochs; the schedule then goes by steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Decides initial weights, order and augmentation.
    pub seed: u64,
    /// The side of the square samples.
    pub patch: usize,
    /// How samples are taken and changed.
    #[serde(skip_serializing_if = "is_default")]
    pub augment: Augment,
    /// The learning rate.
    pub schedule: Schedule,
    /// The optimiser.
    pub adam: AdamConfig,
    /// The largest norm of all gradients together; larger ones are scaled down
    /// ([`Adam::with_clip`](crate::Adam::with_clip)).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
    /// Decoupled weight decay of parameters of two or more dimensions
    /// ([`Adam::with_weight_decay`](crate::Adam::with_weight_decay)).
    #[serde(skip_serializing_if = "is_default")]
    pub weight_decay: f64,
    /// Keep a moving average of the weights, which is then what is validated and written to
    /// `weights.safetensors`: after step t it decays by min(`ema`, (1 + t) / (10 + t)).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// The weights of the loss's terms.
    pub loss: LossWeights,
    /// Hold pairs back and score them on the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Which pairs are held back, and when they are scored ([`ValidationReport`](crate::ValidationReport)).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Validation {
    /// Score after every so many steps, and after the last.
    pub every: usize,
    /// The share of each folder's pairs that is never trained on, above 0 and below 1. A hash of
    /// its name alone says whether a pair is, so adding pictures changes nothing for the others;
    /// of a small folder the share is met by chance only.
    pub share: f64,
    /// Score at most so many of each folder's: those of the smallest hashes.
    pub pairs: usize,
}

impl Default for Validation {
    /// Every 1000 steps, 16 pairs a folder of the 2 % held back.
    fn default() -> Self {
        Self { every: 1000, share: 0.02, pairs: 16 }
    }
}

impl Default for TrainConfig {
    /// The authors' recipe.
    fn default() -> Self {
        Self {
            batch: 4,
            micro_batch: None,
            epochs: 100,
            steps: None,
            seed: 3407,
            patch: 128,
            augment: Augment::default(),
            schedule: Schedule::default(),
            adam: AdamConfig::default(),
            clip: None,
            weight_decay: 0.,
            ema: None,
            loss: LossWeights::default(),
            validation: None,
        }
    }
}

impl TrainConfig {
    /// Checks every setting's range.
    ///
    /// # Errors
    /// [`Error::Setting`] for the first that is out of it.
    pub fn validate(&self) -> Result<()> {
        let check = |setting, got: &dyn ToString, fits: bool, needed: &str| {
            if fits { Ok(()) } else { Err(Error::setting(setting, got.to_string(), needed)) }
        };
        check("batch", &self.batch, self.batch > 0, "at least 1")?;
        let micro = self.micro_batch.unwrap_or(self.batch);
        let divides = micro > 0 && self.batch.is_multiple_of(micro);
        let divisor = format!("a divisor of batch = {}", self.batch);
        check("micro_batch", &micro, divides, &divisor)?;
        check("epochs", &self.epochs, self.epochs > 0, "at least 1")?;
        let steps = self.steps.unwrap_or(1);
        check("steps", &steps, steps > 0, "at least 1")?;
        // Below 12 the SSIM window sees mostly padding; beyond, three patches overflow a resize.
        check("patch", &self.patch, (12..=4096).contains(&self.patch), "12 to 4096")?;
        let any =
            |name, v: f64| check(name, &v, v.is_finite() && v >= 0., "a finite number, 0 or more");
        let above =
            |name, v: f64| check(name, &v, v.is_finite() && v > 0., "a finite number above 0");
        let decay = |name, v: f64| check(name, &v, (0. ..1.).contains(&v), "0 or more and below 1");
        any("schedule.start", self.schedule.start)?;
        above("schedule.peak", self.schedule.peak)?;
        any("schedule.floor", self.schedule.floor)?;
        decay("adam.beta1", self.adam.beta1)?;
        decay("adam.beta2", self.adam.beta2)?;
        above("adam.eps", self.adam.eps)?;
        any("loss.content", self.loss.content)?;
        any("loss.intensity", self.loss.intensity)?;
        any("loss.gradient", self.loss.gradient)?;
        above("loss.gradient_gain", self.loss.gradient_gain)?;
        any("loss.ssim", self.loss.ssim)?;
        any("loss.scd", self.loss.scd)?;
        any("loss.vif", self.loss.vif)?;
        above("clip", self.clip.unwrap_or(1.))?;
        any("weight_decay", self.weight_decay)?;
        decay("ema", self.ema.unwrap_or(0.))?;

        let augment = &self.augment;
        let (least, most) = (augment.scale_min, augment.scale_max);
        let scale = |name, v: f64| check(name, &v, (0.0625..=16.).contains(&v), "0.0625 to 16");
        scale("augment.scale_min", least)?;
        scale("augment.scale_max", most)?;
        check("augment.scale_max", &most, most >= least, &format!("scale_min = {least} or more"))?;
        for (name, v) in [
            ("augment.flips", augment.flips),
            ("augment.invert", augment.invert),
            ("augment.night", augment.night),
            ("augment.levels", augment.levels),
            ("augment.blur", augment.blur),
            ("augment.noise", augment.noise),
            ("augment.same", augment.same),
            ("augment.swap", augment.swap),
        ] {
            check(name, &v, (0. ..=1.).contains(&v), "a probability, 0 to 1")?;
        }

        let Some(Validation { every, share, pairs }) = &self.validation else { return Ok(()) };
        check("validation.every", every, *every > 0, "at least 1")?;
        check("validation.share", share, *share > 0. && *share < 1., "above 0 and below 1")?;
        check("validation.pairs", pairs, *pairs > 0, "at least 1")
    }

    /// How many micro-batches a step has.
    pub fn micro_batches(&self) -> usize {
        self.batch / self.micro_batch.unwrap_or(self.batch).max(1)
    }

    /// The learning rate of an epoch, from 0.
    pub fn rate(&self, epoch: usize) -> f64 {
        self.schedule.rate(epoch, self.epochs)
    }

    /// The learning rate of a step, from 0, where an epoch has `steps_per_epoch`.
    pub fn rate_of_step(&self, step: usize, steps_per_epoch: usize) -> f64 {
        match self.steps {
            Some(steps) => self.schedule.rate(step, steps),
            None => self.rate(step / steps_per_epoch.max(1)),
        }
    }
}
