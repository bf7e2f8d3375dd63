//! The ISFM image-fusion network for Candle: configuration, presets, checkpoints
