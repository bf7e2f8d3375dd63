use candle_core::{Error, Result};

/// Refuses sizes of 0 or above `most`, and an expansion with more than `most` channels. Within
/// these limits no product of two sizes overflows.
pub(crate) fn check_sizes(
    of: &str,
    fields: &[(&str, usize)],
    most: usize,
    (d_model, expand): (usize, usize),
) -> Result<()> {
    let refuse = |field: &str, got: usize, needed: &str| {
        Err(Error::msg(format!("{of}: {field} is {got}, needs {needed}")))
    };
    match fields.iter().find(|(_, size)| *size == 0 || *size > most) {
        Some((field, got)) => refuse(field, *got, &format!("from 1 to {most}")),
        None if d_model * expand > most => {
            refuse("expand", expand, &format!("an expansion with at most {most} channels"))
        }
        None => Ok(()),
    }
}
