use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Shape, Tensor};

use crate::activation::{SiluRows, silu};
use crate::few_rows;
use crate::matmul::{OuterSum, Packed, Product};
use crate::rows::ROWS;
use crate::shared::{
    check_dims, check_types, fill_parts, rows_of, shape_error, sum_rows, untracked,
};
use crate::simd::{Real, dispatch};
use crate::{Result, cpu};

const OP: &str = "linear";

/// A linear layer on the last axis: `x · weightᵀ + bias`.
///
/// # Shapes
/// - `x`: …×Cin
/// - `weight`: Cout×Cin (PyTorch's layout)
/// - `bias`: Cout
/// - returns …×Cout
///
/// # Errors
/// If a shape does not fit, Cin is 0, or the element types differ or are not `F32` or `F64`.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    apply(x, weight, bias, false)
}

/// [`linear`] followed by SiLU; without gradients in one pass over the result.
///
/// # Shapes
/// As [`linear`].
///
/// # Errors
/// As [`linear`].
pub fn linear_silu(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    if untracked([x, weight].into_iter().chain(bias)) {
        return apply(x, weight, bias, true);
    }
    silu(&linear(x, weight, bias)?)
}

fn apply(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, silu: bool) -> Result<Tensor> {
    check_types(OP, x, &[("weight", weight)])?;
    let (rows, cin) = rows_of(OP, x)?;
    let cout = match *weight.dims() {
        [cout, c] if c == cin => cout,
        _ => return Err(shape_error(OP, "weight", weight.dims(), format!("[outputs, {cin}]"))),
    };
    if let Some(bias) = bias {
        check_types(OP, x, &[("bias", bias)])?;
        check_dims(OP, "bias", bias, &[cout])?;
    }
    if cin == 0 {
        return Err(shape_error(OP, "x", x.dims(), "at least one value in the last axis"));
    }
    if rows == 0 || cout == 0 {
        let mut dims = x.dims().to_vec();
        dims.pop();
        dims.push(cout);
        return Ok(Tensor::zeros(dims, x.dtype(), x.device())?);
    }
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    let op = Linear { transposed: false, silu, few: rows <= few_rows::MOST };
    Ok(match bias {
        Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, op)?,
        None => x.apply_op2(&weight, op)?,
    })
}

/// The product with the weights' transpose; with `transposed` with the weights themselves.
struct Linear {
    transposed: bool,
    /// Whether SiLU follows; only where no gradient is asked for.
    silu: bool,
    /// Whether there are so few rows that packing the weights would take longest.
    few: bool,
}

impl Linear {
    fn storage<E: Real>(
        &self,
        x: (&CpuStorage, &Layout),
        weight: (&CpuStorage, &Layout),
        bias: Option<(&CpuStorage, &Layout)>,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (rows, columns) = weight.1.shape().dims2()?;
        let w = cpu::slice::<E>(weight.0, weight.1)?;
        if self.few {
            let bias = bias.map(|(s, l)| cpu::slice::<E>(s, l)).transpose()?;
            let mut out = few_rows::product(cpu::slice::<E>(x.0, x.1)?, w, bias, columns);
            if self.silu {
                dispatch(SiluRows(&mut out));
            }
            let mut dims = x.1.dims().to_vec();
            if let Some(last) = dims.last_mut() {
                *last = rows;
            }
            return Ok((E::to_cpu_storage_owned(out), dims.into()));
        }
        let packed = if self.transposed {
            Packed::new(rows, columns, |r, j| w[r * columns + j])
        } else {
            Packed::new(columns, rows, |r, j| w[j * columns + r])
        };
        let cin = if self.transposed { rows } else { columns };
        let cout = packed.columns();
        let bias = bias.map(|(s, l)| cpu::slice::<E>(s, l)).transpose()?;
        let src = cpu::slice::<E>(x.0, x.1)?;
        let out = fill_parts(src.len() / cin * cout, ROWS * cout, |start, dst, _| {
            if let Some(bias) = bias {
                dst.chunks_exact_mut(cout).for_each(|row| row.copy_from_slice(bias));
            }
            let count = dst.len() / cout;
            dispatch(Product {
                src: &src[start / cout * cin..][..count * cin],
                src_line: 0,
                step: cin,
                run: cin,
                reach: 1,
                weights: &packed,
                dst,
                dst_line: 0,
                lines: 1,
                count,
            });
            if self.silu {
                dispatch(SiluRows(dst));
            }
        });
        let mut dims = x.1.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = cout;
        }
        Ok((E::to_cpu_storage_owned(out), dims.into()))
    }

    /// The gradients of the arguments that ask for one; an image or frozen weights do not.
    fn gradients(
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        grad: &Tensor,
    ) -> candle_core::Result<[Option<Tensor>; 3]> {
        let grad = grad.contiguous()?;
        let mut all = [None, None, None];
        if x.track_op() {
            let op = Linear { transposed: true, silu: false, few: false };
            all[0] = Some(grad.apply_op2_no_bwd(weight, &op)?);
        }
        if weight.track_op() || bias.is_some_and(Tensor::track_op) {
            let sums = x.apply_op2_no_bwd(&grad, &WeightGradient)?;
            let size = weight.elem_count();
            all[1] = Some(sums.narrow(0, 0, size)?.reshape(weight.shape())?);
            all[2] = Some(sums.narrow(0, size, sums.elem_count() - size)?);
        }
        Ok(all)
    }
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        for_float!(OP, x, E => self.storage::<E>((x, lx), (w, lw), None))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        lx: &Layout,
        y: &candle_core::CudaStorage,
        ly: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        crate::cuda::linear(self.transposed, self.silu, (x, lx), (y, ly), None)
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let [dx, dw, _] = Self::gradients(x, w, None, grad)?;
        Ok((dx, dw))
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        for_float!(OP, x, E => self.storage::<E>((x, lx), (w, lw), Some((b, lb))))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        lx: &Layout,
        y: &candle_core::CudaStorage,
        ly: &Layout,
        z: &candle_core::CudaStorage,
        lz: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        crate::cuda::linear(self.transposed, self.silu, (x, lx), (y, ly), Some((z, lz)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [dx, dw, db] = Self::gradients(x, w, Some(b), grad)?;
        Ok((dx, dw, db))
    }
}

/// The gradients of the weights (Cout×Cin) and of the bias (Cout), one after the other.
struct WeightGradient;

impl WeightGradient {
    fn storage<E: Real>(
        x: (&CpuStorage, &Layout),
        grad: (&CpuStorage, &Layout),
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let last = |l: &Layout| l.dims().last().copied().unwrap_or(1);
        let (cin, cout) = (last(x.1), last(grad.1));
        let (x, grad) = (cpu::slice::<E>(x.0, x.1)?, cpu::slice::<E>(grad.0, grad.1)?);
        let out = sum_rows(grad.len() / cout, cout * (cin + 1), |rows, sums| {
            let (weight, bias) = sums.split_at_mut(cout * cin);
            let grad = &grad[rows.start * cout..rows.end * cout];
            let x = &x[rows.start * cin..rows.end * cin];
            for (grad, x) in grad.chunks(ROWS * cout).zip(x.chunks(ROWS * cin)) {
                add_outer_sum(grad, cout, x, cin, weight);
                add_columns(grad, bias);
            }
        });
        let shape = Shape::from(out.len());
        Ok((E::to_cpu_storage_owned(out), shape))
    }
}

/// `sums += Σ grad ⊗ x` over contiguous rows.
fn add_outer_sum<E: Real>(grad: &[E], cout: usize, x: &[E], cin: usize, sums: &mut [E]) {
    dispatch(OuterSum {
        a: grad,
        step_a: cout,
        rows: cout,
        b: x,
        step_b: cin,
        columns: cin,
        count: grad.len() / cout,
        sums,
    });
}

/// Adds every row of `rows` to `sums`.
pub(crate) fn add_columns<E: Real>(rows: &[E], sums: &mut [E]) {
    for row in rows.chunks_exact(sums.len()) {
        for (s, &v) in sums.iter_mut().zip(row) {
            *s += v;
        }
    }
}

impl CustomOp2 for WeightGradient {
    fn name(&self) -> &'static str {
        "linear weight gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        g: &CpuStorage,
        lg: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        for_float!(OP, x, E => Self::storage::<E>((x, lx), (g, lg)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        lx: &Layout,
        y: &candle_core::CudaStorage,
        ly: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        crate::cuda::linear_weight((x, lx), (y, ly))
    }
}
