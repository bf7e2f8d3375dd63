//! Plans of the selective scan and its gradient.

use super::{ParamRanges, Path, Scan};
use crate::launch::{at_most, count};
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

impl Scan {
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

    /// The sizes, refused by name where a kernel does not take them. Of what passes, the products
    /// that plans need do not overflow.
    fn sizes(&self, keep: bool) -> Result<ScanSizes, Limit> {
        const OP: &str = "selective_scan";
        let &Self { batch, length, groups, channels, states, rank, .. } = self;
        at_most(OP, "the number of states", states, MOST_STATES)?;
        at_most(OP, "the rank of dt", rank, MOST_RANK)?;
        let (rows, cols, turns) = match self.path {
            Path::Line => (0, 0, 1),
            Path::Cross { rows, cols } => (rows, cols, 2),
        };
        let all = [batch, length.max(rows).max(cols), groups, self.proj_width()];
        count(OP, "the number of projected values", &all)?;
        count(OP, "the number of outputs", &[batch, length, self.width()])?;
        let state = [batch, groups, channels, states + rank + 2];
        count(OP, "the number of states", &state)?;
        let chunk = self.chunk(keep);
        let chunks = length.div_ceil(chunk);
        let grid = [batch, groups, chunks, channels.div_ceil(32)];
        count(OP, "the number of blocks", &grid)?;
        let sizes = [batch, length, rows, cols, self.width(), groups, channels, states, rank];
        let [batch, length, rows, cols, width, groups, channels, states, rank] =
            sizes.map(|n| n as u32);
        #[rustfmt::skip]
        let sizes = ScanSizes {
            batch, length, rows, cols, width, groups, channels, states, rank,
            chunk: chunk as u32, chunks: chunks as u32,
            group: 0, launch_groups: 0, turns, turn: 0, all_turns: turns * turns,
            flags: u32::from(self.softplus) | u32::from(self.log_a) << 1,
            run: 1, blocks: 0, unused: 0,
        };
        Ok(sizes)
    }

    /// All groups in one launch: those that blocks share out, each with the group that walks back.
    fn all_groups(&self, s: ScanSizes) -> ScanSizes {
        ScanSizes { group: 0, turn: 0, launch_groups: s.groups / s.turns, ..s }
    }

    /// The launches that write the same places one after the other.
    fn in_turn(&self, s: ScanSizes) -> Vec<ScanSizes> {
        if self.path == Path::Line {
            return vec![self.all_groups(s)];
        }
        [0, 1].map(|group| ScanSizes { group, turn: 2 * group, launch_groups: 1, ..s }).to_vec()
    }

    fn named(&self, kernel: &str, t: Type) -> String {
        t.kernel(&format!("{kernel}_n{}", if self.states <= 8 { 8 } else { 16 }))
    }

    /// Elements of [`forward`](Self::forward)'s kept states.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn kept(&self) -> Result<usize, Limit> {
        let s = self.sizes(true)?;
        Ok(self.rows(s) * self.states)
    }

    /// Channels of all groups and sequences, for every chunk.
    fn rows(&self, s: ScanSizes) -> usize {
        self.batch * self.groups * self.channels * s.chunks as usize
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
        let mut p = Plan::new();
        let ([u, dt, proj], [weight, bias, a, skip, initial]) = self.inputs(&mut p, t);
        let out = p.output(t, self.elements() + self.last_elements());
        let (rows, size) = (self.rows(s), self.rows(s) * self.states);
        let states = if keep { p.output(Type::F32, size) } else { p.temporary(Type::F32, size) };
        let sums = p.temporary(Type::F32, rows);
        let acc = self.accumulator(&mut p, t, out);

        let inputs = [u, dt, proj, weight, bias, a, skip, Arg::Null, states, sums];
        let none = [Arg::Null; 2];
        self.walk(&mut p, self.named("scan_end", t), self.all_groups(s), [&inputs, &none]);
        let last = if self.has_last() { out.at(self.elements()) } else { Arg::Null };
        let args = [Arg::Scan(s), a, sums, states, initial, last];
        p.each(Module::Scan, t.kernel("scan_chunks"), self.state_elements() as u32, &[&args]);
        for s in self.in_turn(s) {
            self.walk(&mut p, self.named("scan_output", t), s, [&inputs, &[acc, out]]);
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
        let (at, elements) = (self.params(), self.elements());
        let mut p = Plan::new();
        let ([u, dt, proj], [weight, bias, a, skip, _]) = self.inputs(&mut p, t);
        let grad = p.input(t, elements + self.last_elements());
        let (rows, size) = (self.rows(s), self.rows(s) * self.states);
        let kept = p.input(Type::F32, size);
        let dfirst = p.output(t, if self.dt_rank() == 0 { 2 * elements } else { elements });
        let dproj = p.output(t, self.proj_elements());
        let dparams = p.output(Type::F32, at.len());
        let carries = p.temporary(Type::F32, size);
        let sums = p.temporary(Type::F32, rows);
        let acc = self.accumulator(&mut p, t, dfirst);
        let [dweight, dbias, da, dskip, dinitial] = at.args(dparams);
        let inputs = [u, dt, proj, weight, bias, a, skip, grad];

        let rest = [carries, sums, Arg::Null, Arg::Null];
        self.walk(&mut p, self.named("scan_carry", t), self.all_groups(s), [&inputs, &rest]);

        let last = if self.has_last() { grad.at(elements) } else { Arg::Null };
        let args = [Arg::Scan(s), a, sums, carries, last, dinitial];
        let threads = self.state_elements() as u32;
        p.each(Module::Scan, t.kernel("scan_chunks_adjoint"), threads, &[&args]);

        let blocks = self.channels.div_ceil(ADJOINT_CHANNELS);
        let each = self.batch * self.all_groups(s).launch_groups as usize * blocks;
        let chunks = s.chunks as usize;
        let run = (each * chunks / BLOCKS).clamp(1, RUN);
        let runs = chunks.div_ceil(run);
        let s = ScanSizes { blocks: blocks as u32, run: run as u32, ..s };
        let block = (self.channels.next_multiple_of(8) * 4).min(ADJOINT_THREADS) as u32;
        let row_sums = p.temporary(Type::F32, blocks * self.proj_elements());
        let values = self.states + self.dt_rank() + 2;
        let part = self.groups * values * self.channels;
        let param_sums = p.temporary(Type::F32, runs * self.batch * part);
        let ddt = if self.dt_rank() == 0 { dfirst.at(elements) } else { Arg::Null };
        let results = [kept, carries, acc, dfirst, ddt, row_sums, param_sums];
        for s in self.in_turn(s) {
            let grid = s.batch * s.launch_groups * runs as u32 * s.blocks;
            let args: [&[Arg]; 3] = [&[Arg::Scan(s)], &inputs, &results];
            p.blocks(Module::Scan, self.named("scan_adjoint", t), [grid, block], &args);
        }

        let n = self.proj_elements() as u32;
        let args = [row_sums, dproj, Arg::U32(n), Arg::U32(blocks as u32)];
        p.each(Module::Scan, t.kernel("scan_sum_rows"), n, &[&args]);
        let args = [Arg::Scan(s), param_sums, a, dweight, dbias, da, dskip];
        p.each(Module::Scan, "scan_sum_params".into(), part as u32, &[&args]);
        Ok(p)
    }

    /// Launches a walk along all chunks, a thread a channel.
    fn walk(&self, p: &mut Plan, kernel: String, s: ScanSizes, [inputs, rest]: [&[Arg]; 2]) {
        let blocks = self.channels.div_ceil(THREADS) as u32;
        let block = self.channels.next_multiple_of(32).min(THREADS) as u32;
        let grid = s.batch * s.launch_groups * s.chunks * blocks;
        let sizes = Arg::Scan(ScanSizes { blocks, ..s });
        p.blocks(Module::Scan, kernel, [grid, block], &[&[sizes], inputs, rest]);
    }

    /// The inputs of both directions: u, dt where it is not made of factors, the projections; and
    /// the parameters.
    fn inputs(&self, p: &mut Plan, t: Type) -> ([Arg; 3], [Arg; 5]) {
        let elements = self.elements();
        let (u, dt) = if self.dt_rank() > 0 {
            (p.input(t, elements), Arg::Null)
        } else {
            let both = p.input(t, 2 * elements);
            (both, both.at(elements))
        };
        let proj = p.input(t, self.proj_elements());
        let at = self.params();
        ([u, dt, proj], at.args(p.input(Type::F32, at.len())))
    }

    /// Elements of the last states, which follow y if they are wanted.
    fn last_elements(&self) -> usize {
        if self.has_last() { self.state_elements() } else { 0 }
    }

    /// Where the four directions' results add up in f32: the output itself, if it is f32.
    fn accumulator(&self, p: &mut Plan, t: Type, out: Arg) -> Arg {
        match (t, self.path) {
            (_, Path::Line) => Arg::Null,
            (Type::F32, _) => out,
            _ => p.temporary(Type::F32, self.elements()),
        }
    }
}

impl ParamRanges {
    /// The places of the parameters, null where there are none.
    fn args(&self, flat: Arg) -> [Arg; 5] {
        [self.dt_weight(), self.bias(), self.a(), self.skip(), self.initial()]
            .map(|at| if at.is_empty() { Arg::Null } else { flat.at(at.start) })
    }
}
