//! What the example programs and their tests share.

pub mod device;
pub mod evaluate;
pub mod fuse;
pub mod paint;
mod sheet;
pub mod text;
