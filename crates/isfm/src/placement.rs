//! Where an infrared frame lies on the visible one.

use std::path::Path;

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::F32;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use rayon::prelude::*;

use crate::{Error, Result};

/// A plane projective map: where a pixel of the infrared frame lies on the visible one. Pixels' centres
/// have whole coordinates, from 0 at the upper left.
///
/// ```
/// // An infrared frame of half the size, whose first pixel is the visible one's at (10, 20).
/// let homography = isfm::Homography::new([2., 0., 10., 0., 2., 20., 0., 0., 1.])?;
/// assert_eq!(homography.apply([3., 4.]), [16., 28.]);
/// # Ok::<(), isfm::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Homography {
    matrix: [f64; 9],
    /// From visible pixels to infrared ones.
    inverse: [f64; 9],
}

impl Homography {
    /// From a matrix row by row, of any scale.
    ///
    /// # Errors
    /// [`Error::Option`] if a number is not finite, or the matrix is singular or nearly so.
    pub fn new(matrix: [f64; 9]) -> Result<Self> {
        let refuse = |needed: &str| {
            let what = "the homography";
            Err(Error::Option { what, got: format!("{matrix:?}"), needed: needed.to_string() })
        };
        if matrix.iter().any(|v| !v.is_finite()) {
            return refuse("nine finite numbers");
        }
        let largest = matrix.iter().fold(0_f64, |most, v| most.max(v.abs()));
        if largest == 0. {
            return refuse("numbers that are not all 0");
        }
        let m = matrix.map(|v| v / largest);
        let minor = |a: usize, b: usize, c: usize, d: usize| m[a] * m[d] - m[b] * m[c];
        let inverse = [
            minor(4, 5, 7, 8),
            -minor(1, 2, 7, 8),
            minor(1, 2, 4, 5),
            -minor(3, 5, 6, 8),
            minor(0, 2, 6, 8),
            -minor(0, 2, 3, 5),
            minor(3, 4, 6, 7),
            -minor(0, 1, 6, 7),
            minor(0, 1, 3, 4),
        ];
        let determinant = m[0] * inverse[0] + m[1] * inverse[3] + m[2] * inverse[6];
        // The volume that its rows span, as a part of what they could: 0 for a singular one.
        let length = |row: usize| m[3 * row..][..3].iter().map(|v| v * v).sum::<f64>().sqrt();
        let volume = length(0) * length(1) * length(2);
        // Not a number where the volume is beyond what floats hold.
        if determinant.is_nan() || determinant.abs() <= 1e-12 * volume {
            return refuse("a matrix that can be inverted");
        }
        Ok(Self { matrix, inverse: inverse.map(|v| v / determinant) })
    }

    /// From the text of a JSON file: nine numbers row by row, or an object with them as `matrix`.
    ///
    /// # Errors
    /// [`Error::Option`] if it is neither, and as [`new`](Self::new).
    pub fn from_json(text: &str) -> Result<Self> {
        let what = "the homography";
        let refuse = |got: String| Error::Option {
            what,
            got,
            needed: "JSON: nine numbers row by row, or an object with them as \"matrix\""
                .to_string(),
        };
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|error| refuse(format!("no JSON ({error})")))?;
        let numbers = value.get("matrix").unwrap_or(&value).as_array();
        let numbers = numbers.ok_or_else(|| refuse("JSON without nine numbers".to_string()))?;
        let numbers: Vec<f64> = numbers.iter().filter_map(serde_json::Value::as_f64).collect();
        let count = numbers.len();
        let matrix = numbers.try_into().map_err(|_| refuse(format!("{count} numbers")))?;
        Self::new(matrix)
    }

    /// Reads [`from_json`](Self::from_json)'s file.
    ///
    /// # Errors
    /// If it cannot be read, and as [`from_json`](Self::from_json).
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = isfm_files::read_text(path).map_err(|source| {
            let path = path.to_path_buf();
            Error::Model(isfm_files::Error::Read { path, source }.into())
        })?;
        Self::from_json(&text)
    }

    /// The matrix, as given.
    pub fn matrix(&self) -> [f64; 9] {
        self.matrix
    }

    /// Where a point of the infrared frame lies on the visible one; not finite for one at infinity.
    pub fn apply(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        applied(&self.matrix, x, y)
    }

    /// A plane of the visible frame's size: the infrared values where the infrared frame lies,
    /// bilinear; elsewhere what `visible` has, so that fusing finds both alike there.
    pub(crate) fn place(
        &self,
        infrared: &[f32],
        (width, height): (usize, usize),
        visible: &[f32],
        visible_width: usize,
        out: &mut [f32],
    ) {
        let m = self.inverse;
        let (right, bottom) = ((width - 1) as f64, (height - 1) as f64);
        out.par_chunks_mut(visible_width)
            .zip(visible.par_chunks(visible_width))
            .enumerate()
            .for_each(|(y, (out, visible))| {
                let y = y as f64;
                let [row_x, row_y, row_w] = [0, 3, 6].map(|row: usize| m[row + 1] * y + m[row + 2]);
                for (x, (out, &visible)) in out.iter_mut().zip(visible).enumerate() {
                    let x = x as f64;
                    let w = 1. / (m[6] * x + row_w);
                    let (at_x, at_y) = ((m[0] * x + row_x) * w, (m[3] * x + row_y) * w);
                    // Half a pixel around the centres of the outermost ones belongs to them.
                    let inside =
                        at_x >= -0.5 && at_x <= right + 0.5 && at_y >= -0.5 && at_y <= bottom + 0.5;
                    *out = if inside {
                        bilinear(infrared, width, at_x.clamp(0., right), at_y.clamp(0., bottom))
                    } else {
                        visible
                    };
                }
            });
    }
}

fn applied(m: &[f64; 9], x: f64, y: f64) -> [f64; 2] {
    let w = m[6] * x + m[7] * y + m[8];
    [(m[0] * x + m[1] * y + m[2]) / w, (m[3] * x + m[4] * y + m[5]) / w]
}

/// The value between four pixels; `x` and `y` are inside.
#[inline]
fn bilinear(plane: &[f32], width: usize, x: f64, y: f64) -> f32 {
    let (left, top) = (x as usize, y as usize);
    let (across, down) = ((x - left as f64) as f32, (y - top as f64) as f32);
    let start = top * width + left;
    let last = plane.len() - 1;
    let right = usize::from(across > 0.);
    let below = if down > 0. { width } else { 0 };
    let at = |step: usize| plane[(start + step).min(last)];
    let upper = at(0) + across * (at(right) - at(0));
    let lower = at(below) + across * (at(below + right) - at(below));
    upper + down * (lower - upper)
}

/// A plane of values in [0, 1] in another size: Catmull-Rom, over a correspondingly wider support when it
/// shrinks, so that nothing aliases. Clamped to [0, 1].
///
/// # Errors
/// For a plane without pixels.
pub(crate) fn resize(
    resizer: &mut Resizer,
    plane: &[f32],
    (width, height): (usize, usize),
    out: &mut [f32],
    (to_width, to_height): (usize, usize),
) -> Result<()> {
    let sides = |w: usize, h: usize| (w as u32, h as u32);
    let failed = |error: String| Error::Option {
        what: "a plane to resize",
        got: format!("{width}x{height} ({error})"),
        needed: "pixels".to_string(),
    };
    let (w, h) = sides(width, height);
    let from = TypedImageRef::<F32>::new(w, h, bytemuck::cast_slice(plane))
        .map_err(|error| failed(error.to_string()))?;
    let (w, h) = sides(to_width, to_height);
    let into = bytemuck::cast_slice_mut(out);
    let mut into = TypedImage::<F32>::from_pixels_slice(w, h, into)
        .map_err(|error| failed(error.to_string()))?;
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
    resizer.resize_typed(&from, &mut into, &options).map_err(|error| failed(error.to_string()))?;
    out.par_iter_mut().for_each(|v| *v = v.clamp(0., 1.));
    Ok(())
}
