use candle_core::{Error, Result, Shape, Tensor};
use isfm_kernels::{Map, Plan, Type, resize as kernels};

use crate::check;
use crate::op::{Gradients, Input, Op, apply, apply_untracked};
use crate::parallel::fill_parts;
use crate::simd::{Kernel, Real, Simd, dispatch};

const OP: &str = "resize_bilinear";

/// Resizes maps by bilinear interpolation, as PyTorch's `interpolate(mode="bilinear",
/// align_corners=False)` without antialiasing: result pixel i lies at (i + ½)·in/out − ½, at least
/// 0, of the input.
///
/// # Shapes
/// - `x`: B×H×W×C
/// - returns B×`height`×`width`×C
///
/// # Errors
/// If `x` has not four axes, a size is 0 on one side only, the result is too large to address, or
/// the elements are not `F32` or `F64` (on CUDA `F32`, `F16` or `BF16`).
pub fn resize_bilinear(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    check::types(OP, x, &[])?;
    let (b, h, w, c) = check::map(OP, x)?;
    if (h, w) == (height, width) {
        return Ok(x.clone());
    }
    let size =
        [height, width, c, x.dtype().size_in_bytes()].iter().try_fold(b, |n, &m| n.checked_mul(m));
    if size.is_none_or(|n| isize::try_from(n).is_err()) {
        return Err(check::shape_error(
            OP,
            "result",
            (height, width),
            "a size that can be addressed",
        ));
    }
    if b * c * height * width == 0 {
        return Tensor::zeros((b, height, width, c), x.dtype(), x.device());
    }
    if h * w == 0 {
        return Err(check::shape_error(OP, "x", x.dims(), "at least one pixel"));
    }
    apply(Resize { from: (h, w), to: (height, width), adjoint: false }, &[x])
}

/// For each position along an axis of the result, the positions that it reads and their weights.
type Terms<E> = Vec<Vec<(usize, E)>>;

/// For each of the `to` places, the two neighbours among `from` places. In f64: rounding in f32
/// would move the places of a long axis by 1e-5 of a pixel and more.
fn interpolation<E: Real>(from: usize, to: usize) -> Terms<E> {
    let scale = from as f64 / to as f64;
    (0..to)
        .map(|i| {
            let at = (scale * (i as f64 + 0.5) - 0.5).max(0.);
            let first = (at as usize).min(from - 1);
            let second = (first + 1).min(from - 1);
            let weight = (at - first as f64).min(1.);
            vec![(first, E::of(1. - weight)), (second, E::of(weight))]
        })
        .collect()
}

/// The same terms by the position that they read.
fn transposed<E: Real>(terms: &Terms<E>, from: usize) -> Terms<E> {
    let mut out = vec![Vec::new(); from];
    for (i, terms) in terms.iter().enumerate() {
        for &(at, weight) in terms {
            out[at].push((i, weight));
        }
    }
    out
}

/// The interpolation, or its adjoint, which sums for every input pixel over the result pixels that
/// it is a neighbour of.
#[derive(Clone, Copy)]
struct Resize {
    from: (usize, usize),
    to: (usize, usize),
    adjoint: bool,
}

impl Resize {
    fn axis<E: Real>(&self, from: usize, to: usize) -> Terms<E> {
        let terms = interpolation(from, to);
        if self.adjoint { transposed(&terms, from) } else { terms }
    }
}

impl Op for Resize {
    fn name(&self) -> &'static str {
        OP
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape> {
        let (b, .., c) = inputs[0].dims4()?;
        let (height, width) = if self.adjoint { self.from } else { self.to };
        Ok((b, height, width, c).into())
    }

    fn cpu<E: Real>(&self, inputs: &[Input<'_, E>]) -> Result<Vec<E>> {
        let (b, h, w, c) = inputs[0].shape.dims4()?;
        let x = inputs[0].data;
        let rows = self.axis::<E>(self.from.0, self.to.0);
        let columns = self.axis::<E>(self.from.1, self.to.1);
        let line = columns.len() * c;
        Ok(fill_parts(b * rows.len() * line, line, |start, out, scratch| {
            scratch.resize(w * c, E::of(0.));
            let i = start / line;
            let image = &x[i / rows.len() * h * w * c..][..h * w * c];
            let rows = &rows[i % rows.len()];
            dispatch(Line { image, rows, columns: &columns, scratch, out, c });
        }))
    }

    fn plan(&self, t: Type, inputs: &[&Shape]) -> Result<Plan> {
        let ((height, width), (h, w)) = (self.from, self.to);
        let map = Map { height, width, ..super::kernel_map(inputs[0])? };
        let plan = if self.adjoint {
            kernels::resize_backward(t, map, h, w)
        } else {
            kernels::resize(t, map, h, w)
        };
        plan.map_err(Error::wrap)
    }

    fn gradients(&self, _: &[&Tensor], _: &Tensor, grad: &Tensor) -> Result<Gradients> {
        Ok([Some(apply_untracked(Resize { adjoint: true, ..*self }, &[grad])?), None, None])
    }
}

/// One line of the result: the lines it takes from first, then the columns.
struct Line<'a, E> {
    image: &'a [E],
    rows: &'a [(usize, E)],
    columns: &'a Terms<E>,
    /// As large as a line of the image.
    scratch: &'a mut [E],
    out: &'a mut [E],
    c: usize,
}

impl<E: Real> Kernel<E> for Line<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(self, _: S) {
        let size = self.scratch.len();
        self.scratch.fill(E::of(0.));
        for &(y, weight) in self.rows {
            add_scaled(self.scratch, &self.image[y * size..][..size], weight);
        }
        for (out, terms) in self.out.chunks_exact_mut(self.c).zip(self.columns) {
            for &(x, weight) in terms {
                add_scaled(out, &self.scratch[x * self.c..][..self.c], weight);
            }
        }
    }
}

#[inline(always)]
pub(super) fn add_scaled<E: Real>(acc: &mut [E], values: &[E], weight: E) {
    for (acc, &v) in acc.iter_mut().zip(values) {
        *acc += v * weight;
    }
}
