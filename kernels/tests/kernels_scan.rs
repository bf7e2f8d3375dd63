//! The scan's kernels, run as plain C++, against the CPU's scan in f64.

mod common;

use common::{TYPES, close, host, numbers, oracle};
use isfm_kernels::Type;
use isfm_kernels::scan::Scan;
use isfm_ssm::{Scan2dParams, ScanOptions, selective_scan_2d_with};

fn cross(batch: usize, h: usize, w: usize, d: usize, n: usize, r: usize) -> Scan {
    Scan {
        batch,
        length: h * w,
        map: Some((h, w)),
        groups: 4,
        channels: d,
        states: n,
        rank: r,
        bias: true,
        skip: true,
        initial: false,
        softplus: true,
        log_a: true,
        last: false,
    }
}

/// States sum up to 60 decayed terms; what f32 loses in each, and `ex2`'s 2e-7 in each decay, stays
/// below this part of the largest result.
const LOST: f64 = 4e-6;

fn check_cross(t: Type, s: &Scan) {
    let Some(host) = host() else { return };
    let (h, w) = s.map.unwrap();
    let (b, d, n, r) = (s.batch, s.channels, s.states, s.rank);
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
        let params =
            Scan2dParams { dt_projs_weight: &v[2], dt_projs_bias: &v[3], a_logs: &v[4], ds: &v[5] };
        Ok(selective_scan_2d_with(&v[0], &v[1], &params)?)
    });

    let params = [&weight[..], &bias, &a, &skip].concat();
    let plain = host.run(&s.forward(t, false).unwrap(), &[&x, &proj, &params]);
    close(t, &plain[0], &want, LOST, &format!("{what}: y"));
    let kept = host.run(&s.forward(t, true).unwrap(), &[&x, &proj, &params]);
    close(t, &kept[0], &want, LOST, &format!("{what}: y, states kept"));

    let got = host.run(&s.backward(t).unwrap(), &[&x, &proj, &params, &grad, &kept[1]]);
    close(t, &got[0], &grads[0], LOST, &format!("{what}: dx"));
    close(t, &got[1], &grads[1], LOST, &format!("{what}: dproj"));
    let mut at = 0;
    for (want, name) in grads[2..].iter().zip(["dt weights", "bias", "ln(-A)", "skip"]) {
        let got = &got[2][at..at + want.len()];
        at += want.len();
        close(Type::F32, got, want, LOST, &format!("{what}: {name}"));
    }
    assert_eq!(at, got[2].len());
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
    let (b, l, k, d, n) = (s.batch, s.length, s.groups, s.channels, s.states);
    let width = k * d;
    let what = format!("{b}x{l}x{k}x{d}, N {n}, {s:?}");
    let u = numbers(t, b * l * width, 1, -2., 2.);
    // Without softplus a negative step would grow without bound.
    let (low, high) = if s.softplus { (-4., 1.) } else { (0., 0.5) };
    let delta = numbers(t, b * l * width, 2, low, high);
    let bc = [3, 4].map(|seed| numbers(t, b * l * k * n, seed, -1., 1.));
    let a = numbers(Type::F32, width * n, 5, -4., -0.01);
    let bias = numbers(Type::F32, if s.bias { width } else { 0 }, 6, low / 4., high / 2.);
    let skip = numbers(Type::F32, if s.skip { width } else { 0 }, 7, -1., 1.);
    let initial = numbers(Type::F32, if s.initial { b * width * n } else { 0 }, 8, -1., 1.);
    let results = b * l * width + if s.last { b * width * n } else { 0 };
    let grad = numbers(t, results, 9, -1., 1.);
    let mut inputs: Vec<(&[f64], &[usize])> = Vec::new();
    let flow = [b, l, width];
    let groups = [b, l, k, n];
    let (rows, columns, states) = ([width, n], [width], [b, width, n]);
    inputs.extend([(&u[..], &flow[..]), (&delta, &flow), (&a, &rows)]);
    inputs.extend([(&bc[0][..], &groups[..]), (&bc[1], &groups)]);
    let bias_at = s.bias.then(|| {
        inputs.push((&bias, &columns));
        inputs.len() - 1
    });
    let skip_at = s.skip.then(|| {
        inputs.push((&skip, &columns));
        inputs.len() - 1
    });
    let initial_at = s.initial.then(|| {
        inputs.push((&initial, &states));
        inputs.len() - 1
    });
    let (want, grads) = oracle(&inputs, &grad, |v| {
        let options = ScanOptions {
            d_skip: skip_at.map(|i| &v[i]),
            delta_bias: bias_at.map(|i| &v[i]),
            softplus: s.softplus,
            initial_state: initial_at.map(|i| &v[i]),
        };
        if !s.last {
            return Ok(isfm_ssm::selective_scan(&v[0], &v[1], &v[2], &v[3], &v[4], &options)?);
        }
        let (y, last) =
            isfm_ssm::selective_scan_with_state(&v[0], &v[1], &v[2], &v[3], &v[4], &options)?;
        candle_core::Tensor::cat(&[y.flatten_all()?, last.flatten_all()?], 0)
    });

    let first = [&u[..], &delta].concat();
    let proj: Vec<f64> =
        bc[0].chunks(n).zip(bc[1].chunks(n)).flat_map(|(b, c)| [b, c].concat()).collect();
    let params = [&bias[..], &a, &skip, &initial].concat();
    let plain = host.run(&s.forward(t, false).unwrap(), &[&first, &proj, &params]);
    close(t, &plain[0], &want, LOST, &format!("{what}: y"));
    let kept = host.run(&s.forward(t, true).unwrap(), &[&first, &proj, &params]);
    close(t, &kept[0], &want, LOST, &format!("{what}: y, states kept"));

    let got = host.run(&s.backward(t).unwrap(), &[&first, &proj, &params, &grad, &kept[1]]);
    let (du, ddelta) = got[0].split_at(u.len());
    close(t, du, &grads[0], LOST, &format!("{what}: du"));
    close(t, ddelta, &grads[1], LOST, &format!("{what}: ddelta"));
    let wanted: Vec<f64> =
        grads[3].chunks(n).zip(grads[4].chunks(n)).flat_map(|(b, c)| [b, c].concat()).collect();
    close(t, &got[1], &wanted, LOST, &format!("{what}: dB and dC"));
    let none = Vec::new();
    let of = |at: Option<usize>| at.map_or(&none, |i| &grads[i]);
    let mut rest = &got[2][..];
    for (want, name) in
        [(of(bias_at), "bias"), (&grads[2], "A"), (of(skip_at), "skip"), (of(initial_at), "h0")]
    {
        let (got, after) = rest.split_at(want.len());
        rest = after;
        close(Type::F32, got, want, LOST, &format!("{what}: {name}"));
    }
    assert!(rest.is_empty());
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
        let scan = Scan {
            batch: b,
            length: l,
            map: None,
            groups: k,
            channels: d,
            states: n,
            rank: 0,
            bias: on(0),
            skip: on(1),
            initial: on(2),
            softplus: on(3),
            log_a: false,
            last: on(4),
        };
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
    let wide = Scan { map: None, rank: 0, ..cross(1 << 20, 1, 1, 1 << 20, 1, 0) };
    assert!(refused(&Scan { groups: 1, ..wide }).what.contains("outputs"));
}
