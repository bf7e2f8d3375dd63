use candle_core::Tensor;

use crate::scan::{Path, Spec};
use crate::selective_scan::{apply, check, shape};
use crate::{Result, Scan2dParams};

const OP: &str = "selective_scan_projected";

/// [`selective_scan`](crate::selective_scan) as Mamba uses it (Gu and Dao, "Mamba", 2023,
/// Algorithm 2): dt comes as its R factors, which lie with B and C in one row as `x_proj` makes
/// them, and A as ln(−A). dt itself exists for a few steps at a time only.
///
/// # Shapes
/// `x`: B×L×(K·D), K groups of D channels. `x_dbl`: B×L×K×(R+2N), at each step and for each group
/// dt's factors, B and C. `params`: those of K directions. `initial_state`: B×(K·D)×N, the state
/// before the first step; zero without it. Returns B×L×(K·D). `f32` or `f64`, all alike.
/// Differentiable in everything.
///
/// # Errors
/// If a shape or an element type does not fit, or a dimension is zero.
pub fn selective_scan_projected(
    x: &Tensor,
    x_dbl: &Tensor,
    params: &Scan2dParams<'_>,
    initial_state: Option<&Tensor>,
) -> Result<Tensor> {
    Ok(scan(x, x_dbl, params, initial_state, false)?.0)
}

/// [`selective_scan_projected`], which also returns the state after the last step, B×(K·D)×N.
/// Gradients flow through both results.
///
/// # Errors
/// As [`selective_scan_projected`].
pub fn selective_scan_projected_with_state(
    x: &Tensor,
    x_dbl: &Tensor,
    params: &Scan2dParams<'_>,
    initial_state: Option<&Tensor>,
) -> Result<(Tensor, Tensor)> {
    let (packed, states) = scan(x, x_dbl, params, initial_state, true)?;
    let (batch, len, width) = x.dims3()?;
    let size = batch * len * width;
    let y = packed.narrow(0, 0, size)?.reshape((batch, len, width))?;
    let last = packed.narrow(0, size, batch * width * states)?.reshape((batch, width, states))?;
    Ok((y, last))
}

/// The result, with the last state behind it if asked for, and N.
fn scan(
    x: &Tensor,
    x_dbl: &Tensor,
    params: &Scan2dParams<'_>,
    initial_state: Option<&Tensor>,
    last: bool,
) -> Result<(Tensor, usize)> {
    let &Scan2dParams { dt_projs_weight, dt_projs_bias, a_logs, ds } = params;
    let (groups, channels, rank) = match *dt_projs_weight.dims() {
        [k, d, r] if k * d * r > 0 => (k, d, r),
        _ => return Err(shape(OP, "dt_projs_weight", dt_projs_weight, "K×D×R, none of them 0")),
    };
    let width = groups * channels;
    let (batch, len) = match *x.dims() {
        [batch, len, columns] if batch * len > 0 && columns == width => (batch, len),
        _ => {
            return Err(shape(OP, "x", x, format!("[B, L, {width}], B and L at least 1")));
        }
    };
    let states = match *a_logs.dims() {
        [rows, states] if rows == width && states > 0 => states,
        _ => return Err(shape(OP, "A_logs", a_logs, format!("[{width}, N], N at least 1"))),
    };
    let dtype = x.dtype();
    check(OP, dtype, "x", x, &[batch, len, width])?;
    check(OP, dtype, "x_dbl", x_dbl, &[batch, len, groups, rank + 2 * states])?;
    check(OP, dtype, "dt_projs_weight", dt_projs_weight, &[groups, channels, rank])?;
    check(OP, dtype, "dt_projs_bias", dt_projs_bias, &[groups, channels])?;
    check(OP, dtype, "A_logs", a_logs, &[width, states])?;
    check(OP, dtype, "Ds", ds, &[width])?;
    let spec = Spec {
        name: OP,
        path: Path::Line,
        batch,
        len,
        groups,
        channels,
        states,
        rank,
        bias: true,
        skip: true,
        init: initial_state.is_some(),
        softplus: true,
        log_a: true,
        last,
    };
    // In the order of `Spec::params`.
    let mut flat = vec![
        dt_projs_weight.flatten_all()?,
        dt_projs_bias.flatten_all()?,
        a_logs.flatten_all()?,
        ds.flatten_all()?,
    ];
    if let Some(state) = initial_state {
        check(OP, dtype, "initial_state", state, &[batch, width, states])?;
        flat.push(state.flatten_all()?);
    }
    Ok((apply(spec, dtype, x, x_dbl, &Tensor::cat(&flat, 0)?)?, states))
}
