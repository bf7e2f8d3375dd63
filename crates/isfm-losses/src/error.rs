use std::fmt::Debug;

use candle_core::DType;

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The three images are not of one shape.
    #[error("{op}: {}; needs one shape B×1×H×W for all three", of_three(got))]
    ShapeMismatch {
        /// The loss.
        op: &'static str,
        /// The shapes of the fused, the visible and the infrared image.
        got: [Vec<usize>; 3],
    },
    /// A shape that is not a batch of single-channel images.
    #[error("{op}: images are {got:?}, needs B×1×H×W with B, H and W at least 1")]
    Shape {
        /// The loss.
        op: &'static str,
        /// The shape given.
        got: Vec<usize>,
    },
    /// Element types that differ or that have no kernel.
    #[error("{op}: {}; needs F32 or F64, the same for all three", of_three(got))]
    DType {
        /// The loss.
        op: &'static str,
        /// The types of the fused, the visible and the infrared image.
        got: [DType; 3],
    },
    /// An error of Candle's own.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

fn of_three([fused, visible, infrared]: &[impl Debug; 3]) -> String {
    format!("fused is {fused:?}, visible {visible:?}, infrared {infrared:?}")
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
            Error::ShapeMismatch { .. } | Error::Shape { .. } | Error::DType { .. } => (),
        }
    }
}
