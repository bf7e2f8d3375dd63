//! Pictures small enough to be part of a page.

use anyhow::Result;
use base64::Engine;
use base64::prelude::BASE64_STANDARD as STANDARD;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;
use image::{ColorType, DynamicImage};

/// What all pictures of a page may take together, in bytes of JPEG: 19 MB as base64.
const TOTAL: usize = 14_000_000;
/// What a single one may take where there are few of them.
const MOST: usize = 80_000;
/// What the smallest one needs; a page of thousands of pictures gets larger rather than useless.
const LEAST: usize = 4_000;
/// Longer sides to try, from the largest. A picture is never enlarged.
const SIDES: [u32; 8] = [640, 512, 416, 320, 240, 160, 112, 80];
/// The last one is for the smallest size only.
const QUALITIES: [u8; 3] = [85, 75, 50];

/// The bytes that each picture of the page may take.
pub fn budget(pairs: usize, methods: usize) -> usize {
    (TOTAL / (pairs * (methods + 2)).max(1)).clamp(LEAST, MOST)
}

/// The picture as a JPEG within `budget` bytes, as large as that allows, in a data URI.
pub fn data_uri(image: &DynamicImage, budget: usize) -> Result<String> {
    let longer = image.width().max(image.height());
    let mut jpeg = Vec::new();
    'sizes: for (at, &side) in SIDES.iter().enumerate() {
        let last = at + 1 == SIDES.len();
        if side >= longer && SIDES.get(at + 1).is_some_and(|&next| next >= longer) {
            continue;
        }
        let scaled =
            if side < longer { &image.resize(side, side, FilterType::CatmullRom) } else { image };
        let scaled: DynamicImage = match scaled.color() {
            ColorType::L8 | ColorType::L16 | ColorType::La8 | ColorType::La16 => {
                scaled.to_luma8().into()
            }
            _ => scaled.to_rgb8().into(),
        };
        for quality in &QUALITIES[..if last { 3 } else { 2 }] {
            jpeg.clear();
            scaled.write_with_encoder(JpegEncoder::new_with_quality(&mut jpeg, *quality))?;
            if jpeg.len() <= budget {
                break 'sizes;
            }
        }
    }
    Ok(format!("data:image/jpeg;base64,{}", STANDARD.encode(&jpeg)))
}
