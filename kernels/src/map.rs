//! Plans of the operations on channel-last maps: convolutions, pools, resize, the Haar transform.

use crate::launch::{count, parts};
use crate::pointwise::sum_columns;
use crate::{Arg, ConvSizes, Element, Limit, Module, Plan, Type};

/// A stack of maps, batch×height×width×channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// Images.
    pub batch: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Channels.
    pub channels: usize,
}

impl Map {
    /// Elements, as the kernels count them.
    fn count(&self, op: &'static str) -> Result<u32, Limit> {
        let &Self { batch, height, width, channels } = self;
        count(op, "the number of elements", &[batch, height, width, channels])
    }

    fn sizes(&self) -> [Arg; 3] {
        [self.height, self.width, self.channels].map(|n| Arg::U32(n as u32))
    }
}

/// Windows cannot be larger than twice the maps; no table of theirs may overflow.
fn check_window(op: &'static str, k: usize) -> Result<u32, Limit> {
    const MOST_WINDOW: usize = 1023;
    if k > MOST_WINDOW {
        return Err(Limit { op, what: "the window", got: k, most: MOST_WINDOW });
    }
    Ok(k as u32)
}

/// Depth-wise convolution, stride 1, padding k/2; with `flip` its adjoint. Inputs x, weight
/// (channels×k×k) and, with `bias`, the bias; output as x.
///
/// # Errors
/// For 2³¹ elements or more, or k above 1023.
pub fn depthwise(t: Type, map: Map, k: usize, flip: bool, bias: bool) -> Result<Plan, Limit> {
    const OP: &str = "depthwise_conv2d";
    let (size, window) = (map.count(OP)?, check_window(OP, k)?);
    let n = size as usize;
    count(OP, "the number of weights", &[map.channels, k, k])?;
    let mut p = Plan::default();
    let (x, weight) = (p.input(t, n), p.input(t, map.channels * k * k));
    let bias = if bias { p.input(t, map.channels) } else { Arg::Null };
    let mut args = vec![x, weight, bias, p.output(t, n)];
    args.extend(map.sizes());
    args.extend([window, flip.into(), size].map(Arg::U32));
    p.each(Module::Window, "depthwise", t, size, args);
    Ok(p)
}

/// The gradients of [`depthwise`]'s weight and bias. Inputs x, dy; output channels×k×k, then
/// channels.
///
/// # Errors
/// For 2³¹ elements or more, or k above 1023.
pub fn depthwise_weight(t: Type, map: Map, k: usize) -> Result<Plan, Limit> {
    const OP: &str = "depthwise_conv2d";
    let (n, window) = (map.count(OP)? as usize, check_window(OP, k)?);
    let values = count(OP, "the number of weights", &[map.channels, k * k + 1])?;
    let channels = map.channels as u32;
    let pixels = count(OP, "the number of pixels", &[map.batch, map.height, map.width])?;
    let (each, parts) = parts(pixels, values);
    let threads = count(OP, "the number of partial sums", &[values as usize, parts as usize])?;
    let mut p = Plan::default();
    let (x, dy) = (p.input(t, n), p.input(t, n));
    let out = p.output(t, values as usize);
    let sums = p.scratch(Type::F32, threads as usize);
    let mut args = vec![x, dy, sums];
    args.extend(map.sizes());
    args.extend([window, pixels, each, parts].map(Arg::U32));
    p.each(Module::Window, "depthwise_weight", t, threads, args);
    let args = [&[sums, out][..], &[channels, window * window, parts].map(Arg::U32)].concat();
    p.each(Module::Window, "depthwise_weight_sum", t, values, args);
    Ok(p)
}

/// The mean of every k×k window, zeros outside counted; its own gradient. Input x, output the same.
///
/// # Errors
/// For 2³¹ elements or more, or k above 1023.
pub fn avg_pool(t: Type, map: Map, k: usize) -> Result<Plan, Limit> {
    let (size, window) = (map.count("avg_pool2d")?, check_window("avg_pool2d", k)?);
    let mut p = Plan::default();
    let mut args = vec![p.input(t, size as usize), p.output(t, size as usize)];
    args.extend(map.sizes());
    args.extend([window, size].map(Arg::U32));
    p.each(Module::Window, "avg_pool", t, size, args);
    Ok(p)
}

/// The largest value of every k×k window. Input x, output the same.
///
/// # Errors
/// For 2³¹ elements or more, or k above 1023.
pub fn max_pool(t: Type, map: Map, k: usize) -> Result<Plan, Limit> {
    let (size, window) = (map.count("max_pool2d")?, check_window("max_pool2d", k)?);
    let mut p = Plan::default();
    let mut args = vec![p.input(t, size as usize), p.output(t, size as usize), Arg::Null];
    args.extend(map.sizes());
    args.extend([window, size].map(Arg::U32));
    p.each(Module::Window, "max_pool", t, size, args);
    Ok(p)
}

/// The gradient of [`max_pool`]. Inputs x, dy; output dx.
///
/// # Errors
/// For 2³¹ elements or more, or k above 1023.
pub fn max_pool_backward(t: Type, map: Map, k: usize) -> Result<Plan, Limit> {
    let (size, window) = (map.count("max_pool2d")?, check_window("max_pool2d", k)?);
    let n = size as usize;
    let mut p = Plan::default();
    let (x, dy, dx) = (p.input(t, n), p.input(t, n), p.output(t, n));
    let places = p.scratch(Element::U32, n);
    let mut sizes = map.sizes().to_vec();
    sizes.extend([window, size].map(Arg::U32));
    p.each(Module::Window, "max_pool", t, size, [&[x, Arg::Null, places], &sizes[..]].concat());
    let args = [&[places, dy, dx], &sizes[..]].concat();
    p.each(Module::Window, "max_pool_backward", t, size, args);
    Ok(p)
}

/// Bilinear resize to `height`×`width`. Input x, output the result.
///
/// # Errors
/// For 2³¹ elements or more on a side.
pub fn resize(t: Type, map: Map, height: usize, width: usize) -> Result<Plan, Limit> {
    resize_plan(t, map, height, width, false)
}

/// The gradient of [`resize`]. Input that of the result, output that of the maps.
///
/// # Errors
/// For 2³¹ elements or more on a side.
pub fn resize_backward(t: Type, map: Map, height: usize, width: usize) -> Result<Plan, Limit> {
    resize_plan(t, map, height, width, true)
}

fn resize_plan(
    t: Type,
    map: Map,
    height: usize,
    width: usize,
    backward: bool,
) -> Result<Plan, Limit> {
    const OP: &str = "resize_bilinear";
    let from = map.count(OP)?;
    let to = Map { height, width, ..map }.count(OP)?;
    let (name, input, output) =
        if backward { ("resize_backward", to, from) } else { ("resize", from, to) };
    let mut p = Plan::default();
    let mut args = vec![p.input(t, input as usize), p.output(t, output as usize)];
    let sizes = [map.height, map.width, height, width, map.channels];
    args.extend(sizes.map(|n| Arg::U32(n as u32)));
    args.push(Arg::U32(output));
    p.each(Module::Resize, name, t, output, args);
    Ok(p)
}

/// Which bands a transform gives or takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bands {
    /// LL.
    Approx,
    /// LH, HL, HH, one after another along the channels.
    Details,
    /// LL, and then the details.
    Both,
}

/// The one-level 2-D Haar transform of maps; an odd last row or column is dropped. Input x; output
/// the bands asked for, [`Bands::Both`] one after the other in one buffer.
///
/// For a block `[[a, b], [c, d]]` LL = (a+b+c+d)/2, LH = (a+b−c−d)/2, HL = (a−b+c−d)/2,
/// HH = (a−b−c+d)/2.
///
/// # Errors
/// For 2³¹ elements or more.
pub fn haar(t: Type, map: Map, bands: Bands) -> Result<Plan, Limit> {
    let n = map.count("dwt2")? as usize;
    let half = half(map) as u32;
    let mut p = Plan::default();
    let x = p.input(t, n);
    let [approx, details] = split(&mut p, t, half as usize, bands, Plan::output);
    let mut args = vec![x, approx, details];
    args.extend(map.sizes());
    args.push(Arg::U32(half));
    p.each(Module::Haar, "haar", t, half, args);
    Ok(p)
}

/// The transpose of [`haar`], and on even sizes its inverse. Input the bands (one buffer for one
/// kind, two for both), output maps of the size of `map`.
///
/// # Errors
/// For 2³¹ elements or more.
pub fn haar_inverse(t: Type, map: Map, bands: Bands) -> Result<Plan, Limit> {
    let n = map.count("idwt2")? as usize;
    let blocks = [map.batch, map.height.div_ceil(2), map.width.div_ceil(2), map.channels];
    let blocks = count("idwt2", "the number of elements", &blocks)?;
    let mut p = Plan::default();
    let half = half(map);
    let [approx, details] = match bands {
        Bands::Both => [p.input(t, half), p.input(t, 3 * half)],
        _ => split(&mut p, t, half, bands, Plan::input),
    };
    let mut args = vec![approx, details, p.output(t, n)];
    args.extend(map.sizes());
    args.push(Arg::U32(blocks));
    p.each(Module::Haar, "haar_inverse", t, blocks, args);
    Ok(p)
}

fn half(map: Map) -> usize {
    map.batch * (map.height / 2) * (map.width / 2) * map.channels
}

fn split(
    p: &mut Plan,
    t: Type,
    half: usize,
    bands: Bands,
    buffer: fn(&mut Plan, Type, usize) -> Arg,
) -> [Arg; 2] {
    match bands {
        Bands::Approx => [buffer(p, t, half), Arg::Null],
        Bands::Details => [Arg::Null, buffer(p, t, 3 * half)],
        Bands::Both => {
            let both = buffer(p, t, 4 * half);
            [both, both.at(half)]
        }
    }
}

/// Dense k×k convolution, stride 1, padding k/2. Inputs x (the map), weight (outputs×channels×k×k)
/// and, with `bias`, the bias; output batch×height×width×outputs.
///
/// # Errors
/// For 2³¹ elements or more, or k above 1023.
pub fn conv(t: Type, map: Map, outputs: usize, k: usize, bias: bool) -> Result<Plan, Limit> {
    conv_plan(t, map, outputs, k, bias, false)
}

/// The gradient of [`conv`]'s input. Inputs dy (`map`, whose channels are the convolution's outputs)
/// and the weight (channels×inputs×k×k); output batch×height×width×inputs.
///
/// # Errors
/// As [`conv`].
pub fn conv_adjoint(t: Type, map: Map, inputs: usize, k: usize) -> Result<Plan, Limit> {
    conv_plan(t, map, inputs, k, false, true)
}

fn conv_plan(
    t: Type,
    map: Map,
    outputs: usize,
    k: usize,
    bias: bool,
    adjoint: bool,
) -> Result<Plan, Limit> {
    const OP: &str = "conv2d";
    const ROWS: u32 = 128;
    let n = map.count(OP)? as usize;
    let window = check_window(OP, k)?;
    let out = Map { channels: outputs, ..map }.count(OP)? as usize;
    let weights = count(OP, "the number of weights", &[map.channels, outputs, k, k])?;
    let mut p = Plan::default();
    let (x, weight) = (p.input(t, n), p.input(t, weights as usize));
    let bias = if bias { p.input(t, outputs) } else { Arg::Null };
    let packed = p.scratch(t, weights as usize);
    let y = p.output(t, out);
    let (inputs, outputs) = (map.channels as u32, outputs as u32);
    let taps = window * window;
    let (first, second) = if adjoint { (inputs, outputs) } else { (outputs, inputs) };
    let sizes = [first, second, taps, adjoint.into()].map(Arg::U32);
    p.each(Module::Conv, "conv_pack", t, weights, [&[weight, packed], &sizes[..]].concat());
    let pixels = count(OP, "the number of pixels", &[map.batch, map.height, map.width])?;
    let (height, width) = (map.height as u32, map.width as u32);
    let sizes = ConvSizes { height, width, inputs, outputs, k: window, pixels };
    // Few outputs would leave most of a wide block idle.
    let (name, columns) = match t {
        Type::F32 if outputs <= 16 => ("conv_narrow", 16),
        _ => ("conv", 64),
    };
    let grid = pixels.div_ceil(ROWS) as usize * outputs.div_ceil(columns) as usize;
    let grid = count(OP, "the number of blocks", &[grid])?;
    let kernel = format!("{name}_{}", t.suffix());
    p.blocks(Module::Conv, kernel, grid, 256, vec![Arg::Conv(sizes), x, packed, bias, y]);
    Ok(p)
}

/// The gradients of [`conv`]'s weight and bias. Inputs x (the map) and dy; output
/// outputs×channels×k×k, then outputs.
///
/// # Errors
/// As [`conv`].
pub fn conv_weight(t: Type, map: Map, outputs: usize, k: usize) -> Result<Plan, Limit> {
    const OP: &str = "conv2d";
    const SIDE: u32 = 64;
    /// Blocks that fill a large GPU, and the most memory for partial sums, in elements.
    const BLOCKS: usize = 1024;
    const ROOM: usize = 1 << 26;
    let (n, window) = (map.count(OP)? as usize, check_window(OP, k)?);
    let grad = Map { channels: outputs, ..map }.count(OP)? as usize;
    let weights = count(OP, "the number of weights", &[map.channels, outputs, k, k])?;
    let pixels = count(OP, "the number of pixels", &[map.batch, map.height, map.width])?;
    let (inputs, columns) = (map.channels as u32, outputs as u32);
    let taps = window * window;
    let tiles = (taps * inputs).div_ceil(SIDE) as usize * columns.div_ceil(SIDE) as usize;
    let most = (BLOCKS / tiles.max(1)).min(ROOM / (weights as usize).max(1)).max(1);
    let each = pixels.div_ceil(most as u32).next_multiple_of(64).max(64);
    let count = pixels.div_ceil(each).max(1);
    let mut p = Plan::default();
    let (x, dy) = (p.input(t, n), p.input(t, grad));
    let out = p.output(t, weights as usize + outputs);
    let sums = p.scratch(Type::F32, weights as usize * count as usize);
    let (height, width) = (map.height as u32, map.width as u32);
    let sizes = ConvSizes { height, width, inputs, outputs: columns, k: window, pixels };
    let grid = crate::launch::count(OP, "the number of blocks", &[tiles, count as usize])?;
    let kernel = format!("conv_weight_{}", t.suffix());
    let args = vec![Arg::Conv(sizes), x, dy, sums, Arg::U32(each)];
    p.blocks(Module::Conv, kernel, grid, 256, args);
    let numbers = [columns, inputs, taps, count].map(Arg::U32);
    let args = [&[sums, out], &numbers[..]].concat();
    p.each(Module::Conv, "conv_weight_sum", t, weights, args);
    sum_columns(&mut p, t, [dy, Arg::Null], out.at(weights as usize), pixels, columns);
    Ok(p)
}
