//! Segmentation scores against scikit-learn, and what must hold for any label maps.

use isfm_metrics::Error;
use isfm_metrics::segmentation::ConfusionMatrix;
use proptest::prelude::*;
use serde_json::Value;

use crate::close;

/// Quotients of whole numbers, the mean of at most nine of them.
const TOLERANCE: f64 = 1e-14;

fn numbers(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect()
}

#[test]
fn the_numbers_are_scikit_learns() {
    let cases = crate::json("segmentation.json");
    for case in cases.as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let classes = case["classes"].as_u64().unwrap() as usize;
        let mut matrix = ConfusionMatrix::new(classes).unwrap();
        if let Some(label) = case["ignored"].as_u64() {
            matrix = matrix.ignoring(label as u32);
        }
        // In two parts, as two images, and of two element types.
        let narrow = |key: &str| numbers(&case[key]).iter().map(|&v| v as u8).collect::<Vec<u8>>();
        let (truth, predicted) = (narrow("truth"), narrow("predicted"));
        let (first, rest) = truth.split_at(truth.len() / 3);
        let (first_predicted, rest_predicted) = predicted.split_at(truth.len() / 3);
        let mut other = matrix.clone();
        matrix.add(first, first_predicted).unwrap();
        let wide = |labels: &[u8]| labels.iter().map(|&v| u16::from(v)).collect::<Vec<u16>>();
        other.add(&wide(rest), &wide(rest_predicted)).unwrap();
        matrix.merge(&other).unwrap();

        let expected = &case["expected"];
        assert_eq!(matrix.counts(), numbers(&expected["counts"]), "{name}");
        close(name, matrix.mean_iou(), &expected["mean_iou"], TOLERANCE);
        close(name, matrix.accuracy(), &expected["accuracy"], TOLERANCE);
        for (key, got) in [("iou", matrix.iou()), ("class_accuracy", matrix.class_accuracy())] {
            let want = expected[key].as_array().unwrap();
            assert_eq!(got.len(), want.len());
            for (class, (got, want)) in got.into_iter().zip(want).enumerate() {
                close(&format!("{name}, {key} of class {class}"), got, want, TOLERANCE);
            }
        }
    }
}

#[test]
fn nothing_gives_nothing() {
    let mut matrix = ConfusionMatrix::new(3).unwrap().ignoring(9);
    matrix.add::<u8>(&[], &[]).unwrap();
    matrix.add(&[9u8, 9], &[0, 77]).unwrap();
    assert_eq!(matrix.iou(), [None; 3]);
    assert_eq!((matrix.mean_iou(), matrix.accuracy()), (None, None));
    assert_eq!((matrix.class_accuracy(), matrix.mean_class_accuracy()), (vec![None; 3], None));
    assert_eq!((matrix.count(0, 0), matrix.count(3, 0), matrix.classes()), (0, 0, 3));
}

#[test]
fn bad_input_is_told_and_changes_nothing() {
    assert_eq!(ConfusionMatrix::new(0).unwrap_err(), Error::Classes(0));
    assert_eq!(ConfusionMatrix::new(1 << 17).unwrap_err(), Error::Classes(1 << 17));
    let mut matrix = ConfusionMatrix::new(3).unwrap();
    matrix.add(&[0u8, 1], &[2, 1]).unwrap();
    let before = matrix.clone();
    let error = matrix.add(&[0u8, 1, 2], &[0, 1]).unwrap_err();
    assert_eq!(error, Error::LabelMaps { truth: 3, predicted: 2 });
    let error = matrix.add(&[0u32, 1, 3], &[0, 1, 0]).unwrap_err();
    assert_eq!(error, Error::Label { index: 2, label: 3, classes: 3 });
    assert!(error.to_string().contains("0 to 2"), "{error}");
    let error = matrix.add(&[0u32, 1], &[u32::MAX, 1]).unwrap_err();
    assert_eq!(error, Error::Label { index: 0, label: u32::MAX, classes: 3 });
    assert_eq!(matrix.merge(&ConfusionMatrix::new(2).unwrap()).unwrap_err(), Error::Classes(2));
    assert_eq!(matrix, before);
}

proptest! {
    #[test]
    fn scores_are_sane(
        pixels in prop::collection::vec((0..5u8, 0..5u8), 1..200),
        ignored in prop::option::of(0..6u32),
    ) {
        let (truth, predicted): (Vec<_>, Vec<_>) = pixels.into_iter().unzip();
        let mut matrix = ConfusionMatrix::new(5).unwrap();
        if let Some(label) = ignored {
            matrix = matrix.ignoring(label);
        }
        let empty = matrix.clone();
        matrix.add(&truth, &predicted).unwrap();
        let kept = truth.iter().filter(|&&t| Some(u32::from(t)) != ignored).count();
        prop_assert_eq!(matrix.counts().iter().sum::<u64>(), kept as u64);
        for (iou, recall) in matrix.iou().into_iter().zip(matrix.class_accuracy()) {
            // The union is at least the class: IoU is at most the recall.
            if let (Some(iou), Some(recall)) = (iou, recall) {
                prop_assert!((0. ..=recall).contains(&iou));
            }
        }
        // IoU does not know which map is the truth, as long as none is ignored.
        if ignored.is_none() {
            let mut swapped = empty.clone();
            swapped.add(&predicted, &truth).unwrap();
            prop_assert_eq!(swapped.iou(), matrix.iou());
        }
        let mut perfect = empty;
        perfect.add(&truth, &truth).unwrap();
        let want = (kept > 0).then_some(1.);
        prop_assert_eq!((perfect.mean_iou(), perfect.accuracy()), (want, want));
    }
}

#[test]
fn room_for_more_classes() {
    let mut matrix = ConfusionMatrix::new(2).unwrap().ignoring(9);
    matrix.add(&[0u8, 1, 1, 9], &[0, 1, 0, 0]).unwrap();
    let mut whole = ConfusionMatrix::new(4).unwrap().ignoring(9);
    whole.add(&[0u8, 1, 1, 9], &[0, 1, 0, 0]).unwrap();
    matrix.widen(1).unwrap();
    assert_eq!(matrix.classes(), 2);
    matrix.widen(4).unwrap();
    assert_eq!(matrix, whole);
    assert!(matrix.widen(65537).is_err());
    assert_eq!(matrix, whole);
}
