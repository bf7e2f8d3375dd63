//! The numbers of the released evaluation program, on `u8` and on `f32` pixels.

use std::path::{Path, PathBuf};

use isfm_metrics::{
    Metric, Plane, Sample, Scores, Triple, average_gradient, correlation, entropy, mse,
    mutual_information, psnr, qabf, scd, spatial_frequency, ssim, standard_deviation, vif,
};

/// That program computes most sums in f32, so its own last digits are worth about 1e-7.
const TOLERANCE: f64 = 1e-6;

struct Grey {
    data: Vec<u8>,
    width: usize,
    height: usize,
}

fn read(path: &Path) -> Grey {
    let image = image::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let image = image.into_luma8();
    let (width, height) = (image.width() as usize, image.height() as usize);
    Grey { data: image.into_raw(), width, height }
}

/// Each metric by its own function.
fn one_by_one<T: Sample>(t: &Triple<'_, T>) -> Vec<(Metric, f64)> {
    let fused = t.fused();
    vec![
        (Metric::En, entropy(&fused)),
        (Metric::Sd, standard_deviation(&fused)),
        (Metric::Sf, spatial_frequency(&fused)),
        (Metric::Ag, average_gradient(&fused)),
        (Metric::Mi, mutual_information(t)),
        (Metric::Scd, scd(t)),
        (Metric::Vif, vif(t).unwrap()),
        (Metric::Qabf, qabf(t)),
        (Metric::Ssim, ssim(t).unwrap()),
        (Metric::Cc, correlation(t)),
        (Metric::Mse, mse(t)),
        (Metric::Psnr, psnr(t)),
    ]
}

fn check<T: Sample>(name: &str, triple: &Triple<'_, T>, expected: &serde_json::Value) -> f64 {
    let scores = Scores::evaluate(triple);
    let single = one_by_one(triple);
    assert_eq!(single.len(), 12);
    let mut worst: f64 = 0.;
    for (metric, value) in single {
        let want = expected[metric.name()].as_f64().unwrap();
        let error = (value - want).abs() / want.abs();
        assert!(error < TOLERANCE, "{name} {metric}: {value}, not {want} ({error:e})");
        assert_eq!(scores.get(metric), Some(value), "{name} {metric}: evaluate differs");
        worst = worst.max(error);
    }
    worst
}

fn folder(path: &Path) {
    let text = std::fs::read_to_string(path.join("expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
    let expected = expected.as_object().unwrap();
    assert_eq!(expected.len(), 9);
    for (name, expected) in expected {
        let scene = name.split('_').next().unwrap();
        let files = [format!("{scene}_vi"), format!("{scene}_ir"), name.clone()];
        let [vi, ir, fused] = files.map(|f| read(&path.join(f).with_extension("png")));

        let plane = |g: &'static Grey| Plane::new(&g.data, g.width, g.height).unwrap();
        let leaked = [vi, ir, fused].map(|g| &*Box::leak(Box::new(g)));
        let [v, i, f] = leaked.map(plane);
        let bytes = check(name, &Triple::new(v, i, f).unwrap(), expected);

        let floats = leaked.map(|g| g.data.iter().map(|&p| f32::from(p)).collect::<Vec<_>>());
        let [v, i, f] =
            [0, 1, 2].map(|k| Plane::new(&floats[k], leaked[k].width, leaked[k].height).unwrap());
        check(name, &Triple::new(v, i, f).unwrap(), expected);
        eprintln!("{name}: differs by at most {bytes:.1e}");
    }
}

#[test]
fn synthetic_triples() {
    folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"));
}

/// Real photographs, which are not ours to publish: beside the workspace, where they exist.
#[test]
fn real_triples() {
    let path: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "../../../shared/golden/metrics_real"].iter().collect();
    if path.is_dir() {
        folder(&path);
    } else {
        eprintln!("SKIPPED real_triples: there is no {}", path.display());
    }
}
