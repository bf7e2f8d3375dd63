use std::ops::Range;

use candle_core::{Device, Result, Shape, Tensor};

use super::pointwise::TASK;
use crate::check;
use crate::op::{Gradients, Input, Op, apply, unpack, with_slices};
use crate::parallel::{fill_parts, in_parts, split};
use crate::simd::{Kernel, MAX_LANES, Real, Simd, dispatch};

const OP: &str = "merge_details";

/// The energy of half a grey level of 255 in a full window: details much weaker than that count as
/// nothing, in both pictures alike.
const NOISE: f64 = 25. * (0.5 / 255.) * (0.5 / 255.);

/// Pixels that a window reaches to either side of its middle.
pub(super) const REACH: usize = 2;

/// One level of the details of two pictures, such as a Laplacian pyramid has them, merged by local
/// energy and match (after Burt and Kolczynski, "Enhanced image capture through fusion", ICCV
/// 1993).
///
/// With v and i the two details, Σ the sum over a window of 5×5 pixels (zeros outside), e the energy
/// of half a grey level, 25·(0.5/255)², and p and q the two channels of `control`:
///
/// - E(v) = Σv², E(i) = Σi², the match M = (2Σvi + e)/(E(v) + E(i) + e), which is 1 where the details
///   agree and −1 where they are opposite
/// - the infrared picture's share s = sigmoid(p + `sharpness`·ln((E(i) + e)/(E(v) + e)))
/// - the gain g = 1 + ½(1 − M)·tanh(q)
/// - the result g·(v + s·(i − v))
///
/// Where v = i in a whole window the result is v exactly.
///
/// # Shapes
/// - `visible`, `infrared`: B×1×H×W, values around 0 on a scale of 1 from black to white
/// - `control`: B×2×H×W, a preference p for the infrared picture (log-odds) and a gain q
/// - returns B×1×H×W
///
/// # Errors
/// If a shape does not fit, `sharpness` is not finite, or the element types differ or are not `F32`
/// or `F64`.
pub fn merge_details(
    visible: &Tensor,
    infrared: &Tensor,
    control: &Tensor,
    sharpness: f64,
) -> Result<Tensor> {
    check::types(OP, visible, &[("infrared", infrared), ("control", control)])?;
    let [batch, 1, height, width] = *visible.dims() else {
        return Err(check::shape_error(OP, "visible", visible.dims(), "[batch, 1, height, width]"));
    };
    check::dims(OP, "infrared", infrared, visible.dims())?;
    check::dims(OP, "control", control, &[batch, 2, height, width])?;
    if !sharpness.is_finite() {
        return Err(check::shape_error(OP, "sharpness", sharpness, "a finite number"));
    }
    if visible.elem_count() == 0 {
        return Ok(visible.clone());
    }
    apply(MergeDetails { sharpness }, &[visible, infrared, control])
}

#[derive(Clone, Copy)]
pub(super) struct MergeDetails {
    pub(super) sharpness: f64,
}

impl MergeDetails {
    /// The gradients of both details, if `pictures` are wanted, and of both channels of the control,
    /// one after the other, each of them of all images. From the inputs and the result's gradient.
    fn gradient<E: Real>(self, all: &[&[E]], [h, w]: [usize; 2], pictures: bool) -> Vec<E> {
        // Each task starts with the sums of up to four lines that are its neighbours' too.
        let size = (4 * TASK).div_ceil(w) * w;
        let n = all[0].len();
        let sums = if pictures { size / w + 2 * REACH } else { 0 };
        let lengths = [padded(w); 3].into_iter().chain([sums * w; 3]);
        let work = |start: usize, mut parts: [&mut [E]; 4], buffer: &mut Vec<E>| {
            let mut buffers = split(buffer, lengths.clone());
            buffers[..3].iter_mut().for_each(|line| line.fill(E::of(0.)));
            let [v, i, vi, of_v, of_i, of_vi] = &mut buffers[..] else {
                unreachable!("six lengths")
            };
            let mut at = start / w;
            let end = at + parts[2].len() / w;
            while at < end {
                let (b, y) = (at / h, at % h);
                let rows = y..(y + end - at).min(h);
                let mut outputs: [&mut [E]; 4] = Default::default();
                for (output, part) in outputs.iter_mut().zip(&mut parts) {
                    let n = if part.is_empty() { 0 } else { rows.len() * w };
                    (*output, *part) = std::mem::take(part).split_at_mut(n);
                }
                at += rows.len();
                let level = Level::new(self, all, b, [h, w]);
                let grad = &all[3][b * h * w..][..h * w];
                let (lines, slopes) = ([&mut **v, i, vi], [&mut **of_v, of_i, of_vi]);
                dispatch(GradientLines { level, grad, rows, lines, slopes, outputs });
            }
        };
        if pictures {
            return in_parts(n, size, 0, work).0;
        }
        let control_alone = |start, [p, q]: [&mut [E]; 2], buffer: &mut Vec<E>| {
            work(start, [&mut [], &mut [], p, q], buffer);
        };
        in_parts(n, size, 0, control_alone).0
    }
}

impl Op for MergeDetails {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        let (_, _, h, w) = inputs[0].shape.dims4()?;
        let all = [inputs[0].data, inputs[1].data, inputs[2].data];
        Ok(fill_parts(all[0].len(), TASK.div_ceil(w) * w, |start, part, buffer| {
            let mut lines = split(buffer, [padded(w); 3].into_iter());
            lines.iter_mut().for_each(|line| line.fill(E::of(0.)));
            let [v, i, vi] = &mut lines[..] else { unreachable!("three lengths") };
            for (k, out) in part.chunks_exact_mut(w).enumerate() {
                let (b, y) = ((start / w + k) / h, (start / w + k) % h);
                let level = Level::new(*self, &all, b, [h, w]);
                dispatch(MergeLine { level, y, lines: [&mut **v, i, vi], out });
            }
        }))
    }

    fn gradients(&self, inputs: &[&Tensor], _: &Tensor, grad: &Tensor) -> Result<Gradients> {
        let [visible, infrared, control] = *inputs else { unreachable!("three inputs") };
        let (b, _, h, w) = visible.dims4()?;
        let pictures = visible.track_op() || infrared.track_op();
        let all = [visible, infrared, control, grad];
        let packed = with_float!(grad.dtype(), E => {
            let work = |all: &[&[E]]| Ok(self.gradient(all, [h, w], pictures));
            let packed = with_slices(&all, work)?;
            let n = packed.len();
            Tensor::from_vec(packed, n, &Device::Cpu)?
        }, else return Err(check::dtype_error(OP, grad.dtype(), "F32 or F64")));
        let channels = Shape::from((2, b, h * w));
        let (details, channels) = if pictures {
            let [v, i, channels] = unpack(&packed, [visible.shape(), visible.shape(), &channels])?;
            ([visible.track_op().then_some(v), infrared.track_op().then_some(i)], channels)
        } else {
            ([None, None], packed.reshape(channels)?)
        };
        let [v, i] = details;
        // A batch of one is in the right order already, and not copied.
        let control = if control.track_op() {
            Some(channels.transpose(0, 1)?.reshape(control.shape())?)
        } else {
            None
        };
        Ok([v, i, control])
    }
}

/// Elements of a line of sums: zeros on either side, and room for a vector that starts at the last.
pub(super) fn padded(width: usize) -> usize {
    width + 2 * REACH + MAX_LANES
}

/// One picture's details and control.
#[derive(Clone, Copy)]
pub(super) struct Level<'a, E> {
    pub(super) v: &'a [E],
    pub(super) i: &'a [E],
    pub(super) p: &'a [E],
    pub(super) q: &'a [E],
    /// The line where p and q begin.
    pub(super) control_from: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) sharpness: E,
}

impl<'a, E: Real> Level<'a, E> {
    fn new(op: MergeDetails, all: &[&'a [E]], b: usize, [height, width]: [usize; 2]) -> Self {
        let n = height * width;
        let (p, q) = all[2][2 * b * n..][..2 * n].split_at(n);
        let (v, i) = (&all[0][b * n..][..n], &all[1][b * n..][..n]);
        let (control_from, sharpness) = (0, E::of(op.sharpness));
        Self { v, i, p, q, control_from, height, width, sharpness }
    }

    /// The lines that the windows around line `y` cover.
    #[inline(always)]
    fn span(&self, y: usize) -> Range<usize> {
        y.saturating_sub(REACH)..(y + REACH + 1).min(self.height)
    }

    /// Σv², Σi² and Σvi over the lines that the windows of line `y` cover.
    #[inline(always)]
    fn sum_lines<S: Simd<E = E>>(&self, s: S, y: usize, lines: &mut [&mut [E]; 3]) {
        let w = self.width;
        for x in (0..w).step_by(S::LANES) {
            let n = S::LANES.min(w - x);
            let zero = s.splat(E::of(0.));
            // In the same order, so that they are equal where v and i are.
            let (mut vv, mut ii, mut vi) = (zero, zero, zero);
            for y in self.span(y) {
                let v = s.load_partial(&self.v[y * w + x..][..n]);
                let i = s.load_partial(&self.i[y * w + x..][..n]);
                vv = s.fma(v, v, vv);
                ii = s.fma(i, i, ii);
                vi = s.fma(v, i, vi);
            }
            s.store_partial(vv, &mut lines[0][REACH + x..][..n]);
            s.store_partial(ii, &mut lines[1][REACH + x..][..n]);
            s.store_partial(vi, &mut lines[2][REACH + x..][..n]);
        }
    }

    /// What the result and the gradients are made of, for `n` pixels from column `x` of line `y` on.
    #[inline(always)]
    fn weigh<S: Simd<E = E>>(
        &self,
        s: S,
        (y, x, n): (usize, usize, usize),
        lines: &[&mut [E]; 3],
    ) -> Weighed<S> {
        let at = y * self.width + x;
        let (one, half) = (s.splat(E::of(1.)), s.splat(E::of(0.5)));
        let noise = s.splat(E::of(NOISE));
        let (vv, ii) = (five(s, lines[0], x), five(s, lines[1], x));
        let vi = five(s, lines[2], x);
        let (v, i) = (s.load_partial(&self.v[at..][..n]), s.load_partial(&self.i[at..][..n]));
        let control = at - self.control_from * self.width;
        let [p, q] = [self.p, self.q].map(|c| s.load_partial(&c[control..][..n]));
        let total = s.add(s.add(vv, ii), noise);
        let matched = s.div(s.add(s.add(vi, vi), noise), total);
        let (vv, ii) = (s.add(vv, noise), s.add(ii, noise));
        let share = s.sigmoid(s.fma(s.splat(self.sharpness), s.ln(s.div(ii, vv)), p));
        let sigmoid = s.sigmoid(s.add(q, q));
        let tanh = s.sub(s.add(sigmoid, sigmoid), one);
        let unmatched = s.mul(half, s.sub(one, matched));
        let gain = s.fma(unmatched, tanh, one);
        let difference = s.sub(i, v);
        let mean = s.fma(share, difference, v);
        Weighed { vv, ii, total, matched, unmatched, share, tanh, gain, difference, mean }
    }
}

struct Weighed<S: Simd> {
    /// The two energies, each with the noise.
    vv: S::V,
    ii: S::V,
    /// Their sum with the noise once.
    total: S::V,
    matched: S::V,
    /// Half of 1 − match.
    unmatched: S::V,
    share: S::V,
    tanh: S::V,
    gain: S::V,
    /// i − v.
    difference: S::V,
    /// The result before the gain.
    mean: S::V,
}

/// The sums of five neighbours around `LANES` places from `x` on, in a padded line.
#[inline(always)]
fn five<S: Simd>(s: S, line: &[S::E], x: usize) -> S::V {
    let line = &line[x..][..2 * REACH + S::LANES];
    let outer = s.add(s.load(line), s.load(&line[4..]));
    let inner = s.add(s.load(&line[1..]), s.load(&line[3..]));
    s.add(s.add(outer, inner), s.load(&line[2..]))
}

pub(super) struct MergeLine<'a, 'b, E> {
    pub(super) level: Level<'a, E>,
    pub(super) y: usize,
    /// Zeros but for the middle, [`padded`].
    pub(super) lines: [&'b mut [E]; 3],
    pub(super) out: &'b mut [E],
}

impl<E: Real> Kernel<E> for MergeLine<'_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(mut self, s: S) {
        let w = self.level.width;
        self.level.sum_lines(s, self.y, &mut self.lines);
        for x in (0..w).step_by(S::LANES) {
            let n = S::LANES.min(w - x);
            let at = self.level.weigh(s, (self.y, x, n), &self.lines);
            s.store_partial(s.mul(at.gain, at.mean), &mut self.out[x..][..n]);
        }
    }
}

/// The gradients of some lines of one picture.
struct GradientLines<'a, 'b, E> {
    level: Level<'a, E>,
    grad: &'a [E],
    rows: Range<usize>,
    lines: [&'b mut [E]; 3],
    /// The gradients of the sums, line by line from the first whose windows reach `rows`.
    slopes: [&'b mut [E]; 3],
    /// Of v and i, which may be empty; of p and q.
    outputs: [&'b mut [E]; 4],
}

impl<E: Real> Kernel<E> for GradientLines<'_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(mut self, s: S) {
        let (rows, w) = (self.rows.clone(), self.level.width);
        let pictures = !self.outputs[0].is_empty();
        let reach = if pictures { REACH } else { 0 };
        let around = rows.start.saturating_sub(reach)..(rows.end + reach).min(self.level.height);
        for y in around.clone() {
            self.level.sum_lines(s, y, &mut self.lines);
            for x in (0..w).step_by(S::LANES) {
                self.point(s, y, x, around.start, pictures);
            }
        }
        if pictures {
            for y in rows {
                self.add_windows(s, y, around.start);
            }
        }
    }
}

impl<E: Real> GradientLines<'_, '_, E> {
    /// The gradients of the control, the direct part of those of the details, and those of the sums.
    #[inline(always)]
    fn point<S: Simd<E = E>>(&mut self, s: S, y: usize, x: usize, first: usize, pictures: bool) {
        let w = self.level.width;
        let n = S::LANES.min(w - x);
        let (one, zero) = (s.splat(E::of(1.)), s.splat(E::of(0.)));
        let m = self.level.weigh(s, (y, x, n), &self.lines);
        let grad = s.load_partial(&self.grad[y * w + x..][..n]);
        let (through_gain, through_mean) = (s.mul(grad, m.mean), s.mul(grad, m.gain));
        let slope = s.mul(m.share, s.sub(one, m.share));
        let of_logit = s.mul(s.mul(through_mean, m.difference), slope);
        if self.rows.contains(&y) {
            let at = (y - self.rows.start) * w + x;
            let slope = s.sub(one, s.mul(m.tanh, m.tanh));
            let of_gain = s.mul(s.mul(through_gain, m.unmatched), slope);
            s.store_partial(of_logit, &mut self.outputs[2][at..][..n]);
            s.store_partial(of_gain, &mut self.outputs[3][at..][..n]);
            if pictures {
                let of_i = s.mul(through_mean, m.share);
                s.store_partial(s.sub(through_mean, of_i), &mut self.outputs[0][at..][..n]);
                s.store_partial(of_i, &mut self.outputs[1][at..][..n]);
            }
        }
        if pictures {
            let at = (y - first) * w + x;
            let of_match = s.mul(s.mul(through_gain, m.tanh), s.splat(E::of(-0.5)));
            let of_match = s.div(of_match, m.total);
            let both = s.sub(zero, s.mul(of_match, m.matched));
            let of_ratio = s.mul(of_logit, s.splat(self.level.sharpness));
            let of_vv = s.sub(both, s.div(of_ratio, m.vv));
            let of_ii = s.add(both, s.div(of_ratio, m.ii));
            s.store_partial(of_vv, &mut self.slopes[0][at..][..n]);
            s.store_partial(of_ii, &mut self.slopes[1][at..][..n]);
            s.store_partial(s.add(of_match, of_match), &mut self.slopes[2][at..][..n]);
        }
    }

    /// Adds to line `y` of the details' gradients what comes through the windows' sums: a sum over
    /// windows is its own adjoint.
    #[inline(always)]
    fn add_windows<S: Simd<E = E>>(&mut self, s: S, y: usize, first: usize) {
        let w = self.level.width;
        let span = self.level.span(y);
        for x in (0..w).step_by(S::LANES) {
            let n = S::LANES.min(w - x);
            for (line, slopes) in self.lines.iter_mut().zip(&self.slopes) {
                let mut sum = s.splat(E::of(0.));
                for y in span.clone() {
                    let at = (y - first) * w + x;
                    sum = s.add(sum, s.load_partial(&slopes[at..][..n]));
                }
                s.store_partial(sum, &mut line[REACH + x..][..n]);
            }
        }
        for x in (0..w).step_by(S::LANES) {
            let n = S::LANES.min(w - x);
            let (vv, ii) = (five(s, self.lines[0], x), five(s, self.lines[1], x));
            let vi = five(s, self.lines[2], x);
            let v = s.load_partial(&self.level.v[y * w + x..][..n]);
            let i = s.load_partial(&self.level.i[y * w + x..][..n]);
            let at = (y - self.rows.start) * w + x;
            let through_v = s.fma(s.add(v, v), vv, s.mul(i, vi));
            let through_i = s.fma(s.add(i, i), ii, s.mul(v, vi));
            for (output, through) in self.outputs.iter_mut().zip([through_v, through_i]) {
                let output = &mut output[at..][..n];
                s.store_partial(s.add(s.load_partial(output), through), output);
            }
        }
    }
}
