use isfm_losses::LossWeights;
use serde::{Deserialize, Serialize};

use crate::{AdamConfig, Error, Result};

/// The learning rate, set once per epoch: a linear warm-up, then a cosine over all
/// epochs down to a floor.
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
    /// Epochs of warm-up.
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
    /// Passes over the data.
    pub epochs: usize,
    /// Decides initial weights, order and augmentation.
    pub seed: u64,
    /// The side of the square samples.
    pub patch: usize,
    /// The learning rate.
    pub schedule: Schedule,
    /// The optimiser.
    pub adam: AdamConfig,
    /// The weights of the loss's terms.
    pub loss: LossWeights,
}

impl Default for TrainConfig {
    /// The authors' recipe.
    fn default() -> Self {
        Self {
            batch: 4,
            epochs: 100,
            seed: 3407,
            patch: 128,
            schedule: Schedule::default(),
            adam: AdamConfig::default(),
            loss: LossWeights::default(),
        }
    }
}

impl TrainConfig {
    /// Checks every setting's range.
    ///
    /// # Errors
    /// [`Error::Setting`] for the first that is out of it.
    pub fn validate(&self) -> Result<()> {
        let check = |setting, got: &dyn ToString, fits: bool, needed| {
            if fits { Ok(()) } else { Err(Error::setting(setting, got.to_string(), needed)) }
        };
        check("batch", &self.batch, self.batch > 0, "at least 1")?;
        check("epochs", &self.epochs, self.epochs > 0, "at least 1")?;
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
        any("loss.ssim", self.loss.ssim)
    }

    /// The learning rate of an epoch, from 0.
    pub fn rate(&self, epoch: usize) -> f64 {
        self.schedule.rate(epoch, self.epochs)
    }
}
