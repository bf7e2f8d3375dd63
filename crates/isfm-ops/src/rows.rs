//! Layers that map each pixel by itself, on plain slices: the pieces of fused inference kernels.
//!
//! A chain of linear layers, norms and gates moves each feature map through memory once per layer.
//! Without gradients nothing in between has to be kept: [`map_rows`] hands out blocks of a few
//! dozen pixels, and a kernel takes each block through the whole chain while it is in a near cache.
//!
//! Maps are rows of channels. These functions trust their caller: slices whose lengths do not fit
//! are a bug in a kernel and may panic, as with [`crate::simd::Simd`].
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use isfm_ops::rows::{Linear, map_rows, silu};
//!
//! let weight = Tensor::new(&[[1f32, 1.], [1., -1.], [0., 2.]], &Device::Cpu)?;
//! let layer = Linear::<f32>::new(&weight, None)?;
//! let x = [1f32, 2., 3., 4.];
//! let y = map_rows(2, 3, |rows, y, _| {
//!     layer.apply(&x[2 * rows.start..2 * rows.end], y);
//!     silu(y);
//! });
//! assert_eq!(y.len(), 6);
//! assert!((y[0] - 3. / (1. + (-3f32).exp())).abs() < 1e-6);
//! # Ok::<(), isfm_ops::Error>(())
//! ```

use std::ops::Range;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::activation::{Addend, GateRows, ScaleAddRows, SiluRows};
use crate::depthwise::{OutputRow, by_tap};
use crate::matmul::{Packed, Product};
use crate::norm::NormRows;
use crate::shared::{add_partials, fill_parts, shape_error};
use crate::simd::{Real, dispatch};
use crate::{Result, cpu};

/// Rows in a block of [`map_rows`]; a multiple of the products' register tile.
pub const ROWS: usize = 96;

/// `rows` rows of `width` values, made block by block in parallel: `f` gets a block's rows, their
/// place in the result, set to zero, and a buffer to reuse.
pub fn map_rows<E: Real>(
    rows: usize,
    width: usize,
    f: impl Fn(Range<usize>, &mut [E], &mut Vec<E>) + Sync,
) -> Vec<E> {
    let width = width.max(1);
    fill_parts(rows * width, ROWS * width, |start, out, buffer| {
        let first = start / width;
        f(first..first + out.len() / width, out, buffer);
    })
}

/// Changes rows of `width` values where they stand, block by block in parallel.
pub fn update_rows<E: Real>(x: &mut [E], width: usize, f: impl Fn(&mut [E]) + Sync + Send) {
    x.par_chunks_mut(ROWS * width.max(1)).for_each(f);
}

/// Sums of `width` values over `rows` rows in parallel: `add` adds a block's rows to the sums it is
/// given, and gets a buffer to reuse. The order of the sum does not depend on the threads.
pub fn sum_rows<E: Real>(
    rows: usize,
    width: usize,
    add: impl Fn(Range<usize>, &mut [E], &mut Vec<E>) + Sync,
) -> Vec<E> {
    let per = crate::shared::rows_per_partial(rows, width).next_multiple_of(ROWS);
    let parts = rows.div_ceil(per).max(1);
    let mut sums = fill_parts(parts * width, width, |start, sums, buffer| {
        let first = start / width * per;
        for first in (first..rows.min(first + per)).step_by(ROWS) {
            add(first..rows.min(first + ROWS), sums, buffer);
        }
    });
    add_partials(&mut sums, width);
    sums
}

/// Cuts `buffer`, made long enough, into slices of the given lengths.
pub fn split<E: Real, const N: usize>(buffer: &mut Vec<E>, lengths: [usize; N]) -> [&mut [E]; N] {
    let total = lengths.iter().sum();
    if buffer.len() < total {
        buffer.resize(total, E::of(0.));
    }
    let mut rest = buffer.as_mut_slice();
    lengths.map(|n| {
        let (part, after) = std::mem::take(&mut rest).split_at_mut(n);
        rest = after;
        part
    })
}

/// The values of a small tensor, such as a weight.
///
/// # Errors
/// If the tensor's elements are not of type `E` or cannot be brought to the CPU.
pub fn values<E: Real>(t: &Tensor) -> Result<Vec<E>> {
    Ok(t.flatten_all()?.to_vec1()?)
}

/// A linear layer with its weights in the order the product reads them.
pub struct Linear<E> {
    weights: Packed<E>,
    bias: Option<Vec<E>>,
    inputs: usize,
}

impl<E: Real> Linear<E> {
    /// From a weight Cout×Cin and a bias Cout.
    ///
    /// # Errors
    /// If the shapes do not fit or the elements are not of type `E`.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        let (outputs, inputs) = match *weight.dims() {
            [outputs, inputs] if inputs > 0 => (outputs, inputs),
            _ => return Err(shape_error("linear", "weight", weight.dims(), "[outputs, inputs]")),
        };
        let w = values::<E>(weight)?;
        let bias = bias.map(values::<E>).transpose()?;
        if let Some(bias) = &bias
            && bias.len() != outputs
        {
            return Err(shape_error("linear", "bias", bias.len(), format!("[{outputs}]")));
        }
        let weights = Packed::new(inputs, outputs, |r, j| w[j * inputs + r]);
        Ok(Self { weights, bias, inputs })
    }

    /// Cin.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Cout.
    pub fn outputs(&self) -> usize {
        self.weights.columns()
    }

    /// `out = x · weightᵀ + bias` for rows of Cin and Cout values.
    pub fn apply(&self, x: &[E], out: &mut [E]) {
        match &self.bias {
            Some(bias) => {
                out.chunks_exact_mut(bias.len()).for_each(|row| row.copy_from_slice(bias));
            }
            None => out.fill(E::of(0.)),
        }
        self.accumulate(x, out);
    }

    /// `out += x · weightᵀ`, without the bias.
    pub fn accumulate(&self, x: &[E], out: &mut [E]) {
        let count = x.len() / self.inputs;
        dispatch(Product {
            src: x,
            src_line: 0,
            step: self.inputs,
            run: self.inputs,
            reach: 1,
            weights: &self.weights,
            dst: out,
            dst_line: 0,
            lines: 1,
            count,
        });
    }
}

/// A dense convolution's weights in the order the product reads them; stride 1, zero padding k/2.
pub struct Conv2d<E> {
    weights: Packed<E>,
    inputs: usize,
    window: usize,
}

impl<E: Real> Conv2d<E> {
    /// From a weight Cout×Cin×k×k.
    ///
    /// # Errors
    /// If the weight is not like that with an odd k, or its elements are not of type `E`.
    pub fn new(weight: &Tensor) -> Result<Self> {
        match *weight.dims() {
            [outputs, inputs, window, l] if inputs > 0 && window == l && window % 2 == 1 => {
                let weights = crate::conv::packed(&values(weight)?, (outputs, inputs, window));
                Ok(Self { weights, inputs, window })
            }
            ref got => Err(shape_error("conv2d", "weight", got, "[outputs, inputs, k, k], k odd")),
        }
    }

    /// Cin.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Cout.
    pub fn outputs(&self) -> usize {
        self.weights.columns()
    }

    /// `out` += the convolution of `x`, whole maps B×H×W×Cin and B×H×W×Cout, in parallel.
    pub fn accumulate(&self, x: &[E], (h, w): (usize, usize), out: &mut [E]) {
        crate::conv::accumulate(x, (h, w, self.inputs), self.window, &self.weights, out);
    }
}

/// A layer norm's parameters.
#[derive(Clone)]
pub struct LayerNorm<E> {
    weight: Vec<E>,
    bias: Vec<E>,
    eps: f64,
}

impl<E: Real> LayerNorm<E> {
    /// From the layer.
    ///
    /// # Errors
    /// If the elements are not of type `E`.
    pub fn new(norm: &crate::nn::LayerNorm) -> Result<Self> {
        Ok(Self { weight: values(norm.weight())?, bias: values(norm.bias())?, eps: norm.eps() })
    }

    /// C.
    pub fn channels(&self) -> usize {
        self.weight.len()
    }

    /// The same followed by a product with `factors`, one for each channel.
    pub fn scaled(&self, factors: impl Iterator<Item = E> + Clone) -> Self {
        let scale = |v: &[E]| v.iter().zip(factors.clone()).map(|(&v, f)| v * f).collect();
        Self { weight: scale(&self.weight), bias: scale(&self.bias), eps: self.eps }
    }

    /// Normalises every row of `x` into `out`.
    pub fn apply(&self, x: &[E], out: &mut [E]) {
        let Self { weight, bias, eps } = self;
        dispatch(NormRows { x: Some(x), weight, bias, eps: E::of(*eps), out });
    }

    /// Normalises every row of `x` where it stands.
    pub fn apply_in_place(&self, x: &mut [E]) {
        let Self { weight, bias, eps } = self;
        dispatch(NormRows { x: None, weight, bias, eps: E::of(*eps), out: x });
    }
}

/// A depth-wise convolution's parameters, tap by tap.
pub struct DepthwiseConv2d<E> {
    taps: Vec<E>,
    bias: Option<Vec<E>>,
    window: usize,
}

impl<E: Real> DepthwiseConv2d<E> {
    /// From the layer.
    ///
    /// # Errors
    /// If the elements are not of type `E` or the weight is not C×1×k×k with an odd k.
    pub fn new(conv: &crate::nn::DepthwiseConv2d) -> Result<Self> {
        let window = match *conv.weight().dims() {
            [_, 1, k, l] if k == l && k % 2 == 1 => k,
            ref got => return Err(shape_error("depthwise_conv2d", "weight", got, "[C, 1, k, k]")),
        };
        let bias = conv.bias().map(values::<E>).transpose()?;
        Ok(Self { taps: by_tap(&values(conv.weight())?, window, false), bias, window })
    }

    /// C.
    pub fn channels(&self) -> usize {
        self.taps.len() / (self.window * self.window)
    }

    /// k: lines and columns of the window.
    pub fn window(&self) -> usize {
        self.window
    }

    /// One line of the result into `out`, from the lines of a map of which its window's `rows` lie
    /// inside (all k of them but at the upper and lower border); `lines` gives the line below each.
    pub fn line<'l>(&self, lines: impl Fn(usize) -> &'l [E], rows: Range<usize>, out: &mut [E])
    where
        E: 'l,
    {
        let (k, channels) = (self.window, self.channels());
        let (taps, bias, width) = (&self.taps, self.bias.as_deref(), out.len() / channels);
        dispatch(OutputRow { lines, rows, taps, bias, out, width, channels, k });
    }
}

/// SiLU of every value, where it stands.
pub fn silu<E: Real>(x: &mut [E]) {
    dispatch(SiluRows(x));
}

/// `x ⊙= SiLU(z)`.
pub fn silu_gate<E: Real>(x: &mut [E], z: &[E]) {
    dispatch(GateRows { x, z });
}

/// `out += x`.
pub fn add<E: Real>(x: &[E], out: &mut [E]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out += x;
    }
}

/// `out += scale ⊙ x`, with one factor for each channel.
pub fn scale_add<E: Real>(x: &[E], scale: &[E], out: &mut [E]) {
    dispatch(ScaleAddRows { x, scale, y: Addend::Out, out });
}

/// The elements of an untracked, contiguous CPU tensor, handed to `f`.
///
/// # Errors
/// If the tensor is not like that, or what `f` returns.
pub fn with_slice<E: Real, T>(t: &Tensor, f: impl FnOnce(&[E]) -> Result<T>) -> Result<T> {
    let (storage, layout) = t.storage_and_layout();
    match &*storage {
        candle_core::Storage::Cpu(storage) => f(cpu::slice::<E>(storage, layout)?),
        _ => Err(candle_core::Error::msg("the kernel runs on the CPU only").into()),
    }
}

/// Whether a forward pass on these tensors may take a fused kernel: on the CPU, and nobody will ask
/// for a gradient.
pub fn may_fuse<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> bool {
    tensors.into_iter().all(|t| t.device().is_cpu() && !t.track_op())
}
