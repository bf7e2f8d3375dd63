//! Wavelet transforms against the same filters as convolutions of Candle's, and against a copy.
//! `benches/python/wavelets_vs_pywavelets.py` of the repository compares with PyWavelets.

use candle_core::{Device, Tensor, Var};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use isfm_dwt::{Border, DataFormat, Wavelet, dwt, dwt2, swt2, wavedec2, waverec2};

const SIDE: usize = 1024;
const LAYOUT: DataFormat = DataFormat::ChannelsFirst;

/// A tensor of standard normal values.
fn random(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1., shape, &Device::Cpu).expect("a tensor on the CPU")
}

/// The four filters of one level as a convolution's weight, 4×1×taps×taps, and Candle's padding
/// for `Border::Zero`.
fn convolution(dec_lo: &[f64], dec_hi: &[f64]) -> (Tensor, usize) {
    let taps = dec_lo.len();
    let mut weight = Vec::with_capacity(4 * taps * taps);
    for (rows, columns) in [(dec_lo, dec_lo), (dec_hi, dec_lo), (dec_lo, dec_hi), (dec_hi, dec_hi)]
    {
        for &r in rows.iter().rev() {
            weight.extend(columns.iter().rev().map(|&c| (r * c) as f32));
        }
    }
    (Tensor::from_vec(weight, (4, 1, taps, taps), &Device::Cpu).unwrap(), taps - 2)
}

fn one_level(c: &mut Criterion) {
    let x = random(&[1, 1, SIDE, SIDE]);
    let s = std::f64::consts::FRAC_1_SQRT_2;
    let db2 = [-0.12940952255126037, 0.2241438680420134, 0.8365163037378079, 0.48296291314453416];
    let high = |lo: &[f64]| -> Vec<f64> {
        let sign = |k| if k % 2 == 0 { -1. } else { 1. };
        lo.iter().rev().enumerate().map(|(k, x)| sign(k) * x).collect()
    };
    for (name, lo) in [("haar", &[s, s][..]), ("db2", &db2)] {
        let wavelet = Wavelet::named(name).unwrap();
        let (weight, padding) = convolution(lo, &high(lo));
        let candle = || x.conv2d(&weight, padding, 2, 1, 1).unwrap();
        let ours = || dwt2(&x, &wavelet, Border::Zero, LAYOUT).unwrap();
        // The same numbers, or the comparison means nothing.
        let both = (candle() - ours().packed().unwrap()).unwrap();
        let largest = both.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(largest < 1e-5, "{name}: {largest}");

        let mut group = c.benchmark_group(format!("dwt2 {name} 1024x1024"));
        group.throughput(Throughput::Bytes(4 * (SIDE * SIDE) as u64));
        group.sample_size(20);
        group.bench_function("isfm", |b| b.iter(ours));
        group.bench_function("candle conv2d", |b| b.iter(candle));
        group.bench_function("copy of the same tensor", |b| b.iter(|| x.copy().unwrap()));
        let var = Var::from_tensor(&x).unwrap();
        group.bench_function("isfm, with gradient", |b| {
            b.iter(|| {
                let bands = dwt2(&var, &wavelet, Border::Zero, LAYOUT).unwrap();
                let sum = bands.approx.sum_all().unwrap() + bands.details.sum_all().unwrap();
                sum.unwrap().backward().unwrap()
            });
        });
        group.finish();
    }
}

fn levels(c: &mut Criterion) {
    let x = random(&[1, 1, SIDE, SIDE]);
    let mut group = c.benchmark_group("1024x1024");
    group.sample_size(20);
    for name in ["haar", "db4", "sym8", "bior4.4", "db20"] {
        let wavelet = Wavelet::named(name).unwrap();
        let border = Border::Symmetric;
        let levels = wavelet.max_level(SIDE);
        let coefficients = wavedec2(&x, &wavelet, border, LAYOUT, levels).unwrap();
        group.bench_function(BenchmarkId::new("wavedec2", name), |b| {
            b.iter(|| wavedec2(&x, &wavelet, border, LAYOUT, levels).unwrap());
        });
        group.bench_function(BenchmarkId::new("waverec2", name), |b| {
            b.iter(|| waverec2(&coefficients, &wavelet, border, LAYOUT).unwrap());
        });
        group.bench_function(BenchmarkId::new("swt2, 2 levels", name), |b| {
            b.iter(|| swt2(&x, &wavelet, LAYOUT, 2).unwrap());
        });
        for (dim, along) in [(3, "rows"), (2, "columns")] {
            group.bench_function(BenchmarkId::new(format!("dwt along {along}"), name), |b| {
                b.iter(|| dwt(&x, &wavelet, border, dim).unwrap());
            });
        }
    }
    group.finish();
}

/// As the network takes it: the maps' last dimension are the channels.
fn channels_last(c: &mut Criterion) {
    let x = random(&[1, 128, 128, 32]);
    let haar = Wavelet::haar();
    let mut group = c.benchmark_group("dwt2 haar 128x128x32");
    group.bench_function("isfm", |b| {
        b.iter(|| dwt2(&x, &haar, Border::Drop, DataFormat::ChannelsLast).unwrap());
    });
    group.bench_function("copy of the same tensor", |b| b.iter(|| x.copy().unwrap()));
    group.finish();
}

criterion_group!(benches, one_level, channels_last, levels);
criterion_main!(benches);
