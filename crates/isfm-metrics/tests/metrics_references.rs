//! Values that other people's packages and a plain NumPy program gave; `fixtures/make.py` says
//! which, with their versions.

use std::collections::BTreeMap;
use std::path::Path;

use isfm_metrics::{Direction, Metric, Plane, Sample, Scores, Triple, average_rank};

/// All sides compute in f64. What remains is the order of sums and the Fourier transforms; Qcb
/// divides by blurred images, which costs a few digits more.
const TOLERANCE: f64 = 1e-9;

fn read(name: &str) -> (Vec<u8>, usize, usize) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let image = image::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let image = image.into_luma8();
    let (w, h) = (image.width() as usize, image.height() as usize);
    (image.into_raw(), w, h)
}

/// The three images of a case as `make.py` changed them, in the order visible, infrared, fused.
fn images(case: &str) -> ([Vec<f32>; 3], usize, usize) {
    let (name, change) = case.split_once(' ').unwrap_or((case, ""));
    let scene = &name[..1];
    let files = [format!("{scene}_vi.png"), format!("{scene}_ir.png"), format!("{name}.png")];
    let mut size = (0, 0);
    let images = files.map(|file| {
        let (pixels, w, h) = read(&file);
        let pixels = pixels.iter().map(|&p| f32::from(p));
        match change {
            "" => {
                size = (w, h);
                pixels.collect()
            }
            "odd" => {
                size = (181, 165);
                let pixels: Vec<f32> = pixels.collect();
                pixels.chunks_exact(w).take(165).flat_map(|row| &row[..181]).copied().collect()
            }
            "fractional" => {
                size = (w, h);
                pixels.map(|p| p * 0.7 + 3.3).collect()
            }
            other => panic!("{other}: no such change"),
        }
    });
    (images, size.0, size.1)
}

fn evaluate<T: Sample>(images: [&[T]; 3], w: usize, h: usize) -> Scores {
    let [v, i, f] = images.map(|data| Plane::new(data, w, h).unwrap());
    Scores::evaluate(&Triple::new(v, i, f).unwrap())
}

#[test]
fn packages_and_numpy_agree() {
    let text = include_str!("fixtures/references.json");
    let references: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(text).unwrap();
    assert_eq!(references.len(), 27);
    let mut worst: BTreeMap<(String, String), f64> = BTreeMap::new();
    for (case, sources) in &references {
        let (images, w, h) = images(case);
        let floats = evaluate(images.each_ref().map(|i| &i[..]), w, h);
        if !case.ends_with("fractional") {
            let bytes = images.each_ref().map(|i| i.iter().map(|&p| p as u8).collect::<Vec<_>>());
            assert_eq!(evaluate(bytes.each_ref().map(|i| &i[..]), w, h), floats, "{case}: u8, f32");
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
    for ((name, source), difference) in &worst {
        eprintln!("{name:<12} {source:<8} differs by at most {difference:.1e}");
    }
    for ((name, source), difference) in worst {
        assert!(difference < TOLERANCE, "{name} by {source}: {difference:e}");
    }
}

#[test]
fn average_ranks_are_those_of_scipy() {
    let cases: Vec<serde_json::Value> =
        serde_json::from_str(include_str!("fixtures/ranks.json")).unwrap();
    assert_eq!(cases.len(), 6);
    let numbers = |values: &serde_json::Value| -> Vec<f64> {
        values.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    };
    for case in &cases {
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
