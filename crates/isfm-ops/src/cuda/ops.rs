//! This crate's operations on a GPU: which plan, with which sizes.

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::{CudaStorage, DType, Layout, Result, Shape};
use isfm_kernels::map::{self, Map};
use isfm_kernels::pointwise::{self, Gate};
use isfm_kernels::{Limit, Plan, Type};

use super::{kernel_type, run_one};

type Source<'a> = (&'a CudaStorage, &'a Layout);
type Made = Result<(CudaStorage, Shape)>;

fn type_of(op: &'static str, x: Source<'_>) -> Result<Type> {
    kernel_type(op, x.0.dtype())
}

fn map_of(layout: &Layout) -> Result<Map> {
    let (batch, height, width, channels) = layout.shape().dims4()?;
    Ok(Map { batch, height, width, channels })
}

fn last(layout: &Layout) -> usize {
    layout.dims().last().copied().unwrap_or(1)
}

/// For plans of elements: all inputs and the result have the first one's shape.
fn each(
    op: &'static str,
    inputs: &[Source<'_>],
    plan: impl FnOnce(Type, usize) -> std::result::Result<Plan, Limit>,
) -> Made {
    let layout = inputs[0].1;
    let plan = plan(type_of(op, inputs[0])?, layout.shape().elem_count());
    run_one(plan, inputs, layout.shape().clone())
}

pub(crate) fn silu(x: Source<'_>) -> Made {
    each("silu", &[x], pointwise::silu)
}

pub(crate) fn silu_gradient(inputs: [Source<'_>; 2]) -> Made {
    each("silu", &inputs, pointwise::silu_backward)
}

pub(crate) fn gate(gate: Gate, inputs: [Source<'_>; 2]) -> Made {
    each("gate", &inputs, |t, n| pointwise::gate(t, gate, n))
}

pub(crate) fn gate_gradient(gate: Gate, inputs: [Source<'_>; 3]) -> Made {
    let layout = inputs[0].1;
    let t = type_of("gate", inputs[0])?;
    let plan = pointwise::gate_backward(t, gate, layout.shape().elem_count());
    run_one(plan, &inputs, [&[2], layout.dims()].concat())
}

pub(crate) fn weighted_sum(alpha: f64, beta: f64, inputs: [Source<'_>; 2]) -> Made {
    each("weighted_sum", &inputs, |t, n| pointwise::weighted_sum(t, alpha as f32, beta as f32, n))
}

/// x, scale and maybe y.
pub(crate) fn scale_add(inputs: &[Source<'_>]) -> Made {
    let (x, scale) = (inputs[0].1, inputs[1].1);
    let channels = last(scale);
    let each_image = scale.dims().len() == 2;
    let images = if each_image { scale.dims()[0] } else { 1 };
    let rows = x.shape().elem_count() / (images * channels).max(1);
    let t = type_of("scale_add", inputs[0])?;
    let plan = pointwise::scale_add(t, [images, rows, channels], each_image, inputs.len() > 2);
    run_one(plan, inputs, x.shape().clone())
}

pub(crate) fn sum_of_products(images: usize, inputs: [Source<'_>; 2]) -> Made {
    let layout = inputs[0].1;
    let columns = last(layout);
    let rows = layout.shape().elem_count() / (images * columns).max(1);
    let t = type_of("scale_add", inputs[0])?;
    run_one(pointwise::product_sums(t, [images, rows, columns]), &inputs, images * columns)
}

fn rows(layout: &Layout) -> (usize, usize) {
    let columns = last(layout);
    (layout.shape().elem_count() / columns.max(1), columns)
}

pub(crate) fn layer_norm(eps: f64, inputs: [Source<'_>; 3]) -> Made {
    let layout = inputs[0].1;
    let (rows, columns) = rows(layout);
    let t = type_of("layer_norm", inputs[0])?;
    run_one(pointwise::layer_norm(t, rows, columns, eps as f32), &inputs, layout.shape().clone())
}

pub(crate) fn layer_norm_gradient(eps: f64, inputs: [Source<'_>; 3]) -> Made {
    let (rows, columns) = rows(inputs[0].1);
    let t = type_of("layer_norm", inputs[0])?;
    let plan = pointwise::layer_norm_backward(t, rows, columns, eps as f32);
    run_one(plan, &inputs, (rows + 2) * columns)
}

pub(crate) fn avg_pool(k: usize, x: Source<'_>) -> Made {
    let plan = map::avg_pool(type_of("avg_pool2d", x)?, map_of(x.1)?, k);
    run_one(plan, &[x], x.1.shape().clone())
}

pub(crate) fn max_pool(k: usize, x: Source<'_>) -> Made {
    let plan = map::max_pool(type_of("max_pool2d", x)?, map_of(x.1)?, k);
    run_one(plan, &[x], x.1.shape().clone())
}

pub(crate) fn max_pool_gradient(k: usize, inputs: [Source<'_>; 2]) -> Made {
    let layout = inputs[0].1;
    let plan = map::max_pool_backward(type_of("max_pool2d", inputs[0])?, map_of(layout)?, k);
    run_one(plan, &inputs, layout.shape().clone())
}

pub(crate) fn resize(
    from: (usize, usize),
    to: (usize, usize),
    adjoint: bool,
    x: Source<'_>,
) -> Made {
    let t = type_of("resize_bilinear", x)?;
    let map = map_of(x.1)?;
    let maps = Map { height: from.0, width: from.1, ..map };
    let (plan, (height, width)) = if adjoint {
        (map::resize_backward(t, maps, to.0, to.1), from)
    } else {
        (map::resize(t, maps, to.0, to.1), to)
    };
    run_one(plan, &[x], (map.batch, height, width, map.channels))
}

/// x, weight and maybe bias.
pub(crate) fn depthwise(flip: bool, inputs: &[Source<'_>]) -> Made {
    let t = type_of("depthwise_conv2d", inputs[0])?;
    let (x, k) = (inputs[0].1, last(inputs[1].1));
    let plan = map::depthwise(t, map_of(x)?, k, flip, inputs.len() > 2);
    run_one(plan, inputs, x.shape().clone())
}

pub(crate) fn depthwise_weight(k: usize, inputs: [Source<'_>; 2]) -> Made {
    let t = type_of("depthwise_conv2d", inputs[0])?;
    let map = map_of(inputs[0].1)?;
    run_one(map::depthwise_weight(t, map, k), &inputs, map.channels * (k * k + 1))
}

/// x, weight and maybe bias.
pub(crate) fn conv(adjoint: bool, inputs: &[Source<'_>]) -> Made {
    let t = type_of("conv2d", inputs[0])?;
    let map = map_of(inputs[0].1)?;
    let (outputs, channels, k, _) = inputs[1].1.shape().dims4()?;
    let (plan, outputs) = if adjoint {
        (map::conv_adjoint(t, map, channels, k), channels)
    } else {
        (map::conv(t, map, outputs, k, inputs.len() > 2), outputs)
    };
    run_one(plan, inputs, (map.batch, map.height, map.width, outputs))
}

pub(crate) fn conv_weight(k: usize, inputs: [Source<'_>; 2]) -> Made {
    let t = type_of("conv2d", inputs[0])?;
    let (map, outputs) = (map_of(inputs[0].1)?, last(inputs[1].1));
    let size = outputs * (map.channels * k * k + 1);
    run_one(map::conv_weight(t, map, outputs, k), &inputs, size)
}

/// A contiguous matrix where a layout starts.
fn matrix(layout: &Layout, rows: usize, columns: usize) -> Layout {
    Layout::contiguous_with_offset((rows, columns), layout.start_offset())
}

/// x·weightᵀ + bias by cuBLAS; with `transposed` x·weight.
pub(crate) fn linear(
    transposed: bool,
    x: Source<'_>,
    weight: Source<'_>,
    bias: Option<Source<'_>>,
) -> Made {
    let t = type_of("linear", x)?;
    let (rows_w, columns_w) = weight.1.shape().dims2()?;
    let (rows, cin) = rows(x.1);
    let w = matrix(weight.1, rows_w, columns_w);
    let (w, cout) = if transposed { (w, columns_w) } else { (w.transpose(0, 1)?, rows_w) };
    let y = x.0.matmul(weight.0, (1, rows, cout, cin), &matrix(x.1, rows, cin), &w)?;
    let mut dims = x.1.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = cout;
    }
    match bias {
        None => Ok((y, dims.into())),
        Some(bias) => {
            let layout = Layout::contiguous((rows, cout));
            run_one(pointwise::add_bias(t, rows, cout), &[(&y, &layout), bias], dims)
        }
    }
}

/// The gradients of a linear layer's weights and bias, one after the other.
pub(crate) fn linear_weight(x: Source<'_>, grad: Source<'_>) -> Made {
    let t = type_of("linear", x)?;
    let ((rows, cin), cout) = (rows(x.1), last(grad.1));
    let left = matrix(grad.1, rows, cout).transpose(0, 1)?;
    let weight = grad.0.matmul(x.0, (1, cout, cin, rows), &left, &matrix(x.1, rows, cin))?;
    let (bias, _) = run_one(pointwise::column_sums(t, rows, cout), &[grad], cout)?;
    let shape = Shape::from(cout * (cin + 1));
    let dtype: DType = x.0.dtype();
    // SAFETY: the two copies write every element.
    let mut out = unsafe { x.0.device.alloc_uninit(&shape, dtype)? };
    weight.copy_strided_src(&mut out, 0, &Layout::contiguous(cout * cin))?;
    bias.copy_strided_src(&mut out, cout * cin, &Layout::contiguous(cout))?;
    Ok((out, shape))
}
