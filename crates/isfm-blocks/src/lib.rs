#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod alternatives;
mod check;
mod extractor;
mod frequency;
mod interactive;
mod reconstruction;

pub use alternatives::{ConcatLinear, CrossAttention, concat_linear, cross_attention};
pub use extractor::{Features, ModalitySpecificExtractor, Source, modality_specific_extractor};
pub use frequency::{
    Frequencies, Hffb, Lffb, MffLayer, MffOutput, MffParts, band_averages, hffb, lffb, mff_layer,
};
pub use interactive::{
    BlockKind, FgBlock, Fgg, Fgm, GateSource, IsfLayer, fg_block, fgg, fgm, isf_layer,
};
pub use reconstruction::{Accumulator, Reconstruction, reconstruction};

/// The sum of two maps of one shape.
fn add(
    x: &candle_core::Tensor,
    y: &candle_core::Tensor,
) -> candle_core::Result<candle_core::Tensor> {
    isfm_ops::weighted_sum(x, 1., y, 1.)
}
