#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "write")]
mod atomic;
#[cfg(not(feature = "write"))]
#[path = "read_only.rs"]
mod atomic;
pub mod checkpoint;
mod error;
pub mod pairs;
mod text;

pub use atomic::{exit, is_stream, is_unfinished, sync_folder, write_atomically};
pub use error::{Error, Result};
pub use pairs::{PICTURE_EXTENSIONS, Pairing, is_picture};
pub use text::{read_text, without_mark};
