//! Plans of the selective scan and its gradient.

use crate::launch::{MOST, count};
use crate::{Arg, Limit, Module, Plan, ScanSizes, Type};

/// The most states of a channel (`N` of the largest kernels).
pub const MOST_STATES: usize = 16;
/// The most factors of dt (`SCAN_RANK`).
pub const MOST_RANK: usize = 16;

/// `SCAN_KEPT`, `SCAN_THREADS`, `SCAN_ADJOINT_THREADS` and `SCAN_ADJOINT_CHANNELS`.
const KEPT_CHUNK: usize = 32;
const THREADS: usize = 128;
const ADJOINT_THREADS: usize = 256;
const ADJOINT_CHANNELS: usize = 64;

/// A scan: δ = softplus(raw + bias), h_t = exp(δA) h_{t−1} + δBu, y = C·h + skip·u, where raw is
/// given, or the product of `rank` factors with weights.
#[derive(Clone, Debug)]
pub struct Scan {
    /// Sequences.
    pub batch: usize,
    /// Steps.
    pub length: usize,
    /// Rows and columns of the map that four directions walk, or none for a line.
    pub map: Option<(usize, usize)>,
    /// Groups (directions) with B and C of their own; 4 on a map.
    pub groups: usize,
    /// Channels of a group.
    pub channels: usize,
    /// States of a channel.
    pub states: usize,
    /// Factors of dt in a row of projections; 0: dt itself follows u in the first input.
    pub rank: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// Whether there is a skip.
    pub skip: bool,
    /// Whether there is an initial state.
    pub initial: bool,
    /// Whether δ goes through softplus.
    pub softplus: bool,
    /// Whether the parameters hold ln(−A) instead of A.
    pub log_a: bool,
    /// Whether the last states follow y in the output.
    pub last: bool,
}

/// Where each parameter starts in the flat parameters: dt's weights (a row of `rank` for each group
/// and channel), bias, A (rows of `states`), skip, initial states.
struct Params {
    weight: Option<usize>,
    bias: Option<usize>,
    a: usize,
    skip: Option<usize>,
    initial: Option<usize>,
    len: usize,
}

impl Scan {
    fn width(&self) -> usize {
        if self.map.is_some() { self.channels } else { self.groups * self.channels }
    }

    fn elements(&self) -> usize {
        self.batch * self.length * self.width()
    }

    fn state_elements(&self) -> usize {
        self.batch * self.groups * self.channels * self.states
    }

    fn proj_elements(&self) -> usize {
        self.batch * self.length * self.groups * (self.rank + 2 * self.states)
    }

    fn params(&self) -> Params {
        let rows = self.groups * self.channels;
        let mut len = 0;
        let mut next = |there: bool, size: usize| {
            let at = len;
            len += if there { size } else { 0 };
            there.then_some(at)
        };
        let weight = next(self.rank > 0, rows * self.rank);
        let bias = next(self.bias, rows);
        let a = next(true, rows * self.states).unwrap_or_default();
        let skip = next(self.skip, rows);
        let initial = next(self.initial, self.state_elements());
        Params { weight, bias, a, skip, initial, len }
    }

    /// Steps of a chunk: short where there are few channels and sequences to fill a GPU with, long
    /// where that saves work between chunks. A function of the sizes alone, so that results are the
    /// same on every GPU.
    fn chunk(&self, keep: bool) -> usize {
        const BLOCKS: usize = 4096;
        if keep {
            return KEPT_CHUNK;
        }
        let each = self.batch * self.groups * self.channels.div_ceil(THREADS);
        let mut chunk = 256;
        while chunk > KEPT_CHUNK && each * self.length.div_ceil(chunk) < BLOCKS {
            chunk /= 2;
        }
        chunk
    }

    /// The sizes, refused by name where a kernel does not take them.
    fn sizes(&self, keep: bool) -> Result<ScanSizes, Limit> {
        const OP: &str = "selective_scan";
        for (what, got, most) in [
            ("the number of states", self.states, MOST_STATES),
            ("the rank of dt", self.rank, MOST_RANK),
        ] {
            if got > most {
                return Err(Limit { op: OP, what, got, most });
            }
        }
        let chunk = self.chunk(keep);
        let chunks = self.length.div_ceil(chunk);
        let all = [self.batch, self.length, self.groups, self.rank + 2 * self.states];
        count(OP, "the number of projected values", &all)?;
        count(OP, "the number of outputs", &[self.batch, self.length, self.width()])?;
        let grid = [self.batch, self.groups, chunks, self.channels.div_ceil(32)];
        count(OP, "the number of blocks", &grid)?;
        let state = [self.batch, self.groups, self.channels, self.states + self.rank + 2];
        count(OP, "the number of states", &state)?;
        let (rows, cols) = self.map.unwrap_or((0, 0));
        let turns = if self.map.is_some() { 2 } else { 1 };
        let flags = u32::from(self.softplus) | u32::from(self.log_a) << 1;
        let [batch, length, rows, cols, width, groups, channels, states, rank, chunk, chunks] = [
            self.batch,
            self.length,
            rows,
            cols,
            self.width(),
            self.groups,
            self.channels,
            self.states,
            self.rank,
            chunk,
            chunks,
        ]
        .map(|n| n.min(MOST) as u32);
        Ok(ScanSizes {
            batch,
            length,
            rows,
            cols,
            width,
            groups,
            channels,
            states,
            rank,
            chunk,
            chunks,
            turns,
            all_turns: if self.map.is_some() { 4 } else { 1 },
            flags,
            run: 1,
            ..ScanSizes::default()
        })
    }

    /// All groups in one launch: those that blocks share out, each with the group that walks back.
    fn all_groups(&self, s: ScanSizes) -> ScanSizes {
        ScanSizes { group: 0, turn: 0, launch_groups: s.groups / s.turns, ..s }
    }

    /// The launches that write the same places one after the other.
    fn in_turn(&self, s: ScanSizes) -> Vec<ScanSizes> {
        if self.map.is_none() {
            return vec![self.all_groups(s)];
        }
        [0, 1].map(|group| ScanSizes { group, turn: 2 * group, launch_groups: 1, ..s }).to_vec()
    }

    fn named(&self, kernel: &str, t: Type) -> String {
        let n = if self.states <= 8 { 8 } else { 16 };
        format!("{kernel}_n{n}_{}", t.suffix())
    }

    /// Elements of [`forward`](Self::forward)'s kept states.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn kept(&self) -> Result<usize, Limit> {
        let s = self.sizes(true)?;
        Ok(self.state_elements() * s.chunks as usize)
    }

    /// Inputs: u (batch×length×width), with rank 0 followed by dt of the same size; the projections
    /// (batch×length×groups×(rank + 2 states): dt's factors, B, C); the parameters, flat `f32`: dt's
    /// weights (groups·channels×rank), bias, A or ln(−A) (rows of states), skip, initial states
    /// (batch×groups·channels×states), those that there are. Outputs: y like u, with `last` followed
    /// by the last states; with `keep` also what [`backward`](Self::backward) needs, `f32`.
    ///
    /// A line's width is groups·channels; a map's is the channels, which all directions share.
    ///
    /// # Errors
    /// For more than 16 states or factors, or 2³¹ values or more of anything.
    pub fn forward(&self, t: Type, keep: bool) -> Result<Plan, Limit> {
        let s = self.sizes(keep)?;
        let at = self.params();
        let mut p = Plan::default();
        let elements = self.elements();
        let (u, dt) = self.first(&mut p, t);
        let proj = p.input(t, self.proj_elements());
        let params = p.input(Type::F32, at.len);
        let last = if self.last { self.state_elements() } else { 0 };
        let out = p.output(t, elements + last);
        let size = self.state_elements() * s.chunks as usize;
        let states = if keep { p.output(Type::F32, size) } else { p.scratch(Type::F32, size) };
        let sums = p.scratch(Type::F32, size / self.states.max(1));
        let acc = self.accumulator(&mut p, t, out);
        let [weight, bias, a, skip, initial] = at.args(params);

        let inputs = [u, dt, proj, weight, bias, a, skip, Arg::Null];
        let walk = |p: &mut Plan, kernel: &str, s: ScanSizes, acc: Arg, out: Arg| {
            let blocks = self.channels.div_ceil(THREADS);
            let s = ScanSizes { blocks: blocks as u32, ..s };
            let block = (self.channels.next_multiple_of(32)).min(THREADS) as u32;
            let grid = s.batch * s.launch_groups * s.chunks * s.blocks;
            let args = [&[Arg::Scan(s)], &inputs[..], &[states, sums, acc, out]].concat();
            p.blocks(Module::Scan, self.named(kernel, t), grid, block, args);
        };
        walk(&mut p, "scan_end", self.all_groups(s), Arg::Null, Arg::Null);
        let last = if self.last { out.at(elements) } else { Arg::Null };
        let args = vec![Arg::Scan(s), a, sums, states, initial, last];
        let threads = self.state_elements() as u32;
        p.each(Module::Scan, "scan_chunks", t, threads, args);
        for s in self.in_turn(s) {
            walk(&mut p, "scan_output", s, acc, out);
        }
        Ok(p)
    }

    /// The gradient. Inputs: the three of [`forward`](Self::forward), the gradient of its first
    /// output, and its second output. Outputs: the gradients of the three inputs.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn backward(&self, t: Type) -> Result<Plan, Limit> {
        /// Blocks that fill a large GPU, and the most chunks that one takes.
        const BLOCKS: usize = 1024;
        const RUN: usize = 16;
        let s = self.sizes(true)?;
        let at = self.params();
        let mut p = Plan::default();
        let elements = self.elements();
        let (u, dt) = self.first(&mut p, t);
        let proj = p.input(t, self.proj_elements());
        let params = p.input(Type::F32, at.len);
        let last = if self.last { self.state_elements() } else { 0 };
        let grad = p.input(t, elements + last);
        let size = self.state_elements() * s.chunks as usize;
        let kept = p.input(Type::F32, size);
        let dfirst = p.output(t, if self.rank == 0 { 2 * elements } else { elements });
        let dproj = p.output(t, self.proj_elements());
        let dparams = p.output(Type::F32, at.len);
        let carries = p.scratch(Type::F32, size);
        let sums = p.scratch(Type::F32, size / self.states.max(1));
        let acc = self.accumulator(&mut p, t, dfirst);
        let [weight, bias, a, skip, _] = at.args(params);
        let [dweight, dbias, da, dskip, dinitial] = at.args(dparams);
        let inputs = [u, dt, proj, weight, bias, a, skip, grad];

        let blocks = self.channels.div_ceil(THREADS) as u32;
        let all = ScanSizes { blocks, ..self.all_groups(s) };
        let block = self.channels.next_multiple_of(32).min(THREADS) as u32;
        let grid = all.batch * all.launch_groups * all.chunks * blocks;
        let args =
            [&[Arg::Scan(all)], &inputs[..], &[carries, sums, Arg::Null, Arg::Null]].concat();
        p.blocks(Module::Scan, self.named("scan_carry", t), grid, block, args);

        let last = if self.last { grad.at(elements) } else { Arg::Null };
        let args = vec![Arg::Scan(s), a, sums, carries, last, dinitial];
        p.each(Module::Scan, "scan_chunks_adjoint", t, self.state_elements() as u32, args);

        let blocks = self.channels.div_ceil(ADJOINT_CHANNELS);
        let each = self.batch * self.all_groups(s).launch_groups as usize * blocks;
        let chunks = s.chunks as usize;
        let run = (each * chunks / BLOCKS).clamp(1, RUN);
        let runs = chunks.div_ceil(run);
        let s = ScanSizes { blocks: blocks as u32, run: run as u32, ..s };
        let block = (self.channels.next_multiple_of(8) * 4).min(ADJOINT_THREADS) as u32;
        let row_sums = p.scratch(Type::F32, blocks * self.proj_elements());
        let values = self.states + self.rank + 2;
        let part = self.groups * values * self.channels;
        let param_sums = p.scratch(Type::F32, runs * self.batch * part);
        let ddt = if self.rank == 0 { dfirst.at(elements) } else { Arg::Null };
        let results = [kept, carries, acc, dfirst, ddt, row_sums, param_sums];
        for s in self.in_turn(s) {
            let grid = s.batch * s.launch_groups * runs as u32 * s.blocks;
            let args = [&[Arg::Scan(s)], &inputs[..], &results[..]].concat();
            p.blocks(Module::Scan, self.named("scan_adjoint", t), grid, block, args);
        }

        let n = self.proj_elements() as u32;
        let args = vec![row_sums, dproj, Arg::U32(n), Arg::U32(blocks as u32)];
        p.each(Module::Scan, "scan_sum_rows", t, n, args);
        let args = vec![Arg::Scan(s), param_sums, a, dweight, dbias, da, dskip];
        p.each_named(Module::Scan, "scan_sum_params".into(), part as u32, args);
        Ok(p)
    }

    fn first(&self, p: &mut Plan, t: Type) -> (Arg, Arg) {
        let elements = self.elements();
        if self.rank > 0 {
            return (p.input(t, elements), Arg::Null);
        }
        let both = p.input(t, 2 * elements);
        (both, both.at(elements))
    }

    /// Where the four directions' results add up in f32: the output itself, if it is f32.
    fn accumulator(&self, p: &mut Plan, t: Type, out: Arg) -> Arg {
        match (t, self.map) {
            (_, None) => Arg::Null,
            (Type::F32, _) => out,
            _ => p.scratch(Type::F32, self.elements()),
        }
    }
}

impl Params {
    fn args(&self, flat: Arg) -> [Arg; 5] {
        [self.weight, self.bias, Some(self.a), self.skip, self.initial]
            .map(|at| at.map_or(Arg::Null, |at| flat.at(at)))
    }
}
