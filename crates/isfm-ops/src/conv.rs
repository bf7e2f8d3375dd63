use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Shape, Tensor};
use rayon::prelude::*;

use crate::activation::{SiluRows, silu, weighted_sum};
use crate::linear::{add_columns, linear, linear_silu};
use crate::matmul::{OuterSum, Packed, Product};
use crate::shared::{
    by_image, check_dims, check_odd, check_types, fill_parts, map_dims, shape_error, sum_rows,
    untracked,
};
use crate::simd::{Real, dispatch};
use crate::{Result, cpu};

const OP: &str = "conv2d";

/// Convolves a map with dense windows; stride 1, zero padding k/2.
///
/// # Shapes
/// - `x`: B×H×W×Cin
/// - `weight`: Cout×Cin×k×k, k odd (PyTorch's layout)
/// - `bias`: Cout
/// - returns B×H×W×Cout
///
/// # Errors
/// If a shape does not fit, Cin is 0, k is even, or the element types differ or are not `F32` or
/// `F64`.
pub fn conv2d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    apply(x, weight, bias.map(Start::Bias), false)
}

/// [`conv2d`] followed by SiLU; without gradients in one pass over the result.
///
/// # Shapes
/// As [`conv2d`].
///
/// # Errors
/// As [`conv2d`].
pub fn conv2d_silu(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    if untracked([x, weight].into_iter().chain(bias)) {
        return apply(x, weight, bias.map(Start::Bias), true);
    }
    silu(&conv2d(x, weight, bias)?)
}

/// `y` plus the convolution of `x`: a convolution of maps that lie side by side is the sum of one
/// convolution for each, and they need not all be kept until the last is there.
///
/// # Shapes
/// - `x`: B×H×W×Cin
/// - `weight`: Cout×Cin×k×k, k odd
/// - `y` and the result: B×H×W×Cout
///
/// # Errors
/// As [`conv2d`], and if `y` has another shape than the result.
pub fn conv2d_add(x: &Tensor, weight: &Tensor, y: &Tensor) -> Result<Tensor> {
    apply(x, weight, Some(Start::Map(y)), false)
}

/// What the products are added to.
#[derive(Clone, Copy)]
enum Start<T> {
    Bias(T),
    Map(T),
}

impl<T> Start<T> {
    fn map<U>(self, f: impl FnOnce(T) -> U) -> Start<U> {
        match self {
            Self::Bias(t) => Start::Bias(f(t)),
            Self::Map(t) => Start::Map(f(t)),
        }
    }
}

fn apply(x: &Tensor, weight: &Tensor, start: Option<Start<&Tensor>>, silu: bool) -> Result<Tensor> {
    check_types(OP, x, &[("weight", weight)])?;
    let (b, h, w, cin) = map_dims(OP, x)?;
    let (cout, k) = match *weight.dims() {
        [cout, c, k, l] if c == cin && k == l => (cout, k),
        _ => {
            let needed = format!("[outputs, {cin}, k, k]");
            return Err(shape_error(OP, "weight", weight.dims(), needed));
        }
    };
    check_odd(OP, k)?;
    let (what, start_dims) = match start {
        Some(Start::Map(_)) => ("y", vec![b, h, w, cout]),
        _ => ("bias", vec![cout]),
    };
    if let Some(Start::Bias(start) | Start::Map(start)) = start {
        check_types(OP, x, &[(what, start)])?;
        check_dims(OP, what, start, &start_dims)?;
    }
    if cin == 0 {
        return Err(shape_error(OP, "x", x.dims(), "at least one channel"));
    }
    if k == 1 {
        let weight = weight.reshape((cout, cin))?;
        return match start {
            Some(Start::Map(y)) => weighted_sum(&linear(x, &weight, None)?, 1., y, 1.),
            Some(Start::Bias(bias)) if silu => linear_silu(x, &weight, Some(bias)),
            Some(Start::Bias(bias)) => linear(x, &weight, Some(bias)),
            None if silu => linear_silu(x, &weight, None),
            None => linear(x, &weight, None),
        };
    }
    if b * h * w * cout == 0 {
        return Ok(Tensor::zeros((b, h, w, cout), x.dtype(), x.device())?);
    }
    let op = Conv { adjoint: false, silu, start: start.map(|s| s.map(|_| ())) };
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    Ok(match start {
        Some(Start::Bias(start) | Start::Map(start)) => {
            x.apply_op3(&weight, &start.contiguous()?, op)?
        }
        None => x.apply_op2(&weight, op)?,
    })
}

#[derive(Clone, Copy)]
struct Map {
    height: usize,
    width: usize,
    channels: usize,
}

impl Map {
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

/// Pixels of a line that are worked on together: bounds the padded copy for maps of many channels.
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
pub(crate) fn packed<E: Real>(w: &[E], (outputs, inputs, k): (usize, usize, usize)) -> Packed<E> {
    let at = |o: usize, i: usize, tap: usize| w[(o * inputs + i) * k * k + tap];
    Packed::new(k * k * inputs, outputs, |r, j| at(j, r % inputs, r / inputs))
}

/// `out` += the convolution of `x`, B×H×W×Cin, in parallel.
pub(crate) fn accumulate<E: Real>(
    x: &[E],
    (height, width, channels): (usize, usize, usize),
    k: usize,
    w: &Packed<E>,
    out: &mut [E],
) {
    let map = Map { height, width, channels };
    let (image, line) = (height * width * channels, width * w.columns());
    if image * line == 0 {
        return;
    }
    let lines = lines_together(x.len() / image * height);
    let bands = out.chunks_exact_mut(height * line).zip(x.chunks_exact(image));
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
    /// Whether SiLU follows; only where no gradient is asked for.
    silu: bool,
    /// What the third argument is.
    start: Option<Start<()>>,
}

impl Conv {
    #[cfg(feature = "cuda")]
    fn on_cuda(&self) -> Option<isfm_kernels::map::Start> {
        self.start.map(|start| match start {
            Start::Bias(()) => isfm_kernels::map::Start::Bias,
            Start::Map(()) => isfm_kernels::map::Start::Map,
        })
    }

    fn run<E: Real>(
        &self,
        x: &[E],
        map: Map,
        k: usize,
        w: &Packed<E>,
        from: Option<Start<&[E]>>,
    ) -> Vec<E> {
        let Map { height, width, channels: cin } = map;
        let cout = w.columns();
        let images = x.len() / (height * width * cin);
        let (line, image) = (width * cout, height * width * cout);
        let lines = lines_together(images * height);
        let work = |tile: &mut Vec<E>, b: usize, y: usize, dst: &mut [E]| {
            match from {
                Some(Start::Bias(bias)) => {
                    dst.chunks_exact_mut(cout).for_each(|pixel| pixel.copy_from_slice(bias));
                }
                Some(Start::Map(map)) => {
                    dst.copy_from_slice(&map[b * image + y * line..][..dst.len()]);
                }
                None => {}
            }
            let image = &x[b * height * width * cin..][..height * width * cin];
            add_lines(image, map, k, w, y, dst, tile);
            if self.silu {
                dispatch(SiluRows(dst));
            }
        };
        fill_parts(images * image, lines * line, |start, part, tile| {
            by_image(start, part, image, |b, at, dst| work(tile, b, at / line, dst));
        })
    }

    fn storage<E: Real>(
        &self,
        x: (&CpuStorage, &Layout),
        weight: (&CpuStorage, &Layout),
        start: Option<(&CpuStorage, &Layout)>,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (b, height, width, channels) = x.1.shape().dims4()?;
        let (outputs, inputs, k, _) = weight.1.shape().dims4()?;
        let w = cpu::slice::<E>(weight.0, weight.1)?;
        let packed = if self.adjoint {
            let at = |o: usize, i: usize, tap: usize| w[(o * inputs + i) * k * k + tap];
            let at = |r, j| at(r % outputs, j, k * k - 1 - r / outputs);
            Packed::new(k * k * outputs, inputs, at)
        } else {
            packed(w, (outputs, inputs, k))
        };
        let start = start.map(|(s, l)| cpu::slice::<E>(s, l)).transpose()?;
        let from = start.and_then(|values| Some(self.start?.map(|()| values)));
        let map = Map { height, width, channels };
        let out = self.run(cpu::slice::<E>(x.0, x.1)?, map, k, &packed, from);
        Ok((E::to_cpu_storage_owned(out), (b, height, width, packed.columns()).into()))
    }

    /// The gradients of the arguments that ask for one; an image or frozen weights do not.
    fn gradients(
        x: &Tensor,
        weight: &Tensor,
        start: Option<Start<&Tensor>>,
        grad: &Tensor,
    ) -> candle_core::Result<[Option<Tensor>; 3]> {
        let bias = match start {
            Some(Start::Bias(bias)) => Some(bias),
            _ => None,
        };
        let grad = grad.contiguous()?;
        let mut all = [None, None, None];
        if x.track_op() {
            all[0] = Some(grad.apply_op2_no_bwd(weight, &Self::ADJOINT)?);
        }
        if weight.track_op() || bias.is_some_and(Tensor::track_op) {
            let k = weight.dim(3)?;
            let sums = x.apply_op2_no_bwd(&grad, &WeightGradient { k })?;
            let size = weight.elem_count();
            all[1] = Some(sums.narrow(0, 0, size)?.reshape(weight.shape())?);
            all[2] = Some(sums.narrow(0, size, sums.elem_count() - size)?);
        }
        if let Some(Start::Map(_)) = start {
            all[2] = Some(grad);
        }
        Ok(all)
    }

    const ADJOINT: Self = Self { adjoint: true, silu: false, start: None };
}

impl CustomOp2 for Conv {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        for_float!(OP, x, E => self.storage::<E>((x, lx), (w, lw), None))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        lx: &Layout,
        y: &candle_core::CudaStorage,
        ly: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        crate::cuda::conv(self.adjoint, self.silu, self.on_cuda(), &[(x, lx), (y, ly)])
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let [dx, dw, _] = Self::gradients(x, w, None, grad)?;
        Ok((dx, dw))
    }
}

impl CustomOp3 for Conv {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        for_float!(OP, x, E => self.storage::<E>((x, lx), (w, lw), Some((b, lb))))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        lx: &Layout,
        y: &candle_core::CudaStorage,
        ly: &Layout,
        z: &candle_core::CudaStorage,
        lz: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        crate::cuda::conv(self.adjoint, self.silu, self.on_cuda(), &[(x, lx), (y, ly), (z, lz)])
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let start = self.start.map(|s| s.map(|()| b));
        let [dx, dw, db] = Self::gradients(x, w, start, grad)?;
        Ok((dx, dw, db))
    }
}

/// The gradients of the weights (Cout×Cin×k×k) and of the bias (Cout), one after the other.
struct WeightGradient {
    k: usize,
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

    fn storage<E: Real>(
        &self,
        x: (&CpuStorage, &Layout),
        grad: (&CpuStorage, &Layout),
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (_, height, width, channels) = x.1.shape().dims4()?;
        let (.., cout) = grad.1.shape().dims4()?;
        let map = Map { height, width, channels };
        let out = self.run(cpu::slice::<E>(x.0, x.1)?, cpu::slice::<E>(grad.0, grad.1)?, map, cout);
        let shape = Shape::from(out.len());
        Ok((E::to_cpu_storage_owned(out), shape))
    }
}

impl CustomOp2 for WeightGradient {
    fn name(&self) -> &'static str {
        "conv2d weight gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        g: &CpuStorage,
        lg: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        for_float!(OP, x, E => self.storage::<E>((x, lx), (g, lg)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        lx: &Layout,
        y: &candle_core::CudaStorage,
        ly: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        crate::cuda::conv_weight(self.k, [(x, lx), (y, ly)])
    }
}
