//! The selective scan's engine: one core for the 1-D and the four-direction scan.
//!
//! Channels lie in vector lanes. A sequence is walked in chunks of [`CHUNK`] steps: the chunk's
//! inputs are gathered into small dense buffers (`u` and δ), the recurrence runs over them with the
//! states of a group in registers, and the outputs are written to where their positions lie. How
//! steps map to positions is all that a direction is, so four directions never need four copies of
//! the input.
//!
//! Opposite directions of the four-direction scan add to one output without a second buffer: each
//! walks one half of the positions while the other walks the other half, then they swap. Which of
//! them comes first at a position is thus a matter of the position, never of timing, and results
//! are bitwise the same for any number of threads.

mod backward;
mod forward;
mod lanes;
mod op;

use std::marker::PhantomData;
use std::ops::Range;

use isfm_kernels::scan::{Path, Scan};
use isfm_ops::simd::{MAX_LANES, Real, Simd};
use isfm_ops::unroll;

pub(crate) use op::scan;

/// Steps between kept states: long enough that gathering is cheap and few states are kept, short
/// enough that the backward's buffers stay in the second-level cache.
pub(crate) const CHUNK: usize = 32;

/// Runs `$body` with `$G` a constant for every group of states: as many at once as the registers
/// hold, then smaller groups for the rest.
macro_rules! state_groups {
    ($n:expr, $big:expr, |$G:ident, $first:ident| $body:expr) => {{
        let n: usize = $n;
        let mut $first = 0;
        macro_rules! groups_of {
            ($size:literal) => {
                // A constant: the bodies of larger groups are never compiled.
                if const { $size <= $big } {
                    const $G: usize = $size;
                    while n - $first >= $size {
                        $body;
                        $first += $size;
                    }
                }
            };
        }
        groups_of!(16);
        groups_of!(8);
        groups_of!(4);
        groups_of!(1);
    }};
}
use state_groups;

/// How the CPU walks a scan.
pub(super) trait Walk {
    /// First column of group `k` in a row of `u` and `y`.
    fn column(&self, k: usize) -> usize;

    /// The groups that may run at the same time, phase by phase.
    fn phases(&self) -> Vec<Vec<usize>>;
    /// The steps of group `k` in the first or second half of its phase. Opposite directions get
    /// halves that cover different positions.
    fn steps(&self, k: usize, half: usize) -> Range<usize>;
    /// Number of the first chunk of a half.
    fn first_chunk(&self, k: usize, half: usize) -> usize;
    /// Room for the chunks of one sequence, whichever way it is halved.
    fn chunks(&self) -> usize;
    /// Channels of a group, rounded up so that every vector of them is a full one.
    fn padded(&self) -> usize;
    /// Elements needed to keep the state before every chunk.
    fn kept_elements(&self) -> usize;
    /// Where the kept states of a chunk start: `states` rows of `padded` channels.
    fn kept_at(&self, b: usize, k: usize, chunk: usize) -> usize;
    /// Where the row of a position starts in `u` and `y`.
    fn row(&self, b: usize, position: usize) -> usize;
    /// Where the row of a position and group starts in `proj`.
    fn proj_row(&self, b: usize, k: usize, position: usize) -> usize;
    /// The positions of the steps from `t0` on.
    fn positions(&self, k: usize, t0: usize, out: &mut [usize]);
}

impl Walk for Scan {
    fn column(&self, k: usize) -> usize {
        match self.path() {
            Path::Line => k * self.channels(),
            Path::Cross { .. } => 0,
        }
    }

    fn phases(&self) -> Vec<Vec<usize>> {
        match self.path() {
            Path::Line => vec![(0..self.groups()).collect()],
            Path::Cross { .. } => vec![vec![0, 2], vec![1, 3]],
        }
    }

    fn steps(&self, k: usize, half: usize) -> Range<usize> {
        let middle = match self.path() {
            Path::Line => self.length(),
            Path::Cross { .. } if k < 2 => self.length() / 2,
            Path::Cross { .. } => self.length() - self.length() / 2,
        };
        if half == 0 { 0..middle } else { middle..self.length() }
    }

    fn first_chunk(&self, k: usize, half: usize) -> usize {
        if half == 0 { 0 } else { self.steps(k, 0).len().div_ceil(CHUNK) }
    }

    fn chunks(&self) -> usize {
        self.length().div_ceil(CHUNK) + 1
    }

    fn padded(&self) -> usize {
        self.channels().next_multiple_of(MAX_LANES)
    }

    fn kept_elements(&self) -> usize {
        self.batch() * self.groups() * self.chunks() * self.states() * self.padded()
    }

    fn kept_at(&self, b: usize, k: usize, chunk: usize) -> usize {
        ((b * self.groups() + k) * self.chunks() + chunk) * self.states() * self.padded()
    }

    fn row(&self, b: usize, position: usize) -> usize {
        (b * self.length() + position) * self.width()
    }

    fn proj_row(&self, b: usize, k: usize, position: usize) -> usize {
        ((b * self.length() + position) * self.groups() + k) * self.proj_width()
    }

    fn positions(&self, k: usize, t0: usize, out: &mut [usize]) {
        if out.is_empty() {
            return;
        }
        match self.path() {
            Path::Line => {
                for (i, p) in out.iter_mut().enumerate() {
                    *p = t0 + i;
                }
            }
            Path::Cross { rows: h, cols: w } => {
                let reverse = k >= 2;
                let first = if reverse { self.length() - 1 - t0 } else { t0 };
                if k.is_multiple_of(2) {
                    for (i, p) in out.iter_mut().enumerate() {
                        *p = if reverse { first - i } else { first + i };
                    }
                    return;
                }
                let (mut column, mut row) = (first / h, first % h);
                for p in out.iter_mut() {
                    *p = row * w + column;
                    if reverse {
                        if row == 0 {
                            row = h;
                            column = column.wrapping_sub(1);
                        }
                        row -= 1;
                    } else {
                        row += 1;
                        if row == h {
                            row = 0;
                            column += 1;
                        }
                    }
                }
            }
        }
    }
}

/// The inputs of a scan.
#[derive(Clone, Copy)]
struct Inputs<'a, E> {
    spec: &'a Scan,
    /// B×L×width.
    u: &'a [E],
    /// As `u`, or empty where dt comes as factors.
    dt: &'a [E],
    /// B×L×groups×(rank + 2 states).
    proj: &'a [E],
    /// See [`Scan::params`].
    params: &'a [E],
}

impl<'a, E: Real> Inputs<'a, E> {
    fn new(spec: &'a Scan, first: &'a [E], proj: &'a [E], params: &'a [E]) -> Self {
        let (u, dt) = first.split_at(spec.elements());
        Self { spec, u, dt, proj, params }
    }
}

/// The parameters of a range of channels, one padded row of channels per state or factor.
struct Table<E> {
    width: usize,
    a: Vec<E>,
    /// The largest δ with a finite δ·A·log₂e for every state; one row.
    limit: Vec<E>,
    dt_weight: Vec<E>,
    bias: Vec<E>,
    skip: Vec<E>,
}

impl<E: Real> Table<E> {
    fn new(io: &Inputs<'_, E>, k: usize, channels: Range<usize>) -> Self {
        let spec = io.spec;
        let at = spec.params();
        let width = channels.len().next_multiple_of(MAX_LANES);
        let zero = E::of(0.);
        let rows = k * spec.channels() + channels.start..k * spec.channels() + channels.end;
        let transposed = |values: &[E], n: usize| {
            let mut out = vec![zero; n * width];
            for (c, row) in rows.clone().enumerate() {
                for i in 0..n {
                    out[i * width + c] = values[row * n + i];
                }
            }
            out
        };
        let optional = |there: bool, values: &[E]| {
            if there { transposed(values, 1) } else { vec![zero; width] }
        };
        let mut a = transposed(&io.params[at.a()], spec.states());
        if spec.has_log_a() {
            for x in &mut a {
                *x = -exp_exact(*x);
            }
        }
        let mut limit = vec![zero; width];
        for row in a.chunks_exact(width) {
            for (limit, a) in limit.iter_mut().zip(row) {
                let a = a.abs();
                if a > *limit {
                    *limit = a;
                }
            }
        }
        for limit in &mut limit {
            // Half the range leaves room for log₂e; an A below 1 allows any finite δ.
            let a = if *limit > E::of(1.) { *limit } else { E::of(1.) };
            *limit = E::max_value() * E::of(0.5) / a;
        }
        Self {
            width,
            a,
            limit,
            dt_weight: transposed(&io.params[at.dt_weight()], spec.dt_rank()),
            bias: optional(spec.has_bias(), &io.params[at.bias()]),
            skip: optional(spec.has_skip(), &io.params[at.skip()]),
        }
    }
}

/// eˣ from the standard library, correct to the last digit or nearly; parameters are few.
fn exp_exact<E: Real>(x: E) -> E {
    E::of(candle_core::WithDType::to_f64(x).exp())
}

/// A chunk's dense inputs for one block of lanes: `CHUNK` rows of `MAX_LANES` at most.
struct Block<E> {
    u: Vec<E>,
    /// dt with its bias, before softplus.
    raw: Vec<E>,
    delta: Vec<E>,
    /// δ·u.
    w: Vec<E>,
}

impl<E: Real> Block<E> {
    fn new() -> Self {
        let buffer = || vec![E::of(0.); CHUNK * MAX_LANES];
        Self { u: buffer(), raw: buffer(), delta: buffer(), w: buffer() }
    }
}

/// Where the steps of one chunk of one sequence lie.
struct Chunk {
    here: Places,
    /// The places of the next chunk, for prefetching.
    next: Places,
}

/// Where the rows of some steps start.
struct Places {
    /// The first step.
    first: usize,
    len: usize,
    /// In `u` and `y`.
    maps: [usize; CHUNK],
    /// In `proj`.
    projs: [usize; CHUNK],
}

impl Places {
    fn new() -> Self {
        Self { first: 0, len: 0, maps: [0; CHUNK], projs: [0; CHUNK] }
    }

    fn set(&mut self, spec: &Scan, b: usize, k: usize, steps: Range<usize>) {
        (self.first, self.len) = (steps.start, steps.len());
        let (maps, projs) = (&mut self.maps[..self.len], &mut self.projs[..self.len]);
        spec.positions(k, steps.start, maps);
        for (map, proj) in maps.iter_mut().zip(projs) {
            *proj = spec.proj_row(b, k, *map);
            *map = spec.row(b, *map);
        }
    }

    fn steps(&self) -> Range<usize> {
        self.first..self.first + self.len
    }

    fn maps(&self) -> &[usize] {
        &self.maps[..self.len]
    }

    fn projs(&self) -> &[usize] {
        &self.projs[..self.len]
    }
}

impl Chunk {
    fn new() -> Self {
        Self { here: Places::new(), next: Places::new() }
    }

    /// Takes the chunk of `steps`; `next` are the steps of the chunk after it. Always of the same
    /// image and group.
    fn walk(&mut self, spec: &Scan, b: usize, k: usize, steps: Range<usize>, next: Range<usize>) {
        // Mostly the one that was next.
        std::mem::swap(&mut self.here, &mut self.next);
        if self.here.steps() != steps {
            self.here.set(spec, b, k, steps);
        }
        self.next.set(spec, b, k, next);
    }

    fn len(&self) -> usize {
        self.here.len
    }

    /// Step t's row of `proj`: dt's factors, B, C.
    #[inline(always)]
    fn row<'a, E>(&self, io: &Inputs<'a, E>, t: usize) -> &'a [E] {
        &io.proj[self.here.projs[t]..][..io.spec.proj_width()]
    }
}

/// A block of lanes: its first column in the table, and its columns in `u` and `y`.
#[derive(Clone, Copy)]
struct Lanes {
    column: usize,
    global: usize,
    live: usize,
}

impl Lanes {
    /// The blocks of `lanes` channels that cover `channels` of group `k`.
    #[inline(always)]
    fn blocks(
        spec: &Scan,
        k: usize,
        channels: Range<usize>,
        lanes: usize,
    ) -> impl Iterator<Item = Lanes> {
        let first = spec.column(k) + channels.start;
        let count = channels.len();
        (0..count).step_by(lanes).map(move |column| Lanes {
            column,
            global: first + column,
            live: lanes.min(count - column),
        })
    }
}

/// Gathers `u` and computes δ and δ·u for one block of lanes.
#[inline(always)]
fn prepare<S: Simd>(
    s: S,
    io: &Inputs<'_, S::E>,
    table: &Table<S::E>,
    at: Lanes,
    chunk: &Chunk,
    block: &mut Block<S::E>,
) {
    let spec = io.spec;
    if spec.dt_rank() == 0 {
        gather::<S, 0>(s, io, table, at, chunk, 0, block);
    }
    state_groups!(spec.dt_rank(), 8, |G, first| gather::<S, G>(
        s, io, table, at, chunk, first, block
    ));
    // In a loop of its own, so that no load from distant memory delays the arithmetic.
    for t in 0..chunk.len() {
        let o = t * S::LANES;
        let raw = s.load(&block.raw[o..]);
        let delta = if spec.has_softplus() { s.softplus(raw) } else { raw };
        s.store(delta, &mut block.delta[o..]);
        s.store(s.mul(delta, s.load(&block.u[o..])), &mut block.w[o..]);
    }
}

/// Adds the share of `G` of dt's factors to a block's `raw`, their weights in registers. The first
/// share starts from the bias, with dt itself where there are no factors, and brings `u`.
#[inline(always)]
fn gather<S: Simd, const G: usize>(
    s: S,
    io: &Inputs<'_, S::E>,
    table: &Table<S::E>,
    at: Lanes,
    chunk: &Chunk,
    first: usize,
    block: &mut Block<S::E>,
) {
    let spec = io.spec;
    let mut weights = [s.splat(S::E::of(0.)); G];
    unroll!(r < G => 16, {
        weights[r] = s.load(&table.dt_weight[(first + r) * table.width + at.column..]);
    });
    let bias = s.load(&table.bias[at.column..]);
    let buffers = block.raw.chunks_exact_mut(S::LANES).zip(block.u.chunks_exact_mut(S::LANES));
    let places = chunk.here.maps().iter().zip(chunk.here.projs());
    for ((raw, u), (map, proj)) in buffers.zip(places) {
        let mut sum = if first > 0 {
            s.load(raw)
        } else {
            let row = map + at.global..map + at.global + at.live;
            s.store(s.load_partial(&io.u[row.clone()]), u);
            if spec.dt_rank() == 0 { s.add(bias, s.load_partial(&io.dt[row])) } else { bias }
        };
        let factors = &io.proj[proj + first..][..G];
        unroll!(r < G => 16, {
            sum = s.fma(s.splat(factors[r]), weights[r], sum);
        });
        s.store(sum, raw);
    }
}

/// Prefetches the rows of the next chunk: hardware does not predict a walk along columns.
#[derive(Clone, Copy)]
struct Ahead<'a, E> {
    io: Inputs<'a, E>,
    /// Other buffers with the layout of `u` that the walk reads or writes; null for none.
    others: [*const E; 2],
    at: Lanes,
}

impl<E: Real> Ahead<'_, E> {
    /// Prefetches step `t` of the next chunk. Called between the steps of the recurrence, so that
    /// few requests are outstanding at a time.
    #[inline(always)]
    fn step(&self, chunk: &Chunk, t: usize) {
        if t >= chunk.next.len {
            return;
        }
        // Both ends, since a row seldom starts at the start of a cache line.
        let row = chunk.next.maps[t] + self.at.global;
        for start in [self.io.u.as_ptr(), self.others[0], self.others[1]] {
            lanes::prefetch(start, row);
            lanes::prefetch(start, row + self.at.live - 1);
        }
        if self.at.column == 0 {
            let row = chunk.next.projs[t];
            let width = self.io.spec.proj_width();
            for i in (0..width).step_by(64 / size_of::<E>()) {
                lanes::prefetch(self.io.proj.as_ptr(), row + i);
            }
            lanes::prefetch(self.io.proj.as_ptr(), row + width - 1);
        }
    }
}

/// A slice that several threads write to, each its own elements.
#[derive(Clone, Copy)]
struct Shared<'a, E> {
    start: *mut E,
    len: usize,
    slice: PhantomData<&'a mut [E]>,
}

// SAFETY: a `&mut [E]` may be sent to another thread if `E` may; the rule that makes sharing it
// sound is on `part`, the only way to reach the elements.
unsafe impl<E: Send> Send for Shared<'_, E> {}
// SAFETY: as above.
unsafe impl<E: Send> Sync for Shared<'_, E> {}

impl<'a, E> Shared<'a, E> {
    fn new(slice: &'a mut [E]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// Where the slice is, for [`Ahead`].
    fn place(self) -> *const E {
        self.start
    }

    /// The elements `at..at + len`.
    ///
    /// # Safety
    /// While the result lives, no other part with an element in common may exist.
    #[inline(always)]
    unsafe fn part(self, at: usize, len: usize) -> &'a mut [E] {
        assert!(at <= self.len && len <= self.len - at);
        // SAFETY: inside the slice, as just checked; not shared, by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}
