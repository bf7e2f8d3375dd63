//! `Isfm::fuse`: colours, depths, ranges, sizes, and what it refuses.

use crate::common::{self, builder, colour_image, grey, grey_image, isfm};
use image::{ColorType, DynamicImage, ImageBuffer, Luma, LumaA, Rgb, Rgba};
use isfm::{Error, Isfm, Normalize, Side, Tiling, to_8_bits};
use isfm_testing::chain;
use proptest::prelude::*;

type Grey16 = ImageBuffer<Luma<u16>, Vec<u16>>;

/// A 16-bit grey picture of 40×32 that stores `level` of each of [`common::value`]'s values.
fn frame(seed: u32, level: impl Fn(f32) -> f32) -> DynamicImage {
    Grey16::from_fn(40, 32, |x, y| Luma([level(common::value(x, y, seed)) as u16])).into()
}

/// The largest difference of two pictures in 8 bits.
fn worst(a: &DynamicImage, b: &DynamicImage) -> u8 {
    let (a, b) = (a.to_rgb8(), b.to_rgb8());
    assert_eq!(a.dimensions(), b.dimensions());
    a.iter().zip(b.iter()).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

fn luma(p: [f32; 3]) -> f32 {
    0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2]
}

fn contrast(image: &DynamicImage) -> u8 {
    let grey = image.to_luma8();
    let (min, max) = (grey.as_raw().iter().min(), grey.as_raw().iter().max());
    max.unwrap() - min.unwrap()
}

#[test]
fn the_network_is_fed_and_not_only_passed_by() {
    let fuser = isfm();
    let (a, b) = (grey_image(40, 30, 1), grey_image(40, 30, 2));
    let fused = fuser.fuse(&a, &b).unwrap();
    assert!(contrast(&fused) > 60, "{}", contrast(&fused));
    assert_ne!(fused, fuser.fuse(&a, &grey_image(40, 30, 3)).unwrap());
    assert_ne!(fused, fuser.fuse(&grey_image(40, 30, 3), &b).unwrap());
}

#[test]
fn the_result_has_the_colour_and_depth_of_the_visible_image() {
    let fuser = isfm();
    let size = (18, 14);
    let rgb = colour_image(size.0, size.1, 3);
    let all = [
        (DynamicImage::ImageLuma8(rgb.to_luma8()), ColorType::L8),
        (DynamicImage::ImageLumaA8(rgb.to_luma_alpha8()), ColorType::L8),
        (DynamicImage::ImageRgb8(rgb.to_rgb8()), ColorType::Rgb8),
        (DynamicImage::ImageRgba8(rgb.to_rgba8()), ColorType::Rgb8),
        (DynamicImage::ImageLuma16(rgb.to_luma16()), ColorType::L16),
        (DynamicImage::ImageLumaA16(rgb.to_luma_alpha16()), ColorType::L16),
        (DynamicImage::ImageRgb16(rgb.to_rgb16()), ColorType::Rgb16),
        (DynamicImage::ImageRgba16(rgb.to_rgba16()), ColorType::Rgb16),
        (DynamicImage::ImageRgb32F(rgb.to_rgb32f()), ColorType::Rgb32F),
        (DynamicImage::ImageRgba32F(rgb.to_rgba32f()), ColorType::Rgb32F),
    ];
    for (visible, want) in &all {
        for (infrared, _) in &all {
            let fused = fuser.fuse(visible, infrared).unwrap();
            assert_eq!(fused.color(), *want, "{:?} {:?}", visible.color(), infrared.color());
            assert_eq!((fused.width(), fused.height()), size);
        }
    }
}

/// Three depths of one picture give one result. 8-bit values times 257 are the same fractions of
/// the range, so only rounding is between them.
#[test]
fn depths_agree() {
    let rule = Normalize::FullRange;
    let fuser = builder().normalize_visible(rule).normalize_infrared(rule).build().unwrap();
    let (visible, infrared) = (colour_image(22, 16, 4), grey_image(22, 16, 9));
    let eight = fuser.fuse(&visible, &infrared).unwrap().to_rgb8();
    let sixteen =
        fuser.fuse(&visible.to_rgb16().into(), &infrared.to_luma16().into()).unwrap().to_rgb16();
    let float =
        fuser.fuse(&visible.to_rgb32f().into(), &infrared.to_rgb32f().into()).unwrap().to_rgb32f();
    for ((a, b), c) in eight.iter().zip(sixteen.iter()).zip(float.iter()) {
        assert!((f32::from(*a) - f32::from(*b) / 257.).abs() < 0.6);
        assert!((f32::from(*a) - c * 255.).abs() < 0.6);
    }
    // A 16-bit visible picture that fills its range keeps its exposure by itself.
    let default = common::isfm().fuse(&visible.to_rgb16().into(), &infrared).unwrap();
    assert!(worst(&eight.into(), &default) <= 1);
}

/// By hand: the fused luma is what the visible image's luma would give as grey, and
/// Cr and Cb are the visible image's.
#[test]
fn colour_is_the_visible_image_s() {
    let fuser = isfm();
    let visible = colour_image(30, 20, 5).to_rgb32f();
    let infrared = grey_image(30, 20, 8);
    let fused = fuser.fuse(&visible.clone().into(), &infrared).unwrap().to_rgb32f();
    let y = common::tensor(visible.pixels().map(|p| luma(p.0)).collect(), &[20, 30]);
    let heat = grey(30, 20, 8).as_raw().iter().map(|&v| f32::from(v) / 255.).collect();
    let y = common::values(&fuser.fuse_luma(&y, &common::tensor(heat, &[20, 30])).unwrap());
    let mut seen = 0;
    for ((p, q), y) in visible.pixels().zip(fused.pixels()).zip(y) {
        let own = luma(p.0);
        let (cr, cb) = ((p[0] - own) * 0.713, (p[2] - own) * 0.564);
        let want = [y + 1.403 * cr, y - 0.714 * cr - 0.344 * cb, y + 1.773 * cb];
        for (got, want) in q.0.iter().zip(want) {
            assert!((got - want.clamp(0., 1.)).abs() < 1e-5, "{q:?} {want:?}");
        }
        seen += usize::from(want.iter().all(|w| (0. ..=1.).contains(w)));
    }
    assert!(seen > 100, "too few colours in gamut to mean anything: {seen}");
}

#[test]
fn a_grey_visible_image_stored_as_colour_gives_the_same_grey() {
    let fuser = isfm();
    let (visible, infrared) = (grey_image(21, 17, 1), grey_image(21, 17, 2));
    let grey = fuser.fuse(&visible, &infrared).unwrap();
    let colour = fuser.fuse(&visible.to_rgb8().into(), &infrared.to_rgb8().into()).unwrap();
    assert!(worst(&grey, &colour) <= 1);
}

#[test]
fn alpha_is_ignored() {
    let fuser = isfm();
    let (visible, infrared) = (colour_image(12, 10, 1), grey_image(12, 10, 2));
    let want = fuser.fuse(&visible, &infrared).unwrap();
    let mut see_through = visible.to_rgba8();
    for (i, p) in see_through.pixels_mut().enumerate() {
        *p = Rgba([p[0], p[1], p[2], (37 * i) as u8]);
    }
    let mut faint = infrared.to_luma_alpha8();
    for (i, p) in faint.pixels_mut().enumerate() {
        *p = LumaA([p[0], (11 * i) as u8]);
    }
    assert_eq!(fuser.fuse(&see_through.into(), &faint.into()).unwrap(), want);
}

/// A 14-bit thermal frame in a 16-bit file: the default finds its range, whatever the offset.
#[test]
fn a_thermal_sliver_is_stretched() {
    let fuser = isfm();
    let visible = grey_image(40, 32, 1);
    let frame = |offset: f32, gain: f32| frame(2, |v| (offset + gain * v).round());
    let full = fuser.fuse(&visible, &frame(0., 65535.)).unwrap();
    let sliver = fuser.fuse(&visible, &frame(7300., 900.)).unwrap();
    let drifted = fuser.fuse(&visible, &frame(9100., 900.)).unwrap();
    assert!(worst(&full, &sliver) <= 3 && worst(&sliver, &drifted) <= 3);
    let as_stored = builder().normalize_infrared(Normalize::FullRange).build().unwrap();
    let flat = as_stored.fuse(&visible, &frame(7300., 900.)).unwrap();
    assert!(worst(&full, &flat) > 10);
    // Naming the range does what the whole range does for a frame that fills it.
    let range = Normalize::Range { low: 7300., high: 8200. };
    let named = builder().normalize_infrared(range).build().unwrap();
    let named = named.fuse(&visible, &frame(7300., 900.)).unwrap();
    let stored = as_stored.fuse(&visible, &frame(0., 65535.)).unwrap();
    assert!(worst(&named, &stored) <= 1);
}

#[test]
fn a_dead_pixel_does_not_darken_a_frame() {
    let fuser = isfm();
    let visible = grey_image(64, 48, 1);
    let frame =
        Grey16::from_fn(64, 48, |x, y| Luma([(7300. + 900. * common::value(x, y, 2)) as u16]));
    let mut hot = frame.clone();
    hot.put_pixel(10, 10, Luma([65535]));
    hot.put_pixel(50, 40, Luma([0]));
    let want = fuser.fuse(&visible, &frame.into()).unwrap().to_luma8();
    let got = fuser.fuse(&visible, &hot.into()).unwrap().to_luma8();
    let far = |(x, y): (u32, u32)| x.abs_diff(10) + y.abs_diff(10) > 20 && x < 40 && y < 30;
    let mut compared = 0;
    for (x, y, p) in want.enumerate_pixels().filter(|p| far((p.0, p.1))) {
        assert!(p[0].abs_diff(got.get_pixel(x, y)[0]) <= 12, "{x} {y}");
        compared += 1;
    }
    assert!(compared > 300);
}

#[test]
fn a_raw_visible_frame_is_stretched_too() {
    let infrared = grey_image(40, 32, 2);
    let with = |rule, frame| {
        let fuser = builder().normalize_visible(rule).build().unwrap();
        fuser.fuse(frame, &infrared).unwrap()
    };
    let percentile = Normalize::Percentile { low: 0.1, high: 99.9 };
    let (raw, picture) = (frame(1, |v| 4095. * v), frame(1, |v| 65535. * v));
    assert_eq!(with(Normalize::Auto, &raw), with(percentile, &raw));
    assert_ne!(with(Normalize::Auto, &raw), with(Normalize::FullRange, &raw));
    assert_eq!(with(Normalize::Auto, &picture), with(Normalize::FullRange, &picture));
}

#[test]
fn frames_without_contrast_are_taken_as_stored() {
    let visible = grey_image(16, 16, 1);
    for stored in [0u16, 1, 8000, 65535] {
        let flat: DynamicImage = Grey16::from_pixel(16, 16, Luma([stored])).into();
        let want = builder().normalize_infrared(Normalize::FullRange).build().unwrap();
        let want = want.fuse(&visible, &flat).unwrap();
        // What `Auto` makes of an infrared one is tested with the other ranges.
        let flat_visible = builder().normalize_infrared(Normalize::FullRange);
        let full = flat_visible.normalize_visible(Normalize::FullRange).build().unwrap();
        let auto = builder().normalize_infrared(Normalize::FullRange).build().unwrap();
        assert_eq!(auto.fuse(&flat, &flat).unwrap(), full.fuse(&flat, &flat).unwrap());
        for rule in [Normalize::MinMax, Normalize::Percentile { low: 1., high: 2. }] {
            let fuser = builder().normalize_infrared(rule).normalize_visible(rule).build().unwrap();
            assert_eq!(fuser.fuse(&flat, &flat).unwrap().color(), ColorType::L16);
            let fuser = builder().normalize_infrared(rule).build().unwrap();
            assert_eq!(fuser.fuse(&visible, &flat).unwrap(), want, "{rule:?} {stored}");
        }
    }
}

#[test]
fn odd_and_tiny_sizes() {
    let fuser = isfm();
    for (w, h) in [(1, 1), (1, 2), (2, 1), (3, 5), (5, 3), (17, 31), (1, 40), (33, 2)] {
        let (visible, infrared) = (colour_image(w, h, 1), grey_image(w, h, 2));
        let fused = fuser.fuse(&visible, &infrared).unwrap();
        assert_eq!((fused.width(), fused.height()), (w, h));
        // By hand: repeat the last column and row, fuse, cut off.
        let (even_w, even_h) = (w.next_multiple_of(2), h.next_multiple_of(2));
        let (visible, infrared) = (visible.to_rgb8(), infrared.to_luma8());
        let wide = |x: u32, y: u32| (x.min(w - 1), y.min(h - 1));
        let visible = ImageBuffer::from_fn(even_w, even_h, |x, y| visible[wide(x, y)]);
        let infrared = ImageBuffer::from_fn(even_w, even_h, |x, y| infrared[wide(x, y)]);
        let padded = fuser.fuse(&visible.into(), &infrared.into()).unwrap();
        assert_eq!(padded.crop_imm(0, 0, w, h), fused, "{w}x{h}");
    }
}

#[test]
fn different_sizes_are_refused_with_both_or_resized_when_asked() {
    let (visible, infrared) = (colour_image(40, 30, 1), grey_image(20, 15, 2));
    let error = isfm().fuse(&visible, &infrared).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("40x30") && text.contains("20x15"), "{text}");
    let resizing = builder().resize_infrared(true).build().unwrap();
    for (w, h) in [(20, 15), (80, 60), (1, 1), (7, 90), (40, 30)] {
        let fused = resizing.fuse(&visible, &grey_image(w, h, 2)).unwrap();
        assert_eq!((fused.width(), fused.height()), (40, 30));
    }
    // A flat frame stays flat however it is resized.
    let flat = |w, h| DynamicImage::ImageLuma8(ImageBuffer::from_pixel(w, h, Luma([90])));
    let want = resizing.fuse(&visible, &flat(40, 30)).unwrap();
    let got = resizing.fuse(&visible, &flat(13, 7)).unwrap();
    assert!(worst(&want, &got) <= 1);
    // And an enlarged smooth frame is close to the same frame at full size.
    let smooth = |w: u32, h: u32| -> DynamicImage {
        Grey16::from_fn(w, h, |x, y| {
            let (u, v) = ((x as f32 + 0.5) / w as f32, (y as f32 + 0.5) / h as f32);
            Luma([(20000. + 15000. * (3. * u).sin() + 12000. * (2. * v).cos()) as u16])
        })
        .into()
    };
    let rule = Normalize::FullRange;
    let resizing = builder().resize_infrared(true).normalize_infrared(rule).build().unwrap();
    let want = resizing.fuse(&visible, &smooth(40, 30)).unwrap().to_luma8();
    let got = resizing.fuse(&visible, &smooth(20, 15)).unwrap().to_luma8();
    let off = want.iter().zip(got.iter()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(off <= 12, "{off}");
}

#[test]
fn images_without_pixels_are_refused() {
    for (w, h) in [(0, 0), (0, 5), (5, 0)] {
        let empty = DynamicImage::new_rgb8(w, h);
        for (a, b, side) in [
            (&empty, &grey_image(5, 5, 1), Side::Visible),
            (&grey_image(5, 5, 1), &empty, Side::Infrared),
            (&empty, &empty, Side::Visible),
        ] {
            let error = isfm().fuse(a, b).unwrap_err();
            assert!(matches!(error, Error::Empty { side: s, .. } if s == side), "{error}");
            assert!(error.to_string().contains(&format!("{w}x{h}")), "{error}");
        }
    }
}

#[test]
fn floats_that_are_no_numbers_are_refused() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut image = ImageBuffer::from_pixel(4, 4, Rgb([0.5f32; 3]));
        image.put_pixel(1, 2, Rgb([0.1, bad, 0.2]));
        let (bad, good) = (DynamicImage::ImageRgb32F(image), grey_image(4, 4, 1));
        let error = isfm().fuse(&bad, &good).unwrap_err();
        let named = matches!(error, Error::NotFinite { side: Side::Visible, index: 28, .. });
        assert!(named, "{error}");
        let error = isfm().fuse(&good, &bad).unwrap_err();
        assert!(matches!(error, Error::NotFinite { side: Side::Infrared, .. }), "{error}");
    }
    // Out of range but finite is clamped: HDR pictures are what they are.
    let bright = ImageBuffer::from_fn(4, 4, |x, _| Rgb([x as f32 * 3. - 1.; 3]));
    assert!(isfm().fuse(&DynamicImage::ImageRgb32F(bright), &grey_image(4, 4, 1)).is_ok());
}

#[test]
fn nonsense_options_are_refused() {
    for (low, high) in [(-1., 50.), (50., 50.), (60., 40.), (0., 100.1), (f64::NAN, 1.)] {
        let rule = Normalize::Percentile { low, high };
        let error = builder().normalize_infrared(rule).build().unwrap_err();
        assert!(error.to_string().contains("infrared"), "{error}");
    }
    for (low, high) in [(1., 1.), (2., 1.), (f64::NEG_INFINITY, 0.), (0., f64::NAN)] {
        assert!(builder().normalize_visible(Normalize::Range { low, high }).build().is_err());
    }
    let error = builder().threads(0).build().unwrap_err();
    assert!(error.to_string().contains("threads"), "{error}");
    let error = builder().batch(0).build().unwrap_err();
    assert!(error.to_string().contains("batch"), "{error}");
    let error = builder().tiling(Tiling::Edge(7)).build().unwrap_err();
    assert!(error.to_string().contains('7') && error.to_string().contains("32"), "{error}");
    let error = builder().dtype(candle_core::DType::F16).build().unwrap_err();
    assert!(chain(&error).contains("F16"), "{error}");
    let config = Isfm::builder().config(common::config()).build();
    assert!(matches!(config, Err(Error::NotEmbedded { .. } | Error::NoWeights)));
}

/// What a network that takes 8 bits is trained on is what this one is fed with, to half a level.
#[test]
fn eight_bits_are_what_the_network_sees() {
    // 14 bits in 16, and the same frame with its percentiles named.
    let raw = frame(2, |v| (7300. + 900. * v).round());
    let mut values: Vec<u16> = raw.to_luma16().into_raw();
    values.sort_unstable();
    let [low, high] = [0.001, 0.999].map(|p| values[(p * 1279f64).round() as usize]);
    let eight = to_8_bits(&raw, Side::Infrared, Normalize::Auto).unwrap();
    for (got, stored) in eight.to_luma8().iter().zip(raw.to_luma16().iter()) {
        let want = (f32::from(*stored) - f32::from(low)) / f32::from(high - low) * 255.;
        assert!((f32::from(*got) - want.clamp(0., 255.)).abs() <= 0.501, "{got} {want}");
    }
    let visible = grey_image(40, 32, 1);
    let fuse = |infrared: &DynamicImage| isfm().fuse(&visible, infrared).unwrap();
    assert!(worst(&fuse(&raw), &fuse(&eight)) <= 3);
    // 8-bit values stay; colour on the infrared side becomes luma; alpha goes.
    let colour = colour_image(40, 32, 3);
    let to_8 = |image: &DynamicImage, side| to_8_bits(image, side, Normalize::Auto).unwrap();
    for image in [&colour, &visible] {
        let alpha = DynamicImage::ImageRgba8(image.to_rgba8());
        assert_eq!(&to_8(image, Side::Visible), image);
        assert_eq!(to_8(&alpha, Side::Visible).to_rgb8(), image.to_rgb8());
        let grey = to_8(&alpha, Side::Infrared);
        assert_eq!(grey.color(), ColorType::L8);
        for (y, p) in grey.to_luma8().iter().zip(image.to_rgb8().pixels()) {
            assert_eq!(f32::from(*y), luma(p.0.map(f32::from)).round());
        }
    }
    let nonsense = Normalize::Range { low: 2., high: 1. };
    assert!(matches!(to_8_bits(&raw, Side::Infrared, nonsense), Err(Error::Option { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any images of one size fuse to that size, whatever their kinds and contents.
    #[test]
    fn anything_of_one_size_fuses(
        w in 1u32..24, h in 1u32..24, kinds in (0usize..5, 0usize..5), bytes in any::<[u8; 16]>()
    ) {
        let image = |kind: usize, salt: usize| -> DynamicImage {
            let at = |i: usize| bytes[(i * 7 + salt) % 16];
            let rgb = image::RgbImage::from_fn(w, h, |x, y| {
                Rgb(std::array::from_fn(|c| at((x * 3 + y * 5) as usize + c)))
            });
            let rgb = DynamicImage::ImageRgb8(rgb);
            match kind {
                0 => rgb.to_luma8().into(),
                1 => rgb,
                2 => rgb.to_luma16().into(),
                3 => rgb.to_rgba16().into(),
                _ => rgb.to_rgb32f().into(),
            }
        };
        let (visible, infrared) = (image(kinds.0, 0), image(kinds.1, 5));
        let fused = isfm().fuse(&visible, &infrared).unwrap();
        prop_assert_eq!((fused.width(), fused.height()), (w, h));
        prop_assert!(fused.to_rgb32f().iter().all(|v| (0. ..=1.).contains(v)));
    }
}
