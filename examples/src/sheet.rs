//! Pictures side by side, each with its name below.

use image::{Rgb, RgbImage, imageops};

use crate::text;

const GAP: u32 = 12;
const CAPTION: u32 = 34;
const LETTER: u32 = 2;
const PAPER: Rgb<u8> = Rgb([24, 26, 30]);
const INK: Rgb<u8> = Rgb([222, 224, 228]);

/// One row of pictures.
pub fn side_by_side(pictures: &[(&str, &RgbImage)]) -> RgbImage {
    let width: u32 = pictures.iter().map(|p| p.1.width() + GAP).sum::<u32>() + GAP;
    let height = pictures.iter().map(|p| p.1.height()).max().unwrap_or(0) + GAP + CAPTION;
    let mut sheet = RgbImage::from_pixel(width, height, PAPER);
    let mut x = GAP;
    for (name, picture) in pictures {
        imageops::replace(&mut sheet, *picture, i64::from(x), i64::from(GAP));
        let letters = (name.len() * text::ADVANCE) as u32 * LETTER;
        let at = x + picture.width().saturating_sub(letters) / 2;
        text::write(&mut sheet, name, (at, height - CAPTION + 10), LETTER, INK);
        x += picture.width() + GAP;
    }
    sheet
}
