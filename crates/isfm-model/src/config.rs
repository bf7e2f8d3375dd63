//! The network's configuration and its presets.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use isfm_blocks::{BlockKind, GateSource, MffParts};
use isfm_ssm::{Directions, Ss2dConfig};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The shape of an ISFM network. Everything else (D, R, channel counts) is derived.
///
/// In JSON every field may be left out and then has the paper's value; any other key is an error.
/// [`Config::from_json`] also checks the values, as building a network does.
///
/// ```
/// use isfm_model::{Config, Preset};
/// let config = Config::from_json(r#"{"embed_dim": 32, "depths": [1, 1]}"#)?;
/// assert_eq!((config.d_state, config.dt_rank()), (16, 2));
/// assert_eq!(Config::from("paper".parse::<Preset>()?), Config::default());
/// # Ok::<(), isfm_model::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
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
    /// What the network is made of: by default everything, as in the paper.
    #[serde(skip_serializing_if = "Modules::is_default")]
    pub modules: Modules,
    /// Where the network works: by default on the pictures themselves.
    #[serde(skip_serializing_if = "Pyramid::is_default")]
    pub pyramid: Pyramid,
}

/// What a network is made of. The default is the paper's; the others are those of its ablations
/// ([`Table`](crate::Table)), whose tensors have the released names where they have the same role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Modules {
    /// How both sources' deep features become maps for the reconstruction.
    pub spatial: Spatial,
    /// Whether each layer's frequency map (eq. 12) goes into the reconstruction.
    pub frequency: bool,
    /// Whether the low band is fused by an LFFB, or only summed.
    pub lffb: bool,
    /// Whether the high bands are fused by an HFFB, or only summed.
    pub hffb: bool,
    /// The directions of every scan.
    pub directions: Directions,
}

impl Default for Modules {
    fn default() -> Self {
        let directions = Directions::All;
        Self { spatial: Spatial::Fgm, frequency: true, lffb: true, hffb: true, directions }
    }
}

/// How the deep features of both sources are fused (the paper's Tables III to V).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spatial {
    /// FGM blocks with gates by FGG.
    #[default]
    Fgm,
    /// FGM blocks with gates that the frequencies alone make.
    FgmFrequencyGate,
    /// FGM blocks with gates that the sources alone make: no interaction with the frequencies.
    FgmOwnGate,
    /// Cross-attention in the place of FGM.
    CrossAttention,
    /// Concatenation and a fully connected layer in the place of FGM.
    ConcatLinear,
    /// Element-wise addition in the place of FGM: one map, as every layer's would be the same.
    Sum,
    /// Nothing: the features of both extractors go into the reconstruction side by side.
    Concatenate,
}

impl Spatial {
    /// The blocks of its layers, if it has layers.
    pub(crate) fn block(self) -> Option<BlockKind> {
        match self {
            Self::Fgm => Some(BlockKind::Fgm(GateSource::Both)),
            Self::FgmFrequencyGate => Some(BlockKind::Fgm(GateSource::Frequency)),
            Self::FgmOwnGate => Some(BlockKind::Fgm(GateSource::Spatial)),
            Self::CrossAttention => Some(BlockKind::CrossAttention),
            Self::ConcatLinear => Some(BlockKind::ConcatLinear),
            Self::Sum | Self::Concatenate => None,
        }
    }
}

impl Modules {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The parts of a frequency layer, if anything reads what it gives.
    pub(crate) fn mff(&self) -> Option<MffParts> {
        let Self { frequency: map, lffb, hffb, .. } = *self;
        let guides = matches!(self.spatial, Spatial::Fgm | Spatial::FgmFrequencyGate);
        (map || guides).then_some(MffParts { lffb, hffb, map })
    }

    /// Maps of C channels that the spatial side gives the reconstruction, for K layers.
    pub(crate) fn spatial_maps(&self, layers: usize) -> usize {
        match self.spatial {
            Spatial::Sum => 1,
            Spatial::Concatenate => 2,
            _ => layers,
        }
    }

    /// Maps of C channels that the reconstruction reads, for K layers.
    pub(crate) fn maps(&self, layers: usize) -> usize {
        self.spatial_maps(layers) + if self.frequency { layers } else { 0 }
    }

    fn validate(&self) -> Result<()> {
        if self.mff().is_some() {
            return Ok(());
        }
        let check = |field, is: bool| {
            let needed = "true where nothing reads the frequency bands: \
                          modules.frequency is false, and modules.spatial is neither fgm nor \
                          fgm-frequency-gate";
            let (given, needed) = ("false".to_string(), needed.to_string());
            if is { Ok(()) } else { Err(Error::Config { field, given, needed }) }
        };
        check("modules.lffb", self.lffb)?;
        check("modules.hffb", self.hffb)
    }
}

/// The pyramid around the network ([`PyramidFusion`](crate::PyramidFusion)), an extension of the
/// paper. By default there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pyramid {
    /// L: the network sees pictures of 1/4ᴸ of the pixels; the detail above them is merged by its
    /// energy.
    pub levels: usize,
    /// Whether the network gives maps that decide how bases and details are merged, instead of the
    /// fused base.
    pub gates: bool,
    /// With gates: on how many levels more the bases themselves are taken apart and merged.
    pub deeper: usize,
}

impl Pyramid {
    /// The most levels that make sense: a picture of 4096 pixels has a base of 16.
    pub const MAX_LEVELS: usize = 8;

    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Maps that the network gives: without gates the fused picture alone; with them the weight of
    /// the base and the share of its weighting, then for each level, the finest first, a preference
    /// and a gain ([`fuse_bases`](Self::fuse_bases), [`fuse_details`](Self::fuse_details)).
    pub fn outputs(&self) -> usize {
        if self.gates { 2 + 2 * (self.levels + self.deeper) } else { 1 }
    }

    /// What gates are at first: no preference, both ways of merging bases in equal shares, details
    /// that differ enlarged by a twentieth above the network and an eighth below it.
    pub(crate) fn initial_gates(&self) -> Vec<f32> {
        let fine = [0., 0.1].into_iter().cycle().take(2 * self.levels);
        let deep = [0., 0.25].into_iter().cycle().take(2 * self.deeper);
        [0., 0.].into_iter().chain(fine).chain(deep).collect()
    }
}

impl Default for Config {
    /// The paper's configuration.
    fn default() -> Self {
        Self {
            embed_dim: 128,
            depths: vec![1; 4],
            d_state: 16,
            expand: 2,
            modules: Modules::default(),
            pyramid: Pyramid::default(),
        }
    }
}

/// A configuration with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// The embedded weights': `Small` on the base of a pyramid of three levels, with gates.
    Live,
    /// The smallest that fuses pictures by itself.
    Small,
    /// Between the two, for training on one GPU.
    Base,
    /// The paper's, of 9.15 M parameters.
    Paper,
}

impl Preset {
    /// All of them, smallest first.
    pub const ALL: [Self; 4] = [Self::Live, Self::Small, Self::Base, Self::Paper];

    /// What it is called, and read from.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Small => "small",
            Self::Base => "base",
            Self::Paper => "paper",
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Preset {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|preset| preset.name() == name);
        found.ok_or_else(|| Error::UnknownPreset(name.to_string()))
    }
}

impl From<Preset> for Config {
    fn from(preset: Preset) -> Self {
        let (embed_dim, layers, d_state) = match preset {
            Preset::Live | Preset::Small => (16, 2, 8),
            Preset::Base => (48, 3, 16),
            Preset::Paper => (128, 4, 16),
        };
        let pyramid = match preset {
            Preset::Live => Pyramid { levels: 3, gates: true, deeper: 2 },
            _ => Pyramid::default(),
        };
        Self { embed_dim, depths: vec![1; layers], d_state, pyramid, ..Self::default() }
    }
}

impl Config {
    /// Reads a configuration from JSON.
    ///
    /// # Errors
    /// If it is not JSON, has an unknown key or a value out of range.
    pub fn from_json(text: &str) -> Result<Self> {
        // An object first: serde would take an empty array for a struct of defaults.
        let object = serde_json::from_str::<serde_json::Map<_, _>>(isfm_files::without_mark(text))?;
        let config: Self = serde_json::from_value(object.into())?;
        config.validate()?;
        Ok(config)
    }

    /// Reads a configuration from a JSON file.
    ///
    /// # Errors
    /// If the file cannot be read, or as [`Config::from_json`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        match isfm_files::read_text(&path) {
            Ok(text) => Self::from_json(&text)
                .map_err(|source| Error::ConfigFile { path, source: Box::new(source) }),
            Err(source) => Err(isfm_files::Error::Read { path, source }.into()),
        }
    }

    /// Refuses what cannot be a network: a width that is no multiple of 4, no layers, a zero, a way of
    /// fusing bands that nothing reads, or a number beyond any that makes sense (which is then a typing
    /// error, and would fill the memory).
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
        check("expand", self.expand, 8)?;
        self.modules.validate()?;
        let Pyramid { levels, gates, deeper } = self.pyramid;
        let check = |field, value: usize, most: usize| {
            let (given, needed) = (value.to_string(), format!("0 to {most}"));
            if value <= most { Ok(()) } else { Err(Error::Config { field, given, needed }) }
        };
        check("pyramid.levels", levels, Pyramid::MAX_LEVELS)?;
        check("pyramid.deeper", deeper, if gates { Pyramid::MAX_LEVELS } else { 0 })
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
            directions: self.modules.directions,
        }
    }
}
