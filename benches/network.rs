//! The whole network, and one training step's forward and backward.

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use isfm_benches::{image, network};
use isfm_model::{Network, Preset};

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

/// Forward and backward beside the forward of the same pictures without a graph, which is what the
/// step's time is compared with.
fn training(c: &mut Criterion) {
    let mut group = c.benchmark_group("training step");
    group.sample_size(10);
    for (preset, batch) in [(Preset::Small, 4), (Preset::Base, 1)] {
        let (visible, infrared) = (image(batch, 128, 128), image(batch, 128, 128));
        let name = |what: &str| format!("{preset}, {batch} x 128x128, {what}");
        let plain = network(preset, DType::F32, &Device::Cpu, false).unwrap();
        group.bench_function(name("forward"), |b| {
            b.iter(|| plain.forward(&visible, &infrared).unwrap());
        });
        let network = network(preset, DType::F32, &Device::Cpu, true).unwrap();
        group.bench_function(name("forward with graph"), |b| {
            b.iter(|| network.forward(&visible, &infrared).unwrap());
        });
        group.bench_function(name("step"), |b| {
            b.iter(|| {
                let fused = network.forward(&visible, &infrared).unwrap();
                fused.sqr().unwrap().mean_all().unwrap().backward().unwrap()
            });
        });
        ratio(&plain, &network, &visible, &infrared);
    }
    group.finish();
}

/// Prints how many times a forward a step takes. The two take turns, so that other work on the
/// machine slows both down, and the least time of each counts.
fn ratio(plain: &Network, network: &Network, visible: &Tensor, infrared: &Tensor) {
    let mut least = [f64::INFINITY; 2];
    for _ in 0..8 {
        let start = Instant::now();
        plain.forward(visible, infrared).unwrap();
        let middle = Instant::now();
        let fused = network.forward(visible, infrared).unwrap();
        fused.sqr().unwrap().mean_all().unwrap().backward().unwrap();
        least[0] = least[0].min((middle - start).as_secs_f64());
        least[1] = least[1].min(middle.elapsed().as_secs_f64());
    }
    println!("a step takes {:.2} times its forward", least[1] / least[0]);
}

fn keep_memory(_: &mut Criterion) {
    // As the programs here do when they start.
    isfm::keep_freed_memory();
}

criterion_group!(benches, keep_memory, forward, training);
criterion_main!(benches);
