//! How much memory a forward pass takes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use image::DynamicImage;
use isfm_model::Config;
use isfm_ops::internal::Workspace;

use crate::system::available_memory;
use crate::{Builder, Error, Result};

/// Bytes for each pixel that the network sees at once: its feature maps, and the planes (two lumas
/// and the result as `f32`, and their copies).
pub(crate) fn per_pixel(config: &Config) -> usize {
    maps(config).saturating_add(24)
}

/// Bytes for each pixel of a picture that a network fuses whole, beside the picture itself: an estimate, a
/// little high, that [`Isfm::memory_needed`](crate::Isfm::memory_needed) refines.
pub fn memory_per_pixel(config: &Config) -> usize {
    match config.pyramid.levels {
        0 => per_pixel(config),
        // A quarter of the pixels for each level.
        levels => (maps(config) >> (2 * levels)).saturating_add(PYRAMID_PLANES),
    }
}

/// Bytes for each pixel of a picture that is taken apart and put together on a pyramid: two lumas and
/// the result, and at most 6 planes of the finest level and a third of that below.
pub(crate) const PYRAMID_PLANES: usize = 24 + 4 * 6 * 4 / 3;

/// Bytes for each pixel of so many planes of a base.
pub(crate) const fn base_planes(count: usize) -> usize {
    count * size_of::<f32>()
}

/// Bytes for each pixel of a base while it is merged: both bases, the network's outputs twice and what
/// is made of them, and the pyramid below.
pub(crate) const fn merged_bases(outputs: usize) -> usize {
    base_planes(2 + 3 * outputs) + PYRAMID_PLANES
}

/// Bytes for each pixel of an image whose fused luma is stretched: the luma, and the copy in which its
/// percentiles are found.
pub(crate) const STRETCHED: usize = 2 * size_of::<f32>();

/// Bytes of the floats in which the percentiles of an image's values are found; of 8-bit ones there are
/// none.
pub(crate) fn floats(image: &DynamicImage) -> usize {
    let color = image.color();
    match color.bytes_per_pixel() / color.channel_count() {
        1 => 0,
        bytes => image.as_bytes().len() / usize::from(bytes) * size_of::<f32>(),
    }
}

/// Bytes for each pixel at the peak of a forward pass, which comes inside the last fusion layer: then
/// the sum of the reconstruction (64 channels) is there, some four maps of C channels, four of D, and
/// the scan's projections (R + 2N values for each of four directions).
///
/// Fitted to the peak memory of the three presets at 256×256 and 640×480 (1354, 3137 and 6804 bytes
/// for each pixel more), from which it differs by −4 to 3 %; a tenth is added for what the allocator does
/// not give back.
fn maps(config: &Config) -> usize {
    let (c, d) = (config.embed_dim, config.d_inner());
    let maps = 256 + 16 * c + 16 * d;
    let projections = 16 * (config.dt_rank() + 2 * config.d_state);
    (maps + projections).saturating_mul(11) / 10
}

/// What fusions may take.
#[derive(Debug)]
pub(crate) struct Room {
    /// Above it a picture is cut into tiles.
    pub(crate) limit: usize,
    /// For results, and the floats that are gone before the network starts.
    pub(crate) images: Found,
    /// For the network, tile by tile.
    pub(crate) network: Found,
}

impl Room {
    /// `asked`, or what [`Builder::memory_limit`] says; on a GPU the host's memory says nothing.
    pub(crate) fn new(asked: Option<usize>, on_gpu: bool) -> Self {
        let share = || available_memory().filter(|_| !on_gpu).map(|bytes| bytes / 2);
        let limit = asked.or_else(share).unwrap_or(Builder::FALLBACK_MEMORY_LIMIT);
        let found = || Found(AtomicUsize::new(if on_gpu { usize::MAX } else { 0 }));
        Self { limit, images: found(), network: found() }
    }
}

/// The most bytes that were there when they were looked for. They need not be looked for again: what a
/// fusion took it gave back, to the system or to an allocator that keeps it.
#[derive(Debug)]
pub(crate) struct Found(AtomicUsize);

impl Found {
    /// # Errors
    /// [`Error::Memory`] if the system has less than `needed` bytes left.
    pub(crate) fn check(&self, needed: usize) -> Result<()> {
        if needed <= self.0.load(Ordering::Relaxed) {
            return Ok(());
        }
        match available_memory() {
            Some(left) if left < needed => Err(Error::Memory { needed, left }),
            _ => {
                self.0.fetch_max(needed, Ordering::Relaxed);
                Ok(())
            }
        }
    }
}

/// What fusions leave for later ones, one for each that ran at the same time.
#[derive(Debug, Default)]
pub(crate) struct Workspaces(Mutex<Vec<Workspace>>);

impl Workspaces {
    /// Runs `f` in one that is idle, which keeps at most `room` bytes.
    pub(crate) fn run<T>(&self, room: usize, f: impl FnOnce() -> T) -> T {
        let mut workspace = self.idle().pop().unwrap_or_default();
        let result = workspace.run(room, f);
        self.idle().push(workspace);
        result
    }

    pub(crate) fn release(&self) {
        let idle = std::mem::take(&mut *self.idle());
        drop(idle);
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Workspace>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use isfm_model::Preset;

    use super::*;

    #[test]
    fn the_estimate_is_a_little_above_what_was_measured() {
        for (preset, measured) in
            [(Preset::Small, 1354.), (Preset::Base, 3137.), (Preset::Paper, 6804.)]
        {
            let estimate = maps(&preset.into()) as f64;
            let above = estimate / measured;
            assert!((1.05..1.3).contains(&above), "{preset}: {estimate} for {measured}");
        }
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let room = Room::new(Some(5), false);
        assert_eq!(room.limit, 5);
        room.network.check(1).unwrap();
        if available_memory().is_some() {
            assert!(matches!(
                room.network.check(1 << 60),
                Err(Error::Memory { needed: 0x1000_0000_0000_0000, .. })
            ));
        }
        let gpu = Room::new(None, true);
        assert_eq!(gpu.limit, Builder::FALLBACK_MEMORY_LIMIT);
        gpu.images.check(1 << 60).unwrap();
    }
}
