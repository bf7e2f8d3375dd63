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
    /// Adds a map to what the first convolution makes of those added before (`None` before the
    /// first): a convolution of maps side by side is a sum over the maps, so none needs to wait for
    /// the others.
    ///
    /// # Shapes
    /// - `map`: B×H×W×C, the one that fills the channels C·`index` and following of all maps side
    ///   by side: the K layers' spatial maps and then their K frequency maps
    /// - `sum` and the result: B×H×W×64
    ///
    /// # Errors
    /// If there is no such place, or the shapes do not fit.
    pub fn add(&self, sum: Option<&Tensor>, map: &Tensor, index: usize) -> Result<Tensor> {
        let c = map.dim(3)?;
        let weight = self.conv_in.weight().narrow(1, index * c, c)?;
        Ok(match sum {
            Some(sum) => isfm_ops::conv2d_add(map, &weight, sum)?,
            None => isfm_ops::conv2d(map, &weight, self.conv_in.bias())?,
        })
    }

    /// The fused luminance, B×H×W×1, not clamped, from the sum over all maps.
    ///
    /// # Errors
    /// If the sum does not have 64 channels.
    pub fn finish(&self, sum: &Tensor) -> Result<Tensor> {
        Ok(self.conv_out.forward(&silu(sum)?)?)
    }
}
