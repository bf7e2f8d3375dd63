//! A chain in blocks of pixels, on the CPU.

use std::ops::Range;

use candle_core::{Device, Result, Tensor};

use super::{Chain, Step, Value};
use crate::op::{untracked, with_slices};
use crate::ops::activation::{GateRows, SiluRows};
use crate::ops::depthwise::{OutputRow, by_tap};
use crate::ops::layer_norm::NormRows;
use crate::ops::pointwise::{Addend, ScaleAddRows};
use crate::parallel::{fill_blocks, split, sum_rows};
use crate::product::{Packed, ROWS};
use crate::simd::{Real, dispatch};

impl Chain {
    /// The maps wanted, or `None` where the chain must run op by op.
    pub(super) fn in_blocks(&self, wanted: &[Value]) -> Result<Option<Vec<Tensor>>> {
        let Some(plan) = self.untracked_plan(wanted) else { return Ok(None) };
        let maps = with_float!(plan.inputs[0].dtype(), E => self.maps_in_blocks::<E>(&plan, wanted), else {
            return Ok(None)
        });
        maps.map(Some)
    }

    /// The mean wanted, or `None` where the chain must run op by op.
    pub(super) fn mean_in_blocks(&self, wanted: Value) -> Result<Option<Tensor>> {
        let Some(plan) = self.untracked_plan(&[wanted]) else { return Ok(None) };
        if plan.window.is_some() {
            return Ok(None);
        }
        with_float!(plan.inputs[0].dtype(), E => self.mean_of_blocks::<E>(&plan, wanted).map(Some), else {
            Ok(None)
        })
    }

    fn untracked_plan(&self, wanted: &[Value]) -> Option<Plan> {
        let tensors = || self.steps.iter().flat_map(Step::tensors);
        let fits = untracked(tensors()) && tensors().all(|t| t.device().is_cpu());
        if fits { self.plan(wanted) } else { None }
    }

    /// How to run on the CPU, or `None` where the chain must run op by op.
    pub(super) fn plan(&self, wanted: &[Value]) -> Option<Plan> {
        // The operations themselves check the sizes, on maps without rows. A chain that they refuse
        // runs op by op, which reports the error.
        let all: Vec<Value> = (0..self.steps.len()).map(|i| self.value(i)).collect();
        let empty = self.op_by_op(&all, |map| map.narrow(1, 0, 0)).ok()?;
        let channels = empty.iter().map(|t| t.dim(3)).collect::<Result<Vec<_>>>().ok()?;
        let windows = self.steps.iter().enumerate();
        let windows: Vec<usize> = windows
            .filter(|(_, step)| matches!(step, Step::DepthwiseSilu { .. }))
            .map(|(i, _)| i)
            .collect();
        let window = match *windows {
            [] => None,
            [at] => Some(at),
            _ => return None,
        };
        if let Some(at) = window {
            // Maps before the window exist for a few lines only: neither a step after it nor a
            // result may read them.
            let line = |x: Value| x.step < at && !matches!(self.steps[x.step], Step::Input(_));
            let after = self.steps[at + 1..].iter().flat_map(Step::sources);
            if after.chain(wanted.iter().copied()).any(line) {
                return None;
            }
        }
        let mut inputs = Vec::new();
        for step in &self.steps {
            if let Step::Input(map) = step {
                inputs.push(map.contiguous().ok()?);
            }
        }
        let (batch, height, width, _) = inputs.first()?.dims4().ok()?;
        let dtype = inputs[0].dtype();
        let alike = |t: &Tensor| match *t.dims() {
            [b, h, w, _] => (b, h, w) == (batch, height, width) && t.dtype() == dtype,
            _ => false,
        };
        let fits = inputs.iter().all(|t| alike(t) && t.elem_count() > 0) && !channels.contains(&0);
        fits.then_some(Plan { inputs, channels, window, batch, height, width })
    }

    fn maps_in_blocks<E: Real>(&self, plan: &Plan, wanted: &[Value]) -> Result<Vec<Tensor>> {
        let maps = self.elements_in_blocks::<E>(plan, wanted)?.into_iter().zip(wanted);
        maps.map(|(map, x)| Tensor::from_vec(map, plan.shape(*x), &Device::Cpu)).collect()
    }

    /// The elements of the maps wanted.
    pub(super) fn elements_in_blocks<E: Real>(
        &self,
        plan: &Plan,
        wanted: &[Value],
    ) -> Result<Vec<Vec<E>>> {
        let &Plan { batch, height, width, .. } = plan;
        let widths: Vec<usize> = wanted.iter().map(|x| plan.channels[x.step]).collect();
        let pixels = height * width;
        with_slices::<E, _>(&plan.inputs.iter().collect::<Vec<_>>(), |inputs| {
            let (maps, _) = match plan.window {
                None => {
                    let segment = Segment::new(self, plan, 0..self.steps.len(), wanted)?;
                    fill_blocks(batch * pixels, &widths, plan.blocks(ROWS), |rows, out, buffers| {
                        segment.run(rows, pixels, inputs, out, &mut buffers[0], |_| ());
                    })
                }
                Some(at) => {
                    let pass = WindowPass::new(self, plan, at, wanted)?;
                    // Neighbouring bands both make the lines at their border: few bands, enough for
                    // many threads.
                    let band = (height / 16).clamp(4, 32) * width;
                    fill_blocks(batch * pixels, &widths, plan.blocks(band), |rows, out, buffers| {
                        pass.band(rows, inputs, out, buffers);
                    })
                }
            };
            Ok(maps)
        })
    }

    fn mean_of_blocks<E: Real>(&self, plan: &Plan, wanted: Value) -> Result<Tensor> {
        let means = self.means_in_blocks::<E>(plan, wanted)?;
        Tensor::from_vec(means, (plan.batch, plan.channels[wanted.step]), &Device::Cpu)
    }

    /// The elements of the mean wanted.
    pub(super) fn means_in_blocks<E: Real>(&self, plan: &Plan, wanted: Value) -> Result<Vec<E>> {
        let (pixels, c) = (plan.height * plan.width, plan.channels[wanted.step]);
        let segment = Segment::<E>::new(self, plan, 0..self.steps.len(), &[wanted])?;
        with_slices::<E, _>(&plan.inputs.iter().collect::<Vec<_>>(), |inputs| {
            let mut means = Vec::with_capacity(plan.batch * c);
            for first in (0..plan.batch * pixels).step_by(pixels) {
                let sums = sum_rows(pixels, c, |rows, sums| {
                    let (mut map, mut buffer) = (vec![E::of(0.); ROWS * c], Vec::new());
                    for start in rows.clone().step_by(ROWS) {
                        let rows = first + start..first + rows.end.min(start + ROWS);
                        let map = &mut map[..rows.len() * c];
                        segment.run(rows, pixels, inputs, &mut [&mut *map], &mut buffer, |_| ());
                        crate::product::add_columns(map, sums);
                    }
                });
                means.extend(sums.into_iter().map(|sum| sum / E::of(pixels as f64)));
            }
            Ok(means)
        })
    }
}

/// What a run in blocks needs to know of the chain.
pub(super) struct Plan {
    /// Contiguous, in order.
    pub(super) inputs: Vec<Tensor>,
    /// C of each value.
    pub(super) channels: Vec<usize>,
    /// The step that is a depth-wise convolution.
    pub(super) window: Option<usize>,
    pub(super) batch: usize,
    pub(super) height: usize,
    pub(super) width: usize,
}

impl Plan {
    pub(super) fn shape(&self, x: Value) -> (usize, usize, usize, usize) {
        (self.batch, self.height, self.width, self.channels[x.step])
    }

    /// Blocks of at most `rows` pixels, each of one image.
    pub(super) fn blocks(&self, rows: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let pixels = self.height * self.width;
        (0..self.batch).flat_map(move |b| {
            let end = (b + 1) * pixels;
            (b * pixels..end).step_by(rows).map(move |start| start..end.min(start + rows))
        })
    }
}

/// Where the rows of a map are while a block is worked on: in an input, or in an output or, from
/// the number of outputs on, a temporary buffer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Input(usize),
    Slot(usize),
}

/// A step on rows. Unless it says that it sets its place, it changes what is there.
enum Kernel<E> {
    /// Sets the rows from another place.
    Copy(Place),
    /// Sets the rows from another place, or normalises them where they stand.
    Norm {
        x: Place,
        weight: Vec<E>,
        bias: Vec<E>,
        eps: E,
    },
    /// Sets the rows.
    Linear {
        x: Place,
        weight: Packed<E>,
        bias: Option<Vec<E>>,
    },
    /// Adds x·weightᵀ.
    Accumulate {
        x: Place,
        weight: Packed<E>,
    },
    /// Sets the rows to the depth-wise convolution's.
    Window,
    Gate {
        z: Place,
    },
    Add {
        y: Place,
    },
    /// Adds scale ⊙ x, where `scale` is one row of factors or one for each image.
    ScaleAdd {
        x: Place,
        scale: Vec<E>,
    },
}

/// A range of steps of a chain as kernels, each with the place that it sets or changes.
pub(super) struct Segment<E> {
    kernels: Vec<(usize, Kernel<E>)>,
    /// C of each input.
    inputs: Vec<usize>,
    /// Values in a row of each temporary place.
    temporaries: Vec<usize>,
}

impl<E: Real> Segment<E> {
    /// The steps `range`, of which those of `wanted` become outputs.
    fn new(chain: &Chain, plan: &Plan, range: Range<usize>, wanted: &[Value]) -> Result<Self> {
        Self::of(chain, plan, range, wanted, |_| true)
    }

    /// The same without the steps that are not `needed`.
    pub(super) fn of(
        chain: &Chain,
        plan: &Plan,
        range: Range<usize>,
        wanted: &[Value],
        needed: impl Fn(usize) -> bool,
    ) -> Result<Self> {
        let places = Places::assign(chain, plan, range.clone(), wanted);
        let place = |x: Value| places.of[x.step];
        let values = |t: &Tensor| t.flatten_all()?.to_vec1::<E>();
        let packed = |weight: &Tensor| -> Result<Packed<E>> {
            let (outputs, inputs) = weight.dims2()?;
            Ok(Packed::transposed(&values(weight)?, inputs, outputs))
        };
        let mut kernels = Vec::new();
        for (i, step) in chain.steps[range.clone()].iter().enumerate() {
            let Place::Slot(to) = places.of[range.start + i] else { continue };
            if !needed(range.start + i) {
                continue;
            }
            // A kernel that changes a value needs it in its own place.
            let mut start = |from: Value| {
                if place(from) != Place::Slot(to) {
                    kernels.push((to, Kernel::Copy(place(from))));
                }
            };
            let kernel = match step {
                Step::Input(_) => continue,
                Step::Norm { x, norm } => {
                    let (weight, bias) = (values(norm.weight())?, values(norm.bias())?);
                    Kernel::Norm { x: place(*x), weight, bias, eps: E::of(norm.eps()) }
                }
                Step::Linear { x, weight, bias } => Kernel::Linear {
                    x: place(*x),
                    weight: packed(weight)?,
                    bias: bias.as_ref().map(values).transpose()?,
                },
                Step::LinearAdd { x, weight, y } => {
                    start(*y);
                    Kernel::Accumulate { x: place(*x), weight: packed(weight)? }
                }
                Step::DepthwiseSilu { .. } => Kernel::Window,
                Step::SiluGate { x, z } => {
                    start(*x);
                    Kernel::Gate { z: place(*z) }
                }
                Step::Add { x, y } => {
                    start(*x);
                    Kernel::Add { y: place(*y) }
                }
                Step::ScaleAdd { x, scale, y } => {
                    start(*y);
                    Kernel::ScaleAdd { x: place(*x), scale: values(scale)? }
                }
            };
            kernels.push((to, kernel));
        }
        // An output that is an input of the chain, or another output again.
        for (i, x) in wanted.iter().enumerate() {
            if place(*x) != Place::Slot(i) {
                kernels.push((i, Kernel::Copy(place(*x))));
            }
        }
        let inputs = chain.steps.iter().zip(&plan.channels);
        let inputs = inputs.filter(|(step, _)| matches!(step, Step::Input(_)));
        Ok(Self {
            kernels,
            inputs: inputs.map(|(_, &c)| c).collect(),
            temporaries: places.temporaries,
        })
    }

    /// Takes `rows` of the inputs, which are whole maps with images of `pixels` pixels, through the
    /// steps. `window` fills the rows of a depth-wise convolution.
    pub(super) fn run(
        &self,
        rows: Range<usize>,
        pixels: usize,
        inputs: &[&[E]],
        outputs: &mut [&mut [E]],
        buffer: &mut Vec<E>,
        mut window: impl FnMut(&mut [E]),
    ) {
        let lengths = self.temporaries.iter().map(|width| width * rows.len());
        let outputs = outputs.iter_mut().map(|out| &mut **out);
        let mut slots: Vec<&mut [E]> = outputs.chain(split(buffer, lengths)).collect();
        for (to, kernel) in &self.kernels {
            // The slot that a kernel writes to is taken out while it reads from the others.
            let out = std::mem::take(&mut slots[*to]);
            let read = |place: Place| match place {
                Place::Input(i) => {
                    let width = self.inputs[i];
                    &inputs[i][rows.start * width..rows.end * width]
                }
                Place::Slot(i) => &*slots[i],
            };
            kernel.run(*to, &mut *out, read, (&rows, pixels), &mut window);
            slots[*to] = out;
        }
    }
}

impl<E: Real> Kernel<E> {
    /// Sets or changes `out`, the slot `to`: some rows of maps with images of `pixels` pixels.
    fn run<'a>(
        &self,
        to: usize,
        out: &mut [E],
        read: impl Fn(Place) -> &'a [E],
        (rows, pixels): (&Range<usize>, usize),
        window: &mut impl FnMut(&mut [E]),
    ) {
        match self {
            Self::Copy(x) => out.copy_from_slice(read(*x)),
            Self::Norm { x, weight, bias, eps } => {
                let x = (*x != Place::Slot(to)).then(|| read(*x));
                dispatch(NormRows { x, weight, bias, eps: *eps, out });
            }
            Self::Linear { x, weight, bias } => {
                weight.start_from(bias.as_deref(), out);
                weight.accumulate(read(*x), out);
            }
            Self::Accumulate { x, weight } => weight.accumulate(read(*x), out),
            Self::Window => window(out),
            Self::Gate { z } => dispatch(GateRows { x: out, z: read(*z) }),
            Self::Add { y } => {
                for (out, &y) in out.iter_mut().zip(read(*y)) {
                    *out += y;
                }
            }
            Self::ScaleAdd { x, scale } => {
                let c = out.len() / rows.len();
                let scale = &scale[rows.start / pixels * c % scale.len()..][..c];
                if *x == Place::Slot(to) {
                    for row in out.chunks_exact_mut(c) {
                        row.iter_mut().zip(scale).for_each(|(v, &scale)| *v += *v * scale);
                    }
                } else {
                    dispatch(ScaleAddRows { x: read(*x), scale, y: Addend::Out, out });
                }
            }
        }
    }
}

/// Where each value is. A step that changes a value which no later step reads gets the place of
/// that value.
struct Places {
    of: Vec<Place>,
    temporaries: Vec<usize>,
}

impl Places {
    fn assign(chain: &Chain, plan: &Plan, range: Range<usize>, wanted: &[Value]) -> Self {
        let last = chain.last_uses(wanted);
        let none = Place::Input(usize::MAX);
        let mut of = vec![none; chain.steps.len()];
        let mut inputs = 0;
        for (i, step) in chain.steps.iter().enumerate() {
            if matches!(step, Step::Input(_)) {
                of[i] = Place::Input(inputs);
                inputs += 1;
            }
        }
        // First, which values share a place: `group` is the first of them.
        let mut group: Vec<usize> = (0..chain.steps.len()).collect();
        let mut end = last.clone();
        for i in range.clone() {
            // A step that reads another value while it changes one needs two places.
            let changed = match chain.steps[i] {
                Step::Norm { x, .. } => x.step,
                Step::SiluGate { x, z } if x != z => x.step,
                Step::Add { x, y } if x != y => x.step,
                Step::LinearAdd { x, y, .. } if x != y => y.step,
                Step::ScaleAdd { y, .. } => y.step,
                _ => continue,
            };
            let here = range.contains(&changed) && !matches!(chain.steps[changed], Step::Input(_));
            if here && last[changed] == i {
                group[i] = group[changed];
                end[group[i]] = end[i];
            }
        }
        let output = |value: usize| wanted.iter().position(|x| group[x.step] == group[value]);
        let mut temporaries = Vec::new();
        // For each temporary place the last step that needs it.
        let mut taken: Vec<usize> = Vec::new();
        for i in range {
            if matches!(chain.steps[i], Step::Input(_)) {
                continue;
            }
            of[i] = match output(i) {
                _ if group[i] != i => of[group[i]],
                Some(output) => Place::Slot(output),
                None => {
                    let width = plan.channels[i];
                    let free = (0..taken.len()).find(|&t| taken[t] < i && temporaries[t] == width);
                    let t = free.unwrap_or_else(|| {
                        temporaries.push(width);
                        taken.push(0);
                        taken.len() - 1
                    });
                    taken[t] = end[i];
                    Place::Slot(wanted.len() + t)
                }
            };
        }
        Self { of, temporaries }
    }
}

/// A chain with a depth-wise convolution: the steps before it, the convolution, and the steps from
/// it on.
struct WindowPass<E> {
    before: Segment<E>,
    taps: Vec<E>,
    bias: Option<Vec<E>>,
    k: usize,
    after: Segment<E>,
    channels: usize,
    height: usize,
    width: usize,
}

impl<E: Real> WindowPass<E> {
    fn new(chain: &Chain, plan: &Plan, at: usize, wanted: &[Value]) -> Result<Self> {
        let Step::DepthwiseSilu { x, conv } = &chain.steps[at] else {
            return Err(candle_core::Error::msg("a window that is no depth-wise convolution"));
        };
        let k = conv.weight().dim(3)?;
        Ok(Self {
            before: Segment::new(chain, plan, 0..at, &[*x])?,
            taps: by_tap(&conv.weight().flatten_all()?.to_vec1()?, k * k, false),
            bias: conv.bias().map(|b| b.to_vec1()).transpose()?,
            k,
            after: Segment::new(chain, plan, at..chain.steps.len(), wanted)?,
            channels: plan.channels[at],
            height: plan.height,
            width: plan.width,
        })
    }

    /// Whole lines of one image.
    fn band(
        &self,
        rows: Range<usize>,
        inputs: &[&[E]],
        outputs: &mut [&mut [E]],
        [buffer, ring]: &mut [Vec<E>; 2],
    ) {
        let &Self { k, channels, height, width, .. } = self;
        let (pad, pixels) = (k / 2, height * width);
        let first = rows.start / pixels * pixels;
        let lines = (rows.start - first) / width..(rows.end - first) / width;
        let line = width * channels;
        // The window's lines, line y in place y mod k.
        ring.resize(k * line, E::of(0.));
        let mut next = lines.start.saturating_sub(pad);
        for y in lines.clone() {
            while next < height.min(y + pad + 1) {
                let to = &mut ring[next % k * line..][..line];
                let at = first + next * width;
                self.before.run(at..at + width, pixels, inputs, &mut [to], buffer, |_| ());
                next += 1;
            }
            let inside = pad.saturating_sub(y)..k.min(height + pad - y);
            let at = first + y * width;
            let mut outputs: Vec<&mut [E]> = outputs
                .iter_mut()
                .map(|out| {
                    let line = out.len() / lines.len();
                    &mut out[(y - lines.start) * line..][..line]
                })
                .collect();
            self.after.run(at..at + width, pixels, inputs, &mut outputs, buffer, |out| {
                let lines = |ky: usize| &ring[(y + ky - pad) % k * line..][..line];
                let row = OutputRow {
                    lines,
                    rows: inside.clone(),
                    width,
                    columns: k,
                    left: pad,
                    taps: &self.taps,
                    bias: self.bias.as_deref(),
                    first: 0,
                    out: &mut *out,
                    channels,
                };
                dispatch(row);
                dispatch(SiluRows(out));
            });
        }
    }
}
