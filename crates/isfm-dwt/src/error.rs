/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A shape a transform cannot take.
    #[error("{op}: {what} is {got}, needs {needed}")]
    Shape {
        /// The transform.
        op: &'static str,
        /// Which argument.
        what: &'static str,
        /// The shape or size given.
        got: String,
        /// The shape or size that would be right.
        needed: String,
    },
    /// More levels than the size allows.
    #[error("wavedec2: {levels} levels of {height}x{width}, needs at most {most}")]
    Levels {
        /// The levels asked for.
        levels: usize,
        /// The height given.
        height: usize,
        /// The width given.
        width: usize,
        /// The most levels this size has.
        most: usize,
    },
    /// Filters that are no wavelet.
    #[error("wavelet {name:?}: {problem}")]
    Filters {
        /// The wavelet's name.
        name: String,
        /// What is wrong with them.
        problem: String,
    },
    /// An error of the tensor operations.
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
