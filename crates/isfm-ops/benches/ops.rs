//! Operations against Candle's own on the same numbers. Candle's are given their layout,
//! B×C×H×W, and ours theirs, B×H×W×C.

use candle_core::{Device, Result, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};
use isfm_ops::Epilogue;

const SIDE: usize = 128;
const CHANNELS: usize = 32;

/// A tensor of standard normal values.
fn random(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1., shape, &Device::Cpu).expect("a tensor on the CPU")
}

/// A grey picture with values in [0, 1], 1×1×H×W.
fn image(height: usize, width: usize) -> Tensor {
    Tensor::rand(0f32, 1., (1, 1, height, width), &Device::Cpu).expect("a tensor on the CPU")
}

fn ops(c: &mut Criterion) {
    let x = random(&[1, SIDE, SIDE, CHANNELS]);
    let y = x.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap();
    let mut compare = |name: &str, samples, ours: &Side<'_>, other: &str, theirs: &Side<'_>| {
        let mut group = c.benchmark_group(name);
        group.sample_size(samples);
        group.bench_function("isfm", |b| b.iter(|| ours().unwrap()));
        group.bench_function(other, |b| b.iter(|| theirs().unwrap()));
        group.finish();
    };
    let weight = random(&[CHANNELS, 1, 3, 3]);
    let ours = || isfm_ops::depthwise_conv2d(&x, &weight, None, Epilogue::None);
    let theirs = || y.conv2d(&weight, 1, 1, 1, CHANNELS);
    compare("depth-wise 3x3", 10, &ours, "candle", &theirs);

    let weight = random(&[CHANNELS, CHANNELS, 3, 3]);
    let ours = || isfm_ops::conv2d(&x, &weight, None, Epilogue::None);
    compare("dense 3x3", 10, &ours, "candle", &|| y.conv2d(&weight, 1, 1, 1, 1));

    let weight = random(&[2 * CHANNELS, CHANNELS]);
    let rows = x.reshape((SIDE * SIDE, CHANNELS)).unwrap();
    let ours = || isfm_ops::linear(&x, &weight, None, Epilogue::None);
    compare("linear", 100, &ours, "candle", &|| rows.matmul(&weight.t()?));

    compare("silu", 100, &|| isfm_ops::silu(&x), "candle", &|| candle_nn::ops::silu(&x));

    let (weight, bias) = (random(&[CHANNELS]), random(&[CHANNELS]));
    let ours = || isfm_ops::layer_norm(&x, &weight, &bias, 1e-5);
    let theirs = || candle_nn::ops::layer_norm(&x, &weight, &bias, 1e-5);
    compare("layer norm", 100, &ours, "candle", &theirs);
}

/// One level of a pyramid of a camera's pictures: no operation of Candle's does the same.
fn pyramid(c: &mut Criterion) {
    let (height, width) = (480, 640);
    let [visible, infrared] = [1, 2].map(|_| image(height, width).affine(0.2, -0.1).unwrap());
    let control = random(&[1, 2, height, width]);
    let half = image(height / 2, width / 2);
    let mut group = c.benchmark_group("pyramid 640x480");
    let mut measure = |name: &str, ours: &Side<'_>| {
        group.bench_function(name, |b| b.iter(|| ours().unwrap()));
    };
    measure("pyr_down", &|| isfm_ops::pyr_down(&visible));
    measure("pyr_up", &|| isfm_ops::pyr_up(&half, height, width));
    let merge = || isfm_ops::merge_details(&visible, &infrared, &control, 1.);
    measure("merge_details", &merge);
}

/// One side of a comparison.
type Side<'a> = dyn Fn() -> Result<Tensor> + 'a;

criterion_group!(benches, ops, pyramid);
criterion_main!(benches);
