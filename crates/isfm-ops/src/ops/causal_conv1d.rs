use std::ops::Range;

use candle_core::{Result, Shape, Tensor};

use crate::check;
use crate::op::{Gradients, Input, Op, apply, apply_untracked, unpack};
use crate::ops::depthwise::{OutputRow, by_channel, by_tap};
use crate::parallel::{fill_parts, sum_rows, window};
use crate::simd::{Kernel, Real, Simd, dispatch};

const OP: &str = "causal_conv1d";

/// Convolves every channel of a sequence with a window of its own that ends at the current step
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
    check::types(OP, x, &[("weight", weight)])?;
    let (batch, _, c) = x
        .dims3()
        .map_err(|_| check::shape_error(OP, "x", x.dims(), "[batch, length, channels]"))?;
    let k = match *weight.dims() {
        [channels, 1, k] if channels == c && k > 0 => k,
        _ => {
            let needed = format!("[{c}, 1, K], K at least 1");
            return Err(check::shape_error(OP, "weight", weight.dims(), needed));
        }
    };
    if let Some(bias) = bias {
        check::like(OP, "bias", bias, &[c], x.dtype())?;
    }
    if let Some(before) = before {
        check::like(OP, "before", before, &[batch, k - 1, c], x.dtype())?;
    }
    if x.elem_count() == 0 {
        return x.zeros_like();
    }
    let (x, left) = match before {
        Some(before) if k > 1 => (&Tensor::cat(&[before, x], 1)?, 0),
        _ => (x, k - 1),
    };
    let inputs: Vec<&Tensor> = [x, weight].into_iter().chain(bias).collect();
    apply(Conv { left, right: 0, flip: false }, &inputs)
}

/// The depth-wise convolution with `left` zeros before the first step and `right` after the last;
/// with `flip` of the mirrored window, which makes it the adjoint if the zeros are K − 1 less
/// those of the convolution.
pub(super) struct Conv {
    pub(super) left: usize,
    pub(super) right: usize,
    pub(super) flip: bool,
}

#[derive(Clone, Copy)]
struct Dims {
    /// Steps of an input sequence.
    from: usize,
    channels: usize,
    k: usize,
    left: usize,
}

/// Elements that one task works on, about.
const TASK: usize = 16_384;

impl Op for Conv {
    fn name(&self) -> &'static str {
        OP
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        let ((batch, from, channels), (.., k)) = (inputs[0].dims3()?, inputs[1].dims3()?);
        // The callers leave at least one window.
        Ok((batch, from + self.left + self.right + 1 - k, channels).into())
    }

    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        let (_, from, channels) = inputs[0].shape.dims3()?;
        let (.., k) = inputs[1].shape.dims3()?;
        let (batch, to, _) = self.shape(&[inputs[0].shape, inputs[1].shape])?.dims3()?;
        let (x, bias) = (inputs[0].data, inputs.get(2).map(|b| b.data));
        let taps = &by_tap(inputs[1].data, k, self.flip);
        let size = TASK.div_ceil(channels) * channels;
        Ok(fill_parts(batch * to * channels, size, |start, out, _| {
            let rows = start / channels..(start + out.len()) / channels;
            let mut out = out;
            for (b, steps) in sequences(rows, to) {
                let (piece, rest) = out.split_at_mut(steps.len() * channels);
                out = rest;
                let x = &x[b * from * channels..][..from * channels];
                dispatch(OutputRow {
                    lines: |_| x,
                    rows: 0..1,
                    width: from,
                    columns: k,
                    left: self.left,
                    taps,
                    bias,
                    first: steps.start,
                    out: piece,
                    channels,
                });
            }
        }))
    }

    fn gradients(&self, inputs: &[&Tensor], _: &Tensor, grad: &Tensor) -> Result<Gradients> {
        let (x, weight, bias) = (inputs[0], inputs[1], inputs.get(2));
        let (k, left) = (weight.dim(2)?, self.left);
        let mut all = [None, None, None];
        if x.track_op() {
            let adjoint = Conv { left: k - 1 - left, right: k - 1 - self.right, flip: !self.flip };
            all[0] = Some(apply_untracked(adjoint, &[grad, weight])?);
        }
        if weight.track_op() || bias.is_some_and(|b| b.track_op()) {
            let sums = apply_untracked(WeightGradient { k, left }, &[x, grad])?;
            let [dw, db] = unpack(&sums, [weight.shape(), &weight.dim(0)?.into()])?;
            (all[1], all[2]) = (Some(dw), Some(db));
        }
        Ok(all)
    }
}

/// Cuts rows of a batch where a sequence of `len` steps ends: (its number, the steps of it).
fn sequences(rows: Range<usize>, len: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
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

/// The gradients of the weights (C×K) and of the bias (C), one after the other.
struct WeightGradient {
    k: usize,
    left: usize,
}

impl Op for WeightGradient {
    fn name(&self) -> &'static str {
        "causal_conv1d weight gradient"
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        Ok((inputs[0].dims3()?.2 * (self.k + 1)).into())
    }

    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        let (batch, from, channels) = inputs[0].shape.dims3()?;
        let (_, to, _) = inputs[1].shape.dims3()?;
        let (k, left) = (self.k, self.left);
        let d = Dims { from, channels, k, left };
        let (x, grad) = (inputs[0].data, inputs[1].data);
        let sums = sum_rows(batch * to, (k + 1) * channels, |rows, sums| {
            for (b, steps) in sequences(rows, to) {
                let x = &x[b * from * channels..][..from * channels];
                let grad = &grad[b * to * channels..][..to * channels];
                dispatch(GradientSteps { x, grad, sums, steps, d });
            }
        });
        Ok(by_channel(&sums, k, channels))
    }
}

/// What some steps of the result's gradient add to the sums, tap by tap and then the bias.
struct GradientSteps<'a, E> {
    x: &'a [E],
    grad: &'a [E],
    sums: &'a mut [E],
    steps: Range<usize>,
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
