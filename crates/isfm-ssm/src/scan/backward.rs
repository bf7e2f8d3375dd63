use std::ops::Range;

use isfm_kernels::scan::Scan;
use isfm_ops::internal::zeros;
use isfm_ops::simd::{Kernel, MAX_LANES, Real, Simd, dispatch};
use isfm_ops::unroll;
use rayon::prelude::*;

use super::{
    Ahead, Block, CHUNK, Chunk, Inputs, Lanes, Shared, Table, Walk, lanes, prepare, state_groups,
};

/// States that the adjoint walks at once; their decays and states fill half the first-level cache.
const STATES: usize = 8;

/// Channels of a task: enough to share the gathering of a chunk, few enough to feed many threads.
/// Each range of channels has its own sums over channels in the gradients of B, C and dt's factors,
/// so how channels are divided must not depend on the threads.
const CHANNELS: usize = 4 * MAX_LANES;
/// The most ranges of channels: each needs its own buffer for the gradient of `proj`.
const RANGES: usize = 4;

/// Channels of a range.
fn channels_of_a_range(spec: &Scan) -> usize {
    spec.channels().div_ceil(RANGES).next_multiple_of(CHANNELS)
}

/// The adjoint of one group's scan over a range of channels.
struct Task<E> {
    b: usize,
    k: usize,
    channels: Range<usize>,
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
    /// The gradient of the chunk's rows of `proj`.
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
    fn new(io: &Inputs<'_, E>, last: &[E], b: usize, k: usize, channels: Range<usize>) -> Self {
        let spec = io.spec;
        let table = Table::new(io, k, channels.clone());
        let buffer = |rows: usize| vec![E::of(0.); rows * MAX_LANES];
        let row = |rows: usize| vec![E::of(0.); rows * table.width];
        let scratch = Scratch {
            dy: buffer(CHUNK),
            gb: buffer(CHUNK),
            gah: buffer(CHUNK),
            decay: buffer(CHUNK * STATES),
            carried: buffer(CHUNK * STATES),
            proj: vec![E::of(0.); CHUNK * spec.proj_width()],
        };
        let mut sums = Sums {
            carry: row(spec.states()),
            a: row(spec.states()),
            dt_weight: row(spec.dt_rank()),
            bias: row(1),
            skip: row(1),
        };
        if spec.has_last() {
            let first = (b * spec.groups() + k) * spec.channels() + channels.start;
            for c in 0..channels.len() {
                for n in 0..spec.states() {
                    sums.carry[n * table.width + c] = last[(first + c) * spec.states() + n];
                }
            }
        }
        Self { b, k, channels, table, chunk: Chunk::new(), block: Block::new(), scratch, sums }
    }

    /// Adds this sequence's share to the gradient of the parameters.
    fn add_to(&self, spec: &Scan, grad: &mut [E]) {
        let at = spec.params();
        let rows = self.k * spec.channels() + self.channels.start;
        let width = self.table.width;
        let mut add = |start: usize, n: usize, sums: &[E]| {
            for c in 0..self.channels.len() {
                for i in 0..n {
                    grad[start + (rows + c) * n + i] += sums[i * width + c];
                }
            }
        };
        add(at.dt_weight().start, spec.dt_rank(), &self.sums.dt_weight);
        if spec.has_bias() {
            add(at.bias().start, 1, &self.sums.bias);
        }
        if spec.has_log_a() {
            // A = -exp(A_log), so dA/dA_log = A.
            let scaled: Vec<E> =
                self.sums.a.iter().zip(&self.table.a).map(|(&g, &a)| g * a).collect();
            add(at.a().start, spec.states(), &scaled);
        } else {
            add(at.a().start, spec.states(), &self.sums.a);
        }
        if spec.has_skip() {
            add(at.skip().start, 1, &self.sums.skip);
        }
        if spec.has_initial() {
            let start =
                at.initial().start + self.b * spec.groups() * spec.channels() * spec.states();
            add(start, spec.states(), &self.sums.carry);
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
    let mut first = zeros(io.u.len() + io.dt.len());
    let range = channels_of_a_range(spec);
    let mut projs: Vec<Vec<E>> =
        (0..spec.channels()).step_by(range).map(|_| zeros(io.proj.len())).collect();
    let mut params = vec![E::of(0.); io.params.len()];
    {
        let (du, ddt) = first.split_at_mut(io.u.len());
        let projs: Vec<_> = projs.iter_mut().map(|p| Shared::new(p)).collect();
        let out = Out { u: Shared::new(du), dt: Shared::new(ddt), projs: &projs };
        for (phase, groups) in spec.phases().into_iter().enumerate() {
            let ranges = (0..spec.channels()).step_by(range);
            let ranges = ranges.map(|c| c..spec.channels().min(c + range));
            let starts: Vec<_> = (0..spec.batch())
                .flat_map(|b| groups.iter().map(move |&k| (b, k)))
                .flat_map(|(b, k)| ranges.clone().map(move |channels| (b, k, channels)))
                .collect();
            let mut tasks: Vec<Task<E>> = starts
                .into_par_iter()
                .map(|(b, k, channels)| Task::new(&io, last, b, k, channels))
                .collect();
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
    Gradients { first, proj: sum(projs), params }
}

/// The sum of vectors of one length, in their order.
fn sum<E: Real>(parts: Vec<Vec<E>>) -> Vec<E> {
    let mut parts = parts.into_iter();
    let mut total = parts.next().unwrap_or_default();
    for part in parts {
        const BLOCK: usize = 1 << 16;
        let blocks = total.par_chunks_mut(BLOCK).zip(part.par_chunks(BLOCK));
        blocks.for_each(|(total, part)| {
            for (total, &part) in total.iter_mut().zip(part) {
                *total += part;
            }
        });
    }
    total
}

#[derive(Clone, Copy)]
struct Out<'a, E> {
    u: Shared<'a, E>,
    dt: Shared<'a, E>,
    /// One for each range of channels.
    projs: &'a [Shared<'a, E>],
}

/// States at once: as many as the registers hold beside their gradients.
const fn most<S: Simd>() -> usize {
    if S::LANES >= 16 { STATES } else { 4 }
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
        let (b, k, channels) = (task.b, task.k, task.channels.clone());
        let spec = io.spec;
        let proj = out.projs[channels.start / channels_of_a_range(spec)];
        let steps = spec.steps(k, half);
        let first_chunk = spec.first_chunk(k, half);
        for number in (0..steps.len().div_ceil(CHUNK)).rev() {
            let start = steps.start + number * CHUNK;
            let next = start.saturating_sub(CHUNK).max(steps.start)..start;
            task.chunk.walk(spec, b, k, start..steps.end.min(start + CHUNK), next);
            let from = spec.kept_at(b, k, first_chunk + number);
            let kept = &kept[from..from + spec.states() * spec.padded()];
            task.scratch.proj.fill(S::E::of(0.));
            for at in Lanes::blocks(spec, k, channels.clone(), S::LANES) {
                let others = [dy.as_ptr(), out.u.place()];
                let ahead = Ahead { io, others, at };
                prepare(s, &io, &task.table, at, &task.chunk, &mut task.block);
                task.gather_dy(s, at, dy);
                let kept = &kept[channels.start + at.column..];
                state_groups!(spec.states(), most::<S>(), |G, first| task
                    .adjoint::<S, G>(s, &io, at, first, kept, &ahead));
                task.finish(s, &io, at, out, set);
            }
            let rows = task.scratch.proj.chunks_exact(spec.proj_width());
            for (&at, row) in task.chunk.here.projs().iter().zip(rows) {
                // SAFETY: the rows of one group and range are written by its task only.
                let to = unsafe { proj.part(at, row.len()) };
                to.copy_from_slice(row);
            }
        }
    }
}

impl<E: Real> Task<E> {
    #[inline(always)]
    fn gather_dy<S: Simd<E = E>>(&mut self, s: S, at: Lanes, dy: &[E]) {
        let Self { chunk, scratch, .. } = self;
        let zero = s.splat(E::of(0.));
        for (t, row) in chunk.here.maps().iter().enumerate() {
            let row = row + at.global;
            let o = t * S::LANES;
            s.store(s.load_partial(&dy[row..row + at.live]), &mut scratch.dy[o..]);
            s.store(zero, &mut scratch.gb[o..]);
            s.store(zero, &mut scratch.gah[o..]);
        }
    }

    /// Recomputes `G` states over a chunk, then walks it backwards with their gradients.
    #[inline(always)]
    fn adjoint<S: Simd<E = E>, const G: usize>(
        &mut self,
        s: S,
        io: &Inputs<'_, E>,
        at: Lanes,
        first: usize,
        kept: &[E],
        ahead: &Ahead<'_, E>,
    ) {
        let Self { table, chunk, block, scratch, sums, .. } = self;
        let column = at.column;
        let zero = s.splat(E::of(0.));
        let spec = io.spec;
        let width = spec.proj_width();
        let (b0, c0) = (spec.dt_rank() + first, spec.dt_rank() + spec.states() + first);
        let Scratch { dy, gb, gah, decay, carried, proj: dproj } = scratch;
        let (mut state, mut a, mut carry) = ([zero; G], [zero; G], [zero; G]);
        unroll!(i < G => 16, {
            state[i] = s.load(&kept[(first + i) * spec.padded()..]);
            let at = (first + i) * table.width + column;
            a[i] = s.load(&table.a[at..]);
            carry[i] = s.load(&sums.carry[at..]);
        });
        let limit = s.load(&table.limit[column..]);
        for t in 0..chunk.len() {
            if first == 0 {
                ahead.step(chunk, t);
            }
            let scaled = lanes::scaled(s, s.load(&block.delta[t * S::LANES..]), limit);
            let w = s.load(&block.w[t * S::LANES..]);
            let b = &chunk.row(io, t)[b0..][..G];
            let decay = &mut decay[t * G * S::LANES..][..G * S::LANES];
            let carried = &mut carried[t * G * S::LANES..][..G * S::LANES];
            unroll!(i < G => 16, {
                let e = lanes::decay(s, scaled, a[i]);
                let eh = s.mul(e, state[i]);
                state[i] = s.fma(w, s.splat(b[i]), eh);
                s.store(e, &mut decay[i * S::LANES..]);
                s.store(eh, &mut carried[i * S::LANES..]);
            });
        }
        let mut da = [zero; G];
        for t in (0..chunk.len()).rev() {
            let o = t * S::LANES;
            let (dy, w) = (s.load(&dy[o..]), s.load(&block.w[o..]));
            let delta = s.load(&block.delta[o..]);
            let row = chunk.row(io, t);
            let (b, c) = (&row[b0..][..G], &row[c0..][..G]);
            let decay = &decay[o * G..][..G * S::LANES];
            let carried = &carried[o * G..][..G * S::LANES];
            let (mut to_b, mut to_c) = ([zero; 4], [zero; 4]);
            let mut quarters = [s.quarter([zero; 4], 0); 4];
            let mut sum_gb = [s.load(&gb[o..]), zero];
            let mut sum_gah = [s.load(&gah[o..]), zero];
            unroll!(i < G => 16, {
                let l = i * S::LANES;
                let b = s.splat(b[i]);
                let g = s.fma(dy, s.splat(c[i]), carry[i]);
                let eh = s.load(&carried[l..]);
                let h = s.fma(w, b, eh);
                to_b[i % 4] = s.mul(g, w);
                to_c[i % 4] = s.mul(dy, h);
                if i % 4 == 3 || i + 1 == G {
                    quarters[i / 4 % 2] = s.quarter(to_b, i % 4 + 1);
                    quarters[2 + i / 4 % 2] = s.quarter(to_c, i % 4 + 1);
                }
                sum_gb[i % 2] = s.fma(g, b, sum_gb[i % 2]);
                let q = s.mul(g, eh);
                sum_gah[i % 2] = s.fma(a[i], q, sum_gah[i % 2]);
                da[i] = s.fma(delta, q, da[i]);
                carry[i] = s.mul(s.load(&decay[l..]), g);
            });
            s.store(s.add(sum_gb[0], sum_gb[1]), &mut gb[o..]);
            s.store(s.add(sum_gah[0], sum_gah[1]), &mut gah[o..]);
            let sums = s.sum_quarters(quarters);
            let row = &mut dproj[t * width..][..width];
            for (to, sum) in row[b0..][..G].iter_mut().zip(&sums[..8]) {
                *to += *sum;
            }
            for (to, sum) in row[c0..][..G].iter_mut().zip(&sums[8..]) {
                *to += *sum;
            }
        }
        unroll!(i < G => 16, {
            let at = (first + i) * table.width + column;
            s.store(carry[i], &mut sums.carry[at..]);
            let total = s.add(s.load(&sums.a[at..]), da[i]);
            s.store(total, &mut sums.a[at..]);
        });
    }

    /// From the sums over states to the gradients of `u`, dt, its factors and weights, bias and skip.
    #[inline(always)]
    fn finish<S: Simd<E = E>>(
        &mut self,
        s: S,
        io: &Inputs<'_, E>,
        at: Lanes,
        out: Out<'_, E>,
        set: bool,
    ) {
        let Self { table, chunk, block, scratch, sums, .. } = self;
        let spec = io.spec;
        let width = spec.proj_width();
        let (zero, one) = (s.splat(E::of(0.)), s.splat(E::of(1.)));
        let twenty = s.splat(E::of(20.));
        let skip = s.load(&table.skip[at.column..]);
        let (mut dskip, mut dbias) = (zero, zero);
        for (t, row) in chunk.here.maps().iter().enumerate() {
            let o = t * S::LANES;
            let (dy, u) = (s.load(&scratch.dy[o..]), s.load(&block.u[o..]));
            let (gb, gah) = (s.load(&scratch.gb[o..]), s.load(&scratch.gah[o..]));
            let du = s.fma(skip, dy, s.mul(s.load(&block.delta[o..]), gb));
            dskip = s.fma(dy, u, dskip);
            let mut draw = s.fma(u, gb, gah);
            if spec.has_softplus() {
                let raw = s.load(&block.raw[o..]);
                draw = s.mul(draw, s.select_gt(raw, twenty, one, s.sigmoid(raw)));
            }
            dbias = s.add(dbias, draw);
            let row = row + at.global;
            // SAFETY: these channels at this position are this task's alone: the opposite direction
            // is in its other half now, and other groups have other columns.
            let to = unsafe { out.u.part(row, at.live) };
            let du = if set { du } else { s.add(s.load_partial(to), du) };
            s.store_partial(du, to);
            if spec.dt_rank() == 0 {
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
        for r in 0..spec.dt_rank() {
            let column = r * table.width + at.column;
            let weight = s.load(&table.dt_weight[column..]);
            let mut dweight = zero;
            for t0 in (0..chunk.len()).step_by(16) {
                let n = 16.min(chunk.len() - t0);
                let mut quarters = [s.quarter([zero; 4], 0); 4];
                for (q, quarter) in quarters.iter_mut().enumerate().take(n.div_ceil(4)) {
                    let mut rows = [zero; 4];
                    let t = t0 + 4 * q;
                    unroll!(i < 4 => 16, {
                        if t + i < chunk.len() {
                            let draw = s.load(&scratch.gah[(t + i) * S::LANES..]);
                            rows[i] = s.mul(draw, weight);
                            dweight = s.fma(draw, s.splat(chunk.row(io, t + i)[r]), dweight);
                        }
                    });
                    *quarter = s.quarter(rows, 4);
                }
                let rows = scratch.proj[t0 * width..].chunks_exact_mut(width);
                for (row, sum) in rows.zip(&s.sum_quarters(quarters)[..n]) {
                    row[r] += *sum;
                }
            }
            let total = s.add(s.load(&sums.dt_weight[column..]), dweight);
            s.store(total, &mut sums.dt_weight[column..]);
        }
    }
}
