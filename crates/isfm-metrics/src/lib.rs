#![doc = include_str!("../README.md")]

mod differences;
mod edges;
mod error;
mod fmi;
mod fourier;
mod histogram;
mod math;
mod metric;
mod moments;
mod nabf;
mod perception;
mod phase;
mod plane;
mod qabf;
mod rank;
mod scores;
mod simd;
mod ssim;
mod statistics;
mod vif;
mod wavelet;

pub use differences::{average_gradient, spatial_frequency};
pub use error::{Error, Result};
pub use fmi::{Feature, fmi};
pub use histogram::{entropy, mutual_information};
pub use metric::{Direction, Metric};
pub use nabf::nabf;
pub use perception::{qcb, qcv};
pub use phase::qp;
pub use plane::{Plane, Sample, Triple, luma_u8};
pub use qabf::qabf;
pub use rank::average_rank;
pub use scores::Scores;
pub use ssim::{ms_ssim, ssim};
pub use statistics::{correlation, mse, psnr, scd, standard_deviation};
pub use vif::vif;
