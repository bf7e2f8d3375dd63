//! The whole network, and one training step's forward and backward.

use candle_core::{Device, Var};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use isfm_benches::image;
use isfm_model::{Config, Network, Preset, Weights, initial_weights};

fn forward(c: &mut Criterion) {
    let mut group = c.benchmark_group("network forward");
    group.sample_size(10);
    for (preset, height, width) in [
        (Preset::Small, 128, 128),
        (Preset::Small, 256, 256),
        (Preset::Small, 480, 640),
        (Preset::Paper, 128, 128),
    ] {
        let config = Config::from(preset);
        let weights = initial_weights(&config, 1, &Device::Cpu).unwrap();
        let network = Network::from_weights(&config, &weights).unwrap();
        let (visible, infrared) = (image(1, height, width), image(1, height, width));
        group.throughput(Throughput::Elements((height * width) as u64));
        group.bench_function(
            BenchmarkId::new(preset.to_string(), format!("{width}x{height}")),
            |b| {
                b.iter(|| network.forward(&visible, &infrared).unwrap());
            },
        );
    }
    group.finish();
}

fn training(c: &mut Criterion) {
    let mut group = c.benchmark_group("training step");
    group.sample_size(10);
    let config = Config::from(Preset::Small);
    let weights = initial_weights(&config, 1, &Device::Cpu).unwrap();
    let variables = weights.iter().map(|(name, w)| (name.clone(), Var::from_tensor(w).unwrap()));
    let variables: Vec<_> = variables.collect();
    let connected: Weights =
        variables.iter().map(|(name, v)| (name.clone(), v.as_tensor().clone())).collect();
    let network = Network::from_weights(&config, &connected).unwrap();
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
