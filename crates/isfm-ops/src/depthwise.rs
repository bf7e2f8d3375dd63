use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Shape, Tensor};

use crate::activation::{SiluRows, silu};
use crate::shared::{
    check_dims, check_odd, check_types, fill_parts, map_dims, shape_error, sum_rows, untracked,
    window,
};
use crate::simd::{Kernel, Real, Simd, dispatch};
use crate::{Result, cpu};

const OP: &str = "depthwise_conv2d";

/// Convolves every channel of a map with a window of its own; stride 1, zero padding k/2.
///
/// # Shapes
/// - `x`: B×H×W×C
/// - `weight`: C×1×k×k, k odd (PyTorch's layout)
/// - `bias`: C
/// - returns B×H×W×C
///
/// # Errors
/// If a shape does not fit, k is even, or the element types differ or are not `F32` or `F64`.
pub fn depthwise_conv2d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    apply(x, weight, bias, false)
}

/// [`depthwise_conv2d`] followed by SiLU; without gradients in one pass over the result.
///
/// # Shapes
/// As [`depthwise_conv2d`].
///
/// # Errors
/// As [`depthwise_conv2d`].
pub fn depthwise_conv2d_silu(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    if untracked([x, weight].into_iter().chain(bias)) {
        return apply(x, weight, bias, true);
    }
    silu(&depthwise_conv2d(x, weight, bias)?)
}

fn apply(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, silu: bool) -> Result<Tensor> {
    check_types(OP, x, &[("weight", weight)])?;
    let (.., c) = map_dims(OP, x)?;
    let k = match *weight.dims() {
        [channels, 1, k, l] if channels == c && k == l => k,
        _ => return Err(shape_error(OP, "weight", weight.dims(), format!("[{c}, 1, k, k]"))),
    };
    check_odd(OP, k)?;
    if let Some(bias) = bias {
        check_types(OP, x, &[("bias", bias)])?;
        check_dims(OP, "bias", bias, &[c])?;
    }
    if x.elem_count() == 0 {
        return Ok(x.zeros_like()?);
    }
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    let op = Depthwise { flip: false, silu };
    Ok(match bias {
        Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, op)?,
        None => x.apply_op2(&weight, op)?,
    })
}

#[derive(Clone, Copy)]
struct Dims {
    batch: usize,
    height: usize,
    width: usize,
    channels: usize,
    k: usize,
}

/// The weights C×k×k tap by tap, k×k×C, so that a vector of channels has its weights side by side;
/// with `flip` the mirrored window.
pub(crate) fn by_tap<E: Real>(weight: &[E], k: usize, flip: bool) -> Vec<E> {
    let taps = k * k;
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

/// The convolution; with `flip` its adjoint, the correlation with the mirrored window.
struct Depthwise {
    flip: bool,
    /// Whether SiLU follows; only where no gradient is asked for.
    silu: bool,
}

impl Depthwise {
    fn run<E: Real>(&self, x: &[E], weight: &[E], bias: Option<&[E]>, d: Dims) -> Vec<E> {
        let taps = &by_tap(weight, d.k, self.flip);
        let line = d.width * d.channels;
        fill_parts(x.len(), line, |start, out, _| {
            let (b, y) = (start / line / d.height, start / line % d.height);
            let image = &x[b * d.height * line..][..d.height * line];
            let pad = d.k / 2;
            let rows = pad.saturating_sub(y)..d.k.min(d.height + pad - y);
            let lines = |ky: usize| &image[(y + ky - pad) * line..][..line];
            let Dims { width, channels, k, .. } = d;
            dispatch(OutputRow { lines, rows, taps, bias, out: &mut *out, width, channels, k });
            if self.silu {
                dispatch(SiluRows(out));
            }
        })
    }

    fn storage<E: Real>(
        &self,
        x: (&CpuStorage, &Layout),
        weight: (&CpuStorage, &Layout),
        bias: Option<(&CpuStorage, &Layout)>,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (batch, height, width, channels) = x.1.shape().dims4()?;
        let (.., k) = weight.1.shape().dims4()?;
        let bias = bias.map(|(s, l)| cpu::slice::<E>(s, l)).transpose()?;
        let d = Dims { batch, height, width, channels, k };
        let out =
            self.run(cpu::slice::<E>(x.0, x.1)?, cpu::slice::<E>(weight.0, weight.1)?, bias, d);
        Ok((E::to_cpu_storage_owned(out), x.1.shape().clone()))
    }

    /// The gradients of the arguments that ask for one; an image or frozen weights do not.
    fn gradients(
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        grad: &Tensor,
    ) -> candle_core::Result<[Option<Tensor>; 3]> {
        let grad = grad.contiguous()?;
        let mut all = [None, None, None];
        if x.track_op() {
            all[0] = Some(grad.apply_op2_no_bwd(weight, &Depthwise { flip: true, silu: false })?);
        }
        if weight.track_op() || bias.is_some_and(Tensor::track_op) {
            let k = weight.dim(3)?;
            let sums = x.apply_op2_no_bwd(&grad, &WeightGradient { k })?;
            let size = weight.elem_count();
            all[1] = Some(sums.narrow(0, 0, size)?.reshape(weight.shape())?);
            all[2] = Some(sums.narrow(0, size, sums.elem_count() - size)?);
        }
        Ok(all)
    }
}

impl CustomOp2 for Depthwise {
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
        crate::cuda::depthwise(self.flip, self.silu, &[(x, lx), (y, ly)])
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

impl CustomOp3 for Depthwise {
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
        crate::cuda::depthwise(self.flip, self.silu, &[(x, lx), (y, ly), (z, lz)])
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [dx, dw, db] = Self::gradients(x, w, Some(b), grad)?;
        Ok((dx, dw, db))
    }
}

/// One line of the result.
pub(crate) struct OutputRow<'a, E, L> {
    /// The line of the map below each of the window's `rows` that lies inside it.
    pub(crate) lines: L,
    pub(crate) rows: std::ops::Range<usize>,
    /// As [`by_tap`] gives them.
    pub(crate) taps: &'a [E],
    pub(crate) bias: Option<&'a [E]>,
    pub(crate) out: &'a mut [E],
    pub(crate) width: usize,
    pub(crate) channels: usize,
    pub(crate) k: usize,
}

/// Neighbouring pixels that share one load of the weights.
const PIXELS: usize = 4;

impl<'l, E: Real, L: Fn(usize) -> &'l [E]> Kernel<E> for OutputRow<'_, E, L> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(mut self, s: S) {
        let (k, width) = (self.k, self.width);
        assert!(self.out.len() == width * self.channels);
        assert!(self.taps.len() == k * k * self.channels && self.rows.end <= k);
        let pad = k / 2;
        let inner = pad.min(width)..width.saturating_sub(pad).max(pad.min(width));
        let mut x = 0;
        while x < width {
            if inner.contains(&x) && x + PIXELS <= inner.end {
                self.pixels::<S, PIXELS>(s, x, 0..k);
                x += PIXELS;
            } else {
                let last = k.min(width + pad - x);
                self.pixels::<S, 1>(s, x, pad.saturating_sub(x)..last);
                x += 1;
            }
        }
    }
}

impl<'l, E: Real, L: Fn(usize) -> &'l [E]> OutputRow<'_, E, L> {
    /// `P` pixels from `x` on, all of which have the window columns `columns` inside the map.
    #[inline(always)]
    fn pixels<S: Simd<E = E>, const P: usize>(
        &mut self,
        s: S,
        x: usize,
        columns: std::ops::Range<usize>,
    ) {
        let channels = self.channels;
        let mut c = 0;
        while c + S::LANES <= channels {
            self.vector::<S, P>(s, x, columns.clone(), c, S::LANES);
            c += S::LANES;
        }
        if c < channels {
            self.vector::<S, P>(s, x, columns, c, channels - c);
        }
    }

    #[inline(always)]
    fn vector<S: Simd<E = E>, const P: usize>(
        &mut self,
        s: S,
        x: usize,
        columns: std::ops::Range<usize>,
        c: usize,
        lanes: usize,
    ) {
        let (channels, k) = (self.channels, self.k);
        let pad = k / 2;
        let start = match self.bias {
            Some(bias) => s.load_partial(&bias[c..][..lanes]),
            None => s.splat(E::of(0.)),
        };
        let mut acc = [start; P];
        for ky in self.rows.clone() {
            let line = (self.lines)(ky);
            assert!(line.len() == self.out.len());
            if k == 3 && P == PIXELS {
                // Neighbouring pixels share four of their six columns: each is loaded once. Room
                // for more than six, because the unrolled body names the rest.
                let (mut v, mut w) = ([start; 10], [start; 6]);
                unroll!(q < 6, {
                    // SAFETY: inside the line, of which the window covers P + 2 pixels here.
                    let pixel = unsafe { window(line, (x + q - 1) * channels + c, lanes) };
                    v[q] = s.load_partial(pixel);
                });
                unroll!(kx < 3, {
                    // SAFETY: ky, kx < k and c + lanes <= channels.
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
                let at = (x + kx - pad) * channels + c;
                // SAFETY: ky, kx < k and c + lanes <= channels.
                let w = s.load_partial(unsafe { window(self.taps, tap, lanes) });
                unroll!(p < P, {
                    // SAFETY: `columns` keep the window inside the line.
                    let v = unsafe { window(line, at + p * channels, lanes) };
                    acc[p] = s.fma(s.load_partial(v), w, acc[p]);
                });
            }
        }
        unroll!(p < P, {
            s.store_partial(acc[p], &mut self.out[(x + p) * channels + c..][..lanes]);
        });
    }
}

/// The gradients of the weights (C×k×k) and of the bias (C), one after the other.
struct WeightGradient {
    k: usize,
}

impl WeightGradient {
    fn run<E: Real>(&self, x: &[E], grad: &[E], d: Dims) -> Vec<E> {
        let taps = d.k * d.k;
        let line = d.width * d.channels;
        let sums = sum_rows(d.batch * d.height, (taps + 1) * d.channels, |rows, sums| {
            for row in rows {
                let (b, y) = (row / d.height, row % d.height);
                let image = &x[b * d.height * line..][..d.height * line];
                dispatch(GradientRow { image, grad: &grad[row * line..][..line], sums, y, d });
            }
        });
        let mut out = vec![E::of(0.); sums.len()];
        for (t, sums) in sums.chunks_exact(d.channels).enumerate() {
            for (c, &v) in sums.iter().enumerate() {
                out[if t < taps { c * taps + t } else { taps * d.channels + c }] = v;
            }
        }
        out
    }

    fn storage<E: Real>(
        &self,
        x: (&CpuStorage, &Layout),
        grad: (&CpuStorage, &Layout),
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (batch, height, width, channels) = x.1.shape().dims4()?;
        let d = Dims { batch, height, width, channels, k: self.k };
        let out = self.run(cpu::slice::<E>(x.0, x.1)?, cpu::slice::<E>(grad.0, grad.1)?, d);
        let shape = Shape::from(out.len());
        Ok((E::to_cpu_storage_owned(out), shape))
    }
}

impl CustomOp2 for WeightGradient {
    fn name(&self) -> &'static str {
        "depthwise_conv2d weight gradient"
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
        crate::cuda::depthwise_weight(self.k, [(x, lx), (y, ly)])
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
        columns: std::ops::Range<usize>,
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
