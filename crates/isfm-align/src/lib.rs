mod error;
#[doc(hidden)]
pub mod estimate;
mod homography;
mod image;
pub use error::{Error, Result};
pub use estimate::{Model, Options};
pub use homography::Homography;
pub use image::{Image, Sample};
