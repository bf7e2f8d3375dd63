use candle_core::{Result, Tensor};
use isfm_kernels::scan::Scan;
use isfm_ops::internal::{like, shape_error};

use crate::scan::scan;
use crate::{ScanOrder, cross_merge, cross_scan, cross_scan_each};

/// The parameters of a selective scan as Mamba uses it (Gu and Dao, "Mamba", 2023, Algorithm 2): dt
/// comes as its factors, which lie with B and C in one row as `x_proj` makes them, and A as ln(−A).
/// dt, decays and states exist for a few steps at a time only.
///
/// There are K groups (directions) of D channels with N states; row k·D + d of `a_logs` and `ds`
/// belongs to group k.
#[derive(Clone, Debug)]
pub struct ScanParams {
    /// K×D×R: from dt's R factors to dt.
    pub dt_projs_weight: Tensor,
    /// K×D: added to dt before softplus.
    pub dt_projs_bias: Tensor,
    /// KD×N: ln(−A).
    pub a_logs: Tensor,
    /// KD: the skip's factors.
    pub ds: Tensor,
}

/// K, D, R and N.
struct Sizes {
    groups: usize,
    channels: usize,
    rank: usize,
    states: usize,
}

impl ScanParams {
    /// The scan along a sequence.
    ///
    /// # Shapes
    /// `x`: B×L×(K·D), K groups of D channels. `x_dbl`: B×L×K×(R+2N), at each step and for each
    /// group dt's factors, B and C. `initial_state`: B×(K·D)×N, the state before the first step;
    /// zero without it. Returns B×L×(K·D). `f32` or `f64` (on CUDA `f32`, `f16` or `bf16`), all
    /// alike. Differentiable in everything.
    ///
    /// # Errors
    /// If a shape or an element type does not fit, or a dimension is zero.
    pub fn along(
        &self,
        x: &Tensor,
        x_dbl: &Tensor,
        initial_state: Option<&Tensor>,
    ) -> Result<Tensor> {
        Ok(self.line(x, x_dbl, initial_state, false)?.0)
    }

    /// [`along`](Self::along), with the state after the last step, B×(K·D)×N. Gradients flow
    /// through both results.
    ///
    /// # Errors
    /// As [`along`](Self::along).
    pub fn along_with_state(
        &self,
        x: &Tensor,
        x_dbl: &Tensor,
        initial_state: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        let (packed, states) = self.line(x, x_dbl, initial_state, true)?;
        y_and_state(&packed, x, states)
    }

    /// The result, with the last state behind it if asked for, and N.
    fn line(
        &self,
        x: &Tensor,
        x_dbl: &Tensor,
        initial_state: Option<&Tensor>,
        last: bool,
    ) -> Result<(Tensor, usize)> {
        const OP: &str = "selective_scan";
        let sizes = self.check(OP, x)?;
        let Sizes { groups, channels, rank, states } = sizes;
        let width = groups * channels;
        let (batch, len) = match *x.dims() {
            [batch, len, columns] if batch * len > 0 && columns == width => (batch, len),
            _ => {
                let needed = format!("[B, L, {width}], B and L at least 1");
                return Err(shape_error(OP, "x", x.dims(), needed));
            }
        };
        like(OP, "x_dbl", x_dbl, &[batch, len, groups, rank + 2 * states], x.dtype())?;
        let mut params = self.flat()?;
        if let Some(state) = initial_state {
            like(OP, "initial_state", state, &[batch, width, states], x.dtype())?;
            params = Tensor::cat(&[params, state.flatten_all()?], 0)?;
        }
        let sizes = Scan::line(batch, len, groups, channels, states);
        let sizes = options(sizes, rank).initial(initial_state.is_some()).last(last);
        Ok((scan(OP, sizes, x, x_dbl, &params)?, states))
    }

    /// The scan of a map in VMamba's four directions (K = 4; Liu et al., "VMamba", 2024): 0 walks
    /// row by row, 1 column by column, 2 and 3 are their reverses; the four outputs are summed where
    /// they belong. The input is read in place by every direction.
    ///
    /// # Shapes
    /// `x`: B×H×W×D. `x_dbl`: B×H×W×4×(R+2N), at each position and for each direction dt's R
    /// factors, B and C. Returns B×H×W×D. `f32` or `f64` (on CUDA `f32`, `f16` or `bf16`), all
    /// alike. Differentiable in everything.
    ///
    /// # Memory
    /// If an input is tracked, the states before every 32nd step of each direction are kept for the
    /// backward: about B·4·(H·W/32 + 1)·N·D elements, D rounded up to a multiple of 16.
    ///
    /// # Errors
    /// If there are not 4 directions, a shape or an element type does not fit, or a dimension is
    /// zero.
    pub fn over_map(&self, x: &Tensor, x_dbl: &Tensor) -> Result<Tensor> {
        self.map(x, x_dbl, |width| vec![4, width])
    }

    /// [`over_map`](Self::over_map) of projections B×H×W×4(R+2N): viewing them in the other shape
    /// would be an operation of the graph, whose gradient Candle copies.
    pub(crate) fn over_projected(&self, x: &Tensor, x_dbl: &Tensor) -> Result<Tensor> {
        self.map(x, x_dbl, |width| vec![4 * width])
    }

    /// `last` gives the last dimensions of `x_dbl` for a width R+2N.
    fn map(
        &self,
        x: &Tensor,
        x_dbl: &Tensor,
        last: impl Fn(usize) -> Vec<usize>,
    ) -> Result<Tensor> {
        const OP: &str = "selective_scan_2d";
        let (batch, rows, cols, d) = match *x.dims() {
            [batch, rows, cols, d] if batch * rows * cols * d > 0 => (batch, rows, cols, d),
            _ => return Err(shape_error(OP, "x", x.dims(), "B×H×W×D, none of them 0")),
        };
        let Sizes { groups, channels, rank, states } = self.check(OP, x)?;
        if (groups, channels) != (4, d) {
            let needed = format!("[4, {d}, R], R at least 1");
            return Err(shape_error(OP, "dt_projs_weight", self.dt_projs_weight.dims(), needed));
        }
        let needed = [vec![batch, rows, cols], last(rank + 2 * states)].concat();
        like(OP, "x_dbl", x_dbl, &needed, x.dtype())?;
        let sizes = options(Scan::map(batch, rows, cols, d, states), rank);
        scan(OP, sizes, x, x_dbl, &self.flat()?)
    }

    /// The scan of a map in any K orders: cross-scan, [`along`](Self::along), cross-merge.
    ///
    /// For VMamba's four orders this is [`over_map`](Self::over_map), which reads the map in place
    /// and is faster.
    ///
    /// # Shapes
    /// `x`: B×H×W×D. `x_dbl`: B×H×W×K×(R+2N), at each position and for each order dt's R factors, B
    /// and C. Returns B×H×W×D. `f32` or `f64`, all alike. Differentiable in everything.
    ///
    /// # Errors
    /// If a shape or an element type does not fit, or a dimension is zero.
    pub fn in_orders(&self, x: &Tensor, x_dbl: &Tensor, orders: &[ScanOrder]) -> Result<Tensor> {
        let u = cross_scan(x, orders)?;
        let (batch, len, k, d) = u.dims4()?;
        let x_dbl = cross_scan_each(x_dbl, orders)?;
        let y = self.along(&u.reshape((batch, len, k * d))?, &x_dbl, None)?;
        cross_merge(&y.reshape((batch, len, k, d))?, orders)
    }

    /// The four tensors.
    pub fn tensors(&self) -> [&Tensor; 4] {
        let Self { dt_projs_weight, dt_projs_bias, a_logs, ds } = self;
        [dt_projs_weight, dt_projs_bias, a_logs, ds]
    }

    fn check(&self, op: &str, x: &Tensor) -> Result<Sizes> {
        let [weight, bias, a_logs, ds] = self.tensors();
        let (groups, channels, rank) = match *weight.dims() {
            [k, d, r] if k * d * r > 0 => (k, d, r),
            _ => {
                let needed = "K×D×R, none of them 0";
                return Err(shape_error(op, "dt_projs_weight", weight.dims(), needed));
            }
        };
        let width = groups * channels;
        let states = match *a_logs.dims() {
            [rows, states] if rows == width && states > 0 => states,
            _ => {
                let needed = format!("[{width}, N], N at least 1");
                return Err(shape_error(op, "A_logs", a_logs.dims(), needed));
            }
        };
        like(op, "dt_projs_weight", weight, weight.dims(), x.dtype())?;
        like(op, "dt_projs_bias", bias, &[groups, channels], x.dtype())?;
        like(op, "A_logs", a_logs, a_logs.dims(), x.dtype())?;
        like(op, "Ds", ds, &[width], x.dtype())?;
        Ok(Sizes { groups, channels, rank, states })
    }

    /// In the order of [`Scan::params`].
    fn flat(&self) -> Result<Tensor> {
        let parts = self.tensors().map(Tensor::flatten_all);
        Tensor::cat(&parts.into_iter().collect::<Result<Vec<_>>>()?, 0)
    }
}

fn options(scan: Scan, rank: usize) -> Scan {
    scan.rank(rank).bias(true).skip(true).softplus(true).log_a(true)
}

/// Cuts the result of a scan along `x` that has the last states behind it.
pub(crate) fn y_and_state(packed: &Tensor, x: &Tensor, states: usize) -> Result<(Tensor, Tensor)> {
    let (batch, _, width) = x.dims3()?;
    let state = (batch, width, states).into();
    let [y, state] = isfm_ops::op::unpack(packed, [x.shape(), &state])?;
    Ok((y, state))
}
