//! The four-direction selective scan, forward and with its gradient.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use isfm_benches::{random, random_var};
use isfm_ssm::{Scan2dParams, selective_scan_2d_with};

fn scan(c: &mut Criterion) {
    let mut group = c.benchmark_group("selective_scan_2d");
    group.sample_size(10);
    for (side, channels, states) in [(128usize, 32usize, 8), (128, 32, 16), (128, 256, 16)] {
        let rank = channels.div_ceil(32);
        let x = random(&[1, side, side, channels]);
        let x_dbl = random(&[1, side, side, 4, rank + 2 * states]);
        let weight = random(&[4, channels, rank]);
        let bias = random(&[4, channels]);
        let a_logs = random(&[4 * channels, states]);
        let ds = random(&[4 * channels]);
        let params = Scan2dParams {
            dt_projs_weight: &weight,
            dt_projs_bias: &bias,
            a_logs: &a_logs,
            ds: &ds,
        };
        let name = format!("{side}x{side}, D={channels}, N={states}");
        // One exponential for every step, channel, state and direction: the scan's floor.
        group.throughput(Throughput::Elements((4 * side * side * channels * states) as u64));
        group.bench_function(BenchmarkId::new("forward", &name), |b| {
            b.iter(|| selective_scan_2d_with(&x, &x_dbl, &params).unwrap());
        });
        let (x, x_dbl) = (random_var(x.dims()), random_var(x_dbl.dims()));
        group.bench_function(BenchmarkId::new("forward and backward", &name), |b| {
            b.iter(|| {
                let y = selective_scan_2d_with(&x, &x_dbl, &params).unwrap();
                y.sum_all().unwrap().backward().unwrap()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, scan);
criterion_main!(benches);
