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
    /// A file that cannot be opened or read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file that holds no weights, or broken ones, or others than it should.
    #[error("weights {origin}: {message}")]
    Weights {
        /// The file, or what stands for it.
        origin: String,
        /// All that is wrong with it.
        message: String,
    },
    /// Two folders with no pair but such as could be made in several ways.
    #[error("no pairs: {0}")]
    Ambiguous(Ambiguous),
}

impl Error {
    /// [`Error::Weights`].
    pub fn weights(origin: &str, message: String) -> Self {
        Self::Weights { origin: origin.to_string(), message }
    }
}

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// With the text of the source too, since Candle's error keeps only a text.
impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        match std::error::Error::source(&error) {
            Some(source) => Self::Msg(format!("{error}: {source}")),
            None => Self::Msg(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use isfm_testing::says_once;

    use super::*;

    #[test]
    fn each_cause_is_said_once() {
        let (path, text) = (|| PathBuf::from("a.png"), || "b".to_string());
        for error in [
            Error::List { folder: path(), source: io::Error::other("no permission") },
            Error::NoPictures { folder: path(), skipped: 3 },
            Error::NoPairs { visible: path(), infrared: path(), names: [text(), text()] },
            Error::Read { path: path(), source: io::Error::other("no disk") },
            Error::weights("a.pth", "cut off".to_string()),
            Error::Ambiguous(Ambiguous { visible: vec![path()], infrared: vec![path()] }),
        ] {
            // No wildcard: a new variant belongs into the list above, too.
            match &error {
                Error::List { .. } => says_once(&error, "no permission"),
                Error::Read { .. } => says_once(&error, "no disk"),
                Error::NoPictures { .. }
                | Error::NoPairs { .. }
                | Error::Weights { .. }
                | Error::Ambiguous(_) => says_once(&error, &error.to_string()),
            }
        }
    }
}
