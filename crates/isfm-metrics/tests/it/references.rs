//! Values that other people's packages and a plain NumPy program gave; `fixtures/make.py` says
//! which, with their versions.

use std::collections::BTreeMap;

use isfm_metrics::{Direction, Metric, average_rank};

use crate::scores;

/// All sides compute in f64. What remains is the order of sums and the Fourier transforms; Qcb
/// divides by blurred images, which costs a few digits more.
const TOLERANCE: f64 = 1e-9;

/// The three images of a case as `make.py` changed them.
fn images(case: &str) -> ([Vec<f32>; 3], usize, usize) {
    let fractional = case.strip_suffix(" fractional");
    let (images, w, h) = crate::images(fractional.unwrap_or(case));
    let change = |p| if fractional.is_some() { f32::from(p) * 0.7 + 3.3 } else { f32::from(p) };
    (images.map(|pixels| pixels.into_iter().map(change).collect()), w, h)
}

#[test]
fn packages_and_numpy_agree() {
    let references = crate::json("references.json");
    let references = references.as_object().unwrap();
    assert_eq!(references.len(), 27);
    let mut worst: BTreeMap<(String, String), f64> = BTreeMap::new();
    for (case, sources) in references {
        let (images, w, h) = images(case);
        let floats = scores(images.each_ref().map(|i| &i[..]), w, h);
        if !case.ends_with("fractional") {
            let bytes = images.each_ref().map(|i| i.iter().map(|&p| p as u8).collect::<Vec<_>>());
            assert_eq!(scores(bytes.each_ref().map(|i| &i[..]), w, h), floats, "{case}: u8, f32");
        }
        for (source, values) in sources.as_object().unwrap() {
            for (name, value) in values.as_object().unwrap() {
                let metric = Metric::ALL.iter().find(|m| m.name() == name).unwrap();
                let got = floats.get(*metric).unwrap_or_else(|| panic!("{case}: no {name}"));
                let want = value.as_f64().unwrap();
                let difference = (got - want).abs() / want.abs();
                let worst = worst.entry((name.clone(), source.clone())).or_default();
                *worst = worst.max(difference);
            }
        }
    }
    for ((name, source), difference) in worst {
        println!("{name:<12} {source:<8} differs by at most {difference:.1e}");
        assert!(difference < TOLERANCE, "{name} by {source}: {difference:e}");
    }
}

#[test]
fn average_ranks_are_those_of_scipy() {
    let cases = crate::json("ranks.json");
    let cases = cases.as_array().unwrap();
    assert_eq!(cases.len(), 6);
    let numbers = |values: &serde_json::Value| -> Vec<f64> {
        values.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    };
    for case in cases {
        let table: Vec<Vec<f64>> = case["table"].as_array().unwrap().iter().map(numbers).collect();
        let higher = case["higher"].as_array().unwrap().iter();
        let directions: Vec<Direction> = higher
            .map(|h| if h.as_bool().unwrap() { Direction::Higher } else { Direction::Lower })
            .collect();
        let ranks = average_rank(&table, &directions).unwrap();
        for (ours, scipys) in ranks.iter().zip(numbers(&case["ranks"])) {
            // Ranks are halves of whole numbers; only the division by the metrics rounds.
            assert!((ours - scipys).abs() < 1e-12, "{ours} is not {scipys}");
        }
    }
}
