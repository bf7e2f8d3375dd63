#![doc = include_str!("../README.md")]

mod error;
mod extractor;
mod frequency;
mod interactive;
mod reconstruction;

pub use error::{Error, Result};
pub use extractor::{Features, ModalitySpecificExtractor, Source};
pub use frequency::{
    Frequencies, Hffb, Lffb, MffLayer, MffOutput, band_averages, hffb, lffb, mff_layer,
};
pub use interactive::{FgBlock, Fgg, Fgm, IsfLayer, fg_block, fgg, fgm, isf_layer};
pub use reconstruction::{Reconstruction, Sum, reconstruction};

/// The sum of two maps of one shape.
fn add(x: &candle_core::Tensor, y: &candle_core::Tensor) -> Result<candle_core::Tensor> {
    Ok(isfm_ops::weighted_sum(x, 1., y, 1.)?)
}
