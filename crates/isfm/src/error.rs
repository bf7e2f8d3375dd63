use std::fmt;
use std::path::PathBuf;

use candle_core::{DType, DeviceLocation};

/// Which of the two images an error speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The visible image (or PET, SPECT, CT): the one whose colour is kept.
    Visible,
    /// The infrared image (or MRI): used as grey.
    Infrared,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Visible => "visible",
            Self::Infrared => "infrared",
        })
    }
}

/// What can go wrong in this crate.
///
/// No text repeats its `source()`: print the whole chain. A `problem` is part of the text and no
/// `source()`, because its own text has its causes in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An image without pixels.
    #[error("the {side} image is {width}x{height}: it has no pixels")]
    Empty {
        /// Which image.
        side: Side,
        /// Its width.
        width: usize,
        /// Its height.
        height: usize,
    },
    /// Two images that do not lie on each other.
    #[error(
        "the visible image is {}x{} but the infrared one is {}x{} (width x height): give images \
         of one size, or ask for the infrared one to be resized",
        visible.0, visible.1, infrared.0, infrared.1
    )]
    SizeMismatch {
        /// Width and height of the visible image.
        visible: (usize, usize),
        /// Width and height of the infrared image.
        infrared: (usize, usize),
    },
    /// A NaN or an infinity among the pixels.
    #[error(
        "the {side} image has a pixel that is not finite ({value} at {index}): such marks of pixels \
         without a value need one, for example the image's least"
    )]
    NotFinite {
        /// Which image.
        side: Side,
        /// The value.
        value: f32,
        /// Its place among the values, row by row.
        index: usize,
    },
    /// Values that are not in the range the network knows.
    #[error("the {side} tensor has the value {value}, needs values in [0, 1]")]
    OutOfRange {
        /// Which image.
        side: Side,
        /// The value.
        value: f32,
    },
    /// A tensor that is not one plane or a batch of planes.
    #[error("the {side} tensor is {got:?}, needs HxW, 1xHxW or Bx1xHxW")]
    TensorShape {
        /// Which image.
        side: Side,
        /// Its shape.
        got: Vec<usize>,
    },
    /// Two tensors of different shapes.
    #[error("the visible tensor is {visible:?} but the infrared one is {infrared:?}")]
    TensorShapes {
        /// Shape of the visible tensor.
        visible: Vec<usize>,
        /// Shape of the infrared tensor.
        infrared: Vec<usize>,
    },
    /// An element type the network does not compute in.
    #[error("{what} is {got:?}, needs {needed}")]
    DType {
        /// What has that type.
        what: &'static str,
        /// The type.
        got: DType,
        /// What would be right.
        needed: &'static str,
    },
    /// A device this build cannot use.
    #[error("{what} is on {got:?}, needs {needed}")]
    Device {
        /// What lies there.
        what: &'static str,
        /// The device.
        got: DeviceLocation,
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
        needed: String,
    },
    /// A memory limit that not even the smallest tile fits.
    #[error("the memory limit is {limit} bytes, but this image and this model need {needed}")]
    MemoryLimit {
        /// The limit, in bytes.
        limit: usize,
        /// The least that would do, in bytes.
        needed: usize,
    },
    /// A machine, a container or a process without enough memory left, or none that a limit of its own
    /// allows.
    #[error("not enough memory: {needed} bytes are needed, {left} are left to this process")]
    Memory {
        /// What is needed, in bytes.
        needed: usize,
        /// What there is, in bytes.
        left: usize,
    },
    /// Neither weights given nor weights inside.
    #[error(
        "no weights: this build has none inside (feature `embedded-weights`), so name a file or \
         give a checkpoint"
    )]
    NoWeights,
    /// A configuration for which only other weights are inside.
    #[error(
        "the embedded weights are of the configuration {embedded}, not {wanted}: name a weights \
         file too"
    )]
    NotEmbedded {
        /// The configuration of the embedded weights.
        embedded: String,
        /// The configuration asked for.
        wanted: String,
    },
    /// Weights that made a fused image which is not finite.
    #[error("the network gave a value that is not finite: its weights are damaged")]
    NotFiniteOutput,
    /// An image file that cannot be read.
    #[error("cannot read the image {}: {problem}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: image::ImageError,
    },
    /// An image file that cannot be written.
    #[error("cannot write the image {}: {problem}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        problem: image::ImageError,
    },
    /// An extension that names no picture format this crate writes.
    #[error(
        "cannot write {}: its extension names no format known here ({})",
        .0.display(), isfm_files::PICTURE_EXTENSIONS.join(", ")
    )]
    Format(PathBuf),
    /// Threads that could not be started.
    #[error("cannot start {threads} threads: {problem}")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// What went wrong.
        problem: rayon::ThreadPoolBuildError,
    },
    /// An error of the network's or its weights' (with the file's name).
    #[error(transparent)]
    Model(#[from] isfm_model::Error),
    /// An alignment that cannot be read, or is for pictures of other sizes.
    #[error(transparent)]
    Alignment(#[from] isfm_align::Error),
    /// An error of Candle's.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

#[cfg(test)]
mod tests {
    use std::io;

    use image::error::{DecodingError, ImageError};

    use super::*;

    /// One of each.
    fn every_variant() -> Vec<Error> {
        let (side, path) = (Side::Visible, PathBuf::from("a.png"));
        let text = |text: &str| text.to_string();
        let image = |problem| {
            let format = image::ImageFormat::Png.into();
            ImageError::Decoding(DecodingError::new(format, io::Error::other(problem)))
        };
        let threads =
            rayon::ThreadPoolBuilder::new().spawn_handler(|_| Err(io::Error::other("no thread")));
        vec![
            Error::Empty { side, width: 0, height: 3 },
            Error::SizeMismatch { visible: (1, 2), infrared: (3, 4) },
            Error::NotFinite { side, value: f32::NAN, index: 5 },
            Error::OutOfRange { side, value: 2. },
            Error::TensorShape { side, got: vec![1] },
            Error::TensorShapes { visible: vec![1], infrared: vec![2] },
            Error::DType { what: "it", got: DType::U8, needed: "F32" },
            Error::Device { what: "it", got: DeviceLocation::Cpu, needed: "a GPU" },
            Error::Option { what: "it", got: text("3"), needed: text("4") },
            Error::MemoryLimit { limit: 1, needed: 2 },
            Error::Memory { needed: 2, left: 1 },
            Error::NoWeights,
            Error::NotEmbedded { embedded: text("a"), wanted: text("b") },
            Error::NotFiniteOutput,
            Error::Read { path: path.clone(), problem: image("no header") },
            Error::Write { path: path.clone(), problem: image("disk full") },
            Error::Format(path),
            Error::Threads { threads: 1, problem: threads.build().unwrap_err() },
            Error::Model(isfm_model::Error::UnknownPreset(text("huge"))),
            Error::Alignment(isfm_align::Error::Channels(7)),
            Error::Candle(candle_core::Error::Msg(text("no kernel"))),
        ]
    }

    #[test]
    fn a_chain_names_each_cause_once() {
        for error in every_variant() {
            // No wildcard: a new variant belongs into the list above, too.
            #[rustfmt::skip]
            let cause = match error {
                Error::Read { .. } => "no header",
                Error::Write { .. } => "disk full",
                Error::Threads { .. } => "no thread",
                Error::Model(_) => "huge",
                Error::Alignment(_) => "7 values",
                Error::Candle(_) => "no kernel",
                Error::Empty { .. } | Error::SizeMismatch { .. } | Error::NotFinite { .. }
                | Error::OutOfRange { .. } | Error::TensorShape { .. } | Error::TensorShapes { .. }
                | Error::DType { .. } | Error::Device { .. } | Error::Option { .. }
                | Error::MemoryLimit { .. } | Error::Memory { .. } | Error::NoWeights
                | Error::NotEmbedded { .. } | Error::NotFiniteOutput | Error::Format(_) => &error.to_string(),
            };
            isfm_testing::says_once(&error, cause);
        }
    }
}
