//! A chain with gradients, on the CPU.
//!
//! The forward is the one without gradients: only inputs and results exist as maps. The backward
//! computes what it needs of the others again, block by block, and takes the block's gradients back
//! through the chain while everything is in a near cache. The products that this repeats cost less
//! than moving every map through memory twice. A depth-wise convolution, whose windows reach beyond
//! a block, cuts the chain in two.

use std::ops::Range;

use candle_core::{CpuStorage, Device, Error, Result, Shape, Tensor};

use super::blocks::{Plan, Segment};
use super::{Chain, Step, Value};
use crate::Epilogue;
use crate::graph::{self, Backward};
use crate::op::with_slices;
use crate::ops::activation::GateGradientRows;
use crate::ops::layer_norm::NormGradientRows;
use crate::ops::pointwise::{Addend, ProductRows, ScaleAddRows};
use crate::parallel::{add_partials, fill_blocks, split};
use crate::product::{Packed, ROWS, add_columns, outer_sum};
use crate::simd::{Real, dispatch};

impl Chain {
    /// The maps wanted, with a graph, or `None` where the chain must run op by op.
    pub(super) fn with_gradients(&self, wanted: &[Value]) -> Result<Option<Vec<Tensor>>> {
        if !graph::takes(self.steps.iter().flat_map(Step::tensors)) {
            return Ok(None);
        }
        if self.steps.iter().any(|step| matches!(step, Step::DepthwiseSilu { .. })) {
            return self.in_pieces(wanted).map(Some);
        }
        // An input needs no work, and a map that is wanted twice is made once.
        let mut made: Vec<Value> = Vec::new();
        for x in wanted {
            if !matches!(self.steps[x.step], Step::Input(_)) && !made.contains(x) {
                made.push(*x);
            }
        }
        let Some(plan) = self.plan(&made) else { return Ok(None) };
        let storages = with_float!(plan.inputs[0].dtype(), E => {
            let maps = self.elements_in_blocks::<E>(&plan, &made)?;
            maps.into_iter().map(<E as candle_core::WithDType>::to_cpu_storage_owned).collect::<Vec<_>>()
        }, else return Ok(None));
        let shapes = made.iter().map(|x| Shape::from(plan.shape(*x)));
        let results: Vec<_> = storages.into_iter().zip(shapes).collect();
        let maps = self.record(results, plan, made.clone(), false)?;
        let maps = wanted.iter().map(|x| match &self.steps[x.step] {
            Step::Input(map) => map.clone(),
            _ => maps[made.iter().position(|y| x == y).unwrap_or_default()].clone(),
        });
        Ok(Some(maps.collect()))
    }

    /// The mean wanted, with a graph, or `None` where the chain must run op by op.
    pub(super) fn mean_with_gradients(&self, wanted: Value) -> Result<Option<Tensor>> {
        let tensors = self.steps.iter().flat_map(Step::tensors);
        if !graph::takes(tensors) || matches!(self.steps[wanted.step], Step::Input(_)) {
            return Ok(None);
        }
        let Some(plan) = self.plan(&[wanted]).filter(|plan| plan.window.is_none()) else {
            return Ok(None);
        };
        let means = with_float!(plan.inputs[0].dtype(), E => {
            let means = self.means_in_blocks::<E>(&plan, wanted)?;
            <E as candle_core::WithDType>::to_cpu_storage_owned(means)
        }, else return Ok(None));
        let shape = (plan.batch, plan.channels[wanted.step]).into();
        Ok(self.record(vec![(means, shape)], plan, vec![wanted], true)?.pop())
    }

    fn record(
        &self,
        results: Vec<(CpuStorage, Shape)>,
        plan: Plan,
        wanted: Vec<Value>,
        mean: bool,
    ) -> Result<Vec<Tensor>> {
        let inputs = self.steps.iter().flat_map(Step::tensors).cloned().collect();
        let chain = Chain { id: self.id, steps: self.steps.clone() };
        graph::record(results, inputs, Reverse { chain, plan, wanted, mean })
    }

    /// Runs the steps between depth-wise convolutions as chains of their own.
    fn in_pieces(&self, wanted: &[Value]) -> Result<Vec<Tensor>> {
        let last = self.last_uses(wanted);
        let mut maps: Vec<Option<Tensor>> = vec![None; self.steps.len()];
        let mut start = 0;
        for end in 0..=self.steps.len() {
            let window = match self.steps.get(end) {
                Some(Step::DepthwiseSilu { x, conv }) => Some((x, conv)),
                Some(Step::Input(map)) => {
                    maps[end] = Some(map.clone());
                    continue;
                }
                Some(_) => continue,
                None => None,
            };
            self.piece(start..end, &last, &mut maps)?;
            if let Some((x, conv)) = window {
                let (weight, bias) = (conv.weight(), conv.bias());
                let map = crate::depthwise_conv2d(known(&maps, x)?, weight, bias, Epilogue::Silu)?;
                maps[end] = Some(map);
            }
            start = end + 1;
        }
        wanted.iter().map(|x| known(&maps, x).cloned()).collect()
    }

    /// Sets those of `maps` that the steps `range` make and that are needed after it.
    fn piece(
        &self,
        range: Range<usize>,
        last: &[usize],
        maps: &mut [Option<Tensor>],
    ) -> Result<()> {
        let mut piece = Chain::new();
        // The values of this chain in the piece.
        let mut there: Vec<Option<Value>> = vec![None; self.steps.len()];
        for i in range.clone() {
            let step = &self.steps[i];
            if matches!(step, Step::Input(_)) {
                continue;
            }
            for x in step.sources() {
                if there[x.step].is_none() {
                    there[x.step] = Some(piece.input(known(maps, &x)?));
                }
            }
            let step = step.with_sources(|x| there[x.step].unwrap_or(x));
            there[i] = Some(piece.push(step));
        }
        let made = |i: &usize| !matches!(self.steps[*i], Step::Input(_)) && last[*i] >= range.end;
        let made: Vec<usize> = range.clone().filter(made).collect();
        let wanted: Vec<Value> = made.iter().filter_map(|&i| there[i]).collect();
        if !wanted.is_empty() {
            for (i, map) in made.into_iter().zip(piece.run(&wanted)?) {
                maps[i] = Some(map);
            }
        }
        Ok(())
    }
}

fn known<'a>(maps: &'a [Option<Tensor>], x: &Value) -> Result<&'a Tensor> {
    maps[x.step].as_ref().ok_or_else(|| Error::msg("a map of a chain was read before it was made"))
}

/// The gradients of a chain without windows.
struct Reverse {
    chain: Chain,
    plan: Plan,
    /// The results, none of them an input.
    wanted: Vec<Value>,
    /// Whether the result is the mean over each image's pixels.
    mean: bool,
}

impl Backward for Reverse {
    fn gradients(&self, _: &[Tensor], grads: Vec<Option<Tensor>>) -> Result<Vec<Option<Tensor>>> {
        with_float!(self.plan.inputs[0].dtype(), E => self.run::<E>(&grads), else {
            Err(Error::msg("a chain of elements without a kernel"))
        })
    }
}

/// What a step's gradients take beside the values that the chain recomputes.
enum Adjoint<E> {
    /// The step's gradient is not asked for, or it is an input.
    None,
    Norm {
        weight: Vec<E>,
        eps: E,
    },
    Linear {
        /// The weights that take a gradient back.
        weight: Packed<E>,
        bias: bool,
    },
    Gate,
    Add,
    /// One row of factors or one for each image.
    Scale(Vec<E>),
}

/// Where a value is that a step read.
#[derive(Clone, Copy)]
enum Read {
    Input(usize),
    Saved(usize),
    Nowhere,
}

/// A backward pass of a chain, the same for every block.
struct Pass<'a, E> {
    steps: &'a [Step],
    adjoints: Vec<Adjoint<E>>,
    /// Computes the values that gradients are made of.
    again: Segment<E>,
    channels: &'a [usize],
    pixels: usize,
    reads: Vec<Read>,
    /// Channels of the values that are computed again.
    saved: Vec<usize>,
    /// Whether a value's gradient is asked for.
    live: Vec<bool>,
    /// Inputs with a gradient.
    outputs: Vec<usize>,
    /// Where the sums of each step's tensors start, and the end of all.
    sums: Vec<usize>,
}

impl Reverse {
    fn run<E: Real>(&self, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> {
        let Plan { batch, height, width, channels, .. } = &self.plan;
        let (pixels, steps) = (height * width, &self.chain.steps);
        let pass = Pass::<E>::new(self, grads)?;
        let total = *pass.sums.last().unwrap_or(&0);
        // How rows are divided must not depend on the threads; and a task is of one image.
        let parts = (((1 << 24) / total.max(1)).clamp(1, 32) / batch).max(1);
        let task = pixels.div_ceil(parts).next_multiple_of(ROWS);
        let widths: Vec<usize> = pass.outputs.iter().map(|&i| channels[i]).collect();
        let seeds: Vec<(usize, &Tensor)> = self
            .wanted
            .iter()
            .zip(grads)
            .filter_map(|(x, grad)| Some((x.step, grad.as_ref()?)))
            .collect();
        let maps: Vec<&Tensor> =
            self.plan.inputs.iter().chain(seeds.iter().map(|(_, grad)| *grad)).collect();
        let blocks = self.plan.blocks(task);
        let (maps, sums) = with_slices::<E, _>(&maps, |slices| {
            let (inputs, grads) = slices.split_at(self.plan.inputs.len());
            Ok(fill_blocks(batch * pixels, &widths, blocks, |rows, out, buffers| {
                let mut sums = vec![E::of(0.); total];
                let step = pass.rows_of_a_block();
                for start in rows.clone().step_by(step) {
                    let block = start..rows.end.min(start + step);
                    let out = out.iter_mut().zip(&widths).map(|(out, width)| {
                        &mut out[(start - rows.start) * width..][..block.len() * width]
                    });
                    let seed = |(at, grad): (usize, &mut [E])| {
                        let c = grad.len() / block.len();
                        if self.mean {
                            let mean = &grads[at][block.start / pixels * c..][..c];
                            for row in grad.chunks_exact_mut(c) {
                                let values = row.iter_mut().zip(mean);
                                values.for_each(|(v, &m)| *v = m / E::of(pixels as f64));
                            }
                        } else {
                            grad.copy_from_slice(&grads[at][block.start * c..block.end * c]);
                        }
                    };
                    let seeds = seeds.iter().map(|(step, _)| *step);
                    pass.block(block.clone(), inputs, seeds, seed, out, buffers, &mut sums);
                }
                sums
            }))
        })?;
        let images: Vec<usize> = self.plan.blocks(task).map(|rows| rows.start / pixels).collect();
        let mut maps = maps.into_iter();
        let tensors = steps.iter().enumerate().map(|(i, step)| -> Result<Vec<Option<Tensor>>> {
            let tensors: Vec<&Tensor> = step.tensors().collect();
            if matches!(step, Step::Input(_)) {
                let map = if pass.live[i] { maps.next() } else { None };
                let map = map.map(|map| Tensor::from_vec(map, tensors[0].shape(), &Device::Cpu));
                return Ok(vec![map.transpose()?]);
            }
            let at = pass.sums[i]..pass.sums[i + 1];
            if at.is_empty() {
                return Ok(vec![None; tensors.len()]);
            }
            let mut sum = Vec::new();
            if matches!(step, Step::ScaleAdd { scale, .. } if scale.rank() == 2) {
                sum.resize(batch * at.len(), E::of(0.));
                for (image, sums) in images.iter().zip(&sums) {
                    let row = sum[image * at.len()..][..at.len()].iter_mut();
                    row.zip(&sums[at.clone()]).for_each(|(sum, &v)| *sum += v);
                }
            } else {
                sums.iter().for_each(|sums| sum.extend_from_slice(&sums[at.clone()]));
                add_partials(&mut sum, at.len());
            }
            let mut rest = &sum[..];
            let tensors = tensors.into_iter().map(|t| {
                let (values, after) = rest.split_at(t.elem_count());
                rest = after;
                Tensor::from_slice(values, t.shape(), &Device::Cpu).map(Some)
            });
            tensors.collect()
        });
        Ok(tensors.collect::<Result<Vec<_>>>()?.concat())
    }
}

impl<'a, E: Real> Pass<'a, E> {
    fn new(of: &'a Reverse, grads: &[Option<Tensor>]) -> Result<Self> {
        let (chain, plan) = (&of.chain, &of.plan);
        let (steps, n) = (&chain.steps[..], chain.steps.len());
        let input = |i: usize| matches!(steps[i], Step::Input(_));
        let (mut live, mut reached) = (vec![false; n], vec![false; n]);
        for (x, grad) in of.wanted.iter().zip(grads) {
            reached[x.step] |= grad.is_some();
        }
        for i in (0..n).rev().filter(|&i| !input(i)) {
            if reached[i] {
                steps[i].sources().for_each(|x| reached[x.step] = true);
            }
        }
        for (i, step) in steps.iter().enumerate() {
            let tracked = step.tensors().any(Tensor::track_op);
            live[i] = reached[i] && (tracked || step.sources().any(|x| live[x.step]));
        }
        let mut direct = vec![false; n];
        for (i, step) in steps.iter().enumerate().filter(|(i, _)| live[*i]) {
            let own = step.tensors().any(Tensor::track_op);
            match step {
                Step::Norm { x, .. } => direct[x.step] = true,
                Step::Linear { x, .. } | Step::LinearAdd { x, .. } | Step::ScaleAdd { x, .. } => {
                    direct[x.step] |= own;
                }
                Step::SiluGate { x, z } => (direct[x.step], direct[z.step]) = (true, true),
                Step::Input(_) | Step::Add { .. } | Step::DepthwiseSilu { .. } => {}
            }
            debug_assert!(reached[i]);
        }
        let saved: Vec<usize> = (0..n).filter(|&i| direct[i] && !input(i)).collect();
        let mut needed = direct;
        for i in (0..n).rev().filter(|&i| !input(i)) {
            if needed[i] {
                steps[i].sources().for_each(|x| needed[x.step] = true);
            }
        }
        let values: Vec<Value> = saved.iter().map(|&i| chain.value(i)).collect();
        let again = Segment::of(chain, plan, 0..n, &values, |i| needed[i])?;
        let mut inputs = 0;
        let reads = (0..n).map(|i| {
            if input(i) {
                inputs += 1;
                return Read::Input(inputs - 1);
            }
            saved.iter().position(|&j| i == j).map_or(Read::Nowhere, Read::Saved)
        });
        let reads = reads.collect();
        let mut sums = vec![0];
        let mut adjoints = Vec::with_capacity(n);
        for (i, step) in steps.iter().enumerate() {
            let c = plan.channels[i];
            let own = live[i] && step.tensors().any(Tensor::track_op);
            let sum = match step {
                Step::ScaleAdd { .. } => c,
                Step::Input(_) => 0,
                step => step.tensors().map(Tensor::elem_count).sum(),
            };
            sums.push(sums[i] + if own { sum } else { 0 });
            adjoints.push(if live[i] { Adjoint::of(step)? } else { Adjoint::None });
        }
        Ok(Self {
            steps,
            adjoints,
            again,
            channels: &plan.channels,
            pixels: plan.height * plan.width,
            reads,
            saved: saved.iter().map(|&i| plan.channels[i]).collect(),
            outputs: (0..n).filter(|&i| input(i) && live[i]).collect(),
            live,
            sums,
        })
    }

    /// Values and gradients of a block should stay in the second-level cache.
    fn rows_of_a_block(&self) -> usize {
        let values = self.saved.iter().sum::<usize>() + self.channels.iter().sum::<usize>();
        if values * ROWS * size_of::<E>() > 768 << 10 { ROWS / 2 } else { ROWS }
    }

    /// Takes the gradients of some rows of one image from the results, `seeds`, to the `outputs`
    /// and to `sums`.
    #[allow(clippy::too_many_arguments)]
    fn block<'b>(
        &self,
        rows: Range<usize>,
        inputs: &[&[E]],
        seeds: impl Iterator<Item = usize>,
        seed: impl Fn((usize, &mut [E])),
        outputs: impl Iterator<Item = &'b mut [E]>,
        [buffer, others]: &mut [Vec<E>; 2],
        sums: &mut [E],
    ) {
        let count = rows.len();
        let inner = |i: usize| self.live[i] && !matches!(self.steps[i], Step::Input(_));
        let saved = self.saved.iter().map(|c| c * count);
        let own =
            (0..self.steps.len()).map(|i| if inner(i) { self.channels[i] * count } else { 0 });
        // The widest gradient once more, for steps that read one value twice.
        let spare = self.channels.iter().max().map(|c| c * count);
        let mut slots = split(buffer, saved.chain(own).chain(spare));
        let (values, grads) = slots.split_at_mut(self.saved.len());
        self.again.run(rows.clone(), self.pixels, inputs, values, others, |_| ());
        let read = |x: Value| match self.reads[x.step] {
            Read::Input(i) => {
                let c = self.channels[x.step];
                &inputs[i][rows.start * c..rows.end * c]
            }
            Read::Saved(i) => &*values[i],
            Read::Nowhere => &[],
        };
        let Some((spare, own)) = grads.split_last_mut() else { return };
        let mut grads = Grads {
            slots: own.iter_mut().map(|slot| &mut **slot).collect(),
            set: vec![false; self.steps.len()],
            fixed: vec![false; self.steps.len()],
            live: &self.live,
        };
        for (&i, output) in self.outputs.iter().zip(outputs) {
            grads.slots[i] = output;
            grads.fixed[i] = true;
        }
        for (at, i) in seeds.enumerate() {
            if self.live[i] {
                seed((at, &mut *grads.slots[i]));
                grads.set[i] = true;
            }
        }
        for (i, step) in self.steps.iter().enumerate().rev() {
            if !inner(i) || !grads.set[i] {
                continue;
            }
            let c = self.channels[i];
            let grad = std::mem::take(&mut grads.slots[i]);
            let sums = &mut sums[self.sums[i]..self.sums[i + 1]];
            match (step, &self.adjoints[i]) {
                (Step::Norm { x, .. }, Adjoint::Norm { weight, eps }) => {
                    let mut unasked = Vec::new();
                    let sums = if sums.is_empty() {
                        unasked.resize(2 * c, E::of(0.));
                        &mut unasked[..]
                    } else {
                        sums
                    };
                    let (dw, db) = sums.split_at_mut(c);
                    let values = read(*x);
                    let (dx, add) = grads.get(*x, spare, values.len());
                    let (eps, grad) = (*eps, &*grad);
                    dispatch(NormGradientRows { x: values, weight, grad, eps, add, dx, dw, db });
                }
                (
                    Step::Linear { x, .. } | Step::LinearAdd { x, .. },
                    Adjoint::Linear { weight, bias },
                ) => {
                    if !sums.is_empty() {
                        let values = read(*x);
                        let (dw, db) = sums.split_at_mut(c * weight.columns());
                        outer_sum((grad, c), (values, weight.columns()), dw);
                        if *bias {
                            add_columns(grad, db);
                        }
                    }
                    if grads.live[x.step] {
                        let (dx, add) = grads.get(*x, spare, count * weight.columns());
                        if !add {
                            weight.start_from(None, dx);
                        }
                        weight.accumulate(grad, dx);
                    }
                    if let Step::LinearAdd { y, .. } = step {
                        grads.pass(*y, grad);
                    }
                }
                (Step::SiluGate { x, z }, Adjoint::Gate) => {
                    let (values, gate) = (read(*x), read(*z));
                    grads.gate((*x, values), (*z, gate), grad, spare);
                }
                (Step::Add { x, y }, Adjoint::Add) => {
                    grads.add(*x, grad);
                    grads.pass(*y, grad);
                }
                (Step::ScaleAdd { x, y, .. }, Adjoint::Scale(scale)) => {
                    if !sums.is_empty() {
                        dispatch(ProductRows { a: read(*x), b: grad, sums });
                    }
                    if grads.live[x.step] {
                        let scale = &scale[rows.start / self.pixels * c % scale.len()..][..c];
                        let (dx, add) = grads.get(*x, spare, grad.len());
                        let y = if add { Addend::Out } else { Addend::None };
                        dispatch(ScaleAddRows { x: grad, scale, y, out: dx });
                    }
                    grads.pass(*y, grad);
                }
                _ => {}
            }
        }
    }
}

impl<E: Real> Adjoint<E> {
    fn of(step: &Step) -> Result<Self> {
        let values = |t: &Tensor| t.flatten_all()?.to_vec1::<E>();
        Ok(match step {
            Step::Input(_) | Step::DepthwiseSilu { .. } => Self::None,
            Step::Norm { norm, .. } => {
                Self::Norm { weight: values(norm.weight())?, eps: E::of(norm.eps()) }
            }
            Step::Linear { weight, .. } | Step::LinearAdd { weight, .. } => {
                let (outputs, inputs) = weight.dims2()?;
                let w = values(weight)?;
                let weight = Packed::new(outputs, inputs, |r, j| w[r * inputs + j]);
                Self::Linear { weight, bias: step.tensors().count() > 1 }
            }
            Step::SiluGate { .. } => Self::Gate,
            Step::Add { .. } => Self::Add,
            Step::ScaleAdd { scale, .. } => Self::Scale(values(scale)?),
        })
    }
}

/// The gradients of a block's values.
struct Grads<'a, E> {
    slots: Vec<&'a mut [E]>,
    /// Whether something is in a slot.
    set: Vec<bool>,
    /// Whether the slot is part of an output.
    fixed: Vec<bool>,
    live: &'a [bool],
}

impl<'a, E: Real> Grads<'a, E> {
    /// Where the gradient of `x` goes, and whether it is added to what is there; `spare` if nothing
    /// asks for it.
    fn get<'b>(&'b mut self, x: Value, spare: &'b mut [E], len: usize) -> (&'b mut [E], bool) {
        if !self.live[x.step] {
            return (&mut spare[..len], false);
        }
        let add = std::mem::replace(&mut self.set[x.step], true);
        (&mut *self.slots[x.step], add)
    }

    fn add(&mut self, x: Value, grad: &[E]) {
        if !self.live[x.step] {
            return;
        }
        let slot = &mut *self.slots[x.step];
        if std::mem::replace(&mut self.set[x.step], true) {
            slot.iter_mut().zip(grad).for_each(|(sum, &v)| *sum += v);
        } else {
            slot.copy_from_slice(grad);
        }
    }

    /// [`add`](Self::add) of a gradient that no one reads afterwards.
    fn pass(&mut self, x: Value, grad: &'a mut [E]) {
        if !self.live[x.step] || self.fixed[x.step] || self.set[x.step] {
            return self.add(x, grad);
        }
        self.slots[x.step] = grad;
        self.set[x.step] = true;
    }

    fn gate(
        &mut self,
        (x, values): (Value, &[E]),
        (z, gate): (Value, &[E]),
        grad: &'a mut [E],
        spare: &mut [E],
    ) {
        let spare = &mut spare[..grad.len()];
        if x == z || !(self.live[x.step] && self.live[z.step]) {
            // One after the other: the first into the spare, the second over the gradient itself.
            let n = grad.len();
            let copy = grad.to_vec();
            let (add, dx, dz) = ([false; 2], &mut *spare, &mut grad[..n]);
            dispatch(GateGradientRows { x: values, z: gate, grad: &copy, add, dx, dz });
            self.add(x, spare);
            self.add(z, grad);
            return;
        }
        let dx = std::mem::take(&mut self.slots[x.step]);
        let dz = std::mem::take(&mut self.slots[z.step]);
        let add = [self.set[x.step], self.set[z.step]];
        dispatch(GateGradientRows { x: values, z: gate, grad, add, dx: &mut *dx, dz: &mut *dz });
        (self.slots[x.step], self.slots[z.step]) = (dx, dz);
        (self.set[x.step], self.set[z.step]) = (true, true);
    }
}
