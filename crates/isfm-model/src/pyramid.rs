//! The network on the base of a Laplacian pyramid: an extension of the paper.

use candle_core::{DType, Device, Tensor};
use isfm_ops::{merge_details, pyr_down, pyr_up};

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

/// Two pictures as Laplacian pyramids (Burt & Adelson, 1983): the detail of each level, and the bases
/// that the network fuses.
#[derive(Clone, Debug)]
pub struct PyramidPair {
    pyramid: Pyramid,
    pictures: [Tensor; 2],
    /// Visible and infrared, the finest level first.
    details: Vec<[Tensor; 2]>,
    bases: [Tensor; 2],
}

impl PyramidPair {
    /// Takes two pictures apart.
    ///
    /// # Shapes
    /// `visible` and `infrared`: B×1×H×W, of one shape, of any size from 1×1, on the CPU.
    ///
    /// # Errors
    /// If the shapes are not as above.
    pub fn new(pyramid: Pyramid, visible: &Tensor, infrared: &Tensor) -> Result<Self> {
        let pictures = [visible.clone(), infrared.clone()];
        let mut bases = pictures.clone();
        let mut details = Vec::with_capacity(pyramid.levels);
        for _ in 0..pyramid.levels {
            let (detail, smaller) = split(&bases)?;
            details.push(detail);
            bases = smaller;
        }
        Ok(Self { pyramid, pictures, details, bases })
    }

    /// The visible and the infrared base, B×1×⌈H/2ᴸ⌉×⌈W/2ᴸ⌉.
    pub fn bases(&self) -> [&Tensor; 2] {
        self.bases.each_ref()
    }

    /// Puts the fused picture together, B×1×H×W, not clamped.
    ///
    /// `outputs` is what the network gives for the bases, B×C×⌈H/2ᴸ⌉×⌈W/2ᴸ⌉. Without gates it is the
    /// fused base (C = 1), and the details are merged with p = q = 0.
    ///
    /// With gates it is C = 2 + 2 (L + [`deeper`](Pyramid::deeper)) maps w, m, p₁, q₁, p₂, q₂, … The
    /// details of level l are merged by [`merge_details`] with p and q of that level, enlarged to its
    /// size. The base is merged in two ways, whose results are mixed in the shares σ(m) and 1 − σ(m):
    /// - pixel by pixel: V + σ(w + 60 (I − V)) (I − V), which lies between the sources;
    /// - as a pyramid of its own, whose details are merged likewise, with p and q made smaller, and
    ///   whose base is merged pixel by pixel.
    ///
    /// At last a pixel is limited to 1.25 max(V, I) + 1/255: beside a bright edge details of both
    /// sources may add up to light where neither has any, as on the background of medical pictures.
    ///
    /// # Errors
    /// If `outputs` has another shape.
    pub fn fuse(self, outputs: &Tensor) -> Result<Tensor> {
        let Self { pyramid: Pyramid { levels, gates, deeper }, pictures, details, bases } = self;
        let (fused, controls) = if gates {
            let gate = |at, count| outputs.narrow(1, at, count);
            let controls = gate(2, 2 * levels)?;
            let direct = weighted(&bases, &gate(0, 1)?)?;
            if deeper == 0 {
                (direct, controls)
            } else {
                let deep = gate(2 + 2 * levels, 2 * deeper)?;
                let deep = merge_bases(bases, &gate(0, 1)?, &deep)?;
                let share = candle_nn::ops::sigmoid(&gate(1, 1)?)?;
                ((((direct - &deep)? * share)? + deep)?, controls)
            }
        } else {
            let (batch, _, height, width) = outputs.dims4()?;
            let shape = (batch, 2 * levels, height, width);
            (outputs.clone(), Tensor::zeros(shape, outputs.dtype(), outputs.device())?)
        };
        let mut controls = controls;
        let mut fused = fused;
        for (level, detail) in details.into_iter().enumerate().rev() {
            let (_, _, height, width) = detail[0].dims4()?;
            // The controls of this level and of the finer ones.
            controls = pyr_up(&controls.narrow(1, 0, 2 * level + 2)?, height, width)?;
            let control = controls.narrow(1, 2 * level, 2)?;
            fused = add_detail(&fused, &detail, &control, SHARPNESS)?;
        }
        if gates {
            let [visible, infrared] = &pictures;
            fused = fused.minimum(&visible.maximum(infrared)?.affine(1.25, 1. / 255.)?)?;
        }
        Ok(fused)
    }
}

/// V + σ(weight + 20 (I − V)) (I − V).
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

    /// Fuses. The network runs where its weights are and in their element type, the pyramid on the
    /// CPU, where pictures and result are.
    ///
    /// # Shapes
    /// - `visible`, `infrared`: B×1×H×W in [0, 1], on the CPU; the bases (H and W divided by 2ᴸ) at
    ///   least 2×2
    /// - output: B×1×H×W, not clamped
    ///
    /// # Errors
    /// If the shapes differ or are not as above.
    pub fn forward(&self, visible: &Tensor, infrared: &Tensor) -> Result<Tensor> {
        let pair = PyramidPair::new(self.pyramid, visible, infrared)?;
        let own = visible.dtype();
        let there = |base: &Tensor| base.to_dtype(self.dtype)?.to_device(&self.device);
        let [visible, infrared] = pair.bases().map(there);
        let outputs = self.network.forward(&visible?, &infrared?)?;
        pair.fuse(&outputs.to_device(&Device::Cpu)?.to_dtype(own)?)
    }
}
