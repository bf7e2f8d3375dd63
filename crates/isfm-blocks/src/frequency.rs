//! Multi-scale frequency fusion: LFFB, HFFB and the layer around them (the paper's eqs. 3 to 12).

use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;
use isfm_dwt::{Border, DataFormat, Wavelet};
use isfm_ops::internal::keep;
use isfm_ops::nn::{Conv2d, DepthwiseConv2d, conv2d, depthwise_conv2d};
use isfm_ops::{Epilogue, avg_pool2d, max_pool2d, resize_bilinear, sigmoid_gate, weighted_sum};

use crate::check::same_shape;
use crate::{Features, add};

/// The averaged wavelet sub-bands that every fusion layer reads.
#[derive(Clone, Debug)]
pub struct Frequencies {
    /// LL, B×⌊H/2⌋×⌊W/2⌋×C.
    pub low: Tensor,
    /// LH, HL and HH side by side, B×⌊H/2⌋×⌊W/2⌋×3C.
    pub high: Tensor,
}

/// The one-level Haar sub-bands of both pictures' deep and shallow features, averaged over the
/// four (the released program; the paper's eqs. 3 and 7 sum the deep features' bands only).
///
/// The transform is linear, so the four feature maps are averaged first and transformed once.
///
/// # Shapes
/// - all features: B×H×W×C, H and W at least 2; an odd last row or column is dropped
///
/// # Errors
/// If the shapes differ or are too small.
pub fn band_averages(visible: &Features, infrared: &Features) -> Result<Frequencies> {
    const BLOCK: &str = "band averages";
    same_shape(BLOCK, ("visible", &visible.deep), ("infrared", &infrared.deep))?;
    same_shape(BLOCK, ("deep", &visible.deep), ("shallow", &visible.shallow))?;
    same_shape(BLOCK, ("deep", &infrared.deep), ("shallow", &infrared.shallow))?;
    let deep = add(&visible.deep, &infrared.deep)?;
    let shallow = add(&visible.shallow, &infrared.shallow)?;
    let mean = weighted_sum(&deep, 0.25, &shallow, 0.25)?;
    let bands = isfm_dwt::dwt2(&mean, &Wavelet::haar(), Border::Drop, DataFormat::ChannelsLast)?;
    [deep, shallow, mean].into_iter().for_each(|map| keep(map, &bands.approx));
    Ok(Frequencies { low: bands.approx, high: bands.details })
}

/// The low-frequency fusion block (released name `LFB`).
#[derive(Clone, Debug)]
pub struct Lffb {
    before: Conv2d,
    gate: Conv2d,
    depthwise_3: DepthwiseConv2d,
    pointwise_3: Conv2d,
    depthwise_5: DepthwiseConv2d,
    pointwise_5: Conv2d,
    after: Conv2d,
}

/// Builds an [`Lffb`] on `dim` channels.
///
/// # Errors
/// If a tensor is missing or has another shape.
pub fn lffb(dim: usize, vb: VarBuilder) -> Result<Lffb> {
    Ok(Lffb {
        before: conv2d(dim, dim, 1, vb.pp("conv_before.0"))?,
        gate: conv2d(2 * dim, dim, 3, vb.pp("conv1.0"))?,
        depthwise_3: depthwise_conv2d(dim, 3, vb.pp("dw_conv_3"))?,
        pointwise_3: conv2d(dim, dim, 1, vb.pp("conv2.0"))?,
        depthwise_5: depthwise_conv2d(dim, 5, vb.pp("dw_conv_5"))?,
        pointwise_5: conv2d(dim, dim, 1, vb.pp("conv3.0"))?,
        after: conv2d(dim, dim, 1, vb.pp("conv_after.0"))?,
    })
}

impl Module for Lffb {
    /// Fuses the LL band; B×H×W×C in and out.
    fn forward(&self, low: &Tensor) -> Result<Tensor> {
        let x = self.before.forward_with(low, Epilogue::Silu)?;
        let (average, most) = (avg_pool2d(&x, 3)?, max_pool2d(&x, 3)?);
        let pooled = Tensor::cat(&[&average, &most], 3)?;
        [average, most].into_iter().for_each(|map| keep(map, &pooled));
        let gate = self.gate.forward_with(&pooled, Epilogue::Silu)?;
        keep(pooled, &gate);
        let scale = |depthwise: &DepthwiseConv2d, pointwise: &Conv2d| -> Result<Tensor> {
            let around = depthwise.forward_with(&x, Epilogue::Silu)?;
            let scale = pointwise.forward_with(&around, Epilogue::Silu)?;
            keep(around, &scale);
            Ok(scale)
        };
        let fine = scale(&self.depthwise_3, &self.pointwise_3)?;
        let coarse = scale(&self.depthwise_5, &self.pointwise_5)?;
        let both = add(&fine, &coarse)?;
        let gated = sigmoid_gate(&both, &gate)?;
        let sum = add(&x, &gated)?;
        let fused = self.after.forward_with(&sum, Epilogue::Silu)?;
        [x, gate, fine, coarse, both, gated, sum].into_iter().for_each(|map| keep(map, &fused));
        Ok(fused)
    }
}

/// The high-frequency fusion block (released name `GFHB`).
#[derive(Clone, Debug)]
pub struct Hffb {
    before: Conv2d,
    edge_3: Conv2d,
    edge_5: Conv2d,
    after: Conv2d,
}

/// Builds an [`Hffb`] on the three detail bands of `dim` channels each.
///
/// # Errors
/// If a tensor is missing or has another shape.
pub fn hffb(dim: usize, vb: VarBuilder) -> Result<Hffb> {
    let conv = |name: &str| conv2d(3 * dim, 3 * dim, 1, vb.pp(name));
    Ok(Hffb {
        before: conv("conv_before.0")?,
        edge_3: conv("conv2.0")?,
        edge_5: conv("conv3.0")?,
        after: conv("conv_after.0")?,
    })
}

impl Module for Hffb {
    /// Fuses LH, HL and HH; B×H×W×3C in and out.
    fn forward(&self, high: &Tensor) -> Result<Tensor> {
        let x = self.before.forward_with(high, Epilogue::Silu)?;
        let edges = |conv: &Conv2d, k: usize| -> Result<Tensor> {
            let smooth = avg_pool2d(&x, k)?;
            let rough = weighted_sum(&x, 1., &smooth, -1.)?;
            let edges = conv.forward_with(&rough, Epilogue::Silu)?;
            [smooth, rough].into_iter().for_each(|map| keep(map, &edges));
            Ok(edges)
        };
        let (fine, coarse) = (edges(&self.edge_3, 3)?, edges(&self.edge_5, 5)?);
        let both = add(&fine, &coarse)?;
        let sum = add(&x, &both)?;
        let fused = self.after.forward_with(&sum, Epilogue::Silu)?;
        [x, fine, coarse, both, sum].into_iter().for_each(|map| keep(map, &fused));
        Ok(fused)
    }
}

/// The results of a frequency layer, for the reconstruction and the guidance.
#[derive(Clone, Debug)]
pub struct MffOutput {
    /// The frequency branch's feature map, B×H×W×C, if the layer makes one.
    pub fused: Option<Tensor>,
    /// The fused bands, at half the size: the guidance of the interactive fusion.
    pub bands: Frequencies,
}

impl MffOutput {
    /// The mean of the three fused detail bands, B×⌊H/2⌋×⌊W/2⌋×C (the released program; eq. 16 sums
    /// them). The network never computes it: [`Fgg`](crate::Fgg) folds the mean into its first
    /// linear layer.
    ///
    /// # Errors
    /// If the bands are not three of one width.
    pub fn high_mean(&self) -> Result<Tensor> {
        let (b, h, w, c) = self.bands.high.dims4()?;
        self.bands.high.reshape((b, h, w, 3, c / 3))?.mean(3)
    }
}

/// What a frequency layer is made of: all of it in the paper's network, less in its Tables III and VI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MffParts {
    /// An [`Lffb`]; without it LL stays what [`band_averages`] gives: the sources' bands, summed.
    pub lffb: bool,
    /// An [`Hffb`]; without it the detail bands stay so.
    pub hffb: bool,
    /// The feature map for the reconstruction; without it the layer only fuses the bands.
    pub map: bool,
}

impl Default for MffParts {
    fn default() -> Self {
        Self { lffb: true, hffb: true, map: true }
    }
}

/// One multi-scale frequency fusion layer (`MFF_layers.k`).
#[derive(Clone, Debug)]
pub struct MffLayer {
    low: Option<Lffb>,
    high: Option<Hffb>,
    conv: Option<Conv2d>,
}

/// Builds an [`MffLayer`] of `parts` on `dim` channels.
///
/// # Errors
/// If a tensor is missing or has another shape.
pub fn mff_layer(dim: usize, parts: MffParts, vb: VarBuilder) -> Result<MffLayer> {
    Ok(MffLayer {
        low: parts.lffb.then(|| lffb(dim, vb.pp("LFB"))).transpose()?,
        high: parts.hffb.then(|| hffb(dim, vb.pp("GFHB"))).transpose()?,
        conv: parts.map.then(|| conv2d(dim, dim, 3, vb.pp("conv2.0"))).transpose()?,
    })
}

impl MffLayer {
    /// Fuses the averaged bands and, for the map, brings them back to `height`×`width`: by the inverse
    /// transform, and where that is smaller (odd sizes) by bilinear interpolation.
    ///
    /// # Errors
    /// If the number of channels is another.
    pub fn forward(&self, bands: &Frequencies, height: usize, width: usize) -> Result<MffOutput> {
        let fuse = |block: Option<&dyn Module>, band: &Tensor| match block {
            Some(block) => block.forward(band),
            None => Ok(band.clone()),
        };
        let low = fuse(self.low.as_ref().map(|block| block as _), &bands.low)?;
        let high = fuse(self.high.as_ref().map(|block| block as _), &bands.high)?;
        let bands = Frequencies { low, high };
        let Some(conv) = &self.conv else { return Ok(MffOutput { fused: None, bands }) };
        let (haar, format) = (Wavelet::haar(), DataFormat::ChannelsLast);
        let mut x = isfm_dwt::idwt2(&bands.low, &bands.high, &haar, Border::Drop, format)?;
        if (x.dim(1)?, x.dim(2)?) != (height, width) {
            x = resize_bilinear(&x, height, width)?;
        }
        let fused = conv.forward_with(&x, Epilogue::Silu)?;
        keep(x, &fused);
        Ok(MffOutput { fused: Some(fused), bands })
    }
}
