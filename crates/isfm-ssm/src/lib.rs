#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod checkpoint;
mod config;
mod cross_scan;
pub mod init;
mod mamba;
mod mamba_lm;
mod scan;
mod scan_input;
mod scan_order;
mod scan_params;
mod selective_scan;
mod ss2d;
mod vision_mamba;

pub use checkpoint::MambaCheckpoint;
pub use cross_scan::{cross_merge, cross_merge_each, cross_scan, cross_scan_each};
pub use mamba::{Mamba, MambaConfig, MambaLayer, MambaState, mamba, mamba_layer};
pub use mamba_lm::{MambaLm, MambaLmConfig, MambaStack, mamba_lm, mamba_stack};
pub use scan_input::{ScanInput, scan_input, scan_input_without_gate};
pub use scan_order::ScanOrder;
pub use scan_params::ScanParams;
pub use selective_scan::{ScanOptions, selective_scan, selective_scan_with_state};
pub use ss2d::{
    Directions, SelectiveScan2d, Ss2d, Ss2dConfig, VssBlock, selective_scan_2d, ss2d, vss_block,
};
pub use vision_mamba::{VisionMamba, VisionMambaLayer, vision_mamba, vision_mamba_layer};
