//! The picture that shows whether an alignment is right.

use anyhow::Result;
use image::imageops::{FilterType, replace, resize};
use image::{GrayImage, Luma, Rgb, RgbImage};
use isfm_align::{Alignment, Sizes};

use super::lay;

/// The widest that a panel is, in pixels.
const WIDEST: u32 = 720;
/// Squares across the checkerboard.
const SQUARES: u32 = 8;
/// Pixels between panels.
const GAP: u32 = 6;

/// Left before, right after; a checkerboard of both, the edges of both, and the edges' difference.
pub fn sheet(alignment: &Alignment, visible: &GrayImage, infrared: &GrayImage) -> Result<RgbImage> {
    let (w, h) = visible.dimensions();
    let shrink = (f64::from(w) / f64::from(WIDEST)).max(1.);
    let side = |n: u32| ((f64::from(n) / shrink).round() as u32).max(1);
    let (w, h) = (side(w), side(h));
    let before = resize(infrared, w, h, FilterType::Triangle);
    let own = Sizes {
        visible: (visible.width() as usize, visible.height() as usize),
        infrared: (infrared.width() as usize, infrared.height() as usize),
    };
    let after = resize(&lay(&alignment.for_sizes(own)?, infrared)?, w, h, FilterType::Triangle);
    let visible = resize(visible, w, h, FilterType::Triangle);
    let seen = edges(&visible);
    let mut out = RgbImage::from_pixel(2 * w + GAP, 3 * h + 2 * GAP, Rgb([255; 3]));
    for (column, infrared) in [&before, &after].into_iter().enumerate() {
        let left = i64::from(column as u32 * (w + GAP));
        let found = edges(infrared);
        for (row, panel) in
            [checkerboard(&visible, infrared), overlaid(&seen, &found), difference(&seen, &found)]
                .iter()
                .enumerate()
        {
            replace(&mut out, panel, left, i64::from(row as u32 * (h + GAP)));
        }
    }
    Ok(out)
}

/// Squares of the one picture and of the other in turn.
fn checkerboard(visible: &GrayImage, infrared: &GrayImage) -> RgbImage {
    let (w, h) = visible.dimensions();
    let edge = w.div_ceil(SQUARES).max(1);
    RgbImage::from_fn(w, h, |x, y| {
        let of = if (x / edge + y / edge).is_multiple_of(2) { visible } else { infrared };
        Rgb([of.get_pixel(x, y).0[0]; 3])
    })
}

fn overlaid(visible: &GrayImage, infrared: &GrayImage) -> RgbImage {
    let (w, h) = visible.dimensions();
    RgbImage::from_fn(w, h, |x, y| {
        let ([v], [i]) = (visible.get_pixel(x, y).0, infrared.get_pixel(x, y).0);
        Rgb([i, v, i])
    })
}

fn difference(visible: &GrayImage, infrared: &GrayImage) -> RgbImage {
    let (w, h) = visible.dimensions();
    RgbImage::from_fn(w, h, |x, y| {
        Rgb([visible.get_pixel(x, y).0[0].abs_diff(infrared.get_pixel(x, y).0[0]); 3])
    })
}

/// The strength of edges relative to that of their neighbourhood, so that both cameras' look alike.
fn edges(image: &GrayImage) -> GrayImage {
    let (w, h) = image.dimensions();
    let smooth = image::imageops::blur(image, 1.2);
    let at = |x: i64, y: i64| {
        let x = x.clamp(0, i64::from(w) - 1) as u32;
        let y = y.clamp(0, i64::from(h) - 1) as u32;
        f32::from(smooth.get_pixel(x, y).0[0])
    };
    let strength = image::ImageBuffer::from_fn(w, h, |x, y| {
        let (x, y) = (i64::from(x), i64::from(y));
        Luma([(at(x + 1, y) - at(x - 1, y)).hypot(at(x, y + 1) - at(x, y - 1))])
    });
    let squares = image::ImageBuffer::from_fn(w, h, |x, y| {
        let [v] = strength.get_pixel(x, y).0;
        Luma([v * v])
    });
    let usual: image::ImageBuffer<Luma<f32>, Vec<f32>> = image::imageops::blur(&squares, 10.);
    GrayImage::from_fn(w, h, |x, y| {
        let usual = usual.get_pixel(x, y).0[0].max(0.).sqrt();
        Luma([(90. * strength.get_pixel(x, y).0[0] / (usual + 3.)) as u8])
    })
}
