#![doc = include_str!("../README.md")]

mod colour;
#[cfg(feature = "embedded-weights")]
mod embedded;
mod error;
mod files;
mod fuse;
mod memory;
mod normalise;
mod plane;
mod tiling;

pub use error::{Error, Result, Side};
pub use files::{read_image, write_image};
pub use fuse::{Borders, Builder, Isfm};
pub use isfm_model::{Checkpoint, Config, Preset};
#[cfg(feature = "cuda")]
pub use isfm_ops::keep_freed_device_memory;
pub use isfm_ops::keep_freed_memory;
pub use normalise::Normalize;
pub use tiling::Tiling;
