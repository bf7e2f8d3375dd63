use std::ops::Range;

use candle_core::{Error, Result, Shape, Tensor};
use isfm_kernels::{Plan, Type, window as kernels};

use crate::check;
use crate::epilogue::Epilogue;
use crate::op::{Gradients, Input, Op, apply, apply_untracked, unpack};
use crate::ops::activation::SiluRows;
use crate::parallel::{fill_parts, sum_rows, window};
use crate::simd::{Kernel, Real, Simd, dispatch};

const OP: &str = "depthwise_conv2d";

/// Convolves every channel of a map with a window of its own, stride 1, zero padding k/2, then
/// applies `epilogue`.
///
/// # Shapes
/// - `x`: B×H×W×C
/// - `weight`: C×1×k×k, k odd (PyTorch's layout)
/// - `bias`: C
/// - returns B×H×W×C
///
/// # Errors
/// If a shape does not fit, k is even, or the element types differ or are not `F32` or `F64` (on
/// CUDA `F32`, `F16` or `BF16`).
pub fn depthwise_conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    epilogue: Epilogue<'_>,
) -> Result<Tensor> {
    check::types(OP, x, &[("weight", weight)])?;
    let (.., c) = check::map(OP, x)?;
    let k = match *weight.dims() {
        [channels, 1, k, l] if channels == c && k == l => k,
        _ => {
            let needed = format!("[{c}, 1, k, k]");
            return Err(check::shape_error(OP, "weight", weight.dims(), needed));
        }
    };
    check::odd(OP, k)?;
    if let Some(bias) = bias {
        check::like(OP, "bias", bias, &[c], x.dtype())?;
    }
    if x.elem_count() == 0 {
        return epilogue.of(x.zeros_like()?);
    }
    let inputs: Vec<&Tensor> = [x, weight].into_iter().chain(bias).collect();
    let silu = epilogue.is_fused_silu(inputs.iter().copied());
    let y = apply(Depthwise { flip: false, silu }, &inputs)?;
    if silu { Ok(y) } else { epilogue.of(y) }
}

#[derive(Clone, Copy)]
struct Dims {
    batch: usize,
    height: usize,
    width: usize,
    channels: usize,
    k: usize,
}

/// The weights of C windows of `taps` weights tap by tap, so that a vector of channels has its
/// weights side by side; with `flip` of mirrored windows.
pub(crate) fn by_tap<E: Real>(weight: &[E], taps: usize, flip: bool) -> Vec<E> {
    let channels = weight.len() / taps;
    let mut out = vec![E::of(0.); weight.len()];
    for (c, window) in weight.chunks_exact(taps).enumerate() {
        for (t, &w) in window.iter().enumerate() {
            let t = if flip { taps - 1 - t } else { t };
            out[t * channels + c] = w;
        }
    }
    out
}

/// Sums tap by tap, and then of the bias, channel by channel: the weights' gradients as
/// [`by_tap`] takes the weights, then the bias's.
pub(crate) fn by_channel<E: Real>(sums: &[E], taps: usize, channels: usize) -> Vec<E> {
    let mut out = vec![E::of(0.); sums.len()];
    for (t, sums) in sums.chunks_exact(channels).enumerate() {
        for (c, &v) in sums.iter().enumerate() {
            out[if t < taps { c * taps + t } else { taps * channels + c }] = v;
        }
    }
    out
}

impl Dims {
    fn new(x: &Shape, k: usize) -> Result<Self> {
        let (batch, height, width, channels) = x.dims4()?;
        Ok(Self { batch, height, width, channels, k })
    }
}

/// The convolution; with `flip` its adjoint, the correlation with the mirrored window.
struct Depthwise {
    flip: bool,
    /// Whether SiLU follows; only if no input is tracked.
    silu: bool,
}

impl Op for Depthwise {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        let (x, bias) = (inputs[0].data, inputs.get(2).map(|b| b.data));
        let (.., k) = inputs[1].shape.dims4()?;
        let Dims { height, width, channels, .. } = Dims::new(inputs[0].shape, k)?;
        let taps = &by_tap(inputs[1].data, k * k, self.flip);
        let (line, pad) = (width * channels, k / 2);
        Ok(fill_parts(x.len(), line, |start, out, _| {
            let (b, y) = (start / line / height, start / line % height);
            let image = &x[b * height * line..][..height * line];
            let rows = pad.saturating_sub(y)..k.min(height + pad - y);
            let lines = |ky: usize| &image[(y + ky - pad) * line..][..line];
            let row = OutputRow {
                lines,
                rows,
                width,
                columns: k,
                left: pad,
                taps,
                bias,
                first: 0,
                out: &mut *out,
                channels,
            };
            dispatch(row);
            if self.silu {
                dispatch(SiluRows(out));
            }
        }))
    }

    fn plan(&self, t: Type, inputs: &[&Shape]) -> Result<Plan> {
        let (map, (.., k)) = (crate::ops::kernel_map(inputs[0])?, inputs[1].dims4()?);
        let (flip, bias, silu) = (self.flip, inputs.len() > 2, self.silu);
        let how = kernels::Depthwise { flip, bias, silu };
        kernels::depthwise(t, map, k, how).map_err(Error::wrap)
    }

    fn gradients(&self, inputs: &[&Tensor], _: &Tensor, grad: &Tensor) -> Result<Gradients> {
        let (x, weight, bias) = (inputs[0], inputs[1], inputs.get(2));
        let mut all = [None, None, None];
        if x.track_op() {
            let adjoint = Depthwise { flip: true, silu: false };
            all[0] = Some(apply_untracked(adjoint, &[grad, weight])?);
        }
        if weight.track_op() || bias.is_some_and(|b| b.track_op()) {
            let sums = apply_untracked(WeightGradient { k: weight.dim(3)? }, &[x, grad])?;
            let [dw, db] = unpack(&sums, [weight.shape(), &weight.dim(0)?.into()])?;
            (all[1], all[2]) = (Some(dw), Some(db));
        }
        Ok(all)
    }
}

/// Pixels of one line of the result, from `first` on.
pub(crate) struct OutputRow<'a, E, L> {
    /// The line of the map below each of the window's `rows` that lies inside it.
    pub(crate) lines: L,
    pub(crate) rows: Range<usize>,
    /// Pixels of such a line.
    pub(crate) width: usize,
    /// Columns of the window, and how many of them lie left of the pixel.
    pub(crate) columns: usize,
    pub(crate) left: usize,
    /// As [`by_tap`] gives them.
    pub(crate) taps: &'a [E],
    pub(crate) bias: Option<&'a [E]>,
    pub(crate) first: usize,
    pub(crate) out: &'a mut [E],
    pub(crate) channels: usize,
}

/// Neighbouring pixels that share one load of the weights.
const PIXELS: usize = 4;

impl<'l, E: Real, L: Fn(usize) -> &'l [E]> Kernel<E> for OutputRow<'_, E, L> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(mut self, s: S) {
        let Self { columns, left, channels, .. } = self;
        let (count, end) = (self.out.len() / channels, self.width + left);
        assert!(self.taps.len() >= self.rows.end * columns * channels);
        let mut i = 0;
        while i < count {
            let x = self.first + i;
            // All windows of the group lie inside, from its first pixel's to its last one's.
            let inside = x >= left && x + PIXELS - 1 + columns <= end;
            if inside && i + PIXELS <= count {
                self.pixels::<S, PIXELS>(s, i, 0..columns);
                i += PIXELS;
            } else {
                let last = columns.min(end.saturating_sub(x));
                self.pixels::<S, 1>(s, i, left.saturating_sub(x).min(last)..last);
                i += 1;
            }
        }
    }
}

impl<'l, E: Real, L: Fn(usize) -> &'l [E]> OutputRow<'_, E, L> {
    /// `P` pixels from the `i`-th on, all of which have the window columns `columns` inside the map.
    #[inline(always)]
    fn pixels<S: Simd<E = E>, const P: usize>(&mut self, s: S, i: usize, columns: Range<usize>) {
        let channels = self.channels;
        let mut c = 0;
        while c + S::LANES <= channels {
            self.vector::<S, P>(s, i, columns.clone(), c, S::LANES);
            c += S::LANES;
        }
        if c < channels {
            self.vector::<S, P>(s, i, columns, c, channels - c);
        }
    }

    #[inline(always)]
    fn vector<S: Simd<E = E>, const P: usize>(
        &mut self,
        s: S,
        i: usize,
        columns: Range<usize>,
        c: usize,
        lanes: usize,
    ) {
        let (channels, k, left) = (self.channels, self.columns, self.left);
        let x = self.first + i;
        let start = match self.bias {
            Some(bias) => s.load_partial(&bias[c..][..lanes]),
            None => s.splat(E::of(0.)),
        };
        let mut acc = [start; P];
        for ky in self.rows.clone() {
            let line = (self.lines)(ky);
            assert!(line.len() == self.width * channels);
            if k == 3 && P == PIXELS {
                // Neighbouring pixels share four of their six columns: each is loaded once. Room
                // for more than six, because the unrolled body names the rest.
                let (mut v, mut w) = ([start; 10], [start; 6]);
                unroll!(q < 6, {
                    // SAFETY: inside the line, of which the windows cover P + 2 pixels here.
                    let pixel = unsafe { window(line, (x + q - left) * channels + c, lanes) };
                    v[q] = s.load_partial(pixel);
                });
                unroll!(kx < 3, {
                    // SAFETY: ky is one of the rows, kx < k and c + lanes <= channels.
                    let tap = unsafe { window(self.taps, (ky * 3 + kx) * channels + c, lanes) };
                    w[kx] = s.load_partial(tap);
                });
                unroll!(p < P, {
                    acc[p] = s.fma(v[p], w[0], acc[p]);
                    acc[p] = s.fma(v[p + 1], w[1], acc[p]);
                    acc[p] = s.fma(v[p + 2], w[2], acc[p]);
                });
                continue;
            }
            for kx in columns.clone() {
                let tap = (ky * k + kx) * channels + c;
                let at = (x + kx - left) * channels + c;
                // SAFETY: ky is one of the rows, kx < k and c + lanes <= channels.
                let w = s.load_partial(unsafe { window(self.taps, tap, lanes) });
                unroll!(p < P, {
                    // SAFETY: `columns` keep the window inside the line.
                    let v = unsafe { window(line, at + p * channels, lanes) };
                    acc[p] = s.fma(s.load_partial(v), w, acc[p]);
                });
            }
        }
        unroll!(p < P, {
            s.store_partial(acc[p], &mut self.out[(i + p) * channels + c..][..lanes]);
        });
    }
}

/// The gradients of the weights (C×k×k) and of the bias (C), one after the other.
struct WeightGradient {
    k: usize,
}

impl Op for WeightGradient {
    fn name(&self) -> &'static str {
        "depthwise_conv2d weight gradient"
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        Ok((inputs[0].dims4()?.3 * (self.k * self.k + 1)).into())
    }

    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        let (x, grad) = (inputs[0].data, inputs[1].data);
        let d = Dims::new(inputs[0].shape, self.k)?;
        let (taps, line) = (d.k * d.k, d.width * d.channels);
        let sums = sum_rows(d.batch * d.height, (taps + 1) * d.channels, |rows, sums| {
            for row in rows {
                let (b, y) = (row / d.height, row % d.height);
                let image = &x[b * d.height * line..][..d.height * line];
                dispatch(GradientRow { image, grad: &grad[row * line..][..line], sums, y, d });
            }
        });
        Ok(by_channel(&sums, taps, d.channels))
    }

    fn plan(&self, t: Type, inputs: &[&Shape]) -> Result<Plan> {
        let map = crate::ops::kernel_map(inputs[0])?;
        kernels::depthwise_weight(t, map, self.k).map_err(Error::wrap)
    }
}

/// What one line of the result's gradient adds to the sums, tap by tap and then the bias.
struct GradientRow<'a, E> {
    image: &'a [E],
    grad: &'a [E],
    sums: &'a mut [E],
    y: usize,
    d: Dims,
}

/// Pixels that are summed in registers before the sums in memory are touched.
const RUN: usize = 8;

impl<E: Real> Kernel<E> for GradientRow<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(mut self, s: S) {
        let Dims { width, channels, k, .. } = self.d;
        let pad = k / 2;
        let inner = pad.min(width)..width.saturating_sub(pad).max(pad.min(width));
        let mut x = 0;
        while x < width {
            let n = if inner.contains(&x) { RUN.min(inner.end - x) } else { 1 };
            let columns = pad.saturating_sub(x)..k.min(width + pad - x);
            let mut c = 0;
            while c + S::LANES <= channels {
                self.vector(s, x, n, columns.clone(), c, S::LANES);
                c += S::LANES;
            }
            if c < channels {
                self.vector(s, x, n, columns, c, channels - c);
            }
            x += n;
        }
    }
}

impl<E: Real> GradientRow<'_, E> {
    #[inline(always)]
    fn vector<S: Simd<E = E>>(
        &mut self,
        s: S,
        x: usize,
        n: usize,
        columns: Range<usize>,
        c: usize,
        lanes: usize,
    ) {
        let Dims { k, channels, .. } = self.d;
        // A few window columns at a time: each has a sum in a register.
        let mut kx = columns.start;
        while kx < columns.end {
            match columns.end - kx {
                5.. => {
                    self.columns::<S, 5>(s, x, n, kx, c, lanes);
                    kx += 5;
                }
                3.. => {
                    self.columns::<S, 3>(s, x, n, kx, c, lanes);
                    kx += 3;
                }
                _ => {
                    self.columns::<S, 1>(s, x, n, kx, c, lanes);
                    kx += 1;
                }
            }
        }
        let bias = &mut self.sums[k * k * channels + c..][..lanes];
        let mut acc = s.load_partial(bias);
        for p in x..x + n {
            acc = s.add(acc, s.load_partial(&self.grad[p * channels + c..][..lanes]));
        }
        s.store_partial(acc, bias);
    }

    #[inline(always)]
    fn columns<S: Simd<E = E>, const N: usize>(
        &mut self,
        s: S,
        x: usize,
        n: usize,
        kx: usize,
        c: usize,
        lanes: usize,
    ) {
        let Dims { height, width, channels, k, .. } = self.d;
        let pad = k / 2;
        for ky in pad.saturating_sub(self.y)..k.min(height + pad - self.y) {
            let line = (self.y + ky - pad) * width;
            let tap = (ky * k + kx) * channels + c;
            let mut acc = [s.splat(E::of(0.)); N];
            unroll!(i < N, {
                acc[i] = s.load_partial(&self.sums[tap + i * channels..][..lanes]);
            });
            for p in x..x + n {
                // SAFETY: p < width and c + lanes <= channels.
                let g = s.load_partial(unsafe { window(self.grad, p * channels + c, lanes) });
                let at = (line + p + kx - pad) * channels + c;
                unroll!(i < N, {
                    // SAFETY: the columns given keep the window inside the image for all n pixels.
                    let v = unsafe { window(self.image, at + i * channels, lanes) };
                    acc[i] = s.fma(s.load_partial(v), g, acc[i]);
                });
            }
            unroll!(i < N, {
                s.store_partial(acc[i], &mut self.sums[tap + i * channels..][..lanes]);
            });
        }
    }
}
