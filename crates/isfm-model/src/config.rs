//! The network's configuration and its presets.

use isfm_ssm::Ss2dConfig;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The shape of an ISFM network. Everything else (D, R, channel counts) is derived.
///
/// In JSON every field may be left out and then has the paper's value; the keys `batch`, `height`
/// and `width`, which test cases carry beside the configuration, are ignored; any other key is an
/// error.
///
/// ```
/// let config: isfm_model::Config = serde_json::from_str(r#"{"embed_dim": 32, "depths": [1, 1]}"#)?;
/// assert_eq!((config.d_state, config.dt_rank()), (16, 2));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Json")]
pub struct Config {
    /// C: channels of the feature maps; a multiple of 4 (the gating squeezes to C/4).
    pub embed_dim: usize,
    /// One entry per fusion layer: its number of FGM blocks. Every VSSM group has `depths[0]`
    /// blocks, as in the released program.
    pub depths: Vec<usize>,
    /// N: states per channel of the selective scan.
    pub d_state: usize,
    /// η: the scan's channels are D = ηC.
    pub expand: usize,
}

impl Default for Config {
    /// The paper's configuration.
    fn default() -> Self {
        Self { embed_dim: 128, depths: vec![1; 4], d_state: 16, expand: 2 }
    }
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Json {
    embed_dim: usize,
    depths: Vec<usize>,
    d_state: usize,
    expand: usize,
    #[serde(rename = "batch")]
    _batch: serde::de::IgnoredAny,
    #[serde(rename = "height")]
    _height: serde::de::IgnoredAny,
    #[serde(rename = "width")]
    _width: serde::de::IgnoredAny,
}

impl Default for Json {
    fn default() -> Self {
        let Config { embed_dim, depths, d_state, expand } = Config::default();
        let ignored = serde::de::IgnoredAny;
        Self {
            embed_dim,
            depths,
            d_state,
            expand,
            _batch: ignored,
            _height: ignored,
            _width: ignored,
        }
    }
}

impl TryFrom<Json> for Config {
    type Error = Error;

    fn try_from(json: Json) -> Result<Self> {
        let Json { embed_dim, depths, d_state, expand, .. } = json;
        let config = Self { embed_dim, depths, d_state, expand };
        config.validate()?;
        Ok(config)
    }
}

const PRESETS: [(&str, usize, usize, usize); 3] =
    // Name, C, K (of depth 1 each), N.
    [("small", 16, 2, 8), ("base", 48, 3, 16), ("paper", 128, 4, 16)];

impl Config {
    /// The names [`Config::preset`] knows, smallest first.
    pub fn presets() -> impl Iterator<Item = &'static str> {
        PRESETS.iter().map(|p| p.0)
    }

    /// A named configuration: `small` (the embedded weights'), `base` (between the two, for
    /// training on one GPU), `paper` (9.15 M parameters).
    ///
    /// # Errors
    /// [`Error::UnknownPreset`] for any other name.
    pub fn preset(name: &str) -> Result<Self> {
        let found = PRESETS.iter().find(|p| p.0 == name);
        let &(_, embed_dim, layers, d_state) =
            found.ok_or_else(|| Error::UnknownPreset(name.to_string()))?;
        Ok(Self { embed_dim, depths: vec![1; layers], d_state, expand: 2 })
    }

    /// Reads a configuration from a JSON file.
    ///
    /// # Errors
    /// If the file cannot be read, is not JSON, has an unknown key or a value out of range.
    pub fn read(path: impl AsRef<std::path::Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        // An object first: serde would take an empty array for a struct of defaults.
        let object = serde_json::from_str::<serde_json::Map<_, _>>(&text);
        object
            .and_then(|object| serde_json::from_value(object.into()))
            .map_err(|e| Error::ConfigFile { path: path.to_path_buf(), message: e.to_string() })
    }

    /// Refuses what cannot be a network: a width that is no multiple of 4, no layers, a zero, or a
    /// number beyond any that makes sense (which is then a typing error, and would fill the memory).
    ///
    /// # Errors
    /// [`Error::Config`], naming the field, its value and its range.
    pub fn validate(&self) -> Result<()> {
        let check = |field: &'static str, value: usize, most: usize| {
            if (1..=most).contains(&value) {
                return Ok(());
            }
            Err(Error::Config { field, given: value.to_string(), needed: format!("1 to {most}") })
        };
        check("embed_dim", self.embed_dim, 1024)?;
        if !self.embed_dim.is_multiple_of(4) {
            let given = self.embed_dim.to_string();
            let needed = "a multiple of 4".to_string();
            return Err(Error::Config { field: "embed_dim", given, needed });
        }
        check("length of depths", self.depths.len(), 16)?;
        for &depth in &self.depths {
            check("entry of depths", depth, 16)?;
        }
        check("d_state", self.d_state, 256)?;
        check("expand", self.expand, 8)
    }

    /// K: the number of fusion layers.
    pub fn layers(&self) -> usize {
        self.depths.len()
    }

    /// D = ηC: channels of the selective scan.
    pub fn d_inner(&self) -> usize {
        self.expand * self.embed_dim
    }

    /// R = ⌈C/16⌉: the rank of the scan's dt.
    pub fn dt_rank(&self) -> usize {
        self.embed_dim.div_ceil(16)
    }

    pub(crate) fn ss2d(&self) -> Ss2dConfig {
        Ss2dConfig {
            d_model: self.embed_dim,
            d_state: self.d_state,
            expand: self.expand,
            dt_rank: Some(self.dt_rank()),
        }
    }
}
