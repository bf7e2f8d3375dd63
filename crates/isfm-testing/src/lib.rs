//! What the tests and benchmarks of this workspace share: reproducible numbers, comparisons with a stated
//! tolerance, finite differences, golden files, thread pools, and tests of files that are not
//! everywhere. All of it panics where a test should fail.

use std::path::PathBuf;
use std::time::Instant;

#[cfg(feature = "tensors")]
mod gradients;
#[cfg(feature = "pictures")]
pub mod paint;
#[cfg(feature = "tensors")]
mod tensors;
#[cfg(feature = "pictures")]
mod text;

#[cfg(feature = "tensors")]
pub use gradients::{Differences, check_gradients, check_variables, gradients};
#[cfg(feature = "tensors")]
pub use tensors::{
    Golden, assert_close, bits, difference, dot, random, relative, same_bits, tensor, values,
};

/// Reproducible numbers (splitmix64), which depend on the seed alone.
#[derive(Clone, Debug)]
pub struct Numbers(pub u64);

impl Numbers {
    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `count` numbers uniform in [low, high).
    pub fn vec(&mut self, count: usize, low: f64, high: f64) -> Vec<f64> {
        (0..count).map(|_| low + (high - low) * self.unit()).collect()
    }
}

/// Seconds of the best of `runs` runs, after one that does not count.
///
/// # Errors
/// The first one of `work`.
pub fn best<T, E>(runs: usize, mut work: impl FnMut() -> Result<T, E>) -> Result<f64, E> {
    work()?;
    let mut least = f64::INFINITY;
    for _ in 0..runs {
        let start = Instant::now();
        std::hint::black_box(work()?);
        least = least.min(start.elapsed().as_secs_f64());
    }
    Ok(least)
}

/// `f` in a pool of so many threads.
pub fn on_threads<T: Send>(threads: usize, f: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
}

/// Asserts that `run` gives the same on 1, 2, 3 and 8 threads.
pub fn same_on_any_threads<T: PartialEq + Send>(what: &str, run: impl Fn() -> T + Sync) {
    let one = on_threads(1, &run);
    for threads in [2, 3, 8] {
        assert!(on_threads(threads, &run) == one, "{what}: {threads} threads differ from one");
    }
}

/// Asserts an error whose text has all of these words.
#[track_caller]
pub fn refused<T, E: std::fmt::Display>(result: Result<T, E>, words: &[&str]) {
    let Err(error) = result else { panic!("accepted, not refused for {words:?}") };
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{text:?} does not say {word:?}");
    }
}

/// Asserts that an error and its causes together say `cause` once, and that no text repeats the next.
#[track_caller]
pub fn says_once(error: &(dyn std::error::Error + 'static), cause: &str) {
    let told = chain(error);
    assert_eq!(told.matches(cause).count(), 1, "{told}");
}

/// An error's text and those of its causes, with `: ` between. Asserts that none repeats the next.
#[track_caller]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source());
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    for pair in texts.windows(2) {
        assert!(!pair[0].contains(&pair[1]), "a cause is told twice: {texts:?}");
    }
    texts.join(": ")
}

/// The folder `shared` beside the repository: other people's pictures, and numbers made from them.
/// For tests inside [`needs_shared!`].
pub fn shared() -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared").into()
}

/// Tests of what lies in [`shared`]. Where the folder was missing when this crate was built, the
/// harness lists them as ignored.
#[cfg(shared)]
#[macro_export]
macro_rules! needs_shared {
    ($($(#[$attribute:meta])* fn $name:ident() $body:block)*) => {
        $(#[test] $(#[$attribute])* fn $name() $body)*
    };
}

/// Tests of what lies in [`shared`]. Where the folder was missing when this crate was built, the
/// harness lists them as ignored.
#[cfg(not(shared))]
#[macro_export]
macro_rules! needs_shared {
    ($($(#[$attribute:meta])* fn $name:ident() $body:block)*) => {
        $(#[test] #[ignore = "no pictures in ../shared"] $(#[$attribute])* fn $name() $body)*
    };
}
