//! Every operation on a GPU, and the whole network, against the CPU in f64 or f32. Built with the
//! feature `cuda` only; without a device the tests say so and pass.
#![cfg(feature = "cuda")]

use std::io::Write;
use std::sync::OnceLock;

use candle_core::{DType, Device, Result, Tensor, Var};
use isfm_dwt::{Border, DataFormat, Wavelet, dwt2, idwt2};
use isfm_model::{Config, Network, Preset, initial_weights};
use isfm_ops::{self as ops, Epilogue};
use isfm_ssm::{ScanOptions, ScanParams, selective_scan_with_state};
use isfm_testing::{Numbers, random, refused, tensor};

/// Not `eprintln!`, which the test harness hides when a test passes.
fn say(text: &str) {
    let said = writeln!(std::io::stderr(), "{text}");
    assert!(said.is_ok());
}

fn gpu() -> Option<&'static Device> {
    static GPU: OnceLock<Option<Device>> = OnceLock::new();
    GPU.get_or_init(|| match Device::new_cuda(0) {
        Ok(device) => Some(device),
        Err(e) => {
            say(&format!("SKIPPED: no CUDA device ({e})"));
            None
        }
    })
    .as_ref()
}

/// A tensor of numbers in (low, high), the same every time.
struct Input {
    shape: Vec<usize>,
    low: f64,
    high: f64,
}

fn input(shape: &[usize], low: f64, high: f64) -> Input {
    Input { shape: shape.to_vec(), low, high }
}

/// On the CPU.
fn tensors(inputs: &[Input], dtype: DType) -> Vec<Tensor> {
    let made = |(seed, x): (u64, &Input)| {
        let data = Numbers(seed).vec(x.shape.iter().product(), x.low, x.high);
        tensor(&data, &x.shape, dtype)
    };
    (1..).zip(inputs).map(made).collect()
}

type Operation<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

/// The result, and with `tracked` the gradients of Σ result ⊙ grad.
fn run(inputs: &[Tensor], tracked: bool, f: Operation) -> Result<(Tensor, Vec<Tensor>)> {
    if !tracked {
        return Ok((f(inputs)?, Vec::new()));
    }
    let vars = inputs.iter().map(Var::from_tensor).collect::<Result<Vec<_>>>()?;
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let out = f(&tensors)?;
    // The CPU gets what every type can hold, too.
    let grad = random(out.dims(), 99).to_dtype(DType::BF16)?;
    let grad = grad.to_dtype(inputs[0].dtype())?.to_device(out.device())?;
    let grads = (&out * &grad)?.sum_all()?.backward()?;
    let of = |v: &Var| grads.get(v.as_tensor()).cloned().map_or(v.zeros_like(), Ok);
    Ok((out, vars.iter().map(of).collect::<Result<_>>()?))
}

fn values(t: &Tensor) -> Vec<f64> {
    let t = t.to_device(&Device::Cpu).and_then(|t| t.to_dtype(DType::F64));
    t.and_then(|t| t.flatten_all()?.to_vec1()).unwrap()
}

/// `f` on the GPU against `f` on the CPU in f64: the result and all gradients.
///
/// Every number within `lost` of the largest (what sums in f32 lose), within what its own writing
/// loses, and within what the writing of intermediate results does. The last is most for the gradient
/// of a weight or bias: a sum of n numbers of size 1 or less, each `rounding` off,
/// is off by √(n/3) of that; six times as much is allowed.
fn agrees(name: &str, dtypes: &[DType], lost: f64, inputs: &[Input], f: Operation) {
    compare(name, dtypes, lost, inputs, true, f);
    // Without gradients some operations take a shorter way.
    compare(&format!("{name}, forward"), dtypes, lost, inputs, false, f);
}

fn compare(name: &str, dtypes: &[DType], lost: f64, inputs: &[Input], tracked: bool, f: Operation) {
    let Some(gpu) = gpu() else { return };
    for &dtype in dtypes {
        let rounded = tensors(inputs, dtype);
        let wide: Vec<_> = rounded.iter().map(|t| t.to_dtype(DType::F64).unwrap()).collect();
        let there: Vec<_> = rounded.iter().map(|t| t.to_device(gpu).unwrap()).collect();
        let (want, want_grads) = run(&wide, tracked, f).unwrap();
        let (got, got_grads) = run(&there, tracked, f).unwrap();
        assert_eq!(got.dims(), want.dims(), "{name}");
        // One writing's error, and a little for others; f32 is summed as it is written.
        let (unit, rounding) = match dtype {
            DType::F16 => (1.5e-3, 2f64.powi(-11)),
            DType::BF16 => (1.2e-2, 2f64.powi(-8)),
            _ => (2e-7, 0.),
        };
        let results = want.elem_count();
        let pairs = std::iter::once((&got, &want)).chain(got_grads.iter().zip(&want_grads));
        for (i, (got, want)) in pairs.enumerate() {
            let (got, want) = (values(got), values(want));
            let summed = results / want.len().max(1);
            let written = if summed > 1 { 6. * rounding * (summed as f64 / 3.).sqrt() } else { 0. };
            let largest = want.iter().fold(0f64, |m, w| m.max(w.abs()));
            let mut worst = 0f64;
            for (got, want) in got.iter().zip(&want) {
                let error = (got - want).abs();
                worst = worst.max(error);
                let most = unit * want.abs() + (lost + unit / 4.) * largest + written + 1e-30;
                assert!(error <= most, "{name} {dtype:?}, {i}: {got}, should be {want}");
            }
            say(&format!("{name} {dtype:?} {i}: {worst:.1e} of {largest:.1e}"));
        }
    }
}

const ALL: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
const SUM: f64 = 4e-6;
const STEP: ops::AdamStep = ops::AdamStep {
    gain: 0.5,
    mean_rest: 0.1,
    square_keep: 0.999,
    square_rest: 0.001,
    keep: 0.99,
    rate: 0.01,
    root: 0.25,
    eps: 1e-8,
};

/// [`agrees`] in every type, where nothing is lost but in sums.
fn agree(name: &str, inputs: &[Input], f: Operation) {
    agrees(name, &ALL, SUM, inputs, f);
}

#[test]
fn operations_agree_with_the_cpu() {
    for shape in [[1, 1, 1, 1], [2, 5, 7, 3], [1, 16, 33, 40], [2, 31, 17, 128]] {
        let [b, h, w, c] = shape;
        let x = || input(&shape, -2., 2.);
        agree("silu", &[x()], &|v| ops::silu(&v[0]));
        let two = || [x(), x()];
        agree("silu_gate", &two(), &|v| ops::silu_gate(&v[0], &v[1]));
        agree("sigmoid_gate", &two(), &|v| ops::sigmoid_gate(&v[0], &v[1]));
        agree("weighted_sum", &two(), &|v| ops::weighted_sum(&v[0], 0.5, &v[1], -0.25));
        let moments = input(&[2, b * h * w * c], 0., 2.);
        let adam = [x(), x(), moments];
        compare("adam_step", &ALL[..1], SUM, &adam, false, &|v| {
            ops::adam_step(&v[0], &v[1], &v[2], STEP)
        });
        compare("magnitudes", &ALL[..1], SUM, &[x()], false, &|v| ops::magnitudes(&v[0]));
        for scale in [vec![c], vec![b, c]] {
            let inputs = [x(), input(&scale, -1., 1.), x()];
            agree("scale_add", &inputs, &|v| ops::scale_add(&v[0], &v[1], &v[2]));
        }
        if c > 1 {
            let inputs = [x(), input(&[c], -1., 1.), input(&[c], -1., 1.)];
            agree("layer_norm", &inputs, &|v| ops::layer_norm(&v[0], &v[1], &v[2], 1e-5));
        }
        for k in [3, 5] {
            agree("avg_pool2d", &[x()], &|v| ops::avg_pool2d(&v[0], k));
            agree("max_pool2d", &[x()], &|v| ops::max_pool2d(&v[0], k));
            let inputs = [x(), input(&[c, 1, k, k], -1., 1.), input(&[c], -1., 1.)];
            agree("depthwise_conv2d", &inputs, &|v| {
                ops::depthwise_conv2d(&v[0], &v[1], Some(&v[2]), Epilogue::None)
            });
            agree("depthwise_conv2d_silu", &inputs, &|v| {
                ops::depthwise_conv2d(&v[0], &v[1], Some(&v[2]), Epilogue::Silu)
            });
        }
        for (cout, k) in [(1, 3), (20, 3), (70, 5), (130, 1)] {
            let inputs = [x(), input(&[cout, c, k, k], -0.2, 0.2), input(&[cout], -1., 1.)];
            agree("conv2d", &inputs, &|v| ops::conv2d(&v[0], &v[1], Some(&v[2]), Epilogue::None));
            agree("conv2d_silu", &inputs, &|v| {
                ops::conv2d(&v[0], &v[1], Some(&v[2]), Epilogue::Silu)
            });
            let [x, weight, _] = inputs;
            let inputs = [x, weight, input(&[b, h, w, cout], -1., 1.)];
            agree("conv2d_add", &inputs, &|v| {
                ops::conv2d(&v[0], &v[1], None, Epilogue::Add(&v[2]))
            });
        }
        let inputs = [x(), input(&[9, c], -0.5, 0.5), input(&[9], -1., 1.)];
        agree("linear_silu", &inputs, &|v| ops::linear(&v[0], &v[1], Some(&v[2]), Epilogue::Silu));
        agree("linear", &inputs, &|v| ops::linear(&v[0], &v[1], Some(&v[2]), Epilogue::None));
        for (height, width) in [(h + 1, w + 1), (2 * h, w.div_ceil(2)), (1, 3)] {
            agree("resize_bilinear", &[x()], &|v| ops::resize_bilinear(&v[0], height, width));
        }
        if h > 1 {
            let (haar, border, layout) = (Wavelet::haar(), Border::Drop, DataFormat::ChannelsLast);
            agree("dwt2", &[x()], &|v| Ok(dwt2(&v[0], &haar, border, layout)?.packed()?));
            let bands = [input(&[b, h, w, c], -1., 1.), input(&[b, h, w, 3 * c], -1., 1.)];
            agree("idwt2", &bands, &|v| Ok(idwt2(&v[0], &v[1], &haar, border, layout)?));
        }
    }
}

fn scan_inputs(b: usize, h: usize, w: usize, d: usize, n: usize, r: usize) -> [Input; 6] {
    [
        input(&[b, h, w, d], -2., 2.),
        input(&[b, h, w, 4, r + 2 * n], -1., 1.),
        input(&[4, d, r], -0.5, 0.5),
        input(&[4, d], -5., 0.),
        input(&[4 * d, n], -0.5, 2.7),
        input(&[4 * d], -1., 1.),
    ]
}

fn scan(v: &[Tensor]) -> Result<Tensor> {
    let [dt_projs_weight, dt_projs_bias, a_logs, ds] = [2, 3, 4, 5].map(|i| v[i].clone());
    let params = ScanParams { dt_projs_weight, dt_projs_bias, a_logs, ds };
    params.over_map(&v[0], &v[1])
}

#[test]
fn four_directions_agree_with_the_cpu() {
    for (b, h, w, d, n, r) in
        [(1, 1, 1, 1, 1, 1), (2, 5, 7, 9, 16, 3), (1, 33, 31, 130, 16, 8), (2, 64, 64, 64, 8, 4)]
    {
        agrees("selective_scan_2d", &ALL, 1e-5, &scan_inputs(b, h, w, d, n, r), &scan);
    }
    // The largest that the network meets: L = 307,200.
    let inputs = scan_inputs(1, 480, 640, 8, 16, 8);
    agrees("selective_scan_2d 480x640", &[DType::F32], 1e-5, &inputs, &scan);
}

#[test]
fn lines_agree_with_the_cpu() {
    for (b, l, k, d, n) in [(1, 1, 1, 1, 1), (2, 1000, 2, 70, 16), (1, 307_200, 1, 4, 8)] {
        let inputs = [
            input(&[b, l, k * d], -2., 2.),
            input(&[b, l, k * d], -4., 1.),
            input(&[k * d, n], -4., -0.1),
            input(&[b, l, k, n], -1., 1.),
            input(&[b, l, k, n], -1., 1.),
            input(&[k * d], -1., 0.5),
            input(&[k * d], -1., 1.),
            input(&[b, k * d, n], -1., 1.),
        ];
        agrees("selective_scan", &[DType::F32, DType::F16], 1e-5, &inputs, &|v| {
            let options = ScanOptions {
                d_skip: Some(&v[6]),
                delta_bias: Some(&v[5]),
                softplus: true,
                initial_state: Some(&v[7]),
            };
            let (y, last) = selective_scan_with_state(&v[0], &v[1], &v[2], &v[3], &v[4], &options)?;
            Tensor::cat(&[y.flatten_all()?, last.flatten_all()?], 0)
        });
    }
}

/// The gradient owes nothing to the CPU's: differences of the GPU's own results along a direction.
#[test]
fn gradients_agree_with_finite_differences() {
    let Some(gpu) = gpu() else { return };
    let work = || -> Result<()> {
        let inputs = tensors(&scan_inputs(1, 5, 6, 3, 4, 2), DType::F32);
        let inputs = inputs.iter().map(|t| t.to_device(gpu)).collect::<Result<Vec<_>>>()?;
        let (out, grads) = run(&inputs, true, &scan)?;
        let weight = random(out.dims(), 99).to_dtype(DType::BF16)?;
        let total = |inputs: &[Tensor]| -> Result<f64> {
            let out = scan(inputs)?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
            (out * weight.to_dtype(DType::F64)?)?.sum_all()?.to_scalar::<f64>()
        };
        // In f32 the best step is near the cube root of its precision: error about 1e-4.
        const STEP: f64 = 5e-3;
        for i in 0..inputs.len() {
            let along = random(inputs[i].dims(), 7).to_dtype(DType::F32)?.to_device(gpu)?;
            let moved = |by: f64| -> Result<f64> {
                let mut inputs = inputs.clone();
                inputs[i] = (&inputs[i] + (&along * by)?)?;
                total(&inputs)
            };
            let slope = (moved(STEP)? - moved(-STEP)?) / (2. * STEP);
            let given = f64::from((&grads[i] * &along)?.sum_all()?.to_scalar::<f32>()?);
            let scale = slope.abs().max(1.);
            assert!((slope - given).abs() < 5e-3 * scale, "input {i}: {given}, measured {slope}");
        }
        Ok(())
    };
    work().unwrap();
}

#[test]
fn two_runs_give_the_same_bits() {
    let Some(gpu) = gpu() else { return };
    let made = || -> Result<Vec<Vec<f64>>> {
        let inputs = tensors(&scan_inputs(2, 40, 30, 70, 16, 8), DType::F32);
        let inputs = inputs.iter().map(|t| t.to_device(gpu)).collect::<Result<Vec<_>>>()?;
        let (out, grads) = run(&inputs, true, &scan)?;
        Ok(std::iter::once(&out).chain(&grads).map(values).collect())
    };
    assert!(made().unwrap() == made().unwrap());
}

#[test]
fn sizes_beyond_a_kernel_are_refused_by_name() {
    let Some(gpu) = gpu() else { return };
    let scanned = |n: usize, r: usize| {
        let made = |x: &Input| Tensor::zeros(x.shape.as_slice(), DType::F32, gpu);
        let inputs = scan_inputs(1, 2, 2, 2, n, r).iter().map(made).collect::<Result<Vec<_>>>();
        scan(&inputs.unwrap())
    };
    refused(scanned(17, 2), &["the number of states is 17"]);
    refused(scanned(16, 17), &["the rank of dt is 17"]);
    let wide = Tensor::zeros((2, 2), DType::F64, gpu).unwrap();
    refused(ops::silu(&wide), &["F32, F16 or BF16 on CUDA"]);
}

/// The whole network: the same picture in f32 as the CPU's, and one near it in bf16 and f16; and the
/// gradient of every parameter.
#[test]
fn the_network_agrees_with_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let work = || -> isfm_model::Result<()> {
        let config = Config::from(Preset::Small);
        let weights = initial_weights(&config, 1, &Device::Cpu)?;
        let image = |seed| tensor(&Numbers(seed).vec(37 * 46, 0., 1.), &[1, 1, 37, 46], DType::F32);
        let (visible, infrared) = (image(1), image(2));
        let fused = |device: &Device, dtype: DType| -> isfm_model::Result<Vec<f64>> {
            let mut weights = weights.clone();
            for t in weights.values_mut() {
                *t = t.to_dtype(dtype)?.to_device(device)?;
            }
            let network = Network::from_weights(&config, &weights)?;
            let [v, i] = [&visible, &infrared].map(|t| t.to_dtype(dtype)?.to_device(device));
            Ok(values(&network.forward(&v?, &i?)?))
        };
        let want = fused(&Device::Cpu, DType::F32)?;
        let largest = want.iter().fold(0f64, |m, w| m.max(w.abs()));
        // Rounding through some sixty layers: measured between CPU levels 1e-5; halves keep 3 digits.
        for (dtype, most) in [(DType::F32, 1e-4), (DType::F16, 2e-2), (DType::BF16, 1e-1)] {
            let got = fused(gpu, dtype)?;
            let worst = got.iter().zip(&want).fold(0f64, |m, (g, w)| m.max((g - w).abs()));
            say(&format!("network {dtype:?}: {worst:.1e} of {largest:.1e}"));
            assert!(worst <= most * largest, "{dtype:?}: {worst} of {largest}");
        }

        let gradients = |device: &Device| -> isfm_model::Result<Vec<(String, Vec<f64>)>> {
            let mut weights = weights.clone();
            for t in weights.values_mut() {
                *t = Var::from_tensor(&t.to_device(device)?)?.into_inner();
            }
            let network = Network::from_weights(&config, &weights)?;
            let [v, i] = [&visible, &infrared].map(|t| t.to_device(device));
            let grads = network.forward(&v?, &i?)?.sqr()?.mean_all()?.backward()?;
            let of = |(name, t): (&String, &Tensor)| {
                let grad = grads.get(t).cloned().map_or(t.zeros_like(), Ok)?;
                Ok((name.clone(), values(&grad)))
            };
            weights.iter().map(of).collect()
        };
        for ((name, want), (_, got)) in gradients(&Device::Cpu)?.iter().zip(&gradients(gpu)?) {
            let largest = want.iter().fold(1e-8f64, |m, w| m.max(w.abs()));
            let worst = got.iter().zip(want).fold(0f64, |m, (g, w)| m.max((g - w).abs()));
            assert!(worst <= 1e-2 * largest, "{name}: {worst} of {largest}");
        }
        Ok(())
    };
    work().unwrap();
}
