//! What the operations of this crate share: argument checks, the choice of an element type, and
//! sums over rows whose order does not depend on the number of threads.

use std::mem::MaybeUninit;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::simd::Real;
use crate::{Error, Result, cpu};

/// Evaluates `$body` with `$e` the element type of the storage `$s`.
macro_rules! for_float {
    ($op:expr, $s:expr, $e:ident => $body:expr) => {
        match candle_core::backend::BackendStorage::dtype($s) {
            candle_core::DType::F32 => {
                type $e = f32;
                $body
            }
            candle_core::DType::F64 => {
                type $e = f64;
                $body
            }
            got => {
                let needed = "F32 or F64";
                Err(candle_core::Error::from($crate::Error::DType { op: $op, got, needed }))
            }
        }
    };
}

/// Repeats `$body` for `$i` = 0..`$n` ≤ 6 without a loop. LLVM keeps an array of vectors in registers
/// only if it sees constant indices before it unrolls loops; otherwise a tile of sums is written
/// to the stack in every step.
macro_rules! unroll {
    ($i:ident < $n:expr, $body:block) => {
        unroll!(@ $i, $n, $body, 0 1 2 3 4 5)
    };
    (@ $i:ident, $n:expr, $body:block, $($at:literal)*) => {{
        const { assert!($n <= 6) };
        $(
            let $i = $at;
            if $i < $n $body
        )*
    }};
}

/// Whether nobody will ask for a gradient: what follows an operation may then be done with it.
pub(crate) fn untracked<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> bool {
    tensors.into_iter().all(|t| !t.track_op())
}

/// A shape error.
pub(crate) fn shape_error(
    op: &'static str,
    what: &'static str,
    got: impl std::fmt::Debug,
    needed: impl Into<String>,
) -> Error {
    Error::Shape { op, what, got: format!("{got:?}"), needed: needed.into() }
}

/// Refuses element types without a kernel, and arguments whose type is not the input's.
pub(crate) fn check_types(
    op: &'static str,
    x: &Tensor,
    others: &[(&'static str, &Tensor)],
) -> Result<()> {
    cpu::require_float(op, x)?;
    for &(what, t) in others {
        if t.dtype() != x.dtype() {
            return Err(Error::DTypeMismatch { op, what, got: t.dtype(), needed: x.dtype() });
        }
    }
    Ok(())
}

/// The four sizes of a feature map.
pub(crate) fn map_dims(op: &'static str, x: &Tensor) -> Result<(usize, usize, usize, usize)> {
    x.dims4().map_err(|_| shape_error(op, "x", x.dims(), "[batch, height, width, channels]"))
}

/// The size of the last axis, and how many rows of that size there are.
pub(crate) fn rows_of(op: &'static str, x: &Tensor) -> Result<(usize, usize)> {
    match x.dims() {
        [] => Err(shape_error(op, "x", x.dims(), "at least one axis")),
        [rows @ .., columns] => Ok((rows.iter().product(), *columns)),
    }
}

/// Refuses a tensor whose shape is not `dims`.
pub(crate) fn check_dims(
    op: &'static str,
    what: &'static str,
    t: &Tensor,
    dims: &[usize],
) -> Result<()> {
    if t.dims() == dims {
        Ok(())
    } else {
        Err(shape_error(op, what, t.dims(), format!("{dims:?}")))
    }
}

/// Refuses windows that have no middle.
pub(crate) fn check_odd(op: &'static str, k: usize) -> Result<()> {
    if k % 2 == 1 { Ok(()) } else { Err(shape_error(op, "window", k, "an odd size")) }
}

/// How many rows each partial sum covers: a function of the problem alone, never of the threads,
/// so that results do not depend on them.
pub(crate) fn rows_per_partial(rows: usize, width: usize) -> usize {
    // Enough parts for many threads, few enough that the partial sums stay below 64 MiB of f32.
    let parts = ((1 << 24) / width.max(1)).clamp(1, 32);
    rows.div_ceil(parts).max(1)
}

/// Sums of `width` values over `0..rows`: `add(range, sums)` adds the terms of some rows to `sums`.
pub(crate) fn sum_rows<E: Real>(
    rows: usize,
    width: usize,
    add: impl Fn(std::ops::Range<usize>, &mut [E]) + Sync,
) -> Vec<E> {
    let per = rows_per_partial(rows, width);
    let parts = rows.div_ceil(per).max(1);
    // Zeros that are written, not the system's: adding to an untouched page reads it first, which
    // maps the shared page of zeros, and then has to take that mapping back on every processor.
    let mut partials = fill_parts(width * parts, width, |start, sums, _| {
        let i = start / width;
        add(i * per..((i + 1) * per).min(rows), sums);
    });
    add_partials(&mut partials, width);
    partials
}

/// Adds all rows of `partials` to the first, in order, and keeps only that one.
pub(crate) fn add_partials<E: Real>(partials: &mut Vec<E>, width: usize) {
    const CHUNK: usize = 4096;
    if width == 0 {
        return;
    }
    let (total, rest) = partials.split_at_mut(width);
    let rest = &*rest;
    total.par_chunks_mut(CHUNK).enumerate().for_each(|(i, total)| {
        for part in rest.chunks_exact(width) {
            for (t, &v) in total.iter_mut().zip(&part[i * CHUNK..]) {
                *t += v;
            }
        }
    });
    partials.truncate(width);
}

/// `OUT` slices of `n` elements, one after the other in one vector, made in parallel: `f` gets where
/// its part starts, that part of each slice, set to zero, and a buffer to reuse. The vector has
/// `room` for more. Also returns what `f` returned, in order.
///
/// The zeros are written part by part, when the part is about to be worked on in a near cache;
/// zeroing a large result beforehand takes one thread as long as all of them take to fill it.
pub(crate) fn in_parts<E: Real, R: Send, const OUT: usize>(
    n: usize,
    size: usize,
    room: usize,
    f: impl Fn(usize, [&mut [E]; OUT], &mut Vec<E>) -> R + Sync,
) -> (Vec<E>, Vec<R>) {
    let size = size.max(1);
    let mut out = cpu::with_capacity(OUT * n + room);
    let blank: &mut [MaybeUninit<E>] = &mut out.spare_capacity_mut()[..OUT * n];
    let mut slices: Vec<_> = blank.chunks_mut(n.max(1)).map(|s| s.chunks_mut(size)).collect();
    let mut tasks = Vec::with_capacity(n.div_ceil(size));
    for start in (0..n).step_by(size) {
        let mut parts = slices.iter_mut().filter_map(Iterator::next);
        let parts: [_; OUT] = std::array::from_fn(|_| parts.next().unwrap_or_default());
        tasks.push((start, parts));
    }
    let results = tasks
        .into_par_iter()
        .map_init(Vec::new, |buffer, (start, parts)| f(start, parts.map(zeroed), buffer))
        .collect();
    // SAFETY: every element lies in a part of one task, and each task has set its parts to zero.
    unsafe { out.set_len(OUT * n) };
    (out, results)
}

/// [`in_parts`] for one slice.
pub(crate) fn fill_parts<E: Real>(
    n: usize,
    size: usize,
    f: impl Fn(usize, &mut [E], &mut Vec<E>) + Sync,
) -> Vec<E> {
    in_parts(n, size, 0, |start, [part], buffer| f(start, part, buffer)).0
}

fn zeroed<E: Real>(blank: &mut [MaybeUninit<E>]) -> &mut [E] {
    for e in &mut *blank {
        e.write(E::of(0.));
    }
    // SAFETY: every element has just been written.
    unsafe { &mut *(std::ptr::from_mut(blank) as *mut [E]) }
}

/// Cuts a part that starts at `start` where an image of `image` elements ends: (the image's
/// number, where the piece starts in it, the piece).
pub(crate) fn by_image<E>(
    mut start: usize,
    mut part: &mut [E],
    image: usize,
    mut f: impl FnMut(usize, usize, &mut [E]),
) {
    while !part.is_empty() {
        let (b, at) = (start / image, start % image);
        let (piece, rest) = part.split_at_mut((image - at).min(part.len()));
        start += piece.len();
        part = rest;
        f(b, at, piece);
    }
}

/// `n` elements of `s` from `i` on, without a check: the loads of an inner loop.
///
/// # Safety
/// `i + n <= s.len()`.
#[inline(always)]
pub(crate) unsafe fn window<E>(s: &[E], i: usize, n: usize) -> &[E] {
    debug_assert!(i + n <= s.len());
    // SAFETY: the caller's promise.
    unsafe { s.get_unchecked(i..i + n) }
}
