//! Every operation against plain loops in f64.

use crate::oracle::{self, cases, to_f32};
use candle_core::{DType, Device, Tensor};
use isfm_ops::{AdamStep, Epilogue};
use isfm_testing::{assert_close, random, tensor, values};

/// Sizes with and without an interior, one pixel, channels around the widths of a vector and of a
/// register tile, several tasks.
const SIZES: &[(usize, usize, usize, usize, usize)] = &[
    (1, 1, 1, 1, 1),
    (2, 1, 7, 3, 2),
    (1, 2, 2, 16, 5),
    (2, 9, 14, 17, 1),
    (1, 13, 11, 1, 33),
    (3, 6, 5, 40, 67),
    (1, 3, 131, 8, 130),
    (2, 4, 3, 96, 70),
];

#[test]
fn f64_agrees_to_rounding() {
    for &(b, h, w, c, d) in SIZES {
        for case in cases(b, h, w, c, d) {
            let got = (case.op)(&case.inputs).unwrap();
            assert_close(&got, &(case.oracle)(&case.inputs), 1e-12, &case.name);
        }
    }
}

#[test]
fn f32_agrees() {
    for &(b, h, w, c, d) in SIZES {
        for case in cases(b, h, w, c, d) {
            // Rounded inputs, so that only the operation's own rounding counts: at most a few
            // hundred terms of about 1, each with a relative error of 6e-8.
            let inputs: Vec<Tensor> = case.inputs.iter().map(to_f32).collect();
            let got = (case.op)(&inputs).unwrap();
            assert_eq!(got.dtype(), DType::F32);
            assert_close(&got, &(case.oracle)(&inputs), 2e-6, &case.name);
        }
    }
}

/// Deep enough for several passes over the depth, wide enough for several tiles of a line.
#[test]
fn deep_and_wide_convolutions() {
    for (b, h, w, cin, cout) in [(1, 2, 5, 700, 3), (1, 3, 400, 2, 4), (1, 1, 60, 90, 150)] {
        let (x, weight) = (random(&[b, h, w, cin], 1), random(&[cout, cin, 3, 3], 2));
        let want = oracle::conv2d(&x, &weight, None);
        let got = isfm_ops::conv2d(&x, &weight, None, Epilogue::None).unwrap();
        assert_close(&got, &want, 1e-12, "conv f64");
        let got = isfm_ops::conv2d(&to_f32(&x), &to_f32(&weight), None, Epilogue::None).unwrap();
        // 6300 terms of about 1/3: the sum of the rounding errors is near 1e-5, the result near 30.
        assert_close(&got, &want, 2e-6, "conv f32");
    }
}

/// `torch.nn.functional.interpolate` of [[1, 2], [3, 4]] to 3×3 and of a ramp of 5 to 2.
#[test]
fn resize_known_values() {
    let resized = |x: &[f64], [h, w]: [usize; 2], [to_h, to_w]: [usize; 2], want: &[f64]| {
        let x = tensor(x, &[1, h, w, 1], DType::F32);
        let got = isfm_ops::resize_bilinear(&x, to_h, to_w).unwrap();
        assert_close(&got, &tensor(want, &[1, to_h, to_w, 1], DType::F64), 1e-7, "resize");
    };
    let want = [1., 1.5, 2., 2., 2.5, 3., 3., 3.5, 4.];
    resized(&[1., 2., 3., 4.], [2, 2], [3, 3], &want);
    resized(&[0., 1., 2., 3., 4.], [1, 5], [1, 2], &[0.75, 3.25]);
}

/// Halves of a wider tensor, as a projection that is split in two gives them, and transposed maps.
#[test]
fn inputs_need_not_be_contiguous() {
    let wide = to_f32(&random(&[2, 5, 6, 40], 3));
    let (x, z) = (wide.narrow(3, 0, 20).unwrap(), wide.narrow(3, 20, 20).unwrap());
    let weight = to_f32(&random(&[20, 1, 3, 3], 4));
    let got = isfm_ops::depthwise_conv2d(&z, &weight, None, Epilogue::None).unwrap();
    assert_close(&got, &oracle::depthwise(&z, &weight, None), 1e-6, "depthwise");
    let got = isfm_ops::silu_gate(&x, &z).unwrap();
    assert_close(&got, &oracle::silu_gate(&x, &z), 1e-6, "gate");
    let turned = x.transpose(1, 2).unwrap();
    let weight = to_f32(&random(&[20, 20, 3, 3], 4)).t().unwrap();
    let got = isfm_ops::conv2d(&turned, &weight, None, Epilogue::None).unwrap();
    assert_close(&got, &oracle::conv2d(&turned, &weight, None), 2e-6, "conv");
    let got = isfm_ops::avg_pool2d(&turned, 3).unwrap();
    assert_close(&got, &oracle::avg_pool(&turned, 3), 1e-6, "pool");
    let got = isfm_ops::resize_bilinear(&turned, 9, 4).unwrap();
    assert_close(&got, &oracle::resize(&turned, 9, 4), 1e-6, "resize");
}

/// Windows larger than the map.
#[test]
fn large_windows() {
    let x = random(&[1, 2, 3, 2], 5);
    for k in [7, 101, usize::MAX] {
        let got = isfm_ops::avg_pool2d(&x, k).unwrap();
        let sum = x.sum_keepdim((1, 2)).unwrap().broadcast_as(x.shape()).unwrap();
        assert_close(&got, &(sum / (k as f64 * k as f64)).unwrap(), 1e-12, "avg");
        let got = isfm_ops::max_pool2d(&x, k).unwrap();
        let max = x.max_keepdim(1).unwrap().max_keepdim(2).unwrap();
        assert_close(&got, &max.broadcast_as(x.shape()).unwrap(), 0., "max");
    }
    let weight = random(&[2, 1, 21, 21], 6);
    let got = isfm_ops::depthwise_conv2d(&x, &weight, None, Epilogue::None).unwrap();
    assert_close(&got, &oracle::depthwise(&x, &weight, None), 1e-12, "depthwise");
    let weight = random(&[3, 2, 21, 21], 6);
    let got = isfm_ops::conv2d(&x, &weight, None, Epilogue::None).unwrap();
    assert_close(&got, &oracle::conv2d(&x, &weight, None), 1e-12, "conv");
}

/// The bits do not depend on the task that an element is in, and a part's sum is that of its elements in
/// order.
#[test]
fn a_step_of_adam_and_the_magnitudes_of_gradients() {
    let step = AdamStep {
        gain: 0.5,
        mean_rest: 0.1,
        square_keep: 0.999,
        square_rest: 0.001,
        keep: 0.99,
        rate: 0.01,
        root: 0.25,
        eps: 1e-8,
    };
    let adam = |w: f32, g: f32, mean: f32, square: f32| {
        let g = g * step.gain;
        let mean = mean + (g - mean) * step.mean_rest;
        let square = square * step.square_keep + g * g * step.square_rest;
        let root = square.sqrt() / step.root + step.eps;
        [w * step.keep - step.rate * (mean / root), mean, square]
    };
    for n in [0usize, 1, 5, 4096, 4097, 40_000] {
        let [w, g] = [1, 2].map(|seed| random(&[n], seed).to_dtype(DType::F32).unwrap());
        let moments = to_f32(&random(&[2, n], 3).abs().unwrap());
        let next = isfm_ops::adam_step(&w, &g, &moments, step).unwrap();
        assert_eq!(next.dims(), [3, n]);
        let [rows_w, rows_g] = [&w, &g].map(|t| t.to_vec1::<f32>().unwrap());
        let (state, next) = (moments.to_vec2::<f32>().unwrap(), next.to_vec2::<f32>().unwrap());
        for i in 0..n {
            let want = adam(rows_w[i], rows_g[i], state[0][i], state[1][i]);
            assert_eq!([next[0][i], next[1][i], next[2][i]], want, "{i} of {n}");
        }
        let parts = isfm_ops::magnitudes(&g).unwrap();
        assert_eq!(parts.dims(), [n.div_ceil(4096), 2]);
        let want = rows_g.chunks(4096).map(|part| {
            let largest = part.iter().fold(0f32, |most, g| most.max(g.abs()));
            vec![part.iter().map(|g| g * g).sum(), largest]
        });
        assert_eq!(parts.to_vec2::<f32>().unwrap(), want.collect::<Vec<_>>());
    }
    let odd = Tensor::new(&[f32::NAN, -2.], &Device::Cpu).unwrap();
    let [part] = &isfm_ops::magnitudes(&odd).unwrap().to_vec2::<f32>().unwrap()[..] else {
        panic!("one part");
    };
    assert!(part[0].is_nan() && part[1] == 2., "{part:?}");
}

fn vector(values: &[f64]) -> Tensor {
    tensor(values, &[values.len()], DType::F32)
}

#[test]
fn gates_saturate_without_overflow() {
    let z = vector(&[1e30, -1e30, 100., -100., 0., f64::NAN, f64::INFINITY]);
    let got = values(&isfm_ops::silu(&z).unwrap());
    assert_eq!(got[..5], [f64::from(1e30f32), 0., 100., 0., 0.]);
    assert!(got[5].is_nan());
    assert_eq!(got[6], f64::INFINITY);
    let ones = z.ones_like().unwrap();
    let got = values(&isfm_ops::sigmoid_gate(&ones, &z).unwrap());
    assert_eq!(got[..5], [1., 0., 1., 0., 0.5]);
    assert!(got[5].is_nan());
    assert_eq!(got[6], 1.);
}

#[test]
fn norm_of_constant_and_large_rows() {
    let c = 37;
    let (weight, bias) = (vector(&[2.; 37]), vector(&[0.25; 37]));
    // The mean of a constant row is exact here, so nothing but the bias may be left.
    let x = tensor(&[1e6; 3 * 37], &[3, c], DType::F32);
    let got = isfm_ops::layer_norm(&x, &weight, &bias, 1e-5).unwrap();
    assert!(values(&got).iter().all(|v| (v - 0.25).abs() < 1e-6));
    // A large offset: a one-pass variance would be off in the first digit.
    let x = to_f32(&(random(&[5, c], 8) + 3e4).unwrap());
    let got = isfm_ops::layer_norm(&x, &weight, &bias, 1e-5).unwrap();
    // The mean in f32 is known to 2e-3 of the deviations' size.
    assert_close(&got, &oracle::layer_norm(&x, &weight, &bias, 1e-5), 4e-3, "offset");
    let x = to_f32(&(random(&[5, c], 8) * 1e15).unwrap());
    let got = isfm_ops::layer_norm(&x, &weight, &bias, 1e-5).unwrap();
    assert_close(&got, &oracle::layer_norm(&x, &weight, &bias, 1e-5), 2e-6, "large");
}

#[test]
fn nan_stays_where_it_belongs() {
    let mut v = [0.5; 9 * 9 * 3];
    v[(4 * 9 + 4) * 3 + 1] = f64::NAN;
    let x = tensor(&v, &[1, 9, 9, 3], DType::F32);
    let reached = |t: Tensor| -> Vec<usize> {
        let bad = values(&t).into_iter().enumerate().filter(|(_, v)| v.is_nan());
        bad.map(|(i, _)| i).collect()
    };
    let around: Vec<usize> =
        (3..6).flat_map(|y| (3..6).map(move |x| (y * 9 + x) * 3 + 1)).collect();
    let weight = to_f32(&random(&[3, 1, 3, 3], 1));
    assert_eq!(
        reached(isfm_ops::depthwise_conv2d(&x, &weight, None, Epilogue::None).unwrap()),
        around
    );
    assert_eq!(reached(isfm_ops::avg_pool2d(&x, 3).unwrap()), around);
    assert_eq!(reached(isfm_ops::max_pool2d(&x, 3).unwrap()), around);
    let (weight, bias) = (vector(&[1.; 3]), vector(&[0.; 3]));
    let row: Vec<usize> = (0..3).map(|c| (4 * 9 + 4) * 3 + c).collect();
    assert_eq!(reached(isfm_ops::layer_norm(&x, &weight, &bias, 1e-5).unwrap()), row);
    let weight = to_f32(&random(&[1, 3, 3, 3], 1));
    let around: Vec<usize> = around.iter().map(|i| i / 3).collect();
    assert_eq!(reached(isfm_ops::conv2d(&x, &weight, None, Epilogue::None).unwrap()), around);
}

#[test]
fn max_pool_keeps_infinities() {
    let x = tensor(&[f64::NEG_INFINITY; 12], &[1, 3, 4, 1], DType::F32);
    let got = isfm_ops::max_pool2d(&x, 3).unwrap();
    assert!(values(&got).iter().all(|&v| v == f64::NEG_INFINITY));
}
