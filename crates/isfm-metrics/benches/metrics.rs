//! Each metric alone, the nine that the ISFM authors' evaluation prints, and all of them, at two
//! sizes.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use isfm_metrics::{Metric, Plane, Scores, Triple};

const SIZES: [(usize, usize); 2] = [(640, 480), (2048, 1536)];

/// Waves, blocks and noise, in 8 bits.
fn image(width: usize, height: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let pixel = |p: usize| {
        let (x, y) = ((p % width) as f32, (p / width) as f32);
        // Numerical Recipes' linear congruential generator: any noise would do.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223) & 0xffff_ffff;
        let noise = (state >> 24) as f32 / 32.;
        let wave = 50. * (x / (19. + seed as f32) + y / 43.).sin();
        let block = if (p % width / 40 + p / width / 40).is_multiple_of(2) { 30. } else { 0. };
        (90. + wave + block + noise) as u8
    };
    (0..width * height).map(pixel).collect()
}

fn metrics(c: &mut Criterion) {
    for (width, height) in SIZES {
        let [visible, infrared, fused] = [3, 11, 7].map(|seed| image(width, height, seed));
        let plane = |data| Plane::new(data, width, height).unwrap();
        let triple = Triple::new(plane(&visible), plane(&infrared), plane(&fused)).unwrap();

        let mut group = c.benchmark_group(format!("metrics {width}x{height}"));
        group.sample_size(10);
        let mut bench = |name: &str, metrics: &[Metric]| {
            let id = BenchmarkId::from_parameter(name);
            group.bench_function(id, |b| b.iter(|| Scores::evaluate_only(&triple, metrics)));
        };
        for &metric in Metric::ALL {
            bench(metric.name(), &[metric]);
        }
        bench("the released nine", Metric::RELEASED);
        bench("all", Metric::ALL);
        group.finish();
    }
}

criterion_group!(benches, metrics);
criterion_main!(benches);
