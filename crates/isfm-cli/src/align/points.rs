//! Points that somebody marked in both pictures.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    infrared_x: f64,
    infrared_y: f64,
    visible_x: f64,
    visible_y: f64,
}

/// Reads a table of points: of the infrared picture, and the same ones of the visible picture.
///
/// # Errors
/// What is wrong, with the line.
pub fn read(path: &Path) -> Result<Vec<([f64; 2], [f64; 2])>> {
    parse(&crate::text_of(path)?).with_context(|| {
        format!("{} (needs the columns infrared_x,infrared_y,visible_x,visible_y)", path.display())
    })
}

fn parse(text: &str) -> Result<Vec<([f64; 2], [f64; 2])>> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    reader
        .deserialize()
        .map(|row| {
            let Row { infrared_x, infrared_y, visible_x, visible_y } = row?;
            Ok(([infrared_x, infrared_y], [visible_x, visible_y]))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_may_stand_in_any_order_and_a_bad_line_is_named() {
        let text = "visible_x, visible_y, infrared_x, infrared_y\n1, 2, 3, 4.5\n";
        assert_eq!(parse(text).unwrap(), [([3., 4.5], [1., 2.])]);
        let told = format!("{:#}", parse(&format!("{text}1,2,3,four\n")).unwrap_err());
        assert!(told.contains("line: 3"), "{told}");
    }
}
