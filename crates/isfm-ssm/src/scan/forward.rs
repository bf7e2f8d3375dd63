use std::ops::Range;

use isfm_kernels::scan::Scan;
use isfm_ops::internal::{scratch, zeros};
use isfm_ops::simd::{Kernel, MAX_LANES, Real, Simd, dispatch};
use isfm_ops::unroll;
use rayon::prelude::*;

use super::{
    Ahead, Block, CHUNK, Chunk, Inputs, Lanes, Shared, Table, Walk, lanes, prepare, state_groups,
};

/// One group's scan over a range of channels.
struct Task<E> {
    b: usize,
    k: usize,
    channels: Range<usize>,
    table: Table<E>,
    /// `states` rows of `table.width` channels.
    h: Vec<E>,
    chunk: Chunk,
    block: Block<E>,
    y: Vec<E>,
}

impl<E: Real> Task<E> {
    fn new(io: &Inputs<'_, E>, b: usize, k: usize, channels: Range<usize>) -> Self {
        let spec = io.spec;
        let table = Table::new(io, k, channels.clone());
        let mut h = vec![E::of(0.); spec.states() * table.width];
        if spec.has_initial() {
            let init = &io.params[spec.params().initial()];
            for (c, channel) in channels.clone().enumerate() {
                let row = ((b * spec.groups() + k) * spec.channels() + channel) * spec.states();
                for n in 0..spec.states() {
                    h[n * table.width + c] = init[row + n];
                }
            }
        }
        let y = vec![E::of(0.); CHUNK * MAX_LANES];
        Self { b, k, channels, table, h, chunk: Chunk::new(), block: Block::new(), y }
    }
}

/// The scan's output (`y`, then the last states if they were asked for), and with `keep` the state
/// before every chunk.
pub(super) fn forward<E: Real>(io: Inputs<'_, E>, keep: bool) -> (Vec<E>, Vec<E>) {
    let spec = io.spec;
    let mut kept = zeros(if keep { spec.kept_elements() } else { 0 });
    let last = if spec.has_last() { spec.state_elements() } else { 0 };
    let mut out = scratch(spec.elements() + last);
    let (y, last) = out.split_at_mut(spec.elements());
    let (y, kept_parts) = (Shared::new(y), Shared::new(&mut kept));

    for (phase, groups) in spec.phases().into_iter().enumerate() {
        let mut tasks: Vec<Task<E>> = tasks(spec, &groups)
            .into_par_iter()
            .map(|(b, k, channels)| Task::new(&io, b, k, channels))
            .collect();
        for half in 0..2 {
            tasks.par_iter_mut().for_each(|task| {
                let kept = keep.then_some(kept_parts);
                dispatch(Run { io, task, y, kept, set: phase == 0 && half == 0, half });
            });
        }
        if spec.has_last() {
            for task in &tasks {
                for (c, channel) in task.channels.clone().enumerate() {
                    let row = ((task.b * spec.groups() + task.k) * spec.channels() + channel)
                        * spec.states();
                    for n in 0..spec.states() {
                        last[row + n] = task.h[n * task.table.width + c];
                    }
                }
            }
        }
    }
    (out, kept)
}

/// What may run at once. Channels do not meet in the forward, so how many of them a task takes
/// changes no result: few for many threads, several to read the projections less often.
fn tasks(spec: &Scan, groups: &[usize]) -> Vec<(usize, usize, Range<usize>)> {
    let blocks = spec.channels().div_ceil(MAX_LANES);
    let all = spec.batch() * groups.len() * blocks;
    let together = (all / rayon::current_num_threads()).clamp(1, 4) * MAX_LANES;
    let mut tasks = Vec::new();
    for b in 0..spec.batch() {
        for start in (0..spec.channels()).step_by(together) {
            for &k in groups {
                tasks.push((b, k, start..spec.channels().min(start + together)));
            }
        }
    }
    tasks
}

/// States at once: as many as the registers hold.
const fn most<S: Simd>() -> usize {
    if S::LANES >= 16 { 16 } else { 4 }
}

struct Run<'a, 'io, E> {
    io: Inputs<'io, E>,
    task: &'a mut Task<E>,
    y: Shared<'io, E>,
    kept: Option<Shared<'io, E>>,
    /// As in [`Out`].
    set: bool,
    half: usize,
}

impl<E: Real> Kernel<E> for Run<'_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { io, task, y: out, kept, set, half } = self;
        let (b, k, channels) = (task.b, task.k, task.channels.clone());
        let spec = io.spec;
        let steps = spec.steps(k, half);
        for (i, start) in steps.clone().step_by(CHUNK).enumerate() {
            let number = spec.first_chunk(k, half) + i;
            let end = steps.end.min(start + CHUNK);
            task.chunk.walk(spec, b, k, start..end, end..steps.end.min(end + CHUNK));
            for at in Lanes::blocks(spec, k, channels.clone(), S::LANES) {
                if let Some(kept) = kept {
                    for n in 0..spec.states() {
                        let to = spec.kept_at(b, k, number)
                            + n * spec.padded()
                            + channels.start
                            + at.column;
                        // SAFETY: these channels of this sequence are this task's alone.
                        let row = unsafe { kept.part(to, S::LANES) };
                        s.store(s.load(&task.h[n * task.table.width + at.column..]), row);
                    }
                }
                prepare(s, &io, &task.table, at, &task.chunk, &mut task.block);
                let others = [out.place(), std::ptr::null()];
                let ahead = Ahead { io, others, at };
                state_groups!(spec.states(), most::<S>(), |G, first| task.recur::<S, G>(
                    s,
                    &io,
                    at,
                    first,
                    &ahead,
                    Out { y: out, set }
                ));
            }
        }
    }
}

/// Where a scan's outputs go.
#[derive(Clone, Copy)]
struct Out<'a, E> {
    y: Shared<'a, E>,
    /// Whether these are the first outputs at their positions; otherwise they are added.
    set: bool,
}

impl<E: Real> Task<E> {
    /// The recurrence of `G` states over a chunk. The first group starts the outputs in `y`, the
    /// others add their share, and the last one writes them to their places in `out`.
    #[inline(always)]
    fn recur<S: Simd<E = E>, const G: usize>(
        &mut self,
        s: S,
        io: &Inputs<'_, E>,
        at: Lanes,
        first: usize,
        ahead: &Ahead<'_, E>,
        out: Out<'_, E>,
    ) {
        let Self { table, h, chunk, block, y, .. } = self;
        let (h, y) = (&mut h[..], &mut y[..]);
        let spec = io.spec;
        let zero = s.splat(E::of(0.));
        let (mut state, mut a) = ([zero; G], [zero; G]);
        unroll!(i < G => 16, {
            let at = (first + i) * table.width + at.column;
            state[i] = s.load(&h[at..]);
            a[i] = s.load(&table.a[at..]);
        });
        let (limit, skip) = (s.load(&table.limit[at.column..]), s.load(&table.skip[at.column..]));
        let (b0, c0) = (spec.dt_rank() + first, spec.dt_rank() + spec.states() + first);
        let last = first + G == spec.states();
        let inputs = block.delta.chunks_exact(S::LANES).zip(block.w.chunks_exact(S::LANES));
        let inputs = inputs.zip(block.u.chunks_exact(S::LANES)).zip(y.chunks_exact_mut(S::LANES));
        for (t, (((delta, w), u), y)) in inputs.take(chunk.len()).enumerate() {
            if first == 0 {
                ahead.step(chunk, t);
            }
            let row = chunk.row(io, t);
            let (b, c) = (&row[b0..][..G], &row[c0..][..G]);
            let (scaled, w) = (lanes::scaled(s, s.load(delta), limit), s.load(w));
            let start = if first == 0 { s.mul(skip, s.load(u)) } else { s.load(y) };
            let mut sums = [start, zero];
            unroll!(i < G => 16, {
                let decay = lanes::decay(s, scaled, a[i]);
                state[i] = s.fma(decay, state[i], s.mul(w, s.splat(b[i])));
                sums[i % 2] = s.fma(state[i], s.splat(c[i]), sums[i % 2]);
            });
            let v = s.add(sums[0], sums[1]);
            if !last {
                s.store(v, y);
                continue;
            }
            let to = chunk.here.maps[t] + at.global;
            // SAFETY: the opposite direction is in its other half now, so these positions of these
            // channels are this task's alone.
            let row = unsafe { out.y.part(to, at.live) };
            let v = if out.set { v } else { s.add(s.load_partial(row), v) };
            s.store_partial(v, row);
        }
        unroll!(i < G => 16, {
            s.store(state[i], &mut h[(first + i) * table.width + at.column..]);
        });
    }
}
