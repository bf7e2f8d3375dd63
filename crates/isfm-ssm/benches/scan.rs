//! The four-direction selective scan, forward and with its gradient, and the same recurrence in
//! Candle's own operations.
//!
//! ```text
//! cargo bench -p isfm-ssm --bench scan -- --quick
//! ```
//!
//! The repository's `docs/performance.md` has more sizes, and what the processor can do at most.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

mod scan_inputs;
use scan_inputs::Scan;

/// Height, width, channels and states: the least and the most that the presets scan, and the map of a
/// camera's picture.
const CASES: [[usize; 4]; 6] = [
    [32, 32, 32, 8],
    [32, 32, 256, 16],
    [128, 128, 32, 8],
    [128, 128, 128, 16],
    [128, 128, 256, 16],
    [480, 640, 32, 8],
];

fn scan(c: &mut Criterion) {
    let mut group = c.benchmark_group("selective_scan_2d");
    group.sample_size(10);
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2));
    for [height, width, channels, states] in CASES {
        let scan = Scan::new(height, width, channels, states).unwrap();
        let name = format!("{width}x{height}, D={channels}, N={states}");
        group.throughput(Throughput::Elements(scan.exponentials as u64));
        group.bench_function(BenchmarkId::new("forward", &name), |b| {
            b.iter(|| scan.forward().unwrap());
        });
        // Candle's version keeps every step as tensors: the smallest only.
        if (width, channels) == (32, 32) {
            let id = BenchmarkId::new("forward, Candle's operations", &name);
            group.bench_function(id, |b| b.iter(|| scan.plain().unwrap()));
        }
        let scan = scan.tracked().unwrap();
        group.bench_function(BenchmarkId::new("forward and backward", &name), |b| {
            b.iter(|| scan.forward().unwrap().sum_all().unwrap().backward().unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, scan);
criterion_main!(benches);
