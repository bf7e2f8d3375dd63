//! Plans of the operations element by element, `pointwise.cu`. `n` counts elements.

use crate::launch::count;
use crate::{Arg, Limit, Module, Plan, Type};

/// What a gate multiplies with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// z·sigmoid(z).
    Silu,
    /// sigmoid(z).
    Sigmoid,
}

impl Gate {
    fn name(self) -> &'static str {
        match self {
            Self::Silu => "silu_gate",
            Self::Sigmoid => "sigmoid_gate",
        }
    }
}

/// A kernel whose inputs, so many, and output have `n` elements each; it takes `numbers`, and `n`.
fn alike(
    op: &'static str,
    kernel: &str,
    t: Type,
    inputs: usize,
    n: usize,
    numbers: &[Arg],
) -> Result<Plan, Limit> {
    let size = count(op, "the number of elements", &[n])?;
    let mut p = Plan::new();
    let mut buffers: Vec<Arg> = (0..inputs).map(|_| p.input(t, n)).collect();
    buffers.push(p.output(t, n));
    p.each(Module::Pointwise, t.kernel(kernel), size, &[&buffers, numbers, &[Arg::U32(size)]]);
    Ok(p)
}

/// x·sigmoid(x). Input x, output the same size.
///
/// # Errors
/// For 2³¹ elements or more.
pub fn silu(t: Type, n: usize) -> Result<Plan, Limit> {
    alike("silu", "silu", t, 1, n, &[])
}

/// The gradient of [`silu`]. Inputs x, dy; output dx.
///
/// # Errors
/// For 2³¹ elements or more.
pub fn silu_backward(t: Type, n: usize) -> Result<Plan, Limit> {
    alike("silu", "silu_backward", t, 2, n, &[])
}

/// x ⊙ gate(z). Inputs x, z; output the same size.
///
/// # Errors
/// For 2³¹ elements or more.
pub fn gate(t: Type, gate: Gate, n: usize) -> Result<Plan, Limit> {
    alike(gate.name(), gate.name(), t, 2, n, &[])
}

/// The gradient of [`gate`]. Inputs x, z, dy; output dx, then dz.
///
/// # Errors
/// For 2³¹ elements or more.
pub fn gate_backward(t: Type, gate: Gate, n: usize) -> Result<Plan, Limit> {
    let size = count(gate.name(), "the number of elements", &[n])?;
    let mut p = Plan::new();
    let inputs = [p.input(t, n), p.input(t, n), p.input(t, n)];
    let out = p.output(t, 2 * n);
    let kernel = t.kernel(&format!("{}_backward", gate.name()));
    p.each(Module::Pointwise, kernel, size, &[&inputs, &[out, out.at(n), Arg::U32(size)]]);
    Ok(p)
}

/// α·x + β·y. Inputs x, y; output the same size.
///
/// # Errors
/// For 2³¹ elements or more.
pub fn weighted_sum(t: Type, alpha: f32, beta: f32, n: usize) -> Result<Plan, Limit> {
    alike("weighted_sum", "weighted_sum", t, 2, n, &[alpha, beta].map(Arg::F32))
}

/// scale ⊙ x + y. Inputs x (`images`×`rows`×`channels`), scale (`channels`, or with `each_image`
/// `images`×`channels`) and, with `add`, y; output as x.
///
/// # Errors
/// For 2³¹ elements or more.
pub fn scale_add(
    t: Type,
    [images, rows, channels]: [usize; 3],
    each_image: bool,
    add: bool,
) -> Result<Plan, Limit> {
    let size = count("scale_add", "the number of elements", &[images, rows, channels])?;
    let n = size as usize;
    let mut p = Plan::new();
    let (x, factors) = (p.input(t, n), if each_image { images * channels } else { channels });
    let scale = p.input(t, factors);
    let y = if add { p.input(t, n) } else { Arg::Null };
    let image = if each_image { (rows * channels) as u32 } else { 0 };
    let out = p.output(t, n);
    let numbers = [channels as u32, image, size].map(Arg::U32);
    p.each(Module::Pointwise, t.kernel("scale_add"), size, &[&[x, scale, y, out], &numbers]);
    Ok(p)
}

/// What a step of [`adam`] multiplies by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamStep {
    /// What the gradient is multiplied by, 1 unless it is clipped.
    pub gain: f32,
    /// 1 − β₁.
    pub mean_rest: f32,
    /// β₂.
    pub square_keep: f32,
    /// 1 − β₂.
    pub square_rest: f32,
    /// What of the weights decay leaves, 1 without.
    pub keep: f32,
    /// The learning rate over 1 − β₁ᵗ.
    pub rate: f32,
    /// √(1 − β₂ᵗ).
    pub root: f32,
    /// Added to the denominator.
    pub eps: f32,
}

/// One step of Adam (Kingma & Ba, 2015) in PyTorch's formula, with g = gain · gradient:
/// mean ← mean + mean_rest (g − mean), square ← square_keep · square + square_rest · g²,
/// weights ← keep · weights − rate · mean / (√square / root + eps). Inputs weights (`n`), gradient (`n`),
/// mean and square one after the other (2`n`); output weights, mean and square one after the other.
///
/// # Errors
/// For 2³¹ / 3 elements or more.
pub fn adam(n: usize, step: &AdamStep) -> Result<Plan, Limit> {
    let size = count("adam", "the number of elements", &[n, 3])? / 3;
    let mut p = Plan::new();
    let t = Type::F32;
    let buffers = [p.input(t, n), p.input(t, n), p.input(t, 2 * n), p.output(t, 3 * n)];
    let &AdamStep { gain, mean_rest, square_keep, square_rest, keep, rate, root, eps } = step;
    let numbers = [gain, mean_rest, square_keep, square_rest, keep, rate, root, eps].map(Arg::F32);
    p.each(Module::Pointwise, t.kernel("adam"), size, &[&buffers, &numbers, &[Arg::U32(size)]]);
    Ok(p)
}

/// x + bias, with `silu` SiLU of that. Inputs x (`rows`×`columns`), bias; output as x.
///
/// # Errors
/// For 2³¹ elements or more.
pub fn add_bias(t: Type, rows: usize, columns: usize, silu: bool) -> Result<Plan, Limit> {
    let size = count("linear", "the number of elements", &[rows, columns])?;
    let n = size as usize;
    let mut p = Plan::new();
    let buffers = [p.input(t, n), p.input(t, columns), p.output(t, n)];
    let numbers = [columns as u32, silu.into(), size].map(Arg::U32);
    p.each(Module::Pointwise, t.kernel("add_bias"), size, &[&buffers, &numbers]);
    Ok(p)
}
