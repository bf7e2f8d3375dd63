//! CUDA kernels of the ISFM crates
