//! The operations as layers, in candle-nn's style: a struct from raw tensors, and a builder
//! function that takes them from a [`VarBuilder`]. Maps are channel-last, B×H×W×C.
//!
//! Initial values of new variables are PyTorch's for convolutions (weight and bias uniform within
//! ±1/√fan_in) and norms (1 and 0), and normal with σ 0.02, bias 0, for linear layers. The weights
//! of a `VarBuilder` over `Var` tensors stay connected to them: gradients flow.

use candle_core::{Module, Result, Tensor};
use candle_nn::{Init, VarBuilder};

use crate::Epilogue;

/// Uniform within ±1/√fan_in: PyTorch's default for convolutions.
pub fn uniform(fan_in: usize) -> Init {
    let bound = 1. / (fan_in.max(1) as f64).sqrt();
    Init::Uniform { lo: -bound, up: bound }
}

/// A dense convolution with stride 1 and padding k/2; see [`conv2d`](crate::conv2d).
#[derive(Clone, Debug)]
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Conv2d {
    /// From a weight Cout×Cin×k×k and a bias Cout.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    /// The weight, Cout×Cin×k×k.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias, Cout values.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// The layer and what follows it; see [`conv2d`](crate::conv2d).
    ///
    /// # Errors
    /// As [`conv2d`](crate::conv2d).
    pub fn forward_with(&self, x: &Tensor, epilogue: Epilogue<'_>) -> Result<Tensor> {
        crate::conv2d(x, &self.weight, self.bias.as_ref(), epilogue)
    }
}

impl Module for Conv2d {
    /// # Shapes
    /// B×H×W×Cin to B×H×W×Cout.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_with(x, Epilogue::None)
    }
}

/// A biased k×k convolution from `cin` to `cout` channels, from `weight` and `bias`.
///
/// # Errors
/// If a tensor is missing or has another shape.
pub fn conv2d(cin: usize, cout: usize, k: usize, vb: VarBuilder) -> Result<Conv2d> {
    let init = uniform(cin * k * k);
    let weight = vb.get_with_hints((cout, cin, k, k), "weight", init)?;
    Ok(Conv2d::new(weight, Some(vb.get_with_hints(cout, "bias", init)?)))
}

/// A convolution of each channel with its own window; see
/// [`depthwise_conv2d`](crate::depthwise_conv2d).
#[derive(Clone, Debug)]
pub struct DepthwiseConv2d {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl DepthwiseConv2d {
    /// From a weight C×1×k×k and a bias C.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    /// The weight, C×1×k×k.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias, C values.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// The layer and what follows it; see [`depthwise_conv2d`](crate::depthwise_conv2d).
    ///
    /// # Errors
    /// As [`depthwise_conv2d`](crate::depthwise_conv2d).
    pub fn forward_with(&self, x: &Tensor, epilogue: Epilogue<'_>) -> Result<Tensor> {
        crate::depthwise_conv2d(x, &self.weight, self.bias.as_ref(), epilogue)
    }
}

impl Module for DepthwiseConv2d {
    /// # Shapes
    /// B×H×W×C to B×H×W×C.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_with(x, Epilogue::None)
    }
}

/// A biased depth-wise k×k convolution of `c` channels, from `weight` and `bias`.
///
/// # Errors
/// If a tensor is missing or has another shape.
pub fn depthwise_conv2d(c: usize, k: usize, vb: VarBuilder) -> Result<DepthwiseConv2d> {
    let init = uniform(k * k);
    let weight = vb.get_with_hints((c, 1, k, k), "weight", init)?;
    Ok(DepthwiseConv2d::new(weight, Some(vb.get_with_hints(c, "bias", init)?)))
}

/// A linear layer on the last axis; see [`linear`](crate::linear).
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// From a weight Cout×Cin and a bias Cout.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    /// The weight, Cout×Cin.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias, Cout values.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }
}

impl Module for Linear {
    /// # Shapes
    /// …×Cin to …×Cout.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        crate::linear(x, &self.weight, self.bias.as_ref(), Epilogue::None)
    }
}

/// A linear layer with a bias, from `weight` and `bias`.
///
/// # Errors
/// If a tensor is missing or has another shape.
pub fn linear(cin: usize, cout: usize, vb: VarBuilder) -> Result<Linear> {
    let bias = vb.get_with_hints(cout, "bias", candle_nn::init::ZERO)?;
    let weight = linear_no_bias(cin, cout, vb)?.weight;
    Ok(Linear::new(weight, Some(bias)))
}

/// A linear layer without a bias, from `weight`.
///
/// # Errors
/// If the tensor is missing or has another shape.
pub fn linear_no_bias(cin: usize, cout: usize, vb: VarBuilder) -> Result<Linear> {
    let init = Init::Randn { mean: 0., stdev: 0.02 };
    Ok(Linear::new(vb.get_with_hints((cout, cin), "weight", init)?, None))
}

/// Layer norm on the last axis; see [`layer_norm`](crate::layer_norm).
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// From a weight C, a bias C and what is added to the variance.
    pub fn new(weight: Tensor, bias: Tensor, eps: f64) -> Self {
        Self { weight, bias, eps }
    }

    /// The weight, C values.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias, C values.
    pub fn bias(&self) -> &Tensor {
        &self.bias
    }

    /// The value added to the variance.
    pub fn eps(&self) -> f64 {
        self.eps
    }
}

impl Module for LayerNorm {
    /// # Shapes
    /// …×C to …×C.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        crate::layer_norm(x, &self.weight, &self.bias, self.eps)
    }
}

/// Layer norm of `c` channels with eps 1e-5, from `weight` and `bias`.
///
/// # Errors
/// If a tensor is missing or has another shape.
pub fn layer_norm(c: usize, vb: VarBuilder) -> Result<LayerNorm> {
    let weight = vb.get_with_hints(c, "weight", candle_nn::init::ONE)?;
    let bias = vb.get_with_hints(c, "bias", candle_nn::init::ZERO)?;
    Ok(LayerNorm::new(weight, bias, 1e-5))
}

/// Root-mean-square norm on the last axis; see [`rms_norm`](crate::rms_norm).
#[derive(Clone, Debug)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    /// From a weight C and what is added to the mean square.
    pub fn new(weight: Tensor, eps: f64) -> Self {
        Self { weight, eps }
    }

    /// The weight, C values.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The value added to the mean square.
    pub fn eps(&self) -> f64 {
        self.eps
    }
}

impl Module for RmsNorm {
    /// # Shapes
    /// …×C to …×C.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        crate::rms_norm(x, &self.weight, self.eps)
    }
}

/// Root-mean-square norm of `c` channels, from `weight`.
///
/// # Errors
/// If the tensor is missing or has another shape.
pub fn rms_norm(c: usize, eps: f64, vb: VarBuilder) -> Result<RmsNorm> {
    Ok(RmsNorm::new(vb.get_with_hints(c, "weight", candle_nn::init::ONE)?, eps))
}
