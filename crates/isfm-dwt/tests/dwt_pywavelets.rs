//! The values of PyWavelets (`fixtures/make.py`).

mod common;

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use common::{LAYOUTS, difference, from_nchw, to_nchw};
use isfm_dwt::{Border, Wavelet, dwt2, idwt2, wavedec2, waverec2};

fn fixture() -> HashMap<String, Tensor> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/pywavelets.safetensors");
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

/// Inputs are of order 1 and sums of at most 36 products of order 1: some roundings of each type.
const TYPES: [(DType, f64); 2] = [(DType::F64, 2e-15), (DType::F32, 1.5e-6)];

fn wavelet(fixture: &HashMap<String, Tensor>, name: &str) -> Wavelet {
    if name == "haar" {
        return Wavelet::haar();
    }
    let f = fixture[&format!("{name}.filters")].to_vec2::<f64>().unwrap();
    Wavelet::from_filters(name, &f[0], &f[1], &f[2], &f[3]).unwrap()
}

#[test]
fn haar_has_the_filters_of_pywavelets() {
    let f = fixture()["haar.filters"].to_vec2::<f64>().unwrap();
    let theirs = Wavelet::from_filters("haar", &f[0], &f[1], &f[2], &f[3]).unwrap();
    assert_eq!(theirs, Wavelet::haar());
}

#[test]
fn one_level_and_back() {
    let fixture = fixture();
    for (name, cases) in [("haar", 3), ("db2", 2), ("bior2.2", 2)] {
        let wavelet = wavelet(&fixture, name);
        for case in 0..cases {
            for layout in LAYOUTS {
                for (dtype, tolerance) in TYPES {
                    let get = |what: &str| {
                        let x = fixture[&format!("{name}.{case}.{what}")].to_dtype(dtype).unwrap();
                        from_nchw(&x, layout)
                    };
                    let check = |got: &Tensor, what: &str| {
                        let d = difference(got, &get(what));
                        assert!(d <= tolerance, "{name} {case} {layout:?} {dtype:?} {what}: {d}");
                    };
                    let bands = dwt2(&get("x"), &wavelet, Border::Drop, layout).unwrap();
                    check(&bands.approx, "approx");
                    check(&bands.details, "details");
                    let (approx, details) = (get("rec.approx"), get("rec.details"));
                    check(&idwt2(&approx, &details, &wavelet, layout).unwrap(), "rec.x");
                }
            }
        }
    }
}

#[test]
fn three_levels_and_back() {
    let fixture = fixture();
    for layout in LAYOUTS {
        for (dtype, tolerance) in TYPES {
            let x = from_nchw(&fixture["multi.x"].to_dtype(dtype).unwrap(), layout);
            let levels = wavedec2(&x, &Wavelet::haar(), Border::Drop, layout, 3).unwrap();
            assert_eq!(levels.len(), 4);
            for (k, got) in levels.iter().enumerate() {
                let want = &fixture[&format!("multi.{k}")];
                let d = difference(&to_nchw(got, layout), want);
                // Sums of up to 64 values of order 1.
                assert!(d <= 2. * tolerance, "{layout:?} {dtype:?} level {k}: {d}");
            }
            let back = waverec2(&levels, &Wavelet::haar(), layout).unwrap();
            assert!(difference(&back, &x) <= 2. * tolerance);
        }
    }
}
