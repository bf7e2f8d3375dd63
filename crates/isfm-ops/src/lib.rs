#![doc = include_str!("../README.md")]

pub mod cpu;
mod error;
pub mod simd;

pub use error::{Error, Result};
