//! Short programs to copy from: see `examples/README.md`.

/// The code of the README and of the guide, compiled with the tests.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../../README.md")]
    mod readme {}
    #[doc = include_str!("../../docs/guide/fuse-your-camera.md")]
    mod camera {}
    #[doc = include_str!("../../docs/guide/two-cameras.md")]
    mod rig {}
    #[doc = include_str!("../../docs/guide/train-on-your-pairs.md")]
    mod training {}
    #[doc = include_str!("../../docs/guide/compare-methods.md")]
    mod comparing {}
    #[doc = include_str!("../../docs/guide/mamba-in-candle.md")]
    mod mamba {}
}
