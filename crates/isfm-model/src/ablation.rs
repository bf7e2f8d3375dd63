//! The paper's ablations as configurations.

use std::fmt;
use std::str::FromStr;

use isfm_ssm::Directions;

use crate::{Config, Error, Modules, Result, Spatial};

/// A table of networks that differ in one thing. `docs/paper-to-code.md` says what the paper leaves
/// open about them.
///
/// ```
/// use isfm_model::{Config, Table};
/// let rows = Table::Iii.rows(&Config::default());
/// assert_eq!(rows.first().unwrap().name, "baseline");
/// assert_eq!(rows.last().unwrap().config, Config::default());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    /// Table III: the modules, one after another.
    Iii,
    /// Table IV: what fuses the spatial features.
    Iv,
    /// Table V: what drives the gates.
    V,
    /// Table VI: how the bands are fused, with and without FGG.
    Vi,
    /// Fig. 15: K, the number of fusion layers.
    K,
    /// The directions of the scans; not in the paper.
    Directions,
    /// η, the expansion of the scans; not in the paper.
    Expand,
}

/// A network of a [`Table`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What the table calls it.
    pub name: String,
    /// Its configuration.
    pub config: Config,
}

impl Table {
    /// All of them, the paper's first.
    pub const ALL: [Self; 7] =
        [Self::Iii, Self::Iv, Self::V, Self::Vi, Self::K, Self::Directions, Self::Expand];

    /// What it is called, and read from.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Iii => "III",
            Self::Iv => "IV",
            Self::V => "V",
            Self::Vi => "VI",
            Self::K => "K",
            Self::Directions => "directions",
            Self::Expand => "expand",
        }
    }

    /// What stands above it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Iii => "Table III: modules",
            Self::Iv => "Table IV: fusion of the spatial features",
            Self::V => "Table V: what drives the gates",
            Self::Vi => "Table VI: fusion of the bands",
            Self::K => "Fig. 15: number of fusion layers K",
            Self::Directions => "Scan directions",
            Self::Expand => "Expansion of the scans",
        }
    }

    /// Its networks, of the size of `base`, whose modules are replaced. The last one of Tables III to VI
    /// is the paper's.
    pub fn rows(self, base: &Config) -> Vec<Row> {
        let paper = Modules::default();
        let row = |name: &str, modules| Row {
            name: name.to_string(),
            config: Config { modules, ..base.clone() },
        };
        let with =
            |name: &str, spatial, frequency| row(name, Modules { spatial, frequency, ..paper });
        match self {
            Self::Iii => vec![
                with("baseline", Spatial::Concatenate, false),
                with("+ MFF", Spatial::Concatenate, true),
                with("+ FGM", Spatial::FgmOwnGate, false),
                // Without an MFF the guidance is by the summed bands.
                row("+ ISF", Modules { frequency: false, lffb: false, hffb: false, ..paper }),
                with("+ MFF + FGM", Spatial::FgmOwnGate, true),
                row("full", paper),
            ],
            Self::Iv => vec![
                with("element-wise addition", Spatial::Sum, true),
                with("concatenation + FC", Spatial::ConcatLinear, true),
                with("cross-attention", Spatial::CrossAttention, true),
                row("FGM", paper),
            ],
            Self::V => vec![
                with("no interaction", Spatial::FgmOwnGate, true),
                with("frequency gate", Spatial::FgmFrequencyGate, true),
                row("FGG", paper),
            ],
            Self::Vi => {
                let mut rows = vec![with("no frequency branch", Spatial::FgmOwnGate, false)];
                let gates = [(Spatial::FgmOwnGate, ""), (Spatial::Fgm, ", FGG")];
                for (spatial, gate) in gates {
                    for (lffb, hffb) in [(false, false), (true, false), (false, true), (true, true)]
                    {
                        let name = |is, block| if is { block } else { "sum" };
                        let (low, high) = (name(lffb, "LFFB"), name(hffb, "HFFB"));
                        let modules = Modules { spatial, lffb, hffb, ..paper };
                        rows.push(row(&format!("low {low}, high {high}{gate}"), modules));
                    }
                }
                rows
            }
            Self::K => (1..=8)
                .map(|layers| Row {
                    name: format!("K = {layers}"),
                    config: Config {
                        depths: vec![base.depths.first().copied().unwrap_or(1); layers],
                        modules: paper,
                        ..base.clone()
                    },
                })
                .collect(),
            Self::Directions => Directions::EVERY
                .map(|directions| {
                    let name = match directions {
                        Directions::Rows => "rows",
                        Directions::RowsBothWays => "rows, both ways",
                        Directions::RowsAndColumns => "rows and columns",
                        Directions::All => "all four",
                    };
                    row(name, Modules { directions, ..paper })
                })
                .into(),
            Self::Expand => [1, 2, 4]
                .map(|expand| Row {
                    name: format!("η = {expand}"),
                    config: Config { expand, modules: paper, ..base.clone() },
                })
                .into(),
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Table {
    type Err = Error;

    /// Reads a name, in capitals or not.
    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|table| table.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| Error::UnknownTable(name.to_string()))
    }
}
