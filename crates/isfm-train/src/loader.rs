use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use crate::corrupt::{LeftOut, Place, is_of_a_pair};
use crate::mixture::Split;
use crate::random::{Purpose, below, between, shuffle, stream};
use crate::{Corrupt, DataSet, Pair, Result, Sample, TrainConfig};

/// A rank's samples of one step.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) names: Vec<String>,
    pub(crate) visible: Vec<f32>,
    pub(crate) infrared: Vec<f32>,
    /// The damaged pairs that others have taken the place of.
    pub(crate) left_out: Vec<(Place, String)>,
}

/// Makes any step's batch from its number alone.
#[derive(Clone)]
pub(crate) struct Loader {
    pub(crate) data: Arc<DataSet>,
    pub(crate) split: Arc<Split>,
    pub(crate) left_out: Arc<LeftOut>,
    train: TrainConfig,
    /// Which samples of each step are made: those of this rank.
    own: Range<usize>,
}

/// One sample of a step: its pair, and the number that its augmentation is drawn by.
struct Pick {
    folder: usize,
    pair: usize,
    index: usize,
}

impl Loader {
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt) for what of the pairs is known to be damaged, which
    /// is all of it if damaged pairs are refused.
    pub(crate) fn new(
        data: DataSet,
        train: TrainConfig,
        corrupt: Corrupt,
        own: Range<usize>,
    ) -> Result<Self> {
        let split = Arc::new(Split::of(&data, train.validation.as_ref())?);
        let left_out = LeftOut::new(corrupt, data.len());
        let folders = data.folders().iter().enumerate();
        if corrupt == Corrupt::Refuse {
            let all = folders.flat_map(|(at, (folder, _))| (0..folder.len()).map(move |i| (at, i)));
            let all: Vec<_> = all.collect();
            let decode = |&(at, i): &(usize, usize)| data.folders()[at].0.pair(i).map(drop);
            let decoded: Vec<_> = all.par_iter().map(decode).collect();
            let mut problems = Vec::new();
            for (place, decoded) in all.into_iter().zip(decoded) {
                match decoded {
                    Err(problem) if is_of_a_pair(&problem) => {
                        problems.push((place, problem.chain()))
                    }
                    decoded => decoded?,
                }
            }
            left_out.extend(problems)?;
        } else {
            let problems = folders.flat_map(|(at, (folder, _))| {
                folder.problems().iter().map(move |(i, problem)| ((at, *i), problem.chain()))
            });
            left_out.extend(problems)?;
        }
        Ok(Self { data: Arc::new(data), split, left_out: Arc::new(left_out), train, own })
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

    /// The names of a step's pairs, were none of them damaged.
    pub(crate) fn names(&self, step: usize) -> Vec<String> {
        self.picks(step).iter().map(|p| self.data.name(p.folder, p.pair)).collect()
    }

    /// A pick's pair, or another one of its folder if that is damaged, and its name; what is damaged is
    /// added to `left_out`.
    fn sound_pair(
        &self,
        epoch: usize,
        pick: &Pick,
        left_out: &mut Vec<(Place, String)>,
    ) -> Result<(String, Arc<Pair>)> {
        let folder = &self.data.folders()[pick.folder].0;
        let mut decode = |pair: usize| match folder.pair(pair) {
            Ok(decoded) => Ok(Some((self.data.name(pick.folder, pair), decoded))),
            Err(problem) => {
                let place = (pick.folder, pair);
                left_out.push((place, problem.chain()));
                self.left_out.add(place, problem).map(|()| None)
            }
        };
        if let Some(sound) = decode(pick.pair)? {
            return Ok(sound);
        }
        let mut others = self.split.trained[pick.folder].clone();
        let (epoch, index) = (epoch as u64, pick.index as u64);
        shuffle(&mut stream(Purpose::Instead, self.train.seed, epoch, index), &mut others);
        for pair in others {
            if let Some(sound) = decode(pair)? {
                return Ok(sound);
            }
        }
        Err(self.left_out.all())
    }

    /// Draws this rank's samples of a step on rayon's current pool.
    pub(crate) fn batch(&self, step: usize) -> Result<Batch> {
        let TrainConfig { patch, seed, augment, .. } = &self.train;
        let (epoch, picks) = (self.epoch(step), self.picks(step));
        let draw = |pick: &Pick| {
            let mut left_out = Vec::new();
            let (name, pair) = self.sound_pair(epoch, pick, &mut left_out)?;
            Ok((name, augment.draw(&pair, *patch, *seed, epoch, pick.index)?, left_out))
        };
        // All first: which of several errors is reported must not depend on the threads.
        let samples: Vec<Result<_>> = picks[self.own.clone()].par_iter().map(draw).collect();
        let mut batch = Batch::default();
        for sample in samples {
            let (name, sample, left_out): (_, Sample, Vec<_>) = sample?;
            batch.names.push(name);
            batch.left_out.extend(left_out);
            batch.visible.extend(sample.visible);
            batch.infrared.extend(sample.infrared);
        }
        Ok(batch)
    }
}
