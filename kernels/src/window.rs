//! Plans of the operations that treat each channel's windows alone, `window.cu`: depth-wise
//! convolution and pools.

use crate::launch::count;
use crate::map::check_window;
use crate::sums::sum_blocks;
use crate::{Arg, Element, Limit, Map, Module, Plan, Type};

/// How threads walk down maps in strips of `columns` columns and `pack` channels (`Strip` in
/// `window.cu`): rows of a strip, fewer if the strips would not fill a GPU, and the number of
/// strips. Without a pack, or if the channels are no multiple of it, 0 and the number of elements.
fn strips(map: Map, pack: Option<usize>, columns: usize) -> (u32, u32) {
    /// Threads that fill a large GPU twice.
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
    let mut p = Plan::new();
    let (x, weight) = (p.input(t, n), p.input(t, map.channels * k * k));
    let bias = if how.bias { p.input(t, map.channels) } else { Arg::Null };
    let buffers = [x, weight, bias, p.output(t, n)];
    let flags = u32::from(how.flip) | u32::from(how.silu) << 1;
    let (rows, threads) = strips(map, depthwise_pack(window), strip_columns(t));
    let numbers = [window, flags, size, rows].map(Arg::U32);
    let args: [&[Arg]; 3] = [&buffers, &map.sizes(), &numbers];
    p.each(Module::Window, t.kernel("depthwise"), threads, &args);
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
    // A block takes `lanes` packs, and as many strips at a time as its threads allow.
    let lanes = packs.next_power_of_two().min(32);
    let tiles = packs.div_ceil(lanes);
    let most = (BLOCKS / tiles.max(1)).min(ROOM / values.max(1)).max(1);
    let each = strips.div_ceil(most).max(1).next_multiple_of(THREADS / lanes);
    let parts = strips.div_ceil(each).max(1);
    let room = count(OP, "the number of partial sums", &[values as usize, parts as usize])?;
    let mut p = Plan::new();
    let (x, dy) = (p.input(t, n), p.input(t, n));
    let out = p.output(t, values as usize);
    let sums = p.temporary(Type::F32, room as usize);
    let numbers = [window, ROWS, strips, each, parts].map(Arg::U32);
    let args: [&[Arg]; 3] = [&[x, dy, sums], &map.sizes(), &numbers];
    p.blocks(Module::Window, t.kernel("depthwise_weight"), [tiles * parts, THREADS], &args);
    let args: [&[Arg]; 2] = [&[sums, out], &[channels, window * window, parts].map(Arg::U32)];
    let blocks = [sum_blocks(values), THREADS];
    p.blocks(Module::Window, t.kernel("depthwise_weight_sum"), blocks, &args);
    Ok(p)
}

/// The mean of every k×k window, zeros outside counted; its own gradient. Input x, output the same.
///
/// # Errors
/// For 2³¹ elements or more, or k above 1023.
pub fn avg_pool(t: Type, map: Map, k: usize) -> Result<Plan, Limit> {
    let (size, window) = (map.count("avg_pool2d")?, check_window("avg_pool2d", k)?);
    let mut p = Plan::new();
    let buffers = [p.input(t, size as usize), p.output(t, size as usize)];
    let pack = matches!(window, 3 | 5).then_some(4);
    let (rows, threads) = strips(map, pack, strip_columns(t));
    let args: [&[Arg]; 3] = [&buffers, &map.sizes(), &[window, size, rows].map(Arg::U32)];
    p.each(Module::Window, t.kernel("avg_pool"), threads, &args);
    Ok(p)
}

/// The largest value of every k×k window. Input x, output the same.
///
/// # Errors
/// For 2³¹ elements or more, or k above 1023.
pub fn max_pool(t: Type, map: Map, k: usize) -> Result<Plan, Limit> {
    let (size, window) = (map.count("max_pool2d")?, check_window("max_pool2d", k)?);
    let mut p = Plan::new();
    let buffers = [p.input(t, size as usize), p.output(t, size as usize), Arg::Null];
    let (rows, threads) = strips(map, (window == 3).then_some(4), strip_columns(t));
    let args: [&[Arg]; 3] = [&buffers, &map.sizes(), &[window, size, rows].map(Arg::U32)];
    p.each(Module::Window, t.kernel("max_pool"), threads, &args);
    Ok(p)
}

/// The gradient of [`max_pool`]. Inputs x, dy; output dx.
///
/// # Errors
/// For 2³¹ elements or more, or k above 1023.
pub fn max_pool_backward(t: Type, map: Map, k: usize) -> Result<Plan, Limit> {
    let (size, window) = (map.count("max_pool2d")?, check_window("max_pool2d", k)?);
    let n = size as usize;
    let mut p = Plan::new();
    let (x, dy, dx) = (p.input(t, n), p.input(t, n), p.output(t, n));
    let places = p.temporary(Element::U32, n);
    let (sizes, numbers) = (map.sizes(), [window, size].map(Arg::U32));
    // Pixel positions take registers too, so strips are narrower than for values alone.
    let (rows, threads) = strips(map, (window == 3).then_some(4), 2);
    let args: [&[Arg]; 4] = [&[x, Arg::Null, places], &sizes, &numbers, &[Arg::U32(rows)]];
    p.each(Module::Window, t.kernel("max_pool"), threads, &args);
    let threads = if map.channels.is_multiple_of(4) { size / 4 } else { size };
    let args: [&[Arg]; 3] = [&[places, dy, dx], &sizes, &numbers];
    p.each(Module::Window, t.kernel("max_pool_backward"), threads, &args);
    Ok(p)
}
