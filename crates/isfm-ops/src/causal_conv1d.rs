use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Shape, Tensor};

use crate::shared::{check_dims, check_types, fill_parts, shape_error, sum_rows, window};
use crate::simd::{Kernel, Real, Simd, dispatch};
use crate::{Result, cpu};

const OP: &str = "causal_conv1d";

/// Convolves every channel of a sequence with a window of its own that ends at the present step
/// (Gu and Dao, "Mamba", 2023, figure 3): `y[t] = bias + Σⱼ weight[j] · x[t − K + 1 + j]`.
///
/// What comes before the first step is zero, or `before`: the last K − 1 steps of what was
/// convolved earlier, so that a sequence can be fed in pieces.
///
/// # Shapes
/// - `x`: B×L×C
/// - `weight`: C×1×K (PyTorch's layout; K may be even)
/// - `bias`: C
/// - `before`: B×(K−1)×C
/// - returns B×L×C
///
/// # Errors
/// If a shape does not fit, K is 0, or the element types differ or are not `F32` or `F64`.
pub fn causal_conv1d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    before: Option<&Tensor>,
) -> Result<Tensor> {
    check_types(OP, x, &[("weight", weight)])?;
    let (batch, _, c) =
        x.dims3().map_err(|_| shape_error(OP, "x", x.dims(), "[batch, length, channels]"))?;
    let k = match *weight.dims() {
        [channels, 1, k] if channels == c && k > 0 => k,
        _ => {
            let needed = format!("[{c}, 1, K], K at least 1");
            return Err(shape_error(OP, "weight", weight.dims(), needed));
        }
    };
    if let Some(bias) = bias {
        check_types(OP, x, &[("bias", bias)])?;
        check_dims(OP, "bias", bias, &[c])?;
    }
    if let Some(before) = before {
        check_types(OP, x, &[("before", before)])?;
        check_dims(OP, "before", before, &[batch, k - 1, c])?;
    }
    if x.elem_count() == 0 {
        return Ok(x.zeros_like()?);
    }
    let (x, left) = match before {
        Some(before) if k > 1 => (Tensor::cat(&[before, x], 1)?, 0),
        _ => (x.contiguous()?, k - 1),
    };
    let op = Conv { left, right: 0, flip: false };
    let weight = weight.contiguous()?;
    Ok(match bias {
        Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, op)?,
        None => x.apply_op2(&weight, op)?,
    })
}

/// The depth-wise convolution with `left` zeros before the first step and `right` after the last;
/// with `flip` of the mirrored window, which makes it the adjoint if the zeros are K − 1 less
/// those of the convolution.
struct Conv {
    left: usize,
    right: usize,
    flip: bool,
}

#[derive(Clone, Copy)]
struct Dims {
    /// Steps of a sequence that is read.
    from: usize,
    channels: usize,
    k: usize,
    left: usize,
}

/// Elements that one task works on, about.
const TASK: usize = 16_384;

impl Conv {
    fn storage<E: Real>(
        &self,
        x: (&CpuStorage, &Layout),
        weight: (&CpuStorage, &Layout),
        bias: Option<(&CpuStorage, &Layout)>,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (batch, from, channels) = x.1.shape().dims3()?;
        let (.., k) = weight.1.shape().dims3()?;
        // The callers leave at least one window.
        let to = from + self.left + self.right + 1 - k;
        let d = Dims { from, channels, k, left: self.left };
        let bias = bias.map(|(s, l)| cpu::slice::<E>(s, l)).transpose()?;
        let (x, weight) = (cpu::slice::<E>(x.0, x.1)?, cpu::slice::<E>(weight.0, weight.1)?);
        // Tap by tap, so that a vector of channels has its weights side by side.
        let mut taps = vec![E::of(0.); k * channels];
        for (c, window) in weight.chunks_exact(k).enumerate() {
            for (j, &w) in window.iter().enumerate() {
                let j = if self.flip { k - 1 - j } else { j };
                taps[j * channels + c] = w;
            }
        }
        let size = TASK.div_ceil(channels) * channels;
        let out = fill_parts(batch * to * channels, size, |start, out, _| {
            let rows = start / channels..(start + out.len()) / channels;
            let mut out = out;
            for (b, steps) in sequences(rows, to) {
                let (piece, rest) = out.split_at_mut(steps.len() * channels);
                out = rest;
                let x = &x[b * from * channels..][..from * channels];
                dispatch(Steps { x, taps: &taps, bias, out: piece, first: steps.start, d });
            }
        });
        Ok((E::to_cpu_storage_owned(out), Shape::from((batch, to, channels))))
    }

    /// The gradients of the arguments that ask for one.
    fn gradients(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        grad: &Tensor,
    ) -> candle_core::Result<[Option<Tensor>; 3]> {
        let grad = grad.contiguous()?;
        let k = weight.dim(2)?;
        let mut all = [None, None, None];
        if x.track_op() {
            let adjoint =
                Conv { left: k - 1 - self.left, right: k - 1 - self.right, flip: !self.flip };
            all[0] = Some(grad.apply_op2_no_bwd(weight, &adjoint)?);
        }
        if weight.track_op() || bias.is_some_and(Tensor::track_op) {
            let sums = x.apply_op2_no_bwd(&grad, &WeightGradient { k, left: self.left })?;
            let size = weight.elem_count();
            all[1] = Some(sums.narrow(0, 0, size)?.reshape(weight.shape())?);
            all[2] = Some(sums.narrow(0, size, sums.elem_count() - size)?);
        }
        Ok(all)
    }
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

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let [dx, dw, _] = self.gradients(x, w, None, grad)?;
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

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [dx, dw, db] = self.gradients(x, w, Some(b), grad)?;
        Ok((dx, dw, db))
    }
}

/// Cuts rows of a batch where a sequence of `len` steps ends: (its number, the steps of it).
fn sequences(
    rows: std::ops::Range<usize>,
    len: usize,
) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
    let mut row = rows.start;
    std::iter::from_fn(move || {
        if row >= rows.end {
            return None;
        }
        let (b, first) = (row / len, row % len);
        let last = len.min(first + rows.end - row);
        row += last - first;
        Some((b, first..last))
    })
}

/// Steps `first..` of one sequence of the result.
struct Steps<'a, E> {
    x: &'a [E],
    taps: &'a [E],
    bias: Option<&'a [E]>,
    out: &'a mut [E],
    first: usize,
    d: Dims,
}

/// Neighbouring steps that share one load of the weights.
const STEPS: usize = 4;

impl<E: Real> Kernel<E> for Steps<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(mut self, s: S) {
        let Dims { from, channels, k, left, .. } = self.d;
        let count = self.out.len() / channels;
        let mut i = 0;
        while i < count {
            let t = self.first + i;
            // All windows of the group lie inside, from its first step's to its last one's.
            let inside = t >= left && t + STEPS - 1 + k <= from + left;
            if inside && i + STEPS <= count {
                self.steps::<S, STEPS>(s, i, 0..k);
                i += STEPS;
            } else {
                let last = k.min((from + left).saturating_sub(t));
                self.steps::<S, 1>(s, i, left.saturating_sub(t).min(last)..last);
                i += 1;
            }
        }
    }
}

impl<E: Real> Steps<'_, E> {
    /// `P` steps from the `i`-th on, all of which have the taps `taps` inside the sequence.
    #[inline(always)]
    fn steps<S: Simd<E = E>, const P: usize>(
        &mut self,
        s: S,
        i: usize,
        taps: std::ops::Range<usize>,
    ) {
        let channels = self.d.channels;
        let mut c = 0;
        while c + S::LANES <= channels {
            self.vector::<S, P>(s, i, taps.clone(), c, S::LANES);
            c += S::LANES;
        }
        if c < channels {
            self.vector::<S, P>(s, i, taps, c, channels - c);
        }
    }

    #[inline(always)]
    fn vector<S: Simd<E = E>, const P: usize>(
        &mut self,
        s: S,
        i: usize,
        taps: std::ops::Range<usize>,
        c: usize,
        lanes: usize,
    ) {
        let Dims { channels, left, .. } = self.d;
        let start = match self.bias {
            Some(bias) => s.load_partial(&bias[c..][..lanes]),
            None => s.splat(E::of(0.)),
        };
        let mut acc = [start; P];
        for j in taps {
            // SAFETY: j < K and c + lanes <= channels.
            let w = s.load_partial(unsafe { window(self.taps, j * channels + c, lanes) });
            let at = (self.first + i + j - left) * channels + c;
            unroll!(p < P, {
                // SAFETY: the caller's taps keep the window inside the sequence.
                let v = unsafe { window(self.x, at + p * channels, lanes) };
                acc[p] = s.fma(s.load_partial(v), w, acc[p]);
            });
        }
        unroll!(p < P, {
            s.store_partial(acc[p], &mut self.out[(i + p) * channels + c..][..lanes]);
        });
    }
}

/// The gradients of the weights (C×K) and of the bias (C), one after the other.
struct WeightGradient {
    k: usize,
    left: usize,
}

impl WeightGradient {
    fn storage<E: Real>(
        &self,
        x: (&CpuStorage, &Layout),
        grad: (&CpuStorage, &Layout),
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (batch, from, channels) = x.1.shape().dims3()?;
        let (_, to, _) = grad.1.shape().dims3()?;
        let (k, left) = (self.k, self.left);
        let d = Dims { from, channels, k, left };
        let (x, grad) = (cpu::slice::<E>(x.0, x.1)?, cpu::slice::<E>(grad.0, grad.1)?);
        let sums = sum_rows(batch * to, (k + 1) * channels, |rows, sums| {
            for (b, steps) in sequences(rows, to) {
                let x = &x[b * from * channels..][..from * channels];
                let grad = &grad[b * to * channels..][..to * channels];
                dispatch(GradientSteps { x, grad, sums, steps, d });
            }
        });
        let mut out = vec![E::of(0.); sums.len()];
        for (j, sums) in sums.chunks_exact(channels).enumerate() {
            for (c, &v) in sums.iter().enumerate() {
                out[if j < k { c * k + j } else { k * channels + c }] = v;
            }
        }
        let shape = Shape::from(out.len());
        Ok((E::to_cpu_storage_owned(out), shape))
    }
}

impl CustomOp2 for WeightGradient {
    fn name(&self) -> &'static str {
        "causal_conv1d weight gradient"
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
}

/// What some steps of the result's gradient add to the sums, tap by tap and then the bias.
struct GradientSteps<'a, E> {
    x: &'a [E],
    grad: &'a [E],
    sums: &'a mut [E],
    steps: std::ops::Range<usize>,
    d: Dims,
}

/// Taps that are summed at once, each in a register.
const TAPS: usize = 4;

impl<E: Real> Kernel<E> for GradientSteps<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(mut self, s: S) {
        let Dims { channels, k, .. } = self.d;
        for c in (0..channels).step_by(S::LANES) {
            let lanes = S::LANES.min(channels - c);
            let mut j = 0;
            while j + TAPS <= k {
                self.taps::<S, TAPS>(s, j, c, lanes);
                j += TAPS;
            }
            while j < k {
                self.taps::<S, 1>(s, j, c, lanes);
                j += 1;
            }
            let bias = &mut self.sums[k * channels + c..][..lanes];
            let mut acc = s.load_partial(bias);
            for t in self.steps.clone() {
                acc = s.add(acc, s.load_partial(&self.grad[t * channels + c..][..lanes]));
            }
            s.store_partial(acc, bias);
        }
    }
}

impl<E: Real> GradientSteps<'_, E> {
    /// The sums of `N` taps from `j` on.
    #[inline(always)]
    fn taps<S: Simd<E = E>, const N: usize>(&mut self, s: S, j: usize, c: usize, lanes: usize) {
        let Dims { from, channels, left, .. } = self.d;
        let mut acc = [s.splat(E::of(0.)); N];
        unroll!(i < N, {
            acc[i] = s.load_partial(&self.sums[(j + i) * channels + c..][..lanes]);
        });
        // Where all N taps are inside the sequence; before and after it they are asked one by one.
        let inside = left.saturating_sub(j)..(from + left + 1).saturating_sub(j + N);
        for t in self.steps.clone() {
            // SAFETY: t is a step of the gradient and c + lanes <= channels.
            let g = s.load_partial(unsafe { window(self.grad, t * channels + c, lanes) });
            if inside.contains(&t) {
                let at = (t + j - left) * channels + c;
                unroll!(i < N, {
                    // SAFETY: t + j + i - left is in 0..from.
                    let v = unsafe { window(self.x, at + i * channels, lanes) };
                    acc[i] = s.fma(s.load_partial(v), g, acc[i]);
                });
            } else {
                unroll!(i < N, {
                    if let Some(step) = (t + j + i).checked_sub(left)
                        && step < from
                    {
                        let v = &self.x[step * channels + c..][..lanes];
                        acc[i] = s.fma(s.load_partial(v), g, acc[i]);
                    }
                });
            }
        }
        unroll!(i < N, {
            s.store_partial(acc[i], &mut self.sums[(j + i) * channels + c..][..lanes]);
        });
    }
}
