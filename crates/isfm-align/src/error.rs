//! What can go wrong.

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
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;
