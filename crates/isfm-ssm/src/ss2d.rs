use candle_core::{DType, Module, Tensor};
use candle_nn::{Init, VarBuilder};
use isfm_ops::nn::{LayerNorm, Linear, layer_norm, linear_no_bias};
use isfm_ops::simd::Real;
use isfm_ops::{cpu, rows, scale_add, silu_gate};

use crate::init::{DT_MAX, DT_MIN, inverse_softplus};
use crate::scan_2d::{Scan2dParams, selective_scan_2d_with};
use crate::scan_input::{ScanInput, scan_input};
use crate::{Error, Result};

/// Sizes of an [`Ss2d`] and of what it is made of (spec.md's C, N, η and R).
///
/// ```
/// let config = isfm_ssm::Ss2dConfig::new(32);
/// assert_eq!((config.d_inner(), config.dt_rank()), (64, 2));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ss2dConfig {
    /// C: channels in and out.
    pub d_model: usize,
    /// N: states per channel.
    pub d_state: usize,
    /// η: the scan's channels are ηC.
    pub expand: usize,
    /// R: rank of dt; ⌈C/16⌉ if `None`.
    pub dt_rank: Option<usize>,
}

impl Ss2dConfig {
    /// The paper's values for a width: 16 states, expansion 2.
    pub fn new(d_model: usize) -> Self {
        Self { d_model, d_state: 16, expand: 2, dt_rank: None }
    }

    /// D = ηC: channels of the scan.
    pub fn d_inner(&self) -> usize {
        self.d_model * self.expand
    }

    /// R: rank of dt.
    pub fn dt_rank(&self) -> usize {
        self.dt_rank.unwrap_or(self.d_model.div_ceil(16))
    }

    /// Refuses sizes that make no module.
    ///
    /// # Errors
    /// [`Error::Config`] if a size is zero or the scan's channels overflow.
    pub fn validate(&self) -> Result<()> {
        let of = "Ss2dConfig";
        let fields = [
            ("d_model", self.d_model),
            ("d_state", self.d_state),
            ("expand", self.expand),
            ("dt_rank", self.dt_rank()),
        ];
        for (field, got) in fields {
            if got == 0 {
                return Err(Error::Config { of, field, got, needed: "at least 1" });
            }
        }
        if self.d_model.checked_mul(self.expand).is_none_or(|d| d > MAX_CHANNELS) {
            let needed = "an expansion with at most 65536 channels";
            return Err(Error::Config { of, field: "expand", got: self.expand, needed });
        }
        Ok(())
    }
}

/// Far more than any network; it keeps every product of sizes below an overflow.
const MAX_CHANNELS: usize = 65_536;

/// The four-direction scan with its parameters (spec.md §2): from x its dt, B and C, then
/// [`selective_scan_2d_with`].
///
/// # Shapes
/// B×H×W×D to B×H×W×D.
#[derive(Clone, Debug)]
pub struct SelectiveScan2d {
    x_proj_weight: Tensor,
    dt_projs_weight: Tensor,
    dt_projs_bias: Tensor,
    a_logs: Tensor,
    ds: Tensor,
}

/// Builds a [`SelectiveScan2d`] from `x_proj_weight`, `dt_projs_weight`, `dt_projs_bias`, `A_logs`
/// and `Ds`, all at `vb` itself.
///
/// Candle's initial values cannot be ln 1 … ln N nor log-uniform: a fresh `A_logs` is uniform over
/// the same range and `dt_projs_bias` uniform between the right ends. [`crate::init`] has the
/// exact ones.
///
/// # Errors
/// If a tensor is missing or has another shape, or the configuration makes no sense.
pub fn selective_scan_2d(config: &Ss2dConfig, vb: VarBuilder) -> Result<SelectiveScan2d> {
    config.validate()?;
    let (d, n, r) = (config.d_inner(), config.d_state, config.dt_rank());
    let uniform = |lo: f64, up: f64| Init::Uniform { lo, up };
    let within = |fan_in: usize| {
        let bound = (fan_in as f64).powf(-0.5);
        uniform(-bound, bound)
    };
    let bias = uniform(inverse_softplus(DT_MIN), inverse_softplus(DT_MAX));
    let a_logs = if n == 1 { Init::Const(0.) } else { uniform(0., (n as f64).ln()) };
    SelectiveScan2d::new(
        vb.get_with_hints((4, r + 2 * n, d), "x_proj_weight", within(d))?,
        vb.get_with_hints((4, d, r), "dt_projs_weight", within(r))?,
        vb.get_with_hints((4, d), "dt_projs_bias", bias)?,
        vb.get_with_hints((4 * d, n), "A_logs", a_logs)?,
        vb.get_with_hints(4 * d, "Ds", Init::Const(1.))?,
    )
}

impl SelectiveScan2d {
    /// Takes the parameters: `x_proj_weight` 4×(R+2N)×D and those of [`Scan2dParams`].
    ///
    /// # Errors
    /// If `x_proj_weight` does not have 4 directions of at least 3 rows.
    pub fn new(
        x_proj_weight: Tensor,
        dt_projs_weight: Tensor,
        dt_projs_bias: Tensor,
        a_logs: Tensor,
        ds: Tensor,
    ) -> Result<Self> {
        match *x_proj_weight.dims() {
            [4, rows, d] if rows >= 3 && d > 0 => (),
            _ => {
                return Err(Error::Shape {
                    op: "selective_scan_2d",
                    what: "x_proj_weight",
                    got: format!("{:?}", x_proj_weight.dims()),
                    needed: "[4, R + 2N, D]".to_string(),
                });
            }
        }
        Ok(Self { x_proj_weight, dt_projs_weight, dt_projs_bias, a_logs, ds })
    }

    /// Its tensors.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let Self { x_proj_weight, dt_projs_weight, dt_projs_bias, a_logs, ds } = self;
        [x_proj_weight, dt_projs_weight, dt_projs_bias, a_logs, ds].into_iter()
    }

    /// 4(R+2N)×D. Projecting a position does not depend on the order of positions: one product
    /// serves the four directions.
    pub(crate) fn x_proj_matrix(&self) -> Result<Tensor> {
        let (k, rows, d) = self.x_proj_weight.dims3()?;
        Ok(self.x_proj_weight.reshape((k * rows, d))?)
    }

    /// The scan of `x` with its projections B×H×W×4(R+2N).
    pub(crate) fn scan_projected(&self, x: &Tensor, x_dbl: &Tensor) -> Result<Tensor> {
        let (b, h, w, columns) = x_dbl.dims4()?;
        let x_dbl = x_dbl.reshape((b, h, w, 4, columns / 4))?;
        selective_scan_2d_with(x, &x_dbl, &self.params())
    }

    pub(crate) fn params(&self) -> Scan2dParams<'_> {
        Scan2dParams {
            dt_projs_weight: &self.dt_projs_weight,
            dt_projs_bias: &self.dt_projs_bias,
            a_logs: &self.a_logs,
            ds: &self.ds,
        }
    }
}

impl Module for SelectiveScan2d {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let x_dbl = isfm_ops::linear(x, &self.x_proj_matrix()?, None)?;
        Ok(self.scan_projected(x, &x_dbl)?)
    }
}

/// SS2D (spec.md §2; Liu et al., "VMamba", 2024): projection to 2D channels, of which one half
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
/// If a tensor is missing or has another shape, or the configuration makes no sense.
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
        let norm = around.map(|(norm, _)| norm);
        let z_weight = self.input.z_weight()?;
        let weights = self.norm.tensors().chain(self.out_proj.tensors());
        let skip = around.map(|(_, skip)| skip);
        if self.input.may_fuse(x, norm, &self.scan) && rows::may_fuse(weights.chain(skip)) {
            match x.dtype() {
                DType::F32 => return self.fused::<f32>(x, &z_weight, around),
                DType::F64 => return self.fused::<f64>(x, &z_weight, around),
                _ => {}
            }
        }
        let y = self.input.scan(x, norm, &self.scan)?;
        let normed = norm.map(|n| n.forward(x)).transpose()?;
        let z = isfm_ops::linear(normed.as_ref().unwrap_or(x), &z_weight, None)?;
        let y = self.out_proj.forward(&silu_gate(&self.norm.forward(&y)?, &z)?)?;
        Ok(match around {
            Some((_, skip)) => scale_add(x, skip, &y)?,
            None => y,
        })
    }

    /// Gate, projection and residual in one pass over the scan's output; the gate's projection is
    /// made here, so that it never exists as a map.
    fn fused<E: Real>(
        &self,
        x: &Tensor,
        z_weight: &Tensor,
        around: Option<(&LayerNorm, &Tensor)>,
    ) -> Result<Tensor> {
        let x = x.contiguous()?;
        let norm = around.map(|(norm, _)| rows::LayerNorm::<E>::new(norm)).transpose()?;
        let skip = around.map(|(_, skip)| rows::values::<E>(skip)).transpose()?;
        let z_proj = rows::Linear::<E>::new(z_weight, None)?;
        let out_norm = rows::LayerNorm::<E>::new(&self.norm)?;
        let out_proj = rows::Linear::<E>::new(self.out_proj.weight(), self.out_proj.bias())?;
        let (c, d) = (z_proj.inputs(), z_proj.outputs());
        if skip.as_ref().is_some_and(|skip| skip.len() != c) || out_proj.outputs() != c {
            let (got, needed) = (format!("{:?}", x.dims()), format!("{c} channels"));
            return Err(Error::Shape { op: "ss2d", what: "x", got, needed });
        }
        let count = x.elem_count() / c;
        let y = self.input.scan_values::<E>(&x, around.map(|(norm, _)| norm), &self.scan)?;
        let out = rows::with_slice::<E, _>(&x, |x| {
            Ok(rows::map_rows(count, c, |rows, out, buffer| {
                let n = rows.len();
                let x = &x[rows.start * c..rows.end * c];
                let [normed, z, h] = rows::split(buffer, [n * c, n * d, n * d]);
                match &norm {
                    Some(norm) => {
                        norm.apply(x, normed);
                        z_proj.apply(normed, z);
                    }
                    None => z_proj.apply(x, z),
                }
                out_norm.apply(&y[rows.start * d..rows.end * d], h);
                rows::silu_gate(h, z);
                out_proj.apply(h, out);
                if let Some(skip) = &skip {
                    rows::scale_add(x, skip, out);
                }
            }))
        })?;
        cpu::recycle(y);
        Ok(Tensor::from_vec(out, x.shape(), x.device())?)
    }
}

impl Module for Ss2d {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        Ok(self.residual(x, None)?)
    }
}

/// The VSS block (spec.md §2): `skip_scale ⊙ x + SS2D(LN(x))`.
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
/// If a tensor is missing or has another shape, or the configuration makes no sense.
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
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        Ok(self.ss2d.residual(x, Some((&self.norm, &self.skip_scale)))?)
    }
}
