use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use isfm_ops::chain::Chain;
use isfm_ops::internal::recycle;
use isfm_ops::nn::{DepthwiseConv2d, LayerNorm, Linear, depthwise_conv2d, linear_no_bias};

use crate::{SelectiveScan2d, Ss2dConfig};

/// The layers before a scan of a map (Liu et al., "VMamba", 2024, figure 3): one half of a
/// projection to 2D channels, then a depth-wise convolution and SiLU. The other half of the
/// projection makes the scan's gate; without a gate the projection is to D channels.
#[derive(Clone, Debug)]
pub struct ScanInput {
    in_proj: Linear,
    conv: DepthwiseConv2d,
}

/// Builds a [`ScanInput`] from the tensors that `in_proj` and `conv` name below `vb`.
///
/// # Errors
/// If a tensor is missing or has another shape.
pub fn scan_input(
    config: &Ss2dConfig,
    in_proj: &str,
    conv: &str,
    vb: VarBuilder,
) -> Result<ScanInput> {
    projected(config, 2 * config.d_inner(), in_proj, conv, vb)
}

/// Builds a [`ScanInput`] that has no gate: `in_proj` is D×C.
///
/// # Errors
/// As [`scan_input`].
pub fn scan_input_without_gate(
    config: &Ss2dConfig,
    in_proj: &str,
    conv: &str,
    vb: VarBuilder,
) -> Result<ScanInput> {
    projected(config, config.d_inner(), in_proj, conv, vb)
}

fn projected(
    config: &Ss2dConfig,
    width: usize,
    in_proj: &str,
    conv: &str,
    vb: VarBuilder,
) -> Result<ScanInput> {
    config.validate()?;
    Ok(ScanInput {
        in_proj: linear_no_bias(config.d_model, width, vb.pp(in_proj))?,
        conv: depthwise_conv2d(config.d_inner(), 3, vb.pp(conv))?,
    })
}

impl ScanInput {
    /// The rows of the projection that make the scan's input, D×C.
    ///
    /// # Errors
    /// If Candle reports one.
    pub fn x_weight(&self) -> Result<Tensor> {
        self.half(0)
    }

    /// The rows of the projection that make the gate, D×C.
    ///
    /// # Errors
    /// If there is no gate.
    pub fn z_weight(&self) -> Result<Tensor> {
        self.half(1)
    }

    /// Halving the weight is a view; halving the product would copy it, and its gradient twice.
    fn half(&self, index: usize) -> Result<Tensor> {
        let weight = self.in_proj.weight();
        let d = self.conv.weight().dim(0)?;
        weight.narrow(0, index * d, d)
    }

    /// The scan of `source`: layer norm if there is one, projection, convolution, SiLU, `scan`.
    ///
    /// Without gradients everything before the scan is one pass: a line of the map is normalised,
    /// projected, convolved with its neighbours and projected to dt, B and C while it is in a near
    /// cache.
    ///
    /// # Shapes
    /// `source`: B×H×W×C; returns B×H×W×D.
    ///
    /// # Errors
    /// If a shape or an element type does not fit.
    pub fn scan(
        &self,
        source: &Tensor,
        norm: Option<&LayerNorm>,
        scan: &SelectiveScan2d,
    ) -> Result<Tensor> {
        let mut chain = Chain::new();
        let source = chain.input(source);
        let normed = norm.map_or(source, |norm| chain.norm(source, norm));
        let x = chain.linear(normed, &self.x_weight()?, None);
        let x = chain.depthwise_silu(x, &self.conv);
        let x_dbl = chain.linear(x, &scan.x_proj_matrix()?, None);
        let [x, x_dbl] = chain.maps([x, x_dbl])?;
        let y = scan.scan_projected(&x, &x_dbl)?;
        recycle(x, &y);
        recycle(x_dbl, &y);
        Ok(y)
    }
}
