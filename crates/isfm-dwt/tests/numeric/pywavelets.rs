//! The values, lengths and order of PyWavelets (`fixtures/make.py`): every wavelet, every border
//! mode, odd and even sizes, sizes below the filter's.

use candle_core::{DType, Tensor};
use isfm_dwt::{
    Border, DataFormat, Wavelet, WaveletPacket, dwt, dwt2, idwt, iswt, iswt2, swt, swt2, wavedec,
    wavedec2, waverec, waverec2,
};
use isfm_testing::{Golden, difference, golden, values};

use crate::{LAYOUTS, cases, from_nchw, plane, to_nchw};

/// Values are of order 1 to 10, sums of up to 40 products a level: a few roundings of each type.
const TYPES: [(DType, f64); 3] = [(DType::F64, 1e-13), (DType::F32, 1e-6), (DType::F16, 3e-3)];
const CHOSEN: [&str; 10] =
    ["haar", "db2", "db7", "sym4", "coif1", "coif2", "bior2.2", "bior3.7", "rbio1.3", "rbio4.4"];

struct Fixture(Golden);

impl Fixture {
    fn load() -> Self {
        Self(golden!("pywavelets.safetensors"))
    }

    fn values(&self, name: &str) -> Vec<f64> {
        values(&self.0[name])
    }

    /// The first `n` of the signal.
    fn signal(&self, n: usize, dtype: DType) -> Tensor {
        self.0["signal"].narrow(0, 0, n).unwrap().to_dtype(dtype).unwrap()
    }

    /// The corner of the two maps, 1×2×h×w.
    fn maps(&self, h: usize, w: usize, dtype: DType) -> Tensor {
        let maps = self.0["maps"].reshape((1, 2, 11, 14)).unwrap();
        maps.narrow(2, 0, h).unwrap().narrow(3, 0, w).unwrap().to_dtype(dtype).unwrap()
    }

    /// All values of `got`, one after another, are the fixture's, and as many.
    fn check(&self, name: &str, got: &[Tensor], tolerance: f64) {
        let want = self.values(name);
        let got: Vec<f64> = got.iter().flat_map(values).collect();
        assert_eq!(got.len(), want.len(), "{name}");
        let scale = want.iter().fold(1f64, |a, b| a.max(b.abs()));
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            let d = (got - want).abs();
            assert!(d <= tolerance * scale, "{name} {tolerance:e} at {i}: {got}, not {want}");
        }
    }
}

fn reversed(x: &Tensor, dim: usize) -> Tensor {
    let n = x.dim(dim).unwrap() as u32;
    let index = Tensor::from_vec((0..n).rev().collect::<Vec<_>>(), n as usize, x.device()).unwrap();
    x.index_select(&index, dim).unwrap()
}

/// Approximation and details, B×3C×H×W, as PyWavelets' arrays: LL, LH, HL, HH of all channels.
fn bands(levels: &[Tensor], layout: DataFormat) -> Vec<Tensor> {
    levels.iter().map(|x| to_nchw(x, layout)).collect()
}

#[test]
fn filters() {
    let f = Fixture::load();
    let names: Vec<_> = Wavelet::names().collect();
    assert_eq!(names.len(), 75);
    for name in names {
        let wavelet = Wavelet::named(&name).unwrap();
        assert_eq!(wavelet.name(), name);
        let taps = f.values(&format!("filters.{name}"));
        let [a, b, c, d]: [&[f64]; 4] =
            taps.chunks(wavelet.taps()).collect::<Vec<_>>().try_into().unwrap();
        assert_eq!(wavelet, Wavelet::from_filters(&name, a, b, c, d).unwrap());
    }
    let haar = Wavelet::haar();
    assert_eq!(haar, Wavelet::named("haar").unwrap());
    let want: Vec<_> = [1, 2, 7, 100, 2048]
        .iter()
        .flat_map(|&n| {
            ["haar", "db4", "db20"].map(|w| Wavelet::named(w).unwrap().max_level(n) as f64)
        })
        .collect();
    assert_eq!(f.values("max_level"), want);
}

#[test]
fn one_level() {
    let f = Fixture::load();
    for (name, wavelet, border) in cases(Wavelet::names()) {
        for (dtype, tolerance) in TYPES {
            let run = |n| {
                let (a, d) = dwt(&f.signal(n, dtype), &wavelet, border, 0).unwrap();
                assert_eq!(a.dims(), [border.outputs(n, wavelet.taps())]);
                assert_eq!((a.dtype(), d.dtype()), (dtype, dtype));
                [a, d]
            };
            let got: Vec<_> = [2, 5, 8, 19].into_iter().flat_map(run).collect();
            f.check(&format!("dwt.{name}"), &got, tolerance);
        }
    }
}

#[test]
fn one_level_back() {
    let f = Fixture::load();
    for (_, wavelet, border) in cases(Wavelet::names()) {
        let m = (wavelet.taps() / 2).max(2);
        // In PyWavelets, too, all other modes have one inverse.
        let periodic = border == Border::Periodization;
        let of = if periodic { "periodization" } else { "symmetric" };
        for (dtype, tolerance) in TYPES {
            let run = |m| {
                let both = f.signal(2 * m, dtype);
                let (a, d) = (both.narrow(0, 0, m).unwrap(), both.narrow(0, m, m).unwrap());
                idwt(&a, &d, &wavelet, border, 0).unwrap()
            };
            f.check(&format!("idwt.{}.{of}", wavelet.name()), &[run(m), run(m + 1)], tolerance);
        }
    }
}

/// The same along the middle of three dimensions, next to which few or many elements lie.
#[test]
fn along_any_dimension() {
    let f = Fixture::load();
    for (name, wavelet, border) in cases(["haar", "db5", "bior3.5"]) {
        for inner in [1, 3, 70] {
            let run = |n| {
                let x = f.signal(n, DType::F64);
                let x = x.reshape((1, n, 1)).unwrap().repeat((2, 1, inner)).unwrap();
                let (a, d) = dwt(&x, &wavelet, border, 1).unwrap();
                let back = idwt(&a, &d, &wavelet, border, 1).unwrap();
                assert!(difference(&back.narrow(1, 0, n).unwrap(), &x) < 1e-12);
                [a, d].map(|b| {
                    let line = b.narrow(0, 1, 1).unwrap().narrow(2, inner - 1, 1).unwrap();
                    line.flatten_all().unwrap()
                })
            };
            let got: Vec<_> = [2, 5, 8, 19].into_iter().flat_map(run).collect();
            f.check(&format!("dwt.{name}"), &got, 1e-13);
        }
    }
}

#[test]
fn three_levels_and_back() {
    let f = Fixture::load();
    for (name, wavelet, border) in cases(CHOSEN) {
        for n in [45, 46] {
            for (dtype, tolerance) in TYPES {
                let x = f.signal(n, dtype);
                let levels = wavedec(&x, &wavelet, border, 0, 3).unwrap();
                assert_eq!(levels.len(), 4);
                // The roundings of three levels.
                f.check(&format!("wavedec.{name}.{n}"), &levels, 3. * tolerance);
                let mixed: Vec<_> = levels.iter().map(|c| reversed(c, 0)).collect();
                let back = waverec(&mixed, &wavelet, border, 0).unwrap();
                f.check(&format!("waverec.{name}.{n}"), &[back], 6. * tolerance);
            }
        }
    }
}

#[test]
fn stationary_and_back() {
    let f = Fixture::load();
    let run = |wavelet: &Wavelet, n, levels, dtype| {
        let mut all = swt(&f.signal(n, dtype), wavelet, 0, levels).unwrap();
        let mixed: Vec<_> = all.iter().map(|c| reversed(c, 0)).collect();
        all.push(iswt(&mixed, wavelet, 0).unwrap());
        all
    };
    for (dtype, tolerance) in TYPES {
        for name in Wavelet::names() {
            let wavelet = Wavelet::named(&name).unwrap();
            let got = [run(&wavelet, 12, 2, dtype), run(&wavelet, 16, 3, dtype)].concat();
            f.check(&format!("swt.{name}"), &got, 6. * tolerance);
        }
        let normalised = Wavelet::named("db3").unwrap().rescaled(0.5f64.sqrt());
        f.check("swt.norm", &run(&normalised, 16, 2, dtype), 6. * tolerance);
    }
}

#[test]
fn one_level_of_maps() {
    let f = Fixture::load();
    for (name, wavelet, border) in cases(CHOSEN) {
        for layout in LAYOUTS {
            for (dtype, tolerance) in TYPES {
                let run = |(h, w)| {
                    let x = from_nchw(&f.maps(h, w, dtype), layout);
                    let b = dwt2(&x, &wavelet, border, layout).unwrap();
                    assert_eq!(b.approx.dtype(), dtype);
                    bands(&[b.approx, b.details], layout)
                };
                let sizes = [(11, 14), (6, 9), (3, 4), (2, 2)];
                let got: Vec<_> = sizes.into_iter().flat_map(run).collect();
                f.check(&format!("dwt2.{name}"), &got, 2. * tolerance);
            }
        }
    }
}

#[test]
fn two_levels_of_maps_and_back() {
    let f = Fixture::load();
    for (name, wavelet, border) in cases(["haar", "db2", "bior2.2"]) {
        for layout in LAYOUTS {
            for (dtype, tolerance) in TYPES {
                let x = from_nchw(&f.maps(11, 14, dtype), layout);
                let levels = wavedec2(&x, &wavelet, border, layout, 2).unwrap();
                let got = bands(&levels, layout);
                f.check(&format!("wavedec2.{name}"), &got, 4. * tolerance);
                let mixed: Vec<_> = levels.iter().map(|c| reversed(c, plane(layout).1)).collect();
                let back = waverec2(&mixed, &wavelet, border, layout).unwrap();
                let back = to_nchw(&back, layout);
                f.check(&format!("waverec2.{name}"), &[back], 8. * tolerance);
            }
        }
    }
}

#[test]
fn stationary_maps_and_back() {
    let f = Fixture::load();
    for name in CHOSEN {
        let wavelet = Wavelet::named(name).unwrap();
        for layout in LAYOUTS {
            for (dtype, tolerance) in TYPES {
                let x = from_nchw(&f.maps(8, 12, dtype), layout);
                let levels = swt2(&x, &wavelet, layout, 2).unwrap();
                f.check(&format!("swt2.{name}"), &bands(&levels, layout), 4. * tolerance);
                let mixed: Vec<_> = levels.iter().map(|c| reversed(c, plane(layout).1)).collect();
                let back = to_nchw(&iswt2(&mixed, &wavelet, layout).unwrap(), layout);
                f.check(&format!("iswt2.{name}"), &[back], 8. * tolerance);
            }
        }
    }
}

#[test]
fn packets() {
    let f = Fixture::load();
    for (name, wavelet, border) in cases(["haar", "db3", "rbio2.2"]) {
        let key = format!("packet.{name}");
        let x = f.signal(37, DType::F64);
        let mut tree = WaveletPacket::new(&x, &wavelet, border, 0).unwrap();
        tree.split_to(3).unwrap();
        let natural: Vec<_> = tree.leaves().map(|(_, x)| x.clone()).collect();
        f.check(&key, &natural, 1e-12);
        let order = WaveletPacket::frequency_order(3);
        let freq: Vec<_> = order.iter().map(|p| tree.get(p).unwrap().clone()).collect();
        f.check(&format!("{key}.freq"), &freq, 1e-12);
        tree.set("ada", tree.get("ada").unwrap().zeros_like().unwrap()).unwrap();
        f.check(&format!("{key}.rec"), &[tree.reconstruct().unwrap()], 1e-12);

        let key = format!("packet2.{name}");
        for layout in LAYOUTS {
            let x = from_nchw(&f.maps(11, 14, DType::F64), layout);
            let mut tree = WaveletPacket::new2(&x, &wavelet, border, layout).unwrap();
            tree.split_to(2).unwrap();
            let natural: Vec<_> = tree.leaves().map(|(_, x)| to_nchw(x, layout)).collect();
            f.check(&key, &natural, 1e-12);
            let order = WaveletPacket::frequency_order2(2).concat();
            let leaf = |p: &String| to_nchw(tree.get(p).unwrap(), layout);
            let freq: Vec<_> = order.iter().map(leaf).collect();
            f.check(&format!("{key}.freq"), &freq, 1e-12);
            tree.set("hv", tree.get("hv").unwrap().zeros_like().unwrap()).unwrap();
            let rec = to_nchw(&tree.reconstruct().unwrap(), layout);
            f.check(&format!("{key}.rec"), &[rec], 1e-12);
        }
    }
}
