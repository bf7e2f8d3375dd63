//! The building blocks of the ISFM image-fusion network, for Candle
