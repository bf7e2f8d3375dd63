use candle_core::{D, Result, Tensor};
use isfm_kernels::scan::Scan;
use isfm_ops::internal::{like, shape_error};

use crate::scan_params::y_and_state;

const OP: &str = "selective_scan";

/// The optional inputs of [`selective_scan`].
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{DType, Device, Tensor};
/// use isfm_ssm::{ScanOptions, selective_scan};
/// let cpu = &Device::Cpu;
/// let u = Tensor::randn(0f32, 1., (2, 10, 6), cpu)?; // 2 sequences of 10 steps, 6 channels
/// let delta = Tensor::randn(-2f32, 1., (2, 10, 6), cpu)?;
/// let a = Tensor::full(-1f32, (6, 4), cpu)?; // 4 states a channel
/// let b = Tensor::randn(0f32, 1., (2, 10, 3, 4), cpu)?; // 3 groups of 2 channels
/// let c = Tensor::randn(0f32, 1., (2, 10, 3, 4), cpu)?;
/// let skip = Tensor::ones(6, DType::F32, cpu)?;
/// let options = ScanOptions { d_skip: Some(&skip), softplus: true, ..Default::default() };
/// let y = selective_scan(&u, &delta, &a, &b, &c, &options)?;
/// assert_eq!(y.dims(), [2, 10, 6]);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct ScanOptions<'a> {
    /// D: adds `d_skip ⊙ u` to the output.
    pub d_skip: Option<&'a Tensor>,
    /// D: added to `delta` before softplus.
    pub delta_bias: Option<&'a Tensor>,
    /// Whether `delta` (with its bias) goes through softplus.
    pub softplus: bool,
    /// B×D×N: the state before the first step; zero without it.
    pub initial_state: Option<&'a Tensor>,
}

/// Mamba's selective scan along L, differentiable in every input (the recurrence:
/// Gu and Dao, "Mamba", 2023, Algorithm 2):
///
/// h_t = exp(δ_t A) h_{t−1} + δ_t B_t u_t, y_t = Σₙ C_t h_t + d_skip·u_t,
/// δ = `delta` + `delta_bias`, through softplus if asked for.
///
/// # Shapes
/// `u`, `delta`: B×L×D. `a`: D×N, usually negative. `b`, `c`: B×L×K×N, where the K groups divide D
/// and channels k·D/K … (k+1)·D/K − 1 use group k. Returns B×L×D. `f32` or `f64` (on CUDA `f32`,
/// `f16` or `bf16`), all alike.
///
/// # Memory
/// If an input is tracked, the states before every 32nd step are kept for the backward:
/// about B·(L/32 + 2)·D·N elements (D/K rounded up to 16 channels).
///
/// # Errors
/// If a shape or an element type does not fit, or a dimension is zero.
pub fn selective_scan(
    u: &Tensor,
    delta: &Tensor,
    a: &Tensor,
    b: &Tensor,
    c: &Tensor,
    options: &ScanOptions<'_>,
) -> Result<Tensor> {
    scan(u, delta, a, b, c, options, false)
}

/// [`selective_scan`], which also returns the state after the last step, B×D×N. Gradients flow
/// through both results.
///
/// # Errors
/// As [`selective_scan`].
pub fn selective_scan_with_state(
    u: &Tensor,
    delta: &Tensor,
    a: &Tensor,
    b: &Tensor,
    c: &Tensor,
    options: &ScanOptions<'_>,
) -> Result<(Tensor, Tensor)> {
    y_and_state(&scan(u, delta, a, b, c, options, true)?, u, a.dim(1)?)
}

fn scan(
    u: &Tensor,
    delta: &Tensor,
    a: &Tensor,
    b: &Tensor,
    c: &Tensor,
    options: &ScanOptions<'_>,
    last: bool,
) -> Result<Tensor> {
    let (batch, len, width) = match *u.dims() {
        [batch, len, width] if batch * len * width > 0 => (batch, len, width),
        _ => return Err(shape_error(OP, "u", u.dims(), "B×L×D, none of them 0")),
    };
    let states = match *a.dims() {
        [rows, states] if rows == width && states > 0 => states,
        _ => return Err(shape_error(OP, "a", a.dims(), format!("[{width}, N], N at least 1"))),
    };
    let groups = match *b.dims() {
        [bb, bl, groups, bn]
            if (bb, bl, bn) == (batch, len, states) && groups > 0 && width % groups == 0 =>
        {
            groups
        }
        _ => {
            let needed = format!("[{batch}, {len}, K, {states}], K a divisor of {width}");
            return Err(shape_error(OP, "b", b.dims(), needed));
        }
    };
    let dtype = u.dtype();
    like(OP, "delta", delta, &[batch, len, width], dtype)?;
    like(OP, "a", a, &[width, states], dtype)?;
    like(OP, "b", b, &[batch, len, groups, states], dtype)?;
    like(OP, "c", c, &[batch, len, groups, states], dtype)?;
    let sizes = Scan::line(batch, len, groups, width / groups, states)
        .bias(options.delta_bias.is_some())
        .skip(options.d_skip.is_some())
        .initial(options.initial_state.is_some())
        .softplus(options.softplus)
        .last(last);
    // In the order of `Scan::params`.
    let mut params = Vec::with_capacity(4);
    if let Some(bias) = options.delta_bias {
        like(OP, "delta_bias", bias, &[width], dtype)?;
        params.push(bias.flatten_all()?);
    }
    params.push(a.flatten_all()?);
    if let Some(skip) = options.d_skip {
        like(OP, "d_skip", skip, &[width], dtype)?;
        params.push(skip.flatten_all()?);
    }
    if let Some(state) = options.initial_state {
        like(OP, "initial_state", state, &[batch, width, states], dtype)?;
        params.push(state.flatten_all()?);
    }
    let first = Tensor::stack(&[u, delta], 0)?;
    let proj = Tensor::cat(&[b, c], D::Minus1)?;
    crate::scan::scan(OP, sizes, &first, &proj, &Tensor::cat(&params, 0)?)
}
