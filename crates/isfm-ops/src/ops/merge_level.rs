use std::ops::Range;

use candle_core::{Device, Result, Tensor};

use super::merge_details::{Level, MergeLine, REACH, merge_details, padded};
use super::pointwise::TASK;
use super::pyramid::{Line, pyr_up};
use crate::check;
use crate::op::{untracked, with_slices};
use crate::parallel::{fill_parts, split};
use crate::simd::{Kernel, Real, Simd, dispatch};

const OP: &str = "merge_level";

/// One level of two pictures' Laplacian pyramids and the fused picture below it. All tensors are of
/// one element type.
#[derive(Clone, Copy, Debug)]
pub struct PyramidLevel<'a> {
    /// The two pictures at this level, B×1×H×W.
    pub pictures: [&'a Tensor; 2],
    /// The same at half the size ([`pyr_down`](crate::pyr_down)), B×1×⌈H/2⌉×⌈W/2⌉.
    pub smaller: [&'a Tensor; 2],
    /// The fused picture of that size, B×1×⌈H/2⌉×⌈W/2⌉.
    pub fused: &'a Tensor,
    /// The maps p and q of [`merge_details`], B×2×⌈H/2⌉×⌈W/2⌉, which are enlarged; zeros where there
    /// are none.
    pub control: Option<&'a Tensor>,
    /// How hard the choice between two details is ([`merge_details`]).
    pub sharpness: f64,
    /// If given as (a, b), a pixel of the result is at most a·max(V, I) + b.
    pub limit: Option<(f64, f64)>,
}

/// The fused picture of a level, B×1×H×W: the one below it enlarged ([`pyr_up`]), and the merged
/// detail ([`merge_details`]), which is what the pictures lose when they are made smaller.
///
/// If nothing is tracked, tensors on the CPU go through in one pass, in which neither details nor
/// enlarged maps ever exist as a whole. The result is the same to the bit.
///
/// # Errors
/// As [`pyr_up`] and [`merge_details`].
pub fn merge_level(level: &PyramidLevel<'_>) -> Result<Tensor> {
    let [visible, infrared] = level.pictures;
    check::types(OP, visible, &[("infrared", infrared), ("fused", level.fused)])?;
    let [batch, 1, height, width] = *visible.dims() else {
        return Err(check::shape_error(OP, "visible", visible.dims(), "[batch, 1, height, width]"));
    };
    let [h, w] = [height, width].map(|n| n.div_ceil(2));
    check::dims(OP, "infrared", infrared, visible.dims())?;
    check::dims(OP, "the smaller visible picture", level.smaller[0], &[batch, 1, h, w])?;
    check::dims(OP, "the smaller infrared picture", level.smaller[1], &[batch, 1, h, w])?;
    check::dims(OP, "fused", level.fused, &[batch, 1, h, w])?;
    if let Some(control) = level.control {
        check::dims(OP, "control", control, &[batch, 2, h, w])?;
    }
    if !level.sharpness.is_finite() {
        return Err(check::shape_error(OP, "sharpness", level.sharpness, "a finite number"));
    }
    let tensors = || {
        let pictures = level.pictures.into_iter().chain(level.smaller);
        pictures.chain([level.fused]).chain(level.control)
    };
    let size = [height, width];
    let alike = |t: &Tensor| t.device().is_cpu() && t.dtype() == visible.dtype();
    if visible.elem_count() == 0 || !untracked(tensors()) || !tensors().all(alike) {
        return level.op_by_op(size);
    }
    let contiguous = tensors().map(Tensor::contiguous).collect::<Result<Vec<_>>>()?;
    let all: Vec<&Tensor> = contiguous.iter().collect();
    with_float!(visible.dtype(), E => {
        let fused = with_slices::<E, _>(&all, |all| Ok(level.in_lines(all, size)))?;
        Tensor::from_vec(fused, visible.shape(), &Device::Cpu)
    }, else level.op_by_op(size))
}

impl PyramidLevel<'_> {
    fn op_by_op(&self, [height, width]: [usize; 2]) -> Result<Tensor> {
        let [visible, infrared] = self.pictures;
        let detail = |i: usize| self.pictures[i] - pyr_up(self.smaller[i], height, width)?;
        let control = match self.control {
            Some(control) => pyr_up(control, height, width)?,
            None => Tensor::cat(&[&visible.zeros_like()?, &visible.zeros_like()?], 1)?,
        };
        let merged = merge_details(&detail(0)?, &detail(1)?, &control, self.sharpness)?;
        let fused = (pyr_up(self.fused, height, width)? + merged)?;
        match self.limit {
            Some((scale, more)) => fused.minimum(&visible.maximum(infrared)?.affine(scale, more)?),
            None => Ok(fused),
        }
    }

    /// From the contiguous elements of the pictures, the smaller ones, the fused one and the control.
    fn in_lines<E: Real>(&self, all: &[&[E]], size: [usize; 2]) -> Vec<E> {
        let [h, w] = size;
        let coarse = size.map(|n| n.div_ceil(2));
        let sharpness = E::of(self.sharpness);
        let limit = self.limit.map(|(scale, more)| (E::of(scale), E::of(more)));
        fill_parts(all[0].len(), TASK.div_ceil(w) * w, |start, mut part, buffer| {
            let mut at = start / w;
            while !part.is_empty() {
                let (b, y) = (at / h, at % h);
                let rows = y..(y + part.len() / w).min(h);
                let (out, rest) = std::mem::take(&mut part).split_at_mut(rows.len() * w);
                (part, at) = (rest, at + rows.len());
                let around = rows.start.saturating_sub(REACH)..(rows.end + REACH).min(h);
                let details = around.len() * w;
                let sums = [padded(w); 3].into_iter().chain([coarse[1] + 2, w]);
                let lengths = sums.chain([w, w, details, details]);
                let mut buffers = split(buffer, lengths);
                buffers[..3].iter_mut().for_each(|line| line.fill(E::of(0.)));
                let n = coarse[0] * coarse[1];
                let control = all.get(5).map(|both| [0, 1].map(|c| &both[(2 * b + c) * n..][..n]));
                dispatch(Lines {
                    size,
                    rows,
                    around,
                    pictures: [0, 1].map(|k| &all[k][b * h * w..][..h * w]),
                    smaller: [2, 3].map(|k| &all[k][b * n..][..n]),
                    fused: &all[4][b * n..][..n],
                    control,
                    sharpness,
                    limit,
                    buffers,
                    out,
                });
            }
        })
    }
}

/// Some lines of one picture.
struct Lines<'a, 'b, E> {
    size: [usize; 2],
    rows: Range<usize>,
    /// The lines that windows around `rows` cover.
    around: Range<usize>,
    pictures: [&'a [E]; 2],
    smaller: [&'a [E]; 2],
    fused: &'a [E],
    control: Option<[&'a [E]; 2]>,
    sharpness: E,
    limit: Option<(E, E)>,
    /// Three lines of sums, a smaller picture's line with two places more, the enlarged fused line, p,
    /// q, and the details of `around`.
    buffers: Vec<&'b mut [E]>,
    out: &'b mut [E],
}

impl<E: Real> Kernel<E> for Lines<'_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<E = E>>(mut self, s: S) {
        let [_, width] = self.size;
        let [vv, ii, vi, line, below, p, q, v, i] = &mut self.buffers[..] else {
            unreachable!("nine buffers")
        };
        for ((detail, picture), smaller) in
            [&mut **v, i].into_iter().zip(self.pictures).zip(self.smaller)
        {
            for (detail, y) in detail.chunks_exact_mut(width).zip(self.around.clone()) {
                Line::up(smaller, self.size, y, line, detail).run(s);
                let picture = &picture[y * width..][..width];
                detail.iter_mut().zip(picture).for_each(|(d, &pixel)| *d = pixel - *d);
            }
        }
        if self.control.is_none() {
            p.fill(E::of(0.));
            q.fill(E::of(0.));
        }
        for (out, y) in self.out.chunks_exact_mut(width).zip(self.rows) {
            for (to, from) in [&mut **p, q].into_iter().zip(self.control.iter().flatten()) {
                Line::up(from, self.size, y, line, to).run(s);
            }
            // Lines are counted from the first of the details on.
            let y_here = y - self.around.start;
            let level = Level {
                v,
                i,
                p,
                q,
                control_from: y_here,
                height: self.around.len(),
                width,
                sharpness: self.sharpness,
            };
            MergeLine { level, y: y_here, lines: [&mut **vv, ii, vi], out }.run(s);
            Line::up(self.fused, self.size, y, line, below).run(s);
            out.iter_mut().zip(below.iter()).for_each(|(out, &below)| *out = below + *out);
            if let Some((scale, more)) = self.limit {
                let [v, i] = self.pictures.map(|picture| &picture[y * width..][..width]);
                for ((out, &v), &i) in out.iter_mut().zip(v).zip(i) {
                    let most = (if v < i { i } else { v }) * scale + more;
                    *out = if *out > most { most } else { *out };
                }
            }
        }
    }
}
