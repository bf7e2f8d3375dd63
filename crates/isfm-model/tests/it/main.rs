//! The crate's tests, save those against the authors' program and on a GPU.

mod checkpoint;
mod config;

use candle_core::Tensor;

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}
