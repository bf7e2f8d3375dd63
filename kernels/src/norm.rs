//! Plans of the layer norm, `norm.cu`.

use crate::launch::count;
use crate::sums::sum_blocks;
use crate::{Arg, Limit, Module, Plan, Type};

/// Layer norm of rows. Inputs x (`rows`×`columns`), weight, bias; output as x.
///
/// # Errors
/// For 2³¹ elements or more.
pub fn layer_norm(t: Type, rows: usize, columns: usize, eps: f32) -> Result<Plan, Limit> {
    let n = count("layer_norm", "the number of elements", &[rows, columns])? as usize;
    let mut p = Plan::new();
    let args = [p.input(t, n), p.input(t, columns), p.input(t, columns), p.output(t, n)];
    let numbers = [Arg::F32(eps), Arg::U32(rows as u32), Arg::U32(columns as u32)];
    // At least one warp for each row; with many rows a warp takes several and reads its weights
    // once.
    let blocks = count("layer_norm", "the number of rows", &[rows])?.div_ceil(8).min(1 << 11);
    p.blocks(Module::Norm, t.kernel("layer_norm"), [blocks, 256], &[&args, &numbers]);
    Ok(p)
}

/// The gradient of [`layer_norm`]. Inputs x, weight, dy; output dx, then those of weight and bias.
///
/// # Errors
/// For 2³¹ elements or more.
pub fn layer_norm_backward(t: Type, rows: usize, columns: usize, eps: f32) -> Result<Plan, Limit> {
    let n = count("layer_norm", "the number of elements", &[rows, columns])? as usize;
    let r = count("layer_norm", "the number of rows", &[rows])?;
    let c = columns as u32;
    // Blocks that fill a large GPU, of rows that they take 16 at a time.
    let each = r.div_ceil(1 << 9).max(1).next_multiple_of(16);
    let parts = r.div_ceil(each).max(1);
    let mut p = Plan::new();
    let (x, weight, dy) = (p.input(t, n), p.input(t, columns), p.input(t, n));
    let out = p.output(t, n + 2 * columns);
    let moments = p.temporary(Type::F32, 2 * rows);
    let sums = p.temporary(Type::F32, 2 * columns * parts as usize);
    let args = [x, weight, dy, out, moments, sums, Arg::F32(eps)];
    let numbers = [r, c, each].map(Arg::U32);
    p.blocks(Module::Norm, t.kernel("layer_norm_backward"), [parts, 256], &[&args, &numbers]);
    let args = [sums, out.at(n), Arg::U32(c), Arg::U32(parts)];
    p.blocks(Module::Norm, t.kernel("layer_norm_sums"), [sum_blocks(2 * c), 256], &[&args]);
    Ok(p)
}
