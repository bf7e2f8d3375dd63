#![doc = include_str!("../README.md")]

pub mod detection;
mod differences;
mod error;
mod histogram;
mod metric;
mod plane;
mod qabf;
mod rank;
mod scores;
pub mod segmentation;
mod ssim;
mod statistics;
mod vif;

pub use differences::{average_gradient, spatial_frequency};
pub use error::{Error, Result};
pub use histogram::{entropy, mutual_information};
pub use metric::{Direction, Metric};
pub use plane::{Plane, Sample, Triple, luma_u8};
pub use qabf::qabf;
pub use rank::average_rank;
pub use scores::Scores;
pub use ssim::ssim;
pub use statistics::{correlation, mse, psnr, scd, standard_deviation};
pub use vif::vif;
