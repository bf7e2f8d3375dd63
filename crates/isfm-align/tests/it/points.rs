use isfm_align::{Alignment, Error, Homography, Sizes};
use proptest::prelude::*;

const SIZES: Sizes = Sizes { visible: (1920, 1080), infrared: (320, 256) };

fn from(map: &Homography, points: &[[f64; 2]]) -> Vec<([f64; 2], [f64; 2])> {
    points.iter().map(|&p| (p, map.apply(p))).collect()
}

fn maps() -> impl Strategy<Value = Homography> {
    (0.5_f64..4., -0.4_f64..0.4, -300_f64..900., -300_f64..500., -4e-4..4e-4_f64, -4e-4..4e-4_f64)
        .prop_map(|(scale, turn, x, y, g, h)| {
            let (s, c) = turn.sin_cos();
            Homography::new([scale * c, -scale * s, x, scale * s, scale * c, y, g, h, 1.]).unwrap()
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Exact points give the map back, to what solving in floats leaves of 1e3 pixels.
    #[test]
    fn exact_points_give_their_map_back(map in maps()) {
        let four = [[10., 12.], [300., 20.], [25., 240.], [290., 230.]];
        let nine: Vec<[f64; 2]> = (0..9).map(|k| [20. + 130. * (k % 3) as f64, 15. + 110. * (k / 3) as f64]).collect();
        for points in [&four[..], &nine] {
            let found = Alignment::from_points(&from(&map, points), SIZES).unwrap();
            for p in [[0., 0.], [319., 255.], [160., 100.]] {
                let (a, b) = (found.homography().apply(p), map.apply(p));
                prop_assert!((a[0] - b[0]).hypot(a[1] - b[1]) < 1e-5, "{a:?} {b:?}");
            }
            if let Some(confidence) = found.confidence() {
                prop_assert!(confidence.corner_error < 1e-5);
            }
        }
    }

    /// Points on one line, whatever it is, and ones that are too few or not finite.
    #[test]
    fn collinear_points_are_refused(map in maps(), count in 3_usize..12, x in -2_f64..2., y in 0.1_f64..2.) {
        let points: Vec<[f64; 2]> =
            (0..count).map(|k| [100. + 20. * x * k as f64, 40. + 10. * y * k as f64]).collect();
        let refused = Alignment::from_points(&from(&map, &points), SIZES);
        prop_assert!(matches!(refused, Err(Error::Points { .. })), "{refused:?}");
        // One beside the line is not enough either.
        let mut all = points.clone();
        all.push([300., 10.]);
        let refused = Alignment::from_points(&from(&map, &all), SIZES);
        prop_assert!(matches!(refused, Err(Error::Points { .. })), "{refused:?}");
    }
}

#[test]
fn bad_points_are_named() {
    let good = [[0., 0.], [100., 0.], [0., 100.], [100., 100.]];
    let with = |at: usize, value: [f64; 2]| {
        let mut points = from(&Homography::IDENTITY, &good);
        points[at].1 = value;
        Alignment::from_points(&points, SIZES)
    };
    isfm_testing::refused(with(1, [f64::NAN, 0.]), &["4 points", "not finite"]);
    isfm_testing::refused(with(1, [0., 0.]), &["visible", "line"]);
    // Two of a square's points exchanged: no camera sees that.
    let mut crossed = from(&Homography::IDENTITY, &good);
    (crossed[0].1, crossed[1].1) = (crossed[1].1, crossed[0].1);
    isfm_testing::refused(Alignment::from_points(&crossed, SIZES), &["order"]);
    let three = from(&Homography::IDENTITY, &good[..3]);
    isfm_testing::refused(Alignment::from_points(&three, SIZES), &["3 points", "four"]);
}

#[test]
fn inexact_points_have_an_error_that_grows_with_theirs() {
    let points: Vec<[f64; 2]> =
        (0..12).map(|k| [20. + 90. * (k % 4) as f64, 15. + 110. * (k / 4) as f64]).collect();
    let error = |off: f64| {
        let mut pairs = from(&Homography::IDENTITY, &points);
        for (k, pair) in pairs.iter_mut().enumerate() {
            pair.1[0] += off * (k as f64 * 2.3).sin();
            pair.1[1] += off * (k as f64 * 1.7).cos();
        }
        Alignment::from_points(&pairs, SIZES).unwrap().confidence().unwrap().corner_error
    };
    let (small, large) = (error(0.2), error(2.));
    assert!(small > 0.05 && large > 5. * small && large < 20. * small, "{small} {large}");
}
