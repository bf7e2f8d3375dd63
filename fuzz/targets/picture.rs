//! A file as a picture of either side, read, normalised and, if it is small, fused with itself.
#![no_main]

use std::sync::LazyLock;

use isfm::{Isfm, Normalize, Picture, Side};
use libfuzzer_sys::fuzz_target;

#[path = "common.rs"]
mod common;

static ISFM: LazyLock<Isfm> = LazyLock::new(|| common::tiny().threads(1).build().expect("a network"));

/// Pixels of what is fused.
const SMALL: u32 = 400;

fuzz_target!(|bytes: &[u8]| {
    for side in [Side::Visible, Side::Infrared] {
        let Ok(picture) = Picture::decode(bytes, "picture", side) else { continue };
        let image = picture.image;
        if image.width().saturating_mul(image.height()) > SMALL {
            continue;
        }
        if isfm::to_8_bits(&image, side, Normalize::Auto).is_ok() {
            let fused = ISFM.fuse(&image, &image).expect("what has levels can be fused");
            assert_eq!((fused.width(), fused.height()), (image.width(), image.height()));
        }
    }
});
