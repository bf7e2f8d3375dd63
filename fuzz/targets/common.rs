//! A network small enough to run thousands of times a second.

use std::sync::LazyLock;

use isfm::{Builder, Checkpoint, Config, Isfm, Pyramid};

/// Random weights with gates on a pyramid of one level.
static TINY: LazyLock<Checkpoint> = LazyLock::new(|| {
    let pyramid = Pyramid { levels: 1, gates: true, deeper: 2 };
    let config = Config {
        embed_dim: 4,
        depths: vec![1],
        d_state: 2,
        expand: 1,
        pyramid,
        ..Config::default()
    };
    let weights =
        isfm_model::initial_weights(&config, 1, &candle_core::Device::Cpu).expect("weights");
    let metadata = Default::default();
    Checkpoint { config, weights, self_contained: true, metadata }
});

pub fn tiny() -> Builder {
    Isfm::builder().checkpoint(TINY.clone())
}
