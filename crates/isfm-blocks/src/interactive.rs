//! Interactive spatial-frequency fusion: FGG, FG, FGM and the layer (the paper's eqs. 13 to 21), and
//! what its Tables IV and V put in their places.

use candle_core::{Error, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use isfm_ops::chain::{Chain, Value};
use isfm_ops::internal::{keep, recycle, replace};
use isfm_ops::nn::{LayerNorm, Linear, layer_norm, linear, linear_no_bias};
use isfm_ssm::{
    ScanInput, SelectiveScan2d, Ss2dConfig, scan_input, scan_input_without_gate, selective_scan_2d,
};

use crate::check::same_shape;
use crate::{ConcatLinear, CrossAttention, Frequencies, concat_linear, cross_attention};

/// What the gates of an [`FgBlock`] are made from (the paper's Table V).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GateSource {
    /// The sources' own features under the guidance of the frequencies: [`Fgg`] as the paper has it.
    #[default]
    Both,
    /// The frequency guidance alone: gates that are the same at every position.
    Frequency,
    /// The sources' own features alone: no interaction with the frequencies.
    Spatial,
}

/// Frequency-guided gating: one gate per source from both sources' z and the fused bands, or from one
/// of the two.
///
/// Released names: `in_proj_z`, `ln3`, `in_proj_g1`, `ln1`, `in_proj_g2`, `ln2`, `proj.0..3`.
#[derive(Clone, Debug)]
pub struct Fgg {
    guidance: Option<Guidance>,
    mix: Option<(Linear, LayerNorm)>,
    gates: [(Linear, LayerNorm); 2],
}

#[derive(Clone, Debug)]
struct Guidance {
    squeeze: Linear,
    squeeze_norm: LayerNorm,
    expand: Linear,
    expand_norm: LayerNorm,
}

/// Builds an [`Fgg`] on `source`.
///
/// # Errors
/// If a tensor is missing or has another shape.
pub fn fgg(config: &Ss2dConfig, source: GateSource, vb: VarBuilder) -> Result<Fgg> {
    let (dim, inner) = (config.d_model, config.d_inner());
    let gate = |proj: &str, norm: &str| -> Result<_> {
        Ok((linear_no_bias(2 * inner, inner, vb.pp(proj))?, layer_norm(inner, vb.pp(norm))?))
    };
    let guidance = || -> Result<_> {
        Ok(Guidance {
            squeeze: linear(2 * dim, dim / 4, vb.pp("proj.0"))?,
            squeeze_norm: layer_norm(dim / 4, vb.pp("proj.1"))?,
            expand: linear(dim / 4, 2 * inner, vb.pp("proj.2"))?,
            expand_norm: layer_norm(2 * inner, vb.pp("proj.3"))?,
        })
    };
    let mix = || -> Result<_> {
        let mix = linear_no_bias(2 * inner, 2 * inner, vb.pp("in_proj_z"))?;
        Ok((mix, layer_norm(2 * inner, vb.pp("ln3"))?))
    };
    Ok(Fgg {
        guidance: (source != GateSource::Spatial).then(guidance).transpose()?,
        mix: (source != GateSource::Frequency).then(mix).transpose()?,
        gates: [gate("in_proj_g1", "ln1")?, gate("in_proj_g2", "ln2")?],
    })
}

impl Guidance {
    fn forward(&self, bands: &Frequencies) -> Result<Tensor> {
        let c = bands.low.dim(3)?;
        // The layer reads [low ; mean of the three detail bands]; the mean goes into its weight.
        let weight = self.squeeze.weight();
        let low_weight = weight.narrow(1, 0, c)?;
        let high_weight = (weight.narrow(1, c, c)? * (1. / 3.))?;
        let high_weight = Tensor::cat(&[&high_weight, &high_weight, &high_weight], 1)?;
        let mut chain = Chain::new();
        let (low, high) = (chain.input(&bands.low), chain.input(&bands.high));
        let x = chain.linear(low, &low_weight, self.squeeze.bias());
        let x = chain.linear_add(high, &high_weight, x);
        let x = chain.norm(x, &self.squeeze_norm);
        let x = chain.linear(x, self.expand.weight(), self.expand.bias());
        let x = chain.norm(x, &self.expand_norm);
        chain.mean(x)
    }
}

impl Fgg {
    /// The frequency guidance z_f: one vector of 2D values per image, B×2D.
    ///
    /// # Errors
    /// If the bands are missing or do not have C and 3C channels, or the gates are made without them.
    pub fn guidance(&self, bands: Option<&Frequencies>) -> Result<Tensor> {
        let error = |what| Error::msg(format!("FGG: {what}"));
        let guidance = self.guidance.as_ref().ok_or_else(|| error("made without frequencies"))?;
        guidance.forward(bands.ok_or_else(|| error("needs the frequency bands"))?)
    }

    /// The two gates before their SiLU, as steps of a chain.
    ///
    /// `normed` are two values that the halves of the input projections turn into z1 and z2 (D×C
    /// each; only they are read of `inputs`). The mixing layer follows them with nothing between, so
    /// the two matrices are multiplied once per call instead of applied one after the other.
    fn gates(
        &self,
        chain: &mut Chain,
        normed: [Value; 2],
        inputs: [&ScanInput; 2],
        bands: Option<&Frequencies>,
    ) -> Result<Option<[Value; 2]>> {
        let Some((mix, mix_norm)) = &self.mix else { return Ok(None) };
        let mixed = |i: usize| {
            let z_weight = inputs[i].z_weight()?;
            let inner = z_weight.dim(0)?;
            mix.weight().narrow(1, i * inner, inner)?.contiguous()?.matmul(&z_weight)
        };
        let z = chain.linear(normed[0], &mixed(0)?, None);
        let z = chain.linear_add(normed[1], &mixed(1)?, z);
        let mut z = chain.norm(z, mix_norm);
        if self.guidance.is_some() {
            z = chain.scale_add(z, &self.guidance(bands)?, z);
        }
        Ok(Some(self.each_gate(chain, z)))
    }

    fn each_gate(&self, chain: &mut Chain, z: Value) -> [Value; 2] {
        self.gates.each_ref().map(|(proj, norm)| {
            let gate = chain.linear(z, proj.weight(), proj.bias());
            chain.norm(gate, norm)
        })
    }

    /// The two gates of the guidance alone, as maps of the shape of `scanned`, each with its own.
    fn constant_gates(
        &self,
        scanned: &[Tensor; 2],
        bands: Option<&Frequencies>,
    ) -> Result<[Tensor; 2]> {
        let guidance = self.guidance(bands)?;
        let (batch, width) = guidance.dims2()?;
        let mut chain = Chain::new();
        let z = chain.input(&guidance.reshape((batch, 1, 1, width))?);
        let gates = self.each_gate(&mut chain, z);
        let [a, b] = chain.maps(gates)?;
        let [first, second] = scanned.each_ref().map(Tensor::shape);
        Ok([a.broadcast_as(first)?.contiguous()?, b.broadcast_as(second)?.contiguous()?])
    }
}

/// What one source has of its own in an [`FgBlock`].
#[derive(Clone, Debug)]
struct Branch {
    input: ScanInput,
    norm: LayerNorm,
}

/// Frequency-guided fusion of two normalised sources (`FGS`): both are scanned with the same
/// parameters and gated by [`Fgg`]. Where the gates come from the frequencies alone, the input
/// projections make no z.
#[derive(Clone, Debug)]
pub struct FgBlock {
    branches: [Branch; 2],
    scan: SelectiveScan2d,
    gating: Fgg,
    out_proj: Linear,
}

/// Builds an [`FgBlock`] with gates from `source`.
///
/// # Errors
/// If a tensor is missing or has another shape.
pub fn fg_block(config: &Ss2dConfig, source: GateSource, vb: VarBuilder) -> Result<FgBlock> {
    let (dim, inner) = (config.d_model, config.d_inner());
    let input = match source {
        GateSource::Frequency => scan_input_without_gate,
        GateSource::Both | GateSource::Spatial => scan_input,
    };
    let branch = |proj: &str, conv: &str, norm: &str| -> Result<Branch> {
        Ok(Branch {
            input: input(config, proj, conv, vb.clone())?,
            norm: layer_norm(inner, vb.pp(norm))?,
        })
    };
    Ok(FgBlock {
        branches: [
            branch("in_proj_x", "conv2d_x", "out_norm1")?,
            branch("in_proj_x2", "conv2d_x2", "out_norm2")?,
        ],
        scan: selective_scan_2d(config, vb.clone())?,
        gating: fgg(config, source, vb.clone())?,
        out_proj: linear_no_bias(inner, dim, vb.pp("out_proj"))?,
    })
}

impl FgBlock {
    /// Fuses two normalised sources under the guidance of the fused bands; B×H×W×C each, and out.
    ///
    /// # Errors
    /// If the shapes differ, or bands that the gates need are missing.
    pub fn forward(&self, a: &Tensor, b: &Tensor, bands: Option<&Frequencies>) -> Result<Tensor> {
        same_shape("FG", ("the first source", a), ("the second source", b))?;
        let scanned = self.scanned([a, b], [None, None])?;
        let mut chain = Chain::new();
        let sources = [chain.input(a), chain.input(b)];
        let fused = self.fused(&mut chain, sources, &scanned, bands)?;
        finish(chain, fused, scanned)
    }

    /// The scans of both sources, each with its norm if it has one.
    fn scanned(
        &self,
        sources: [&Tensor; 2],
        norms: [Option<&LayerNorm>; 2],
    ) -> Result<[Tensor; 2]> {
        let scan = |i: usize| self.branches[i].input.scan(sources[i], norms[i], &self.scan);
        Ok([scan(0)?, scan(1)?])
    }

    /// What follows the scans, as steps of a chain: gates and z, 4D values a pixel, exist as maps
    /// only where gradients need them.
    fn fused(
        &self,
        chain: &mut Chain,
        normed: [Value; 2],
        scanned: &[Tensor; 2],
        bands: Option<&Frequencies>,
    ) -> Result<Value> {
        let [first, second] = &self.branches;
        let gates = self.gating.gates(chain, normed, [&first.input, &second.input], bands)?;
        let gates = match gates {
            Some(gates) => gates,
            None => self.gating.constant_gates(scanned, bands)?.map(|gate| chain.input(&gate)),
        };
        let mut gated = |branch: &Branch, scanned: &Tensor, gate: Value| {
            let y = chain.input(scanned);
            let y = chain.norm(y, &branch.norm);
            chain.silu_gate(y, gate)
        };
        let a = gated(first, &scanned[0], gates[0]);
        let b = gated(second, &scanned[1], gates[1]);
        let sum = chain.add(a, b);
        Ok(chain.linear(sum, self.out_proj.weight(), self.out_proj.bias()))
    }
}

/// Runs a chain that reads two scans, and recycles the memory of one.
fn finish(chain: Chain, fused: Value, scanned: [Tensor; 2]) -> Result<Tensor> {
    let [fused] = chain.maps([fused])?;
    // Memory peaks here, so the second one is freed if it may not be kept; later scans reuse the first.
    let [first, second] = scanned;
    recycle(first, &fused);
    keep(second, &fused);
    Ok(fused)
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

/// Builds an [`Fgm`] with gates from `source`.
///
/// # Errors
/// If a tensor is missing or has another shape.
pub fn fgm(config: &Ss2dConfig, source: GateSource, vb: VarBuilder) -> Result<Fgm> {
    let dim = config.d_model;
    Ok(Fgm {
        norm_a: layer_norm(dim, vb.pp("ln_1"))?,
        norm_b: layer_norm(dim, vb.pp("ln_2"))?,
        fusion: fg_block(config, source, vb.pp("FGS"))?,
        skip_a: vb.get_with_hints(dim, "skip_scale", Init::Const(1.))?,
        skip_b: vb.get_with_hints(dim, "skip_scale_2", Init::Const(1.))?,
    })
}

impl Fgm {
    /// out = skip_a ⊙ a + skip_b ⊙ LN(b) + FG(LN(a), LN(b)); B×H×W×C each, and out. (Eq. 14 does
    /// not normalise the second skip; the released program does.)
    ///
    /// # Errors
    /// If the shapes differ, or bands that the gates need are missing.
    pub fn forward(&self, a: &Tensor, b: &Tensor, bands: Option<&Frequencies>) -> Result<Tensor> {
        same_shape("FGM", ("the first source", a), ("the second source", b))?;
        let norms = [&self.norm_a, &self.norm_b];
        let scanned = self.fusion.scanned([a, b], norms.map(Some))?;
        let mut chain = Chain::new();
        let (a, b) = (chain.input(a), chain.input(b));
        let normed = [chain.norm(a, norms[0]), chain.norm(b, norms[1])];
        let fused = self.fusion.fused(&mut chain, normed, &scanned, bands)?;
        let fused = chain.scale_add(normed[1], &self.skip_b, fused);
        let fused = chain.scale_add(a, &self.skip_a, fused);
        finish(chain, fused, scanned)
    }
}

/// What an [`IsfLayer`] is a chain of (the paper's Tables IV and V).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// [`Fgm`], with gates from there.
    Fgm(GateSource),
    /// [`CrossAttention`].
    CrossAttention,
    /// [`ConcatLinear`].
    ConcatLinear,
}

impl Default for BlockKind {
    fn default() -> Self {
        Self::Fgm(GateSource::Both)
    }
}

#[derive(Clone, Debug)]
enum Block {
    Fgm(Box<Fgm>),
    CrossAttention(CrossAttention),
    ConcatLinear(ConcatLinear),
}

/// One interactive fusion layer: a chain of blocks (`ISF_layers.k`).
#[derive(Clone, Debug)]
pub struct IsfLayer {
    blocks: Vec<Block>,
}

/// Builds an [`IsfLayer`] of `depth` blocks.
///
/// # Errors
/// If a tensor is missing or has another shape.
pub fn isf_layer(
    config: &Ss2dConfig,
    kind: BlockKind,
    depth: usize,
    vb: VarBuilder,
) -> Result<IsfLayer> {
    let vb = vb.pp("ISF").pp("blocks");
    let block = |i: usize| {
        let vb = vb.pp(i);
        Ok(match kind {
            BlockKind::Fgm(source) => Block::Fgm(Box::new(fgm(config, source, vb)?)),
            BlockKind::CrossAttention => {
                Block::CrossAttention(cross_attention(config.d_model, vb)?)
            }
            BlockKind::ConcatLinear => Block::ConcatLinear(concat_linear(config.d_model, vb)?),
        })
    };
    Ok(IsfLayer { blocks: (0..depth).map(block).collect::<Result<_>>()? })
}

impl IsfLayer {
    /// Fuses the deep features of the visible and the infrared picture, B×H×W×C each, and out. A
    /// later block takes the result of the one before it in place of the visible features.
    ///
    /// # Errors
    /// If the shapes differ, or bands that the blocks need are missing.
    pub fn forward(
        &self,
        visible: &Tensor,
        infrared: &Tensor,
        bands: Option<&Frequencies>,
    ) -> Result<Tensor> {
        let mut fused = visible.clone();
        for (i, block) in self.blocks.iter().enumerate() {
            let next = match block {
                Block::Fgm(block) => block.forward(&fused, infrared, bands)?,
                Block::CrossAttention(block) => block.forward(&fused, infrared)?,
                Block::ConcatLinear(block) => block.forward(&fused, infrared)?,
            };
            // The first one reads the visible features.
            replace(&mut fused, next, i > 0);
        }
        Ok(fused)
    }
}
