//! Element-wise operations: sums of maps, and products with a factor for each channel.

use candle_core::{Error, Result, Shape, Tensor};
use isfm_kernels::{Plan, Type, pointwise as kernels, sums};

use crate::check;
use crate::op::{Gradients, Input, Op, apply, apply_untracked};
use crate::parallel::{by_image, fill_parts, in_parts, sum_rows};
use crate::simd::{Kernel, Real, Simd, dispatch};

/// α·x + β·y, element by element: sums, differences and averages of maps.
///
/// Unlike Candle's `+`, which uses a thread pool of its own, it runs in rayon's current pool.
///
/// # Shapes
/// - `x`, `y`: the same, any
/// - returns the same
///
/// # Errors
/// If the shapes or the element types differ, or the elements are not `F32` or `F64` (on CUDA
/// `F32`, `F16` or `BF16`).
pub fn weighted_sum(x: &Tensor, alpha: f64, y: &Tensor, beta: f64) -> Result<Tensor> {
    const OP: &str = "weighted_sum";
    check::types(OP, x, &[("y", y)])?;
    check::dims(OP, "y", y, x.dims())?;
    if x.elem_count() == 0 {
        return Ok(x.clone());
    }
    apply(WeightedSum { alpha, beta }, &[x, y])
}

#[derive(Clone, Copy)]
struct WeightedSum {
    alpha: f64,
    beta: f64,
}

impl Pointwise<2, 1> for WeightedSum {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [x, y]: [S::V; 2]) -> [S::V; 1] {
        let (alpha, beta) = (s.splat(S::E::of(self.alpha)), s.splat(S::E::of(self.beta)));
        [s.fma(alpha, x, s.mul(beta, y))]
    }
}

impl Op for WeightedSum {
    fn name(&self) -> &'static str {
        "weighted_sum"
    }

    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        Ok(pointwise(*self, [inputs[0].data, inputs[1].data]))
    }

    fn plan(&self, t: Type, inputs: &[&Shape]) -> Result<Plan> {
        let (alpha, beta) = (self.alpha as f32, self.beta as f32);
        kernels::weighted_sum(t, alpha, beta, inputs[0].elem_count()).map_err(Error::wrap)
    }

    fn gradients(&self, _: &[&Tensor], _: &Tensor, grad: &Tensor) -> Result<Gradients> {
        let scaled = |by: f64| if by == 1. { Ok(grad.clone()) } else { grad.affine(by, 0.) };
        Ok([Some(scaled(self.alpha)?), Some(scaled(self.beta)?), None])
    }
}

/// scale ⊙ x + y, with one factor for each channel, of all images (a residual connection with a
/// learned skip) or of each image (a modulation).
///
/// # Shapes
/// - `x`, `y`: the same, …×C, or B×…×C if the scale is B×C
/// - `scale`: C or B×C
/// - returns the shape of `x`
///
/// # Errors
/// If a shape does not fit, or the element types differ or are not `F32` or `F64` (on CUDA `F32`,
/// `F16` or `BF16`).
pub fn scale_add(x: &Tensor, scale: &Tensor, y: &Tensor) -> Result<Tensor> {
    const OP: &str = "scale_add";
    check::types(OP, x, &[("scale", scale), ("y", y)])?;
    let (_, c) = check::rows(OP, x)?;
    match *x.dims() {
        [batch, _, ..] if scale.rank() == 2 => check::dims(OP, "scale", scale, &[batch, c])?,
        _ => check::dims(OP, "scale", scale, &[c])?,
    }
    check::dims(OP, "y", y, x.dims())?;
    if x.elem_count() == 0 {
        return Ok(x.clone());
    }
    apply(ScaleAdd, &[x, scale, y])
}

/// scale ⊙ x, plus y where it is given.
struct ScaleAdd;

impl Op for ScaleAdd {
    fn name(&self) -> &'static str {
        "scale_add"
    }

    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        let (x, scale, y) = (inputs[0].data, inputs[1], inputs.get(2).map(|y| y.data));
        let (images, c) = images_and_channels(scale.shape);
        let image = x.len() / images;
        Ok(fill_parts(x.len(), TASK.div_ceil(c) * c, |start, part, _| {
            by_image(start, part, image, |b, at, out| {
                let from = b * image + at;
                let x = &x[from..][..out.len()];
                let y = y.map_or(Addend::None, |y| Addend::Rows(&y[from..][..out.len()]));
                dispatch(ScaleAddRows { x, scale: &scale.data[b * c..][..c], y, out });
            });
        }))
    }

    fn plan(&self, t: Type, inputs: &[&Shape]) -> Result<Plan> {
        let (images, channels) = images_and_channels(inputs[1]);
        let rows = inputs[0].elem_count() / (images * channels).max(1);
        let (each_image, add) = (inputs[1].rank() == 2, inputs.len() > 2);
        kernels::scale_add(t, [images, rows, channels], each_image, add).map_err(Error::wrap)
    }

    fn gradients(&self, inputs: &[&Tensor], _: &Tensor, grad: &Tensor) -> Result<Gradients> {
        let (x, scale) = (inputs[0], inputs[1]);
        let dx = apply_untracked(ScaleAdd, &[grad, scale])?;
        let (images, _) = images_and_channels(scale.shape());
        let dscale = apply_untracked(SumOfProducts { images }, &[x, grad])?;
        Ok([Some(dx), Some(dscale.reshape(scale.shape())?), Some(grad.clone())])
    }
}

fn channels(shape: &Shape) -> usize {
    shape.dims().last().copied().unwrap_or(1)
}

/// How many images have factors of their own, and the channels, of a scale C or B×C.
fn images_and_channels(scale: &Shape) -> (usize, usize) {
    let channels = channels(scale);
    (scale.elem_count() / channels.max(1), channels)
}

/// Σ over the rows of each image of a ⊙ b.
struct SumOfProducts {
    images: usize,
}

impl Op for SumOfProducts {
    fn name(&self) -> &'static str {
        "scale_add scale gradient"
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        Ok((self.images * channels(inputs[0])).into())
    }

    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        let (a, b, c) = (inputs[0].data, inputs[1].data, channels(inputs[0].shape));
        let image = a.len() / self.images;
        let images = a.chunks_exact(image).zip(b.chunks_exact(image)).flat_map(|(a, b)| {
            sum_rows(image / c, c, |rows, sums| {
                let rows = rows.start * c..rows.end * c;
                dispatch(ProductRows { a: &a[rows.clone()], b: &b[rows], sums });
            })
        });
        Ok(images.collect())
    }

    fn plan(&self, t: Type, inputs: &[&Shape]) -> Result<Plan> {
        let columns = channels(inputs[0]);
        let rows = inputs[0].elem_count() / (self.images * columns).max(1);
        sums::product_sums(t, [self.images, rows, columns]).map_err(Error::wrap)
    }
}

/// `sums += a ⊙ b`, row by row.
pub(crate) struct ProductRows<'a, E> {
    pub(crate) a: &'a [E],
    pub(crate) b: &'a [E],
    pub(crate) sums: &'a mut [E],
}

impl<E: Real> Kernel<E> for ProductRows<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, _: S) {
        let c = self.sums.len();
        for (a, b) in self.a.chunks_exact(c).zip(self.b.chunks_exact(c)) {
            for ((sum, &a), &b) in self.sums.iter_mut().zip(a).zip(b) {
                *sum += a * b;
            }
        }
    }
}

/// `out = scale ⊙ x`, plus `y` where it is given, which may be what is in `out` already.
pub(crate) struct ScaleAddRows<'a, E> {
    pub(crate) x: &'a [E],
    pub(crate) scale: &'a [E],
    pub(crate) y: Addend<'a, E>,
    pub(crate) out: &'a mut [E],
}

#[derive(Clone, Copy)]
pub(crate) enum Addend<'a, E> {
    None,
    Out,
    Rows(&'a [E]),
}

impl<E: Real> Kernel<E> for ScaleAddRows<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, _: S) {
        let c = self.scale.len();
        // Bound by memory: the compiler's own vectors are fast enough.
        for (r, (out, x)) in self.out.chunks_exact_mut(c).zip(self.x.chunks_exact(c)).enumerate() {
            let rows = out.iter_mut().zip(x).zip(self.scale);
            match self.y {
                Addend::None => rows.for_each(|((out, &x), &scale)| *out = x * scale),
                Addend::Out => rows.for_each(|((out, &x), &scale)| *out += x * scale),
                Addend::Rows(y) => {
                    let rows = rows.zip(&y[r * c..][..c]);
                    rows.for_each(|(((out, &x), &scale), &y)| *out = x * scale + y);
                }
            }
        }
    }
}

/// A function from `IN` values at one position to `OUT` values there.
pub(super) trait Pointwise<const IN: usize, const OUT: usize>: Copy + Send + Sync {
    fn apply<S: Simd>(self, s: S, v: [S::V; IN]) -> [S::V; OUT];
}

struct Chunk<'a, E, P, const IN: usize, const OUT: usize> {
    f: P,
    inputs: [&'a [E]; IN],
    outputs: [&'a mut [E]; OUT],
}

impl<E, P, const IN: usize, const OUT: usize> Kernel<E> for Chunk<'_, E, P, IN, OUT>
where
    E: Real,
    P: Pointwise<IN, OUT>,
{
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(mut self, s: S) {
        let n = self.inputs[0].len();
        for at in (0..n).step_by(S::LANES) {
            let lanes = S::LANES.min(n - at);
            // A loop: closures are not always compiled with the kernel's instructions.
            let mut v = [s.splat(E::of(0.)); IN];
            for (v, x) in v.iter_mut().zip(self.inputs) {
                *v = s.load_partial(&x[at..][..lanes]);
            }
            for (out, v) in self.outputs.iter_mut().zip(self.f.apply(s, v)) {
                s.store_partial(v, &mut out[at..][..lanes]);
            }
        }
    }
}

/// Elements of one task: few enough that its results, once zeroed, stay in the nearest cache.
pub(super) const TASK: usize = 4096;

/// `f` at every position; the `OUT` results one after the other.
pub(super) fn pointwise<E: Real, P: Pointwise<IN, OUT>, const IN: usize, const OUT: usize>(
    f: P,
    inputs: [&[E]; IN],
) -> Vec<E> {
    let n = inputs[0].len();
    let work = |at: usize, outputs: [&mut [E]; OUT], _: &mut Vec<E>| {
        let inputs = inputs.map(|x| &x[at..(at + TASK).min(n)]);
        dispatch(Chunk { f, inputs, outputs });
    };
    in_parts(n, TASK, 0, work).0
}
