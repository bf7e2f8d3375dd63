//! Work cut into parts by the size of the problem alone, so that results do not depend on the
//! number of threads; and the macros of inner loops.

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use crate::memory;
use crate::simd::Real;

/// Evaluates `$body` with `$e` the type of floats that a CPU kernel computes in, `$other` for other
/// types.
macro_rules! with_float {
    ($dtype:expr, $e:ident => $body:expr, else $other:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $e = f32;
                $body
            }
            candle_core::DType::F64 => {
                type $e = f64;
                $body
            }
            _ => $other,
        }
    };
}

/// Repeats `$body` for `$i` = 0..`$n` ≤ 16 without a loop. LLVM keeps an array of vectors in registers
/// only if it sees constant indices before it unrolls loops; otherwise a tile of sums is written
/// to the stack in every step.
#[macro_export]
#[doc(hidden)]
macro_rules! unroll {
    ($i:ident < $n:expr, $body:block) => {
        $crate::unroll!(@ $i, $n, $body, 6, 0 1 2 3 4 5)
    };
    ($i:ident < $n:expr => 16, $body:block) => {
        $crate::unroll!(@ $i, $n, $body, 16, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $i:ident, $n:expr, $body:block, $most:literal, $($at:literal)*) => {{
        const { assert!($n <= $most) };
        $(
            #[allow(unused_variables)]
            let $i: usize = $at;
            if $i < $n $body
        )*
    }};
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
    add: impl Fn(Range<usize>, &mut [E]) + Sync,
) -> Vec<E> {
    let per = rows_per_partial(rows, width);
    let parts = rows.div_ceil(per).max(1);
    // Zeros are written explicitly instead of taken from the system: adding to an untouched page
    // reads it first, which maps the system's shared page of zeros and has to be undone on every
    // processor.
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

/// `OUT` slices of `n` elements, one after the other in one vector, made in parallel: `f` gets
/// where its part starts, that part of each slice, set to zero, and a buffer to reuse. The vector
/// has room for `room` more elements. Also returns what `f` returned, in order.
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
    let mut out = memory::with_room(OUT * n + room);
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

/// Several results of `widths` values a row, made together: `blocks` cut the `rows` into contiguous
/// tasks, and `f` gets a task's rows, its part of each result, set to zero, and buffers to reuse.
/// Also returns what `f` returned, in order.
pub(crate) fn fill_blocks<E: Real, R: Send>(
    rows: usize,
    widths: &[usize],
    blocks: impl Iterator<Item = Range<usize>>,
    f: impl Fn(Range<usize>, &mut [&mut [E]], &mut [Vec<E>; 2]) -> R + Sync,
) -> (Vec<Vec<E>>, Vec<R>) {
    let mut results: Vec<Vec<E>> = widths.iter().map(|w| memory::with_room(rows * w)).collect();
    let blank =
        results.iter_mut().zip(widths).map(|(r, w)| &mut r.spare_capacity_mut()[..rows * w]);
    let mut rest: Vec<&mut [MaybeUninit<E>]> = blank.collect();
    let mut tasks = Vec::new();
    let mut end = 0;
    for block in blocks {
        assert_eq!(block.start, end, "blocks are contiguous");
        end = block.end;
        let parts = rest.iter_mut().zip(widths).map(|(rest, width)| {
            let (part, after) = std::mem::take(rest).split_at_mut(block.len() * width);
            *rest = after;
            part
        });
        let parts: Vec<_> = parts.collect();
        tasks.push((block, parts));
    }
    assert_eq!(end, rows, "blocks cover all rows");
    let tasks = tasks.into_par_iter();
    let returned = tasks.map_init(<[Vec<E>; 2]>::default, |buffers, (block, parts)| {
        let mut parts: Vec<&mut [E]> = parts.into_iter().map(zeroed).collect();
        f(block, &mut parts, buffers)
    });
    let returned = returned.collect();
    for (result, width) in results.iter_mut().zip(widths) {
        // SAFETY: the blocks cover all rows, and each task has set its parts to zero.
        unsafe { result.set_len(rows * width) };
    }
    (results, returned)
}

/// Cuts `buffer`, made long enough, into slices of the given lengths.
pub(crate) fn split<E: Real>(
    buffer: &mut Vec<E>,
    lengths: impl Iterator<Item = usize> + Clone,
) -> Vec<&mut [E]> {
    let total = lengths.clone().sum();
    if buffer.len() < total {
        buffer.resize(total, E::of(0.));
    }
    let mut rest = buffer.as_mut_slice();
    let parts = lengths.map(|n| {
        let (part, after) = std::mem::take(&mut rest).split_at_mut(n);
        rest = after;
        part
    });
    parts.collect()
}
