//! The network on a pyramid.

use image::{DynamicImage, GrayImage, Luma};
use isfm::{Builder, Checkpoint, Config, Error, Isfm, Normalize, Pyramid, Tiling};
use isfm_model::initial_weights;
use isfm_testing::refused;

use crate::common::{builder, colour_image, config, grey_image};

/// Random weights with gates that go far in every direction.
fn gated() -> Builder {
    gated_on(2)
}

fn gated_on(levels: usize) -> Builder {
    let pyramid = Pyramid { levels, gates: true, deeper: 2 };
    let config = Config { pyramid, ..config() };
    let mut weights = initial_weights(&config, 3, &candle_core::Device::Cpu).unwrap();
    let last = "conv_final_fuse.2.weight".to_string();
    let stronger = (weights[&last].clone() * 40.).unwrap();
    weights.insert(last, stronger);
    let metadata = Default::default();
    Isfm::builder().checkpoint(Checkpoint { config, weights, self_contained: true, metadata })
}

fn constant(width: u32, height: u32, level: u8) -> DynamicImage {
    GrayImage::from_pixel(width, height, Luma([level])).into()
}

const SIZES: [(u32, u32); 6] = [(1, 1), (1, 9), (6, 1), (7, 5), (40, 33), (64, 48)];

#[test]
fn constant_pairs_give_what_lies_between_them_whatever_the_gates() {
    let isfm = gated().build().unwrap();
    for (width, height) in SIZES {
        for (a, b) in [(0, 0), (0, 255), (255, 30), (120, 119), (255, 255)] {
            let fused = isfm.fuse(&constant(width, height, a), &constant(width, height, b));
            for &v in fused.unwrap().into_luma8().as_raw() {
                assert!((a.min(b)..=a.max(b)).contains(&v), "{a}, {b} at {width}x{height}: {v}");
            }
        }
    }
}

#[test]
fn a_picture_fused_with_itself_comes_back_whatever_the_gates() {
    let isfm = gated().build().unwrap();
    for (width, height) in SIZES {
        let picture = grey_image(width, height, 5);
        let fused = isfm.fuse(&picture, &picture).unwrap();
        assert_eq!(fused, picture, "{width}x{height}");
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let (visible, infrared) = (colour_image(97, 61, 1), grey_image(97, 61, 2));
    let fuse =
        |threads| gated().threads(threads).build().unwrap().fuse(&visible, &infrared).unwrap();
    let want = fuse(1);
    for threads in [2, 3, 8] {
        assert_eq!(fuse(threads), want, "{threads}");
    }
}

#[test]
fn deep_pictures_stay_deep() {
    let deep = |seed| DynamicImage::ImageLuma16(grey_image(40, 33, seed).to_luma16());
    let isfm = gated()
        .normalize_infrared(Normalize::FullRange)
        .normalize_visible(Normalize::FullRange)
        .build()
        .unwrap();
    let fused = isfm.fuse(&deep(1), &deep(2)).unwrap();
    assert!(matches!(fused, DynamicImage::ImageLuma16(_)));
    let eight = isfm.fuse(&grey_image(40, 33, 1), &grey_image(40, 33, 2)).unwrap().into_luma8();
    for (deep, &eight) in fused.into_luma16().iter().zip(eight.iter()) {
        assert!((f64::from(*deep) / 257. - f64::from(eight)).abs() <= 0.51, "{deep} {eight}");
    }
}

#[test]
fn gates_decide() {
    let (visible, infrared) = (grey_image(64, 48, 1), grey_image(64, 48, 2));
    let fused = gated().build().unwrap().fuse(&visible, &infrared).unwrap();
    // Neither source, and not what the rule gives by itself.
    assert!(fused != visible && fused != infrared);
    let plain = builder().pyramid(2).build().unwrap().fuse(&visible, &infrared).unwrap();
    assert_ne!(fused, plain);
}

/// The network sees the whole base: 330×270 are 165×135 on one level.
#[test]
fn tiles_are_the_whole_to_the_bit() {
    let (visible, infrared) = (colour_image(330, 270, 1), grey_image(330, 270, 2));
    let fuse = |builder: Builder, tiling| {
        let isfm = builder.tiling(tiling).build().unwrap();
        isfm.fuse(&visible, &infrared).unwrap().into_rgb8()
    };
    for make in [|| builder().pyramid(1), || builder().pyramid(2), gated] {
        let whole = fuse(make(), Tiling::Whole);
        for edge in [200, 256, 5000] {
            assert_eq!(fuse(make(), Tiling::Edge(edge)), whole, "{edge}");
        }
    }
}

#[test]
fn tiles_of_the_base_differ_little_from_the_whole() {
    let (visible, infrared) = (colour_image(330, 270, 1), grey_image(330, 270, 2));
    for levels in [1, 2] {
        let fuse = |tiling| {
            let isfm = builder().pyramid(levels).tiling(tiling).build().unwrap();
            isfm.fuse(&visible, &infrared).unwrap().into_rgb8()
        };
        let (whole, tiles) = (fuse(Tiling::Whole), fuse(Tiling::Edge(64)));
        let off = |(a, b): (&u8, &u8)| f64::from(a.abs_diff(*b));
        let mean = whole.iter().zip(tiles.iter()).map(off).sum::<f64>() / whole.len() as f64;
        assert!(mean < 2., "{levels} levels: {mean}");
        assert_ne!(whole, tiles);
    }
}

/// Down to a limit that the smallest pieces take, the network seeing the whole base or tiles of it.
#[test]
fn a_memory_limit_cuts_the_picture_before_the_base() {
    let (visible, infrared) = (colour_image(640, 480, 1), grey_image(640, 480, 2));
    // On three levels the network takes far less than the picture's planes.
    let gated = || gated_on(3);
    let fuse = |limit| gated().memory_limit(limit).build().unwrap().fuse(&visible, &infrared);
    let needed = gated().build().unwrap().memory_needed(640, 480);
    let whole = fuse(needed).unwrap();
    let mut limit = needed;
    let refused = loop {
        match fuse(limit) {
            Ok(fused) if 2 * limit > needed => assert!(fused == whole, "{limit}"),
            Ok(_) => {}
            Err(error) => break error,
        }
        limit = limit * 3 / 4;
    };
    let Error::MemoryLimit { needed, .. } = refused else { panic!("{refused}") };
    assert!(fuse(needed).is_ok(), "{needed}");
}

#[test]
fn any_size_and_any_number_of_levels() {
    for levels in [1, 3, 8] {
        let isfm = builder().pyramid(levels).build().unwrap();
        for (width, height) in SIZES {
            let fused = isfm.fuse(&grey_image(width, height, 1), &grey_image(width, height, 2));
            let fused = fused.unwrap();
            assert_eq!((fused.width(), fused.height()), (width, height));
        }
    }
}

#[test]
fn no_levels_are_the_network_alone() {
    let (visible, infrared) = (grey_image(50, 37, 1), grey_image(50, 37, 2));
    let fuse = |builder: Builder| builder.build().unwrap().fuse(&visible, &infrared).unwrap();
    assert_eq!(fuse(builder().pyramid(0)), fuse(builder()));
}

#[test]
fn a_pyramid_takes_less_memory() {
    let needed = |levels| builder().pyramid(levels).build().unwrap().memory_needed(640, 480);
    assert!(needed(2) < needed(1) && needed(1) < needed(0));
}

#[test]
fn levels_that_cannot_be_are_refused() {
    let words = ["the levels of the pyramid", "1", "2, which these weights were trained for"];
    refused(gated().pyramid(1).build(), &words);
    refused(builder().pyramid(9).build(), &["the levels of the pyramid", "9", "0 to 8"]);
}

/// Of the weights that are shipped: all constant pairs in steps of 15 levels.
#[cfg(feature = "embedded-weights")]
#[test]
fn shipped_weights_leave_constants_between_the_two() {
    let isfm = Isfm::embedded().unwrap();
    for a in (0..=255).step_by(15) {
        for b in (0..=255u8).step_by(15) {
            let fused = isfm.fuse(&constant(48, 40, a), &constant(48, 40, b)).unwrap();
            for &v in fused.into_luma8().as_raw() {
                assert!((a.min(b)..=a.max(b)).contains(&v), "{a}, {b}: {v}");
            }
        }
    }
}
