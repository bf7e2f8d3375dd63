use std::path::PathBuf;

use crate::pairs::{Ambiguous, PICTURE_EXTENSIONS};

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A folder that cannot be listed.
    #[error("cannot list the folder {}", folder.display())]
    List {
        /// The folder.
        folder: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A folder without pictures.
    #[error(
        "no pictures in {} ({skipped} other files): needs names that end in {}",
        folder.display(),
        PICTURE_EXTENSIONS.join(", ")
    )]
    NoPictures {
        /// The folder.
        folder: PathBuf,
        /// How many other files it has.
        skipped: usize,
    },
    /// Two folders of which no picture belongs to one of the other.
    #[error(
        "no pairs: needs one name, with or without the extension, in both folders; {} has {}, {} has {}",
        visible.display(), names[0], infrared.display(), names[1]
    )]
    NoPairs {
        /// The folder of visible images.
        visible: PathBuf,
        /// The folder of infrared images.
        infrared: PathBuf,
        /// The first names of each.
        names: [String; 2],
    },
    /// Two folders with no pair but such as could be made in several ways.
    #[error("no pairs: {0}")]
    Ambiguous(Ambiguous),
}

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;
