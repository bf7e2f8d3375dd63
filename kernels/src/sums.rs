//! Plans of sums over rows, `sums.cu`, and what other plans need of them.

use crate::launch::count;
use crate::{Arg, Limit, Module, Plan, Type};

/// For each image the sum over its rows of a ⊙ b. Inputs a, b (`images`×`rows`×`columns`); output
/// `images`×`columns`.
///
/// # Errors
/// For 2³¹ elements or more.
pub fn product_sums(t: Type, [images, rows, columns]: [usize; 3]) -> Result<Plan, Limit> {
    let n = count("scale_add", "the number of elements", &[images, rows, columns])? as usize;
    let mut p = Plan::new();
    let (a, b, out) = (p.input(t, n), p.input(t, n), p.output(t, images * columns));
    let (rows, columns) = (rows as u32, columns as u32);
    let (_, parts) = cut(rows, columns);
    let part = (parts * columns) as usize;
    let sums = p.temporary(Type::F32, images * part);
    for image in 0..images {
        let at = image * n / images;
        part_sums(&mut p, t, [a.at(at), b.at(at)], sums.at(image * part), rows, columns);
    }
    add_parts(&mut p, t, sums, out, [columns, parts, images as u32]);
    Ok(p)
}

/// The sum over all rows. Input `rows`×`columns`, output `columns`.
///
/// # Errors
/// For 2³¹ elements or more.
pub fn column_sums(t: Type, rows: usize, columns: usize) -> Result<Plan, Limit> {
    let n = count("linear", "the number of elements", &[rows, columns])? as usize;
    let mut p = Plan::new();
    let (a, out) = (p.input(t, n), p.output(t, columns));
    sum_columns(&mut p, t, [a, Arg::Null], out, rows as u32, columns as u32);
    Ok(p)
}

/// Elements of a part of [`magnitudes`] (`ISFM_PART`).
pub const MAGNITUDE_PART: usize = 4096;

/// Of each [part](magnitude_parts) of consecutive elements the sum of the squares and the largest magnitude, in
/// pairs; what is not a number is in the sum alone. Input `n`, output two for each part.
///
/// # Errors
/// For 2³¹ elements or more.
pub fn magnitudes(n: usize) -> Result<Plan, Limit> {
    let size = count("magnitudes", "the number of elements", &[n])?;
    let mut p = Plan::new();
    let t = Type::F32;
    let (from, to) = (p.input(t, n), p.output(t, 2 * magnitude_parts(n)));
    let grid = [magnitude_parts(n) as u32, 256];
    p.blocks(Module::Sums, t.kernel("magnitudes"), grid, &[&[from, to, Arg::U32(size)]]);
    Ok(p)
}

/// The parts that [`magnitudes`] of `n` elements has.
pub fn magnitude_parts(n: usize) -> usize {
    n.div_ceil(MAGNITUDE_PART)
}

/// How many rows each part has, and how many parts, that sums over `rows` rows of `columns` values
/// are cut into: a function of the sizes alone, so that results are the same on every GPU.
fn cut(rows: u32, columns: u32) -> (u32, u32) {
    const THREADS_WANTED: u32 = 1 << 16;
    let wanted = (THREADS_WANTED / columns.max(1)).clamp(1, 1024);
    let each = rows.div_ceil(wanted).max(16);
    (each, rows.div_ceil(each).max(1))
}

/// Sums over parts of the rows, as [`cut`] cuts them.
fn part_sums(p: &mut Plan, t: Type, [a, b]: [Arg; 2], to: Arg, rows: u32, columns: u32) {
    let (each, parts) = cut(rows, columns);
    let sizes = [rows, columns, each, parts].map(Arg::U32);
    p.each(Module::Sums, t.kernel("column_sums"), columns * parts, &[&[a, b, to], &sizes]);
}

/// The sum over all rows of a ⊙ b, or of a.
pub(crate) fn sum_columns(p: &mut Plan, t: Type, ab: [Arg; 2], to: Arg, rows: u32, columns: u32) {
    let (_, parts) = cut(rows, columns);
    let sums = p.temporary(Type::F32, (parts * columns) as usize);
    part_sums(p, t, ab, sums, rows, columns);
    add_parts(p, t, sums, to, [columns, parts, 1]);
}

/// Adds `parts` of `n` values each, for each of `groups`.
fn add_parts(p: &mut Plan, t: Type, from: Arg, to: Arg, [n, parts, groups]: [u32; 3]) {
    let sizes = [n, parts, groups].map(Arg::U32);
    p.each(Module::Sums, t.kernel("add_parts"), n * groups, &[&[from, to], &sizes]);
}

/// Blocks for `sum_parts` (`portable.cuh`) of `n` values.
pub(crate) fn sum_blocks(n: u32) -> u32 {
    n.div_ceil(32)
}
