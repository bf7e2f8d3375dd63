use candle_core::{Result, Tensor};

use crate::op::untracked;
use crate::{silu, weighted_sum};

/// What follows a convolution or a linear layer. Fused into the same pass are SiLU where no
/// gradient is tracked, and the sum after a dense convolution (k > 1) without a bias; everything
/// else is an operation of its own after it.
#[derive(Clone, Copy, Debug, Default)]
pub enum Epilogue<'a> {
    /// Nothing.
    #[default]
    None,
    /// x·sigmoid(x) of every value of the result.
    Silu,
    /// The sum with a map of the result's shape. A convolution of maps side by side is the sum of
    /// one convolution for each map, so each can be dropped once it has been added.
    Add(&'a Tensor),
}

impl Epilogue<'_> {
    /// Whether a kernel on these inputs may end with SiLU.
    pub(crate) fn is_fused_silu<'a>(self, inputs: impl IntoIterator<Item = &'a Tensor>) -> bool {
        matches!(self, Self::Silu) && untracked(inputs)
    }

    /// The epilogue as an operation of its own.
    pub(crate) fn of(self, y: Tensor) -> Result<Tensor> {
        match self {
            Self::None => Ok(y),
            Self::Silu => silu(&y),
            Self::Add(other) => weighted_sum(&y, 1., other, 1.),
        }
    }
}
