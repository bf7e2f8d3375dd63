use std::marker::PhantomData;
use std::ops::Range;

use candle_core::{Error, Result, Shape, Tensor};
use isfm_kernels::{Limit, Map, Plan, Type, window as kernels};
use rayon::prelude::*;

use crate::check;
use crate::memory::zeros;
use crate::op::{Gradients, Input, Op, apply, apply_untracked};
use crate::parallel::fill_parts;
use crate::simd::{Kernel, Real, Simd, dispatch};

/// The mean of every k×k window; stride 1, zero padding k/2. The divisor is k² at the border too
/// (PyTorch's `count_include_pad`).
///
/// # Shapes
/// - `x`: B×H×W×C
/// - returns B×H×W×C
///
/// # Errors
/// If `x` has not four axes, k is even, or the elements are not `F32` or `F64` (on CUDA `F32`,
/// `F16` or `BF16`).
pub fn avg_pool2d(x: &Tensor, k: usize) -> Result<Tensor> {
    check::types("avg_pool2d", x, &[])?;
    check::map("avg_pool2d", x)?;
    check::odd("avg_pool2d", k)?;
    if x.elem_count() == 0 || k == 1 {
        return Ok(x.clone());
    }
    apply(Pool::<Mean>::new(k), &[x])
}

/// The largest value of every k×k window; stride 1, padding k/2 with −∞. NaN counts as the
/// largest. The gradient goes to the first largest value of the window, line by line (where there
/// are NaNs, to the last of them), as in PyTorch.
///
/// # Shapes
/// - `x`: B×H×W×C
/// - returns B×H×W×C
///
/// # Errors
/// If `x` has not four axes, k is even, a map has 2³² pixels or more, or the elements are not `F32`
/// or `F64` (on CUDA `F32`, `F16` or `BF16`).
pub fn max_pool2d(x: &Tensor, k: usize) -> Result<Tensor> {
    const OP: &str = "max_pool2d";
    check::types(OP, x, &[])?;
    let (_, h, w, _) = check::map(OP, x)?;
    check::odd(OP, k)?;
    if x.elem_count() == 0 || k == 1 {
        return Ok(x.clone());
    }
    if u32::try_from(h * w).is_err() {
        return Err(check::shape_error(OP, "x", x.dims(), "fewer than 2^32 pixels"));
    }
    apply(Pool::<Max>::new(k), &[x])
}

#[derive(Clone, Copy)]
struct Dims {
    height: usize,
    width: usize,
    channels: usize,
    k: usize,
}

impl Dims {
    fn of(shape: &Shape, k: usize) -> Result<Self> {
        let (_, height, width, channels) = shape.dims4()?;
        Ok(Self { height, width, channels, k })
    }

    fn line(self) -> usize {
        self.width * self.channels
    }

    /// The image that line `row` of the batch lies in, and the line's number there.
    fn image<E>(self, x: &[E], row: usize) -> (&[E], usize) {
        let size = self.height * self.line();
        (&x[row / self.height * size..][..size], row % self.height)
    }

    /// Positions along an axis of size `n` that the window at `i` covers.
    #[inline(always)]
    fn span(self, i: usize, n: usize) -> Range<usize> {
        i.saturating_sub(self.k / 2)..i.saturating_add(self.k / 2).saturating_add(1).min(n)
    }
}

/// One step of a pool, on whole slices so that the compiler can use vectors.
trait Reduce: Copy + Send + Sync + 'static {
    const NAME: &'static str;

    /// `acc = acc ∘ v`.
    fn step<E: Real>(acc: E, v: E) -> E;
    /// The result of a window of k×k.
    fn finish<E: Real>(acc: E, k: usize) -> E;
    fn plan(t: Type, map: Map, k: usize) -> std::result::Result<Plan, Limit>;
    /// The input's gradient, from the input and the result's gradient.
    fn gradient(pool: Pool<Self>, x: &Tensor, grad: &Tensor) -> Result<Tensor>;
}

#[derive(Clone, Copy)]
struct Mean;

impl Reduce for Mean {
    const NAME: &'static str = "avg_pool2d";

    #[inline(always)]
    fn step<E: Real>(acc: E, v: E) -> E {
        acc + v
    }
    #[inline(always)]
    fn finish<E: Real>(acc: E, k: usize) -> E {
        acc / E::of(k as f64 * k as f64)
    }
    fn plan(t: Type, map: Map, k: usize) -> std::result::Result<Plan, Limit> {
        kernels::avg_pool(t, map, k)
    }
    /// With stride 1 and zero padding the mean is its own adjoint.
    fn gradient(pool: Pool<Self>, _: &Tensor, grad: &Tensor) -> Result<Tensor> {
        apply_untracked(pool, &[grad])
    }
}

#[derive(Clone, Copy)]
struct Max;

impl Reduce for Max {
    const NAME: &'static str = "max_pool2d";

    #[inline(always)]
    fn step<E: Real>(acc: E, v: E) -> E {
        // Bitwise or: the compiler makes no vectors of a short-circuit.
        if (v > acc) | v.is_nan() { v } else { acc }
    }
    #[inline(always)]
    fn finish<E: Real>(acc: E, _: usize) -> E {
        acc
    }
    fn plan(t: Type, map: Map, k: usize) -> std::result::Result<Plan, Limit> {
        kernels::max_pool(t, map, k)
    }
    fn gradient(pool: Pool<Self>, x: &Tensor, grad: &Tensor) -> Result<Tensor> {
        apply_untracked(MaxPoolGradient { k: pool.k }, &[x, grad])
    }
}

#[derive(Clone, Copy)]
struct Pool<R> {
    k: usize,
    reduce: PhantomData<R>,
}

impl<R> Pool<R> {
    fn new(k: usize) -> Self {
        Self { k, reduce: PhantomData }
    }
}

impl<R: Reduce> Op for Pool<R> {
    fn name(&self) -> &'static str {
        R::NAME
    }

    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        let (x, d) = (inputs[0].data, Dims::of(inputs[0].shape, self.k)?);
        Ok(fill_parts(x.len(), d.line(), |start, out, scratch| {
            scratch.resize(d.line(), E::of(0.));
            let (image, y) = d.image(x, start / d.line());
            dispatch(PoolLine { image, y, d, scratch, out, reduce: self.reduce });
        }))
    }

    fn plan(&self, t: Type, inputs: &[&Shape]) -> Result<Plan> {
        R::plan(t, super::kernel_map(inputs[0])?, self.k).map_err(Error::wrap)
    }

    fn gradients(&self, inputs: &[&Tensor], _: &Tensor, grad: &Tensor) -> Result<Gradients> {
        Ok([Some(R::gradient(*self, inputs[0], grad)?), None, None])
    }
}

/// One line of a pool: the window's lines first, then its columns.
struct PoolLine<'a, E, R> {
    image: &'a [E],
    y: usize,
    d: Dims,
    /// As large as a line.
    scratch: &'a mut [E],
    out: &'a mut [E],
    reduce: PhantomData<R>,
}

impl<E: Real, R: Reduce> Kernel<E> for PoolLine<'_, E, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, _: S) {
        let (d, c) = (self.d, self.d.channels);
        let lines = d.span(self.y, d.height);
        let line = |y: usize| &self.image[y * d.line()..][..d.line()];
        match lines.len() {
            3 => {
                let (a, b, c) = (line(lines.start), line(lines.start + 1), line(lines.start + 2));
                for (((acc, &a), &b), &c) in self.scratch.iter_mut().zip(a).zip(b).zip(c) {
                    *acc = R::step(R::step(a, b), c);
                }
            }
            _ => {
                self.scratch.copy_from_slice(line(lines.start));
                for y in lines.start + 1..lines.end {
                    for (acc, &v) in self.scratch.iter_mut().zip(line(y)) {
                        *acc = R::step(*acc, v);
                    }
                }
            }
        }
        // Inside, a window of three columns is the line and itself, moved by a pixel each way.
        let inside = if d.k == 3 && d.width > 2 { 1..d.width - 1 } else { 0..0 };
        if !inside.is_empty() {
            let n = inside.len() * c;
            let (left, centre, right) =
                (&*self.scratch, &self.scratch[c..], &self.scratch[2 * c..]);
            let out = &mut self.out[c..][..n];
            for (((out, &a), &b), &c) in out.iter_mut().zip(left).zip(centre).zip(right) {
                *out = R::finish(R::step(R::step(a, b), c), 3);
            }
        }
        for x in (0..d.width).filter(|x| !inside.contains(x)) {
            let out = &mut self.out[x * c..][..c];
            let columns = d.span(x, d.width);
            out.copy_from_slice(&self.scratch[columns.start * c..][..c]);
            for column in columns.start + 1..columns.end {
                for (acc, &v) in out.iter_mut().zip(&self.scratch[column * c..][..c]) {
                    *acc = R::step(*acc, v);
                }
            }
            for v in out {
                *v = R::finish(*v, d.k);
            }
        }
    }
}

/// Finds the position of each window's maximum, then sums for every pixel the gradients of the
/// windows whose maximum it is, so that no two tasks write to the same element.
struct MaxPoolGradient {
    k: usize,
}

impl MaxPoolGradient {
    fn run<E: Real>(x: &[E], grad: &[E], d: Dims) -> Vec<E> {
        let mut places = zeros::<u32>(x.len());
        places.par_chunks_mut(d.line()).enumerate().for_each_init(
            || vec![E::of(0.); d.channels],
            |best, (row, places)| {
                let (image, y) = d.image(x, row);
                dispatch(MaxPlaces { image, y, d, best, places });
            },
        );
        fill_parts(x.len(), d.line(), |start, out, _| {
            let (grad, y) = d.image(grad, start / d.line());
            let (places, _) = d.image(&places, start / d.line());
            dispatch(Collect { grad, places, y, d, out });
        })
    }
}

impl Op for MaxPoolGradient {
    fn name(&self) -> &'static str {
        "max_pool2d gradient"
    }

    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        let d = Dims::of(inputs[0].shape, self.k)?;
        Ok(Self::run(inputs[0].data, inputs[1].data, d))
    }

    fn plan(&self, t: Type, inputs: &[&Shape]) -> Result<Plan> {
        let map = super::kernel_map(inputs[0])?;
        kernels::max_pool_backward(t, map, self.k).map_err(Error::wrap)
    }
}

/// For one line of windows, the pixel (y·W + x) that holds each channel's maximum.
struct MaxPlaces<'a, E> {
    image: &'a [E],
    y: usize,
    d: Dims,
    best: &'a mut [E],
    places: &'a mut [u32],
}

impl<E: Real> Kernel<E> for MaxPlaces<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, _: S) {
        let (d, c) = (self.d, self.d.channels);
        let lines = d.span(self.y, d.height);
        for (x, places) in self.places.chunks_exact_mut(c).enumerate() {
            let columns = d.span(x, d.width);
            places.fill((lines.start * d.width + columns.start) as u32);
            self.best.fill(E::neg_infinity());
            for y in lines.clone() {
                for x in columns.clone() {
                    let at = y * d.width + x;
                    let values = &self.image[at * c..][..c];
                    for ((best, place), &v) in self.best.iter_mut().zip(&mut *places).zip(values) {
                        let take = (v > *best) | v.is_nan();
                        *best = if take { v } else { *best };
                        *place = if take { at as u32 } else { *place };
                    }
                }
            }
        }
    }
}

/// One line of the input's gradient.
struct Collect<'a, E> {
    grad: &'a [E],
    places: &'a [u32],
    y: usize,
    d: Dims,
    out: &'a mut [E],
}

impl<E: Real> Kernel<E> for Collect<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, _: S) {
        let (d, c) = (self.d, self.d.channels);
        for (x, out) in self.out.chunks_exact_mut(c).enumerate() {
            let here = (self.y * d.width + x) as u32;
            // The windows that cover a pixel lie where the window at that pixel lies.
            for wy in d.span(self.y, d.height) {
                for wx in d.span(x, d.width) {
                    let at = (wy * d.width + wx) * c;
                    let windows = self.places[at..][..c].iter().zip(&self.grad[at..][..c]);
                    for (out, (&place, &grad)) in out.iter_mut().zip(windows) {
                        *out += if place == here { grad } else { E::of(0.) };
                    }
                }
            }
        }
    }
}
