#![doc = include_str!("../README.md")]

mod axis;
#[cfg(feature = "cuda")]
mod cuda;
mod error;
mod kernel;
mod layout;
mod op;
mod transform;
mod wavelet;

pub use axis::Border;
pub use error::{Error, Result};
pub use layout::Layout;
pub use transform::{Subbands, dwt2, idwt2, wavedec2, waverec2};
pub use wavelet::Wavelet;
