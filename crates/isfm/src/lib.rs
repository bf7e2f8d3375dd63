#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod batch;
mod builder;
mod colour;
#[cfg(feature = "embedded-weights")]
mod embedded;
mod error;
mod files;
mod fuse;
mod luma;
mod memory;
mod normalize;
mod placement;
mod plane;
mod pyramid;
mod read;
mod steady;
mod stream;
mod system;
mod tiling;
mod video;

pub use builder::Builder;
pub use colour::to_8_bits;
#[cfg(feature = "embedded-weights")]
pub use embedded::embedded_weights;
pub use error::{Error, Result, Side};
pub use files::{PictureFormat, write_image, write_image_as};
pub use fuse::{Borders, Isfm};
pub use isfm_align::{Alignment, Homography, Sizes};
pub use isfm_model::{Checkpoint, Config, Preset, Pyramid};
pub use isfm_ops::{keep_freed_device_memory, keep_freed_memory};
pub use memory::memory_per_pixel;
pub use normalize::Normalize;
pub use read::{Note, Picture, read_image, read_image_size};
pub use stream::{Stream, StreamRange};
pub use system::available_memory;
pub use tiling::Tiling;
pub use video::{Frame, FrameMut, PlaneLayout, VideoFormat, VideoLayout};
