use crate::{Direction, Error, Result};

/// Each method's mean rank over all metrics.
///
/// `table` has a row for each method and a column for each metric; `directions` says for each
/// column which end is good. The best value of a column has rank 1; equal values share the mean of
/// their places (two firsts get 1.5 each). Infinite values are ranked like any other.
///
/// ```
/// use isfm_metrics::{Direction::{Higher, Lower}, average_rank};
/// // Three methods, two metrics.
/// let ranks = average_rank(&[[6.4, 10.], [7.1, 10.], [6.9, 30.]], &[Higher, Lower])?;
/// assert_eq!(ranks, [(3. + 1.5) / 2., (1. + 1.5) / 2., (2. + 3.) / 2.]);
/// # Ok::<(), isfm_metrics::Error>(())
/// ```
///
/// # Errors
/// If the table has no methods or no metrics, if a row's length is not the number of directions,
/// or if a score is NaN.
pub fn average_rank<R: AsRef<[f64]>>(table: &[R], directions: &[Direction]) -> Result<Vec<f64>> {
    let (methods, metrics) = (table.len(), directions.len());
    if methods == 0 || metrics == 0 {
        return Err(Error::TableEmpty { methods, metrics });
    }
    for (row, scores) in table.iter().map(AsRef::as_ref).enumerate() {
        if scores.len() != metrics {
            return Err(Error::TableRow { row, got: scores.len(), needed: metrics });
        }
        if let Some(column) = scores.iter().position(|s| s.is_nan()) {
            return Err(Error::TableNan { row, column });
        }
    }
    let rank_of = |row: &R| {
        let ranks = row.as_ref().iter().zip(directions).enumerate().map(|(column, (&own, dir))| {
            let (mut better, mut equal) = (0usize, 0usize);
            for other in table.iter().map(|row| row.as_ref()[column]) {
                let ahead = match dir {
                    Direction::Higher => other > own,
                    Direction::Lower => other < own,
                };
                better += usize::from(ahead);
                equal += usize::from(other == own);
            }
            // `equal` counts the method itself.
            better as f64 + (equal + 1) as f64 / 2.
        });
        ranks.sum::<f64>() / metrics as f64
    };
    Ok(table.iter().map(rank_of).collect())
}
