//! What transforms of several levels share.

use candle_core::{Shape, Tensor};

use crate::axis::Border;
use crate::{Error, Result};

/// Refuses more levels than any signal has; with [`Border::Drop`] than this one has.
pub(crate) fn check_levels(
    op: &'static str,
    border: Border,
    sizes: &[usize],
    levels: usize,
) -> Result<()> {
    // Other borders never run out of samples, and PyWavelets allows any number.
    check(op, sizes, levels, |n| match border {
        Border::Drop => n.checked_ilog2().unwrap_or(0),
        _ => usize::BITS,
    })
}

/// Refuses sizes that cannot be cut in 2^`levels` phases of one length.
pub(crate) fn check_stationary(op: &'static str, sizes: &[usize], levels: usize) -> Result<()> {
    check(op, sizes, levels, |n| if n == 0 { 0 } else { n.trailing_zeros() })
}

fn check(
    op: &'static str,
    sizes: &[usize],
    levels: usize,
    most: impl Fn(usize) -> u32,
) -> Result<()> {
    let most = sizes.iter().map(|&n| most(n)).min().unwrap_or(0) as usize;
    if levels <= most {
        return Ok(());
    }
    let size = sizes.iter().map(ToString::to_string).collect::<Vec<_>>().join("x");
    Err(Error::Levels { op, levels, size, most })
}

/// The coarsest approximation of several levels, then the details from the coarsest to the finest:
/// `one` takes apart an approximation, of the level (from 0).
pub(crate) fn decompose(
    x: &Tensor,
    levels: usize,
    one: impl Fn(&Tensor, usize) -> Result<(Tensor, Tensor)>,
) -> Result<Vec<Tensor>> {
    let mut coefficients = Vec::new();
    let mut approx = x.clone();
    for level in 0..levels {
        let details;
        (approx, details) = one(&approx, level)?;
        coefficients.push(details);
    }
    coefficients.push(approx);
    coefficients.reverse();
    Ok(coefficients)
}

/// The approximation and the details of a list of coefficients, which must not be empty.
pub(crate) fn first_of<'a>(
    op: &'static str,
    coefficients: &'a [Tensor],
) -> Result<(&'a Tensor, &'a [Tensor])> {
    let (got, needed) = ("empty".to_string(), "an approximation, then details".to_string());
    coefficients.split_first().ok_or(Error::Shape { op, what: "coefficients", got, needed })
}

/// The error for details that do not belong to the approximation.
pub(crate) fn mismatch(
    op: &'static str,
    details: &Tensor,
    approx: &Tensor,
    needed: &Shape,
) -> Error {
    let got = format!("{:?} of {:?}", details.dims(), details.dtype());
    let needed = format!("{:?} of {:?}", needed.dims(), approx.dtype());
    Error::Shape { op, what: "details", got, needed }
}

/// `x` with one sample less or more along `dim`, so that there are `n`.
pub(crate) fn fit(op: &'static str, x: &Tensor, dim: usize, n: usize) -> Result<Tensor> {
    let have = x.dim(dim)?;
    if have == n {
        Ok(x.clone())
    } else if have == n + 1 {
        Ok(x.narrow(dim, 0, n)?)
    } else if have + 1 == n && have > 0 {
        Ok(Tensor::cat(&[x, &x.narrow(dim, have - 1, 1)?], dim)?)
    } else {
        Err(Error::Shape {
            op,
            what: "a level's details",
            got: format!("{n} along dimension {dim}"),
            needed: format!("{have}, or one more or less"),
        })
    }
}
