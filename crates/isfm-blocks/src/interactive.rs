//! Interactive spatial-frequency fusion: FGG, FG, FGM and the layer (spec §4, eqs. 13 to 21).

use candle_core::{DType, Module, Tensor};
use candle_nn::{Init, VarBuilder};
use isfm_ops::nn::{
    DepthwiseConv2d, LayerNorm, Linear, depthwise_conv2d, layer_norm, linear, linear_no_bias,
};
use isfm_ops::{scale_add, silu, silu_gate};
use isfm_ssm::{SelectiveScan2d, Ss2dConfig, selective_scan_2d};

use crate::error::same_shape;
use crate::{Frequencies, Result, add};

/// Frequency-guided gating: one gate per source from both sources' z and the fused bands.
///
/// Released names: `in_proj_z`, `ln3`, `in_proj_g1`, `ln1`, `in_proj_g2`, `ln2`, `proj.0..3`.
#[derive(Clone, Debug)]
pub struct Fgg {
    squeeze: Linear,
    squeeze_norm: LayerNorm,
    expand: Linear,
    expand_norm: LayerNorm,
    mix: Linear,
    mix_norm: LayerNorm,
    gates: [(Linear, LayerNorm); 2],
}

/// Builds an [`Fgg`].
///
/// # Errors
/// If a tensor is missing or has another shape.
pub fn fgg(config: &Ss2dConfig, vb: VarBuilder) -> Result<Fgg> {
    let (dim, inner) = (config.d_model, config.d_inner());
    let gate = |proj: &str, norm: &str| -> Result<_> {
        Ok((linear_no_bias(2 * inner, inner, vb.pp(proj))?, layer_norm(inner, vb.pp(norm))?))
    };
    Ok(Fgg {
        squeeze: linear(2 * dim, dim / 4, vb.pp("proj.0"))?,
        squeeze_norm: layer_norm(dim / 4, vb.pp("proj.1"))?,
        expand: linear(dim / 4, 2 * inner, vb.pp("proj.2"))?,
        expand_norm: layer_norm(2 * inner, vb.pp("proj.3"))?,
        mix: linear_no_bias(2 * inner, 2 * inner, vb.pp("in_proj_z"))?,
        mix_norm: layer_norm(2 * inner, vb.pp("ln3"))?,
        gates: [gate("in_proj_g1", "ln1")?, gate("in_proj_g2", "ln2")?],
    })
}

impl Fgg {
    /// The frequency guidance z_f: one vector of 2D values per image, B×2D.
    ///
    /// # Errors
    /// If the bands do not have C and 3C channels.
    pub fn guidance(&self, bands: &Frequencies) -> Result<Tensor> {
        let c = bands.low.dim(3)?;
        // The layer reads [low ; mean of the three detail bands]; the mean goes into its weight.
        let weight = self.squeeze.weight();
        let low = weight.narrow(1, 0, c)?;
        let high = (weight.narrow(1, c, c)? * (1. / 3.))?;
        let high = Tensor::cat(&[&high, &high, &high], 1)?;
        let x = isfm_ops::linear(&bands.low, &low, self.squeeze.bias())?;
        let x = add(&x, &isfm_ops::linear(&bands.high, &high, None)?)?;
        let x = self.expand.forward(&self.squeeze_norm.forward(&x)?)?;
        let x = self.expand_norm.forward(&x)?;
        // A mean over a whole map needs more digits than a half has.
        let (x, dtype) = (x.flatten(1, 2)?, x.dtype());
        Ok(match dtype {
            DType::F16 | DType::BF16 => x.to_dtype(DType::F32)?.mean(1)?.to_dtype(dtype)?,
            _ => x.mean(1)?,
        })
    }

    /// The two gates before their SiLU, B×H×W×D each.
    ///
    /// `z_weights` are the halves of the two input projections that make z1 and z2 (D×C each), and
    /// `normed` is what they project. The mixing layer follows them with nothing between, so the
    /// two matrices are multiplied once per call instead of applied one after the other.
    ///
    /// # Errors
    /// If a shape does not fit.
    pub fn forward(
        &self,
        normed: [&Tensor; 2],
        z_weights: [&Tensor; 2],
        bands: &Frequencies,
    ) -> Result<[Tensor; 2]> {
        let inner = z_weights[0].dim(0)?;
        let mix = self.mix.weight();
        let first = mix.narrow(1, 0, inner)?.contiguous()?.matmul(z_weights[0])?;
        let second = mix.narrow(1, inner, inner)?.contiguous()?.matmul(z_weights[1])?;
        let both = Tensor::cat(&normed, 3)?;
        let z = isfm_ops::linear(&both, &Tensor::cat(&[first, second], 1)?, None)?;
        let z = self.mix_norm.forward(&z)?;
        let z = scale_add(&z, &self.guidance(bands)?, &z)?;
        let gate = |(proj, norm): &(Linear, LayerNorm)| -> Result<Tensor> {
            Ok(norm.forward(&proj.forward(&z)?)?)
        };
        Ok([gate(&self.gates[0])?, gate(&self.gates[1])?])
    }
}

/// What one source has of its own in an [`FgBlock`].
#[derive(Clone, Debug)]
struct Branch {
    in_proj: Linear,
    conv: DepthwiseConv2d,
    norm: LayerNorm,
}

impl Branch {
    /// Rows of the input projection: x's half (0) or z's (1), D×C.
    fn half(&self, index: usize) -> Result<Tensor> {
        let weight = self.in_proj.weight();
        let inner = weight.dim(0)? / 2;
        Ok(weight.narrow(0, index * inner, inner)?)
    }
}

/// The frequency-guided fusion of two normalised sources (released name `FGS`).
#[derive(Clone, Debug)]
pub struct FgBlock {
    branches: [Branch; 2],
    scan: SelectiveScan2d,
    gating: Fgg,
    out_proj: Linear,
}

/// Builds an [`FgBlock`].
///
/// # Errors
/// If a tensor is missing or has another shape.
pub fn fg_block(config: &Ss2dConfig, vb: VarBuilder) -> Result<FgBlock> {
    let (dim, inner) = (config.d_model, config.d_inner());
    let branch = |proj: &str, conv: &str, norm: &str| -> Result<Branch> {
        Ok(Branch {
            in_proj: linear_no_bias(dim, 2 * inner, vb.pp(proj))?,
            conv: depthwise_conv2d(inner, 3, vb.pp(conv))?,
            norm: layer_norm(inner, vb.pp(norm))?,
        })
    };
    Ok(FgBlock {
        branches: [
            branch("in_proj_x", "conv2d_x", "out_norm1")?,
            branch("in_proj_x2", "conv2d_x2", "out_norm2")?,
        ],
        scan: selective_scan_2d(config, vb.clone())?,
        gating: fgg(config, vb.clone())?,
        out_proj: linear_no_bias(inner, dim, vb.pp("out_proj"))?,
    })
}

impl FgBlock {
    /// Fuses two normalised sources under the guidance of the fused bands; B×H×W×C each, and out.
    ///
    /// # Errors
    /// If the shapes differ.
    pub fn forward(&self, a: &Tensor, b: &Tensor, bands: &Frequencies) -> Result<Tensor> {
        same_shape("FG", ("the first source", a), ("the second source", b))?;
        let z_weights = [&self.branches[0].half(1)?, &self.branches[1].half(1)?];
        let [gate_a, gate_b] = self.gating.forward([a, b], z_weights, bands)?;
        let gated = |branch: &Branch, source: &Tensor, gate: Tensor| -> Result<Tensor> {
            let x = isfm_ops::linear(source, &branch.half(0)?, None)?;
            let x = silu(&branch.conv.forward(&x)?)?;
            let h = branch.norm.forward(&self.scan.forward(&x)?)?;
            Ok(silu_gate(&h, &gate)?)
        };
        let first = gated(&self.branches[0], a, gate_a)?;
        let second = gated(&self.branches[1], b, gate_b)?;
        Ok(self.out_proj.forward(&add(&first, &second)?)?)
    }
}

/// A frequency-guided Mamba block: both sources normalised, fused, and added to their skips.
#[derive(Clone, Debug)]
pub struct Fgm {
    norm_a: LayerNorm,
    norm_b: LayerNorm,
    fusion: FgBlock,
    skip_a: Tensor,
    skip_b: Tensor,
}

/// Builds an [`Fgm`].
///
/// # Errors
/// If a tensor is missing or has another shape.
pub fn fgm(config: &Ss2dConfig, vb: VarBuilder) -> Result<Fgm> {
    let dim = config.d_model;
    Ok(Fgm {
        norm_a: layer_norm(dim, vb.pp("ln_1"))?,
        norm_b: layer_norm(dim, vb.pp("ln_2"))?,
        fusion: fg_block(config, vb.pp("FGS"))?,
        skip_a: vb.get_with_hints(dim, "skip_scale", Init::Const(1.))?,
        skip_b: vb.get_with_hints(dim, "skip_scale_2", Init::Const(1.))?,
    })
}

impl Fgm {
    /// out = skip_a ⊙ a + skip_b ⊙ LN(b) + FG(LN(a), LN(b)); B×H×W×C each, and out. (Eq. 14 does
    /// not normalise the second skip; the released program does.)
    ///
    /// # Errors
    /// If the shapes differ.
    pub fn forward(&self, a: &Tensor, b: &Tensor, bands: &Frequencies) -> Result<Tensor> {
        let normed_a = self.norm_a.forward(a)?;
        let normed_b = self.norm_b.forward(b)?;
        let fused = self.fusion.forward(&normed_a, &normed_b, bands)?;
        let out = scale_add(&normed_b, &self.skip_b, &fused)?;
        Ok(scale_add(a, &self.skip_a, &out)?)
    }
}

/// One interactive fusion layer: a chain of [`Fgm`] blocks (`ISF_layers.k`).
#[derive(Clone, Debug)]
pub struct IsfLayer {
    blocks: Vec<Fgm>,
}

/// Builds an [`IsfLayer`] of `depth` blocks.
///
/// # Errors
/// If a tensor is missing or has another shape.
pub fn isf_layer(config: &Ss2dConfig, depth: usize, vb: VarBuilder) -> Result<IsfLayer> {
    let vb = vb.pp("ISF").pp("blocks");
    let blocks = (0..depth).map(|i| fgm(config, vb.pp(i))).collect::<Result<_>>()?;
    Ok(IsfLayer { blocks })
}

impl IsfLayer {
    /// Fuses the deep features of the visible and the infrared picture, B×H×W×C each, and out.
    ///
    /// # Errors
    /// If the shapes differ.
    pub fn forward(
        &self,
        visible: &Tensor,
        infrared: &Tensor,
        bands: &Frequencies,
    ) -> Result<Tensor> {
        let mut fused = visible.clone();
        for block in &self.blocks {
            fused = block.forward(&fused, infrared, bands)?;
        }
        Ok(fused)
    }
}
