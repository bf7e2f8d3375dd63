#![doc = include_str!("../README.md")]

#[cfg(feature = "cuda")]
mod cuda;
mod error;
pub mod init;
mod scan;
mod scan_2d;
mod scan_input;
mod selective_scan;
mod ss2d;

pub use error::{Error, Result};
pub use scan_2d::{Scan2dParams, selective_scan_2d_with};
pub use scan_input::{ScanInput, scan_input};
pub use selective_scan::{ScanOptions, selective_scan, selective_scan_with_state};
pub use ss2d::{SelectiveScan2d, Ss2d, Ss2dConfig, VssBlock, selective_scan_2d, ss2d, vss_block};
