//! From feature maps to an image (spec §5, eq. 22).

use candle_core::{Module, Tensor};
use candle_nn::VarBuilder;
use isfm_ops::nn::{Conv2d, conv2d};
use isfm_ops::silu;

use crate::Result;

/// Channels between the two convolutions; the released network's number.
const HIDDEN: usize = 64;

/// The two convolutions at the end (`conv_final_fuse`).
#[derive(Clone, Debug)]
pub struct Reconstruction {
    conv_in: Conv2d,
    conv_out: Conv2d,
}

/// Builds a [`Reconstruction`] from `channels` channels.
///
/// # Errors
/// If a tensor is missing or has another shape.
pub fn reconstruction(channels: usize, vb: VarBuilder) -> Result<Reconstruction> {
    Ok(Reconstruction {
        conv_in: conv2d(channels, HIDDEN, 3, vb.pp(0))?,
        conv_out: conv2d(HIDDEN, 1, 3, vb.pp(2))?,
    })
}

impl Reconstruction {
    /// The fused luminance, B×H×W×1, not clamped, from all layers' spatial outputs followed by all
    /// layers' frequency outputs, B×H×W×C each.
    ///
    /// # Errors
    /// If the maps' channels do not add up.
    pub fn forward(&self, maps: Vec<Tensor>) -> Result<Tensor> {
        let x = Tensor::cat(&maps, 3)?;
        drop(maps);
        let x = silu(&self.conv_in.forward(&x)?)?;
        Ok(self.conv_out.forward(&x)?)
    }
}
