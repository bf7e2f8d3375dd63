#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

/// Accessors of fields, by copy or by the method named.
macro_rules! read {
    ($($(#[$doc:meta])* $field:ident: $type:ty $(= $get:ident)?,)*) => {
        $($(#[$doc])* #[inline] pub fn $field(&self) -> $type { self.$field$(.$get())? })*
    };
}

pub mod conv;
pub mod haar;
mod launch;
mod map;
pub mod norm;
pub mod pointwise;
pub mod resize;
pub mod scan;
pub mod sums;
pub mod window;

pub use launch::{Arg, ConvSizes, Element, Launch, Limit, Need, Plan, ScanSizes, Type};
pub use map::Map;

macro_rules! sources {
    (
        modules { $($(#[$doc:meta])* $module:ident = $name:literal,)* }
        headers { $($header:literal),* }
    ) => {
        /// A CUDA C++ source of this crate.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Module {
            $($(#[$doc])* $module,)*
        }

        impl Module {
            /// Every source.
            pub const ALL: &[Self] = &[$(Self::$module),*];

            /// The source's file name without `.cu`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$module => $name,)*
                }
            }

            /// The text, for NVRTC or a compiler of your own. It includes [`HEADERS`].
            pub fn source(self) -> &'static str {
                match self {
                    $(Self::$module => include_str!(concat!($name, ".cu")),)*
                }
            }

            /// The PTX for the GPU that `CUDA_COMPUTE_CAP` or `nvidia-smi` named at build time.
            #[cfg(feature = "cuda")]
            pub fn ptx(self) -> &'static str {
                match self {
                    $(Self::$module => include_str!(concat!(env!("OUT_DIR"), "/", $name, ".ptx")),)*
                }
            }
        }

        /// The headers of the sources, as file name and text. For a compiler that is not CUDA's
        /// they include `host.hpp`, which the repository keeps with this crate's tests.
        pub const HEADERS: &[(&str, &str)] = &[$(($header, include_str!($header))),*];
    };
}
include!("sources.rs");
