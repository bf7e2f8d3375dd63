use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use isfm_ops::internal::{like, shape_error};
use isfm_ops::nn::{Linear, RmsNorm, rms_norm, uniform};
use isfm_ops::{Epilogue, causal_conv1d, silu, silu_gate, weighted_sum};
use serde::{Deserialize, Serialize};

use crate::ScanParams;
use crate::config::check_sizes;
use crate::init::{near_a_logs, near_dt_bias};

const OP: &str = "mamba";

/// Sizes of a [`Mamba`] block, by the names of the released program.
///
/// ```
/// let config = isfm_ssm::MambaConfig::new(768);
/// assert_eq!((config.d_inner(), config.dt_rank()), (1536, 48));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MambaConfig {
    /// C: channels in and out.
    pub d_model: usize,
    /// N: states per channel.
    pub d_state: usize,
    /// K: steps of the convolution's window.
    pub d_conv: usize,
    /// The scan's channels are `expand · d_model`.
    pub expand: usize,
    /// R: rank of dt; ⌈`d_model`/16⌉ if `None`.
    pub dt_rank: Option<usize>,
    /// Whether the convolution has a bias.
    pub conv_bias: bool,
    /// Whether the projections in and out have a bias.
    pub bias: bool,
}

impl MambaConfig {
    /// The released values for a width: 16 states, 4 steps of convolution, expansion 2, a bias for
    /// the convolution alone.
    pub fn new(d_model: usize) -> Self {
        Self {
            d_model,
            d_state: 16,
            d_conv: 4,
            expand: 2,
            dt_rank: None,
            conv_bias: true,
            bias: false,
        }
    }

    /// D: channels of the scan.
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
    /// If a size is 0 or above 2²⁰, or the scan would have more than 2²⁰ channels.
    pub fn validate(&self) -> Result<()> {
        let fields = [
            ("d_model", self.d_model),
            ("d_state", self.d_state),
            ("d_conv", self.d_conv),
            ("expand", self.expand),
            ("dt_rank", self.dt_rank()),
        ];
        check_sizes("MambaConfig", &fields, 1 << 20, (self.d_model, self.expand))
    }
}

/// What a [`Mamba`] block carries from one step of a stream to the next.
#[derive(Clone, Debug)]
pub struct MambaState {
    /// B×(K−1)×D: the last inputs of the convolution.
    pub conv: Tensor,
    /// B×D×N: the state of the scan.
    pub ssm: Tensor,
}

impl MambaState {
    /// The state before the first step: all zero.
    ///
    /// # Errors
    /// If the tensors cannot be made.
    pub fn new(config: &MambaConfig, batch: usize, dtype: DType, device: &Device) -> Result<Self> {
        config.validate()?;
        let d = config.d_inner();
        Ok(Self {
            conv: Tensor::zeros((batch, config.d_conv - 1, d), dtype, device)?,
            ssm: Tensor::zeros((batch, d, config.d_state), dtype, device)?,
        })
    }

    /// The same values without the graph that made them: gradients stop here.
    pub fn detach(&self) -> Self {
        Self { conv: self.conv.detach(), ssm: self.ssm.detach() }
    }
}

/// Convolution, projection and scan in one direction: what a block has once and a bidirectional
/// one twice.
#[derive(Clone, Debug)]
pub(crate) struct Branch {
    conv_weight: Tensor,
    conv_bias: Option<Tensor>,
    x_proj: Linear,
    params: ScanParams,
}

/// A linear layer with PyTorch's initial values.
pub(crate) fn projection(cin: usize, cout: usize, bias: bool, vb: VarBuilder) -> Result<Linear> {
    let weight = vb.get_with_hints((cout, cin), "weight", uniform(cin))?;
    let bias = bias.then(|| vb.get_with_hints(cout, "bias", uniform(cin))).transpose()?;
    Ok(Linear::new(weight, bias))
}

impl Branch {
    /// From the tensors whose names end in `suffix` (`A{suffix}_log` for A).
    pub(crate) fn new(config: &MambaConfig, suffix: &str, vb: &VarBuilder) -> Result<Self> {
        let (d, n, r, k) = (config.d_inner(), config.d_state, config.dt_rank(), config.d_conv);
        let conv = vb.pp(format!("conv1d{suffix}"));
        let dt = vb.pp(format!("dt_proj{suffix}"));
        let conv_bias = config.conv_bias.then(|| conv.get_with_hints(d, "bias", uniform(k)));
        Ok(Self {
            conv_weight: conv.get_with_hints((d, 1, k), "weight", uniform(k))?,
            conv_bias: conv_bias.transpose()?,
            x_proj: projection(d, r + 2 * n, false, vb.pp(format!("x_proj{suffix}")))?,
            params: ScanParams {
                dt_projs_weight: dt.get_with_hints((d, r), "weight", uniform(r))?.unsqueeze(0)?,
                dt_projs_bias: dt.get_with_hints(d, "bias", near_dt_bias())?.unsqueeze(0)?,
                a_logs: vb.get_with_hints((d, n), &format!("A{suffix}_log"), near_a_logs(n))?,
                ds: vb.get_with_hints(d, &format!("D{suffix}"), Init::Const(1.))?,
            },
        })
    }

    /// B×L×D to B×L×D, from zero states.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let conv = causal_conv1d(x, &self.conv_weight, self.conv_bias.as_ref(), None)?;
        let x = silu(&conv)?;
        self.params.along(&x, &self.project(&x)?, None)
    }

    /// [`Branch::forward`] from a state, with the state after the last step.
    fn forward_with_state(&self, x: &Tensor, state: &MambaState) -> Result<(Tensor, MambaState)> {
        let (_, len, _) = x.dims3()?;
        let past = self.conv_weight.dim(2)? - 1;
        let conv = causal_conv1d(x, &self.conv_weight, self.conv_bias.as_ref(), Some(&state.conv))?;
        // After a piece shorter than K − 1 the window still covers some older inputs.
        let next = match len.checked_sub(past) {
            Some(start) => x.narrow(1, start, past)?,
            None => Tensor::cat(&[&state.conv.narrow(1, len, past - len)?, x], 1)?,
        };
        let x = silu(&conv)?;
        let x_dbl = self.project(&x)?;
        let (y, ssm) = self.params.along_with_state(&x, &x_dbl, Some(&state.ssm))?;
        // Copies, which do not keep the whole of `x` and `y` alive.
        Ok((y, MambaState { conv: next.force_contiguous()?, ssm: ssm.force_contiguous()? }))
    }

    /// B×L×D to B×L×1×(R+2N).
    fn project(&self, x: &Tensor) -> Result<Tensor> {
        self.x_proj.forward(x)?.unsqueeze(2)
    }
}

/// The two halves of a projection: what is scanned, and what gates it.
///
/// Halving the weight is a view; halving the output would copy it, and its gradient twice.
pub(crate) fn halves(in_proj: &Linear, x: &Tensor) -> Result<(Tensor, Tensor)> {
    let d = in_proj.weight().dim(0)? / 2;
    let half = |start: usize| -> Result<Tensor> {
        let bias = in_proj.bias().map(|b| b.narrow(0, start, d)).transpose()?;
        let weight = in_proj.weight().narrow(0, start, d)?;
        isfm_ops::linear(x, &weight, bias.as_ref(), Epilogue::None)
    };
    Ok((half(0)?, half(d)?))
}

/// Refuses anything but a batch of sequences of at least one step.
pub(crate) fn check_sequence(op: &str, x: &Tensor, channels: usize) -> Result<()> {
    match *x.dims() {
        [batch, len, c] if batch * len > 0 && c == channels => Ok(()),
        _ => Err(shape_error(op, "x", x.dims(), format!("[B, L, {channels}], B and L at least 1"))),
    }
}

/// The Mamba block, S6 (Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State
/// Spaces", 2023, figure 3): projection to 2D channels, of which one half goes through a causal
/// depth-wise convolution, SiLU and the selective scan, is gated by SiLU of the other half and
/// projected back.
///
/// # Shapes
/// B×L×C to B×L×C.
#[derive(Clone, Debug)]
pub struct Mamba {
    config: MambaConfig,
    in_proj: Linear,
    branch: Branch,
    out_proj: Linear,
}

/// Builds a [`Mamba`] from `in_proj`, `conv1d`, `x_proj`, `dt_proj`, `A_log`, `D` and `out_proj`,
/// the names of state-spaces' and Hugging Face's checkpoints.
///
/// Candle's `Init` has neither ln 1 … ln N nor a log-uniform distribution; [`crate::init::mamba`]
/// sets the exact values afterwards.
///
/// # Errors
/// If a tensor is missing or has another shape, or the configuration is invalid.
pub fn mamba(config: &MambaConfig, vb: VarBuilder) -> Result<Mamba> {
    config.validate()?;
    let (c, d) = (config.d_model, config.d_inner());
    Ok(Mamba {
        config: *config,
        in_proj: projection(c, 2 * d, config.bias, vb.pp("in_proj"))?,
        branch: Branch::new(config, "", &vb)?,
        out_proj: projection(d, c, config.bias, vb.pp("out_proj"))?,
    })
}

impl Mamba {
    /// Its sizes.
    pub fn config(&self) -> &MambaConfig {
        &self.config
    }

    /// The state before the first step of a stream.
    ///
    /// # Errors
    /// If the tensors cannot be made.
    pub fn initial_state(&self, batch: usize) -> Result<MambaState> {
        let weight = self.in_proj.weight();
        MambaState::new(&self.config, batch, weight.dtype(), weight.device())
    }

    /// The next L steps of a stream, and the state after them. Pieces of any lengths give what
    /// the whole sequence gives; gradients flow through the state too.
    ///
    /// # Shapes
    /// B×L×C to B×L×C.
    ///
    /// # Errors
    /// If a shape or an element type does not fit, or B or L is 0.
    pub fn forward_with_state(
        &self,
        x: &Tensor,
        state: &MambaState,
    ) -> Result<(Tensor, MambaState)> {
        check_sequence(OP, x, self.config.d_model)?;
        let (batch, d) = (x.dim(0)?, self.config.d_inner());
        let past = self.config.d_conv - 1;
        like(OP, "state.conv", &state.conv, &[batch, past, d], x.dtype())?;
        like(OP, "state.ssm", &state.ssm, &[batch, d, self.config.d_state], x.dtype())?;
        let (x, z) = halves(&self.in_proj, x)?;
        let (y, state) = self.branch.forward_with_state(&x, state)?;
        Ok((self.out_proj.forward(&silu_gate(&y, &z)?)?, state))
    }

    /// The next step of a stream; the state moves on. No graph is kept in the state, so a stream
    /// may be endless; to train through it use [`Mamba::forward_with_state`].
    ///
    /// # Shapes
    /// B×C to B×C.
    ///
    /// # Errors
    /// If a shape or an element type does not fit; the state is then as it was.
    pub fn step(&self, x: &Tensor, state: &mut MambaState) -> Result<Tensor> {
        let (y, next) = self.forward_with_state(&one_step(OP, x)?, state)?;
        *state = next.detach();
        y.squeeze(1)
    }
}

/// B×C as a sequence of one step.
pub(crate) fn one_step(op: &str, x: &Tensor) -> Result<Tensor> {
    match x.rank() {
        2 => x.unsqueeze(1),
        _ => Err(shape_error(op, "x", x.dims(), "[B, C]")),
    }
}

impl Module for Mamba {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        check_sequence(OP, x, self.config.d_model)?;
        let (x, z) = halves(&self.in_proj, x)?;
        self.out_proj.forward(&silu_gate(&self.branch.forward(&x)?, &z)?)
    }
}

/// A residual layer as released Mamba models have: `x + Mamba(RMSNorm(x))`.
///
/// # Shapes
/// B×L×C to B×L×C.
#[derive(Clone, Debug)]
pub struct MambaLayer {
    norm: RmsNorm,
    mixer: Mamba,
}

/// The value that released models add to the mean square.
pub(crate) const NORM_EPS: f64 = 1e-5;

/// Builds a [`MambaLayer`] from `norm.weight` and `mixer`, a [`Mamba`]; the norm's eps is 1e-5.
///
/// # Errors
/// If a tensor is missing or has another shape, or the configuration is invalid.
pub fn mamba_layer(config: &MambaConfig, vb: VarBuilder) -> Result<MambaLayer> {
    let mixer = mamba(config, vb.pp("mixer"))?;
    Ok(MambaLayer { norm: rms_norm(config.d_model, NORM_EPS, vb.pp("norm"))?, mixer })
}

impl MambaLayer {
    /// From its parts.
    pub fn new(norm: RmsNorm, mixer: Mamba) -> Self {
        Self { norm, mixer }
    }

    /// The block inside.
    pub fn mixer(&self) -> &Mamba {
        &self.mixer
    }

    /// As [`Mamba::forward_with_state`].
    ///
    /// # Errors
    /// As [`Mamba::forward_with_state`].
    pub fn forward_with_state(
        &self,
        x: &Tensor,
        state: &MambaState,
    ) -> Result<(Tensor, MambaState)> {
        check_sequence(OP, x, self.mixer.config.d_model)?;
        let (y, state) = self.mixer.forward_with_state(&self.norm.forward(x)?, state)?;
        Ok((weighted_sum(x, 1., &y, 1.)?, state))
    }

    /// As [`Mamba::step`].
    ///
    /// # Errors
    /// As [`Mamba::step`].
    pub fn step(&self, x: &Tensor, state: &mut MambaState) -> Result<Tensor> {
        let (y, next) = self.forward_with_state(&one_step(OP, x)?, state)?;
        *state = next.detach();
        y.squeeze(1)
    }
}

impl Module for MambaLayer {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        check_sequence(OP, x, self.mixer.config.d_model)?;
        let y = self.mixer.forward(&self.norm.forward(x)?)?;
        weighted_sum(x, 1., &y, 1.)
    }
}
