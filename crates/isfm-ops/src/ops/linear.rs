use candle_core::{Result, Shape, Tensor};

use crate::check;
use crate::epilogue::Epilogue;
use crate::op::{Gradients, Input, Op, apply, apply_untracked, unpack};
use crate::ops::activation::SiluRows;
use crate::parallel::{fill_parts, sum_rows};
use crate::product::{self, ROWS, add_columns, few_rows, outer_sum};
use crate::simd::{Real, dispatch};

const OP: &str = "linear";

/// A linear layer on the last axis, `x · weightᵀ + bias`, then `epilogue`.
///
/// # Shapes
/// - `x`: …×Cin
/// - `weight`: Cout×Cin (PyTorch's layout)
/// - `bias`: Cout
/// - returns …×Cout
///
/// # Errors
/// If a shape does not fit, Cin is 0, or the element types differ or are not `F32` or `F64` (on
/// CUDA `F32`, `F16` or `BF16`).
pub fn linear(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    epilogue: Epilogue<'_>,
) -> Result<Tensor> {
    check::types(OP, x, &[("weight", weight)])?;
    let (rows, cin) = check::rows(OP, x)?;
    let cout = match *weight.dims() {
        [cout, c] if c == cin => cout,
        _ => {
            let needed = format!("[outputs, {cin}]");
            return Err(check::shape_error(OP, "weight", weight.dims(), needed));
        }
    };
    if let Some(bias) = bias {
        check::like(OP, "bias", bias, &[cout], x.dtype())?;
    }
    if cin == 0 {
        return Err(check::shape_error(OP, "x", x.dims(), "at least one value in the last axis"));
    }
    if rows == 0 || cout == 0 {
        return epilogue.of(Tensor::zeros(with_last(x.shape(), cout), x.dtype(), x.device())?);
    }
    let inputs: Vec<&Tensor> = [x, weight].into_iter().chain(bias).collect();
    let silu = epilogue.is_fused_silu(inputs.iter().copied());
    let y = apply(Linear { transposed: false, silu }, &inputs)?;
    if silu { Ok(y) } else { epilogue.of(y) }
}

fn with_last(shape: &Shape, last: usize) -> Shape {
    let mut dims = shape.dims().to_vec();
    dims.pop();
    dims.push(last);
    dims.into()
}

/// The product with the weights' transpose; with `transposed` with the weights themselves.
struct Linear {
    transposed: bool,
    /// Whether SiLU follows; only if no input is tracked.
    silu: bool,
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        OP
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        let (outputs, columns) = inputs[1].dims2()?;
        Ok(with_last(inputs[0], if self.transposed { columns } else { outputs }))
    }

    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        let (x, w, bias) = (inputs[0].data, inputs[1].data, inputs.get(2).map(|b| b.data));
        let (outputs, columns) = inputs[1].shape.dims2()?;
        if !self.transposed && x.len() / columns <= few_rows::MOST {
            // For so few rows packing the weights would take longer than the product.
            let mut out = few_rows::product(x, w, bias, columns);
            if self.silu {
                dispatch(SiluRows(&mut out));
            }
            return Ok(out);
        }
        let packed = if self.transposed {
            product::Packed::new(outputs, columns, |r, j| w[r * columns + j])
        } else {
            product::Packed::transposed(w, columns, outputs)
        };
        let (cin, cout) = (packed.depth(), packed.columns());
        Ok(fill_parts(x.len() / cin * cout, ROWS * cout, |start, dst, _| {
            packed.start_from(bias, dst);
            packed.accumulate(&x[start / cout * cin..][..dst.len() / cout * cin], dst);
            if self.silu {
                dispatch(SiluRows(dst));
            }
        }))
    }

    /// By cuBLAS, and a kernel for bias and SiLU.
    #[cfg(feature = "cuda")]
    fn cuda(&self, inputs: &[crate::cuda::Input<'_>]) -> Result<candle_core::CudaStorage> {
        crate::cuda::linear(self.transposed, self.silu, inputs)
    }

    fn gradients(&self, inputs: &[&Tensor], _: &Tensor, grad: &Tensor) -> Result<Gradients> {
        let (x, weight, bias) = (inputs[0], inputs[1], inputs.get(2));
        let mut all = [None, None, None];
        if x.track_op() {
            let adjoint = Linear { transposed: true, silu: false };
            all[0] = Some(apply_untracked(adjoint, &[grad, weight])?);
        }
        if weight.track_op() || bias.is_some_and(|b| b.track_op()) {
            let sums = apply_untracked(WeightGradient, &[x, grad])?;
            let [dw, db] = unpack(&sums, [weight.shape(), &weight.dim(0)?.into()])?;
            (all[1], all[2]) = (Some(dw), Some(db));
        }
        Ok(all)
    }
}

/// The gradients of the weights (Cout×Cin) and of the bias (Cout), one after the other.
struct WeightGradient;

impl Op for WeightGradient {
    fn name(&self) -> &'static str {
        "linear weight gradient"
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        let last = |shape: &Shape| shape.dims().last().copied().unwrap_or(1);
        Ok((last(inputs[1]) * (last(inputs[0]) + 1)).into())
    }

    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        let last = |input: &Input<'_, E>| input.shape.dims().last().copied().unwrap_or(1);
        let (cin, cout) = (last(&inputs[0]), last(&inputs[1]));
        let (x, grad) = (inputs[0].data, inputs[1].data);
        Ok(sum_rows(grad.len() / cout, cout * (cin + 1), |rows, sums| {
            let (weight, bias) = sums.split_at_mut(cout * cin);
            let grad = &grad[rows.start * cout..rows.end * cout];
            let x = &x[rows.start * cin..rows.end * cin];
            for (grad, x) in grad.chunks(ROWS * cout).zip(x.chunks(ROWS * cin)) {
                outer_sum((grad, cout), (x, cin), weight);
                add_columns(grad, bias);
            }
        }))
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, inputs: &[crate::cuda::Input<'_>]) -> Result<candle_core::CudaStorage> {
        crate::cuda::linear_weight(inputs)
    }
}
