#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod checkpoint;
mod config;
mod error;
mod init;
mod network;
mod pyramid;
mod weights;

pub use checkpoint::Checkpoint;
pub use config::{Config, Preset, Pyramid};
pub use error::{Error, Result};
pub use init::initial_weights;
pub use network::{Network, ParameterCounts, Stages, tensor_shapes};
pub use pyramid::PyramidFusion;
pub use weights::Weights;
