//! The scan's kernels.

use isfm_kernels::Type;
use isfm_kernels::scan::{Path, Scan};
use isfm_ssm::{ScanOptions, ScanParams};

use crate::host::{Host, TYPES, close, host, numbers, oracle, plan};

fn cross(batch: usize, h: usize, w: usize, d: usize, n: usize, r: usize) -> Scan {
    Scan::map(batch, h, w, d, n).rank(r).bias(true).skip(true).softplus(true).log_a(true)
}

/// States sum up to 60 decayed terms; what f32 loses in each, and `ex2`'s 2e-7 in each decay, stays
/// below this part of the largest result.
const LOST: f64 = 4e-6;

/// Checks y, with and without states kept, and returns the gradients of the three inputs.
fn gradients(
    (host, t, s): (&Host, Type, &Scan),
    [first, proj, params]: [&[f64]; 3],
    grad: &[f64],
    want: &[f64],
    what: &str,
) -> Vec<Vec<f64>> {
    let run = |keep| host.run(&plan(s.forward(t, keep)), &[first, proj, params]);
    close(t, &run(false)[0], want, LOST, &format!("{what}: y"));
    let kept = run(true);
    close(t, &kept[0], want, LOST, &format!("{what}: y, states kept"));
    host.run(&plan(s.backward(t)), &[first, proj, params, grad, &kept[1]])
}

/// Checks the gradients of the parameters, which lie one after another.
fn check_params(mut got: &[f64], wanted: &[(&[f64], &str)], what: &str) {
    for (want, name) in wanted {
        let (this, rest) = got.split_at(want.len());
        close(Type::F32, this, want, LOST, &format!("{what}: {name}"));
        got = rest;
    }
    assert!(got.is_empty());
}

fn check_cross(t: Type, s: &Scan) {
    let Some(host) = host() else { return };
    let Path::Cross { rows: h, cols: w } = s.path() else { panic!("{s:?}") };
    let (b, d, n, r) = (s.batch(), s.channels(), s.states(), s.dt_rank());
    let what = format!("{b}x{h}x{w}x{d}, N {n}, R {r}");
    let size = b * h * w * d;
    let x = numbers(t, size, 1, -2., 2.);
    let proj = numbers(t, b * h * w * 4 * (r + 2 * n), 2, -1., 1.);
    let weight = numbers(Type::F32, 4 * d * r, 3, -0.7, 0.7);
    let bias = numbers(Type::F32, 4 * d, 4, -5., 0.);
    let a = numbers(Type::F32, 4 * d * n, 5, -1., 2.7);
    let skip = numbers(Type::F32, 4 * d, 6, -1., 1.);
    let grad = numbers(t, size, 7, -1., 1.);
    let shapes: [&[usize]; 6] =
        [&[b, h, w, d], &[b, h, w, 4, r + 2 * n], &[4, d, r], &[4, d], &[4 * d, n], &[4 * d]];
    let values = [&x, &proj, &weight, &bias, &a, &skip];
    let inputs: Vec<_> = values.iter().zip(shapes).map(|(v, s)| (v.as_slice(), s)).collect();
    let (want, grads) = oracle(&inputs, &grad, |v| {
        let [dt_projs_weight, dt_projs_bias, a_logs, ds] = [2, 3, 4, 5].map(|i| v[i].clone());
        ScanParams { dt_projs_weight, dt_projs_bias, a_logs, ds }.over_map(&v[0], &v[1])
    });

    let params = [&weight[..], &bias, &a, &skip].concat();
    let got = gradients((host, t, s), [&x, &proj, &params], &grad, &want, &what);
    close(t, &got[0], &grads[0], LOST, &format!("{what}: dx"));
    close(t, &got[1], &grads[1], LOST, &format!("{what}: dproj"));
    let names = [(2, "dt weights"), (3, "bias"), (4, "ln(-A)"), (5, "skip")];
    check_params(&got[2], &names.map(|(i, name)| (&grads[i][..], name)), &what);
}

#[test]
fn four_directions_agree_with_the_cpu() {
    // One position; one row and column; less and more than a chunk and a tile; the last chunk and
    // tile short; several blocks of channels; both numbers of states, and fewer.
    for (b, h, w, d, n, r) in [
        (1, 1, 1, 1, 1, 1),
        (1, 1, 7, 3, 16, 2),
        (2, 5, 1, 9, 8, 1),
        (1, 4, 8, 8, 16, 8),
        (2, 5, 7, 5, 3, 3),
        (1, 9, 11, 33, 16, 5),
        (1, 8, 12, 70, 8, 4),
        (1, 3, 23, 130, 11, 7),
        (1, 13, 10, 2, 16, 16),
    ] {
        check_cross(Type::F32, &cross(b, h, w, d, n, r));
    }
}

#[test]
fn four_directions_agree_in_sixteen_bits() {
    for t in [Type::F16, Type::Bf16] {
        check_cross(t, &cross(2, 5, 9, 5, 16, 4));
        check_cross(t, &cross(1, 7, 6, 65, 8, 2));
    }
}

/// Long enough that chunks differ and a block of the adjoint takes several.
#[test]
fn many_chunks_agree_with_the_cpu() {
    check_cross(Type::F32, &cross(1, 41, 27, 3, 4, 2));
}

fn check_line(t: Type, s: &Scan) {
    let Some(host) = host() else { return };
    let (b, l, k, d, n) = (s.batch(), s.length(), s.groups(), s.channels(), s.states());
    let width = k * d;
    let what = format!("{b}x{l}x{k}x{d}, N {n}, {s:?}");
    let u = numbers(t, b * l * width, 1, -2., 2.);
    // Without softplus a negative step would grow without bound.
    let (low, high) = if s.has_softplus() { (-4., 1.) } else { (0., 0.5) };
    let delta = numbers(t, b * l * width, 2, low, high);
    let bc = [3, 4].map(|seed| numbers(t, b * l * k * n, seed, -1., 1.));
    let a = numbers(Type::F32, width * n, 5, -4., -0.01);
    let bias = numbers(Type::F32, if s.has_bias() { width } else { 0 }, 6, low / 4., high / 2.);
    let skip = numbers(Type::F32, if s.has_skip() { width } else { 0 }, 7, -1., 1.);
    let initial = numbers(Type::F32, if s.has_initial() { b * width * n } else { 0 }, 8, -1., 1.);
    let results = b * l * width + if s.has_last() { b * width * n } else { 0 };
    let grad = numbers(t, results, 9, -1., 1.);
    let mut inputs: Vec<(&[f64], &[usize])> = Vec::new();
    let flow = [b, l, width];
    let groups = [b, l, k, n];
    let (rows, columns, states) = ([width, n], [width], [b, width, n]);
    inputs.extend([(&u[..], &flow[..]), (&delta, &flow), (&a, &rows)]);
    inputs.extend([(&bc[0][..], &groups[..]), (&bc[1], &groups)]);
    let optional = [
        (s.has_bias(), &bias, &columns[..]),
        (s.has_skip(), &skip, &columns),
        (s.has_initial(), &initial, &states),
    ];
    let [bias_at, skip_at, initial_at] = optional.map(|(there, values, shape)| {
        there.then(|| {
            inputs.push((values, shape));
            inputs.len() - 1
        })
    });
    let (want, grads) = oracle(&inputs, &grad, |v| {
        let options = ScanOptions {
            d_skip: skip_at.map(|i| &v[i]),
            delta_bias: bias_at.map(|i| &v[i]),
            softplus: s.has_softplus(),
            initial_state: initial_at.map(|i| &v[i]),
        };
        if !s.has_last() {
            return isfm_ssm::selective_scan(&v[0], &v[1], &v[2], &v[3], &v[4], &options);
        }
        let (y, last) =
            isfm_ssm::selective_scan_with_state(&v[0], &v[1], &v[2], &v[3], &v[4], &options)?;
        candle_core::Tensor::cat(&[y.flatten_all()?, last.flatten_all()?], 0)
    });

    let first = [&u[..], &delta].concat();
    let in_turn = |b: &[f64], c: &[f64]| -> Vec<f64> {
        b.chunks(n).zip(c.chunks(n)).flat_map(|(b, c)| [b, c].concat()).collect()
    };
    let proj = in_turn(&bc[0], &bc[1]);
    let params = [&bias[..], &a, &skip, &initial].concat();
    let got = gradients((host, t, s), [&first, &proj, &params], &grad, &want, &what);
    let (du, ddelta) = got[0].split_at(u.len());
    close(t, du, &grads[0], LOST, &format!("{what}: du"));
    close(t, ddelta, &grads[1], LOST, &format!("{what}: ddelta"));
    close(t, &got[1], &in_turn(&grads[3], &grads[4]), LOST, &format!("{what}: dB and dC"));
    let names = [(bias_at, "bias"), (Some(2), "A"), (skip_at, "skip"), (initial_at, "h0")];
    let wanted = names.map(|(at, name)| (at.map_or(&[][..], |i| &grads[i]), name));
    check_params(&got[2], &wanted, &what);
}

#[test]
fn lines_agree_with_the_cpu() {
    for (b, l, k, d, n, flags) in [
        (1, 1, 1, 1, 1, 0b00000),
        (2, 33, 1, 5, 16, 0b11111),
        (1, 70, 3, 2, 8, 0b10101),
        (2, 5, 2, 9, 4, 0b01010),
        (1, 300, 1, 3, 2, 0b11111),
        (1, 40, 1, 140, 16, 0b01111),
    ] {
        let on = |bit: u32| flags >> bit & 1 == 1;
        let scan = Scan::line(b, l, k, d, n).bias(on(0)).skip(on(1)).initial(on(2));
        let scan = scan.softplus(on(3)).last(on(4));
        check_line(Type::F32, &scan);
        if l < 40 {
            TYPES[1..].iter().for_each(|&t| check_line(t, &scan));
        }
    }
}

#[test]
fn sizes_beyond_the_kernels_are_refused_by_name() {
    let refused = |s: &Scan| s.forward(Type::F32, false).unwrap_err();
    let limit = refused(&cross(1, 2, 2, 2, 17, 2));
    assert_eq!((limit.what, limit.got, limit.most), ("the number of states", 17, 16));
    assert_eq!(refused(&cross(1, 2, 2, 2, 16, 17)).what, "the rank of dt");
    let long = refused(&cross(1, 1 << 20, 1 << 10, 2, 16, 2));
    assert_eq!(long.what, "the number of projected values");
    assert!(long.to_string().contains("selective_scan on CUDA"), "{long}");
    assert!(refused(&Scan::line(1 << 20, 1, 1, 1 << 20, 1)).what.contains("outputs"));
    let most = usize::MAX;
    for [batch, rows, cols, channels] in
        [[most, 1, 1, 1], [1, most, 3, 1], [1, 0, most, 1], [0, 1, 1, most], [most; 4]]
    {
        for scan in
            [Scan::map(batch, rows, cols, channels, 1), Scan::line(batch, rows, cols, channels, 1)]
        {
            assert!(refused(&scan).got > refused(&scan).most, "{scan:?}");
            assert!(scan.kept().is_err() && scan.backward(Type::F32).is_err(), "{scan:?}");
            let _ = (scan.elements(), scan.state_elements(), scan.proj_elements(), scan.params());
        }
    }
}

/// Then y is the skip's part alone.
#[test]
fn a_scan_may_have_no_states() {
    let Some(host) = host() else { return };
    let scan = cross(2, 5, 9, 70, 0, 2);
    let n = scan.elements();
    let (x, grad) = (numbers(Type::F32, n, 1, -2., 2.), numbers(Type::F32, n, 2, -2., 2.));
    let proj = numbers(Type::F32, scan.proj_elements(), 3, -1., 1.);
    let params = numbers(Type::F32, scan.params().len(), 4, -1., 1.);
    let skip = |i| params[scan.params().skip()].iter().skip(i % 70).step_by(70).sum::<f64>();
    let want = |v: &[f64]| v.iter().enumerate().map(|(i, v)| v * skip(i)).collect::<Vec<_>>();
    let got = host.run(&plan(scan.forward(Type::F32, true)), &[&x, &proj, &params]);
    close(Type::F32, &got[0], &want(&x), LOST, "y");
    let all = [&x[..], &proj, &params, &grad, &got[1]];
    close(Type::F32, &host.run(&plan(scan.backward(Type::F32)), &all)[0], &want(&grad), LOST, "dx");
}

#[test]
fn parameters_lie_one_after_another() {
    let scan = cross(2, 5, 9, 7, 3, 2).initial(true);
    let at = scan.params();
    let ranges = [at.dt_weight(), at.bias(), at.a(), at.skip(), at.initial()];
    assert_eq!(ranges, [0..56, 56..84, 84..168, 168..196, 196..364]);
    assert_eq!((scan.length(), scan.width(), scan.groups(), at.len()), (45, 7, 4, 364));
    let at = Scan::line(2, 5, 3, 7, 3).params();
    assert!(at.dt_weight().is_empty() && at.bias().is_empty() && at.skip().is_empty());
    assert_eq!((at.a(), at.len()), (0..63, 63));
}
