use std::sync::Arc;

use candle_core::{Result, Shape, Tensor};
use isfm_kernels::{Plan, Type};
use isfm_ops::internal::{float, no_cuda_kernel, shape_error};
use isfm_ops::op::{Gradients, Input, Op, apply, apply_untracked};
use isfm_ops::simd::Real;
use rayon::prelude::*;

use crate::ScanOrder;

/// A map as K sequences, one in each order (VMamba's cross-scan; Liu et al., 2024). Its adjoint is
/// [`cross_merge`].
///
/// With the sequences side by side, the result as B×L×(K·C) is what
/// [`selective_scan`](crate::selective_scan) takes for K groups.
///
/// # Shapes
/// `x`: B×H×W×C. Returns B×L×K×C with L = H·W. `f32` or `f64`. Differentiable.
///
/// # Errors
/// If the shape is not that of the orders, there is no order, or B or C is 0.
pub fn cross_scan(x: &Tensor, orders: &[ScanOrder]) -> Result<Tensor> {
    Kind::Scan.apply(x, orders)
}

/// The sum of K sequences, each put back where its order found it. Its adjoint is [`cross_scan`];
/// merging what was scanned gives K times the map.
///
/// # Shapes
/// `y`: B×L×K×C. Returns B×H×W×C. `f32` or `f64`. Differentiable.
///
/// # Errors
/// As [`cross_scan`].
pub fn cross_merge(y: &Tensor, orders: &[ScanOrder]) -> Result<Tensor> {
    Kind::Merge.apply(y, orders)
}

/// K maps as K sequences, each in its own order. Its adjoint and inverse is [`cross_merge_each`].
///
/// # Shapes
/// `x`: B×H×W×K×C. Returns B×L×K×C. `f32` or `f64`. Differentiable.
///
/// # Errors
/// As [`cross_scan`].
pub fn cross_scan_each(x: &Tensor, orders: &[ScanOrder]) -> Result<Tensor> {
    Kind::ScanEach.apply(x, orders)
}

/// K sequences as K maps, each put back where its order found it. Its adjoint and inverse is
/// [`cross_scan_each`].
///
/// # Shapes
/// `y`: B×L×K×C. Returns B×H×W×K×C. `f32` or `f64`. Differentiable.
///
/// # Errors
/// As [`cross_scan`].
pub fn cross_merge_each(y: &Tensor, orders: &[ScanOrder]) -> Result<Tensor> {
    Kind::MergeEach.apply(y, orders)
}

/// Which of the four operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Scan,
    Merge,
    ScanEach,
    MergeEach,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Scan => "cross_scan",
            Self::Merge => "cross_merge",
            Self::ScanEach => "cross_scan_each",
            Self::MergeEach => "cross_merge_each",
        }
    }

    fn adjoint(self) -> Self {
        match self {
            Self::Scan => Self::Merge,
            Self::Merge => Self::Scan,
            Self::ScanEach => Self::MergeEach,
            Self::MergeEach => Self::ScanEach,
        }
    }

    fn apply(self, x: &Tensor, orders: &[ScanOrder]) -> Result<Tensor> {
        let op = self.name();
        float(op, x)?;
        let (h, w) = match orders {
            [] => {
                return Err(shape_error(op, "orders", "none", "at least one order"));
            }
            [first, rest @ ..] => {
                let (h, w) = (first.height(), first.width());
                if let Some(other) = rest.iter().find(|o| (o.height(), o.width()) != (h, w)) {
                    let got = format!("of {h}×{w} and of {}×{}", other.height(), other.width());
                    return Err(shape_error(op, "orders", got, "the same map for all"));
                }
                (h, w)
            }
        };
        let k = orders.len();
        let fits = match (self, x.dims()) {
            (Self::Scan, &[b, height, width, c]) => (height, width) == (h, w) && b * c > 0,
            (Self::ScanEach, &[b, height, width, each, c]) => {
                (height, width, each) == (h, w, k) && b * c > 0
            }
            (Self::Merge | Self::MergeEach, &[b, len, each, c]) => {
                (len, each) == (h * w, k) && b * c > 0
            }
            _ => false,
        };
        if !fits {
            let needed = match self {
                Self::Scan => format!("[B, {h}, {w}, C], B and C at least 1"),
                Self::ScanEach => format!("[B, {h}, {w}, {k}, C], B and C at least 1"),
                _ => format!("[B, {}, {k}, C], B and C at least 1", h * w),
            };
            return Err(shape_error(op, "x", x.dims(), needed));
        }
        apply(Cross { kind: self, orders: orders.into() }, &[x])
    }
}

/// The operation on a tensor whose shape has been checked.
struct Cross {
    kind: Kind,
    orders: Arc<[ScanOrder]>,
}

/// Elements that one task writes, about.
const TASK: usize = 16_384;

impl Op for Cross {
    fn name(&self) -> &'static str {
        self.kind.name()
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        let dims = inputs[0].dims();
        let (batch, c) = (dims[0], dims[dims.len() - 1]);
        let (h, w, k) = (self.orders[0].height(), self.orders[0].width(), self.orders.len());
        Ok(match self.kind {
            Kind::Scan | Kind::ScanEach => (batch, h * w, k, c).into(),
            Kind::Merge => (batch, h, w, c).into(),
            Kind::MergeEach => (batch, h, w, k, c).into(),
        })
    }

    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        let (x, dims) = (inputs[0].data, inputs[0].shape.dims());
        let c = dims[dims.len() - 1];
        let (len, k) = (self.orders[0].height() * self.orders[0].width(), self.orders.len());
        let columns = if self.kind == Kind::Merge { c } else { k * c };
        let per_task = TASK.div_ceil(columns);
        let mut out = vec![E::of(0.); dims[0] * len * columns];
        out.par_chunks_mut(per_task * columns).enumerate().for_each(|(task, rows)| {
            for (i, row) in rows.chunks_exact_mut(columns).enumerate() {
                let row_number = task * per_task + i;
                let (first, at) = (row_number / len * len, row_number % len);
                match self.kind {
                    Kind::Scan => {
                        for (to, order) in row.chunks_exact_mut(c).zip(self.orders.iter()) {
                            let from = first + order.positions()[at] as usize;
                            to.copy_from_slice(&x[from * c..][..c]);
                        }
                    }
                    Kind::Merge => {
                        for (j, order) in self.orders.iter().enumerate() {
                            let from = (first + order.steps()[at] as usize) * k + j;
                            for (to, &v) in row.iter_mut().zip(&x[from * c..][..c]) {
                                *to += v;
                            }
                        }
                    }
                    Kind::ScanEach | Kind::MergeEach => {
                        let to = row.chunks_exact_mut(c);
                        for (j, (to, order)) in to.zip(self.orders.iter()).enumerate() {
                            let other = match self.kind {
                                Kind::ScanEach => order.positions(),
                                _ => order.steps(),
                            };
                            let from = (first + other[at] as usize) * k + j;
                            to.copy_from_slice(&x[from * c..][..c]);
                        }
                    }
                }
            }
        });
        Ok(out)
    }

    fn plan(&self, _: Type, _: &[&Shape]) -> Result<Plan> {
        Err(no_cuda_kernel(
            self.name(),
            "Tensor::index_select by the order's positions runs there; of the scans \
             ScanParams::over_map does",
        ))
    }

    fn gradients(&self, _: &[&Tensor], _: &Tensor, grad: &Tensor) -> Result<Gradients> {
        let adjoint = Cross { kind: self.kind.adjoint(), orders: self.orders.clone() };
        Ok([Some(apply_untracked(adjoint, &[grad])?), None, None])
    }
}
