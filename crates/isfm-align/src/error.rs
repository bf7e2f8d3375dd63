//! What can go wrong.

use std::fmt;
use std::path::PathBuf;

use crate::Sizes;

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A picture without pixels, or with too many.
    #[error("a picture of {width}x{height}; needs sides of 1 to {}", crate::Image::<u8>::MOST)]
    Size {
        /// Its width.
        width: usize,
        /// Its height.
        height: usize,
    },
    /// Pixels of another number of values.
    #[error("{0} values a pixel; needs 1 to 4: grey, grey and alpha, RGB, or RGB and alpha")]
    Channels(usize),
    /// Data that do not fill the picture.
    #[error(
        "{got} values for a picture of {width}x{height} with {channels} a pixel; needs width times \
         height times {channels} of them"
    )]
    Length {
        /// How many values were given.
        got: usize,
        /// The width given.
        width: usize,
        /// The height given.
        height: usize,
        /// The values of a pixel.
        channels: usize,
    },
    /// Numbers that make no homography.
    #[error("the homography is {got:?}, needs {needed}")]
    Matrix {
        /// The numbers.
        got: Vec<f64>,
        /// What would be right.
        needed: &'static str,
    },
    /// An option outside its range.
    #[error("{what} is {got}, needs {needed}")]
    Option {
        /// Which option.
        what: &'static str,
        /// Its value.
        got: String,
        /// What would be right.
        needed: &'static str,
    },
    /// Nothing to estimate from.
    #[error("no pairs of pictures to align: needs one or more")]
    NoPairs,
    /// Pictures of another size than the others or than the alignment.
    #[error(
        "{what}: visible {}x{} and infrared {}x{}, needs {}x{} and {}x{}",
        got.visible.0, got.visible.1, got.infrared.0, got.infrared.1,
        needed.visible.0, needed.visible.1, needed.infrared.0, needed.infrared.1
    )]
    Sizes {
        /// What has the sizes.
        what: String,
        /// They.
        got: Sizes,
        /// What would be right.
        needed: Sizes,
    },
    /// An alignment that is a bare matrix, where sizes of pictures are needed.
    #[error("the alignment is a matrix without the sizes of its pictures: needs them too")]
    NoSizes,
    /// No alignment that can be trusted.
    #[error("no alignment: {reason} ({pairs} {}). {}", if *pairs == 1 { "pair" } else { "pairs" }, reason.advice())]
    Refused {
        /// Why.
        reason: Refusal,
        /// How many pairs were given.
        pairs: usize,
    },
    /// Points that give no alignment.
    #[error("{got} points: {problem}")]
    Points {
        /// How many points were given.
        got: usize,
        /// What is wrong with them.
        problem: String,
    },
    /// A text that is no alignment.
    #[error(
        "the alignment is {got}, needs JSON: nine numbers row by row, or an object with them as \"matrix\""
    )]
    Json {
        /// What it is.
        got: String,
    },
    /// A file that cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file that is no alignment.
    #[error("{}", path.display())]
    In {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<Error>,
    },
    /// A file that cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

/// Why there is no alignment.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Refusal {
    /// One of the pictures has no edges, or the search led out of the picture.
    NoStructure,
    /// The pictures agree nowhere better than two of different scenes.
    NoAgreement {
        /// In standard deviations; [`Alignment::LEAST_SIGNIFICANCE`](crate::Alignment::LEAST_SIGNIFICANCE) is
        /// needed.
        significance: f64,
    },
    /// They agree, but not well enough to say where the corners lie.
    Uncertain {
        /// The corners' expected error, in visible pixels.
        error: f64,
        /// The largest that is accepted.
        largest: f64,
    },
}

impl Refusal {
    /// What to do.
    fn advice(&self) -> &'static str {
        match self {
            Self::NoStructure | Self::NoAgreement { .. } => {
                "Give more frames of the same rig, of scenes whose edges both cameras see (buildings, trees, \
                 cars; far things, no wall or night sky), or mark four points by hand"
            }
            Self::Uncertain { .. } => {
                "Give more frames of the same rig with structure up to the borders, ask for a simpler model \
                 (similarity), accept a larger error, or mark four points by hand"
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoStructure => f.write_str("the pictures have no edges to align by"),
            Self::NoAgreement { significance } => write!(
                f,
                "the edges of the two pictures agree nowhere beyond chance (significance {significance:.1}, needs {})",
                crate::Alignment::LEAST_SIGNIFICANCE
            ),
            Self::Uncertain { error, largest } => write!(
                f,
                "the corners are known to {error:.1} pixels only, and {largest:.1} are accepted"
            ),
        }
    }
}
/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;
