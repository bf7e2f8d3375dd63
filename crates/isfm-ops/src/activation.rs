use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Shape, Tensor, WithDType};

use crate::shared::{by_image, check_dims, check_types, fill_parts, in_parts, rows_of, sum_rows};
use crate::simd::{Kernel, Real, Simd, dispatch};
use crate::{Result, cpu};

/// x·sigmoid(x), element by element.
///
/// # Shapes
/// - `x`: any
/// - returns the same
///
/// # Errors
/// If the elements are not `F32` or `F64`.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    check_types("silu", x, &[])?;
    if x.elem_count() == 0 {
        return Ok(x.clone());
    }
    Ok(x.contiguous()?.apply_op1(Silu)?)
}

/// x ⊙ SiLU(z): a value gated by another.
///
/// # Shapes
/// - `x`, `z`: the same, any
/// - returns the same
///
/// # Errors
/// If the shapes or element types differ, or the elements are not `F32` or `F64`.
pub fn silu_gate(x: &Tensor, z: &Tensor) -> Result<Tensor> {
    gate("silu_gate", x, z, Gate::Silu)
}

/// x ⊙ sigmoid(z).
///
/// # Shapes
/// - `x`, `z`: the same, any
/// - returns the same
///
/// # Errors
/// If the shapes or element types differ, or the elements are not `F32` or `F64`.
pub fn sigmoid_gate(x: &Tensor, z: &Tensor) -> Result<Tensor> {
    gate("sigmoid_gate", x, z, Gate::Sigmoid)
}

fn gate(op: &'static str, x: &Tensor, z: &Tensor, gate: Gate) -> Result<Tensor> {
    check_types(op, x, &[("z", z)])?;
    check_dims(op, "z", z, x.dims())?;
    if x.elem_count() == 0 {
        return Ok(x.clone());
    }
    Ok(x.contiguous()?.apply_op2(&z.contiguous()?, gate)?)
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
/// If a shape does not fit, or the element types differ or are not `F32` or `F64`.
pub fn scale_add(x: &Tensor, scale: &Tensor, y: &Tensor) -> Result<Tensor> {
    const OP: &str = "scale_add";
    check_types(OP, x, &[("scale", scale), ("y", y)])?;
    let (_, c) = rows_of(OP, x)?;
    match *x.dims() {
        [batch, _, ..] if scale.rank() == 2 => check_dims(OP, "scale", scale, &[batch, c])?,
        _ => check_dims(OP, "scale", scale, &[c])?,
    }
    check_dims(OP, "y", y, x.dims())?;
    if x.elem_count() == 0 {
        return Ok(x.clone());
    }
    Ok(x.contiguous()?.apply_op3(&scale.contiguous()?, &y.contiguous()?, ScaleAdd)?)
}

/// α·x + β·y, element by element: sums, differences and averages of maps.
///
/// Candle's own `+` waits for threads of a pool of its own, not rayon's.
///
/// # Shapes
/// - `x`, `y`: the same, any
/// - returns the same
///
/// # Errors
/// If the shapes or the element types differ, or the elements are not `F32` or `F64`.
pub fn weighted_sum(x: &Tensor, alpha: f64, y: &Tensor, beta: f64) -> Result<Tensor> {
    const OP: &str = "weighted_sum";
    check_types(OP, x, &[("y", y)])?;
    check_dims(OP, "y", y, x.dims())?;
    if x.elem_count() == 0 {
        return Ok(x.clone());
    }
    Ok(x.contiguous()?.apply_op2(&y.contiguous()?, WeightedSum { alpha, beta })?)
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

impl CustomOp2 for WeightedSum {
    fn name(&self) -> &'static str {
        "weighted_sum"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        y: &CpuStorage,
        ly: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        for_float!("weighted_sum", x, E => {
            let out = pointwise(*self, [cpu::slice::<E>(x, lx)?, cpu::slice::<E>(y, ly)?]);
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
        crate::cuda::weighted_sum(self.alpha, self.beta, [(x, lx), (y, ly)])
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let scaled = |by: f64| if by == 1. { Ok(grad.clone()) } else { grad.affine(by, 0.) };
        Ok((Some(scaled(self.alpha)?), Some(scaled(self.beta)?)))
    }
}

/// `OUT` values from `IN` values of the same place.
trait Pointwise<const IN: usize, const OUT: usize>: Copy + Send + Sync {
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

/// Elements that one task works on: its results stay in the nearest cache from the zeros on.
const TASK: usize = 4096;

/// `f` at every place; the results one after the other.
fn pointwise<E: Real, P: Pointwise<IN, OUT>, const IN: usize, const OUT: usize>(
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

/// SiLU where the values stand.
pub(crate) struct SiluRows<'a, E>(pub(crate) &'a mut [E]);

impl<E: Real> Kernel<E> for SiluRows<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        for x in self.0.chunks_mut(S::LANES) {
            let [y] = SiluValue.apply(s, [s.load_partial(x)]);
            s.store_partial(y, x);
        }
    }
}

/// `x ⊙= SiLU(z)`.
pub(crate) struct GateRows<'a, E> {
    pub(crate) x: &'a mut [E],
    pub(crate) z: &'a [E],
}

impl<E: Real> Kernel<E> for GateRows<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, s: S) {
        for (x, z) in self.x.chunks_mut(S::LANES).zip(self.z.chunks(S::LANES)) {
            let [y] = Gate::Silu.apply(s, [s.load_partial(x), s.load_partial(z)]);
            s.store_partial(y, x);
        }
    }
}

/// SiLU's value and its derivative, sigmoid(x)·(1 + x·(1 − sigmoid(x))).
#[inline(always)]
fn silu_and_slope<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
    let one = s.splat(S::E::of(1.));
    let sigmoid = s.sigmoid(x);
    let value = s.mul(x, sigmoid);
    (value, s.mul(sigmoid, s.fma(x, s.sub(one, sigmoid), one)))
}

struct Silu;

#[derive(Clone, Copy)]
struct SiluValue;

impl Pointwise<1, 1> for SiluValue {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [x]: [S::V; 1]) -> [S::V; 1] {
        [s.mul(x, s.sigmoid(x))]
    }
}

impl CustomOp1 for Silu {
    fn name(&self) -> &'static str {
        "silu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        for_float!("silu", x, E => {
            let out = pointwise(SiluValue, [cpu::slice::<E>(x, l)?]);
            Ok((E::to_cpu_storage_owned(out), l.shape().clone()))
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        l: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        crate::cuda::silu((x, l))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        Ok(Some(x.apply_op2_no_bwd(&grad.contiguous()?, &SiluGradient)?))
    }
}

#[derive(Clone, Copy)]
struct SiluGradient;

impl Pointwise<2, 1> for SiluGradient {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [x, grad]: [S::V; 2]) -> [S::V; 1] {
        [s.mul(grad, silu_and_slope(s, x).1)]
    }
}

impl CustomOp2 for SiluGradient {
    fn name(&self) -> &'static str {
        "silu gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        g: &CpuStorage,
        lg: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        for_float!("silu", x, E => {
            let out = pointwise(*self, [cpu::slice::<E>(x, lx)?, cpu::slice::<E>(g, lg)?]);
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
        crate::cuda::silu_gradient([(x, lx), (y, ly)])
    }
}

#[derive(Clone, Copy)]
enum Gate {
    Silu,
    Sigmoid,
}

impl Gate {
    #[cfg(feature = "cuda")]
    fn on_cuda(self) -> isfm_kernels::pointwise::Gate {
        match self {
            Self::Silu => isfm_kernels::pointwise::Gate::Silu,
            Self::Sigmoid => isfm_kernels::pointwise::Gate::Sigmoid,
        }
    }

    /// The gate's factor and its derivative.
    #[inline(always)]
    fn value_and_slope<S: Simd>(self, s: S, z: S::V) -> (S::V, S::V) {
        match self {
            Self::Silu => silu_and_slope(s, z),
            Self::Sigmoid => {
                let sigmoid = s.sigmoid(z);
                (sigmoid, s.mul(sigmoid, s.sub(s.splat(S::E::of(1.)), sigmoid)))
            }
        }
    }
}

impl Pointwise<2, 1> for Gate {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [x, z]: [S::V; 2]) -> [S::V; 1] {
        [s.mul(x, self.value_and_slope(s, z).0)]
    }
}

impl CustomOp2 for Gate {
    fn name(&self) -> &'static str {
        match self {
            Self::Silu => "silu_gate",
            Self::Sigmoid => "sigmoid_gate",
        }
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        z: &CpuStorage,
        lz: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        for_float!(self.name(), x, E => {
            let out = pointwise(*self, [cpu::slice::<E>(x, lx)?, cpu::slice::<E>(z, lz)?]);
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
        crate::cuda::gate(self.on_cuda(), [(x, lx), (y, ly)])
    }

    fn bwd(
        &self,
        x: &Tensor,
        z: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let both = x.apply_op3_no_bwd(z, &grad.contiguous()?, &GateGradient(*self))?;
        Ok((Some(both.get(0)?), Some(both.get(1)?)))
    }
}

/// The gradients of x and z, stacked.
#[derive(Clone, Copy)]
struct GateGradient(Gate);

impl Pointwise<3, 2> for GateGradient {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [x, z, grad]: [S::V; 3]) -> [S::V; 2] {
        let (value, slope) = self.0.value_and_slope(s, z);
        [s.mul(grad, value), s.mul(s.mul(grad, x), slope)]
    }
}

impl CustomOp3 for GateGradient {
    fn name(&self) -> &'static str {
        "gate gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        z: &CpuStorage,
        lz: &Layout,
        g: &CpuStorage,
        lg: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        for_float!("gate", x, E => {
            let inputs =
                [cpu::slice::<E>(x, lx)?, cpu::slice::<E>(z, lz)?, cpu::slice::<E>(g, lg)?];
            let dims = [&[2], lx.dims()].concat();
            Ok((E::to_cpu_storage_owned(pointwise(*self, inputs)), dims.into()))
        })
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
        crate::cuda::gate_gradient(self.0.on_cuda(), [(x, lx), (y, ly), (z, lz)])
    }
}

struct ScaleAdd;

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
        // Memory sets the pace here: the compiler's vectors are as good as ours.
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

/// Scales the part of `x` that belongs to each line of `c` factors.
fn scale_rows<E: Real>(x: &[E], scale: &[E], c: usize, y: Option<&[E]>) -> Vec<E> {
    let size = TASK.div_ceil(c) * c;
    let image = x.len() / (scale.len() / c);
    fill_parts(x.len(), size, |start, part, _| {
        by_image(start, part, image, |b, at, out| {
            let from = b * image + at;
            let x = &x[from..][..out.len()];
            let y = y.map_or(Addend::None, |y| Addend::Rows(&y[from..][..out.len()]));
            dispatch(ScaleAddRows { x, scale: &scale[b * c..][..c], y, out });
        });
    })
}

fn channels(layout: &Layout) -> usize {
    layout.dims().last().copied().unwrap_or(1)
}

impl CustomOp3 for ScaleAdd {
    fn name(&self) -> &'static str {
        "scale_add"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        scale: &CpuStorage,
        ls: &Layout,
        y: &CpuStorage,
        ly: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        for_float!("scale_add", x, E => {
            let (scale, y) = (cpu::slice::<E>(scale, ls)?, cpu::slice::<E>(y, ly)?);
            let out = scale_rows(cpu::slice::<E>(x, lx)?, scale, channels(ls), Some(y));
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
        z: &candle_core::CudaStorage,
        lz: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        crate::cuda::scale_add(&[(x, lx), (y, ly), (z, lz)])
    }

    fn bwd(
        &self,
        x: &Tensor,
        scale: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let dx = grad.apply_op2_no_bwd(scale, &ScaleRows)?;
        let images = scale.elem_count() / scale.dim(candle_core::D::Minus1)?;
        let dscale = x.apply_op2_no_bwd(&grad, &SumOfProducts { images })?;
        let dscale = dscale.reshape(scale.shape())?;
        Ok((Some(dx), Some(dscale), Some(grad)))
    }
}

/// scale ⊙ x.
struct ScaleRows;

impl CustomOp2 for ScaleRows {
    fn name(&self) -> &'static str {
        "scale_add gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        scale: &CpuStorage,
        ls: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        for_float!("scale_add", x, E => {
            let (x, scale) = (cpu::slice::<E>(x, lx)?, cpu::slice::<E>(scale, ls)?);
            let out = scale_rows(x, scale, channels(ls), None);
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
        crate::cuda::scale_add(&[(x, lx), (y, ly)])
    }
}

/// Σ over the rows of each image of a ⊙ b.
struct SumOfProducts {
    images: usize,
}

struct ProductRows<'a, E> {
    a: &'a [E],
    b: &'a [E],
    sums: &'a mut [E],
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

impl CustomOp2 for SumOfProducts {
    fn name(&self) -> &'static str {
        "scale_add scale gradient"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        la: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        for_float!("scale_add", a, E => {
            let c = channels(la);
            let (a, b) = (cpu::slice::<E>(a, la)?, cpu::slice::<E>(b, lb)?);
            let image = a.len() / self.images;
            let mut out = Vec::with_capacity(self.images * c);
            for (a, b) in a.chunks_exact(image).zip(b.chunks_exact(image)) {
                out.extend(sum_rows(image / c, c, |rows, sums| {
                    let rows = rows.start * c..rows.end * c;
                    dispatch(ProductRows { a: &a[rows.clone()], b: &b[rows], sums });
                }));
            }
            let shape = out.len().into();
            Ok((E::to_cpu_storage_owned(out), shape))
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
        crate::cuda::sum_of_products(self.images, [(x, lx), (y, ly)])
    }
}
