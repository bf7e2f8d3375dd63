//! Scans, blocks, orders and released weights.

mod checkpoint;
mod common;
mod golden;
mod mamba;
mod modules;
mod scan_1d;
mod scan_2d;
mod scan_order;
mod threads;
mod vision_mamba;
