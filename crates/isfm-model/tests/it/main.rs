//! The crate's tests, save those against the authors' program and on a GPU.

mod ablation;
mod checkpoint;
mod config;
mod pyramid;
