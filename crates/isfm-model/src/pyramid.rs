//! The network on the base of a Laplacian pyramid: an extension of the paper.

use candle_core::{DType, Device, Tensor};
use isfm_ops::internal::{keep, replace};
use isfm_ops::{PyramidLevel, merge_details, merge_level, pyr_down, pyr_up};

use crate::weights::Weights;
use crate::{Config, Network, Pyramid, Result};

/// How hard the choice between two details is above the network: of energies in the ratio r the
/// larger one's share is 1 / (1 + r⁻⁴).
const SHARPNESS: f64 = 4.;

/// The same below it, where the differences between the sources are what they show, not noise: the
/// share is proportional to the energy.
const DEEP_SHARPNESS: f64 = 1.;

/// How hard the choice of the larger base is where the network says nothing: a difference of 0.05
/// gives it 95 %.
const BASE_SHARPNESS: f64 = 60.;

/// The steps of fusing two pictures as Laplacian pyramids (Burt & Adelson, 1983). The network's
/// `outputs` for the [bases](Self::base) come between the first and the second; [`PyramidFusion`] runs
/// all of them. Pictures are on the CPU.
impl Pyramid {
    /// The base of a picture: L times half its size ([`pyr_down`]).
    ///
    /// # Shapes
    /// - `picture`: B×1×H×W, of any size from 1×1
    /// - returns B×1×⌈H/2ᴸ⌉×⌈W/2ᴸ⌉
    ///
    /// # Errors
    /// If the shape is not as above.
    pub fn base(&self, picture: &Tensor) -> Result<Tensor> {
        let mut base = picture.clone();
        for level in 0..self.levels {
            let next = pyr_down(&base)?;
            // The first one is the caller's.
            replace(&mut base, next, level > 0);
        }
        Ok(base)
    }

    /// The fused base, and with gates what merges the details above it.
    ///
    /// Without gates the network gives the fused base itself (C = 1), which is returned. With gates
    /// it gives C = 2 + 2 (L + [`deeper`](Self::deeper)) maps w, m, p₁, q₁, p₂, q₂, … The base is
    /// merged in two ways, whose results are mixed in the shares σ(m) and 1 − σ(m):
    /// - pixel by pixel: V + σ(w + 60 (I − V)) (I − V), which lies between the sources;
    /// - as a pyramid of its own, whose details are merged as in
    ///   [`fuse_details`](Self::fuse_details) but by a softer choice, with p and q made smaller, and
    ///   whose base is merged pixel by pixel.
    ///
    /// # Shapes
    /// - `bases`: visible and infrared, B×1×h×w
    /// - `outputs`: B×C×h×w, what the network gives for them
    /// - returns B×1×h×w, with gates B×(1 + 2L)×h×w: the fused base, p₁, q₁, p₂, …
    ///
    /// # Errors
    /// If `outputs` has another shape.
    pub fn fuse_bases(&self, bases: [&Tensor; 2], outputs: &Tensor) -> Result<Tensor> {
        if !self.gates {
            return Ok(outputs.clone());
        }
        let bases = bases.map(Tensor::clone);
        let gate = |at, count| outputs.narrow(1, at, count);
        let weight = gate(0, 1)?;
        let mut fused = weighted(&bases, &weight)?;
        if self.deeper > 0 {
            let deep = gate(2 + 2 * self.levels, 2 * self.deeper)?;
            let deep = merge_bases(bases, &weight, &deep)?;
            let share = candle_nn::ops::sigmoid(&gate(1, 1)?)?;
            fused = (((fused - &deep)? * share)? + deep)?;
        }
        Ok(Tensor::cat(&[fused, gate(2, 2 * self.levels)?], 1)?)
    }

    /// Puts the fused picture together, B×1×H×W, not clamped.
    ///
    /// The details of level l are merged by [`merge_details`] with pₗ and qₗ, enlarged to its size;
    /// without gates both are 0. With gates a pixel is limited at last to 1.25 max(V, I) + 1/255:
    /// beside a bright edge details of both sources may add up to light where neither has any, as on
    /// the background of medical pictures.
    ///
    /// A pixel of the result depends on sources and base less than 8·2ᴸ pixels away.
    ///
    /// # Shapes
    /// - `visible`, `infrared`: B×1×H×W
    /// - `fused_bases`: what [`fuse_bases`](Self::fuse_bases) gives for their bases
    ///
    /// # Errors
    /// If the shapes are not as above.
    pub fn fuse_details(
        &self,
        visible: &Tensor,
        infrared: &Tensor,
        fused_bases: &Tensor,
    ) -> Result<Tensor> {
        let mut smaller = [visible.clone(), infrared.clone()];
        let mut sizes = Vec::with_capacity(self.levels);
        for _ in 0..self.levels {
            let next = [pyr_down(&smaller[0])?, pyr_down(&smaller[1])?];
            sizes.push(std::mem::replace(&mut smaller, next));
        }
        let mut controls =
            if self.gates { Some(fused_bases.narrow(1, 1, 2 * self.levels)?) } else { None };
        let mut fused = fused_bases.narrow(1, 0, 1)?;
        for (level, pictures) in sizes.into_iter().enumerate().rev() {
            // The controls of this level, and those of the finer ones, which are enlarged for them.
            let control = match &controls {
                Some(controls) => Some(controls.narrow(1, 2 * level, 2)?),
                None => None,
            };
            let next = merge_level(&PyramidLevel {
                pictures: pictures.each_ref(),
                smaller: smaller.each_ref(),
                fused: &fused,
                control: control.as_ref(),
                sharpness: SHARPNESS,
                limit: (self.gates && level == 0).then_some((1.25, 1. / 255.)),
            })?;
            // The first one is part of the caller's bases.
            replace(&mut fused, next, level + 1 < self.levels);
            controls = match controls {
                Some(controls) if level > 0 => {
                    let (_, _, height, width) = pictures[0].dims4()?;
                    Some(pyr_up(&controls.narrow(1, 0, 2 * level)?, height, width)?)
                }
                _ => None,
            };
            let below = std::mem::replace(&mut smaller, pictures);
            below.into_iter().for_each(|picture| keep(picture, &fused));
        }
        Ok(fused)
    }
}

/// V + σ(weight + 60 (I − V)) (I − V).
fn weighted([visible, infrared]: &[Tensor; 2], weight: &Tensor) -> Result<Tensor> {
    let difference = (infrared - visible)?;
    let weight = (weight + (&difference * BASE_SHARPNESS)?)?;
    Ok((visible + (candle_nn::ops::sigmoid(&weight)? * difference)?)?)
}

/// Merges bases as a pyramid with as many levels as `controls` has pairs of maps.
fn merge_bases(bases: [Tensor; 2], weight: &Tensor, controls: &Tensor) -> Result<Tensor> {
    let levels = controls.dim(1)? / 2;
    if levels == 0 {
        return weighted(&bases, weight);
    }
    let (detail, smaller) = split(&bases)?;
    let rest = controls.narrow(1, 2, 2 * levels - 2)?;
    let rest = if levels > 1 { pyr_down(&rest)? } else { rest };
    let fused = merge_bases(smaller, &pyr_down(weight)?, &rest)?;
    add_detail(&fused, &detail, &controls.narrow(1, 0, 2)?, DEEP_SHARPNESS)
}

/// The detail of a level, and the pictures of half the size.
fn split(pair: &[Tensor; 2]) -> Result<([Tensor; 2], [Tensor; 2])> {
    let split = |picture: &Tensor| -> Result<(Tensor, Tensor)> {
        let (_, _, height, width) = picture.dims4()?;
        let smaller = pyr_down(picture)?;
        Ok(((picture - pyr_up(&smaller, height, width)?)?, smaller))
    };
    let (visible, smaller_visible) = split(&pair[0])?;
    let (infrared, smaller_infrared) = split(&pair[1])?;
    Ok(([visible, infrared], [smaller_visible, smaller_infrared]))
}

/// The level above: `smaller` enlarged, and the merged detail.
fn add_detail(
    smaller: &Tensor,
    [visible, infrared]: &[Tensor; 2],
    control: &Tensor,
    sharpness: f64,
) -> Result<Tensor> {
    let (_, _, height, width) = visible.dims4()?;
    let detail = merge_details(visible, infrared, control, sharpness)?;
    Ok((pyr_up(smaller, height, width)? + detail)?)
}

/// The network and the pyramid around it.
///
/// With [`Config::pyramid`] as it is by default it is the network alone. On a pyramid, the network
/// sees bases of 1/4ᴸ of the pixels. With gates it decides how the sources are merged, and so by
/// construction a picture fused with itself comes back, and two constant ones give one between them.
#[derive(Clone, Debug)]
pub struct PyramidFusion {
    network: Network,
    pyramid: Pyramid,
    device: Device,
    dtype: DType,
}

impl PyramidFusion {
    /// Builds it on `weights`, as [`Network::from_weights`].
    ///
    /// # Errors
    /// As [`Network::new`].
    pub fn from_weights(config: &Config, weights: &Weights) -> Result<Self> {
        let network = Network::from_weights(config, weights)?;
        // `Network` refuses weights without tensors.
        let first = weights.values().next();
        let (device, dtype) =
            first.map_or((Device::Cpu, DType::F32), |t| (t.device().clone(), t.dtype()));
        Ok(Self { network, pyramid: config.pyramid, device, dtype })
    }

    /// The network inside.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// What the network makes of two bases ([`Pyramid::base`]). It runs where its weights are and in
    /// their element type; the result is on the CPU and of the bases' type.
    ///
    /// # Shapes
    /// - `visible`, `infrared`: B×1×h×w in [0, 1], on the CPU, at least 2×2
    /// - returns B×C×h×w, C being [`Pyramid::outputs`]
    ///
    /// # Errors
    /// If the shapes differ or are not as above.
    pub fn outputs(&self, visible: &Tensor, infrared: &Tensor) -> Result<Tensor> {
        let there = |base: &Tensor| base.to_dtype(self.dtype)?.to_device(&self.device);
        let outputs = self.network.forward(&there(visible)?, &there(infrared)?)?;
        Ok(outputs.to_device(&Device::Cpu)?.to_dtype(visible.dtype())?)
    }

    /// Fuses.
    ///
    /// # Shapes
    /// - `visible`, `infrared`: B×1×H×W in [0, 1], on the CPU; the bases (H and W divided by 2ᴸ) at
    ///   least 2×2
    /// - output: B×1×H×W, not clamped
    ///
    /// # Errors
    /// If the shapes differ or are not as above.
    pub fn forward(&self, visible: &Tensor, infrared: &Tensor) -> Result<Tensor> {
        let pyramid = &self.pyramid;
        let bases = [pyramid.base(visible)?, pyramid.base(infrared)?];
        let outputs = self.outputs(&bases[0], &bases[1])?;
        let fused = pyramid.fuse_bases(bases.each_ref(), &outputs)?;
        pyramid.fuse_details(visible, infrared, &fused)
    }
}
