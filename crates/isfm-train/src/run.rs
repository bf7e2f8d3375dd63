use std::path::{Path, PathBuf};

use isfm_model::{Config, Preset};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{Corrupt, DataSet, Error, PairFolder, Result, TrainConfig};

/// A whole run in one file, TOML or JSON:
///
/// ```toml
/// corrupt = "skip"        # `Corrupt`: refuse, skip or skip:N; before the sections
///
/// [model]                 # a preset, or the fields of `isfm_model::Config`
/// preset = "small"
///
/// [train]                 # the fields of `TrainConfig`; the authors' values where left out
/// steps = 20000
/// augment = { crops = true, flips = 0.5 }
///
/// [[data]]                # one or more
/// folder = "msrs"         # as `PairFolder::open` takes it
/// share = 2               # 1 unless given
///
/// [validation]            # the fields of `Validation`; without the section there is none
/// every = 500
/// ```
///
/// Every section may be left out. Folders are relative to the current directory.
#[derive(Clone, Debug, PartialEq)]
pub struct RunFile {
    /// The model.
    pub model: Option<Config>,
    /// The settings, validation included.
    pub train: TrainConfig,
    /// The folders.
    pub data: Vec<RunData>,
    /// What becomes of pairs that cannot be trained on.
    pub corrupt: Option<Corrupt>,
    text: String,
}

/// One folder of a [`RunFile`].
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunData {
    /// What [`PairFolder::open`] opens.
    pub folder: PathBuf,
    /// Its share of the samples; only the ratios count.
    #[serde(default = "one")]
    pub share: f64,
}

fn one() -> f64 {
    1.
}

impl RunFile {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, or as [`RunFile::parse`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = isfm_files::read_text(path).map_err(Error::io(path))?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// Understands a file's content: JSON if it begins with `{`, else TOML. `origin` names it in
    /// errors.
    ///
    /// # Errors
    /// [`Error::RunFile`] if it is neither, or names a key that is not known; [`Error::Setting`]
    /// for values out of range.
    pub fn parse(origin: &str, text: &str) -> Result<Self> {
        let wrong = |problem: String| Error::RunFile { origin: origin.to_string(), problem };
        let text = isfm_files::without_mark(text);
        let sections: Map<String, Value> = if text.trim_start().starts_with('{') {
            serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?
        } else {
            toml::from_str(text).map_err(|e| wrong(e.to_string()))?
        };
        let mut file = Self {
            model: None,
            train: TrainConfig::default(),
            data: Vec::new(),
            corrupt: None,
            text: text.into(),
        };
        let mut validation = None;
        for (key, value) in sections {
            match key.as_str() {
                "model" => file.model = Some(model(value).map_err(wrong)?),
                "train" => file.train = section(&key, value).map_err(wrong)?,
                "data" => file.data = section(&key, value).map_err(wrong)?,
                "corrupt" => file.corrupt = Some(section(&key, value).map_err(wrong)?),
                "validation" => validation = Some(section(&key, value).map_err(wrong)?),
                key => {
                    let needed = "model, train, data, validation or corrupt";
                    return Err(wrong(format!("unknown key `{key}`, needs {needed}")));
                }
            }
        }
        if validation.is_some() && file.train.validation.is_some() {
            return Err(wrong("`validation` is given twice, in `train` too".into()));
        }
        file.train.validation = file.train.validation.or(validation);
        file.train.validate()?;
        Ok(file)
    }

    /// The content as it was read.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Opens the folders; each keeps an equal part of `cache_bytes` of decoded images in memory.
    ///
    /// # Errors
    /// As [`PairFolder::open`] and [`DataSet::mixture`].
    pub fn open_data(&self, cache_bytes: usize) -> Result<DataSet> {
        let each = cache_bytes / self.data.len().max(1);
        let open = |RunData { folder, share }: &RunData| {
            Ok((PairFolder::open(folder)?.cache_bytes(each), *share))
        };
        DataSet::mixture(self.data.iter().map(open).collect::<Result<_>>()?)
    }
}

fn section<T: DeserializeOwned>(key: &str, value: Value) -> std::result::Result<T, String> {
    serde_json::from_value(value).map_err(|e| format!("`{key}`: {e}"))
}

fn model(value: Value) -> std::result::Result<Config, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Named {
        preset: String,
    }
    let config = if value.get("preset").is_some() {
        let name = section::<Named>("model", value)?.preset;
        name.parse::<Preset>().map_err(|e| format!("`model.preset`: {e}"))?.into()
    } else {
        // An object first: serde would take an empty array for a struct of defaults.
        section::<Map<_, _>>("model", value).and_then(|m| section::<Config>("model", m.into()))?
    };
    config.validate().map_err(|e| format!("`model`: {e}"))?;
    Ok(config)
}
