//! Operations against Candle's own on the same numbers. Candle's are given their layout,
//! B×C×H×W, and ours theirs, B×H×W×C.

use candle_core::Tensor;
use candle_nn::Conv2dConfig;
use criterion::{Criterion, criterion_group, criterion_main};
use isfm_benches::random;
use isfm_dwt::{Border, DataFormat, Wavelet};
use isfm_ops::Epilogue;

const SIDE: usize = 128;
const CHANNELS: usize = 32;

fn channels_first(x: &Tensor) -> Tensor {
    x.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap()
}

fn ops(c: &mut Criterion) {
    let x = random(&[1, SIDE, SIDE, CHANNELS]);
    let y = channels_first(&x);
    let padding = |padding, groups| Conv2dConfig { padding, groups, ..Default::default() };
    let candle = |weight: &Tensor, config: Conv2dConfig| {
        let Conv2dConfig { padding, stride, dilation, groups, .. } = config;
        y.conv2d(weight, padding, stride, dilation, groups).unwrap()
    };

    let mut group = c.benchmark_group("depth-wise 3x3");
    group.sample_size(10);
    let weight = random(&[CHANNELS, 1, 3, 3]);
    group.bench_function("isfm", |b| {
        b.iter(|| isfm_ops::depthwise_conv2d(&x, &weight, None, Epilogue::None).unwrap());
    });
    group.bench_function("candle", |b| b.iter(|| candle(&weight, padding(1, CHANNELS))));
    group.finish();

    let mut group = c.benchmark_group("dense 3x3");
    group.sample_size(10);
    let weight = random(&[CHANNELS, CHANNELS, 3, 3]);
    group.bench_function("isfm", |b| {
        b.iter(|| isfm_ops::conv2d(&x, &weight, None, Epilogue::None).unwrap())
    });
    group.bench_function("candle", |b| b.iter(|| candle(&weight, padding(1, 1))));
    group.finish();

    let mut group = c.benchmark_group("linear");
    let weight = random(&[2 * CHANNELS, CHANNELS]);
    let rows = x.reshape((SIDE * SIDE, CHANNELS)).unwrap();
    group.bench_function("isfm", |b| {
        b.iter(|| isfm_ops::linear(&x, &weight, None, Epilogue::None).unwrap())
    });
    group.bench_function("candle", |b| b.iter(|| rows.matmul(&weight.t().unwrap()).unwrap()));
    group.finish();

    let mut group = c.benchmark_group("silu");
    group.bench_function("isfm", |b| b.iter(|| isfm_ops::silu(&x).unwrap()));
    group.bench_function("candle", |b| b.iter(|| candle_nn::ops::silu(&x).unwrap()));
    group.finish();

    let mut group = c.benchmark_group("layer norm");
    let (weight, bias) = (random(&[CHANNELS]), random(&[CHANNELS]));
    group.bench_function("isfm", |b| {
        b.iter(|| isfm_ops::layer_norm(&x, &weight, &bias, 1e-5).unwrap());
    });
    group.bench_function("candle", |b| {
        b.iter(|| candle_nn::ops::layer_norm(&x, &weight, &bias, 1e-5).unwrap());
    });
    group.finish();

    let mut group = c.benchmark_group("one-level Haar");
    group.bench_function("isfm", |b| {
        b.iter(|| {
            isfm_dwt::dwt2(&x, &Wavelet::haar(), Border::Drop, DataFormat::ChannelsLast).unwrap()
        });
    });
    group.bench_function("copy of the same tensor", |b| b.iter(|| x.copy().unwrap()));
    group.finish();
}

criterion_group!(benches, ops);
criterion_main!(benches);
