//! Pictures of stored values, and rules that say which of them are black and white.

use image::{DynamicImage, GrayImage, ImageBuffer, RgbImage};
use isfm::Normalize;
use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};

/// Any rule; `low` and `high` are percentiles or the values of a range.
pub fn rule(which: u8, low: f64, high: f64) -> Normalize {
    match which % 5 {
        0 => Normalize::Auto,
        1 => Normalize::FullRange,
        2 => Normalize::MinMax,
        3 => Normalize::Percentile { low, high },
        _ => Normalize::Range { low, high },
    }
}

pub fn side(bytes: &mut Unstructured) -> Result<(u32, u32)> {
    Ok((bytes.int_in_range(0..=40)?, bytes.int_in_range(0..=40)?))
}

pub fn picture(bytes: &mut Unstructured) -> Result<DynamicImage> {
    let (width, height) = side(bytes)?;
    let kind = bytes.int_in_range(0..=4)?;
    let colours = if kind == 0 || kind == 2 { 1 } else { 3 };
    let count = (width * height * colours) as usize;
    fn all<'a, T: Arbitrary<'a>>(bytes: &mut Unstructured<'a>, count: usize) -> Result<Vec<T>> {
        (0..count).map(|_| bytes.arbitrary()).collect()
    }
    let made = match kind {
        0 => GrayImage::from_raw(width, height, all(bytes, count)?).map(Into::into),
        1 => RgbImage::from_raw(width, height, all(bytes, count)?).map(Into::into),
        2 => {
            ImageBuffer::from_raw(width, height, all(bytes, count)?).map(DynamicImage::ImageLuma16)
        }
        3 => ImageBuffer::from_raw(width, height, all(bytes, count)?).map(DynamicImage::ImageRgb16),
        _ => {
            ImageBuffer::from_raw(width, height, all(bytes, count)?).map(DynamicImage::ImageRgb32F)
        }
    };
    Ok(made.expect("as many values as pixels need"))
}
