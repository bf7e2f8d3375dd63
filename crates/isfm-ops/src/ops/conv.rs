use candle_core::{Device, Error, Result, Shape, Tensor};
use isfm_kernels::conv::{self as kernels, Start};
use isfm_kernels::{Plan, Type};
use rayon::prelude::*;

use crate::check;
use crate::epilogue::Epilogue;
use crate::memory::{into_elements, scratch};
use crate::op::{Gradients, Input, Op, apply, apply_untracked, unpack, untracked, with_slices};
use crate::ops::activation::SiluRows;
use crate::ops::linear::linear;
use crate::parallel::{by_image, fill_parts, sum_rows};
use crate::product::{OuterSum, Packed, Product, ROWS, add_columns};
use crate::simd::{Real, dispatch};

const OP: &str = "conv2d";

/// Convolves a map with dense windows, stride 1, zero padding k/2, then applies `epilogue`.
///
/// # Shapes
/// - `x`: B×H×W×Cin
/// - `weight`: Cout×Cin×k×k, k odd (PyTorch's layout)
/// - `bias`: Cout
/// - a map that is added, and the result: B×H×W×Cout
///
/// # Errors
/// If a shape does not fit, Cin is 0, k is even, or the element types differ or are not `F32` or
/// `F64` (on CUDA `F32`, `F16` or `BF16`).
pub fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    epilogue: Epilogue<'_>,
) -> Result<Tensor> {
    let Sizes { dims, cin, k } = check_sizes(x, weight, bias)?;
    let [b, h, w, cout] = dims;
    if let Epilogue::Add(map) = epilogue {
        check::like(OP, "the map added", map, &dims, x.dtype())?;
    }
    if k == 1 {
        return linear(x, &weight.reshape((cout, cin))?, bias, epilogue);
    }
    if b * h * w * cout == 0 {
        return Tensor::zeros(&dims, x.dtype(), x.device());
    }
    // A kernel starts its sums from the bias or from the map, not from both.
    let (start, rest) = match (bias, epilogue) {
        (Some(bias), epilogue) => (Some((Start::Bias, bias)), epilogue),
        (None, Epilogue::Add(map)) => (Some((Start::Map, map)), Epilogue::None),
        (None, epilogue) => (None, epilogue),
    };
    let inputs: Vec<&Tensor> = [x, weight].into_iter().chain(start.map(|(_, t)| t)).collect();
    let silu = rest.is_fused_silu(inputs.iter().copied());
    let start = start.map(|(start, _)| start);
    let y = apply(Conv { adjoint: false, silu, start }, &inputs)?;
    if silu { Ok(y) } else { rest.of(y) }
}

/// `sum` plus the convolution of `x`; in place of `sum` if nothing is tracked, since at full size
/// it may be the largest map of a network. Without a sum the result starts from the bias, which
/// calls with a sum do not add. No other tensor may share the sum's storage.
///
/// # Shapes
/// As [`conv2d`]; `sum` and the result: B×H×W×Cout.
///
/// # Errors
/// As [`conv2d`].
pub fn conv2d_accumulate(
    sum: Option<Tensor>,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    fn run<E: Real>(
        sum: Option<Tensor>,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        Sizes { dims, cin, k }: Sizes,
    ) -> Result<Tensor> {
        let [_, h, w, cout] = dims;
        let weights = weight.flatten_all()?.to_vec1::<E>()?;
        let weights = packed(&weights, (cout, cin, k));
        let mut out = match sum {
            Some(sum) => into_elements::<E>(sum)?,
            None => {
                let bias = bias.map(|b| b.to_vec1::<E>()).transpose()?;
                let mut out = scratch(dims.iter().product());
                let rows = out.par_chunks_mut(ROWS * cout);
                rows.for_each(|rows| weights.start_from(bias.as_deref(), rows));
                out
            }
        };
        let x = x.contiguous()?;
        let map = Map { height: h, width: w, channels: cin };
        with_slices(&[&x], |x| {
            accumulate(x[0], map, k, &weights, &mut out);
            Ok(())
        })?;
        Tensor::from_vec(out, &dims, &Device::Cpu)
    }
    let all = [x, weight].into_iter().chain(bias).chain(&sum);
    if untracked(all) && x.device().is_cpu() && x.elem_count() * weight.elem_count() > 0 {
        let sizes = check_sizes(x, weight, bias)?;
        if let Some(sum) = &sum {
            check::like(OP, "the sum", sum, &sizes.dims, x.dtype())?;
        }
        return with_float!(x.dtype(), E => run::<E>(sum, x, weight, bias, sizes), else {
            Err(check::dtype_error(OP, x.dtype(), "F32 or F64"))
        });
    }
    match sum {
        Some(sum) => conv2d(x, weight, None, Epilogue::Add(&sum)),
        None => conv2d(x, weight, bias, Epilogue::None),
    }
}

/// The result's sizes, the input's channels and the window's edge.
struct Sizes {
    dims: [usize; 4],
    cin: usize,
    k: usize,
}

fn check_sizes(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Sizes> {
    check::types(OP, x, &[("weight", weight)])?;
    let (b, h, w, cin) = check::map(OP, x)?;
    let (cout, k) = match *weight.dims() {
        [cout, c, k, l] if c == cin && k == l => (cout, k),
        _ => {
            let needed = format!("[outputs, {cin}, k, k]");
            return Err(check::shape_error(OP, "weight", weight.dims(), needed));
        }
    };
    check::odd(OP, k)?;
    if let Some(bias) = bias {
        check::like(OP, "bias", bias, &[cout], x.dtype())?;
    }
    if cin == 0 {
        return Err(check::shape_error(OP, "x", x.dims(), "at least one channel"));
    }
    Ok(Sizes { dims: [b, h, w, cout], cin, k })
}

#[derive(Clone, Copy)]
struct Map {
    height: usize,
    width: usize,
    channels: usize,
}

impl Map {
    fn of(shape: &Shape) -> Result<Self> {
        let (_, height, width, channels) = shape.dims4()?;
        Ok(Self { height, width, channels })
    }

    fn image(self) -> usize {
        self.height * self.width * self.channels
    }

    /// Copies a rectangle whose top left corner is at (y, x) − pad, zeros where it leaves the map.
    fn padded_tile<E: Real>(
        self,
        image: &[E],
        (y, x): (usize, usize),
        pad: usize,
        (lines, columns): (usize, usize),
        tile: &mut Vec<E>,
    ) {
        let c = self.channels;
        tile.clear();
        for y in y..y + lines {
            if y < pad || y - pad >= self.height {
                tile.resize(tile.len() + columns * c, E::of(0.));
                continue;
            }
            let end = tile.len() + columns * c;
            let left = pad.saturating_sub(x).min(columns);
            tile.resize(tile.len() + left * c, E::of(0.));
            let from = (x + left - pad).min(self.width);
            let to = (x + columns).saturating_sub(pad).min(self.width).max(from);
            let line = &image[(y - pad) * self.width * c..][..self.width * c];
            tile.extend_from_slice(&line[from * c..to * c]);
            tile.resize(end, E::of(0.));
        }
    }
}

/// Pixels of a line in one tile; bounds the size of the padded copy for maps of many channels.
fn tile_width(channels: usize, width: usize) -> usize {
    (32_768 / channels.max(1)).clamp(48, 192).min(width)
}

/// Lines of a task: more share more of the padded copy, fewer feed more threads.
fn lines_together(lines: usize) -> usize {
    (lines / 32).clamp(1, 4)
}

/// Adds to `dst`, lines of the result from `y` on, the convolution of one image.
fn add_lines<E: Real>(
    image: &[E],
    map: Map,
    k: usize,
    w: &Packed<E>,
    y: usize,
    dst: &mut [E],
    tile: &mut Vec<E>,
) {
    let Map { width, channels: cin, .. } = map;
    let cout = w.columns();
    let lines = dst.len() / (width * cout);
    let step = tile_width(cin, width);
    for x0 in (0..width).step_by(step) {
        let count = step.min(width - x0);
        let columns = count + k - 1;
        map.padded_tile(image, (y, x0), k / 2, (lines + k - 1, columns), tile);
        dispatch(Product {
            src: tile,
            src_line: columns * cin,
            step: cin,
            run: k * cin,
            reach: k,
            weights: w,
            dst: &mut dst[x0 * cout..],
            dst_line: width * cout,
            lines,
            count,
        });
    }
}

/// The weights Cout×Cin×k×k in the order the product reads them.
fn packed<E: Real>(w: &[E], (outputs, inputs, k): (usize, usize, usize)) -> Packed<E> {
    let at = |o: usize, i: usize, tap: usize| w[(o * inputs + i) * k * k + tap];
    Packed::new(k * k * inputs, outputs, |r, j| at(j, r % inputs, r / inputs))
}

/// `out` += the convolution of `x`, B×H×W×Cin, in parallel.
fn accumulate<E: Real>(x: &[E], map: Map, k: usize, w: &Packed<E>, out: &mut [E]) {
    let (image, line) = (map.image(), map.width * w.columns());
    if image * line == 0 {
        return;
    }
    let lines = lines_together(x.len() / image * map.height);
    let bands = out.chunks_exact_mut(map.height * line).zip(x.chunks_exact(image));
    let bands: Vec<_> = bands
        .flat_map(|(out, x)| {
            let bands = out.chunks_mut(lines * line).enumerate();
            bands.map(move |(i, band)| (x, i * lines, band))
        })
        .collect();
    bands.into_par_iter().for_each_init(Vec::new, |tile, (x, y, band)| {
        add_lines(x, map, k, w, y, band, tile);
    });
}

/// The convolution; as `adjoint` the one with mirrored windows and swapped channels.
struct Conv {
    adjoint: bool,
    /// Whether SiLU follows; only if no input is tracked.
    silu: bool,
    /// What the sums start from: the third input.
    start: Option<Start>,
}

impl Op for Conv {
    fn name(&self) -> &'static str {
        OP
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        let (b, h, w, _) = inputs[0].dims4()?;
        let (outputs, channels, ..) = inputs[1].dims4()?;
        Ok((b, h, w, if self.adjoint { channels } else { outputs }).into())
    }

    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        let (x, w) = (inputs[0].data, inputs[1].data);
        let (outputs, channels, k, _) = inputs[1].shape.dims4()?;
        let packed = if self.adjoint {
            let at = |o: usize, i: usize, tap: usize| w[(o * channels + i) * k * k + tap];
            let at = |r, j| at(r % outputs, j, k * k - 1 - r / outputs);
            Packed::new(k * k * outputs, channels, at)
        } else {
            packed(w, (outputs, channels, k))
        };
        let map = Map::of(inputs[0].shape)?;
        let images = x.len() / map.image();
        let line = map.width * packed.columns();
        let image = map.height * line;
        let lines = lines_together(images * map.height);
        let from = inputs.get(2).map(|from| from.data);
        let work = |tile: &mut Vec<E>, b: usize, at: usize, dst: &mut [E]| {
            match (self.start, from) {
                (Some(Start::Map), Some(map)) => {
                    dst.copy_from_slice(&map[b * image + at..][..dst.len()]);
                }
                (Some(Start::Bias), bias @ Some(_)) => packed.start_from(bias, dst),
                _ => {}
            }
            let x = &x[b * map.image()..][..map.image()];
            add_lines(x, map, k, &packed, at / line, dst, tile);
            if self.silu {
                dispatch(SiluRows(dst));
            }
        };
        Ok(fill_parts(images * image, lines * line, |start, part, tile| {
            by_image(start, part, image, |b, at, dst| work(tile, b, at, dst));
        }))
    }

    fn plan(&self, t: Type, inputs: &[&Shape]) -> Result<Plan> {
        let map = crate::ops::kernel_map(inputs[0])?;
        let (outputs, channels, k, _) = inputs[1].dims4()?;
        let plan = if self.adjoint {
            kernels::conv_adjoint(t, map, channels, k)
        } else {
            kernels::conv(t, map, outputs, k, self.start, self.silu)
        };
        plan.map_err(Error::wrap)
    }

    fn gradients(&self, inputs: &[&Tensor], _: &Tensor, grad: &Tensor) -> Result<Gradients> {
        let (x, weight) = (inputs[0], inputs[1]);
        let mut all = [None, None, None];
        if x.track_op() {
            let adjoint = Conv { adjoint: true, silu: false, start: None };
            all[0] = Some(apply_untracked(adjoint, &[grad, weight])?);
        }
        let bias = self.start == Some(Start::Bias) && inputs[2].track_op();
        if weight.track_op() || bias {
            let sums = apply_untracked(WeightGradient { k: weight.dim(3)? }, &[x, grad])?;
            let [dw, db] = unpack(&sums, [weight.shape(), &weight.dim(0)?.into()])?;
            (all[1], all[2]) = (Some(dw), Some(db));
        }
        if self.start == Some(Start::Map) {
            all[2] = Some(grad.clone());
        }
        Ok(all)
    }
}

/// The gradients of the weights (Cout×Cin×k×k) and of the bias (Cout), one after the other.
struct WeightGradient {
    k: usize,
}

impl Op for WeightGradient {
    fn name(&self) -> &'static str {
        "conv2d weight gradient"
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        let ((.., cin), (.., cout)) = (inputs[0].dims4()?, inputs[1].dims4()?);
        Ok((cout * (cin * self.k * self.k + 1)).into())
    }

    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        let (.., cout) = inputs[1].shape.dims4()?;
        Ok(self.run(inputs[0].data, inputs[1].data, Map::of(inputs[0].shape)?, cout))
    }

    fn plan(&self, t: Type, inputs: &[&Shape]) -> Result<Plan> {
        let (map, (.., outputs)) = (crate::ops::kernel_map(inputs[0])?, inputs[1].dims4()?);
        kernels::conv_weight(t, map, outputs, self.k).map_err(Error::wrap)
    }
}

impl WeightGradient {
    fn run<E: Real>(&self, x: &[E], grad: &[E], map: Map, cout: usize) -> Vec<E> {
        let Map { height, width, channels: cin } = map;
        let (k, run) = (self.k, self.k * cin);
        let rows = x.len() / (width * cin);
        // Vectors run along the longer side of the outer product.
        let by_window = run >= cout;
        let sums = sum_rows(rows, k * run * cout + cout, |rows, sums| {
            let (weight, bias) = sums.split_at_mut(k * run * cout);
            let mut tile = Vec::new();
            for row in rows {
                let (b, y) = (row / height, row % height);
                let image = &x[b * height * width * cin..][..height * width * cin];
                let grad = &grad[row * width * cout..][..width * cout];
                add_columns(grad, bias);
                let step = tile_width(cin, width);
                for x0 in (0..width).step_by(step) {
                    let count = step.min(width - x0);
                    let columns = count + k - 1;
                    map.padded_tile(image, (y, x0), k / 2, (k, columns), &mut tile);
                    let grad = &grad[x0 * cout..][..count * cout];
                    let lines = tile.chunks_exact(columns * cin);
                    for (line, sums) in lines.zip(weight.chunks_exact_mut(run * cout)) {
                        let (g, l) = ((grad, cout, cout), (line, cin, run));
                        let (a, b) = if by_window { (g, l) } else { (l, g) };
                        dispatch(OuterSum {
                            a: a.0,
                            step_a: a.1,
                            rows: a.2,
                            b: b.0,
                            step_b: b.1,
                            columns: b.2,
                            count,
                            sums,
                        });
                    }
                }
            }
        });
        let mut out = vec![E::of(0.); sums.len()];
        let (weight, bias) = out.split_at_mut(k * run * cout);
        for (i, v) in weight.iter_mut().enumerate() {
            let (o, c, ky, kx) = (i / (cin * k * k), i / (k * k) % cin, i / k % k, i % k);
            let r = kx * cin + c;
            let at = if by_window { o * run + r } else { r * cout + o };
            *v = sums[ky * run * cout + at];
        }
        bias.copy_from_slice(&sums[k * run * cout..]);
        out
    }
}
