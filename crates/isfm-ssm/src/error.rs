use candle_core::DType;

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
    /// Inputs of one operation whose element types differ.
    #[error("{op}: {what} has elements {got:?}, the other inputs {needed:?}")]
    MixedDTypes {
        /// The operation.
        op: &'static str,
        /// Which argument.
        what: &'static str,
        /// The type given.
        got: DType,
        /// The type of the first input.
        needed: DType,
    },
    /// A configuration value that makes no sense.
    #[error("{of}: {field} is {got}, needs {needed}")]
    Config {
        /// The configuration's type.
        of: &'static str,
        /// The field.
        field: &'static str,
        /// The value given.
        got: usize,
        /// What would be right.
        needed: &'static str,
    },
    /// A scan order that does not visit every position once.
    #[error("scan order of {height}×{width}: {message}")]
    Order {
        /// Rows of the map.
        height: usize,
        /// Columns of the map.
        width: usize,
        /// What is wrong.
        message: String,
    },
    /// A file of weights that is broken or does not hold what it should.
    #[error("{origin}: {message}")]
    Weights {
        /// The file, or who made the tensors.
        origin: String,
        /// All that is wrong.
        message: String,
    },
    /// An error of `isfm-ops`.
    #[error(transparent)]
    Ops(#[from] isfm_ops::Error),
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
            Error::Ops(e) => e.into(),
            e => candle_core::Error::wrap(e),
        }
    }
}
