//! On a GPU: the four-direction scan, forward and with its gradient, beside what bounds it (the time
//! to move its bytes once, and the time of its exponentials, both measured in the same run), and the
//! whole network.
//!
//! ```text
//! cargo bench -p isfm-benches --features cuda --bench cuda
//! ```
//!
//! `benches/python/scan_vs_mamba_ssm.py` times the common kernel at the same sizes on the same machine.

use std::hint::black_box;
use std::time::{Duration, Instant};

use candle_core::cuda_backend::cudarc::driver::{LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::cudarc::nvrtc::compile_ptx;
use candle_core::{CudaDevice, DType, Device, Result, Tensor, Var};
use criterion::{Criterion, criterion_group, criterion_main};
use isfm_benches::network;
use isfm_model::Preset;
use isfm_ssm::ScanParams;

/// Batch, height, width, channels, states and rank: the paper's network at 480x640, and its training
/// step's.
const CASES: [[usize; 6]; 2] = [[1, 480, 640, 256, 16, 8], [4, 128, 128, 256, 16, 8]];

fn inputs(case: [usize; 6], dtype: DType, device: &Device) -> Result<Vec<Tensor>> {
    let [b, h, w, d, n, r] = case;
    let random = |shape: &[usize], low: f32, high: f32| -> Result<Tensor> {
        Tensor::rand(low, high, shape, device)?.to_dtype(dtype)
    };
    Ok(vec![
        random(&[b, h, w, d], -1., 1.)?,
        random(&[b, h, w, 4, r + 2 * n], -1., 1.)?,
        random(&[4, d, r], -0.3, 0.3)?,
        random(&[4, d], -6., -2.)?,
        random(&[4 * d, n], 0., 2.7)?,
        random(&[4 * d], -1., 1.)?,
    ])
}

fn scan(v: &[Tensor]) -> Result<Tensor> {
    let [dt_projs_weight, dt_projs_bias, a_logs, ds] = [2, 3, 4, 5].map(|i| v[i].clone());
    let params = ScanParams { dt_projs_weight, dt_projs_bias, a_logs, ds };
    params.over_map(&v[0], &v[1])
}

/// Times `work` on the device's stream, `count` times in a row.
fn timed<T>(device: &Device, count: u64, mut work: impl FnMut() -> Result<T>) -> Result<Duration> {
    device.synchronize()?;
    let start = Instant::now();
    for _ in 0..count {
        work()?;
    }
    device.synchronize()?;
    Ok(start.elapsed())
}

/// A benchmark of `work` on the device's stream.
fn bench<T>(c: &mut Criterion, name: &str, device: &Device, work: impl Fn() -> Result<T>) {
    c.bench_function(name, |b| b.iter_custom(|count| timed(device, count, &work).unwrap()));
}

/// Bytes a second of a copy on the device, reads and writes counted.
fn memory_speed(device: &Device) -> Result<f64> {
    const ELEMENTS: usize = 1 << 28;
    let x = Tensor::zeros(ELEMENTS, DType::F32, device)?;
    timed(device, 2, || x.copy())?;
    let took = timed(device, 10, || x.copy())?;
    Ok(10. * 8. * ELEMENTS as f64 / took.as_secs_f64())
}

/// Powers of two a second by the special-function units: chains with nothing else in them.
fn exponential_speed(cuda: &CudaDevice, device: &Device) -> Result<f64> {
    const SOURCE: &str = r#"
extern "C" __global__ void powers(float *out, float x) {
  float v[8];
  for (int i = 0; i < 8; ++i) v[i] = x * i;
  for (int k = 0; k < 1024; ++k)
    for (int i = 0; i < 8; ++i) asm volatile("ex2.approx.ftz.f32 %0, %0;" : "+f"(v[i]));
  float sum = 0;
  for (int i = 0; i < 8; ++i) sum += v[i];
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}"#;
    let (blocks, threads) = (4096u32, 256u32);
    let ptx = compile_ptx(SOURCE).map_err(candle_core::Error::wrap)?;
    let f = cuda.get_or_load_custom_func("powers", "isfm-bench", &ptx.to_src())?;
    let out = cuda.alloc_zeros::<f32>((blocks * threads) as usize)?;
    let config =
        LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 };
    let mut run = || -> Result<()> {
        let mut builder = f.builder();
        builder.arg(&out).arg(&0.25f32);
        // SAFETY: the arguments are the kernel's, and `out` has an element for every thread.
        unsafe { builder.launch(config) }.map(|_| ()).map_err(candle_core::Error::wrap)
    };
    timed(device, 2, &mut run)?;
    let took = timed(device, 10, &mut run)?;
    Ok(10. * 8. * 1024. * f64::from(blocks * threads) / took.as_secs_f64())
}

fn device() -> Option<Device> {
    match Device::new_cuda(0) {
        Ok(device) => {
            isfm_ops::keep_freed_device_memory(&device).unwrap();
            Some(device)
        }
        Err(e) => {
            println!("SKIPPED: no CUDA device ({e})");
            None
        }
    }
}

fn scans(c: &mut Criterion) {
    let Some(device) = device() else { return };
    let cuda = device.as_cuda_device().unwrap();
    let (bytes, powers) =
        (memory_speed(&device).unwrap(), exponential_speed(cuda, &device).unwrap());
    println!(
        "this device moves {:.2} TB/s and makes {:.2}e12 powers of two a second",
        bytes / 1e12,
        powers / 1e12
    );
    for case in CASES {
        let [b, h, w, d, n, r] = case;
        let name = format!("{b}x{h}x{w}, D {d}, N {n}");
        let positions = (b * h * w) as f64;
        for dtype in [DType::F32, DType::BF16] {
            // The input and the projections read once, the output written once.
            let moved = positions * (2 * d + 4 * (r + 2 * n)) as f64 * dtype.size_in_bytes() as f64;
            println!(
                "{name}, {dtype:?}: {:.3} ms to move its bytes once, {:.3} ms for one exponential a \
                 step and state (the forward makes two)",
                1e3 * moved / bytes,
                1e3 * positions * (4 * d * n) as f64 / powers
            );
            let inputs = inputs(case, dtype, &device).unwrap();
            let forward = || scan(black_box(&inputs));
            bench(c, &format!("scan forward {name} {dtype:?}"), &device, forward);
            let tracked = inputs.iter().map(|t| Ok(Var::from_tensor(t)?.into_inner()));
            let tracked = tracked.collect::<Result<Vec<Tensor>>>().unwrap();
            let both = || scan(&tracked)?.backward();
            bench(c, &format!("scan forward and backward {name} {dtype:?}"), &device, both);
        }
    }
}

fn networks(c: &mut Criterion) {
    let Some(device) = device() else { return };
    for preset in [Preset::Small, Preset::Paper] {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let network = network(preset, dtype, &device, false).unwrap();
            let image = || Tensor::rand(0f32, 1., (1, 1, 480, 640), &device)?.to_dtype(dtype);
            let (visible, infrared) = (image().unwrap(), image().unwrap());
            let fuse = || {
                let fused = network.forward(black_box(&visible), &infrared);
                fused.map_err(candle_core::Error::wrap)
            };
            bench(c, &format!("network {preset} 480x640 {dtype:?}"), &device, fuse);
        }
    }
}

/// Forward and backward of a training step, without losses and the update of weights.
fn gradients(c: &mut Criterion) {
    let Some(device) = device() else { return };
    for preset in [Preset::Small, Preset::Paper] {
        let network = network(preset, DType::F32, &device, true).unwrap();
        let image = || Tensor::rand(0f32, 1., (4, 1, 128, 128), &device).unwrap();
        let (visible, infrared) = (image(), image());
        let step = || {
            let fused = network.forward(black_box(&visible), &infrared);
            fused.map_err(candle_core::Error::wrap)?.sqr()?.mean_all()?.backward()
        };
        bench(c, &format!("gradients {preset} 4x128x128"), &device, step);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = scans, networks, gradients
}
criterion_main!(benches);
