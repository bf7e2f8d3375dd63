//! Painted pairs, a small network, and what the environment asks for.

use std::path::Path;

use image::{GrayImage, Luma, Rgb, RgbImage};
use isfm_train::{Schedule, TrainConfig, Validation};

/// A number from the environment.
pub(crate) fn asked(name: &str, default: usize) -> usize {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}

/// xorshift64*: which moments and sizes come next.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n.max(1)
    }
}

pub(crate) fn scene(k: u32, width: u32, height: u32) -> (RgbImage, GrayImage) {
    let visible = RgbImage::from_fn(width, height, |x, y| {
        Rgb([(7 * x + 31 * k) as u8, (5 * y) as u8, (x * y / 8) as u8])
    });
    let infrared =
        GrayImage::from_fn(width, height, |x, y| Luma([((x / 9 + y / 7 + k) % 2 * 180 + y) as u8]));
    (visible, infrared)
}

/// Folders `vi` and `ir`.
pub(crate) fn pairs(folder: &Path, count: u32, (width, height): (u32, u32)) {
    let [vi, ir] = ["vi", "ir"].map(|side| folder.join(side));
    std::fs::create_dir_all(&vi).unwrap();
    std::fs::create_dir_all(&ir).unwrap();
    for k in 0..count {
        let (visible, infrared) = scene(k, width, height);
        visible.save(vi.join(format!("{k}.png"))).unwrap();
        infrared.save(ir.join(format!("{k}.png"))).unwrap();
    }
}

pub(crate) fn model() -> isfm_model::Config {
    isfm_model::Config { embed_dim: 16, depths: vec![1], ..isfm_model::Config::default() }
}

/// Nine steps of a small network, with all that a checkpoint can hold.
pub(crate) fn recipe() -> TrainConfig {
    TrainConfig {
        batch: 2,
        steps: Some(9),
        seed: 1,
        patch: 24,
        schedule: Schedule { start: 2e-4, peak: 1e-3, warmup: 1, ..Schedule::default() },
        ema: Some(0.9),
        validation: Some(Validation { every: 4, share: 0.4, pairs: 2 }),
        ..TrainConfig::default()
    }
}
