use candle_core::{Error, Result, Tensor};

/// Refuses two inputs of different shapes.
pub(crate) fn same_shape(
    block: &str,
    (first, a): (&str, &Tensor),
    (second, b): (&str, &Tensor),
) -> Result<()> {
    if a.dims() == b.dims() {
        return Ok(());
    }
    let (a, b) = (a.dims(), b.dims());
    Err(Error::msg(format!("{block}: {first} is {a:?}, {second} is {b:?}; they must be equal")))
}
