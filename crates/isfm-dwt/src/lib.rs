#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod axis;
mod data_format;
mod error;
mod filters;
mod haar;
mod levels;
mod line;
mod op;
mod packet;
mod plane;
mod strip;
mod transform1d;
mod transform2d;
mod wavelet;

pub use axis::Border;
pub use data_format::DataFormat;
pub use error::{Error, Result};
pub use packet::WaveletPacket;
pub use transform1d::{dwt, idwt, iswt, swt, wavedec, waverec};
pub use transform2d::{Subbands, dwt2, idwt2, iswt2, swt2, wavedec2, waverec2};
pub use wavelet::Wavelet;
