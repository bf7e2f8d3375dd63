use isfm_align::{Alignment, Error, Homography, Image, Interpolation, Rectangle, Reference, Sizes};
use isfm_testing::{Numbers, refused};
use proptest::prelude::*;

use crate::scenes::{map, scene};

fn sized(map: Homography, visible: (usize, usize), infrared: (usize, usize)) -> Alignment {
    Alignment::from(map).for_sizes(Sizes { visible, infrared }).unwrap()
}

fn maps() -> impl Strategy<Value = Homography> {
    (0.2_f64..5., -3_f64..3., -50_f64..50., -50_f64..50., -2e-3..2e-3_f64, -2e-3..2e-3_f64)
        .prop_map(|(scale, turn, x, y, g, h)| {
            let (s, c) = turn.sin_cos();
            Homography::new([scale * c, -scale * s, x, scale * s, scale * c, y, g, h, 1.]).unwrap()
        })
}

/// The plain way: every rectangle.
fn largest(mask: &[bool], width: usize) -> usize {
    let height = mask.len() / width;
    let mut best = 0;
    for top in 0..height {
        for left in 0..width {
            for bottom in top..height {
                for right in left..width {
                    let all = (top..=bottom).all(|y| (left..=right).all(|x| mask[y * width + x]));
                    if all {
                        best = best.max((bottom - top + 1) * (right - left + 1));
                    }
                }
            }
        }
    }
    best
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn twice_inverted_is_the_same(map in maps()) {
        let one = sized(map, (64, 48), (32, 24));
        let back = one.invert().unwrap().invert().unwrap();
        prop_assert_eq!(one.homography(), back.homography());
        prop_assert_eq!(one.sizes(), back.sizes());
    }

    /// To what dividing in floats leaves; near the line at infinity points run away, and are passed over.
    #[test]
    fn composed_with_its_inverse_it_moves_nothing(map in maps(), x in 0_f64..32., y in 0_f64..24.) {
        let one = sized(map, (64, 48), (32, 24));
        let round = one.invert().unwrap().compose(&one).unwrap();
        prop_assert_eq!(round.sizes().unwrap().visible, (32, 24));
        let m = map.matrix();
        if (m[6] * x + m[7] * y + m[8]).abs() > 0.05 {
            let there = round.homography().apply([x, y]);
            prop_assert!((there[0] - x).abs() < 1e-6 && (there[1] - y).abs() < 1e-6, "{there:?}");
        }
    }

    /// Every pixel by the definition: where its place in the other picture is, and whether that is inside.
    #[test]
    fn warps_are_what_their_definition_says(map in maps(), seed in 0_u64..1000, other in any::<bool>()) {
        let (visible, infrared) = ((13, 11), (9, 7));
        let one = sized(map, visible, infrared);
        let (reference, from, to) = match other {
            false => (Reference::Visible, infrared, visible),
            true => (Reference::Infrared, visible, infrared),
        };
        let data: Vec<f32> = Numbers(seed).vec(from.0 * from.1, 0., 1.).iter().map(|&v| v as f32).collect();
        let image = Image::new(&data, from.0, from.1).unwrap();
        let warped = one.warp(&image, reference, Interpolation::Bilinear).unwrap();
        prop_assert_eq!(&warped.mask, &one.mask(reference).unwrap());
        let way = if other { map } else { map.invert() };
        for (at, (&value, &seen)) in warped.data.iter().zip(&warped.mask).enumerate() {
            let [x, y] = way.apply([(at % to.0) as f64, (at / to.0) as f64]);
            let inside = |at: f64, n: usize| at >= -0.5 && at <= n as f64 - 0.5;
            if !seen {
                prop_assert_eq!(value, 0.);
                continue;
            }
            prop_assert!(inside(x, from.0) && inside(y, from.1));
            prop_assert!((0. ..=1.).contains(&value), "never beyond the neighbours");
        }
        match warped.common() {
            Some(r) => {
                prop_assert_eq!(r.area(), largest(&warped.mask, to.0));
                prop_assert!(r.of(&warped.mask, to.0, 1).iter().all(|seen| *seen));
            }
            None => prop_assert!(warped.mask.iter().all(|seen| !seen)),
        }
    }

    #[test]
    fn the_largest_rectangle_is_the_largest(seed in 0_u64..10_000, width in 1_usize..8, height in 0_usize..7) {
        let mask: Vec<bool> = Numbers(seed).vec(width * height, 0., 1.).iter().map(|&v| v < 0.75).collect();
        let found = Rectangle::largest(&mask, width).map_or(0, |r| r.area());
        prop_assert_eq!(found, if height == 0 { 0 } else { largest(&mask, width) });
    }
}

#[test]
fn the_identity_changes_nothing_and_a_shift_moves_whole_pixels() {
    let (grey, _) = scene(1, (33, 21));
    for interpolation in [Interpolation::Bilinear, Interpolation::CatmullRom] {
        let same = sized(Homography::IDENTITY, (33, 21), (33, 21));
        let warped = same.warp(&grey.image(), Reference::Visible, interpolation).unwrap();
        assert_eq!(warped.data, grey.data);
        assert!(warped.mask.iter().all(|seen| *seen));
        let moved = Homography::new([1., 0., 4., 0., 1., -3., 0., 0., 1.]).unwrap();
        let warped = sized(moved, (33, 21), (33, 21))
            .warp(&grey.image(), Reference::Visible, interpolation)
            .unwrap();
        assert_eq!(warped.data[2 * 33 + 10], grey.data[5 * 33 + 6]);
        assert_eq!(warped.common(), Some(Rectangle { left: 4, top: 0, width: 29, height: 18 }));
    }
}

/// A plane of slope stays one under both interpolations: they are exact on it, but for rounding of floats.
#[test]
fn slopes_are_kept_between_pixels() {
    let data: Vec<f32> = (0..20 * 16).map(|at| (at % 20) as f32 + 3. * (at / 20) as f32).collect();
    let image = Image::new(&data, 20, 16).unwrap();
    let map = map((20, 16), (9.3, 7.6), 0.9, 10., [0.; 2]);
    for interpolation in [Interpolation::Bilinear, Interpolation::CatmullRom] {
        let one = sized(map, (20, 16), (20, 16));
        let warped = one.warp(&image, Reference::Visible, interpolation).unwrap();
        let mut inner = 0;
        for (at, &value) in warped.data.iter().enumerate() {
            let [x, y] = map.invert().apply([(at % 20) as f64, (at / 20) as f64]);
            if (1. ..=18.).contains(&x) && (1. ..=14.).contains(&y) {
                inner += 1;
                assert!((f64::from(value) - x - 3. * y).abs() < 1e-4, "{value} at {x}, {y}");
            }
        }
        assert!(inner > 100);
    }
}

#[test]
fn channels_go_together_and_a_shrinking_warp_does_not_alias() {
    let stripes: Vec<u8> =
        (0..64 * 64).flat_map(|at| [if at % 2 == 0 { 0 } else { 254 }, 10, 200]).collect();
    let image = Image::with_channels(&stripes, 64, 64, 3).unwrap();
    let quarter = Homography::new([0.25, 0., -0.375, 0., 0.25, -0.375, 0., 0., 1.]).unwrap();
    let one = sized(quarter, (16, 16), (64, 64));
    let warped = one.warp(&image, Reference::Visible, Interpolation::CatmullRom).unwrap();
    assert!(
        warped.data.chunks_exact(3).all(|pixel| pixel == [127, 10, 200]),
        "{:?}",
        &warped.data[..9]
    );
}

#[test]
fn pictures_of_one_pixel_and_huge_ones_are_warped() {
    let one = [200_u8];
    let pixel = Image::new(&one, 1, 1).unwrap();
    let big = Homography::new([50., 0., 20., 0., 50., 20., 0., 0., 1.]).unwrap();
    let warped = sized(big, (60, 40), (1, 1))
        .warp(&pixel, Reference::Visible, Interpolation::CatmullRom)
        .unwrap();
    assert_eq!(warped.common().unwrap().area(), 46 * 40);
    assert!(
        warped.data.iter().zip(&warped.mask).all(|(v, seen)| *v == if *seen { 200 } else { 0 })
    );
    let wide = vec![3_u16; 20_000 * 3];
    let image = Image::new(&wide, 20_000, 3).unwrap();
    let same = sized(Homography::IDENTITY, (20_000, 3), (20_000, 3));
    let warped = same.warp(&image, Reference::Infrared, Interpolation::Bilinear).unwrap();
    assert_eq!(warped.data, wide);
    assert_eq!(warped.common(), Some(Rectangle { left: 0, top: 0, width: 20_000, height: 3 }));
}

#[test]
fn sizes_are_held_and_scaled() {
    let one = sized(
        Homography::new([2., 0., 10., 0., 2., 20., 0., 0., 1.]).unwrap(),
        (640, 480),
        (320, 240),
    );
    let data = vec![0_u8; 640 * 480];
    let large = Image::new(&data, 640, 480).unwrap();
    refused(one.warp(&large, Reference::Visible, Interpolation::Bilinear), &["640x480", "320x240"]);
    let bare = Alignment::from(Homography::IDENTITY);
    assert!(matches!(bare.mask(Reference::Visible), Err(Error::NoSizes)));
    // The same cameras at twice the size: a pixel's middle lies half a pixel from its edge there too.
    let twice = one.for_sizes(Sizes { visible: (1280, 960), infrared: (640, 480) }).unwrap();
    let at = |p: [f64; 2]| [2. * p[0] + 0.5, 2. * p[1] + 0.5];
    let (a, b) = (twice.homography().apply(at([30., 40.])), at(one.homography().apply([30., 40.])));
    assert!((a[0] - b[0]).abs() < 1e-9 && (a[1] - b[1]).abs() < 1e-9);
    refused(
        one.for_sizes(Sizes { visible: (640, 360), infrared: (320, 240) }),
        &["640x360", "640x480"],
    );
    let next = sized(Homography::IDENTITY, (320, 256), (100, 80));
    refused(one.compose(&next), &["320x256"]);
}

#[test]
fn images_that_are_none_are_refused() {
    let data = [0_u8; 12];
    refused(Image::new(&data, 0, 12), &["0x12"]);
    refused(Image::new(&data, 5, 2), &["12 values", "5x2"]);
    refused(Image::with_channels(&data, 2, 1, 6), &["6 values"]);
    refused(Image::new(&data, usize::MAX, 2), &["sides"]);
}
