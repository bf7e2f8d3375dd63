//! Every kernel but the scan's.

use candle_core::{Result, Tensor};
use isfm_kernels::conv::{self, Start};
use isfm_kernels::haar::{self, Bands};
use isfm_kernels::pointwise::{self, AdamStep, Gate};
use isfm_kernels::window::{self, Depthwise};
use isfm_kernels::{Arg, Map, Type, norm, resize, sums};
use isfm_ops::Epilogue;

use crate::host::{TYPES, Work, close, host, numbers, oracle, plan, round};

/// What f32 loses in a sum of up to a thousand terms, of the largest result.
const SUM: f64 = 2e-6;
/// `expf` and a few roundings.
const FEW: f64 = 6e-7;

type Function<'a> = &'a dyn Fn(f64) -> f64;

#[test]
fn silu_and_gates_agree_with_the_cpu() {
    let Some(host) = host() else { return };
    for t in TYPES {
        for n in [0usize, 1, 31, 257, 1000] {
            let mut z = numbers(t, n, 1, -8., 8.);
            for (z, extreme) in z.iter_mut().zip([0., -0., 30., -30., 17., -90., 6e4, -6e4]) {
                *z = round(t, extreme);
            }
            let (x, dy) = (numbers(t, n, 2, -2., 2.), numbers(t, n, 3, -1., 1.));
            // No tensor oracle: the CPU's operations refuse nothing, but know no empty gradient.
            let sigmoid = |x: f64| 1. / (1. + (-x).exp());
            let slope = |x: f64| sigmoid(x) * (1. + x * (1. - sigmoid(x)));
            let each = |f: &dyn Fn(usize) -> f64| (0..n).map(f).collect::<Vec<_>>();
            let run = |made, inputs: &[&[f64]]| host.first(made, inputs);

            let y = run(pointwise::silu(t, n), &[&z]);
            close(t, &y, &each(&|i| z[i] * sigmoid(z[i])), FEW, "silu");
            let dx = run(pointwise::silu_backward(t, n), &[&z, &dy]);
            close(t, &dx, &each(&|i| dy[i] * slope(z[i])), FEW, "silu'");
            let gates: [(Gate, Function, Function); 2] = [
                (Gate::Silu, &|z| z * sigmoid(z), &slope),
                (Gate::Sigmoid, &sigmoid, &|z| sigmoid(z) * (1. - sigmoid(z))),
            ];
            for (gate, f, slope) in gates {
                let y = run(pointwise::gate(t, gate, n), &[&x, &z]);
                close(t, &y, &each(&|i| x[i] * f(z[i])), FEW, "gate");
                let both = run(pointwise::gate_backward(t, gate, n), &[&x, &z, &dy]);
                close(t, &both[..n], &each(&|i| dy[i] * f(z[i])), FEW, "gate dx");
                close(t, &both[n..], &each(&|i| dy[i] * x[i] * slope(z[i])), FEW, "gate dz");
            }
            let out = run(pointwise::weighted_sum(t, 0.5, -0.25, n), &[&x, &z]);
            close(t, &out, &each(&|i| 0.5 * x[i] - 0.25 * z[i]), FEW, "weighted sum");
        }
        let special = [f64::NAN, f64::INFINITY];
        let y = host.first(pointwise::silu(t, 2), &[&special]);
        assert!(y[0].is_nan() && y[1] == f64::INFINITY, "{y:?}");
    }
}

#[test]
fn scale_add_agrees_with_the_cpu() {
    let Some(host) = host() else { return };
    for t in TYPES {
        for ([images, rows, c], each) in
            [([1, 1, 1], false), ([2, 7, 5], true), ([2, 9, 5], false), ([3, 130, 33], true)]
        {
            let n = images * rows * c;
            let factors = if each { images * c } else { c };
            let x = numbers(t, n, 1, -2., 2.);
            let scale = numbers(t, factors, 2, -2., 2.);
            let (y, dy) = (numbers(t, n, 3, -2., 2.), numbers(t, n, 4, -1., 1.));
            let scale_shape: &[usize] = if each { &[images, c] } else { &[c] };
            let shape = [images, rows, c];
            let (want, grads) =
                oracle(&[(&x, &shape), (&scale, scale_shape), (&y, &shape)], &dy, |v| {
                    isfm_ops::scale_add(&v[0], &v[1], &v[2])
                });
            let scaled = |add| pointwise::scale_add(t, [images, rows, c], each, add);
            close(t, &host.first(scaled(true), &[&x, &scale, &y]), &want, FEW, "scale_add");
            close(t, &host.first(scaled(false), &[&dy, &scale]), &grads[0], FEW, "scale_add dx");
            let sums = if each { [images, rows, c] } else { [1, images * rows, c] };
            let sums = host.first(sums::product_sums(t, sums), &[&x, &dy]);
            close(t, &sums, &grads[1], SUM, "scale_add dscale");
        }
    }
}

#[test]
fn bias_and_its_gradient_agree_with_plain_sums() {
    let Some(host) = host() else { return };
    for t in TYPES {
        for (rows, c) in [(1, 1), (7, 5), (130, 33)] {
            let (x, b) = (numbers(t, rows * c, 1, -2., 2.), numbers(t, c, 2, -2., 2.));
            let want: Vec<f64> = x.iter().enumerate().map(|(i, x)| x + b[i % c]).collect();
            let added = |silu| host.first(pointwise::add_bias(t, rows, c, silu), &[&x, &b]);
            close(t, &added(false), &want, FEW, "+");
            close(t, &added(true), &silu_of(&want), FEW, "SiLU of +");
            let sum = |j| x.iter().skip(j).step_by(c).sum::<f64>();
            let want: Vec<f64> = (0..c).map(sum).collect();
            close(t, &host.first(sums::column_sums(t, rows, c), &[&x]), &want, SUM, "column sums");
        }
    }
}

#[test]
fn adam_and_magnitudes_agree_with_plain_loops() {
    let Some(host) = host() else { return };
    let t = Type::F32;
    let step = AdamStep {
        gain: 0.5,
        mean_rest: 0.25,
        square_keep: 0.75,
        square_rest: 0.125,
        keep: 0.875,
        rate: 0.0625,
        root: 0.5,
        eps: 1e-3,
    };
    let wide = |v: f32| f64::from(v);
    for n in [0, 1, 3, 4, 256, 1000, 4096, 4097, 9001] {
        let (w, g) = (numbers(t, n, 1, -2., 2.), numbers(t, n, 2, -3., 3.));
        let (mean, square) = (numbers(t, n, 3, -1., 1.), numbers(t, n, 4, 0., 2.));
        let g_of = |i: usize| g[i] * wide(step.gain);
        let means: Vec<f64> =
            (0..n).map(|i| mean[i] + (g_of(i) - mean[i]) * wide(step.mean_rest)).collect();
        let squares: Vec<f64> = (0..n)
            .map(|i| square[i] * wide(step.square_keep) + g_of(i).powi(2) * wide(step.square_rest))
            .collect();
        let weights: Vec<f64> = (0..n)
            .map(|i| {
                let root = squares[i].sqrt() / wide(step.root) + wide(step.eps);
                w[i] * wide(step.keep) - wide(step.rate) * means[i] / root
            })
            .collect();
        let state = [mean, square].concat();
        let all = host.first(pointwise::adam(n, &step), &[&w, &g, &state]);
        close(t, &all[..n], &weights, FEW, "adam's weights");
        close(t, &all[n..2 * n], &means, FEW, "adam's means");
        close(t, &all[2 * n..], &squares, FEW, "adam's squares");

        let magnitudes = host.first(sums::magnitudes(n), &[&g]);
        let part = |i: usize| &g[4096 * i..n.min(4096 * (i + 1))];
        let parts = sums::magnitude_parts(n);
        assert_eq!((magnitudes.len(), parts), (2 * parts, n.div_ceil(4096)));
        let want: Vec<f64> = (0..parts)
            .flat_map(|i| {
                let largest = part(i).iter().fold(0f64, |most, g| most.max(g.abs()));
                [part(i).iter().map(|g| g * g).sum(), largest]
            })
            .collect();
        close(t, &magnitudes, &want, SUM, "magnitudes");
    }
    let odd = [f64::NAN, 1., f64::INFINITY, -3.];
    let [sum, most] = host.first(sums::magnitudes(4), &[&odd])[..] else { panic!("one part") };
    assert!(sum.is_nan() && most == f64::INFINITY, "{sum} {most}");
    let [sum, most] = host.first(sums::magnitudes(2), &[&[f64::NAN, -1.]])[..] else { panic!() };
    assert!(sum.is_nan() && most == 1., "{sum} {most}");
}

#[test]
fn layer_norm_agrees_with_the_cpu() {
    let Some(host) = host() else { return };
    for t in TYPES {
        // Of each way to share a row among lanes, rows that fill them and rows that do not.
        for (rows, c) in [
            (1, 1),
            (3, 7),
            (70, 33),
            (1, 8),
            (37, 24),
            (9, 128),
            (70, 136),
            (19, 256),
            (10, 264),
            (3, 512),
            (5, 1000),
            (2, 1032),
            (8200, 4),
        ] {
            let x = numbers(t, rows * c, 1, -1., 3.);
            let (w, b) = (numbers(t, c, 2, -1., 2.), numbers(t, c, 3, -1., 1.));
            let dy = numbers(t, rows * c, 4, -1., 1.);
            let eps = f64::from(1e-5f32);
            let (want, grads) = oracle(&[(&x, &[rows, c]), (&w, &[c]), (&b, &[c])], &dy, |v| {
                isfm_ops::layer_norm(&v[0], &v[1], &v[2], eps)
            });
            let y = host.run(&plan(norm::layer_norm(t, rows, c, 1e-5)), &[&x, &w, &b]);
            close(t, &y[0], &want, SUM, "layer norm");
            let all = host.first(norm::layer_norm_backward(t, rows, c, 1e-5), &[&x, &w, &dy]);
            let n = rows * c;
            // Where all values of a row are equal 1/√eps magnifies what is left of them.
            let lost = if c == 1 { 1e-4 } else { SUM };
            close(t, &all[..n], &grads[0], lost, "layer norm dx");
            close(t, &all[n..n + c], &grads[1], SUM, "layer norm dw");
            close(t, &all[n + c..], &grads[2], SUM, "layer norm db");
        }
    }
}

/// Batch, height, width and channels.
type Dims = (usize, usize, usize, usize);

const MAPS: [Dims; 6] =
    [(1, 1, 1, 1), (2, 3, 5, 3), (1, 1, 9, 2), (1, 8, 1, 5), (2, 7, 6, 33), (1, 17, 19, 4)];

/// Maps whose channels come in packs: less than a strip, strips that end early in both directions,
/// more strips than a block has threads for, more channels than a tile of a weight's gradient.
const PACKED: [Dims; 7] = [
    (1, 1, 1, 4),
    (3, 2, 3, 8),
    (1, 3, 2, 12),
    (2, 5, 7, 20),
    (1, 9, 4, 6),
    (2, 35, 9, 8),
    (1, 17, 7, 132),
];

/// Maps with windows, of which the two small ones are of kernels for packs.
fn windows<const N: usize>(sides: [usize; N]) -> impl Iterator<Item = (Dims, usize)> {
    let any = MAPS.into_iter().flat_map(move |m| sides.map(|k| (m, k)));
    any.chain(PACKED.into_iter().flat_map(|m| [3, 5].map(|k| (m, k)))).chain([((1, 9, 5, 8), 7)])
}

/// The same operation with its first inputs and outputs, so many, at addresses that no pack can have.
fn shifted(mut plan: Work, [inputs, outputs]: [usize; 2]) -> Work {
    for need in plan.inputs[..inputs].iter_mut().chain(&mut plan.outputs[..outputs]) {
        need.len += 1;
    }
    for arg in plan.launches.iter_mut().flat_map(|l| &mut l.args) {
        match arg {
            Arg::Input(i, at) if *i < inputs => *at += 1,
            Arg::Output(i, at) if *i < outputs => *at += 1,
            _ => {}
        }
    }
    plan
}

/// The same operation by a single block for each launch.
fn on_one_block(mut plan: Work) -> Work {
    plan.launches.iter_mut().for_each(|l| l.grid = 1);
    plan
}

fn silu_of(x: &[f64]) -> Vec<f64> {
    x.iter().map(|x| x / (1. + (-x).exp())).collect()
}

fn map_of((batch, height, width, channels): (usize, usize, usize, usize)) -> (Map, [usize; 4]) {
    (Map { batch, height, width, channels }, [batch, height, width, channels])
}

#[test]
fn depthwise_convolution_agrees_with_the_cpu() {
    let Some(host) = host() else { return };
    for t in TYPES {
        for (dims, k) in windows([1, 3, 5, 7]) {
            let (map, shape) = map_of(dims);
            let (n, c) = (shape.iter().product(), map.channels);
            let x = numbers(t, n, 1, -2., 2.);
            let w = numbers(t, c * k * k, 2, -1., 1.);
            let (b, dy) = (numbers(t, c, 3, -1., 1.), numbers(t, n, 4, -1., 1.));
            let (want, grads) =
                oracle(&[(&x, &shape), (&w, &[c, 1, k, k]), (&b, &[c])], &dy, |v| {
                    isfm_ops::depthwise_conv2d(&v[0], &v[1], Some(&v[2]), Epilogue::None)
                });
            let what = format!("depth-wise {dims:?} {k}");
            let plain = Depthwise { bias: true, ..Depthwise::default() };
            let flipped = Depthwise { flip: true, ..Depthwise::default() };
            let check = |how, inputs: &[&[f64]], want: &[f64]| {
                let got = host.first(window::depthwise(t, map, k, how), inputs);
                close(t, &got, want, SUM, &what);
            };
            check(Depthwise { silu: true, ..plain }, &[&x, &w, &b], &silu_of(&want));
            check(plain, &[&x, &w, &b], &want);
            check(flipped, &[&dy, &w], &grads[0]);
            let all = host.first(window::depthwise_weight(t, map, k), &[&x, &dy]);
            close(t, &all[..c * k * k], &grads[1], SUM, &what);
            close(t, &all[c * k * k..], &grads[2], SUM, &what);
        }
    }
}

/// Where a tensor starts decides between packs and single elements; what a launch's grid is decides
/// nothing.
#[test]
fn addresses_and_grids_change_no_result() {
    let Some(host) = host() else { return };
    for t in TYPES {
        // Two sums that differ in their last place may be rounded apart.
        let lost = if t == Type::F32 { SUM } else { 4e-3 };
        let (map, shape) = map_of((2, 35, 9, 8));
        let n = shape.iter().product();
        let (x, dy) = (numbers(t, n, 1, -2., 2.), numbers(t, n, 2, -1., 1.));
        let (rows, c) = (n / map.channels, map.channels);
        let (w, b) = (numbers(t, c * 25, 3, -1., 1.), numbers(t, c, 4, -1., 1.));
        let (how, w3) = (Depthwise { bias: true, ..Depthwise::default() }, &w[..c * 9]);
        let moved = |x: &[f64]| [&[0.], x].concat();
        for (p, inputs) in [
            (window::depthwise(t, map, 3, how), &[&x, w3, &b][..]),
            (window::depthwise(t, map, 5, how), &[&x, &w, &b]),
            (window::avg_pool(t, map, 3), &[&x]),
            (window::avg_pool(t, map, 5), &[&x]),
            (window::max_pool(t, map, 3), &[&x]),
            (window::max_pool_backward(t, map, 3), &[&x, &dy]),
            (window::depthwise_weight(t, map, 3), &[&x, &dy]),
            (window::depthwise_weight(t, map, 5), &[&x, &dy]),
            (window::depthwise_weight(t, map, 7), &[&x, &dy]),
            (norm::layer_norm(t, rows, c, 1e-5), &[&x, &b, &dy[..c]]),
        ] {
            let p = plan(p);
            let what = p.launches[0].kernel.clone();
            let want = host.run(&p, inputs);
            assert_eq!(host.run(&on_one_block(p.clone()), inputs), want, "{what}");
            let first = moved(inputs[0]);
            let inputs = [&[&first[..]], &inputs[1..]].concat();
            close(t, &host.run(&shifted(p, [1, 0]), &inputs)[0], &want[0], lost, &what);
        }
        let p = plan(norm::layer_norm_backward(t, rows, c, 1e-5));
        let want = host.run(&p, &[&x, &b, &dy]);
        close(
            t,
            &host.run(&shifted(p, [1, 0]), &[&moved(&x), &b, &dy])[0],
            &want[0],
            lost,
            "layer norm'",
        );

        // Several strips for a slice of a block, which takes a larger map than a test should.
        let (map, shape) = map_of((1, 35, 9, 132));
        let n = shape.iter().product();
        let (x, dy) = (numbers(t, n, 1, -2., 2.), numbers(t, n, 2, -1., 1.));
        for k in [3, 5, 7] {
            let mut p = plan(window::depthwise_weight(t, map, k));
            let want = host.run(&p, &[&x, &dy]);
            let [.., Arg::U32(each), Arg::U32(parts)] = &mut p.launches[0].args[..] else {
                panic!("{p:?}")
            };
            assert!(*parts > 1);
            *each *= *parts;
            *parts = 1;
            *p.launches[1].args.last_mut().unwrap() = Arg::U32(1);
            close(t, &host.run(&p, &[&x, &dy])[0], &want[0], lost, "one part");
        }
    }
}

/// The plans of an operation, `lost` near the CPU's, and of its gradient, which may need x.
fn check_map(
    name: &str,
    (t, lost): (Type, f64),
    dims: Dims,
    x: &[f64],
    f: impl Fn(&Tensor) -> Result<Tensor>,
    [forward, backward]: [Work; 2],
) {
    let Some(host) = host() else { return };
    let (_, shape) = map_of(dims);
    let dy = numbers(t, forward.outputs[0].len, 9, -1., 1.);
    let (want, grads) = oracle(&[(x, &shape)], &dy, |v| f(&v[0]));
    let what = format!("{name} {dims:?}");
    close(t, &host.run(&forward, &[x])[0], &want, lost, &what);
    let inputs = &[x, &dy[..]][2 - backward.inputs.len()..];
    close(t, &host.run(&backward, inputs)[0], &grads[0], SUM, &format!("{what} backward"));
}

#[test]
fn pools_agree_with_the_cpu() {
    for t in TYPES {
        for (dims, k) in windows([3, 5, 9]) {
            let (map, shape) = map_of(dims);
            let n = shape.iter().product();
            let x = numbers(t, n, 1, -2., 2.);
            let average = plan(window::avg_pool(t, map, k));
            let f = |x: &Tensor| isfm_ops::avg_pool2d(x, k);
            check_map("average", (t, SUM), dims, &x, f, [average.clone(), average]);
            // Few values, so that there are equal ones; and what is hard to compare.
            let mut x: Vec<f64> = numbers(t, n, 2, -2., 3.).iter().map(|x| x.floor()).collect();
            for (i, special) in [(3, f64::NAN), (7, f64::INFINITY), (8, f64::NEG_INFINITY)] {
                if i < n {
                    x[i] = special;
                }
            }
            let f = |x: &Tensor| isfm_ops::max_pool2d(x, k);
            let plans =
                [window::max_pool(t, map, k), window::max_pool_backward(t, map, k)].map(plan);
            check_map("largest", (t, 0.), dims, &x, f, plans.clone());
            // No value is larger than what lies outside.
            if n < 200 {
                check_map("largest", (t, 0.), dims, &vec![f64::NEG_INFINITY; n], f, plans);
            }
        }
    }
}

#[test]
fn resize_agrees_with_the_cpu() {
    for t in TYPES {
        for dims in MAPS {
            let (map, shape) = map_of(dims);
            let x = numbers(t, shape.iter().product(), 1, -2., 2.);
            for (h, w) in [(1, 1), (2, 9), (11, 3), (8, 7), (40, 50)] {
                if (h, w) == (map.height, map.width) {
                    continue;
                }
                let f = |x: &Tensor| isfm_ops::resize_bilinear(x, h, w);
                let plans =
                    [resize::resize(t, map, h, w), resize::resize_backward(t, map, h, w)].map(plan);
                check_map("resize", (t, SUM), dims, &x, f, plans);
            }
        }
    }
}

#[test]
fn haar_agrees_with_the_cpu() {
    use isfm_dwt::{Border, DataFormat, Wavelet, dwt2};
    let Some(host) = host() else { return };
    for t in TYPES {
        for dims in [(1, 2, 2, 1), (2, 3, 5, 3), (1, 4, 6, 33), (2, 7, 2, 5), (1, 12, 9, 2)] {
            let (map, shape) = map_of(dims);
            let x = numbers(t, shape.iter().product(), 1, -2., 2.);
            for bands in [Bands::Approx, Bands::Details, Bands::Both] {
                let f = |x: &Tensor| -> Result<Tensor> {
                    let s = dwt2(x, &Wavelet::haar(), Border::Drop, DataFormat::ChannelsLast)?;
                    let [low, high] = [s.approx.flatten_all()?, s.details.flatten_all()?];
                    match bands {
                        Bands::Approx => Ok(low),
                        Bands::Details => Ok(high),
                        Bands::Both => Tensor::cat(&[low, high], 0),
                    }
                };
                let got = host.first(haar::haar(t, map, bands), &[&x]);
                let dy = numbers(t, got.len(), 9, -1., 1.);
                let (want, grads) = oracle(&[(&x, &shape)], &dy, |v| f(&v[0]));
                let what = format!("haar {dims:?} {bands:?}");
                close(t, &got, &want, FEW, &what);
                let (low, high) = dy.split_at(dy.len() / 4);
                let inputs = if bands == Bands::Both { &[low, high][..] } else { &[&dy[..]] };
                let got = host.first(haar::haar_inverse(t, map, bands), inputs);
                close(t, &got, &grads[0], FEW, &format!("{what} backward"));
            }
        }
    }
    let x = [1., 2., 3., 4.];
    let (map, _) = map_of((1, 2, 2, 1));
    let bands = host.run(&plan(haar::haar(Type::F32, map, Bands::Both)), &[&x]);
    assert_eq!(bands[0], [5., -2., -1., 0.]);
}

#[test]
fn dense_convolution_agrees_with_the_cpu() {
    let Some(host) = host() else { return };
    for t in TYPES {
        for (dims, outputs, k) in [
            ((1, 1, 1, 1), 1, 3),
            ((1, 3, 5, 1), 70, 3),
            ((2, 5, 6, 3), 2, 1),
            ((1, 7, 9, 16), 16, 3),
            ((2, 9, 11, 8), 20, 5),
            ((1, 10, 17, 20), 66, 3),
            ((1, 6, 5, 67), 17, 3),
            ((3, 4, 5, 32), 130, 1),
            ((3, 9, 18, 32), 64, 3),
            ((1, 3, 4, 64), 70, 3),
            ((1, 17, 5, 128), 1, 3),
        ] {
            let (map, shape) = map_of(dims);
            let (n, c) = (shape.iter().product::<usize>(), map.channels);
            let results = n / c * outputs;
            let x = numbers(t, n, 1, -2., 2.);
            let w = numbers(t, outputs * c * k * k, 2, -1., 1.);
            let (b, dy) = (numbers(t, outputs, 3, -1., 1.), numbers(t, results, 4, -1., 1.));
            let (want, grads) =
                oracle(&[(&x, &shape), (&w, &[outputs, c, k, k]), (&b, &[outputs])], &dy, |v| {
                    isfm_ops::conv2d(&v[0], &v[1], Some(&v[2]), Epilogue::None)
                });
            let what = format!("dense {dims:?} to {outputs}, {k}");
            let check = |from, silu, start: &[f64], want: &[f64]| {
                let made = conv::conv(t, map, outputs, k, Some(from), silu);
                close(t, &host.first(made, &[&x, &w, start]), want, SUM, &what);
            };
            check(Start::Bias, true, &b, &silu_of(&want));
            let start: Vec<f64> = dy.iter().map(|d| round(t, 2. * d)).collect();
            let sum = want.iter().zip(&start).enumerate().map(|(i, (w, s))| w - b[i % outputs] + s);
            let sum: Vec<f64> = sum.collect();
            check(Start::Map, false, &start, &sum);
            check(Start::Bias, false, &b, &want);
            let out = Map { channels: outputs, ..map };
            let dx = host.first(conv::conv_adjoint(t, out, c, k), &[&dy, &w]);
            close(t, &dx, &grads[0], SUM, &format!("{what} dx"));
            let all = host.first(conv::conv_weight(t, map, outputs, k), &[&x, &dy]);
            close(t, &all[..w.len()], &grads[1], SUM, &format!("{what} dw"));
            close(t, &all[w.len()..], &grads[2], SUM, &format!("{what} db"));
        }
    }
}

/// Maps that do not start where vectors do.
#[test]
fn dense_convolution_takes_any_place_in_memory() {
    let Some(host) = host() else { return };
    for t in TYPES {
        for (dims, outputs, k) in
            [((1, 3, 4, 32), 72, 3), ((1, 2, 5, 32), 8, 3), ((1, 2, 5, 8), 8, 1)]
        {
            let (map, shape) = map_of(dims);
            let pixels = shape.iter().product::<usize>() / map.channels;
            let x = numbers(t, pixels * map.channels, 1, -2., 2.);
            let w = numbers(t, outputs * map.channels * k * k, 2, -1., 1.);
            let start = numbers(t, pixels * outputs, 3, -1., 1.);
            let aligned = plan(conv::conv(t, map, outputs, k, Some(Start::Map), true));
            let moved = shifted(aligned.clone(), [3, 1]);
            let want = host.run(&aligned, &[&x, &w, &start]).remove(0);
            let [x, w, start] = [&x, &w, &start].map(|v| [&[0.], &v[..]].concat());
            let got = host.run(&moved, &[&x, &w, &start]).remove(0);
            close(t, &got[1..], &want, SUM, &format!("moved {dims:?} to {outputs}, {k}"));
        }
    }
}

#[test]
fn sizes_beyond_the_kernels_are_refused_by_name() {
    let limit = pointwise::silu(Type::F32, 1 << 31).unwrap_err();
    assert_eq!((limit.op, limit.got, limit.most), ("silu", 1 << 31, (1 << 31) - 1));
    let (map, _) = map_of((1, 1 << 16, 1 << 15, 2));
    assert_eq!(conv::conv(Type::F16, map, 1, 3, None, false).unwrap_err().op, "conv2d");
    assert_eq!(resize::resize(Type::F32, map, 1, 1).unwrap_err().op, "resize_bilinear");
    let (map, _) = map_of((1, 2, 2, 2));
    assert_eq!(window::avg_pool(Type::F32, map, 1025).unwrap_err().what, "the window");
    assert!(haar::haar(Type::F32, Map { batch: usize::MAX, ..map }, Bands::Both).is_err());
    // Sizes beside a 0 are multiplied too.
    let most = usize::MAX;
    assert!(pointwise::scale_add(Type::F32, [most, 0, 2], true, true).is_err());
    assert!(conv::conv_weight(Type::F32, Map { channels: most, ..map }, 0, 3).is_err());
    // There is nothing to interpolate between.
    assert!(resize::resize(Type::F32, Map { height: 0, ..map }, 2, 2).is_err());
    let plan = resize::resize_backward(Type::F32, map, 0, 2).unwrap();
    assert_eq!(plan.outputs()[0].len, 8);
}

/// An operation on nothing launches nothing that would fail, and gives nothing.
#[test]
fn empty_maps_have_no_launches() {
    let (map, _) = map_of((0, 4, 4, 3));
    for p in [
        plan(window::depthwise(Type::F32, map, 3, Depthwise::default())),
        plan(window::max_pool(Type::F32, map, 3)),
        plan(resize::resize(Type::F32, map, 2, 2)),
        plan(haar::haar(Type::F32, map, Bands::Both)),
        plan(norm::layer_norm(Type::F32, 0, 4, 1e-5)),
    ] {
        assert!(p.launches.is_empty(), "{p:?}");
    }
}
