use candle_core::{Module, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use isfm_ops::Epilogue;
use isfm_ops::chain::Chain;
use isfm_ops::internal::{recycle, shape_error};
use isfm_ops::nn::{LayerNorm, Linear, layer_norm, linear_no_bias, uniform};
use serde::{Deserialize, Serialize};

use crate::config::check_sizes;
use crate::init::{near_a_logs, near_dt_bias};
use crate::scan_input::{ScanInput, scan_input};
use crate::{ScanOrder, ScanParams};

/// Sizes of an [`Ss2d`] and of what it is made of (the paper's C, N, η and R).
///
/// ```
/// let config = isfm_ssm::Ss2dConfig::new(32);
/// assert_eq!((config.d_inner(), config.dt_rank()), (64, 2));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ss2dConfig {
    /// C: channels in and out.
    pub d_model: usize,
    /// N: states per channel.
    pub d_state: usize,
    /// η: the scan's channels are ηC.
    pub expand: usize,
    /// R: rank of dt; ⌈C/16⌉ if `None`.
    pub dt_rank: Option<usize>,
    /// The K directions that maps are scanned in.
    #[serde(default)]
    pub directions: Directions,
}

/// The directions in which a [`SelectiveScan2d`] walks over a map; their outputs are added where they
/// belong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Directions {
    /// VMamba's four: row by row, column by column, and the reverses of both.
    #[default]
    All,
    /// Row by row.
    Rows,
    /// Row by row, and the reverse of it.
    RowsBothWays,
    /// Row by row, and column by column.
    RowsAndColumns,
}

impl Directions {
    /// All there are.
    pub const EVERY: [Self; 4] = [Self::Rows, Self::RowsBothWays, Self::RowsAndColumns, Self::All];

    /// K: how many.
    pub const fn count(self) -> usize {
        match self {
            Self::Rows => 1,
            Self::RowsBothWays | Self::RowsAndColumns => 2,
            Self::All => 4,
        }
    }

    /// Their orders of the positions of an H×W map.
    ///
    /// # Errors
    /// If the map has no position or more than 2³² − 1.
    pub fn orders(self, height: usize, width: usize) -> Result<Vec<ScanOrder>> {
        let rows = || ScanOrder::rows(height, width);
        Ok(match self {
            Self::Rows => vec![rows()?],
            Self::RowsBothWays => vec![rows()?, rows()?.reversed()],
            Self::RowsAndColumns => vec![rows()?, ScanOrder::columns(height, width)?],
            Self::All => ScanOrder::vmamba(height, width)?.into(),
        })
    }
}

impl Ss2dConfig {
    /// The paper's values for a width: 16 states, expansion 2, four directions.
    pub fn new(d_model: usize) -> Self {
        Self { d_model, d_state: 16, expand: 2, dt_rank: None, directions: Directions::All }
    }

    /// D = ηC: channels of the scan.
    pub fn d_inner(&self) -> usize {
        self.d_model * self.expand
    }

    /// R: rank of dt.
    pub fn dt_rank(&self) -> usize {
        self.dt_rank.unwrap_or(self.d_model.div_ceil(16))
    }

    /// Checks the sizes.
    ///
    /// # Errors
    /// If a size is 0 or above 65,536, or the scan would have more than 65,536 channels.
    pub fn validate(&self) -> Result<()> {
        let fields = [
            ("d_model", self.d_model),
            ("d_state", self.d_state),
            ("expand", self.expand),
            ("dt_rank", self.dt_rank()),
        ];
        check_sizes("Ss2dConfig", &fields, MAX_CHANNELS, (self.d_model, self.expand))
    }
}

/// Far more than any network has, and few enough that no product of sizes overflows.
const MAX_CHANNELS: usize = 65_536;

/// The scan of a map in K [`Directions`] with its parameters: from x its dt, B and C, then for all
/// four directions [`ScanParams::over_map`] (Liu et al., "VMamba", 2024, figure 3), for fewer
/// [`ScanParams::in_orders`], on the CPU only.
///
/// # Shapes
/// B×H×W×D to B×H×W×D.
#[derive(Clone, Debug)]
pub struct SelectiveScan2d {
    x_proj_weight: Tensor,
    params: ScanParams,
    directions: Directions,
}

/// Builds a [`SelectiveScan2d`] from `x_proj_weight`, `dt_projs_weight`, `dt_projs_bias`, `A_logs`
/// and `Ds`, all at `vb` itself.
///
/// Candle's `Init` has neither ln 1 … ln N nor a log-uniform distribution: new `A_logs` are uniform
/// over the same range, and `dt_projs_bias` is uniform between the same bounds. [`crate::init`] has
/// the exact values.
///
/// # Errors
/// If a tensor is missing or has another shape, or the configuration is invalid
/// ([`Ss2dConfig::validate`]).
pub fn selective_scan_2d(config: &Ss2dConfig, vb: VarBuilder) -> Result<SelectiveScan2d> {
    config.validate()?;
    let (d, n, r) = (config.d_inner(), config.d_state, config.dt_rank());
    let k = config.directions.count();
    let params = ScanParams {
        dt_projs_weight: vb.get_with_hints((k, d, r), "dt_projs_weight", uniform(r))?,
        dt_projs_bias: vb.get_with_hints((k, d), "dt_projs_bias", near_dt_bias())?,
        a_logs: vb.get_with_hints((k * d, n), "A_logs", near_a_logs(n))?,
        ds: vb.get_with_hints(k * d, "Ds", Init::Const(1.))?,
    };
    let x_proj = vb.get_with_hints((k, r + 2 * n, d), "x_proj_weight", uniform(d))?;
    SelectiveScan2d::with_directions(config.directions, x_proj, params)
}

impl SelectiveScan2d {
    /// From `x_proj_weight`, 4×(R+2N)×D, and the parameters of four directions.
    ///
    /// # Errors
    /// If `x_proj_weight` does not have 4 directions of at least 3 rows.
    pub fn new(x_proj_weight: Tensor, params: ScanParams) -> Result<Self> {
        Self::with_directions(Directions::All, x_proj_weight, params)
    }

    /// From `x_proj_weight`, K×(R+2N)×D, and the parameters of K directions.
    ///
    /// # Errors
    /// If `x_proj_weight` does not have K directions of at least 3 rows.
    pub fn with_directions(
        directions: Directions,
        x_proj_weight: Tensor,
        params: ScanParams,
    ) -> Result<Self> {
        match *x_proj_weight.dims() {
            [k, rows, d] if k == directions.count() && rows >= 3 && d > 0 => {
                Ok(Self { x_proj_weight, params, directions })
            }
            ref got => {
                let needed = format!("[{}, R + 2N, D]", directions.count());
                Err(shape_error("selective_scan_2d", "x_proj_weight", got, needed))
            }
        }
    }

    /// K(R+2N)×D. Projecting a position does not depend on the order of positions: one product
    /// serves all directions.
    pub(crate) fn x_proj_matrix(&self) -> Result<Tensor> {
        let (k, rows, d) = self.x_proj_weight.dims3()?;
        self.x_proj_weight.reshape((k * rows, d))
    }

    /// The scan of `x` with its projections B×H×W×K(R+2N).
    pub(crate) fn scan_projected(&self, x: &Tensor, x_dbl: &Tensor) -> Result<Tensor> {
        if self.directions == Directions::All {
            return self.params.over_projected(x, x_dbl);
        }
        let (batch, height, width, columns) = x_dbl.dims4()?;
        let k = self.directions.count();
        let x_dbl = x_dbl.reshape((batch, height, width, k, columns / k))?;
        self.params.in_orders(x, &x_dbl, &self.directions.orders(height, width)?)
    }
}

impl Module for SelectiveScan2d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x_dbl = isfm_ops::linear(x, &self.x_proj_matrix()?, None, Epilogue::None)?;
        self.scan_projected(x, &x_dbl)
    }
}

/// SS2D (Liu et al., "VMamba", 2024): projection to 2D channels, of which one half
/// goes through a depth-wise convolution, SiLU, the four-direction scan and a layer norm, and is
/// then gated by SiLU of the other half and projected back.
///
/// # Shapes
/// B×H×W×C to B×H×W×C.
#[derive(Clone, Debug)]
pub struct Ss2d {
    input: ScanInput,
    scan: SelectiveScan2d,
    norm: LayerNorm,
    out_proj: Linear,
}

/// Builds an [`Ss2d`] from `in_proj`, `conv2d_x`, `out_norm`, `out_proj` and the parameters of
/// [`selective_scan_2d`].
///
/// # Errors
/// If a tensor is missing or has another shape, or the configuration is invalid
/// ([`Ss2dConfig::validate`]).
pub fn ss2d(config: &Ss2dConfig, vb: VarBuilder) -> Result<Ss2d> {
    let (c, d) = (config.d_model, config.d_inner());
    Ok(Ss2d {
        input: scan_input(config, "in_proj", "conv2d_x", vb.clone())?,
        norm: layer_norm(d, vb.pp("out_norm"))?,
        out_proj: linear_no_bias(d, c, vb.pp("out_proj"))?,
        scan: selective_scan_2d(config, vb)?,
    })
}

impl Ss2d {
    /// `skip ⊙ x + SS2D(norm(x))`, or without a residual SS2D(x) itself.
    fn residual(&self, x: &Tensor, around: Option<(&LayerNorm, &Tensor)>) -> Result<Tensor> {
        let scanned = self.input.scan(x, around.map(|(norm, _)| norm), &self.scan)?;
        let mut chain = Chain::new();
        let x = chain.input(x);
        let normed = around.map_or(x, |(norm, _)| chain.norm(x, norm));
        let z = chain.linear(normed, &self.input.z_weight()?, None);
        let y = chain.input(&scanned);
        let y = chain.norm(y, &self.norm);
        let y = chain.silu_gate(y, z);
        let y = chain.linear(y, self.out_proj.weight(), self.out_proj.bias());
        let y = around.map_or(y, |(_, skip)| chain.scale_add(x, skip, y));
        let [y] = chain.maps([y])?;
        recycle(scanned, &y);
        Ok(y)
    }
}

impl Module for Ss2d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.residual(x, None)
    }
}

/// The VSS block (Liu et al., "VMamba", 2024, with a learned skip): `skip_scale ⊙ x + SS2D(LN(x))`.
///
/// # Shapes
/// B×H×W×C to B×H×W×C.
#[derive(Clone, Debug)]
pub struct VssBlock {
    norm: LayerNorm,
    ss2d: Ss2d,
    skip_scale: Tensor,
}

/// Builds a [`VssBlock`] from `ln_1`, `self_attention` (an [`Ss2d`]) and `skip_scale`.
///
/// # Errors
/// If a tensor is missing or has another shape, or the configuration is invalid
/// ([`Ss2dConfig::validate`]).
pub fn vss_block(config: &Ss2dConfig, vb: VarBuilder) -> Result<VssBlock> {
    config.validate()?;
    let c = config.d_model;
    Ok(VssBlock {
        norm: layer_norm(c, vb.pp("ln_1"))?,
        ss2d: ss2d(config, vb.pp("self_attention"))?,
        skip_scale: vb.get_with_hints(c, "skip_scale", Init::Const(1.))?,
    })
}

impl Module for VssBlock {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.ss2d.residual(x, Some((&self.norm, &self.skip_scale)))
    }
}
