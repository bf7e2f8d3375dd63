#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod ablation;
mod checkpoint;
mod config;
mod error;
mod init;
mod network;
mod operations;
mod pyramid;
mod weights;

pub use ablation::{Row, Table};
pub use checkpoint::Checkpoint;
pub use config::{Config, Modules, Preset, Pyramid, Spatial};
pub use error::{Error, Result};
pub use init::initial_weights;
pub use isfm_ssm::Directions;
pub use network::{Network, ParameterCounts, Stages, tensor_shapes};
pub use operations::{OperationCounts, Work};
pub use pyramid::PyramidFusion;
pub use weights::Weights;
