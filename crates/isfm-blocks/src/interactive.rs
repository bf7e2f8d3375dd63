//! Interactive spatial-frequency fusion: FGG, FG, FGM and the layer (spec §4, eqs. 13 to 21).

use candle_core::{DType, Module, Tensor};
use candle_nn::{Init, VarBuilder};
use isfm_ops::nn::{LayerNorm, Linear, layer_norm, linear, linear_no_bias};
use isfm_ops::simd::Real;
use isfm_ops::{cpu, rows, scale_add, silu_gate};
use isfm_ssm::{ScanInput, SelectiveScan2d, Ss2dConfig, scan_input, selective_scan_2d};

use crate::error::same_shape;
use crate::{Error, Frequencies, Result, add};

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
        if rows::may_fuse(self.guidance_tensors().chain([&bands.low, &bands.high])) {
            match bands.low.dtype() {
                DType::F32 => return self.fused_guidance::<f32>(bands, &low, &high),
                DType::F64 => return self.fused_guidance::<f64>(bands, &low, &high),
                _ => {}
            }
        }
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

    /// The tensors of [`guidance`](Self::guidance).
    fn guidance_tensors(&self) -> impl Iterator<Item = &Tensor> {
        let squeeze = self.squeeze.tensors().chain(self.squeeze_norm.tensors());
        squeeze.chain(self.expand.tensors()).chain(self.expand_norm.tensors())
    }

    /// All tensors.
    fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let mix = self.mix.tensors().chain(self.mix_norm.tensors());
        let gates = self.gates.iter().flat_map(|(proj, norm)| proj.tensors().chain(norm.tensors()));
        self.guidance_tensors().chain(mix).chain(gates)
    }

    /// The guidance in one pass over the bands: nothing but its sum is kept.
    fn fused_guidance<E: Real>(
        &self,
        bands: &Frequencies,
        low: &Tensor,
        high: &Tensor,
    ) -> Result<Tensor> {
        let from_low = rows::Linear::<E>::new(low, self.squeeze.bias())?;
        let from_high = rows::Linear::<E>::new(high, None)?;
        let expand = rows::Linear::<E>::new(self.expand.weight(), self.expand.bias())?;
        let squeeze_norm = rows::LayerNorm::<E>::new(&self.squeeze_norm)?;
        let expand_norm = rows::LayerNorm::<E>::new(&self.expand_norm)?;
        let (c, squeezed, d) = (from_low.inputs(), from_low.outputs(), expand.outputs());
        let (batch, height, width, _) = bands.low.dims4()?;
        if bands.high.dims() != [batch, height, width, 3 * c] {
            let (got, needed) = (bands.high.dims().to_vec(), vec![batch, height, width, 3 * c]);
            return Err(Error::Shape { block: "FGG", what: "the high bands", got, needed });
        }
        let (low, high) = (bands.low.contiguous()?, bands.high.contiguous()?);
        let pixels = height * width;
        let mut sums = Vec::with_capacity(batch * d);
        rows::with_slice::<E, _>(&low, |low| {
            rows::with_slice::<E, _>(&high, |high| {
                for image in 0..batch {
                    let first = image * pixels;
                    let sum = rows::sum_rows(pixels, d, |rows, sums, buffer| {
                        let n = rows.len();
                        let rows = first + rows.start..first + rows.end;
                        let [s, e] = rows::split(buffer, [n * squeezed, n * d]);
                        from_low.apply(&low[rows.start * c..rows.end * c], s);
                        from_high.accumulate(&high[rows.start * 3 * c..rows.end * 3 * c], s);
                        squeeze_norm.apply_in_place(s);
                        expand.apply(s, e);
                        expand_norm.apply_in_place(e);
                        e.chunks_exact(d).for_each(|row| rows::add(row, sums));
                    });
                    let count = E::of(pixels as f64);
                    sums.extend(sum.into_iter().map(|s| s / count));
                }
                Ok(())
            })
        })?;
        Ok(Tensor::from_vec(sums, (batch, d), bands.low.device())?)
    }

    /// The mixing layer's halves times the projections they follow, 2D×C each.
    fn mixed(&self, z_weights: [&Tensor; 2]) -> Result<[Tensor; 2]> {
        let inner = z_weights[0].dim(0)?;
        let half = |i: usize| self.mix.weight().narrow(1, i * inner, inner)?.contiguous();
        Ok([half(0)?.matmul(z_weights[0])?, half(1)?.matmul(z_weights[1])?])
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
        let both = Tensor::cat(&normed, 3)?;
        let z = isfm_ops::linear(&both, &Tensor::cat(&self.mixed(z_weights)?, 1)?, None)?;
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
    input: ScanInput,
    norm: LayerNorm,
}

/// Frequency-guided fusion of two normalised sources (`FGS`): both are scanned with the same
/// parameters and gated by [`Fgg`].
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
            input: scan_input(config, proj, conv, vb.clone())?,
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
        let scanned = |branch: &Branch, x| branch.input.scan(x, None, &self.scan);
        let [first, second] = &self.branches;
        let z_weights = [&first.input.z_weight()?, &second.input.z_weight()?];
        let [gate_a, gate_b] = self.gating.forward([a, b], z_weights, bands)?;
        let first = silu_gate(&first.norm.forward(&scanned(first, a)?)?, &gate_a)?;
        let second = silu_gate(&second.norm.forward(&scanned(second, b)?)?, &gate_b)?;
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
        same_shape("FGM", ("the first source", a), ("the second source", b))?;
        if self.may_fuse(a, b, bands) {
            match a.dtype() {
                DType::F32 => return self.fused::<f32>(a, b, bands),
                DType::F64 => return self.fused::<f64>(a, b, bands),
                _ => {}
            }
        }
        let normed_a = self.norm_a.forward(a)?;
        let normed_b = self.norm_b.forward(b)?;
        let fused = self.fusion.forward(&normed_a, &normed_b, bands)?;
        let out = scale_add(&normed_b, &self.skip_b, &fused)?;
        Ok(scale_add(a, &self.skip_a, &out)?)
    }

    /// Whether [`fused`](Self::fused) may take the place of [`forward`](Self::forward).
    fn may_fuse(&self, a: &Tensor, b: &Tensor, bands: &Frequencies) -> bool {
        let FgBlock { branches: [first, second], scan, gating, out_proj } = &self.fusion;
        let norms = first.norm.tensors().chain(second.norm.tensors());
        let others = [&bands.low, &bands.high, &self.skip_a, &self.skip_b];
        first.input.may_fuse(a, Some(&self.norm_a), scan)
            && second.input.may_fuse(b, Some(&self.norm_b), scan)
            && rows::may_fuse(gating.tensors().chain(out_proj.tensors()).chain(norms).chain(others))
    }

    /// The same without gradients: the two scans, then everything that follows them in one pass.
    /// Gates and z, 4D values a pixel, never exist as maps.
    fn fused<E: Real>(&self, a: &Tensor, b: &Tensor, bands: &Frequencies) -> Result<Tensor> {
        let FgBlock { branches, scan, gating, out_proj } = &self.fusion;
        let guidance = rows::values::<E>(&gating.guidance(bands)?)?;
        let y_a = branches[0].input.scan_values::<E>(a, Some(&self.norm_a), scan)?;
        let y_b = branches[1].input.scan_values::<E>(b, Some(&self.norm_b), scan)?;

        let z_weights = [branches[0].input.z_weight()?, branches[1].input.z_weight()?];
        let [z_a, z_b] = gating.mixed(z_weights.each_ref())?;
        let z_a = rows::Linear::<E>::new(&z_a, None)?;
        let z_b = rows::Linear::<E>::new(&z_b, None)?;
        let out_proj = rows::Linear::<E>::new(out_proj.weight(), out_proj.bias())?;
        let norm = rows::LayerNorm::<E>::new;
        let (norm_a, norm_b) = (norm(&self.norm_a)?, norm(&self.norm_b)?);
        let mix_norm = norm(&gating.mix_norm)?;
        let gates = gating.gates.each_ref().map(|(proj, norm)| -> Result<_> {
            let proj = rows::Linear::<E>::new(proj.weight(), proj.bias())?;
            Ok((proj, rows::LayerNorm::new(norm)?))
        });
        let [gate_a, gate_b] = gates;
        let (gate_a, gate_b) = (gate_a?, gate_b?);
        let (out_a, out_b) = (norm(&branches[0].norm)?, norm(&branches[1].norm)?);
        let (skip_a, skip_b) = (rows::values(&self.skip_a)?, rows::values(&self.skip_b)?);

        let (batch, height, width, c) = a.dims4()?;
        let (pixels, d) = (height * width, out_proj.inputs());
        let (a, b) = (a.contiguous()?, b.contiguous()?);
        let mut out = Vec::with_capacity(batch);
        let scans = y_a.chunks_exact(pixels * d).zip(y_b.chunks_exact(pixels * d));
        for (image, (guidance, (y_a, y_b))) in guidance.chunks_exact(2 * d).zip(scans).enumerate() {
            // z + z_f ⊙ z is the norm with other factors.
            let mix_norm = mix_norm.scaled(guidance.iter().map(|&z| E::of(1.) + z));
            let (a, b) = (a.narrow(0, image, 1)?, b.narrow(0, image, 1)?);
            let fused = rows::with_slice::<E, _>(&a, |a| {
                rows::with_slice::<E, _>(&b, |b| {
                    Ok(rows::map_rows(pixels, c, |rows, out, buffer| {
                        let n = rows.len();
                        let narrow = rows.start * c..rows.end * c;
                        let wide = rows.start * d..rows.end * d;
                        let lengths = [n * c, n * c, 2 * n * d, n * d, n * d, n * d];
                        let [na, nb, z, gate, h, sum] = rows::split(buffer, lengths);
                        norm_a.apply(&a[narrow.clone()], na);
                        norm_b.apply(&b[narrow.clone()], nb);
                        z_a.apply(na, z);
                        z_b.accumulate(nb, z);
                        mix_norm.apply_in_place(z);
                        let mut gated = |(proj, norm): &(rows::Linear<E>, rows::LayerNorm<E>),
                                         out_norm: &rows::LayerNorm<E>,
                                         y: &[E],
                                         h: &mut [E]| {
                            proj.apply(z, gate);
                            norm.apply_in_place(gate);
                            out_norm.apply(y, h);
                            rows::silu_gate(h, gate);
                        };
                        gated(&gate_a, &out_a, &y_a[wide.clone()], sum);
                        gated(&gate_b, &out_b, &y_b[wide], h);
                        rows::add(h, sum);
                        out_proj.apply(sum, out);
                        rows::scale_add(&a[narrow], &skip_a, out);
                        rows::scale_add(nb, &skip_b, out);
                    }))
                })
            })?;
            out.push(Tensor::from_vec(fused, (1, height, width, c), a.device())?);
        }
        // One is enough for the scans elsewhere; here is where memory peaks.
        cpu::recycle(y_a);
        Ok(match <[Tensor; 1]>::try_from(out) {
            Ok([one]) => one,
            Err(many) => Tensor::cat(&many, 0)?,
        })
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
