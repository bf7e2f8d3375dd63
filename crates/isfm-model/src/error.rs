use std::path::PathBuf;

use candle_core::DType;
use isfm_files::checkpoint::Difference;

use crate::{Config, Preset, Table};

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
    /// A configuration that is not JSON, or has keys or types that are not a configuration's.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// A configuration file that cannot be understood.
    #[error("cannot use the configuration file {}", path.display())]
    ConfigFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<Error>,
    },
    /// A preset's name that is not one.
    #[error("unknown preset {0:?}, needs {known}", known = Preset::ALL.map(|p| p.to_string()).join(", "))]
    UnknownPreset(String),
    /// The name of a table of ablations that is not one.
    #[error("unknown table {0:?}, needs {known}", known = Table::ALL.map(|t| t.to_string()).join(", "))]
    UnknownTable(String),
    /// A file that cannot be read, or that holds no weights or broken ones.
    #[error(transparent)]
    File(#[from] isfm_files::Error),
    /// A file that cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Weights that do not fit the configuration.
    #[error(
        "weights {origin} do not fit the configuration ({}):\n  {difference}{}",
        json(config),
        looks.as_ref().map_or(String::new(), |looks| {
            format!("\n  they look like the configuration {}", json(looks))
        })
    )]
    Mismatch {
        /// The file, or what stands for it.
        origin: String,
        /// The configuration they were held against.
        config: Box<Config>,
        /// Every difference.
        difference: Box<Difference>,
        /// The configuration that they look like, if any.
        looks: Option<Box<Config>>,
    },
    /// A weight that a type of elements cannot hold.
    #[error("{name} has the value {value:e}, which {dtype:?} cannot hold: store F32 or BF16")]
    Range {
        /// The weight's tensor.
        name: String,
        /// Its value.
        value: f32,
        /// The type.
        dtype: DType,
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

fn json(config: &Config) -> String {
    serde_json::to_string(config).unwrap_or_else(|_| format!("{config:?}"))
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

#[cfg(test)]
mod tests {
    use std::io;

    use isfm_testing::says_once;

    use super::*;

    #[test]
    fn each_cause_is_said_once() {
        let (path, text) = (|| PathBuf::from("a.json"), |text: &str| text.to_string());
        let json = || serde_json::from_str::<Config>("nothing").unwrap_err();
        let config = Config::from(Preset::Small);
        for error in [
            Error::Config { field: "expand", given: text("0"), needed: text("1") },
            Error::Json(json()),
            Error::ConfigFile { path: path(), source: Box::new(json().into()) },
            Error::UnknownPreset(text("huge")),
            Error::UnknownTable(text("XI")),
            Error::File(isfm_files::Error::Read {
                path: path(),
                source: io::Error::other("no disk"),
            }),
            Error::Write { path: path(), source: io::Error::other("disk full") },
            Error::Mismatch {
                origin: text("a.pth"),
                config: Box::new(config.clone()),
                difference: Box::default(),
                looks: Some(Box::new(config)),
            },
            Error::Range { name: text("bias"), value: 1e5, dtype: DType::F16 },
            Error::Input { what: "it", got: vec![1], needed: text("2") },
            Error::Candle(candle_core::Error::Msg(text("no kernel"))),
        ] {
            // No wildcard: a new variant belongs into the list above, too.
            match &error {
                Error::Json(_) | Error::ConfigFile { .. } => {
                    says_once(&error, &json().to_string());
                }
                Error::File(_) => says_once(&error, "no disk"),
                Error::Write { .. } => says_once(&error, "disk full"),
                Error::Candle(_) => says_once(&error, "no kernel"),
                Error::Config { .. }
                | Error::UnknownPreset(_)
                | Error::UnknownTable(_)
                | Error::Mismatch { .. }
                | Error::Range { .. }
                | Error::Input { .. } => says_once(&error, &error.to_string()),
            }
        }
    }
}
