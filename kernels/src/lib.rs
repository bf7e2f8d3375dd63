#![doc = include_str!("../README.md")]

/// The most threads in a block that the kernels may be launched with.
pub const MAX_THREADS: u32 = 256;

/// The CUDA C++ sources, as text for NVRTC or another compiler.
pub mod sources {
    /// The Haar transform: [`haar`](crate::haar). Includes `haar.cuh`.
    pub const HAAR: &str = include_str!("haar.cu");
    /// SiLU and the gate: [`silu`](crate::silu). Includes `silu.cuh`.
    pub const SILU: &str = include_str!("silu.cu");
    /// The headers as file name and text, by the names that the sources include them with.
    pub const HEADERS: [(&str, &str); 3] = [
        ("portable.cuh", include_str!("portable.cuh")),
        ("haar.cuh", include_str!("haar.cuh")),
        ("silu.cuh", include_str!("silu.cuh")),
    ];
}

/// The sources compiled to PTX for the GPU that `CUDA_COMPUTE_CAP` or `nvidia-smi` named at build
/// time.
#[cfg(feature = "cuda")]
pub mod ptx {
    /// [`sources::HAAR`](crate::sources::HAAR), compiled.
    pub const HAAR: &str = include_str!(concat!(env!("OUT_DIR"), "/haar.ptx"));
    /// [`sources::SILU`](crate::sources::SILU), compiled.
    pub const SILU: &str = include_str!(concat!(env!("OUT_DIR"), "/silu.ptx"));
}

/// Kernels of the one-level 2-D Haar transform on channel-last maps.
///
/// Shapes: `x` B×H×W×C; `approx` B×⌊H/2⌋×⌊W/2⌋×C, the LL band; `details` B×⌊H/2⌋×⌊W/2⌋×3C, the
/// bands LH, HL, HH one after another. For a block `[[a, b], [c, d]]` LL = (a+b+c+d)/2,
/// LH = (a+b−c−d)/2, HL = (a−b+c−d)/2, HH = (a−b−c+d)/2.
///
/// Grid: x over channels, y over columns of 2×2 blocks, z over rows of blocks in all images; any
/// size is right, and one thread per place is fastest. Limits: every dimension, B·⌈H/2⌉, and grid ×
/// block along each axis must be below 2³¹.
pub mod haar {
    /// `(x, approx, details: *f32, batch, height, width, channels: u32)`: reads `x`, writes the
    /// bands. An odd last row or column is dropped. Also the gradient of [`INVERSE`] on even sizes.
    pub const FORWARD: &str = "haar_forward_f32";
    /// `(approx, details, x: *f32, batch, height, width, channels: u32)`: reads the bands, writes
    /// `x`, whose size the arguments give. On an odd size the last row or column is zero: also the
    /// gradient of [`FORWARD`] on any size.
    pub const INVERSE: &str = "haar_inverse_f32";
}

/// Kernels of SiLU(x) = x / (1 + e⁻ˣ) and of the gate x ⊙ SiLU(z), on `n` elements.
///
/// Grid: x over elements; any size is right. Limit: grid × block below 2³².
pub mod silu {
    /// `(x, y: *f32, n: u64)`: y = SiLU(x).
    pub const FORWARD: &str = "silu_forward_f32";
    /// `(x, dy, dx: *f32, n: u64)`: dx = dy ⊙ SiLU′(x).
    pub const BACKWARD: &str = "silu_backward_f32";
    /// `(x, z, y: *f32, n: u64)`: y = x ⊙ SiLU(z).
    pub const GATE_FORWARD: &str = "silu_gate_forward_f32";
    /// `(x, z, dy, dx, dz: *f32, n: u64)`: dx = dy ⊙ SiLU(z), dz = dy ⊙ x ⊙ SiLU′(z).
    pub const GATE_BACKWARD: &str = "silu_gate_backward_f32";
}
