//! Layers that map each pixel by itself, one after the other, written once and run in one of two
//! ways.
//!
//! If an input or a weight is tracked, on a GPU, and for what the second way does not take, each
//! step is an operation of its own. Otherwise no intermediate map has to be kept, and moving every
//! one through memory would take most of the time: ninety-six pixels at a time are taken through
//! the whole chain while they are in a near cache, and intermediate maps never exist. A chain may
//! have one depth-wise convolution; it then runs in bands of whole lines, and what comes before the
//! convolution is computed line by line.
//!
//! ```
//! use candle_core::{DType, Device, Result, Tensor};
//! use candle_nn::{VarBuilder, VarMap};
//! use isfm_ops::chain::Chain;
//! use isfm_ops::nn;
//!
//! # fn main() -> Result<()> {
//! let vars = VarMap::new();
//! let vb = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
//! let (norm, proj) = (nn::layer_norm(8, vb.pp("norm"))?, nn::linear(8, 8, vb.pp("proj"))?);
//!
//! let map = Tensor::randn(0f32, 1., (1, 48, 64, 8), &Device::Cpu)?; // B×H×W×C
//! let mut chain = Chain::new();
//! let x = chain.input(&map);
//! let gate = chain.norm(x, &norm);
//! let gate = chain.linear(gate, proj.weight(), proj.bias());
//! let y = chain.silu_gate(x, gate);
//! let [y] = chain.maps([y])?;
//! assert_eq!(y.dims(), map.dims());
//! # Ok(())
//! # }
//! ```

mod blocks;
mod gradient;

use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{DType, Result, Tensor};

use crate::Epilogue;
use crate::nn::{DepthwiseConv2d, LayerNorm};

/// A map in a [`Chain`]: an input, or the result of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    chain: u64,
    step: usize,
}

/// Steps from maps B×H×W×C to others of the same B, H and W.
#[derive(Debug)]
pub struct Chain {
    /// Distinguishes its values from those of other chains.
    id: u64,
    steps: Vec<Step>,
}

impl Default for Chain {
    fn default() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { id: NEXT.fetch_add(1, Ordering::Relaxed), steps: Vec::new() }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Input(Tensor),
    Norm {
        x: Value,
        norm: LayerNorm,
    },
    Linear {
        x: Value,
        weight: Tensor,
        bias: Option<Tensor>,
    },
    /// x·weightᵀ + y.
    LinearAdd {
        x: Value,
        weight: Tensor,
        y: Value,
    },
    DepthwiseSilu {
        x: Value,
        conv: DepthwiseConv2d,
    },
    SiluGate {
        x: Value,
        z: Value,
    },
    Add {
        x: Value,
        y: Value,
    },
    ScaleAdd {
        x: Value,
        scale: Tensor,
        y: Value,
    },
}

impl Step {
    fn sources(&self) -> impl Iterator<Item = Value> {
        let (first, second) = match *self {
            Self::Input(_) => (None, None),
            Self::Norm { x, .. } | Self::Linear { x, .. } | Self::DepthwiseSilu { x, .. } => {
                (Some(x), None)
            }
            Self::LinearAdd { x, y, .. } | Self::Add { x, y } | Self::ScaleAdd { x, y, .. } => {
                (Some(x), Some(y))
            }
            Self::SiluGate { x, z } => (Some(x), Some(z)),
        };
        first.into_iter().chain(second)
    }

    /// The same step on other values.
    fn with_sources(&self, to: impl Fn(Value) -> Value) -> Self {
        let mut step = self.clone();
        match &mut step {
            Self::Input(_) => {}
            Self::Norm { x, .. } | Self::Linear { x, .. } | Self::DepthwiseSilu { x, .. } => {
                *x = to(*x);
            }
            Self::LinearAdd { x, y, .. } | Self::Add { x, y } | Self::ScaleAdd { x, y, .. } => {
                (*x, *y) = (to(*x), to(*y));
            }
            Self::SiluGate { x, z } => (*x, *z) = (to(*x), to(*z)),
        }
        step
    }

    /// The tensors of its own, in the order of their gradients.
    fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let (first, second) = match self {
            Self::Input(t) | Self::ScaleAdd { scale: t, .. } => (Some(t), None),
            Self::Norm { norm, .. } => (Some(norm.weight()), Some(norm.bias())),
            Self::Linear { weight, bias, .. } => (Some(weight), bias.as_ref()),
            Self::LinearAdd { weight, .. } => (Some(weight), None),
            Self::DepthwiseSilu { conv, .. } => (Some(conv.weight()), conv.bias()),
            Self::SiluGate { .. } | Self::Add { .. } => (None, None),
        };
        first.into_iter().chain(second)
    }
}

impl Chain {
    /// A chain without steps.
    pub fn new() -> Self {
        Self::default()
    }

    fn value(&self, step: usize) -> Value {
        Value { chain: self.id, step }
    }

    fn push(&mut self, step: Step) -> Value {
        self.steps.push(step);
        self.value(self.steps.len() - 1)
    }

    /// Adds a map B×H×W×C that steps can read.
    pub fn input(&mut self, map: &Tensor) -> Value {
        self.push(Step::Input(map.clone()))
    }

    /// [`layer_norm`](crate::layer_norm).
    pub fn norm(&mut self, x: Value, norm: &LayerNorm) -> Value {
        self.push(Step::Norm { x, norm: norm.clone() })
    }

    /// [`linear`](crate::linear).
    pub fn linear(&mut self, x: Value, weight: &Tensor, bias: Option<&Tensor>) -> Value {
        self.push(Step::Linear { x, weight: weight.clone(), bias: bias.cloned() })
    }

    /// [`linear`](crate::linear) without a bias, plus `y`: a layer on maps that lie side by side.
    pub fn linear_add(&mut self, x: Value, weight: &Tensor, y: Value) -> Value {
        self.push(Step::LinearAdd { x, weight: weight.clone(), y })
    }

    /// [`depthwise_conv2d`](crate::depthwise_conv2d), then SiLU.
    pub fn depthwise_silu(&mut self, x: Value, conv: &DepthwiseConv2d) -> Value {
        self.push(Step::DepthwiseSilu { x, conv: conv.clone() })
    }

    /// [`silu_gate`](crate::silu_gate): x ⊙ SiLU(z).
    pub fn silu_gate(&mut self, x: Value, z: Value) -> Value {
        self.push(Step::SiluGate { x, z })
    }

    /// x + y.
    pub fn add(&mut self, x: Value, y: Value) -> Value {
        self.push(Step::Add { x, y })
    }

    /// [`scale_add`](crate::scale_add): scale ⊙ x + y, the scale C or B×C.
    pub fn scale_add(&mut self, x: Value, scale: &Tensor, y: Value) -> Value {
        self.push(Step::ScaleAdd { x, scale: scale.clone(), y })
    }

    /// Runs the chain; returns the maps of `values`, B×H×W×C each.
    ///
    /// # Errors
    /// If a value is of another chain, or the shapes or element types of a step do not fit or have
    /// no kernel.
    pub fn maps<const N: usize>(self, values: [Value; N]) -> Result<[Tensor; N]> {
        self.check(&values)?;
        self.run(&values)?.try_into().map_err(|_| candle_core::Error::msg("one map for each value"))
    }

    fn run(&self, wanted: &[Value]) -> Result<Vec<Tensor>> {
        if let Some(maps) = self.in_blocks(wanted)? {
            return Ok(maps);
        }
        match self.with_gradients(wanted)? {
            Some(maps) => Ok(maps),
            None => self.op_by_op(wanted, |map| Ok(map.clone())),
        }
    }

    /// Runs the chain; returns the mean of a map over its pixels, B×C.
    ///
    /// # Errors
    /// As [`maps`](Self::maps).
    pub fn mean(self, value: Value) -> Result<Tensor> {
        self.check(&[value])?;
        if let Some(mean) = self.mean_in_blocks(value)? {
            return Ok(mean);
        }
        if let Some(mean) = self.mean_with_gradients(value)? {
            return Ok(mean);
        }
        let [map] = self.maps([value])?;
        // A mean over a whole map needs more digits than 16-bit floats have.
        let (map, dtype) = (map.flatten(1, 2)?, map.dtype());
        match dtype {
            DType::F16 | DType::BF16 => map.to_dtype(DType::F32)?.mean(1)?.to_dtype(dtype),
            _ => map.mean(1),
        }
    }

    /// Refuses values of other chains.
    fn check(&self, wanted: &[Value]) -> Result<()> {
        let read = self.steps.iter().flat_map(Step::sources);
        if read.chain(wanted.iter().copied()).all(|value| value.chain == self.id) {
            return Ok(());
        }
        Err(candle_core::Error::msg("a chain of layers was given a value of another chain"))
    }

    /// For each value the last step that reads it; the chain's end for those that are wanted.
    fn last_uses(&self, wanted: &[Value]) -> Vec<usize> {
        let mut last: Vec<usize> = (0..self.steps.len()).collect();
        for (i, step) in self.steps.iter().enumerate() {
            step.sources().for_each(|x| last[x.step] = i);
        }
        wanted.iter().for_each(|x| last[x.step] = self.steps.len());
        last
    }

    /// Runs each step as an operation of its own, on `input` of each input. A map is dropped after
    /// its last use.
    fn op_by_op(
        &self,
        wanted: &[Value],
        input: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Vec<Tensor>> {
        let last = self.last_uses(wanted);
        let mut maps: Vec<Option<Tensor>> = Vec::with_capacity(self.steps.len());
        for (i, step) in self.steps.iter().enumerate() {
            let of = |x: &Value| match &maps[x.step] {
                Some(map) => Ok(map),
                None => Err(candle_core::Error::msg("a map of a chain was dropped before its use")),
            };
            let map = match step {
                Step::Input(map) => input(map)?,
                Step::Norm { x, norm } => {
                    crate::layer_norm(of(x)?, norm.weight(), norm.bias(), norm.eps())?
                }
                Step::Linear { x, weight, bias } => {
                    crate::linear(of(x)?, weight, bias.as_ref(), Epilogue::None)?
                }
                Step::LinearAdd { x, weight, y } => {
                    crate::linear(of(x)?, weight, None, Epilogue::Add(of(y)?))?
                }
                Step::DepthwiseSilu { x, conv } => {
                    crate::depthwise_conv2d(of(x)?, conv.weight(), conv.bias(), Epilogue::Silu)?
                }
                Step::SiluGate { x, z } => crate::silu_gate(of(x)?, of(z)?)?,
                Step::Add { x, y } => crate::weighted_sum(of(x)?, 1., of(y)?, 1.)?,
                Step::ScaleAdd { x, scale, y } => crate::scale_add(of(x)?, scale, of(y)?)?,
            };
            maps.push(Some(map));
            step.sources().filter(|x| last[x.step] == i).for_each(|x| maps[x.step] = None);
        }
        let wanted = wanted.iter().map(|x| maps[x.step].clone());
        wanted
            .collect::<Option<_>>()
            .ok_or_else(|| candle_core::Error::msg("a value of another chain"))
    }
}
