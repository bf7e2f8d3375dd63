use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;
use isfm_ops::nn::{Linear, RmsNorm, rms_norm};
use isfm_ops::{silu_gate, weighted_sum};

use crate::mamba::{Branch, NORM_EPS, check_sequence, halves, projection};
use crate::{MambaConfig, ScanOrder, cross_scan};

const OP: &str = "vision_mamba";

/// The bidirectional block of Vision Mamba (Zhu et al., "Vision Mamba", 2024, Algorithm 1; `v2` in
/// the released program): one projection in and one out, between them two scans with parameters of
/// their own, one of which walks the sequence backwards.
///
/// # Shapes
/// B×L×C to B×L×C; L are the patches of an image in any fixed order.
#[derive(Clone, Debug)]
pub struct VisionMamba {
    d_model: usize,
    in_proj: Linear,
    forwards: Branch,
    backwards: Branch,
    out_proj: Linear,
    average: bool,
}

/// Builds a [`VisionMamba`] from the tensors of a [`Mamba`](crate::Mamba) and, for the way back,
/// `conv1d_b`, `x_proj_b`, `dt_proj_b`, `A_b_log` and `D_b`. The two directions are added, or with
/// `average` (`if_divide_out` in the released program) averaged.
///
/// # Errors
/// If a tensor is missing or has another shape, or the configuration is invalid.
pub fn vision_mamba(config: &MambaConfig, average: bool, vb: VarBuilder) -> Result<VisionMamba> {
    config.validate()?;
    let (c, d) = (config.d_model, config.d_inner());
    Ok(VisionMamba {
        d_model: c,
        in_proj: projection(c, 2 * d, config.bias, vb.pp("in_proj"))?,
        forwards: Branch::new(config, "", &vb)?,
        backwards: Branch::new(config, "_b", &vb)?,
        out_proj: projection(d, c, config.bias, vb.pp("out_proj"))?,
        average,
    })
}

/// B×L×D with its steps in the opposite order.
fn flip(x: &Tensor) -> Result<Tensor> {
    let (batch, len, width) = x.dims3()?;
    let backwards = ScanOrder::rows(1, len)?.reversed();
    let flipped = cross_scan(&x.reshape((batch, 1, len, width))?, &[backwards])?;
    flipped.reshape((batch, len, width))
}

impl Module for VisionMamba {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        check_sequence(OP, x, self.d_model)?;
        let (x, z) = halves(&self.in_proj, x)?;
        let back = flip(&self.backwards.forward(&flip(&x)?)?)?;
        let share = if self.average { 0.5 } else { 1. };
        // Both directions have the same gate, so their sum is gated once.
        let y = weighted_sum(&self.forwards.forward(&x)?, share, &back, share)?;
        self.out_proj.forward(&silu_gate(&y, &z)?)
    }
}

/// A residual layer of Vision Mamba: `x + VisionMamba(RMSNorm(x))`.
///
/// # Shapes
/// B×L×C to B×L×C.
#[derive(Clone, Debug)]
pub struct VisionMambaLayer {
    norm: RmsNorm,
    mixer: VisionMamba,
}

/// Builds a [`VisionMambaLayer`] from `norm.weight` and `mixer`, a [`VisionMamba`]; the norm's eps
/// is 1e-5.
///
/// # Errors
/// If a tensor is missing or has another shape, or the configuration is invalid.
pub fn vision_mamba_layer(
    config: &MambaConfig,
    average: bool,
    vb: VarBuilder,
) -> Result<VisionMambaLayer> {
    let mixer = vision_mamba(config, average, vb.pp("mixer"))?;
    Ok(VisionMambaLayer { norm: rms_norm(config.d_model, NORM_EPS, vb.pp("norm"))?, mixer })
}

impl Module for VisionMambaLayer {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        check_sequence(OP, x, self.mixer.d_model)?;
        let y = self.mixer.forward(&self.norm.forward(x)?)?;
        weighted_sum(x, 1., &y, 1.)
    }
}
