use candle_core::DType;

use crate::simd::Level;

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A shape an operation cannot take.
    #[error("{op}: {what} is {got}, needs {needed}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// Which argument.
        what: &'static str,
        /// The shape or size given.
        got: String,
        /// The shape or size that would be right.
        needed: String,
    },
    /// An element type without a kernel.
    #[error("{op}: elements are {got:?}, needs {needed}")]
    DType {
        /// The operation.
        op: &'static str,
        /// The type given.
        got: DType,
        /// The types that the device has kernels for.
        needed: &'static str,
    },
    /// Sizes beyond what a CUDA kernel takes.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    CudaLimit(isfm_kernels::Limit),
    /// Arguments of different element types.
    #[error("{op}: {what} has elements {got:?}, needs {needed:?} as the input has")]
    DTypeMismatch {
        /// The operation.
        op: &'static str,
        /// Which argument.
        what: &'static str,
        /// The type given.
        got: DType,
        /// The input's type.
        needed: DType,
    },
    /// A SIMD level's name that is not one.
    #[error("unknown SIMD level {0:?}: portable, avx2 or avx512")]
    UnknownSimdLevel(String),
    /// A SIMD level beyond the processor.
    #[error("SIMD level {asked:?} is not available: this processor has {detected:?}")]
    SimdLevelUnavailable {
        /// The level asked for.
        asked: Level,
        /// The widest the processor has.
        detected: Level,
    },
    /// An error of Candle's own.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

impl From<Error> for candle_core::Error {
    fn from(e: Error) -> Self {
        match e {
            Error::Candle(e) => e,
            e => candle_core::Error::wrap(e),
        }
    }
}
