//! From feature maps to an image (spec §5, eq. 22).

use candle_core::{DType, Device, Module, Tensor};
use candle_nn::VarBuilder;
use isfm_ops::nn::{Conv2d, conv2d};
use isfm_ops::simd::Real;
use isfm_ops::{cpu, rows, silu};

use crate::{Error, Result};

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

/// What the first convolution makes of the maps added so far, B×H×W×64.
///
/// Without gradients it is one buffer that every map is added to where it stands: at full size it
/// is the largest of the whole network.
#[derive(Debug)]
pub struct Sum(Inner);

#[derive(Debug)]
enum Inner {
    Tensor(Tensor),
    F32(Plain<f32>),
    F64(Plain<f64>),
}

#[derive(Debug)]
struct Plain<E> {
    values: Vec<E>,
    /// B, H, W.
    dims: (usize, usize, usize),
}

impl<E: Real> Plain<E> {
    fn into_tensor(self) -> Result<Tensor> {
        let (b, h, w) = self.dims;
        Ok(Tensor::from_vec(self.values, (b, h, w, HIDDEN), &Device::Cpu)?)
    }
}

impl Sum {
    fn into_tensor(self) -> Result<Tensor> {
        match self.0 {
            Inner::Tensor(t) => Ok(t),
            Inner::F32(plain) => plain.into_tensor(),
            Inner::F64(plain) => plain.into_tensor(),
        }
    }
}

impl Reconstruction {
    /// Adds a map to what the first convolution makes of those added before (`None` before the
    /// first): a convolution of maps side by side is a sum over the maps, so none needs to wait for
    /// the others.
    ///
    /// # Shapes
    /// `map`: B×H×W×C, the one that fills the channels C·`index` and following of all maps side by
    /// side: the K layers' spatial maps and then their K frequency maps.
    ///
    /// # Errors
    /// If there is no such place, or the shapes do not fit.
    pub fn add(&self, sum: Option<Sum>, map: &Tensor, index: usize) -> Result<Sum> {
        let c = map.dim(3)?;
        let weight = self.conv_in.weight().narrow(1, index * c, c)?;
        // The bias too: whoever trains it alone still wants its gradient.
        let inputs = [map, &weight].into_iter().chain(self.conv_in.bias());
        let plain = map.elem_count() > 0 && rows::may_fuse(inputs);
        let inner = sum.map(|sum| sum.0);
        Ok(Sum(match (inner, map.dtype()) {
            (None, DType::F32) if plain => Inner::F32(self.add_plain(None, map, &weight)?),
            (None, DType::F64) if plain => Inner::F64(self.add_plain(None, map, &weight)?),
            (Some(Inner::F32(sum)), _) if plain => {
                Inner::F32(self.add_plain(Some(sum), map, &weight)?)
            }
            (Some(Inner::F64(sum)), _) if plain => {
                Inner::F64(self.add_plain(Some(sum), map, &weight)?)
            }
            (inner, _) => Inner::Tensor(self.add_tensor(inner.map(Sum), map, &weight)?),
        }))
    }

    fn add_tensor(&self, sum: Option<Sum>, map: &Tensor, weight: &Tensor) -> Result<Tensor> {
        Ok(match sum {
            Some(sum) => isfm_ops::conv2d_add(map, weight, &sum.into_tensor()?)?,
            None => isfm_ops::conv2d(map, weight, self.conv_in.bias())?,
        })
    }

    fn add_plain<E: Real>(
        &self,
        sum: Option<Plain<E>>,
        map: &Tensor,
        weight: &Tensor,
    ) -> Result<Plain<E>> {
        let (b, h, w, _) = map.dims4()?;
        let conv = rows::Conv2d::<E>::new(weight)?;
        let mut sum = match sum {
            Some(sum) if sum.dims == (b, h, w) => sum,
            Some(sum) => {
                let (b, h, w) = sum.dims;
                let (got, needed) = (map.dims().to_vec(), vec![b, h, w, conv.inputs()]);
                return Err(Error::Shape { block: "reconstruction", what: "a map", got, needed });
            }
            None => {
                let mut values = cpu::scratch(b * h * w * HIDDEN);
                let bias = self.conv_in.bias().map(rows::values::<E>).transpose()?;
                let bias = bias.unwrap_or_else(|| vec![E::of(0.); HIDDEN]);
                rows::update_rows(&mut values, HIDDEN, |block| {
                    block.chunks_exact_mut(HIDDEN).for_each(|pixel| pixel.copy_from_slice(&bias));
                });
                Plain { values, dims: (b, h, w) }
            }
        };
        let map = map.contiguous()?;
        rows::with_slice::<E, _>(&map, |map| {
            conv.accumulate(map, (h, w), &mut sum.values);
            Ok(())
        })?;
        Ok(sum)
    }

    /// The fused luminance, B×H×W×1, not clamped, from the sum over all maps.
    ///
    /// # Errors
    /// None but Candle's own.
    pub fn finish(&self, sum: Sum) -> Result<Tensor> {
        match sum.0 {
            Inner::Tensor(sum) => Ok(self.conv_out.forward(&silu(&sum)?)?),
            Inner::F32(sum) => self.finish_plain(sum),
            Inner::F64(sum) => self.finish_plain(sum),
        }
    }

    fn finish_plain<E: Real>(&self, mut sum: Plain<E>) -> Result<Tensor> {
        rows::update_rows(&mut sum.values, HIDDEN, rows::silu);
        Ok(self.conv_out.forward(&sum.into_tensor()?)?)
    }
}
