//! A painted data set, and a model small enough to train in a test.

use std::path::Path;

use image::{GrayImage, Luma, Rgb, RgbImage};
use isfm_losses::LossWeights;
use isfm_model::Config;
use isfm_train::{
    Augment, PairFolder, Schedule, StepReport, TrainConfig, Trainer, TrainerBuilder, Validation,
};

/// `pairs` scenes of differing sizes: texture that only the visible image has, a warm disc that
/// only the infrared image has.
pub(crate) fn paint(dir: &Path, pairs: u32) {
    for side in ["vi", "ir"] {
        std::fs::create_dir_all(dir.join(side)).unwrap();
    }
    for n in 0..pairs {
        let (w, h) = (60 + 3 * n, 50 + n);
        let visible = RgbImage::from_fn(w, h, |x, y| {
            let stripe = if (x / 5 + y / (3 + n)) % 2 == 0 { 90 } else { 30 };
            Rgb([stripe as u8 + (x % 40) as u8, stripe as u8, (y * 2) as u8])
        });
        let infrared = GrayImage::from_fn(w, h, |x, y| {
            let (dx, dy) = (x as f32 - 20. - n as f32, y as f32 - 25.);
            Luma([if dx.hypot(dy) < 12. { 230 } else { 20 + (y / 2) as u8 }])
        });
        visible.save(dir.join(format!("vi/{n:03}.png"))).unwrap();
        infrared.save(dir.join(format!("ir/{n:03}.png"))).unwrap();
    }
}

pub(crate) fn model() -> Config {
    Config { embed_dim: 16, depths: vec![1], ..Config::default() }
}

/// 7 pairs, batch 2: 3 steps an epoch, one pair left out of each. With some seeds so small a network
/// begins with an image below 0 nearly everywhere, and learns slowly; not with this one.
pub(crate) fn recipe(epochs: usize) -> TrainConfig {
    let schedule = Schedule { start: 2e-4, peak: 1e-3, warmup: 1, ..Schedule::default() };
    TrainConfig { batch: 2, epochs, seed: 1, patch: 24, schedule, ..TrainConfig::default() }
}

/// Everything that the authors' recipe does not have.
pub(crate) fn everything() -> TrainConfig {
    TrainConfig {
        steps: Some(7),
        augment: Augment {
            crops: true,
            flips: 0.5,
            invert: 0.2,
            night: 0.3,
            levels: 0.5,
            blur: 0.3,
            noise: 0.3,
            same: 0.1,
            swap: 0.2,
            ..Augment::default()
        },
        clip: Some(0.5),
        weight_decay: 0.05,
        ema: Some(0.9),
        loss: LossWeights { scd: 1., ..LossWeights::default() },
        validation: Some(Validation { every: 2, share: 0.4, pairs: 2 }),
        ..recipe(1)
    }
}

pub(crate) fn builder(data: &Path, config: TrainConfig) -> TrainerBuilder {
    Trainer::builder(model(), PairFolder::open(data).unwrap()).config(config)
}

pub(crate) fn create(data: &Path, output: &Path, epochs: usize) -> Trainer {
    builder(data, recipe(epochs)).create(output).unwrap()
}

pub(crate) fn resume(data: &Path, output: &Path, epochs: usize) -> isfm_train::Result<Trainer> {
    builder(data, recipe(epochs)).resume(output)
}

/// A run's log, without the times, as exact bits.
pub(crate) fn log(output: &Path) -> Vec<(usize, usize, u64, [u32; 5])> {
    let text = std::fs::read_to_string(output.join("log.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str::<StepReport>(line).unwrap())
        .map(|r| (r.step, r.epoch, r.rate.to_bits(), r.losses().map(|(_, v)| v.to_bits())))
        .collect()
}
