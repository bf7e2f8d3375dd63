#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[macro_use]
mod parallel;

pub mod chain;
mod check;
#[cfg(feature = "cuda")]
mod cuda;
mod epilogue;
mod graph;
mod memory;
pub mod nn;
pub mod op;
mod ops;
mod product;
pub mod simd;

pub use epilogue::Epilogue;
pub use memory::{keep_freed_device_memory, keep_freed_memory};
pub use ops::activation::{sigmoid_gate, silu, silu_gate};
pub use ops::adam::{AdamStep, adam_step, magnitudes};
pub use ops::causal_conv1d::causal_conv1d;
pub use ops::conv::conv2d;
pub use ops::depthwise::depthwise_conv2d;
pub use ops::layer_norm::layer_norm;
pub use ops::linear::linear;
pub use ops::merge_details::merge_details;
pub use ops::merge_level::{PyramidLevel, merge_level};
pub use ops::pointwise::{scale_add, weighted_sum};
pub use ops::pool::{avg_pool2d, max_pool2d};
pub use ops::pyramid::{pyr_down, pyr_up};
pub use ops::resize::resize_bilinear;
pub use ops::rms_norm::rms_norm;
pub use ops::softmax::softmax_last_dim;

/// Helpers that the other crates of this workspace use. Not part of the public API: they may change
/// in any version.
#[doc(hidden)]
pub mod internal {
    pub use crate::check::{dims, dtype_error, float, like, no_cuda_kernel, shape_error};
    #[cfg(feature = "cuda")]
    pub mod cuda {
        pub use crate::cuda::*;
    }
    pub use crate::memory::{
        Workspace, into_elements, keep, keep_buffer, recycle, recycling, replace, scratch,
        with_capacity, zeros,
    };
    pub use crate::ops::activation::silu_in_place;
    pub use crate::ops::conv::conv2d_accumulate;
}
