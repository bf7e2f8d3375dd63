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

use isfm_ops::simd::{MAX_LANES, Real, Simd};

pub(crate) use op::ScanOp;

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
                if $size <= $big {
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

/// Runs `$body` with `$i` = 0, 1, … `$count` - 1, at most 15, each written out: with a loop LLVM
/// keeps arrays of vectors in memory, and what is added up waits for its own store.
macro_rules! unrolled {
    ($count:expr, |$i:ident| $body:block) => {
        unrolled!(@ $count, $i, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $count:expr, $i:ident, $body:block, $($k:literal)*) => {
        $(if $k < $count {
            let $i: usize = $k;
            $body
        })*
    };
}
use unrolled;

/// How the steps of a scan map to positions.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Path {
    /// Step t is position t; group k owns the columns `k * channels ..` of `u` and `y`.
    Line,
    /// Four groups walk an h×w map over the same columns: row-major, column-major, and the
    /// reverse of each.
    Cross {
        /// Rows.
        h: usize,
        /// Columns.
        w: usize,
    },
}

/// The sizes of a scan and which of its optional inputs are there.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) name: &'static str,
    pub(crate) path: Path,
    pub(crate) batch: usize,
    pub(crate) len: usize,
    /// Groups (directions) with B and C of their own.
    pub(crate) groups: usize,
    /// Channels of a group.
    pub(crate) channels: usize,
    pub(crate) states: usize,
    /// Factors of dt in a row of `proj`; 0 means that dt itself follows `u` in the first input.
    pub(crate) rank: usize,
    pub(crate) bias: bool,
    pub(crate) skip: bool,
    pub(crate) init: bool,
    pub(crate) softplus: bool,
    /// The parameters hold ln(-A) instead of A.
    pub(crate) log_a: bool,
    /// The last states follow `y` in the output.
    pub(crate) last: bool,
}

/// Where each parameter lies in the flat parameter vector.
pub(crate) struct ParamRanges {
    dt_weight: Range<usize>,
    bias: Range<usize>,
    a: Range<usize>,
    skip: Range<usize>,
    init: Range<usize>,
}

impl Spec {
    /// Elements in a row of `u` and `y`.
    pub(crate) fn width(&self) -> usize {
        match self.path {
            Path::Line => self.groups * self.channels,
            Path::Cross { .. } => self.channels,
        }
    }

    /// First column of group `k` in a row of `u` and `y`.
    fn column(&self, k: usize) -> usize {
        match self.path {
            Path::Line => k * self.channels,
            Path::Cross { .. } => 0,
        }
    }

    /// Elements in a row of `proj`: dt's factors, B, C.
    pub(crate) fn proj_width(&self) -> usize {
        self.rank + 2 * self.states
    }

    /// Elements of `u`, and of `y` without the last states.
    pub(crate) fn elements(&self) -> usize {
        self.batch * self.len * self.width()
    }

    /// Elements of the initial or last states.
    pub(crate) fn state_elements(&self) -> usize {
        self.batch * self.groups * self.channels * self.states
    }

    /// Where each parameter lies: dt weights, bias, A, skip, initial states.
    pub(crate) fn params(&self) -> ParamRanges {
        let rows = self.groups * self.channels;
        let mut at = 0;
        let mut next = |size: usize| {
            at += size;
            at - size..at
        };
        ParamRanges {
            dt_weight: next(rows * self.rank),
            bias: next(if self.bias { rows } else { 0 }),
            a: next(rows * self.states),
            skip: next(if self.skip { rows } else { 0 }),
            init: next(if self.init { self.state_elements() } else { 0 }),
        }
    }

    /// The groups that may run at the same time, phase by phase.
    fn phases(&self) -> Vec<Vec<usize>> {
        match self.path {
            Path::Line => vec![(0..self.groups).collect()],
            Path::Cross { .. } => vec![vec![0, 2], vec![1, 3]],
        }
    }

    /// The steps of group `k` in the first or second half of its phase. Opposite directions get
    /// halves that cover different positions.
    fn steps(&self, k: usize, half: usize) -> Range<usize> {
        let middle = match self.path {
            Path::Line => self.len,
            Path::Cross { .. } if k < 2 => self.len / 2,
            Path::Cross { .. } => self.len - self.len / 2,
        };
        if half == 0 { 0..middle } else { middle..self.len }
    }

    /// Number of the first chunk of a half.
    fn first_chunk(&self, k: usize, half: usize) -> usize {
        if half == 0 { 0 } else { self.steps(k, 0).len().div_ceil(CHUNK) }
    }

    /// Room for the chunks of one sequence, whichever way it is halved.
    fn chunks(&self) -> usize {
        self.len.div_ceil(CHUNK) + 1
    }

    /// Channels of a group, rounded up so that every vector of them is a full one.
    fn padded(&self) -> usize {
        self.channels.next_multiple_of(MAX_LANES)
    }

    /// Elements needed to keep the state before every chunk.
    fn kept_elements(&self) -> usize {
        self.batch * self.groups * self.chunks() * self.states * self.padded()
    }

    /// Where the kept states of a chunk start: `states` rows of `padded` channels.
    fn kept_at(&self, b: usize, k: usize, chunk: usize) -> usize {
        ((b * self.groups + k) * self.chunks() + chunk) * self.states * self.padded()
    }

    /// Where the row of a position starts in `u` and `y`.
    fn row(&self, b: usize, position: usize) -> usize {
        (b * self.len + position) * self.width()
    }

    /// Where the row of a position and group starts in `proj`.
    fn proj_row(&self, b: usize, k: usize, position: usize) -> usize {
        ((b * self.len + position) * self.groups + k) * self.proj_width()
    }

    /// The positions of the steps from `t0` on.
    fn positions(&self, k: usize, t0: usize, out: &mut [usize]) {
        match self.path {
            Path::Line => {
                for (i, p) in out.iter_mut().enumerate() {
                    *p = t0 + i;
                }
            }
            Path::Cross { h, w } => {
                let reverse = k >= 2;
                let first = if reverse { self.len - 1 - t0 } else { t0 };
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

/// The output of a scan (see [`Spec::last`]) without a gradient, from the three inputs of [`ScanOp`].
pub(crate) fn values<E: Real>(spec: &Spec, first: &[E], proj: &[E], params: &[E]) -> Vec<E> {
    forward::forward(Inputs::new(spec, first, proj, params), false).0
}

/// The inputs of a scan.
#[derive(Clone, Copy)]
struct Inputs<'a, E> {
    spec: &'a Spec,
    /// B×L×width.
    u: &'a [E],
    /// As `u`, or empty where dt comes as factors.
    dt: &'a [E],
    /// B×L×groups×(rank + 2 states).
    proj: &'a [E],
    /// See [`Spec::params`].
    params: &'a [E],
}

impl<'a, E: Real> Inputs<'a, E> {
    fn new(spec: &'a Spec, first: &'a [E], proj: &'a [E], params: &'a [E]) -> Self {
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
        let rows = k * spec.channels + channels.start..k * spec.channels + channels.end;
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
        let mut a = transposed(&io.params[at.a], spec.states);
        if spec.log_a {
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
            dt_weight: transposed(&io.params[at.dt_weight], spec.rank),
            bias: optional(spec.bias, &io.params[at.bias]),
            skip: optional(spec.skip, &io.params[at.skip]),
        }
    }
}

/// eˣ from the standard library: parameters are few, and deserve all their digits.
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

/// One chunk of one sequence: where its steps lie.
struct Chunk {
    here: Places,
    /// Those of the chunk that is walked next.
    next: Places,
}

/// Where the rows of some steps start.
struct Places {
    len: usize,
    /// In `u` and `y`.
    maps: [usize; CHUNK],
    /// In `proj`.
    projs: [usize; CHUNK],
}

impl Places {
    fn new() -> Self {
        Self { len: 0, maps: [0; CHUNK], projs: [0; CHUNK] }
    }

    fn set(&mut self, spec: &Spec, b: usize, k: usize, steps: Range<usize>) {
        self.len = steps.len();
        let (maps, projs) = (&mut self.maps[..self.len], &mut self.projs[..self.len]);
        spec.positions(k, steps.start, maps);
        for (map, proj) in maps.iter_mut().zip(projs) {
            *proj = spec.proj_row(b, k, *map);
            *map = spec.row(b, *map);
        }
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

    /// Takes the chunk of `steps`; `next` are the steps of the chunk after it.
    fn walk(&mut self, spec: &Spec, b: usize, k: usize, steps: Range<usize>, next: Range<usize>) {
        self.here.set(spec, b, k, steps);
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
        spec: &Spec,
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
    if spec.rank == 0 {
        gather::<S, 0>(s, io, table, at, chunk, 0, block);
    }
    state_groups!(spec.rank, 8, |G, first| gather::<S, G>(s, io, table, at, chunk, first, block));
    // In a loop of its own, where no load from far away delays the arithmetic.
    for t in 0..chunk.len() {
        let o = t * S::LANES;
        let raw = s.load(&block.raw[o..]);
        let delta = if spec.softplus { lanes::softplus(s, raw) } else { raw };
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
    unrolled!(G, |r| {
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
            if spec.rank == 0 { s.add(bias, s.load_partial(&io.dt[row])) } else { bias }
        };
        let factors = &io.proj[proj + first..][..G];
        unrolled!(G, |r| {
            sum = s.fma(s.splat(factors[r]), weights[r], sum);
        });
        s.store(sum, raw);
    }
}

/// Asks for what the next chunk will need: walking columns, no hardware foresees it.
#[derive(Clone, Copy)]
struct Ahead<'a, E> {
    io: Inputs<'a, E>,
    /// What else has a row like `u` for every position; null for nothing.
    others: [*const E; 2],
    at: Lanes,
}

impl<E: Real> Ahead<'_, E> {
    /// Asks for step `t`. Called between the arithmetic of the recurrence, so that few requests
    /// wait at a time.
    #[inline(always)]
    fn step(&self, chunk: &Chunk, t: usize) {
        if t >= chunk.next.len {
            return;
        }
        // Both ends: rows seldom start where cache lines do.
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
    /// While the result lives nobody else may hold a part with an element in common.
    #[inline(always)]
    unsafe fn part(self, at: usize, len: usize) -> &'a mut [E] {
        assert!(at <= self.len && len <= self.len - at);
        // SAFETY: inside the slice, as just checked; not shared, by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}
