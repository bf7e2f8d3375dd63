//! The largest rectangle that both pictures cover.

/// A part of a picture, in whole pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rectangle {
    /// Columns before it.
    pub left: usize,
    /// Rows before it.
    pub top: usize,
    /// Its width; not 0.
    pub width: usize,
    /// Its height; not 0.
    pub height: usize,
}

impl Rectangle {
    /// The largest upright rectangle of pixels that are all set; of several that are, the first by its lower and then
    /// its right edge. None where no pixel is set.
    ///
    /// One pass over the rows with the heights of the columns above, and a stack of those that may still grow.
    pub fn largest(mask: &[bool], width: usize) -> Option<Self> {
        let mut heights = vec![0_usize; width];
        let mut best: Option<Self> = None;
        let mut open: Vec<(usize, usize)> = Vec::new();
        for (y, row) in mask.chunks_exact(width.max(1)).enumerate() {
            for (height, &set) in heights.iter_mut().zip(row) {
                *height = if set { *height + 1 } else { 0 };
            }
            open.clear();
            for x in 0..=width {
                let height = heights.get(x).copied().unwrap_or(0);
                let mut left = x;
                while let Some(&(start, tall)) = open.last()
                    && tall >= height
                {
                    open.pop();
                    left = start;
                    let found =
                        Self { left: start, top: y + 1 - tall, width: x - start, height: tall };
                    if tall > 0 && best.is_none_or(|b| found.area() > b.area()) {
                        best = Some(found);
                    }
                }
                open.push((left, height));
            }
        }
        best
    }

    /// Its number of pixels.
    pub fn area(&self) -> usize {
        self.width * self.height
    }

    /// A picture's pixels in it; `channels` values each.
    pub fn of<T: Copy>(&self, data: &[T], width: usize, channels: usize) -> Vec<T> {
        let row = |y: usize| &data[(y * width + self.left) * channels..][..self.width * channels];
        (self.top..self.top + self.height).flat_map(row).copied().collect()
    }
}
