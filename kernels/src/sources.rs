// The CUDA C++ files of this folder, for `lib.rs` and the build script.
sources! {
    modules {
        /// Dense convolution.
        Conv = "conv",
        /// The Haar transform.
        Haar = "haar",
        /// Layer norm.
        Norm = "norm",
        /// SiLU, gates and scaled sums.
        Pointwise = "pointwise",
        /// Bilinear resize.
        Resize = "resize",
        /// The selective scan.
        Scan = "scan",
        /// Sums over rows.
        Sums = "sums",
        /// Depth-wise convolution and pools.
        Window = "window",
    }
    headers { "map.cuh", "portable.cuh", "scan.cuh" }
}
