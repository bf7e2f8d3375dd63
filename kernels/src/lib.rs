#![doc = include_str!("../README.md")]

mod launch;
pub mod map;
pub mod pointwise;
pub mod scan;

pub use launch::{Arg, ConvSizes, Element, Launch, Limit, Need, Plan, ScanSizes, Type};

/// A CUDA C++ source of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Module {
    /// Dense convolution.
    Conv,
    /// The Haar transform.
    Haar,
    /// Layer norm.
    Norm,
    /// SiLU, gates and scaled sums.
    Pointwise,
    /// Bilinear resize.
    Resize,
    /// The selective scan.
    Scan,
    /// Sums over rows.
    Sums,
    /// Depth-wise convolution and pools.
    Window,
}

impl Module {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Conv,
        Self::Haar,
        Self::Norm,
        Self::Pointwise,
        Self::Resize,
        Self::Scan,
        Self::Sums,
        Self::Window,
    ];

    /// The source's file name without `.cu`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Conv => "conv",
            Self::Haar => "haar",
            Self::Norm => "norm",
            Self::Pointwise => "pointwise",
            Self::Resize => "resize",
            Self::Scan => "scan",
            Self::Sums => "sums",
            Self::Window => "window",
        }
    }

    /// The text, for NVRTC or a compiler of your own. It includes [`HEADERS`].
    pub fn source(self) -> &'static str {
        match self {
            Self::Conv => include_str!("conv.cu"),
            Self::Haar => include_str!("haar.cu"),
            Self::Norm => include_str!("norm.cu"),
            Self::Pointwise => include_str!("pointwise.cu"),
            Self::Resize => include_str!("resize.cu"),
            Self::Scan => include_str!("scan.cu"),
            Self::Sums => include_str!("sums.cu"),
            Self::Window => include_str!("window.cu"),
        }
    }

    /// The PTX for the GPU that `CUDA_COMPUTE_CAP` or `nvidia-smi` named at build time.
    #[cfg(feature = "cuda")]
    pub fn ptx(self) -> &'static str {
        macro_rules! built {
            ($name:literal) => {
                include_str!(concat!(env!("OUT_DIR"), "/", $name, ".ptx"))
            };
        }
        match self {
            Self::Conv => built!("conv"),
            Self::Haar => built!("haar"),
            Self::Norm => built!("norm"),
            Self::Pointwise => built!("pointwise"),
            Self::Resize => built!("resize"),
            Self::Scan => built!("scan"),
            Self::Sums => built!("sums"),
            Self::Window => built!("window"),
        }
    }
}

/// The headers of the sources, as file name and text. `host.hpp` is only included where the compiler
/// is not CUDA's.
pub const HEADERS: [(&str, &str); 4] = [
    ("host.hpp", include_str!("host.hpp")),
    ("map.cuh", include_str!("map.cuh")),
    ("portable.cuh", include_str!("portable.cuh")),
    ("scan.cuh", include_str!("scan.cuh")),
];
