//! The metrics against other programs, the definitions, and what must hold for any input.

mod conventions;
mod definitions;
mod detection;
mod golden;
mod limits;
mod properties;
mod references;
mod segmentation;

use std::path::Path;

use isfm_metrics::{
    Error, Feature, Metric, Plane, Sample, Scores, Triple, average_gradient, correlation,
    cross_entropy, edge_intensity, entropy, fmi, ms_ssim, mse, mutual_information, nabf, psnr,
    qabf, qcb, qcv, qmi, qncie, qp, qte, rmse, scd, spatial_frequency, ssim, standard_deviation,
    vif,
};
use isfm_testing::Numbers;
use serde_json::Value;

fn fixtures() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures"))
}

/// A fixture's JSON.
fn json(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(fixtures().join(name)).unwrap()).unwrap()
}

/// Grey levels, width and height.
fn read(path: &Path) -> (Vec<u8>, usize, usize) {
    let image = image::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let image = image.into_luma8();
    let (w, h) = (image.width() as usize, image.height() as usize);
    (image.into_raw(), w, h)
}

/// The three images of a case, as the scripts beside the fixtures changed them, in the order visible,
/// infrared, fused.
fn images(case: &str) -> ([Vec<u8>; 3], usize, usize) {
    let (name, change) = case.split_once(' ').unwrap_or((case, ""));
    let scene = &name[..1];
    let files = [format!("{scene}_vi.png"), format!("{scene}_ir.png"), format!("{name}.png")];
    let mut size = (0, 0);
    let images = files.map(|file| {
        let (pixels, w, h) = read(&fixtures().join(file));
        size = (w, h);
        match change {
            "" => pixels,
            "bright" => pixels.iter().map(|&p| p.saturating_mul(2)).collect(),
            "dark" => pixels.iter().map(|&p| p / 8).collect(),
            "odd" => {
                size = (181, 165);
                pixels.chunks_exact(w).take(165).flat_map(|row| &row[..181]).copied().collect()
            }
            other => panic!("{other}: no such change"),
        }
    });
    (images, size.0, size.1)
}

/// Waves, an edge and noise: neighbours are related as in a picture.
fn picture(seed: u64, w: usize, h: usize) -> Vec<f32> {
    let mut numbers = Numbers(seed);
    let mut random = || numbers.unit() as f32;
    let (a, b, edge) = (random(), random(), random());
    (0..w * h)
        .map(|p| {
            let (x, y) = ((p % w) as f32, (p / w) as f32);
            let wave = (x * (0.05 + 0.3 * a) + y * (0.05 + 0.3 * b)).sin() * 60.;
            let step = if x > edge * w as f32 { 50. } else { 0. };
            (90. + wave + step + 20. * random()).clamp(0., 255.)
        })
        .collect()
}

fn triple<'a, T: Sample>([v, i, f]: [&'a [T]; 3], w: usize, h: usize) -> Triple<'a, T> {
    let plane = |data| Plane::new(data, w, h).unwrap();
    Triple::new(plane(v), plane(i), plane(f)).unwrap()
}

fn scores<T: Sample>(images: [&[T]; 3], w: usize, h: usize) -> Scores {
    Scores::evaluate(&triple(images, w, h))
}

/// Each metric by its own function.
fn single<T: Sample>(t: &Triple<'_, T>, metric: Metric) -> Result<f64, Error> {
    let fused = &t.fused();
    Ok(match metric {
        Metric::En => entropy(fused),
        Metric::Sd => standard_deviation(fused),
        Metric::Sf => spatial_frequency(fused),
        Metric::Ag => average_gradient(fused),
        Metric::Mi => mutual_information(t),
        Metric::Scd => scd(t),
        Metric::Vif => vif(t)?,
        Metric::Qabf => qabf(t),
        Metric::Ssim => ssim(t)?,
        Metric::Cc => correlation(t),
        Metric::Mse => mse(t),
        Metric::Psnr => psnr(t),
        Metric::MsSsim => ms_ssim(t)?,
        Metric::FmiPixel => fmi(t, Feature::Pixel)?,
        Metric::FmiGradient => fmi(t, Feature::Gradient)?,
        Metric::FmiDct => fmi(t, Feature::Dct)?,
        Metric::FmiWavelet => fmi(t, Feature::Wavelet)?,
        Metric::Nabf => nabf(t),
        Metric::Qcv => qcv(t),
        Metric::Qcb => qcb(t),
        Metric::Qp => qp(t),
        Metric::Ce => cross_entropy(t),
        Metric::Ei => edge_intensity(fused),
        Metric::Rmse => rmse(t),
        Metric::Qmi => qmi(t),
        Metric::Qte => qte(t),
        Metric::Qncie => qncie(t),
        other => panic!("{other} has no function here"),
    })
}

/// Asserts that both are numbers not further apart than the tolerance, or that there is none.
#[track_caller]
fn close(name: &str, got: Option<f64>, want: &Value, tolerance: f64) {
    match (got, want.as_f64()) {
        (Some(got), Some(want)) => {
            assert!((got - want).abs() < tolerance, "{name}: {got}, not {want}")
        }
        (got, want) => assert_eq!(got, want, "{name}"),
    }
}
