use candle_core::{DType, Tensor};
use isfm_ops::simd::Real;

use crate::Result;
use crate::scan::{self, Path, Spec};
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
    let spec = params.spec((batch, h, w, d), x.dtype())?;
    check(OP, x.dtype(), "x_dbl", x_dbl, &[batch, h, w, 4, spec.proj_width()])?;
    apply(spec, x.dtype(), x, x_dbl, &params.flat()?)
}

/// [`selective_scan_2d_with`] on plain slices, without a gradient.
pub(crate) fn scan_values<E: Real>(
    x: &[E],
    x_dbl: &[E],
    dims: (usize, usize, usize, usize),
    params: &Scan2dParams<'_>,
) -> Result<Vec<E>> {
    let spec = params.spec(dims, E::DTYPE)?;
    let params = isfm_ops::rows::values::<E>(&params.flat()?)?;
    Ok(scan::values(&spec, x, x_dbl, &params))
}

impl Scan2dParams<'_> {
    /// The scan of a map of B×H×W×D with these parameters.
    fn spec(&self, (batch, h, w, d): (usize, usize, usize, usize), dtype: DType) -> Result<Spec> {
        let &Self { dt_projs_weight, dt_projs_bias, a_logs, ds } = self;
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
        check(OP, dtype, "dt_projs_weight", dt_projs_weight, &[4, d, rank])?;
        check(OP, dtype, "dt_projs_bias", dt_projs_bias, &[4, d])?;
        check(OP, dtype, "A_logs", a_logs, &[4 * d, states])?;
        check(OP, dtype, "Ds", ds, &[4 * d])?;
        Ok(Spec {
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
        })
    }

    /// All of them in the order of `Spec::params`.
    fn flat(&self) -> Result<Tensor> {
        let &Self { dt_projs_weight, dt_projs_bias, a_logs, ds } = self;
        let parts = [dt_projs_weight, dt_projs_bias, a_logs, ds].map(Tensor::flatten_all);
        let parts = parts.into_iter().collect::<candle_core::Result<Vec<_>>>()?;
        Ok(Tensor::cat(&parts, 0)?)
    }
}
