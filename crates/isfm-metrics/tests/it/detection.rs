//! Detection scores against COCO's own program, and what must hold for any boxes.

use isfm_metrics::Error;
use isfm_metrics::detection::{BoundingBox, Counts, Detection, GroundTruth, Options, evaluate};
use proptest::prelude::*;
use serde_json::Value;

use crate::close;

/// Both sides divide and add the same whole numbers in f64; only the order of the sums differs.
const TOLERANCE: f64 = 1e-12;

fn bbox(value: &Value) -> BoundingBox {
    let v: Vec<f64> = value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    BoundingBox::new(v[0], v[1], v[2], v[3]).unwrap()
}

fn number(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

#[test]
fn the_numbers_are_cocos() {
    let cases = crate::json("detection.json");
    for case in cases.as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let list = |key: &str| case[key].as_array().unwrap();
        let truth: Vec<_> = list("truth")
            .iter()
            .map(|t| GroundTruth {
                crowd: t["crowd"].as_bool().unwrap(),
                ..object(number(&t["image"]), number(&t["cls"]), bbox(&t["bbox"]))
            })
            .collect();
        let found: Vec<_> = list("found")
            .iter()
            .map(|d| Detection {
                image: number(&d["image"]),
                class: number(&d["cls"]),
                bbox: bbox(&d["bbox"]),
                score: d["score"].as_f64().unwrap(),
            })
            .collect();
        let max_detections = number(&case["max_detections"]);
        let options = Options { max_detections, ..Options::default() };
        let scores = evaluate(&truth, &found, &options).unwrap();
        let expected = &case["expected"];
        close(name, scores.map(), &expected["map"], TOLERANCE);
        close(name, scores.map50(), &expected["map50"], TOLERANCE);
        close(name, scores.average_recall(), &expected["average_recall"], TOLERANCE);
        for (class, per_threshold) in expected["ap"].as_array().unwrap().iter().enumerate() {
            for (at, want) in per_threshold.as_array().unwrap().iter().enumerate() {
                let iou = scores.iou_thresholds()[at];
                let got = scores.average_precision(class + 1, iou).unwrap();
                close(&format!("{name}, class {class}, IoU {iou}"), got, want, TOLERANCE);
            }
        }
        for want in expected["counts"].as_array().unwrap() {
            let (iou, low) = (want["iou"].as_f64().unwrap(), want["min_score"].as_f64().unwrap());
            let want = Counts {
                true_positives: number(&want["tp"]),
                false_positives: number(&want["fp"]),
                false_negatives: number(&want["fn"]),
            };
            assert_eq!(scores.counts(iou, low).unwrap(), want, "{name}, IoU {iou}, from {low}");
        }
    }
}

/// Precision, recall and F1.
fn rates(counts: Counts) -> [Option<f64>; 3] {
    [counts.precision(), counts.recall(), counts.f1()]
}

fn object(image: usize, class: usize, bbox: BoundingBox) -> GroundTruth {
    GroundTruth { image, class, bbox, crowd: false }
}

fn square(x: f64, y: f64) -> BoundingBox {
    BoundingBox::new(x, y, 10., 10.).unwrap()
}

#[test]
fn nothing_there_or_nothing_found() {
    let options = Options::default();
    let truth = [object(0, 1, square(0., 0.))];
    let found = [Detection { image: 0, class: 1, bbox: square(0., 0.), score: 0.5 }];

    let neither = evaluate(&[], &[], &options).unwrap();
    assert_eq!((neither.map(), neither.map50(), neither.average_recall()), (None, None, None));
    assert_eq!(rates(neither.counts(0.5, 0.).unwrap()), [None, None, None]);

    let unseen = evaluate(&truth, &[], &options).unwrap();
    assert_eq!([unseen.map(), unseen.map50(), unseen.average_recall()], [Some(0.); 3]);
    assert_eq!(rates(unseen.counts(0.5, 0.).unwrap()), [None, Some(0.), Some(0.)]);
    assert_eq!(unseen.curve(1, 0.5).unwrap(), []);

    let made_up = evaluate(&[], &found, &options).unwrap();
    assert_eq!((made_up.map(), made_up.map50()), (None, None));
    assert_eq!(rates(made_up.counts(0.5, 0.).unwrap()), [Some(0.), None, Some(0.)]);
    assert_eq!(made_up.curve(1, 0.5).unwrap(), []);
    assert_eq!(made_up.average_precision(1, 0.5), Ok(None));
    assert_eq!(made_up.average_precision(7, 0.5), Ok(None));

    let perfect = evaluate(&truth, &found, &options).unwrap();
    assert_eq!((perfect.map(), perfect.average_recall()), (Some(1.), Some(1.)));
    assert_eq!(perfect.curve(1, 0.95).unwrap(), [(1., 1.)]);
    assert_eq!(perfect.class_counts(1, 0.5, 0.6).unwrap().false_negatives, 1);
    assert_eq!(perfect.class_counts(9, 0.5, 0.).unwrap(), Counts::default());
    // No detection may count.
    let none = Options { max_detections: 0, ..options };
    assert_eq!(evaluate(&truth, &found, &none).unwrap().map(), Some(0.));
}

/// One object, one detection that overlaps it by 3/5 and one that repeats the object.
#[test]
fn by_hand() {
    let truth = [object(0, 0, square(0., 0.)), object(1, 0, square(0., 0.))];
    let at = |image, x, score| Detection { image, class: 0, bbox: square(x, 0.), score };
    // IoU of squares 2.5 apart: 75 / 125. The second hit in image 0 is a false positive.
    let found = [at(0, 2.5, 0.9), at(0, 0., 0.8), at(1, 0., 0.7)];
    let scores = evaluate(&truth, &found, &Options::default()).unwrap();
    let curve = scores.curve(0, 0.5).unwrap();
    assert_eq!(curve, [(0.5, 1.), (0.5, 0.5), (1., 2. / 3.)]);
    // Precision 1 at the recalls 0 to .5 (51 of them), then 2/3.
    let want = (51. + 50. * 2. / 3.) / 101.;
    assert!((scores.map50().unwrap() - want).abs() < TOLERANCE);
    // At IoU .65 the first one misses and the second takes its place.
    assert_eq!(scores.curve(0, 0.65).unwrap(), [(0., 0.), (0.5, 0.5), (1., 2. / 3.)]);
    assert_eq!(rates(scores.counts(0.5, 0.75).unwrap()), [Some(0.5), Some(0.5), Some(0.5)]);
}

#[test]
fn crowds_ask_for_nothing() {
    let region = BoundingBox::from_corners(0., 0., 100., 100.).unwrap();
    let crowd = GroundTruth { crowd: true, ..object(0, 0, region) };
    let truth = [crowd, object(0, 0, square(10., 10.))];
    let at = |x, y, score| Detection { image: 0, class: 0, bbox: square(x, y), score };
    // The object, three boxes inside the crowd, one outside.
    let found = [
        at(10., 10., 0.9),
        at(50., 50., 0.8),
        at(50., 50., 0.7),
        at(20., 20., 0.6),
        at(200., 0., 0.5),
    ];
    let scores = evaluate(&truth, &found, &Options::default()).unwrap();
    let want = Counts { true_positives: 1, false_positives: 1, false_negatives: 0 };
    assert_eq!(scores.counts(0.5, 0.).unwrap(), want);
    assert_eq!(scores.map(), Some(1.));
    // A set of nothing but crowds has no objects to score on.
    assert_eq!(evaluate(&truth[..1], &found, &Options::default()).unwrap().map(), None);
}

#[test]
fn bad_input_is_told() {
    for (x, y, w, h) in [
        (0., 0., -1., 5.),
        (0., 0., 5., -0.1),
        (f64::NAN, 0., 5., 5.),
        (0., f64::INFINITY, 5., 5.),
        (0., 0., f64::NAN, 5.),
        (0., 0., 5., f64::INFINITY),
        (0., 0., 1e200, 1e200),
    ] {
        let error = BoundingBox::new(x, y, w, h).unwrap_err();
        assert!(matches!(error, Error::BoundingBox { .. }), "{error}");
    }
    let error = BoundingBox::from_corners(5., 0., 4., 9.).unwrap_err().to_string();
    assert!(error.contains("-1x9"), "{error}");

    let flat = BoundingBox::new(1., 1., 0., 5.).unwrap();
    assert_eq!((flat.area(), flat.iou(&flat)), (0., 0.));

    let options = Options::default();
    let with = |score| Detection { image: 0, class: 0, bbox: square(0., 0.), score };
    let error = evaluate(&[], &[with(0.5), with(f64::NAN)], &options).unwrap_err();
    assert_eq!(error, Error::DetectionScore { index: 1 });
    // Infinite scores are in order.
    assert!(evaluate(&[], &[with(f64::INFINITY), with(f64::NEG_INFINITY)], &options).is_ok());
    for thresholds in [vec![], vec![0.], vec![1.1], vec![f64::NAN], vec![0.7, 0.5], vec![-0.5]] {
        let options = Options { iou_thresholds: thresholds.clone(), ..Options::default() };
        let error = evaluate(&[], &[], &options).unwrap_err();
        assert!(matches!(error, Error::IouThresholds(_)), "{thresholds:?}: {error}");
    }
    let scores = evaluate(&[], &[with(0.5)], &options).unwrap();
    assert_eq!(scores.map_at(0.52).unwrap_err(), Error::IouThresholds(vec![0.52]));
    assert_eq!(scores.counts(0.5, f64::NAN).unwrap_err(), Error::MinimumScore);
    assert_eq!(scores.class_counts(0, 0.5, f64::NAN).unwrap_err(), Error::MinimumScore);
}

fn boxes() -> impl Strategy<Value = BoundingBox> {
    (0..40i32, 0..40i32, 0..30i32, 0..30i32)
        .prop_map(|(x, y, w, h)| BoundingBox::new(x.into(), y.into(), w.into(), h.into()).unwrap())
}

fn scenes() -> impl Strategy<Value = (Vec<GroundTruth>, Vec<Detection>)> {
    let truth = (0..3usize, 0..3usize, boxes(), prop::bool::weighted(0.2))
        .prop_map(|(image, class, bbox, crowd)| GroundTruth { image, class, bbox, crowd });
    // Scores all differ, so that the order given does not matter.
    let found = (0..3usize, 0..3usize, boxes());
    (prop::collection::vec(truth, 0..12), prop::collection::vec(found, 0..20)).prop_map(|(t, f)| {
        let detection = |(i, (image, class, bbox)): (usize, (usize, usize, BoundingBox))| {
            Detection { image, class, bbox, score: ((i * 7919) % 1009) as f64 / 1009. }
        };
        (t, f.into_iter().enumerate().map(detection).collect())
    })
}

proptest! {
    #[test]
    fn iou_is_symmetric_and_at_most_one(a in boxes(), b in boxes()) {
        let iou = a.iou(&b);
        prop_assert_eq!(iou, b.iou(&a));
        prop_assert!((0. ..=1.).contains(&iou));
        prop_assert_eq!(a.iou(&a), if a.area() > 0. { 1. } else { 0. });
    }

    #[test]
    fn scores_are_sane((truth, mut found) in scenes()) {
        let options = Options::default();
        let scores = evaluate(&truth, &found, &options).unwrap();
        let objects = truth.iter().filter(|t| !t.crowd).count();
        prop_assert_eq!(scores.map().is_some(), objects > 0);
        let mut last = f64::INFINITY;
        for &iou in scores.iou_thresholds() {
            // A higher threshold can only turn hits into misses in total.
            let counts = scores.counts(iou, f64::NEG_INFINITY).unwrap();
            prop_assert_eq!(counts.true_positives + counts.false_negatives, objects);
            prop_assert!(counts.true_positives as f64 <= last);
            last = counts.true_positives as f64;
            if let Some(map) = scores.map_at(iou).unwrap() {
                prop_assert!((0. ..=1.).contains(&map));
            }
            for class in 0..3 {
                let curve = scores.curve(class, iou).unwrap();
                prop_assert!(curve.windows(2).all(|w| w[0].0 <= w[1].0), "recall falls");
            }
        }
        // The order given does not matter where no two scores are equal, nor do shifted numbers.
        found.reverse();
        for detection in &mut found {
            detection.image += 5;
            detection.score = detection.score * 3. - 8.;
        }
        let shifted: Vec<_> =
            truth.iter().map(|t| GroundTruth { image: t.image + 5, ..*t }).collect();
        let again = evaluate(&shifted, &found, &options).unwrap();
        prop_assert_eq!(again.map(), scores.map());
    }

    #[test]
    fn the_truth_itself_scores_one((truth, _) in scenes()) {
        let solid: Vec<_> = truth.into_iter().filter(|t| !t.crowd && t.bbox.area() > 0.).collect();
        let found: Vec<_> = solid
            .iter()
            .map(|t| Detection { image: t.image, class: t.class, bbox: t.bbox, score: 1. })
            .collect();
        let scores = evaluate(&solid, &found, &Options::default()).unwrap();
        let want = (!solid.is_empty()).then_some(1.);
        prop_assert_eq!((scores.map(), scores.average_recall()), (want, want));
    }
}

/// At .9 one of two objects is found (F1 2/3), at .8 a false positive comes (1/2), at .5 two detections of
/// one score, one of them right (4/6); .9 and .5 give the same, and the higher is taken.
#[test]
fn the_best_f1_is_of_scores_not_of_detections() {
    let truth = [object(0, 0, square(0., 0.)), object(0, 1, square(50., 0.))];
    let at = |class, x, score| Detection { image: 0, class, bbox: square(x, 0.), score };
    let found = [at(0, 0., 0.9), at(0, 90., 0.8), at(1, 50., 0.5), at(1, 90., 0.5)];
    let best = |truth: &[GroundTruth], found: &[Detection]| {
        evaluate(truth, found, &Options::default()).unwrap().best_f1(0.5).unwrap()
    };
    let counts = |true_positives, false_positives, false_negatives| Counts {
        true_positives,
        false_positives,
        false_negatives,
    };
    assert_eq!(best(&truth, &found), Some((0.9, counts(1, 0, 1))));
    assert_eq!(best(&truth, &found[1..3]), Some((0.5, counts(1, 1, 1))));
    assert_eq!(best(&truth, &[]), None);
    assert_eq!(best(&[], &found[..1]), Some((0.9, counts(0, 1, 0))));
    let scores = evaluate(&truth, &found, &Options::default()).unwrap();
    assert!(scores.best_f1(0.51).is_err());
}

/// The scores 0 and −0 are equal, so their detections keep the order given.
#[test]
fn zeros_are_equal() {
    let truth = [object(0, 0, square(0., 0.))];
    let at = |x, score| Detection { image: 0, class: 0, bbox: square(x, 0.), score };
    let right_first = evaluate(&truth, &[at(0., -0.), at(50., 0.)], &Options::default()).unwrap();
    assert_eq!(right_first.map(), Some(1.));
}
