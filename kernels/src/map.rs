//! Plans of the operations on channel-last maps: convolutions, pools, resize, the Haar transform.

use crate::launch::count;
use crate::pointwise::{sum_blocks, sum_columns};
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

/// How threads walk down maps in strips of `columns` columns and `pack` channels (`Strip` in
/// `window.cu`): rows of a strip, fewer where a GPU would not be full else, and how many strips.
/// Without a pack, or where the channels do not come in such, 0 and the number of elements.
fn strips(map: Map, pack: Option<usize>, columns: usize) -> (u32, u32) {
    /// What fills a large GPU twice.
    const THREADS: usize = 1 << 17;
    const FEWEST: usize = 4;
    const MOST: usize = 16;
    let Map { batch, height, width, channels } = map;
    let Some(pack) = pack.filter(|&pack| channels.is_multiple_of(pack)) else {
        return (0, (batch * height * width * channels) as u32);
    };
    let across = batch * width.div_ceil(columns) * (channels / pack);
    let rows = (across * height / THREADS).clamp(FEWEST, MOST);
    (rows as u32, (across * height.div_ceil(rows)) as u32)
}

/// Columns of a strip (`WALK_COLUMNS`).
fn strip_columns(t: Type) -> usize {
    8 / Element::from(t).size()
}

/// Channels that a thread of a depth-wise convolution takes: the weights fill its registers.
fn depthwise_pack(window: u32) -> Option<usize> {
    match window {
        3 => Some(4),
        5 => Some(2),
        _ => None,
    }
}

/// What a depth-wise convolution does beside convolving.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depthwise {
    /// Mirrored windows: the adjoint.
    pub flip: bool,
    /// Adds a bias.
    pub bias: bool,
    /// SiLU of the sums.
    pub silu: bool,
}

/// Depth-wise convolution, stride 1, padding k/2. Inputs x, weight (channels×k×k) and, if there is
/// one, the bias; output as x.
///
/// # Errors
/// For 2³¹ elements or more, or k above 1023.
pub fn depthwise(t: Type, map: Map, k: usize, how: Depthwise) -> Result<Plan, Limit> {
    const OP: &str = "depthwise_conv2d";
    let (size, window) = (map.count(OP)?, check_window(OP, k)?);
    let n = size as usize;
    count(OP, "the number of weights", &[map.channels, k, k])?;
    let mut p = Plan::default();
    let (x, weight) = (p.input(t, n), p.input(t, map.channels * k * k));
    let bias = if how.bias { p.input(t, map.channels) } else { Arg::Null };
    let mut args = vec![x, weight, bias, p.output(t, n)];
    args.extend(map.sizes());
    let flags = u32::from(how.flip) | u32::from(how.silu) << 1;
    let (rows, threads) = strips(map, depthwise_pack(window), strip_columns(t));
    args.extend([window, flags, size, rows].map(Arg::U32));
    p.each(Module::Window, "depthwise", t, threads, args);
    Ok(p)
}

/// The gradients of [`depthwise`]'s weight and bias. Inputs x, dy; output channels×k×k, then
/// channels.
///
/// # Errors
/// For 2³¹ elements or more, or k above 1023.
pub fn depthwise_weight(t: Type, map: Map, k: usize) -> Result<Plan, Limit> {
    const OP: &str = "depthwise_conv2d";
    /// Rows and columns of a strip, threads of a block, blocks that fill a large GPU twice, and the
    /// most memory for partial sums, in elements.
    const ROWS: u32 = 16;
    const COLUMNS: u32 = 2;
    const THREADS: u32 = 256;
    const BLOCKS: u32 = 512;
    const ROOM: u32 = 1 << 22;
    let (n, window) = (map.count(OP)? as usize, check_window(OP, k)?);
    let values = count(OP, "the number of weights", &[map.channels, k * k + 1])?;
    count(OP, "the number of pixels", &[map.batch, map.height, map.width])?;
    let (batch, channels) = (map.batch as u32, map.channels as u32);
    let strips = batch * (map.height as u32).div_ceil(ROWS) * (map.width as u32).div_ceil(COLUMNS);
    let pack = depthwise_pack(window).unwrap_or(1) as u32;
    let packs = if channels.is_multiple_of(pack) { channels / pack } else { channels };
    // A block has some packs, and as many strips at a time as there are threads for.
    let lanes = packs.next_power_of_two().min(32);
    let tiles = packs.div_ceil(lanes);
    let most = (BLOCKS / tiles.max(1)).min(ROOM / values.max(1)).max(1);
    let each = strips.div_ceil(most).max(1).next_multiple_of(THREADS / lanes);
    let parts = strips.div_ceil(each).max(1);
    let room = count(OP, "the number of partial sums", &[values as usize, parts as usize])?;
    let mut p = Plan::default();
    let (x, dy) = (p.input(t, n), p.input(t, n));
    let out = p.output(t, values as usize);
    let sums = p.scratch(Type::F32, room as usize);
    let mut args = vec![x, dy, sums];
    args.extend(map.sizes());
    args.extend([window, ROWS, strips, each, parts].map(Arg::U32));
    let kernel = |name: &str| format!("{name}_{}", t.suffix());
    p.blocks(Module::Window, kernel("depthwise_weight"), tiles * parts, THREADS, args);
    let args = [&[sums, out][..], &[channels, window * window, parts].map(Arg::U32)].concat();
    let blocks = sum_blocks(values);
    p.blocks(Module::Window, kernel("depthwise_weight_sum"), blocks, THREADS, args);
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
    let pack = matches!(window, 3 | 5).then_some(4);
    let (rows, threads) = strips(map, pack, strip_columns(t));
    args.extend([window, size, rows].map(Arg::U32));
    p.each(Module::Window, "avg_pool", t, threads, args);
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
    let (rows, threads) = strips(map, (window == 3).then_some(4), strip_columns(t));
    args.extend([window, size, rows].map(Arg::U32));
    p.each(Module::Window, "max_pool", t, threads, args);
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
    // Pixels need registers: narrower strips than for values.
    let (rows, threads) = strips(map, (window == 3).then_some(4), 2);
    let args = [&[x, Arg::Null, places], &sizes[..], &[Arg::U32(rows)]].concat();
    p.each(Module::Window, "max_pool", t, threads, args);
    let args = [&[places, dy, dx], &sizes[..]].concat();
    let threads = if map.channels.is_multiple_of(4) { size / 4 } else { size };
    p.each(Module::Window, "max_pool_backward", t, threads, args);
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
    let mut p = Plan::default();
    let (x, weight) = (p.input(t, n), p.input(t, weights as usize));
    let from = match start {
        Some(Start::Bias) => p.input(t, outputs),
        Some(Start::Map) => p.input(t, out),
        None => Arg::Null,
    };
    let packed = p.scratch(t, weights as usize);
    let y = p.output(t, out);
    let (inputs, outputs) = (map.channels as u32, outputs as u32);
    let taps = window * window;
    let (first, second) = if adjoint { (inputs, outputs) } else { (outputs, inputs) };
    let sizes = [first, second, taps, adjoint.into()].map(Arg::U32);
    p.each(Module::Conv, "conv_pack", t, weights, [&[weight, packed], &sizes[..]].concat());
    let pixels = count(OP, "the number of pixels", &[map.batch, map.height, map.width])?;
    let (height, width) = (map.height as u32, map.width as u32);
    let (from_map, silu) = ((start == Some(Start::Map)).into(), silu.into());
    let sizes = ConvSizes { height, width, inputs, outputs, k: window, pixels, from_map, silu };
    // Few outputs would leave most of a wide block idle. Windows of 3x3 over whole blocks of
    // channels are taken together.
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
    let kernel = format!("{name}_{}", t.suffix());
    p.blocks(Module::Conv, kernel, grid, threads, vec![Arg::Conv(sizes), x, packed, from, y]);
    Ok(p)
}

/// The gradients of [`conv`]'s weight and bias. Inputs x (the map) and dy; output
/// outputs×channels×k×k, then outputs.
///
/// # Errors
/// As [`conv`].
pub fn conv_weight(t: Type, map: Map, outputs: usize, k: usize) -> Result<Plan, Limit> {
    const OP: &str = "conv2d";
    /// Weights for one output, and outputs, of a block; pixels of a row that are taken together.
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
    let count = runs.div_ceil(each).max(1);
    let mut p = Plan::default();
    let (x, dy) = (p.input(t, n), p.input(t, grad));
    let out = p.output(t, weights as usize + outputs);
    let sums = p.scratch(Type::F32, weights as usize * count as usize);
    let (height, width) = (map.height as u32, map.width as u32);
    let (k, from_map, silu) = (window, 0, 0);
    let sizes = ConvSizes { height, width, inputs, outputs: columns, k, pixels, from_map, silu };
    let grid = crate::launch::count(OP, "the number of blocks", &[tiles, count as usize])?;
    let kernel = format!("conv_weight_{}", t.suffix());
    let args = vec![Arg::Conv(sizes), x, dy, sums, Arg::U32(each)];
    p.blocks(Module::Conv, kernel, grid, 128, args);
    let numbers = [columns, inputs, taps, count].map(Arg::U32);
    let args = [&[sums, out], &numbers[..]].concat();
    p.each(Module::Conv, "conv_weight_sum", t, weights, args);
    sum_columns(&mut p, t, [dy, Arg::Null], out.at(weights as usize), pixels, columns);
    Ok(p)
}
