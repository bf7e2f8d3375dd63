//! Conventions against what their own programs gave; `fixtures/make_conventions.py` says how.

use std::collections::BTreeMap;

use isfm_metrics::{Convention, Error, Metric, Scores};
use isfm_testing::same_on_any_threads;
use proptest::prelude::*;

use crate::{images, triple};

/// How far from a program's value ours may be, relative to it.
fn tolerance(program: &str, metric: Metric) -> f64 {
    match (program, metric) {
        // Sums of f32, whose last digits are worth 1e-7; variances of flat windows are off by more
        // than SSIM's constants for the smaller ranges.
        ("cddfuse", Metric::Ssim) => 1e-3,
        ("ivif-zoo", Metric::Ssim) => 0.02,
        ("ivif-zoo", Metric::MsSsim) => 2e-5,
        ("ivif-zoo", Metric::Vif) => 1e-3,
        ("cddfuse" | "ivif-zoo", _) => 1e-6,
        // Its window is in f32 all the same, and the last digit of a tap is felt there; MSE and PSNR
        // ask for f32 themselves.
        ("ivif-zoo f64", Metric::Ssim) => 5e-4,
        ("ivif-zoo f64", Metric::MsSsim | Metric::Mse | Metric::Psnr) => 1e-6,
        _ => 1e-8,
    }
}

#[test]
fn programs_agree() {
    let cases = crate::json("conventions.json");
    let cases = cases.as_object().unwrap();
    assert_eq!(cases.len(), 21);
    let mut worst: BTreeMap<(String, &str), (f64, String)> = BTreeMap::new();
    for (case, programs) in cases {
        let (images, w, h) = images(case);
        let t = triple(images.each_ref().map(|i| &i[..]), w, h);
        let mut scores: BTreeMap<&str, Scores> = BTreeMap::new();
        for (program, values) in programs.as_object().unwrap() {
            let name = program.trim_end_matches(" f64");
            let scores = scores.entry(name).or_insert_with(|| match name.parse() {
                Ok(convention) => Scores::evaluate_as(&t, Metric::ALL, convention),
                Err(_) => Scores::evaluate_only(&t, &[Metric::Qmi, Metric::Qte, Metric::Qncie]),
            });
            for (metric, value) in values.as_object().unwrap() {
                let metric = *Metric::ALL.iter().find(|m| m.name() == metric).unwrap();
                let got = scores.get(metric).unwrap_or_else(|| panic!("{case}: no {metric}"));
                let want = value.as_f64().unwrap();
                let difference = if got == want { 0. } else { (got - want).abs() / want.abs() };
                let worst = worst.entry((program.clone(), metric.name())).or_default();
                if difference >= worst.0 {
                    *worst = (difference, format!("{case}: {got}, not {want}"));
                }
            }
        }
    }
    for ((program, metric), (difference, what)) in &worst {
        println!("{program:<12} {metric:<8} differs by at most {difference:.1e} ({what})");
    }
    for ((program, metric), (difference, what)) in worst {
        let metric = *Metric::ALL.iter().find(|m| m.name() == metric).unwrap();
        assert!(difference < tolerance(&program, metric), "{program} {metric}: {what}");
    }
}

/// All scores of a convention, none of which is NaN or of a metric that it lacks.
fn sound(convention: Convention, images: [&[u8]; 3], w: usize, h: usize) -> Scores {
    let scores = Scores::evaluate_as(&triple(images, w, h), Metric::ALL, convention);
    for (metric, value) in scores.iter() {
        assert!(!value.is_nan(), "{convention} {metric} {w}x{h}");
        assert!(convention.metrics().contains(&metric), "{convention} {metric}");
    }
    scores
}

#[test]
fn names() {
    for &convention in Convention::ALL {
        assert_eq!(convention.name().parse(), Ok(convention));
        assert_eq!(convention.to_string().to_uppercase().parse(), Ok(convention));
        let in_order = convention.metrics().is_sorted();
        assert!(in_order && !convention.metrics().is_empty(), "{convention}");
    }
    assert_eq!(Convention::default(), Convention::Released);
    assert_eq!(format!("{:>9}|", Convention::IvifZoo), " ivif-zoo|");
    let error = "vif".parse::<Convention>().unwrap_err();
    assert_eq!(error, Error::Convention("vif".to_owned()));
    for convention in Convention::ALL {
        assert!(error.to_string().contains(convention.name()), "{error}");
    }
    // The thirteen that the benchmark prints.
    assert_eq!(Convention::Vifb.metrics().len(), 13);
}

#[test]
fn released_is_the_default() {
    let [v, i, f] = [1, 2, 3].map(|seed| crate::picture(seed, 60, 50));
    let t = triple([&v, &i, &f], 60, 50);
    let metrics = [Metric::Mi, Metric::Vif, Metric::Qte];
    let one = Scores::evaluate_only(&t, &metrics);
    assert_eq!(one, Scores::evaluate_as(&t, &metrics, Convention::Released));
    assert_eq!(one.iter().count(), 3);
    // CDDFuse's is the same program but for SSIM.
    let [v, i, f] = [v, i, f].map(|image| image.iter().map(|p| p.round()).collect::<Vec<f32>>());
    let t = triple([&v, &i, &f], 60, 50);
    let (ours, theirs) =
        (Scores::evaluate(&t), Scores::evaluate_as(&t, Metric::ALL, Convention::Cddfuse));
    for (metric, value) in theirs.iter() {
        assert_eq!(ours.get(metric) == Some(value), metric != Metric::Ssim, "{metric}");
    }
}

#[test]
fn fractional_grey_levels_are_rounded() {
    let images = [1, 2, 3].map(|seed| crate::picture(seed, 61, 57));
    let bytes = images.each_ref().map(|i| i.iter().map(|p| p.round() as u8).collect::<Vec<u8>>());
    let floats = triple(images.each_ref().map(|i| &i[..]), 61, 57);
    let bytes = triple(bytes.each_ref().map(|i| &i[..]), 61, 57);
    for &convention in &Convention::ALL[1..] {
        let of_floats = Scores::evaluate_as(&floats, Metric::ALL, convention);
        assert_eq!(of_floats, Scores::evaluate_as(&bytes, Metric::ALL, convention), "{convention}");
    }
}

/// The smallest side for which a metric has a value.
fn smallest(convention: Convention, metric: Metric) -> usize {
    use Convention::*;
    match (convention, metric) {
        (IvifZoo, Metric::Vif) => 1,
        (_, Metric::Vif) => 41,
        (Cddfuse, Metric::Ssim) => 7,
        (_, Metric::Ssim) => 11,
        (Linfeng, Metric::MsSsim) => 44,
        (_, Metric::MsSsim) => 161,
        (Linfeng | Vifb, Metric::Ag) => 2,
        _ => 1,
    }
}

#[test]
fn every_size_and_nothing_to_measure() {
    let sizes =
        [(1, 1), (1, 9), (9, 1), (2, 2), (3, 2), (7, 6), (7, 7), (10, 11), (11, 11), (40, 41)];
    let larger = [(41, 41), (44, 43), (44, 44), (160, 161), (161, 161)];
    for (w, h) in sizes.into_iter().chain(larger) {
        let a: Vec<u8> = (0..w * h).map(|p| ((p % w * 7 + p / w * 13) % 256) as u8).collect();
        let b: Vec<u8> = a.iter().rev().copied().collect();
        let (black, grey, white) = (vec![0; w * h], vec![90; w * h], vec![255; w * h]);
        for &convention in &Convention::ALL[1..] {
            let scores = sound(convention, [&a, &b, &a], w, h);
            for &metric in convention.metrics() {
                let enough = w.min(h) >= smallest(convention, metric);
                assert_eq!(scores.get(metric).is_some(), enough, "{convention} {metric} {w}x{h}");
            }
            for images in [
                [&a, &a, &a],
                [&black, &black, &black],
                [&grey, &grey, &grey],
                [&grey, &white, &black],
                [&a, &black, &white],
                [&black, &black, &a],
            ] {
                sound(convention, images.map(|image| &image[..]), w, h);
            }
        }
    }
}

#[test]
fn identical_images() {
    let (w, h) = (170, 166);
    let a: Vec<u8> = crate::picture(5, w, h).iter().map(|&p| p as u8).collect();
    for &convention in &Convention::ALL[1..] {
        let scores = sound(convention, [&a, &a, &a], w, h);
        for (metric, value) in scores.iter() {
            let want = match metric {
                Metric::Ssim | Metric::MsSsim if convention == Convention::Linfeng => 1.,
                Metric::Vif | Metric::Ssim | Metric::MsSsim => 2.,
                Metric::Cc | Metric::Qcb => 1.,
                Metric::Psnr => f64::INFINITY,
                Metric::Mse | Metric::Rmse | Metric::Ce | Metric::Scd | Metric::Nabf => 0.,
                _ => continue,
            };
            let close = value == want || (value - want).abs() < 1e-4;
            assert!(close, "{convention} {metric}: {value}, not {want}");
        }
    }
}

#[test]
fn the_same_bits_for_any_number_of_threads() {
    let (w, h) = (183, 167);
    let images = [1, 2, 3].map(|seed| crate::picture(seed, w, h));
    let t = triple(images.each_ref().map(|i| &i[..]), w, h);
    same_on_any_threads("all conventions", || {
        let of =
            |&convention: &Convention| Scores::evaluate_as(&t, convention.metrics(), convention);
        Convention::ALL[1..].iter().map(of).collect::<Vec<_>>()
    });
}

/// The least and the greatest value.
fn range(convention: Convention, metric: Metric) -> (f64, f64) {
    use Convention::*;
    match (convention, metric) {
        (Linfeng, Metric::Sd) => (0., 255f64.sqrt()),
        (_, Metric::Sd) => (0., 127.5),
        (Linfeng, Metric::Sf) => (0., 2f64.sqrt()),
        (Linfeng | IvifZoo, Metric::Mse) => (0., 1.),
        (Linfeng | IvifZoo, Metric::Mi) => (0., 16.),
        (_, Metric::Mi) => (0., 2. * 256f64.ln()),
        (Linfeng, Metric::Ssim) => (-1., 1.),
        (_, Metric::Ssim | Metric::Scd) => (-2., 2.),
        (Linfeng, Metric::MsSsim) => (0., 1.),
        (_, Metric::MsSsim) => (0., 2.),
        (_, Metric::Qabf | Metric::Nabf | Metric::Qcb) => (0., 1.),
        (_, Metric::Cc) => (-1., 1.),
        (_, Metric::En) => (0., 8.),
        _ => (-1., f64::INFINITY),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn ranges_and_exchange(w in 2usize..70, h in 2usize..70, seed in 1u64..10_000) {
        let [v, i, f] = [0, 1, 2].map(|k| {
            crate::picture(3 * seed + k, w, h).into_iter().map(|p| p as u8).collect::<Vec<u8>>()
        });
        for &convention in &Convention::ALL[1..] {
            let one = sound(convention, [&v, &i, &f], w, h);
            let other = sound(convention, [&i, &v, &f], w, h);
            for (metric, value) in one.iter() {
                let (least, most) = range(convention, metric);
                let inside = value >= least - 1e-9 && value <= most + 1e-9;
                prop_assert!(inside, "{convention} {metric}: {value}");
                let exchanged = other.get(metric).unwrap();
                let same = (value - exchanged).abs() <= 1e-9 * value.abs();
                prop_assert!(same, "{convention} {metric}: {value} {exchanged}");
            }
        }
    }
}
