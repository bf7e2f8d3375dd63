//! Where an infrared frame lies on the visible one.

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::F32;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use isfm_align::Alignment;
use rayon::prelude::*;

use crate::{Error, Result};

/// A plane of the visible frame's size: the infrared values where the infrared frame lies, bilinear; elsewhere what
/// `visible` has, so that fusing finds both alike there. `alignment` is for these sizes.
pub(crate) fn place(
    alignment: &Alignment,
    infrared: &[f32],
    (width, height): (usize, usize),
    visible: &[f32],
    visible_width: usize,
    out: &mut [f32],
) {
    let homography = alignment.homography();
    let m = homography.inverse_matrix();
    let (right, bottom) = ((width - 1) as f64, (height - 1) as f64);
    // What has another sign than the frame's middle is behind the camera.
    let [x, y] = homography.apply([right / 2., bottom / 2.]);
    let sign = m[6] * x + m[7] * y + m[8];
    out.par_chunks_mut(visible_width).zip(visible.par_chunks(visible_width)).enumerate().for_each(
        |(y, (out, visible))| {
            let y = y as f64;
            let [row_x, row_y, row_w] = [0, 3, 6].map(|row: usize| m[row + 1] * y + m[row + 2]);
            for (x, (out, &visible)) in out.iter_mut().zip(visible).enumerate() {
                let x = x as f64;
                let w = m[6] * x + row_w;
                let (at_x, at_y) = ((m[0] * x + row_x) / w, (m[3] * x + row_y) / w);
                // Half a pixel around the centres of the outermost ones belongs to them.
                let inside = w * sign > 0.
                    && at_x >= -0.5
                    && at_x <= right + 0.5
                    && at_y >= -0.5
                    && at_y <= bottom + 0.5;
                *out = if inside {
                    bilinear(infrared, width, at_x.clamp(0., right), at_y.clamp(0., bottom))
                } else {
                    visible
                };
            }
        },
    );
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
