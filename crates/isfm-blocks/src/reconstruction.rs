//! From feature maps to an image (the paper's eq. 22), or to several maps of one.

use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;
use isfm_ops::internal::{conv2d_accumulate, keep, silu_in_place};
use isfm_ops::nn::{Conv2d, conv2d};

/// Channels between the two convolutions; the released network's number.
const HIDDEN: usize = 64;

/// The two convolutions at the end (`conv_final_fuse`).
#[derive(Clone, Debug)]
pub struct Reconstruction {
    conv_in: Conv2d,
    conv_out: Conv2d,
}

/// Builds a [`Reconstruction`] from `channels` channels to `outputs`; the paper's has one.
///
/// # Errors
/// If a tensor is missing or has another shape.
pub fn reconstruction(channels: usize, outputs: usize, vb: VarBuilder) -> Result<Reconstruction> {
    Ok(Reconstruction {
        conv_in: conv2d(channels, HIDDEN, 3, vb.pp(0))?,
        conv_out: conv2d(HIDDEN, outputs, 3, vb.pp(2))?,
    })
}

/// The first convolution of the maps added so far, B×H×W×64; empty before the first
/// ([`Accumulator::default`]).
///
/// If nothing is tracked, it is one buffer that every map is added to in place: at full size it is
/// the largest of the network.
#[derive(Debug, Default)]
pub struct Accumulator(Option<Tensor>);

impl Reconstruction {
    /// Adds the first convolution of a map to the sum. A convolution of maps side by side is a sum
    /// over the maps, so a map can be dropped once it has been added.
    ///
    /// # Shapes
    /// `map`: B×H×W×C. With all maps side by side (the K layers' spatial maps, then their K
    /// frequency maps) it has the channels from C·`index` on.
    ///
    /// # Errors
    /// If `index` is too large, or the shapes do not fit.
    pub fn add(&self, sum: Accumulator, map: &Tensor, index: usize) -> Result<Accumulator> {
        let c = map.dim(3)?;
        let weight = self.conv_in.weight().narrow(1, index * c, c)?;
        Ok(Accumulator(Some(conv2d_accumulate(sum.0, map, &weight, self.conv_in.bias())?)))
    }

    /// The fused luminance, or as many maps as there are outputs: B×H×W×outputs, not clamped, from
    /// the sum over all maps.
    ///
    /// # Errors
    /// If no map was added.
    pub fn finish(&self, sum: Accumulator) -> Result<Tensor> {
        let sum =
            sum.0.ok_or_else(|| candle_core::Error::msg("reconstruction: no map was added"))?;
        let sum = silu_in_place(sum)?;
        let fused = self.conv_out.forward(&sum)?;
        keep(sum, &fused);
        Ok(fused)
    }
}
