//! The whole network, and one training step's forward and backward.

use candle_core::{DType, Device};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use isfm_benches::{image, network};
use isfm_model::Preset;

fn forward(c: &mut Criterion) {
    let mut group = c.benchmark_group("network forward");
    group.sample_size(10);
    for (preset, height, width) in [
        (Preset::Small, 128, 128),
        (Preset::Small, 256, 256),
        (Preset::Small, 480, 640),
        (Preset::Paper, 128, 128),
    ] {
        let network = network(preset, DType::F32, &Device::Cpu, false).unwrap();
        let (visible, infrared) = (image(1, height, width), image(1, height, width));
        group.throughput(Throughput::Elements((height * width) as u64));
        let id = BenchmarkId::new(preset.to_string(), format!("{width}x{height}"));
        group.bench_function(id, |b| b.iter(|| network.forward(&visible, &infrared).unwrap()));
    }
    group.finish();
}

fn training(c: &mut Criterion) {
    let mut group = c.benchmark_group("training step");
    group.sample_size(10);
    let network = network(Preset::Small, DType::F32, &Device::Cpu, true).unwrap();
    let (visible, infrared) = (image(4, 128, 128), image(4, 128, 128));
    group.bench_function("small, 4 pairs of 128x128", |b| {
        b.iter(|| {
            let fused = network.forward(&visible, &infrared).unwrap();
            fused.sqr().unwrap().mean_all().unwrap().backward().unwrap()
        });
    });
    group.finish();
}

criterion_group!(benches, forward, training);
criterion_main!(benches);
