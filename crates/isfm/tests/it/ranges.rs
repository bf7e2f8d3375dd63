//! Which stored values of a thermal frame become black and white.

use std::path::Path;

use crate::common::{builder, colour_image};
use image::{DynamicImage, ImageBuffer, Luma, Rgb};
use isfm::{Normalize, Side, read_image, to_8_bits};

const SIZE: usize = 160 * 120;

fn fixture(name: &str) -> Vec<u16> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let DynamicImage::ImageLuma16(image) = read_image(path).unwrap() else { panic!("{name}") };
    image.into_raw()
}

fn counts(values: Vec<u16>) -> DynamicImage {
    ImageBuffer::<Luma<u16>, _>::from_raw(160, 120, values).unwrap().into()
}

fn floats(values: impl Iterator<Item = f32>) -> DynamicImage {
    let values = values.flat_map(|v| [v; 3]).collect();
    ImageBuffer::<Rgb<f32>, _>::from_raw(160, 120, values).unwrap().into()
}

/// What the network sees of an infrared frame.
fn seen(frame: &DynamicImage) -> Vec<u8> {
    to_8_bits(frame, Side::Infrared, Normalize::Auto).unwrap().into_luma8().into_raw()
}

fn range(frame: &DynamicImage, side: Side) -> (f32, f32) {
    Normalize::Auto.range_of(frame, side).unwrap()
}

/// The first picture is seen as the second wherever `at` holds.
fn assert_same(what: &str, got: &[u8], want: &[u8], tolerance: u8, at: impl Fn(usize) -> bool) {
    let off = (0..SIZE).filter(|&i| at(i)).map(|i| got[i].abs_diff(want[i])).max().unwrap();
    assert!(off <= tolerance, "{what}: {off} of 255 levels off");
}

/// A scene with `every` so manieth pixel replaced, all over the picture.
fn broken(every: usize, value: impl Fn(usize) -> u16) -> (Vec<u16>, impl Fn(usize) -> bool) {
    let mut values = fixture("i16.png");
    let is_broken = move |i: usize| (i * 7919 % SIZE).is_multiple_of(every);
    (0..SIZE).filter(|&i| is_broken(i)).for_each(|i| values[i] = value(i));
    (values, move |i| !is_broken(i))
}

#[test]
fn a_good_frame_keeps_its_percentiles() {
    let frame = fixture("i16.png");
    let mut sorted = frame.clone();
    sorted.sort_unstable();
    let [low, high] = [0.001, 0.999].map(|p| sorted[((SIZE - 1) as f64 * p).round() as usize]);
    let (black, white) = range(&counts(frame), Side::Infrared);
    assert!((black - f32::from(low)).abs() < 5. && (white - f32::from(high)).abs() < 5.);
}

#[test]
fn dead_and_hot_pixels_change_nothing_else() {
    let want = seen(&counts(fixture("i16.png")));
    let dead = fixture("dead0_0p2.png");
    let sound: Vec<bool> = dead.iter().map(|&v| v > 0).collect();
    assert_same("dead0", &seen(&counts(dead)), &want, 2, |i| sound[i]);
    type Broken = fn(usize) -> u16;
    let kinds: [(&str, Broken); 5] = [
        ("0", |_| 0),
        ("65535", |_| 65535),
        ("both", |i| if i % 2 == 0 { 0 } else { 65535 }),
        ("16383", |_| 16383),
        ("anything", |i| (i * 40503 % 65536) as u16),
    ];
    for (name, value) in kinds {
        for every in [500, 50] {
            let (values, sound) = broken(every, value);
            assert_same(name, &seen(&counts(values)), &want, 8, sound);
        }
    }
}

#[test]
fn the_border_of_a_warped_frame_does_not_count() {
    let warped = fixture("warped_border0.png");
    let (low, high) = range(&counts(fixture("i16.png")), Side::Infrared);
    let (warped_low, warped_high) = range(&counts(warped.clone()), Side::Infrared);
    let width = high - low;
    assert!((warped_low - low).abs() < 0.15 * width && (warped_high - high).abs() < 0.15 * width);
    // A third of the picture, of whatever value, in whatever type: the range is that of the rest.
    let inside = |i: &usize| i % 160 >= 54;
    let frame = fixture("i16.png");
    let rest: Vec<u16> = (0..SIZE).filter(inside).map(|i| frame[i]).collect();
    let rest = ImageBuffer::<Luma<u16>, _>::from_raw(106, 120, rest).unwrap();
    let (low, high) = range(&rest.into(), Side::Infrared);
    let near = |what: String, got: (f32, f32), want: (f32, f32)| {
        let most = 0.02 * (want.1 - want.0);
        assert!(
            (got.0 - want.0).abs() <= most && (got.1 - want.1).abs() <= most,
            "{what}: {got:?}"
        );
    };
    let filled = |fill: u16| (0..SIZE).map(|i| if inside(&i) { frame[i] } else { fill }).collect();
    for fill in [0, 1, 1000, 16383, 65535] {
        near(fill.to_string(), range(&counts(filled(fill)), Side::Infrared), (low, high));
    }
    let kelvin = |v: f32| 60. + 0.03 * v;
    for fill in [0., -9999., 1e30] {
        let value = |i: usize| if inside(&i) { kelvin(frame[i].into()) } else { fill };
        let got = range(&floats((0..SIZE).map(value)), Side::Infrared);
        near(format!("{fill} K"), got, (kelvin(low), kelvin(high)));
    }
}

#[test]
fn a_small_hot_object_is_white_and_the_scene_stays() {
    let want = seen(&counts(fixture("i16.png")));
    for count in [1, 10, 190] {
        let mut frame = fixture("i16.png");
        frame[9000..9000 + count].fill(60_000);
        let got = seen(&counts(frame));
        assert!(got[9000..9000 + count].iter().all(|&v| v == 255));
        assert_same(&count.to_string(), &got, &want, 8, |i| !(9000..9000 + count).contains(&i));
    }
}

#[test]
fn noise_of_a_closed_shutter_stays_grey() {
    let noise = |i: usize| (i * 7919 % 5) as u16;
    let frames = [
        ("counts", counts((0..SIZE).map(|i| 8000 + noise(i)).collect())),
        (
            "bordered",
            counts((0..SIZE).map(|i| if i < 6000 { 0 } else { 8000 + noise(i) }).collect()),
        ),
        ("kelvin", floats((0..SIZE).map(|i| 293.15 + 0.02 * f32::from(noise(i))))),
        ("signed", floats((0..SIZE).map(|i| -500. + f32::from(noise(i))))),
    ];
    for (name, frame) in &frames {
        let got = seen(frame);
        let shutter = &got[6000..];
        let spread = shutter.iter().max().unwrap() - shutter.iter().min().unwrap();
        assert!(spread <= 20 && shutter[0].abs_diff(128) < 20, "{name}: {spread} {}", shutter[0]);
    }
}

#[test]
fn frames_of_one_value_are_grey_and_those_at_the_ends_black_and_white() {
    for (stored, want) in [(0, 0), (3, 12), (8000, 128), (65535, 255)] {
        assert_eq!(seen(&counts(vec![stored; SIZE])), vec![want; SIZE], "{stored}");
    }
    for (stored, want) in [(0f32, 0), (0.25, 128), (1., 255), (293.15, 128), (-40., 128)] {
        let got = seen(&floats(std::iter::repeat_n(stored, SIZE)))[0];
        assert!(got.abs_diff(want) <= 1 || (0. ..=1.).contains(&stored), "{stored}: {got}");
    }
}

#[test]
fn black_that_belongs_to_the_picture_stays_black() {
    // Mostly black, as a slice of a brain: nothing is lost at either end.
    let slice = |i: usize| if i % 160 < 100 { 0 } else { (i * 7919 % 3000) as u16 };
    let got = seen(&counts((0..SIZE).map(slice).collect()));
    assert!(got[0] == 0 && got.contains(&255));
    let levels: std::collections::BTreeSet<u8> = got.into_iter().collect();
    assert!(levels.len() > 250, "{}", levels.len());
    // Masks of a few values keep all of them apart.
    for mask in [&[0, 40_000][..], &[0, 65_535], &[500, 30_000, 60_000], &[0, 100, 200, 300]] {
        let value = |i: usize| mask[i / 37 % mask.len()];
        let got = seen(&counts((0..SIZE).map(value).collect()));
        let levels: Vec<u8> = (0..mask.len()).map(|m| got[m * 37]).collect();
        assert!(levels.windows(2).all(|w| w[0] < w[1]), "{mask:?}: {levels:?}");
    }
}

#[test]
fn floats_are_stretched_as_counts_are() {
    let frame = fixture("i16.png");
    let want = seen(&counts(frame.clone()));
    type Scale = fn(f32) -> f32;
    let scales: [(&str, Scale); 6] = [
        ("kelvin", |v| 60. + 0.03 * v),
        ("Celsius", |v| 0.03 * v - 240.),
        ("Celsius times 100", |v| v - 9000.),
        ("large", |v| 1e6 + v),
        ("negative", |v| -1e5 - 10. * (20000. - v)),
        ("counts in [0, 1]", |v| v / 65535.),
    ];
    for (name, scale) in scales {
        let scaled = floats(frame.iter().map(|&v| scale(v.into())));
        assert_same(name, &seen(&scaled), &want, 2, |_| true);
        // Visible ones outside [0, 1] are not cut off either.
        let visible = to_8_bits(&scaled, Side::Visible, Normalize::Auto).unwrap().into_rgb8();
        let bright = visible.pixels().filter(|p| p[0] == 255).count();
        assert!(bright < SIZE / 100, "{name}: {bright}");
    }
    // A picture in [0, 1] is taken as stored, though a few values leave it.
    let eight = |i: usize| (i % 256) as f32 / 255.;
    let picture = floats((0..SIZE).map(|i| if i % 100 == 0 { -0.5 } else { eight(i) }));
    assert_eq!(range(&picture, Side::Infrared), (0., 1.));
    assert_eq!(range(&picture, Side::Visible), (0., 1.));
}

/// Whatever is stored, a picture comes out or an error, and 8 bits stay what they are.
#[test]
fn extremes_fuse() {
    let visible = colour_image(160, 120, 1);
    for pair in [[f32::MIN, f32::MAX], [0., f32::MAX], [-1e-40, 1e-40], [1e38, 1.1e38], [-0., 0.]] {
        let frame = floats((0..SIZE).map(|i| pair[i / 50 % 2]));
        for rule in [
            Normalize::Auto,
            Normalize::MinMax,
            Normalize::Percentile { low: 1., high: 99. },
            Normalize::Range { low: -1e300, high: 1e300 },
            Normalize::Range { low: 1e300, high: 2e300 },
        ] {
            let fuser = builder().normalize_infrared(rule).normalize_visible(rule).build().unwrap();
            assert!(fuser.fuse(&visible, &frame).is_ok(), "{pair:?} {rule:?}");
            assert!(fuser.fuse(&frame, &frame).is_ok(), "{pair:?} {rule:?}");
        }
    }
    let frame = colour_image(160, 120, 2);
    assert_eq!(range(&frame, Side::Infrared), (0., 255.));
}
