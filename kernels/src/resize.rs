//! Plans of the bilinear resize, `resize.cu`.

use crate::launch::at_most;
use crate::{Arg, Limit, Map, Module, Plan, Type};

/// Bilinear resize to `height`×`width`. Input x, output the result.
///
/// # Errors
/// For 2³¹ elements or more on a side, or a result that is made of maps without pixels.
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
    if from == 0 && !backward {
        at_most(OP, "the number of elements made of none", to as usize, 0)?;
    }
    let (name, input, output) =
        if backward { ("resize_backward", to, from) } else { ("resize", from, to) };
    let mut p = Plan::new();
    let buffers = [p.input(t, input as usize), p.output(t, output as usize)];
    let sizes = [map.height, map.width, height, width, map.channels, output as usize];
    let sizes = sizes.map(|n| Arg::U32(n as u32));
    p.each(Module::Resize, t.kernel(name), output, &[&buffers, &sizes]);
    Ok(p)
}
