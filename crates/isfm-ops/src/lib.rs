#![doc = include_str!("../README.md")]

#[macro_use]
mod shared;

mod activation;
mod causal_conv1d;
mod conv;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod depthwise;
mod error;
mod few_rows;
mod linear;
mod matmul;
pub mod nn;
mod norm;
mod pool;
mod resize;
mod rms_norm;
pub mod rows;
pub mod simd;

pub use activation::{scale_add, sigmoid_gate, silu, silu_gate, weighted_sum};
pub use causal_conv1d::causal_conv1d;
pub use conv::{conv2d, conv2d_add, conv2d_silu};
pub use depthwise::{depthwise_conv2d, depthwise_conv2d_silu};
pub use error::{Error, Result};
pub use linear::{linear, linear_silu};
pub use norm::layer_norm;
pub use pool::{avg_pool2d, max_pool2d};
pub use resize::resize_bilinear;
pub use rms_norm::rms_norm;
