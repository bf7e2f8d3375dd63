/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two inputs that must have one shape do not.
    #[error(
        "{block}: {first} is {first_shape:?}, {second} is {second_shape:?}; they must be equal"
    )]
    Mismatch {
        /// The block.
        block: &'static str,
        /// The first input's name.
        first: &'static str,
        /// Its shape.
        first_shape: Vec<usize>,
        /// The second input's name.
        second: &'static str,
        /// Its shape.
        second_shape: Vec<usize>,
    },
    /// An input of another shape than the others ask for.
    #[error("{block}: {what} are {got:?}, must be {needed:?}")]
    Shape {
        /// The block.
        block: &'static str,
        /// The input's name.
        what: &'static str,
        /// Its shape.
        got: Vec<usize>,
        /// The shape that would be right.
        needed: Vec<usize>,
    },
    /// An error of the tensor operations.
    #[error(transparent)]
    Ops(#[from] isfm_ops::Error),
    /// An error of the wavelet transform.
    #[error(transparent)]
    Dwt(#[from] isfm_dwt::Error),
    /// An error of the selective scan.
    #[error(transparent)]
    Ssm(#[from] isfm_ssm::Error),
    /// An error of Candle's own.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

pub(crate) fn same_shape(
    block: &'static str,
    first: (&'static str, &candle_core::Tensor),
    second: (&'static str, &candle_core::Tensor),
) -> Result<()> {
    if first.1.dims() == second.1.dims() {
        return Ok(());
    }
    Err(Error::Mismatch {
        block,
        first: first.0,
        first_shape: first.1.dims().to_vec(),
        second: second.0,
        second_shape: second.1.dims().to_vec(),
    })
}
