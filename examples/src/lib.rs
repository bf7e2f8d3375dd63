//! Short programs to copy from: see `examples/README.md`.
