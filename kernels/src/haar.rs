//! Plans of the Haar transform, `haar.cu`.

use crate::launch::count;
use crate::{Arg, Limit, Map, Module, Plan, Type};

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
    let mut p = Plan::new();
    let x = p.input(t, n);
    let [approx, details] = split(&mut p, t, half as usize, bands, Plan::output);
    let args: [&[Arg]; 3] = [&[x, approx, details], &map.sizes(), &[Arg::U32(half)]];
    p.each(Module::Haar, t.kernel("haar"), half, &args);
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
    let mut p = Plan::new();
    let half = half(map);
    let [approx, details] = match bands {
        Bands::Both => [p.input(t, half), p.input(t, 3 * half)],
        _ => split(&mut p, t, half, bands, Plan::input),
    };
    let x = p.output(t, n);
    let args: [&[Arg]; 3] = [&[approx, details, x], &map.sizes(), &[Arg::U32(blocks)]];
    p.each(Module::Haar, t.kernel("haar_inverse"), blocks, &args);
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
