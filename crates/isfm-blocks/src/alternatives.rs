//! What the paper's Table IV puts in the place of FGM.

use candle_core::{Module, Result, Tensor};
use candle_nn::ops::softmax;
use candle_nn::{Init, VarBuilder};
use isfm_ops::chain::Chain;
use isfm_ops::nn::{LayerNorm, Linear, layer_norm, linear, linear_no_bias};

use crate::check::same_shape;

/// Both sources side by side, through one fully connected layer from 2C to C channels.
#[derive(Clone, Debug)]
pub struct ConcatLinear {
    fc: Linear,
}

/// Builds a [`ConcatLinear`] on sources of `dim` channels from `fc`.
///
/// # Errors
/// If a tensor is missing or has another shape.
pub fn concat_linear(dim: usize, vb: VarBuilder) -> Result<ConcatLinear> {
    Ok(ConcatLinear { fc: linear(2 * dim, dim, vb.pp("fc"))? })
}

impl ConcatLinear {
    /// FC([a ; b]); B×H×W×C each, and out.
    ///
    /// # Errors
    /// If the shapes differ.
    pub fn forward(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        same_shape("concatenation", ("the first source", a), ("the second source", b))?;
        let c = a.dim(3)?;
        let half = |i: usize| self.fc.weight().narrow(1, i * c, c);
        let mut chain = Chain::new();
        let (a, b) = (chain.input(a), chain.input(b));
        let fused = chain.linear(a, &half(0)?, self.fc.bias());
        let fused = chain.linear_add(b, &half(1)?, fused);
        let [fused] = chain.maps([fused])?;
        Ok(fused)
    }
}

/// Cross-attention between both sources with the skips of [`Fgm`](crate::Fgm), in the form whose
/// memory grows with the positions and not with their square (Shen et al., "Efficient Attention",
/// 2021): queries are normalised over channels, keys over positions, and keys meet values first.
/// Ordinary attention at 480×640 would need a matrix of 307,200² weights, 378 GB in `f32`.
#[derive(Clone, Debug)]
pub struct CrossAttention {
    norms: [LayerNorm; 2],
    qkv: [Linear; 2],
    out_proj: Linear,
    skips: [Tensor; 2],
}

/// Builds a [`CrossAttention`] on sources of `dim` channels, with one head, from `ln_1`, `ln_2`,
/// `qkv_1`, `qkv_2`, `out_proj`, `skip_scale` and `skip_scale_2`.
///
/// # Errors
/// If a tensor is missing or has another shape.
pub fn cross_attention(dim: usize, vb: VarBuilder) -> Result<CrossAttention> {
    let skip = |name: &str| vb.get_with_hints(dim, name, Init::Const(1.));
    let qkv = |name: &str| linear_no_bias(dim, 3 * dim, vb.pp(name));
    Ok(CrossAttention {
        norms: [layer_norm(dim, vb.pp("ln_1"))?, layer_norm(dim, vb.pp("ln_2"))?],
        qkv: [qkv("qkv_1")?, qkv("qkv_2")?],
        out_proj: linear_no_bias(dim, dim, vb.pp("out_proj"))?,
        skips: [skip("skip_scale")?, skip("skip_scale_2")?],
    })
}

impl CrossAttention {
    /// skip_a ⊙ a + skip_b ⊙ b′ + W (A(a′, b′) + A(b′, a′)), where a′ = LN(a), b′ = LN(b), and A(x, y) =
    /// ρ(Q x) (κ(K y)ᵀ (V y)), ρ a softmax over channels and κ one over positions; B×H×W×C each, and
    /// out.
    ///
    /// # Errors
    /// If the shapes differ.
    pub fn forward(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        same_shape("cross-attention", ("the first source", a), ("the second source", b))?;
        let (batch, height, width, c) = a.dims4()?;
        let normed = [self.norms[0].forward(a)?, self.norms[1].forward(b)?];
        // For each source its queries and what its keys gather of its values, C×C.
        let read = |i: usize| -> Result<(Tensor, Tensor)> {
            let part = |k: usize| -> Result<Tensor> {
                let weight = self.qkv[i].weight().narrow(0, k * c, c)?;
                let x = isfm_ops::linear(&normed[i], &weight, None, isfm_ops::Epilogue::None)?;
                x.reshape((batch, height * width, c))
            };
            let (queries, keys) = (softmax(&part(0)?, 2)?, softmax(&part(1)?, 1)?);
            Ok((queries, keys.t()?.contiguous()?.matmul(&part(2)?)?))
        };
        let ((queries_a, gathered_a), (queries_b, gathered_b)) = (read(0)?, read(1)?);
        let y = (queries_a.matmul(&gathered_b)? + queries_b.matmul(&gathered_a)?)?;
        let mut chain = Chain::new();
        let y = chain.input(&y.reshape((batch, height, width, c))?);
        let (a, b) = (chain.input(a), chain.input(&normed[1]));
        let fused = chain.linear(y, self.out_proj.weight(), None);
        let fused = chain.scale_add(b, &self.skips[1], fused);
        let fused = chain.scale_add(a, &self.skips[0], fused);
        let [fused] = chain.maps([fused])?;
        Ok(fused)
    }
}
