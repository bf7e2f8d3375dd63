#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod adam;
mod augment;
mod average;
mod checkpoint;
mod collective;
mod config;
mod corrupt;
mod curve;
mod data;
mod error;
mod loader;
mod log;
mod mixture;
#[cfg(feature = "nccl")]
mod nccl;
mod random;
mod run;
mod trainer;
mod validate;

pub use adam::{Adam, AdamConfig, Moments, Update};
pub use augment::{Augment, Placement, Sample, draw, resize_bicubic};
pub use checkpoint::State;
pub use collective::{Alone, Collective, InProcess, fold, gather, nodes, share};
pub use config::{Schedule, TrainConfig, Validation};
pub use corrupt::Corrupt;
pub use data::{Pair, PairFolder};
pub use error::{Error, Result};
pub use log::StepReport;
pub use mixture::DataSet;
#[cfg(feature = "nccl")]
#[cfg_attr(docsrs, doc(cfg(feature = "nccl")))]
pub use nccl::Nccl;
pub use run::{RunData, RunFile};
pub use trainer::{Outcome, RunOptions, Trainer, TrainerBuilder};
pub use validate::ValidationReport;
