#![doc = include_str!("../README.md")]

mod adam;
mod augment;
mod checkpoint;
mod config;
mod curve;
mod data;
mod error;
mod log;
mod random;
mod trainer;

pub use adam::{Adam, AdamConfig, Moments, Update};
pub use augment::{Placement, Sample, draw, resize_bicubic};
pub use checkpoint::State;
pub use config::{Schedule, TrainConfig};
pub use data::{Pair, PairFolder};
pub use error::{Error, Result};
pub use log::StepReport;
pub use trainer::{Outcome, RunOptions, Trainer, TrainerBuilder};
