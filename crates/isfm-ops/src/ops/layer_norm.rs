use candle_core::{Error, Result, Shape, Tensor};
use isfm_kernels::{Plan, Type, norm as kernels};
use num_traits::Float;

use crate::check;
use crate::op::{Gradients, Input, Op, apply, apply_untracked, unpack};
use crate::parallel::{add_partials, fill_parts, in_parts, rows_per_partial};
use crate::simd::{Kernel, Real, Simd, dispatch};

const OP: &str = "layer_norm";

/// Layer norm on the last axis: `(x − mean)/√(variance + eps) · weight + bias`, the variance being
/// the mean of the squared deviations (no Bessel correction).
///
/// # Shapes
/// - `x`: …×C
/// - `weight`, `bias`: C
/// - returns …×C
///
/// # Errors
/// If a shape does not fit, C is 0, or the element types differ or are not `F32` or `F64` (on CUDA
/// `F32`, `F16` or `BF16`).
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    check::types(OP, x, &[("weight", weight), ("bias", bias)])?;
    let (rows, c) = check::rows(OP, x)?;
    check::dims(OP, "weight", weight, &[c])?;
    check::dims(OP, "bias", bias, &[c])?;
    if c == 0 {
        return Err(check::shape_error(OP, "x", x.dims(), "at least one value in the last axis"));
    }
    if rows == 0 {
        return x.zeros_like();
    }
    apply(LayerNorm { eps }, &[x, weight, bias])
}

struct LayerNorm {
    eps: f64,
}

/// About how many values one task normalises: a few tens of microseconds of work.
pub(super) const TASK: usize = 16_384;

/// The number of rows of `x`, and of columns.
fn rows(x: &Shape, weight: &Shape) -> (usize, usize) {
    let columns = weight.elem_count();
    (x.elem_count() / columns.max(1), columns)
}

impl Op for LayerNorm {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        let (x, weight, bias) = (inputs[0].data, inputs[1].data, inputs[2].data);
        let (size, eps) = (TASK.div_ceil(weight.len()) * weight.len(), E::of(self.eps));
        Ok(fill_parts(x.len(), size, |start, out, _| {
            dispatch(NormRows { x: Some(&x[start..][..out.len()]), weight, bias, eps, out });
        }))
    }

    fn plan(&self, t: Type, inputs: &[&Shape]) -> Result<Plan> {
        let (rows, columns) = rows(inputs[0], inputs[1]);
        kernels::layer_norm(t, rows, columns, self.eps as f32).map_err(Error::wrap)
    }

    fn gradients(&self, inputs: &[&Tensor], _: &Tensor, grad: &Tensor) -> Result<Gradients> {
        let (x, weight, bias) = (inputs[0], inputs[1], inputs[2]);
        let all = apply_untracked(Gradient { eps: self.eps }, &[x, weight, grad])?;
        Ok(unpack(&all, [x.shape(), weight.shape(), bias.shape()])?.map(Some))
    }
}

/// Walks over a row vector by vector; the last may be short.
macro_rules! vectors {
    ($s:ident, $S:ty, $c:expr, |$at:ident, $lanes:ident| $body:expr) => {{
        let mut $at = 0;
        while $at + <$S>::LANES <= $c {
            let $lanes = <$S>::LANES;
            $body;
            $at += <$S>::LANES;
        }
        if $at < $c {
            let $lanes = $c - $at;
            $body;
        }
    }};
}

/// The mean of a row and 1/√(variance + eps).
#[inline(always)]
fn statistics<S: Simd>(s: S, x: &[S::E], eps: S::E) -> (S::E, S::E) {
    let n = S::E::of(x.len() as f64);
    let mut sum = s.splat(S::E::of(0.));
    vectors!(s, S, x.len(), |i, lanes| sum = s.add(sum, s.load_partial(&x[i..][..lanes])));
    let mean = s.sum(sum) / n;
    let mut squares = s.splat(S::E::of(0.));
    vectors!(s, S, x.len(), |i, lanes| {
        let d = s.sub(s.load_partial(&x[i..][..lanes]), s.splat(mean));
        let d = s.keep(d, lanes);
        squares = s.fma(d, d, squares);
    });
    let variance = s.sum(squares) / n;
    (mean, (variance + eps).sqrt().recip())
}

/// Normalises the rows of `x`, or without it those of `out` in place.
pub(crate) struct NormRows<'a, E> {
    pub(crate) x: Option<&'a [E]>,
    pub(crate) weight: &'a [E],
    pub(crate) bias: &'a [E],
    pub(crate) eps: E,
    pub(crate) out: &'a mut [E],
}

impl<E: Real> Kernel<E> for NormRows<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let Self { x, weight, bias, eps, out } = self;
        let c = weight.len();
        for (r, out) in out.chunks_exact_mut(c).enumerate() {
            let (mean, scale) = statistics(s, x.map_or(&*out, |x| &x[r * c..][..c]), eps);
            let (mean, scale) = (s.splat(mean), s.splat(scale));
            vectors!(s, S, c, |i, lanes| {
                let x = x.map_or(&*out, |x| &x[r * c..][..c]);
                let normal = s.mul(s.sub(s.load_partial(&x[i..][..lanes]), mean), scale);
                let w = s.load_partial(&weight[i..][..lanes]);
                let y = s.fma(normal, w, s.load_partial(&bias[i..][..lanes]));
                s.store_partial(y, &mut out[i..][..lanes]);
            });
        }
    }
}

/// The gradients of x, weight and bias, one after the other, from x, the weight and the result's
/// gradient: one pass over the rows gives all three.
struct Gradient {
    eps: f64,
}

impl Op for Gradient {
    fn name(&self) -> &'static str {
        "layer_norm gradient"
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        Ok((inputs[0].elem_count() + 2 * inputs[1].elem_count()).into())
    }

    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        let (x, weight, grad) = (inputs[0].data, inputs[1].data, inputs[2].data);
        let (rows, c) = rows(inputs[0].shape, inputs[1].shape);
        let size = rows_per_partial(rows, 2 * c) * c;
        let (mut out, partials) = in_parts(x.len(), size, 2 * c, |start, [dx], _| {
            let mut sums = vec![E::of(0.); 2 * c];
            let (dw, db) = sums.split_at_mut(c);
            let (x, grad) = (&x[start..][..dx.len()], &grad[start..][..dx.len()]);
            let eps = E::of(self.eps);
            dispatch(NormGradientRows { x, weight, grad, eps, add: false, dx, dw, db });
            sums
        });
        let mut partials = partials.concat();
        add_partials(&mut partials, 2 * c);
        out.extend_from_slice(&partials);
        Ok(out)
    }

    fn plan(&self, t: Type, inputs: &[&Shape]) -> Result<Plan> {
        let (rows, columns) = rows(inputs[0], inputs[1]);
        kernels::layer_norm_backward(t, rows, columns, self.eps as f32).map_err(Error::wrap)
    }
}

/// The gradients of some rows: sets those of x, or adds them to what is there with `add`, and adds
/// to those of weight and bias.
pub(crate) struct NormGradientRows<'a, E> {
    pub(crate) x: &'a [E],
    pub(crate) weight: &'a [E],
    pub(crate) grad: &'a [E],
    pub(crate) eps: E,
    pub(crate) add: bool,
    pub(crate) dx: &'a mut [E],
    pub(crate) dw: &'a mut [E],
    pub(crate) db: &'a mut [E],
}

impl<E: Real> Kernel<E> for NormGradientRows<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        let c = self.weight.len();
        let n = E::of(c as f64);
        let zero = s.splat(E::of(0.));
        let rows = self.x.chunks_exact(c).zip(self.grad.chunks_exact(c));
        for ((x, grad), dx) in rows.zip(self.dx.chunks_exact_mut(c)) {
            let (mean, scale) = statistics(s, x, self.eps);
            let (mean, scale) = (s.splat(mean), s.splat(scale));
            // With g = grad·weight and h the normalised row: dx = scale·(g − mean(g) − h·mean(g·h)).
            let (mut sum_g, mut sum_gh) = (zero, zero);
            vectors!(s, S, c, |i, lanes| {
                let h = s.mul(s.sub(s.load_partial(&x[i..][..lanes]), mean), scale);
                let dy = s.load_partial(&grad[i..][..lanes]);
                let g = s.mul(dy, s.load_partial(&self.weight[i..][..lanes]));
                sum_g = s.add(sum_g, g);
                sum_gh = s.fma(g, s.keep(h, lanes), sum_gh);
                let (dw, db) = (&mut self.dw[i..][..lanes], &mut self.db[i..][..lanes]);
                s.store_partial(s.fma(dy, h, s.load_partial(dw)), dw);
                s.store_partial(s.add(dy, s.load_partial(db)), db);
            });
            let (mean_g, mean_gh) = (s.splat(s.sum(sum_g) / n), s.splat(s.sum(sum_gh) / n));
            vectors!(s, S, c, |i, lanes| {
                let h = s.mul(s.sub(s.load_partial(&x[i..][..lanes]), mean), scale);
                let dy = s.load_partial(&grad[i..][..lanes]);
                let g = s.mul(dy, s.load_partial(&self.weight[i..][..lanes]));
                let d = s.sub(s.sub(g, mean_g), s.mul(h, mean_gh));
                let dx = &mut dx[i..][..lanes];
                let start = if self.add { s.load_partial(dx) } else { zero };
                s.store_partial(s.fma(d, scale, start), dx);
            });
        }
    }
}
