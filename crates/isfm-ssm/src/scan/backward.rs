use isfm_ops::cpu;
use isfm_ops::simd::{Kernel, MAX_LANES, Real, Simd, dispatch};
use rayon::prelude::*;

use super::{
    Ahead, Block, CHUNK, Chunk, Inputs, Lanes, Shared, Spec, Table, lanes, prepare, state_groups,
    unrolled,
};

/// States that the adjoint walks at once; their decays and states fill half the first-level cache.
const STATES: usize = 8;

/// The adjoint of one group's scan. It owns all channels, so that the sums over channels in the
/// gradients of B, C and dt's factors stay inside it.
struct Task<E> {
    b: usize,
    k: usize,
    table: Table<E>,
    chunk: Chunk,
    block: Block<E>,
    scratch: Scratch<E>,
    sums: Sums<E>,
}

/// Buffers of one chunk, rows of one vector each.
struct Scratch<E> {
    dy: Vec<E>,
    /// Σₙ g·B and Σₙ A·g·(decay·h₋₁), g the gradient of a state.
    gb: Vec<E>,
    gah: Vec<E>,
    /// Decay and decay·h₋₁ of a group of states.
    decay: Vec<E>,
    carried: Vec<E>,
    /// Lane-wise partial sums of the gradient of the chunk's rows of `proj`.
    proj: Vec<E>,
}

/// What is summed along the sequence, one padded row of channels per state or factor.
struct Sums<E> {
    /// The gradient that reaches the state before the step last walked.
    carry: Vec<E>,
    a: Vec<E>,
    dt_weight: Vec<E>,
    bias: Vec<E>,
    skip: Vec<E>,
}

impl<E: Real> Task<E> {
    fn new(io: &Inputs<'_, E>, last: &[E], b: usize, k: usize) -> Self {
        let spec = io.spec;
        let table = Table::new(io, k, 0..spec.channels);
        let buffer = |rows: usize| vec![E::of(0.); rows * MAX_LANES];
        let row = |rows: usize| vec![E::of(0.); rows * table.width];
        let scratch = Scratch {
            dy: buffer(CHUNK),
            gb: buffer(CHUNK),
            gah: buffer(CHUNK),
            decay: buffer(CHUNK * STATES),
            carried: buffer(CHUNK * STATES),
            proj: buffer(CHUNK * spec.proj_width()),
        };
        let mut sums = Sums {
            carry: row(spec.states),
            a: row(spec.states),
            dt_weight: row(spec.rank),
            bias: row(1),
            skip: row(1),
        };
        if spec.last {
            let first = (b * spec.groups + k) * spec.channels * spec.states;
            for c in 0..spec.channels {
                for n in 0..spec.states {
                    sums.carry[n * table.width + c] = last[first + c * spec.states + n];
                }
            }
        }
        Self { b, k, table, chunk: Chunk::new(), block: Block::new(), scratch, sums }
    }

    /// Adds this sequence's share to the gradient of the parameters.
    fn add_to(&self, spec: &Spec, grad: &mut [E]) {
        let at = spec.params();
        let rows = self.k * spec.channels;
        let width = self.table.width;
        let mut add = |start: usize, n: usize, sums: &[E]| {
            for c in 0..spec.channels {
                for i in 0..n {
                    grad[start + (rows + c) * n + i] += sums[i * width + c];
                }
            }
        };
        add(at.dt_weight.start, spec.rank, &self.sums.dt_weight);
        if spec.bias {
            add(at.bias.start, 1, &self.sums.bias);
        }
        if spec.log_a {
            // A = -exp(A_log), so dA/dA_log = A.
            let scaled: Vec<E> =
                self.sums.a.iter().zip(&self.table.a).map(|(&g, &a)| g * a).collect();
            add(at.a.start, spec.states, &scaled);
        } else {
            add(at.a.start, spec.states, &self.sums.a);
        }
        if spec.skip {
            add(at.skip.start, 1, &self.sums.skip);
        }
        if spec.init {
            let start = at.init.start + self.b * spec.groups * spec.channels * spec.states;
            add(start, spec.states, &self.sums.carry);
        }
    }
}

/// The gradients of a scan's three inputs.
pub(super) struct Gradients<E> {
    pub(super) first: Vec<E>,
    pub(super) proj: Vec<E>,
    pub(super) params: Vec<E>,
}

/// The adjoint: `grad` is the gradient of the output, `kept` the states that the forward kept.
pub(super) fn backward<E: Real>(io: Inputs<'_, E>, grad: &[E], kept: &[E]) -> Gradients<E> {
    let spec = io.spec;
    let (dy, last) = grad.split_at(spec.elements());
    let mut first = cpu::zeros(io.u.len() + io.dt.len());
    let mut proj = cpu::zeros(io.proj.len());
    let mut params = vec![E::of(0.); io.params.len()];
    {
        let (du, ddt) = first.split_at_mut(io.u.len());
        let out = Out { u: Shared::new(du), dt: Shared::new(ddt), proj: Shared::new(&mut proj) };
        for (phase, groups) in spec.phases().into_iter().enumerate() {
            let pairs: Vec<(usize, usize)> =
                (0..spec.batch).flat_map(|b| groups.iter().map(move |&k| (b, k))).collect();
            let mut tasks: Vec<Task<E>> =
                pairs.into_par_iter().map(|(b, k)| Task::new(&io, last, b, k)).collect();
            for half in [1, 0] {
                tasks.par_iter_mut().for_each(|task| {
                    dispatch(Run { io, task, dy, kept, out, set: phase == 0 && half == 1, half });
                });
            }
            for task in &tasks {
                task.add_to(spec, &mut params);
            }
        }
    }
    Gradients { first, proj, params }
}

#[derive(Clone, Copy)]
struct Out<'a, E> {
    u: Shared<'a, E>,
    dt: Shared<'a, E>,
    proj: Shared<'a, E>,
}

struct Run<'a, 'io, E> {
    io: Inputs<'io, E>,
    task: &'a mut Task<E>,
    dy: &'io [E],
    kept: &'io [E],
    out: Out<'io, E>,
    /// Whether these are the first gradients of `u` at their positions; otherwise they are added.
    set: bool,
    half: usize,
}

impl<E: Real> Kernel<E> for Run<'_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { io, task, dy, kept, out, set, half } = self;
        let Task { b, k, table, chunk, block, scratch, sums } = task;
        let (b, k) = (*b, *k);
        let spec = io.spec;
        let steps = spec.steps(k, half);
        let first_chunk = spec.first_chunk(k, half);
        for number in (0..steps.len().div_ceil(CHUNK)).rev() {
            let start = steps.start + number * CHUNK;
            let next = start.saturating_sub(CHUNK).max(steps.start)..start;
            chunk.walk(spec, b, k, start..steps.end.min(start + CHUNK), next);
            let from = spec.kept_at(b, k, first_chunk + number);
            let kept = &kept[from..from + spec.states * spec.padded()];
            for at in Lanes::blocks(spec, k, 0..spec.channels, S::LANES) {
                let others = [(dy.as_ptr(), dy.len()), out.u.place()];
                let ahead = Ahead { io, others, b, k, at };
                prepare(s, &io, table, b, at, chunk, block);
                gather_dy(s, spec, b, at, chunk, dy, scratch);
                let big = if S::LANES >= 16 { 8 } else { 4 };
                if at.column == 0 {
                    state_groups!(spec.states, big, |G, first| adjoint::<S, G, true>(
                        s, &io, first, at.column, table, kept, chunk, block, scratch, sums, &ahead
                    ));
                } else {
                    state_groups!(spec.states, big, |G, first| adjoint::<S, G, false>(
                        s, &io, first, at.column, table, kept, chunk, block, scratch, sums, &ahead
                    ));
                }
                finish(s, &io, b, at, table, chunk, block, scratch, sums, out, set);
            }
            sum_lanes(s, spec, b, k, chunk, scratch, out);
        }
    }
}

#[inline(always)]
fn gather_dy<S: Simd>(
    s: S,
    spec: &Spec,
    b: usize,
    at: Lanes,
    chunk: &Chunk,
    dy: &[S::E],
    scratch: &mut Scratch<S::E>,
) {
    let zero = s.splat(S::E::of(0.));
    for (t, &p) in chunk.positions().iter().enumerate() {
        let row = spec.row(b, p) + at.global;
        let o = t * S::LANES;
        s.store(s.load_partial(&dy[row..row + at.live]), &mut scratch.dy[o..]);
        s.store(zero, &mut scratch.gb[o..]);
        s.store(zero, &mut scratch.gah[o..]);
    }
}

/// Recomputes `G` states over a chunk, then walks it backwards with their gradients.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn adjoint<S: Simd, const G: usize, const FIRST_BLOCK: bool>(
    s: S,
    io: &Inputs<'_, S::E>,
    first: usize,
    column: usize,
    table: &Table<S::E>,
    kept: &[S::E],
    chunk: &Chunk,
    block: &Block<S::E>,
    scratch: &mut Scratch<S::E>,
    sums: &mut Sums<S::E>,
    ahead: &Ahead<'_, S::E>,
) {
    let zero = s.splat(S::E::of(0.));
    let (spec, lanes) = (io.spec, S::LANES);
    let width = spec.proj_width();
    let (b0, c0) = (spec.rank + first, spec.rank + spec.states + first);
    let Scratch { dy, gb, gah, decay, carried, proj: dproj } = scratch;
    let (mut state, mut a, mut carry) = ([zero; G], [zero; G], [zero; G]);
    unrolled!(G, |i| {
        state[i] = s.load(&kept[(first + i) * spec.padded() + column..]);
        let at = (first + i) * table.width + column;
        a[i] = s.load(&table.a[at..]);
        carry[i] = s.load(&sums.carry[at..]);
    });
    let limit = s.load(&table.limit[column..]);
    for t in 0..chunk.len {
        if first == 0 {
            ahead.step(chunk, t);
        }
        let scaled = lanes::scaled(s, s.load(&block.delta[t * lanes..]), limit);
        let w = s.load(&block.w[t * lanes..]);
        let b = &chunk.row(io, t)[b0..][..G];
        let decay = &mut decay[t * G * lanes..][..G * lanes];
        let carried = &mut carried[t * G * lanes..][..G * lanes];
        unrolled!(G, |i| {
            let e = lanes::decay(s, scaled, a[i]);
            let eh = s.mul(e, state[i]);
            state[i] = s.fma(w, s.splat(b[i]), eh);
            s.store(e, &mut decay[i * lanes..]);
            s.store(eh, &mut carried[i * lanes..]);
        });
    }
    let mut da = [zero; G];
    for t in (0..chunk.len).rev() {
        let o = t * lanes;
        let (dy, w) = (s.load(&dy[o..]), s.load(&block.w[o..]));
        let delta = s.load(&block.delta[o..]);
        let row = chunk.row(io, t);
        let (b, c) = (&row[b0..][..G], &row[c0..][..G]);
        let decay = &decay[o * G..][..G * lanes];
        let carried = &carried[o * G..][..G * lanes];
        let rows = &mut dproj[(t * width + b0) * lanes..];
        let (rows_b, rows_c) = rows.split_at_mut(spec.states * lanes);
        let (rows_b, rows_c) = (&mut rows_b[..G * lanes], &mut rows_c[..G * lanes]);
        let mut sum_gb = [s.load(&gb[o..]), zero];
        let mut sum_gah = [s.load(&gah[o..]), zero];
        unrolled!(G, |i| {
            let l = i * lanes;
            let b = s.splat(b[i]);
            let g = s.fma(dy, s.splat(c[i]), carry[i]);
            let eh = s.load(&carried[l..]);
            let h = s.fma(w, b, eh);
            let (to_b, to_c) = if FIRST_BLOCK {
                (s.mul(g, w), s.mul(dy, h))
            } else {
                (s.fma(g, w, s.load(&rows_b[l..])), s.fma(dy, h, s.load(&rows_c[l..])))
            };
            s.store(to_b, &mut rows_b[l..]);
            s.store(to_c, &mut rows_c[l..]);
            sum_gb[i % 2] = s.fma(g, b, sum_gb[i % 2]);
            let q = s.mul(g, eh);
            sum_gah[i % 2] = s.fma(a[i], q, sum_gah[i % 2]);
            da[i] = s.fma(delta, q, da[i]);
            carry[i] = s.mul(s.load(&decay[l..]), g);
        });
        s.store(s.add(sum_gb[0], sum_gb[1]), &mut gb[o..]);
        s.store(s.add(sum_gah[0], sum_gah[1]), &mut gah[o..]);
    }
    unrolled!(G, |i| {
        let at = (first + i) * table.width + column;
        s.store(carry[i], &mut sums.carry[at..]);
        let total = s.add(s.load(&sums.a[at..]), da[i]);
        s.store(total, &mut sums.a[at..]);
    });
}

/// From the sums over states to the gradients of `u`, dt, its factors and weights, bias and skip.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn finish<S: Simd>(
    s: S,
    io: &Inputs<'_, S::E>,
    b: usize,
    at: Lanes,
    table: &Table<S::E>,
    chunk: &Chunk,
    block: &Block<S::E>,
    scratch: &mut Scratch<S::E>,
    sums: &mut Sums<S::E>,
    out: Out<'_, S::E>,
    set: bool,
) {
    let (spec, lanes) = (io.spec, S::LANES);
    let width = spec.proj_width();
    let (zero, one) = (s.splat(S::E::of(0.)), s.splat(S::E::of(1.)));
    let twenty = s.splat(S::E::of(20.));
    let skip = s.load(&table.skip[at.column..]);
    let (mut dskip, mut dbias) = (zero, zero);
    for (t, &p) in chunk.positions().iter().enumerate() {
        let o = t * lanes;
        let (dy, u) = (s.load(&scratch.dy[o..]), s.load(&block.u[o..]));
        let (gb, gah) = (s.load(&scratch.gb[o..]), s.load(&scratch.gah[o..]));
        let du = s.fma(skip, dy, s.mul(s.load(&block.delta[o..]), gb));
        dskip = s.fma(dy, u, dskip);
        let mut draw = s.fma(u, gb, gah);
        if spec.softplus {
            let raw = s.load(&block.raw[o..]);
            draw = s.mul(draw, s.select_gt(raw, twenty, one, s.sigmoid(raw)));
        }
        dbias = s.add(dbias, draw);
        let row = spec.row(b, p) + at.global;
        // SAFETY: these channels at this position are this task's alone: the opposite direction
        // is in its other half now, and other groups have other columns.
        let to = unsafe { out.u.part(row, at.live) };
        let du = if set { du } else { s.add(s.load_partial(to), du) };
        s.store_partial(du, to);
        if spec.rank == 0 {
            // SAFETY: as above.
            s.store_partial(draw, unsafe { out.dt.part(row, at.live) });
        }
        // No longer needed; the factors' loop reads dt's gradient from here.
        s.store(draw, &mut scratch.gah[o..]);
    }
    for (total, part) in [(&mut sums.skip, dskip), (&mut sums.bias, dbias)] {
        let v = s.add(s.load(&total[at.column..]), part);
        s.store(v, &mut total[at.column..]);
    }
    for r in 0..spec.rank {
        let column = r * table.width + at.column;
        let weight = s.load(&table.dt_weight[column..]);
        let mut dweight = zero;
        for t in 0..chunk.len {
            let draw = s.load(&scratch.gah[t * lanes..]);
            let row = &mut scratch.proj[(t * width + r) * lanes..][..lanes];
            let dfactor = s.mul(draw, weight);
            let dfactor = if at.column == 0 { dfactor } else { s.add(s.load(row), dfactor) };
            s.store(dfactor, row);
            dweight = s.fma(draw, s.splat(chunk.row(io, t)[r]), dweight);
        }
        let total = s.add(s.load(&sums.dt_weight[column..]), dweight);
        s.store(total, &mut sums.dt_weight[column..]);
    }
}

/// Sums the partial sums of the chunk's rows of `proj` over their lanes.
#[inline(always)]
fn sum_lanes<S: Simd>(
    s: S,
    spec: &Spec,
    b: usize,
    k: usize,
    chunk: &Chunk,
    scratch: &Scratch<S::E>,
    out: Out<'_, S::E>,
) {
    let width = spec.proj_width();
    let rows = scratch.proj.chunks_exact(width * S::LANES);
    for (&p, row) in chunk.positions().iter().zip(rows) {
        // SAFETY: the rows of one group are written by its task only.
        let to = unsafe { out.proj.part(spec.proj_row(b, k, p), width) };
        lanes::sum_rows(s, row, to);
    }
}
