//! Plane projective maps.

use crate::{Error, Result};

/// A plane projective map: where a pixel of the infrared picture lies on the visible one. Pixels'
/// centres have whole coordinates, from 0 at the upper left.
///
/// ```
/// // An infrared frame of half the size, whose first pixel is the visible one's at (10, 20).
/// let homography = isfm_align::Homography::new([2., 0., 10., 0., 2., 20., 0., 0., 1.])?;
/// assert_eq!(homography.apply([3., 4.]), [16., 28.]);
/// # Ok::<(), isfm_align::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Homography {
    matrix: [f64; 9],
    inverse: [f64; 9],
}

impl Homography {
    /// Every pixel stays where it is.
    pub const IDENTITY: Self = Self {
        matrix: [1., 0., 0., 0., 1., 0., 0., 0., 1.],
        inverse: [1., 0., 0., 0., 1., 0., 0., 0., 1.],
    };

    /// From a matrix row by row, of any scale.
    ///
    /// # Errors
    /// [`Error::Matrix`] if a number is not finite, or the matrix is singular or nearly so.
    pub fn new(matrix: [f64; 9]) -> Result<Self> {
        let refuse = |needed| Err(Error::Matrix { got: matrix.to_vec(), needed });
        if matrix.iter().any(|v| !v.is_finite()) {
            return refuse("nine finite numbers");
        }
        let largest = matrix.iter().fold(0_f64, |most, v| most.max(v.abs()));
        if largest == 0. {
            return refuse("numbers that are not all 0");
        }
        let m = matrix.map(|v| v / largest);
        let adjugate = adjugate(&m);
        let determinant = m[0] * adjugate[0] + m[1] * adjugate[3] + m[2] * adjugate[6];
        // The volume that its rows span, as a part of what they could: 0 for a singular one.
        let length = |row: usize| m[3 * row..][..3].iter().map(|v| v * v).sum::<f64>().sqrt();
        let volume = length(0) * length(1) * length(2);
        // Not a number where the volume is beyond what floats hold.
        if determinant.is_nan() || determinant.abs() <= 1e-12 * volume {
            return refuse("a matrix that can be inverted");
        }
        Ok(Self { matrix, inverse: adjugate.map(|v| v / determinant) })
    }

    /// The matrix, as given.
    pub fn matrix(&self) -> [f64; 9] {
        self.matrix
    }

    /// The matrix of the way back, from visible pixels to infrared ones; of some scale.
    pub fn inverse_matrix(&self) -> [f64; 9] {
        self.inverse
    }

    /// Where a point of the infrared frame lies on the visible one; not finite for one at infinity.
    pub fn apply(&self, point: [f64; 2]) -> [f64; 2] {
        applied(&self.matrix, point)
    }

    /// The way back: from visible pixels to infrared ones.
    #[must_use]
    pub fn invert(&self) -> Self {
        Self { matrix: self.inverse, inverse: self.matrix }
    }

    /// This map after `first`.
    ///
    /// # Errors
    /// [`Error::Matrix`] if the product is beyond what floats hold.
    pub fn after(&self, first: &Self) -> Result<Self> {
        let mut product = product(&self.matrix, &first.matrix);
        let largest = product.iter().fold(0_f64, |most, v| most.max(v.abs()));
        if !(1e-100..=1e100).contains(&largest) {
            product = product.map(|v| v / largest);
        }
        Self::new(product)
    }

    /// The same map with a last number of 1, or as it is if that one is 0 (or nearly so).
    #[must_use]
    pub fn scaled(&self) -> Self {
        let (last, largest) =
            (self.matrix[8], self.matrix.iter().fold(0_f64, |most, v| most.max(v.abs())));
        if last.abs() <= 1e-12 * largest {
            return *self;
        }
        Self::new(self.matrix.map(|v| v / last)).unwrap_or(*self)
    }
}

fn adjugate(m: &[f64; 9]) -> [f64; 9] {
    let minor = |a: usize, b: usize, c: usize, d: usize| m[a] * m[d] - m[b] * m[c];
    [
        minor(4, 5, 7, 8),
        -minor(1, 2, 7, 8),
        minor(1, 2, 4, 5),
        -minor(3, 5, 6, 8),
        minor(0, 2, 6, 8),
        -minor(0, 2, 3, 5),
        minor(3, 4, 6, 7),
        -minor(0, 1, 6, 7),
        minor(0, 1, 3, 4),
    ]
}

pub(crate) fn applied(m: &[f64; 9], [x, y]: [f64; 2]) -> [f64; 2] {
    let w = m[6] * x + m[7] * y + m[8];
    [(m[0] * x + m[1] * y + m[2]) / w, (m[3] * x + m[4] * y + m[5]) / w]
}

pub(crate) fn product(a: &[f64; 9], b: &[f64; 9]) -> [f64; 9] {
    std::array::from_fn(|i| {
        let (row, column) = (i / 3, i % 3);
        (0..3).map(|k| a[3 * row + k] * b[3 * k + column]).sum()
    })
}
