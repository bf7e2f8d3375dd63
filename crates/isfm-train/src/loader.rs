use std::sync::Arc;

use rayon::prelude::*;

use crate::mixture::Split;
use crate::random::{Purpose, below, between, shuffle, stream};
use crate::{DataSet, Result, Sample, TrainConfig};

/// The samples of one step.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) names: Vec<String>,
    pub(crate) visible: Vec<f32>,
    pub(crate) infrared: Vec<f32>,
}

/// Makes any step's batch from its number alone.
#[derive(Clone)]
pub(crate) struct Loader {
    pub(crate) data: Arc<DataSet>,
    pub(crate) split: Arc<Split>,
    train: TrainConfig,
}

/// One sample of a step: its pair, and the number that its augmentation is drawn by.
struct Pick {
    folder: usize,
    pair: usize,
    index: usize,
}

impl Loader {
    pub(crate) fn new(data: DataSet, train: TrainConfig) -> Result<Self> {
        let split = Arc::new(Split::of(&data, train.validation.as_ref())?);
        Ok(Self { data: Arc::new(data), split, train })
    }

    pub(crate) fn steps_per_epoch(&self) -> usize {
        self.split.pairs() / self.train.batch
    }

    fn epoch(&self, step: usize) -> usize {
        step / self.steps_per_epoch()
    }

    fn picks(&self, step: usize) -> Vec<Pick> {
        let TrainConfig { batch, seed, .. } = self.train;
        let (epoch, first) = (self.epoch(step), step % self.steps_per_epoch() * batch);
        let of_epoch = |purpose, index| stream(purpose, seed, epoch as u64, index as u64);
        if let [only] = &self.split.trained[..] {
            let mut order = only.clone();
            shuffle(&mut of_epoch(Purpose::Order, 0), &mut order);
            let pick = |&pair: &usize| Pick { folder: 0, pair, index: pair };
            return order.iter().skip(first).take(batch).map(pick).collect();
        }
        let folders = self.data.folders();
        let all = folders.iter().map(|(_, share)| share).sum();
        let pick = |index| {
            let mut rng = of_epoch(Purpose::Choice, index);
            let mut left = between(&mut rng, 0., all);
            // Past the last only by rounding.
            let folder = folders.iter().position(|(_, share)| {
                left -= share;
                left < 0.
            });
            let folder = folder.unwrap_or(folders.len() - 1);
            let pairs = &self.split.trained[folder];
            Pick { folder, pair: pairs[below(&mut rng, pairs.len())], index }
        };
        (first..first + batch).map(pick).collect()
    }

    /// The names of a step's pairs.
    pub(crate) fn names(&self, step: usize) -> Vec<String> {
        self.names_of(&self.picks(step))
    }

    fn names_of(&self, picks: &[Pick]) -> Vec<String> {
        picks.iter().map(|p| self.data.name(p.folder, p.pair)).collect()
    }

    /// Draws a step's samples on rayon's current pool.
    pub(crate) fn batch(&self, step: usize) -> Result<Batch> {
        let TrainConfig { patch, seed, augment, .. } = &self.train;
        let (epoch, picks) = (self.epoch(step), self.picks(step));
        let draw = |pick: &Pick| {
            let pair = self.data.folders()[pick.folder].0.pair(pick.pair)?;
            augment.draw(&pair, *patch, *seed, epoch, pick.index)
        };
        // All first: which of several errors is reported must not depend on the threads.
        let samples: Vec<Result<Sample>> = picks.par_iter().map(draw).collect();
        let mut batch = Batch { names: self.names_of(&picks), ..Batch::default() };
        for sample in samples {
            let sample = sample?;
            batch.visible.extend(sample.visible);
            batch.infrared.extend(sample.infrared);
        }
        Ok(batch)
    }
}
