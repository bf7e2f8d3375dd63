use std::sync::Arc;

use candle_core::{Error, Result};

/// In which order the positions of an H×W map are visited: a permutation of them, as data.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use isfm_ssm::ScanOrder;
/// let columns = ScanOrder::columns(2, 3)?; // positions: 0 1 2
/// assert_eq!(columns.positions(), [0, 3, 1, 4, 2, 5]); // 3 4 5
/// assert_eq!(columns.reversed().positions(), [5, 2, 4, 1, 3, 0]);
/// let own = ScanOrder::new(1, 4, vec![2, 0, 3, 1])?;
/// assert_eq!(own.steps(), [1, 3, 0, 2]);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanOrder {
    height: usize,
    width: usize,
    positions: Arc<[u32]>,
    steps: Arc<[u32]>,
}

impl ScanOrder {
    /// An order of one's own: `positions[t]` = row · `width` + column of what step t visits.
    ///
    /// # Errors
    /// If the map has no position or more than 2³² − 1, or not every position is there once.
    pub fn new(height: usize, width: usize, positions: Vec<u32>) -> Result<Self> {
        let error = |message: String| order_error(height, width, &message);
        let len = size(height, width)?;
        if positions.len() != len {
            return Err(error(format!("{} positions, needs {len}", positions.len())));
        }
        const NOT_YET: u32 = u32::MAX;
        let mut steps = vec![NOT_YET; len];
        for (t, &p) in positions.iter().enumerate() {
            match steps.get_mut(p as usize) {
                None => return Err(error(format!("step {t} visits {p}, needs less than {len}"))),
                Some(step) if *step != NOT_YET => {
                    return Err(error(format!("steps {step} and {t} both visit {p}")));
                }
                Some(step) => *step = t as u32,
            }
        }
        Ok(Self { height, width, positions: positions.into(), steps: steps.into() })
    }

    /// Row by row, each from left to right.
    ///
    /// # Errors
    /// If the map has no position or more than 2³² − 1; so do all the other orders.
    pub fn rows(height: usize, width: usize) -> Result<Self> {
        Self::walk(height, width, |visit| {
            for i in 0..height {
                (0..width).for_each(|j| visit(i, j));
            }
        })
    }

    /// Column by column, each from top to bottom.
    ///
    /// # Errors
    /// As [`ScanOrder::rows`].
    pub fn columns(height: usize, width: usize) -> Result<Self> {
        Self::walk(height, width, |visit| {
            for j in 0..width {
                (0..height).for_each(|i| visit(i, j));
            }
        })
    }

    /// Row by row, to the right and to the left in turn, so that each step goes to a neighbour
    /// (Yang et al., "PlainMamba", 2024).
    ///
    /// # Errors
    /// As [`ScanOrder::rows`].
    pub fn snake(height: usize, width: usize) -> Result<Self> {
        Self::walk(height, width, |visit| {
            for i in 0..height {
                let column = |j| if i % 2 == 0 { j } else { width - 1 - j };
                (0..width).for_each(|j| visit(i, column(j)));
            }
        })
    }

    /// Diagonal by diagonal from the top left corner, each from its top right end to its bottom
    /// left one. [`ScanOrder::mirrored`] gives the other diagonals.
    ///
    /// # Errors
    /// As [`ScanOrder::rows`].
    pub fn diagonals(height: usize, width: usize) -> Result<Self> {
        Self::walk(height, width, |visit| {
            for sum in 0..height + width - 1 {
                for i in (sum + 1).saturating_sub(width)..height.min(sum + 1) {
                    visit(i, sum - i);
                }
            }
        })
    }

    /// Along a Hilbert curve, generalised to any rectangle: each step goes to one of the eight
    /// neighbours, and with even sides only to one of the four. It starts in the top left corner.
    ///
    /// The rectangle is cut in two along its long side, or in three as Hilbert's curve is, where
    /// the parts are given even sides as long as there are any (after J. Červený's "gilbert").
    ///
    /// # Errors
    /// As [`ScanOrder::rows`].
    pub fn hilbert(height: usize, width: usize) -> Result<Self> {
        Self::walk(height, width, |visit| {
            let (h, w) = (height as i64, width as i64);
            let mut visit = |(i, j): Cell| visit(i as usize, j as usize);
            if w >= h {
                hilbert((0, 0), (0, w), (h, 0), &mut visit);
            } else {
                hilbert((0, 0), (h, 0), (0, w), &mut visit);
            }
        })
    }

    /// Windows of `window_height`×`window_width` positions row by row, and row by row inside each
    /// (Huang et al., "LocalMamba", 2024). Windows at the right and at the bottom may be smaller.
    ///
    /// # Errors
    /// As [`ScanOrder::rows`], or if a window has no positions.
    pub fn windows(
        height: usize,
        width: usize,
        window_height: usize,
        window_width: usize,
    ) -> Result<Self> {
        if window_height == 0 || window_width == 0 {
            let message = format!("windows of {window_height}×{window_width} are empty");
            return Err(order_error(height, width, &message));
        }
        Self::walk(height, width, |visit| {
            for top in (0..height).step_by(window_height) {
                for left in (0..width).step_by(window_width) {
                    for i in top..height.min(top.saturating_add(window_height)) {
                        let right = width.min(left.saturating_add(window_width));
                        (left..right).for_each(|j| visit(i, j));
                    }
                }
            }
        })
    }

    /// The four orders of VMamba (Liu et al., 2024), in its order: rows, columns, and the reverse
    /// of each.
    ///
    /// # Errors
    /// As [`ScanOrder::rows`].
    pub fn vmamba(height: usize, width: usize) -> Result<[Self; 4]> {
        let (rows, columns) = (Self::rows(height, width)?, Self::columns(height, width)?);
        let reversed = [rows.reversed(), columns.reversed()];
        let [rows_back, columns_back] = reversed;
        Ok([rows, columns, rows_back, columns_back])
    }

    /// The same order from its end to its start.
    #[must_use]
    pub fn reversed(&self) -> Self {
        let last = self.len() as u32 - 1;
        Self {
            positions: self.positions.iter().rev().copied().collect(),
            steps: self.steps.iter().map(|t| last - t).collect(),
            ..*self
        }
    }

    /// The same order on the map mirrored left to right.
    #[must_use]
    pub fn mirrored(&self) -> Self {
        // The mirror image of a permutation is one: this cannot fail.
        let width = self.width as u32;
        let mirror = |p: u32| p / width * width + (width - 1 - p % width);
        let positions: Arc<[u32]> = self.positions.iter().map(|&p| mirror(p)).collect();
        let steps = (0..self.len() as u32).map(|p| self.steps[mirror(p) as usize]).collect();
        Self { positions, steps, ..*self }
    }

    /// The same order on the transposed map, W×H.
    #[must_use]
    pub fn transposed(&self) -> Self {
        let (h, w) = (self.height as u32, self.width as u32);
        Self {
            height: self.width,
            width: self.height,
            positions: self.positions.iter().map(|&p| p % w * h + p / w).collect(),
            steps: (0..h * w).map(|p| self.steps[(p % h * w + p / h) as usize]).collect(),
        }
    }

    /// Rows of the map.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns of the map.
    pub fn width(&self) -> usize {
        self.width
    }

    /// How many positions there are; never 0.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// What each step visits: row · W + column.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// When each position is visited: the inverse of [`ScanOrder::positions`].
    pub fn steps(&self) -> &[u32] {
        &self.steps
    }

    /// The order in which `walk` calls its argument with row and column.
    fn walk(
        height: usize,
        width: usize,
        walk: impl FnOnce(&mut dyn FnMut(usize, usize)),
    ) -> Result<Self> {
        let mut positions = Vec::with_capacity(size(height, width)?);
        walk(&mut |i, j| positions.push((i * width + j) as u32));
        Self::new(height, width, positions)
    }
}

/// H·W, if positions can be counted.
fn order_error(height: usize, width: usize, message: &str) -> Error {
    Error::msg(format!("scan order of {height}×{width}: {message}"))
}

fn size(height: usize, width: usize) -> Result<usize> {
    let message = match height.checked_mul(width) {
        Some(0) => "needs at least one position",
        Some(len) if len < u32::MAX as usize => return Ok(len),
        _ => "more positions than 32 bits can count",
    };
    Err(order_error(height, width, message))
}

/// Row and column, or a step between cells.
type Cell = (i64, i64);

/// Visits the parallelogram at `start` with the sides `along` and `across`, both along an axis,
/// from `start` to the end of `along`.
fn hilbert(start: Cell, along: Cell, across: Cell, visit: &mut impl FnMut(Cell)) {
    let length = |v: Cell| (v.0 + v.1).abs();
    let unit = |v: Cell| (v.0.signum(), v.1.signum());
    let add = |a: Cell, b: Cell| (a.0 + b.0, a.1 + b.1);
    let sub = |a: Cell, b: Cell| (a.0 - b.0, a.1 - b.1);
    // Half of a side; an odd half grows by one where an even one is needed.
    let half = |v: Cell| {
        let h = (v.0.div_euclid(2), v.1.div_euclid(2));
        if length(h) % 2 == 1 && length(v) > 2 { add(h, unit(v)) } else { h }
    };
    let (long, high) = (length(along), length(across));
    if high == 1 || long == 1 {
        let (step, count) = if high == 1 { (unit(along), long) } else { (unit(across), high) };
        let mut cell = start;
        for _ in 0..count {
            visit(cell);
            cell = add(cell, step);
        }
    } else if 2 * long > 3 * high {
        let first = half(along);
        hilbert(start, first, across, visit);
        hilbert(add(start, first), sub(along, first), across, visit);
    } else {
        let up = half(across);
        let right = (along.0.div_euclid(2), along.1.div_euclid(2));
        let back = sub((0, 0), up);
        hilbert(start, up, right, visit);
        hilbert(add(start, up), along, sub(across, up), visit);
        // Down again, from the last column of the lower part.
        let corner = add(add(start, sub(along, unit(along))), sub(up, unit(across)));
        hilbert(corner, back, sub(right, along), visit);
    }
}
