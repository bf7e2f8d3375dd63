#![doc = include_str!("../README.md")]

mod checkpoint;
mod cross_scan;
#[cfg(feature = "cuda")]
mod cuda;
mod error;
pub mod init;
mod mamba;
mod mamba_lm;
mod projected_scan;
mod scan;
mod scan_2d;
mod scan_input;
mod scan_order;
mod selective_scan;
mod ss2d;
mod vision_mamba;

pub use checkpoint::MambaCheckpoint;
pub use cross_scan::{
    cross_merge, cross_merge_each, cross_scan, cross_scan_each, selective_scan_ordered,
};
pub use error::{Error, Result};
pub use mamba::{Mamba, MambaConfig, MambaLayer, MambaState, mamba, mamba_layer};
pub use mamba_lm::{MambaLm, MambaLmConfig, MambaStack, mamba_lm, mamba_stack};
pub use projected_scan::{selective_scan_projected, selective_scan_projected_with_state};
pub use scan_2d::{Scan2dParams, selective_scan_2d_with};
pub use scan_input::{ScanInput, scan_input};
pub use scan_order::ScanOrder;
pub use selective_scan::{ScanOptions, selective_scan, selective_scan_with_state};
pub use ss2d::{SelectiveScan2d, Ss2d, Ss2dConfig, VssBlock, selective_scan_2d, ss2d, vss_block};
pub use vision_mamba::{VisionMamba, VisionMambaLayer, vision_mamba, vision_mamba_layer};
