//! The crate as a user has it.

mod common;
mod files;
mod images;
mod pyramid;
mod ranges;
mod reading;
mod stream;
mod stretch;
mod tensors;
mod threads;
mod tiling;
