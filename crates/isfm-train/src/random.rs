//! Randomness by counter: every draw comes from a stream whose key says what it is for, so that a
//! run resumes from its step number alone and the order of threads does not matter.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What a stream is used for; streams of different purposes are independent.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    /// The order of an epoch.
    Order = 1,
    /// The augmentation of one sample.
    Augment = 2,
    /// What is done to a sample's pixels.
    Change = 3,
    /// Which folder and pair a sample of a mixture is taken from.
    Choice = 4,
    /// Which pairs take the place of one that cannot be read.
    Instead = 5,
}

pub(crate) fn stream(purpose: Purpose, seed: u64, epoch: u64, index: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    let words = [purpose as u64, seed, epoch, index];
    for (bytes, word) in key.chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// A number in `0..n`, `n` at least 1. The bias, below n/2³², is nothing for sizes of images.
pub(crate) fn below(rng: &mut ChaCha8Rng, n: usize) -> usize {
    ((u64::from(rng.next_u32()) * n as u64) >> 32) as usize
}

/// A number in 0 to 1, never 1.
pub(crate) fn unit(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// A number from `low` to `high`.
pub(crate) fn between(rng: &mut ChaCha8Rng, low: f64, high: f64) -> f64 {
    low + (high - low) * unit(rng)
}

/// A factor from `low` to `high`, both above 0, whose logarithm is uniform.
pub(crate) fn factor(rng: &mut ChaCha8Rng, low: f64, high: f64) -> f64 {
    between(rng, low.ln(), high.ln()).exp()
}

/// True with this probability.
pub(crate) fn chance(rng: &mut ChaCha8Rng, probability: f64) -> bool {
    unit(rng) < probability
}

/// A number of the normal distribution of mean 0 and variance 1 (Box–Muller).
pub(crate) fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let radius = (-2. * (1. - unit(rng)).ln()).sqrt();
    radius * (std::f64::consts::TAU * unit(rng)).cos()
}

/// A uniformly random order (Fisher–Yates).
pub(crate) fn shuffle<T>(rng: &mut ChaCha8Rng, items: &mut [T]) {
    for i in (1..items.len()).rev() {
        items.swap(i, below(rng, i + 1));
    }
}
