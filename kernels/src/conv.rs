//! Plans of the dense convolution and its gradients, `conv.cu`.

use crate::launch::count;
use crate::map::check_window;
use crate::sums::sum_columns;
use crate::{Arg, ConvSizes, Limit, Map, Module, Plan, Type};

/// What the sums of a dense convolution start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// A bias.
    Bias,
    /// A map like the result.
    Map,
}

/// Dense k×k convolution, stride 1, padding k/2, with `silu` SiLU of that. Inputs x (the map),
/// weight (outputs×channels×k×k) and, with a start, the bias or map; output
/// batch×height×width×outputs.
///
/// # Errors
/// For 2³¹ elements or more, or k above 1023.
pub fn conv(
    t: Type,
    map: Map,
    outputs: usize,
    k: usize,
    start: Option<Start>,
    silu: bool,
) -> Result<Plan, Limit> {
    conv_plan(t, map, outputs, k, start, silu, false)
}

/// The gradient of [`conv`]'s input. Inputs dy (`map`, whose channels are the convolution's outputs)
/// and the weight (channels×inputs×k×k); output batch×height×width×inputs.
///
/// # Errors
/// As [`conv`].
pub fn conv_adjoint(t: Type, map: Map, inputs: usize, k: usize) -> Result<Plan, Limit> {
    conv_plan(t, map, inputs, k, None, false, true)
}

fn conv_plan(
    t: Type,
    map: Map,
    outputs: usize,
    k: usize,
    start: Option<Start>,
    silu: bool,
    adjoint: bool,
) -> Result<Plan, Limit> {
    const OP: &str = "conv2d";
    /// Rows and columns of the pixels of a block.
    const TILE: [u32; 2] = [8, 16];
    let n = map.count(OP)? as usize;
    let window = check_window(OP, k)?;
    let out = Map { channels: outputs, ..map }.count(OP)? as usize;
    let weights = count(OP, "the number of weights", &[map.channels, outputs, k, k])?;
    let mut p = Plan::new();
    let (x, weight) = (p.input(t, n), p.input(t, weights as usize));
    let from = match start {
        Some(Start::Bias) => p.input(t, outputs),
        Some(Start::Map) => p.input(t, out),
        None => Arg::Null,
    };
    let packed = p.temporary(t, weights as usize);
    let y = p.output(t, out);
    let (inputs, outputs) = (map.channels as u32, outputs as u32);
    let taps = window * window;
    let (first, second) = if adjoint { (inputs, outputs) } else { (outputs, inputs) };
    let sizes = [first, second, taps, adjoint.into()].map(Arg::U32);
    p.each(Module::Conv, t.kernel("conv_pack"), weights, &[&[weight, packed], &sizes]);
    let pixels = count(OP, "the number of pixels", &[map.batch, map.height, map.width])?;
    let (height, width) = (map.height as u32, map.width as u32);
    let (from_map, silu) = ((start == Some(Start::Map)).into(), silu.into());
    let sizes = ConvSizes { height, width, inputs, outputs, k: window, pixels, from_map, silu };
    // Few outputs would leave most of a wide block idle. For 3x3 windows over multiples of 32
    // channels a tile with its rim is loaded once for all nine taps.
    let near = window == 3 && inputs.is_multiple_of(32);
    let (name, columns, threads) = match t {
        Type::F32 if outputs <= 16 => ("conv_narrow", 16, 64),
        Type::F32 => ("conv", 64, 128),
        _ if near && outputs.div_ceil(64).is_multiple_of(2) => ("conv_near_wide", 128, 128),
        _ if near => ("conv_near", 64, 128),
        _ => ("conv", 64, 128),
    };
    let tiles = [height.div_ceil(TILE[0]), width.div_ceil(TILE[1]), outputs.div_ceil(columns)];
    let tiles = tiles.map(|n| n as usize);
    let grid = count(OP, "the number of blocks", &[&[map.batch], &tiles[..]].concat())?;
    let args = [Arg::Conv(sizes), x, packed, from, y];
    p.blocks(Module::Conv, t.kernel(name), [grid, threads], &[&args]);
    Ok(p)
}

/// The gradients of [`conv`]'s weight and bias. Inputs x (the map) and dy; output
/// outputs×channels×k×k, then outputs.
///
/// # Errors
/// As [`conv`].
pub fn conv_weight(t: Type, map: Map, outputs: usize, k: usize) -> Result<Plan, Limit> {
    const OP: &str = "conv2d";
    /// Weights of one output and outputs that a block has; pixels of a row in one step.
    const SIDES: [u32; 2] = [128, 64];
    const RUN: usize = 16;
    /// Blocks that fill a large GPU, and the most memory for partial sums, in elements.
    const BLOCKS: usize = 1024;
    const ROOM: usize = 1 << 26;
    let (n, window) = (map.count(OP)? as usize, check_window(OP, k)?);
    let grad = Map { channels: outputs, ..map }.count(OP)? as usize;
    let weights = count(OP, "the number of weights", &[map.channels, outputs, k, k])?;
    let pixels = count(OP, "the number of pixels", &[map.batch, map.height, map.width])?;
    let runs = count(OP, "the number of rows", &[map.batch, map.height, map.width.div_ceil(RUN)])?;
    let (inputs, columns) = (map.channels as u32, outputs as u32);
    let taps = window * window;
    let tiles = (taps * inputs).div_ceil(SIDES[0]) as usize * columns.div_ceil(SIDES[1]) as usize;
    let most = (BLOCKS / tiles.max(1)).min(ROOM / (weights as usize).max(1)).max(1);
    let each = runs.div_ceil(most as u32).max(4);
    let parts = runs.div_ceil(each).max(1);
    let mut p = Plan::new();
    let (x, dy) = (p.input(t, n), p.input(t, grad));
    let out = p.output(t, weights as usize + outputs);
    let sums = p.temporary(Type::F32, weights as usize * parts as usize);
    let (height, width) = (map.height as u32, map.width as u32);
    let (k, from_map, silu) = (window, 0, 0);
    let sizes = ConvSizes { height, width, inputs, outputs: columns, k, pixels, from_map, silu };
    let grid = count(OP, "the number of blocks", &[tiles, parts as usize])?;
    let args = [Arg::Conv(sizes), x, dy, sums, Arg::U32(each)];
    p.blocks(Module::Conv, t.kernel("conv_weight"), [grid, 128], &[&args]);
    let numbers = [columns, inputs, taps, parts].map(Arg::U32);
    p.each(Module::Conv, t.kernel("conv_weight_sum"), weights, &[&[sums, out], &numbers]);
    sum_columns(&mut p, t, [dy, Arg::Null], out.at(weights as usize), pixels, columns);
    Ok(p)
}
