use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Shape, Tensor, WithDType};
use rayon::prelude::*;

use crate::shared::{check_odd, check_types, fill_parts, map_dims, shape_error};
use crate::simd::{Kernel, Real, Simd, dispatch};
use crate::{Result, cpu};

/// The mean of every k×k window; stride 1, zero padding k/2. The divisor is k² at the border too
/// (PyTorch's `count_include_pad`).
///
/// # Shapes
/// - `x`: B×H×W×C
/// - returns B×H×W×C
///
/// # Errors
/// If `x` has not four axes, k is even, or the elements are not `F32` or `F64`.
pub fn avg_pool2d(x: &Tensor, k: usize) -> Result<Tensor> {
    check_types("avg_pool2d", x, &[])?;
    map_dims("avg_pool2d", x)?;
    check_odd("avg_pool2d", k)?;
    if x.elem_count() == 0 || k == 1 {
        return Ok(x.clone());
    }
    Ok(x.contiguous()?.apply_op1(AvgPool { k })?)
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
/// If `x` has not four axes, k is even, a map has 2³² pixels or more, or the elements are not
/// `F32` or `F64`.
pub fn max_pool2d(x: &Tensor, k: usize) -> Result<Tensor> {
    const OP: &str = "max_pool2d";
    check_types(OP, x, &[])?;
    let (_, h, w, _) = map_dims(OP, x)?;
    check_odd(OP, k)?;
    if x.elem_count() == 0 || k == 1 {
        return Ok(x.clone());
    }
    if u32::try_from(h * w).is_err() {
        return Err(shape_error(OP, "x", x.dims(), "fewer than 2^32 pixels"));
    }
    Ok(x.contiguous()?.apply_op1(MaxPool { k })?)
}

#[derive(Clone, Copy)]
struct Dims {
    height: usize,
    width: usize,
    channels: usize,
    k: usize,
}

impl Dims {
    fn of(l: &Layout, k: usize) -> candle_core::Result<Self> {
        let (_, height, width, channels) = l.shape().dims4()?;
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

    /// Places along an axis of size `n` that the window at `i` covers.
    #[inline(always)]
    fn span(self, i: usize, n: usize) -> std::ops::Range<usize> {
        i.saturating_sub(self.k / 2)..i.saturating_add(self.k / 2).saturating_add(1).min(n)
    }
}

/// One step of a pool, on whole slices so that the compiler can use vectors.
trait Reduce: Copy + Send + Sync {
    /// `acc = acc ∘ v`.
    fn step<E: Real>(acc: E, v: E) -> E;
    /// The result of a window of k×k.
    fn finish<E: Real>(acc: E, k: usize) -> E;
}

#[derive(Clone, Copy)]
struct Mean;

impl Reduce for Mean {
    #[inline(always)]
    fn step<E: Real>(acc: E, v: E) -> E {
        acc + v
    }
    #[inline(always)]
    fn finish<E: Real>(acc: E, k: usize) -> E {
        acc / E::of(k as f64 * k as f64)
    }
}

#[derive(Clone, Copy)]
struct Max;

impl Reduce for Max {
    #[inline(always)]
    fn step<E: Real>(acc: E, v: E) -> E {
        // Bitwise or: the compiler makes no vectors of a short-circuit.
        if (v > acc) | v.is_nan() { v } else { acc }
    }
    #[inline(always)]
    fn finish<E: Real>(acc: E, _: usize) -> E {
        acc
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
    reduce: std::marker::PhantomData<R>,
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

fn pool<E: Real, R: Reduce>(
    x: &CpuStorage,
    l: &Layout,
    k: usize,
    _: R,
) -> candle_core::Result<(CpuStorage, Shape)> {
    let x = cpu::slice::<E>(x, l)?;
    let d = Dims::of(l, k)?;
    let out = fill_parts(x.len(), d.line(), |start, out, scratch| {
        scratch.resize(d.line(), E::of(0.));
        let (image, y) = d.image(x, start / d.line());
        let reduce = std::marker::PhantomData::<R>;
        dispatch(PoolLine { image, y, d, scratch, out, reduce });
    });
    Ok((E::to_cpu_storage_owned(out), l.shape().clone()))
}

struct AvgPool {
    k: usize,
}

impl CustomOp1 for AvgPool {
    fn name(&self) -> &'static str {
        "avg_pool2d"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        for_float!("avg_pool2d", x, E => pool::<E, _>(x, l, self.k, Mean))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        l: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        crate::cuda::avg_pool(self.k, (x, l))
    }

    /// With stride 1 and zero padding the mean is its own adjoint.
    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(self)?))
    }
}

struct MaxPool {
    k: usize,
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max_pool2d"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        for_float!("max_pool2d", x, E => pool::<E, _>(x, l, self.k, Max))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        l: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        crate::cuda::max_pool(self.k, (x, l))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        Ok(Some(x.apply_op2_no_bwd(&grad.contiguous()?, &MaxPoolGradient { k: self.k })?))
    }
}

/// Finds where each window's maximum lies, then lets every pixel collect from the windows whose
/// maximum it is: no two tasks write to one place.
struct MaxPoolGradient {
    k: usize,
}

impl MaxPoolGradient {
    fn run<E: Real>(x: &[E], grad: &[E], d: Dims) -> Vec<E> {
        let mut places = cpu::zeros::<u32>(x.len());
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

impl CustomOp2 for MaxPoolGradient {
    fn name(&self) -> &'static str {
        "max_pool2d gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        g: &CpuStorage,
        lg: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        for_float!("max_pool2d", x, E => {
            let d = Dims::of(lx, self.k)?;
            let out = Self::run(cpu::slice::<E>(x, lx)?, cpu::slice::<E>(g, lg)?, d);
            Ok((E::to_cpu_storage_owned(out), lx.shape().clone()))
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        lx: &Layout,
        y: &candle_core::CudaStorage,
        ly: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        crate::cuda::max_pool_gradient(self.k, [(x, lx), (y, ly)])
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
