//! The numbers of the released evaluation program, on `u8` and on `f32` pixels.

use std::path::Path;

use isfm_metrics::{Metric, Sample, Scores, Triple};

/// That program computes most sums in f32, so its own last digits are worth about 1e-7.
const TOLERANCE: f64 = 1e-6;

fn check<T: Sample>(name: &str, triple: &Triple<'_, T>, expected: &serde_json::Value) {
    let mut worst: f64 = 0.;
    let scores = Scores::evaluate(triple);
    let metrics = Metric::ALL.iter().filter(|m| expected.get(m.name()).is_some());
    assert_eq!(metrics.clone().count(), 12);
    for &metric in metrics {
        let value = crate::single(triple, metric).unwrap();
        let want = expected[metric.name()].as_f64().unwrap();
        let error = (value - want).abs() / want.abs();
        assert!(error < TOLERANCE, "{name} {metric}: {value}, not {want} ({error:e})");
        assert_eq!(scores.get(metric), Some(value), "{name} {metric}: evaluate differs");
        worst = worst.max(error);
    }
    println!("{name}: differs by at most {worst:.1e}");
}

fn folder(path: &Path) {
    let text = std::fs::read_to_string(path.join("expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
    let expected = expected.as_object().unwrap();
    assert_eq!(expected.len(), 9);
    for (name, expected) in expected {
        let scene = name.split('_').next().unwrap();
        let files = [format!("{scene}_vi"), format!("{scene}_ir"), name.clone()];
        let images = files.map(|f| crate::read(&path.join(f).with_extension("png")));
        let (_, w, h) = images[0];
        let bytes = images.map(|(data, ..)| data);
        check(name, &crate::triple(bytes.each_ref().map(|b| &b[..]), w, h), expected);
        let floats = bytes.map(|b| b.iter().map(|&p| f32::from(p)).collect::<Vec<_>>());
        check(name, &crate::triple(floats.each_ref().map(|f| &f[..]), w, h), expected);
    }
}

#[test]
fn synthetic_triples() {
    folder(crate::fixtures());
}

isfm_testing::needs_shared! {
    /// Real photographs, which are not ours to publish.
    fn real_triples() {
        folder(&isfm_testing::shared().join("golden/metrics_real"));
    }
}
