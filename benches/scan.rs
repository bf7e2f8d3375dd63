//! The four-direction selective scan, forward and with its gradient, and the same recurrence in
//! Candle's own operations. `performance` compares with what the processor can do at most.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use isfm_benches::Scan;

fn scan(c: &mut Criterion) {
    let mut group = c.benchmark_group("selective_scan_2d");
    group.sample_size(10);
    for (height, width) in [(32, 32), (128, 128), (480, 640)] {
        for (channels, states) in [(32, 8), (32, 16), (128, 8), (128, 16), (256, 8), (256, 16)] {
            let scan = Scan::new(height, width, channels, states).unwrap();
            let name = format!("{width}x{height}, D={channels}, N={states}");
            group.throughput(Throughput::Elements(scan.exponentials as u64));
            group.bench_function(BenchmarkId::new("forward", &name), |b| {
                b.iter(|| scan.forward().unwrap());
            });
            // Candle's version keeps every step as tensors: small sizes only.
            if (width, channels) == (32, 32) {
                let id = BenchmarkId::new("forward, Candle's operations", &name);
                group.bench_function(id, |b| b.iter(|| scan.plain().unwrap()));
            }
            let scan = scan.tracked().unwrap();
            group.bench_function(BenchmarkId::new("forward and backward", &name), |b| {
                b.iter(|| scan.forward().unwrap().sum_all().unwrap().backward().unwrap());
            });
        }
    }
    group.finish();
}

criterion_group!(benches, scan);
criterion_main!(benches);
