#![doc = include_str!("../README.md")]

mod alignment;
mod error;
mod estimate;
mod homography;
mod image;
mod json;
mod points;
mod rectangle;
mod warp;

pub use alignment::{Alignment, Confidence, Sizes};
pub use error::{Error, Refusal, Result};
pub use estimate::{Model, Options};
pub use homography::Homography;
pub use image::{Image, Sample};
pub use rectangle::Rectangle;
pub use warp::{Interpolation, Reference, Warped};
