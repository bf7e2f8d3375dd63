//! Sobel edges, row by row.

use crate::plane::Grid;

/// What lies beyond an image's border.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Border {
    /// Zeros.
    Zero,
    /// The image mirrored about its outermost pixels, which are not repeated.
    Mirror,
}

impl Border {
    fn row(self, y: isize, g: &Grid) -> Option<usize> {
        let last = g.h as isize - 1;
        let inside = match self {
            Border::Zero => y,
            Border::Mirror if last == 0 => 0,
            Border::Mirror if y < 0 => -y,
            Border::Mirror if y > last => 2 * last - y,
            Border::Mirror => y,
        };
        (0..=last).contains(&inside).then_some(inside as usize)
    }
}

/// One row's derivatives.
#[derive(Clone, Debug)]
pub(crate) struct Sobel {
    /// From left to right, 8 times the slope.
    pub(crate) gx: Vec<f64>,
    /// From below to above, 8 times the slope.
    pub(crate) gy: Vec<f64>,
    /// Sums down the columns, one pixel further on the left and on the right.
    smooth: Vec<f64>,
    slope: Vec<f64>,
    zeros: Vec<f64>,
}

impl Sobel {
    pub(crate) fn new(w: usize) -> Self {
        let row = vec![0.; w];
        let sums = vec![0.; w + 2];
        Self { gx: row.clone(), gy: row.clone(), smooth: sums.clone(), slope: sums, zeros: row }
    }

    #[inline(always)]
    pub(crate) fn row(&mut self, g: &Grid, y: usize, border: Border) {
        let Self { gx, gy, smooth, slope, zeros } = self;
        let w = g.w;
        let [above, below] =
            [-1, 1].map(|d| border.row(y as isize + d, g).map_or(&zeros[..], |y| g.row(y)));
        let rows = above.iter().zip(g.row(y)).zip(below);
        let sums = smooth[1..].iter_mut().zip(&mut slope[1..]);
        for ((smooth, slope), ((a, b), c)) in sums.zip(rows) {
            *smooth = a + 2. * b + c;
            *slope = a - c;
        }
        for sums in [&mut *smooth, &mut *slope] {
            (sums[0], sums[w + 1]) = match border {
                Border::Zero => (0., 0.),
                Border::Mirror if w == 1 => (sums[1], sums[1]),
                Border::Mirror => (sums[2], sums[w - 1]),
            };
        }
        let (left, right) = (&smooth[..w], &smooth[2..w + 2]);
        for ((gx, left), right) in gx.iter_mut().zip(left).zip(right) {
            *gx = right - left;
        }
        let (left, centre, right) = (&slope[..w], &slope[1..w + 1], &slope[2..w + 2]);
        for (((gy, a), b), c) in gy.iter_mut().zip(left).zip(centre).zip(right) {
            *gy = a + 2. * b + c;
        }
    }
}
