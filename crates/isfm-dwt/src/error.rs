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
    /// An element type without a kernel.
    #[error("{op}: elements are {got:?}, needs F16, F32 or F64")]
    DType {
        /// The transform.
        op: &'static str,
        /// The type given.
        got: candle_core::DType,
    },
    /// More levels than the size allows.
    #[error("{op}: {levels} levels of {size}, needs at most {most}")]
    Levels {
        /// The transform.
        op: &'static str,
        /// The levels asked for.
        levels: usize,
        /// The size given: a length, or height × width.
        size: String,
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
    /// A name that no wavelet of this crate has.
    #[error(
        "no wavelet is called {0:?}: there are haar, db1 to db20, sym2 to sym20, coif1 to coif5, \
         and bior and rbio 1.1 to 6.8 (Wavelet::names lists them)"
    )]
    UnknownWavelet(String),
    /// A node that a wavelet packet tree does not have.
    #[error("wavelet packet: node {path:?} {problem}")]
    Node {
        /// The node's path from the root.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An error from Candle.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl Error {
    /// [`Error::Shape`] for a tensor of the wrong shape.
    pub(crate) fn shape(
        op: &'static str,
        what: &'static str,
        got: &candle_core::Tensor,
        needed: String,
    ) -> Self {
        Self::Shape { op, what, got: format!("{:?}", got.dims()), needed }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_said_once() {
        let error = Error::Candle(candle_core::Error::Msg("no kernel".to_string()));
        match error {
            // No wildcard: a new variant with a cause belongs here, too.
            Error::Candle(_) => isfm_testing::says_once(&error, "no kernel"),
            Error::Shape { .. }
            | Error::DType { .. }
            | Error::Levels { .. }
            | Error::Filters { .. }
            | Error::UnknownWavelet(_)
            | Error::Node { .. } => (),
        }
    }
}
