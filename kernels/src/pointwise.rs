//! Plans of the operations that know no rows and columns of a map: element by element, and rows of
//! channels. `n` counts elements.

use crate::launch::{count, parts};
use crate::{Arg, Limit, Module, Plan, Type};

/// What a gate multiplies with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// z·sigmoid(z).
    Silu,
    /// sigmoid(z).
    Sigmoid,
}

impl Gate {
    fn name(self) -> &'static str {
        match self {
            Self::Silu => "silu_gate",
            Self::Sigmoid => "sigmoid_gate",
        }
    }
}

/// x·sigmoid(x). Input x, output the same size.
///
/// # Errors
/// For 2³¹ elements or more.
pub fn silu(t: Type, n: usize) -> Result<Plan, Limit> {
    let size = count("silu", "the number of elements", &[n])?;
    let mut p = Plan::default();
    let args = vec![p.input(t, n), p.output(t, n), Arg::U32(size)];
    p.each(Module::Pointwise, "silu", t, size, args);
    Ok(p)
}

/// The gradient of [`silu`]. Inputs x, dy; output dx.
///
/// # Errors
/// For 2³¹ elements or more.
pub fn silu_backward(t: Type, n: usize) -> Result<Plan, Limit> {
    let size = count("silu", "the number of elements", &[n])?;
    let mut p = Plan::default();
    let args = vec![p.input(t, n), p.input(t, n), p.output(t, n), Arg::U32(size)];
    p.each(Module::Pointwise, "silu_backward", t, size, args);
    Ok(p)
}

/// x ⊙ gate(z). Inputs x, z; output the same size.
///
/// # Errors
/// For 2³¹ elements or more.
pub fn gate(t: Type, gate: Gate, n: usize) -> Result<Plan, Limit> {
    let size = count(gate.name(), "the number of elements", &[n])?;
    let mut p = Plan::default();
    let args = vec![p.input(t, n), p.input(t, n), p.output(t, n), Arg::U32(size)];
    p.each(Module::Pointwise, gate.name(), t, size, args);
    Ok(p)
}

/// The gradient of [`gate`]. Inputs x, z, dy; output dx, then dz.
///
/// # Errors
/// For 2³¹ elements or more.
pub fn gate_backward(t: Type, gate: Gate, n: usize) -> Result<Plan, Limit> {
    let size = count(gate.name(), "the number of elements", &[n])?;
    let mut p = Plan::default();
    let inputs = [p.input(t, n), p.input(t, n), p.input(t, n)];
    let out = p.output(t, 2 * n);
    let args = [&inputs[..], &[out, out.at(n), Arg::U32(size)]].concat();
    p.each(Module::Pointwise, &format!("{}_backward", gate.name()), t, size, args);
    Ok(p)
}

/// α·x + β·y. Inputs x, y; output the same size.
///
/// # Errors
/// For 2³¹ elements or more.
pub fn weighted_sum(t: Type, alpha: f32, beta: f32, n: usize) -> Result<Plan, Limit> {
    let size = count("weighted_sum", "the number of elements", &[n])?;
    let mut p = Plan::default();
    let mut args = vec![p.input(t, n), p.input(t, n), p.output(t, n)];
    args.extend([Arg::F32(alpha), Arg::F32(beta), Arg::U32(size)]);
    p.each(Module::Pointwise, "weighted_sum", t, size, args);
    Ok(p)
}

/// scale ⊙ x + y. Inputs x (`images`×`rows`×`channels`), scale (`channels`, or with `each_image`
/// `images`×`channels`) and, with `add`, y; output as x.
///
/// # Errors
/// For 2³¹ elements or more.
pub fn scale_add(
    t: Type,
    [images, rows, channels]: [usize; 3],
    each_image: bool,
    add: bool,
) -> Result<Plan, Limit> {
    let size = count("scale_add", "the number of elements", &[images, rows, channels])?;
    let n = size as usize;
    let mut p = Plan::default();
    let (x, factors) = (p.input(t, n), if each_image { images * channels } else { channels });
    let scale = p.input(t, factors);
    let y = if add { p.input(t, n) } else { Arg::Null };
    let image = if each_image { (rows * channels) as u32 } else { 0 };
    let out = p.output(t, n);
    let args = vec![x, scale, y, out, Arg::U32(channels as u32), Arg::U32(image), Arg::U32(size)];
    p.each(Module::Pointwise, "scale_add", t, size, args);
    Ok(p)
}

/// For each image the sum over its rows of a ⊙ b. Inputs a, b (`images`×`rows`×`columns`); output
/// `images`×`columns`.
///
/// # Errors
/// For 2³¹ elements or more.
pub fn product_sums(t: Type, [images, rows, columns]: [usize; 3]) -> Result<Plan, Limit> {
    let n = count("scale_add", "the number of elements", &[images, rows, columns])? as usize;
    let mut p = Plan::default();
    let (a, b, out) = (p.input(t, n), p.input(t, n), p.output(t, images * columns));
    let (rows, columns) = (rows as u32, columns as u32);
    let (_, count) = parts(rows, columns);
    let part = (count * columns) as usize;
    let sums = p.scratch(Type::F32, images * part);
    for image in 0..images {
        let at = image * n / images;
        part_sums(&mut p, t, [a.at(at), b.at(at)], sums.at(image * part), rows, columns);
    }
    add_parts(&mut p, t, sums, out, [columns, count, images as u32]);
    Ok(p)
}

/// x + bias, with `silu` SiLU of that. Inputs x (`rows`×`columns`), bias; output as x.
///
/// # Errors
/// For 2³¹ elements or more.
pub fn add_bias(t: Type, rows: usize, columns: usize, silu: bool) -> Result<Plan, Limit> {
    let size = count("linear", "the number of elements", &[rows, columns])?;
    let n = size as usize;
    let mut p = Plan::default();
    let mut args = vec![p.input(t, n), p.input(t, columns), p.output(t, n)];
    args.extend([columns as u32, silu.into(), size].map(Arg::U32));
    p.each(Module::Pointwise, "add_bias", t, size, args);
    Ok(p)
}

/// The sum over all rows. Input `rows`×`columns`, output `columns`.
///
/// # Errors
/// For 2³¹ elements or more.
pub fn column_sums(t: Type, rows: usize, columns: usize) -> Result<Plan, Limit> {
    let n = count("linear", "the number of elements", &[rows, columns])? as usize;
    let mut p = Plan::default();
    let (a, out) = (p.input(t, n), p.output(t, columns));
    sum_columns(&mut p, t, [a, Arg::Null], out, rows as u32, columns as u32);
    Ok(p)
}

/// Sums over parts of the rows, as [`parts`] cuts them.
fn part_sums(p: &mut Plan, t: Type, [a, b]: [Arg; 2], to: Arg, rows: u32, columns: u32) {
    let (each, count) = parts(rows, columns);
    let sizes = [rows, columns, each, count].map(Arg::U32);
    let args = [&[a, b, to], &sizes[..]].concat();
    p.each(Module::Sums, "column_sums", t, columns * count, args);
}

/// The sum over all rows of a ⊙ b, or of a.
pub(crate) fn sum_columns(p: &mut Plan, t: Type, ab: [Arg; 2], to: Arg, rows: u32, columns: u32) {
    let (_, count) = parts(rows, columns);
    let sums = p.scratch(Type::F32, (count * columns) as usize);
    part_sums(p, t, ab, sums, rows, columns);
    add_parts(p, t, sums, to, [columns, count, 1]);
}

/// Adds `count` parts of `n` values each, for each of `groups`.
pub(crate) fn add_parts(p: &mut Plan, t: Type, from: Arg, to: Arg, [n, count, groups]: [u32; 3]) {
    let args = vec![from, to, Arg::U32(n), Arg::U32(count), Arg::U32(groups)];
    p.each(Module::Sums, "add_parts", t, n * groups, args);
}

/// Layer norm of rows. Inputs x (`rows`×`columns`), weight, bias; output as x.
///
/// # Errors
/// For 2³¹ elements or more.
pub fn layer_norm(t: Type, rows: usize, columns: usize, eps: f32) -> Result<Plan, Limit> {
    let n = count("layer_norm", "the number of elements", &[rows, columns])? as usize;
    let mut p = Plan::default();
    let mut args = vec![p.input(t, n), p.input(t, columns), p.input(t, columns), p.output(t, n)];
    args.extend([Arg::F32(eps), Arg::U32(rows as u32), Arg::U32(columns as u32)]);
    // A warp a row at the least; where there are many a thread has several and needs its weights
    // only once.
    let blocks = count("layer_norm", "the number of rows", &[rows])?.div_ceil(8).min(1 << 11);
    p.blocks(Module::Norm, format!("layer_norm_{}", t.suffix()), blocks, 256, args);
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
    let count = r.div_ceil(each).max(1);
    let mut p = Plan::default();
    let (x, weight, dy) = (p.input(t, n), p.input(t, columns), p.input(t, n));
    let out = p.output(t, n + 2 * columns);
    let moments = p.scratch(Type::F32, 2 * rows);
    let sums = p.scratch(Type::F32, 2 * columns * count as usize);
    let mut args = vec![x, weight, dy, out, moments, sums, Arg::F32(eps)];
    args.extend([r, c, each].map(Arg::U32));
    let kernel = |name: &str| format!("{name}_{}", t.suffix());
    p.blocks(Module::Norm, kernel("layer_norm_backward"), count, 256, args);
    let args = vec![sums, out.at(n), Arg::U32(c), Arg::U32(count)];
    p.blocks(Module::Norm, kernel("layer_norm_sums"), sum_blocks(2 * c), 256, args);
    Ok(p)
}

/// Blocks for `sum_parts` (`portable.cuh`) of `n` values.
pub(crate) fn sum_blocks(n: u32) -> u32 {
    n.div_ceil(32)
}
