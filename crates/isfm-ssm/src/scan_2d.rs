use candle_core::Tensor;

use crate::Result;
use crate::scan::{Path, Spec};
use crate::selective_scan::{apply, check, shape};

const OP: &str = "selective_scan_2d";

/// The parameters of [`selective_scan_2d_with`], which has K = 4 directions, and of
/// [`selective_scan_projected`](crate::selective_scan_projected), which has any number; row k·D + d
/// of `a_logs` and `ds` belongs to direction k.
#[derive(Clone, Copy, Debug)]
pub struct Scan2dParams<'a> {
    /// K×D×R: from dt's factors to dt.
    pub dt_projs_weight: &'a Tensor,
    /// K×D: added to dt before softplus.
    pub dt_projs_bias: &'a Tensor,
    /// KD×N: ln(−A).
    pub a_logs: &'a Tensor,
    /// KD: the skip's factors.
    pub ds: &'a Tensor,
}

/// The four-direction selective scan (spec.md §2) with its projections already computed.
///
/// Direction 0 walks the map row by row, 1 column by column, 2 and 3 are their reverses; the four
/// outputs are summed where they belong. The input is read in place by every direction, and dt,
/// decays and states exist for a few steps at a time only.
///
/// # Shapes
/// `x`: B×H×W×D. `x_dbl`: B×H×W×4×(R+2N), at each position and for each direction dt's R factors,
/// B and C. Returns B×H×W×D. `f32` or `f64`, all alike. Differentiable in `x`, `x_dbl` and the
/// parameters.
///
/// # Memory
/// If an input is tracked, the states before every 32nd step of each direction are kept for the
/// backward: about B·4·(H·W/32 + 1)·N·D elements, D rounded up to a multiple of 16.
///
/// # Errors
/// If a shape or an element type does not fit, or a dimension is zero.
pub fn selective_scan_2d_with(
    x: &Tensor,
    x_dbl: &Tensor,
    params: &Scan2dParams<'_>,
) -> Result<Tensor> {
    let (batch, h, w, d) = match *x.dims() {
        [batch, h, w, d] if batch * h * w * d > 0 => (batch, h, w, d),
        _ => return Err(shape(OP, "x", x, "B×H×W×D, none of them 0")),
    };
    let &Scan2dParams { dt_projs_weight, dt_projs_bias, a_logs, ds } = params;
    let rank = match *dt_projs_weight.dims() {
        [4, rows, rank] if rows == d && rank > 0 => rank,
        _ => {
            let needed = format!("[4, {d}, R], R at least 1");
            return Err(shape(OP, "dt_projs_weight", dt_projs_weight, needed));
        }
    };
    let states = match *a_logs.dims() {
        [rows, states] if rows == 4 * d && states > 0 => states,
        _ => {
            let needed = format!("[{}, N], N at least 1", 4 * d);
            return Err(shape(OP, "A_logs", a_logs, needed));
        }
    };
    let dtype = x.dtype();
    check(OP, dtype, "x_dbl", x_dbl, &[batch, h, w, 4, rank + 2 * states])?;
    check(OP, dtype, "dt_projs_weight", dt_projs_weight, &[4, d, rank])?;
    check(OP, dtype, "dt_projs_bias", dt_projs_bias, &[4, d])?;
    check(OP, dtype, "A_logs", a_logs, &[4 * d, states])?;
    check(OP, dtype, "Ds", ds, &[4 * d])?;
    let spec = Spec {
        name: OP,
        path: Path::Cross { h, w },
        batch,
        len: h * w,
        groups: 4,
        channels: d,
        states,
        rank,
        bias: true,
        skip: true,
        init: false,
        softplus: true,
        log_a: true,
        last: false,
    };
    // In the order of `Spec::params`.
    let params = Tensor::cat(
        &[
            dt_projs_weight.flatten_all()?,
            dt_projs_bias.flatten_all()?,
            a_logs.flatten_all()?,
            ds.flatten_all()?,
        ],
        0,
    )?;
    apply(spec, dtype, x, x_dbl, &params)
}
