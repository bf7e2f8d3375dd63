//! A file as a picture of either side, read and brought to 8 bits.
#![no_main]

use isfm::{Normalize, Picture, Side};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for side in [Side::Visible, Side::Infrared] {
        let Ok(picture) = Picture::decode(bytes, "picture", side) else { continue };
        let image = picture.image;
        if let Ok(eight) = isfm::to_8_bits(&image, side, Normalize::Auto) {
            assert_eq!((eight.width(), eight.height()), (image.width(), image.height()));
        }
    }
});
