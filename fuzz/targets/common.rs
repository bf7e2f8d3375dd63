//! A network small enough to run thousands of times a second.

use isfm::{Builder, Checkpoint, Config, Isfm, Pyramid};

/// Random weights with gates on a pyramid of one level.
pub fn tiny() -> Builder {
    let pyramid = Pyramid { levels: 1, gates: true, deeper: 2 };
    let config = Config { embed_dim: 4, depths: vec![1], d_state: 2, expand: 1, pyramid };
    let weights = isfm_model::initial_weights(&config, 1, &candle_core::Device::Cpu).expect("weights");
    let metadata = Default::default();
    Isfm::builder().checkpoint(Checkpoint { config, weights, self_contained: true, metadata })
}
