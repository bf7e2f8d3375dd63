#![doc = include_str!("../README.md")]

mod atomic;
pub mod checkpoint;
mod error;
pub mod pairs;

pub use atomic::{exit, is_stream, is_unfinished, sync_folder, write_atomically};
pub use error::{Error, Result};
pub use pairs::{PICTURE_EXTENSIONS, Pairing, is_picture};
