use std::path::{Path, PathBuf};

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration that cannot be a network.
    #[error("configuration: {field} is {given}, needs {needed}")]
    Config {
        /// The field.
        field: &'static str,
        /// The value given.
        given: String,
        /// What would be right.
        needed: String,
    },
    /// A configuration file that cannot be understood.
    #[error("configuration file {}: {message}", path.display())]
    ConfigFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A preset's name that is not one.
    #[error("unknown preset {0:?}: {known}", known = crate::Config::presets().collect::<Vec<_>>().join(", "))]
    UnknownPreset(String),
    /// A file that could not be opened, read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// "read" or "write".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file that holds no weights, or broken ones.
    #[error("weights {origin}: {message}")]
    Weights {
        /// The file, or what stands for it.
        origin: String,
        /// What is wrong with it.
        message: String,
    },
    /// Weights that do not fit the configuration, every difference named.
    #[error("weights {origin} do not fit the configuration ({config}):{differences}")]
    Mismatch {
        /// The file, or what stands for it.
        origin: String,
        /// The configuration they were held against.
        config: String,
        /// Missing, unexpected and mis-shaped tensors, one a line.
        differences: String,
    },
    /// Input images of a shape the network cannot take.
    #[error("{what} is {got:?}, needs {needed}")]
    Input {
        /// Which input.
        what: &'static str,
        /// The shape given.
        got: Vec<usize>,
        /// The shape that would be right.
        needed: String,
    },
    /// An error of Candle's own.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_path_buf(), source }
    }
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;
