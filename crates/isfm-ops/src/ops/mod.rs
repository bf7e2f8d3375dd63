//! The operations: public functions that check their arguments, and their [`Op`](crate::op::Op)s.

pub(crate) mod activation;
pub(crate) mod adam;
pub(crate) mod causal_conv1d;
pub(crate) mod conv;
pub(crate) mod depthwise;
pub(crate) mod layer_norm;
pub(crate) mod linear;
pub(crate) mod merge_details;
pub(crate) mod merge_level;
pub(crate) mod pointwise;
pub(crate) mod pool;
pub(crate) mod pyramid;
pub(crate) mod resize;
pub(crate) mod rms_norm;
pub(crate) mod softmax;

use candle_core::{Result, Shape};
use isfm_kernels::Map;

/// The sizes of a map as plans take them.
fn kernel_map(shape: &Shape) -> Result<Map> {
    let (batch, height, width, channels) = shape.dims4()?;
    Ok(Map { batch, height, width, channels })
}

#[cfg(test)]
mod tests {
    use isfm_kernels::Type;

    use super::pyramid::{Pyramid, Step};
    use crate::op::Op;

    /// Where there is no CUDA kernel the error names the operation and what runs instead.
    #[test]
    fn operations_without_a_cuda_kernel_say_so() {
        let refused = |op: &dyn Fn() -> candle_core::Result<isfm_kernels::Plan>,
                       words: [&str; 2]| {
            let text = op().unwrap_err().to_string();
            assert!(text.contains("no CUDA kernel"), "{text}");
            words.iter().for_each(|word| assert!(text.contains(word), "{text:?} without {word:?}"));
        };
        let norm = super::rms_norm::RmsNorm { eps: 1e-5 };
        refused(&|| norm.plan(Type::F32, &[]), ["rms_norm", "candle_nn::ops::rms_norm_slow"]);
        let softmax = super::softmax::Softmax;
        refused(&|| softmax.plan(Type::F32, &[]), ["softmax_last_dim", "candle_nn::ops::softmax"]);
        let conv = super::causal_conv1d::Conv { left: 3, right: 0, flip: false };
        refused(&|| conv.plan(Type::F16, &[]), ["causal_conv1d", "Tensor::to_device"]);
        for (step, name) in [(Step::Down, "pyr_down"), (Step::Up, "pyr_up")] {
            for adjoint in [false, true] {
                let op = Pyramid { step, fine: [4, 4], adjoint };
                refused(&|| op.plan(Type::F32, &[]), [name, "Tensor::to_device"]);
            }
        }
        let merge = super::merge_details::MergeDetails { sharpness: 1. };
        refused(&|| merge.plan(Type::F32, &[]), ["merge_details", "Tensor::to_device"]);
    }
}
