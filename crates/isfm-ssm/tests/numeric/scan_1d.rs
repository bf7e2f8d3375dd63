//! The 1-D scan with all its options against plain loops and their finite differences.

use crate::common::softplus;
use candle_core::{DType, Tensor, Var};
use isfm_ssm::{ScanOptions, selective_scan, selective_scan_with_state};
use isfm_testing::{Numbers, dot, random, refused, relative, tensor, values};

const NAMES: [&str; 8] = ["u", "delta", "a", "b", "c", "d_skip", "delta_bias", "initial_state"];

#[derive(Clone, Debug)]
struct Case {
    batch: usize,
    len: usize,
    groups: usize,
    /// Channels of a group.
    channels: usize,
    states: usize,
    softplus: bool,
    /// Whether d_skip, delta_bias and initial_state are given.
    options: [bool; 3],
    inputs: Vec<Vec<f64>>,
}

impl Case {
    fn new(sizes: [usize; 5], softplus: bool, options: [bool; 3], seed: u64) -> Self {
        let [batch, len, groups, channels, states] = sizes;
        let mut case =
            Self { batch, len, groups, channels, states, softplus, options, inputs: Vec::new() };
        let mut numbers = Numbers(seed);
        let range = |i: usize| match i {
            1 => (if softplus { -2. } else { 0.05 }, 1.),
            2 => (-2., -0.05),
            6 => (0., 0.5),
            _ => (-1., 1.),
        };
        for (i, dims) in case.dims().iter().enumerate() {
            let (low, high) = range(i);
            case.inputs.push(numbers.vec(dims.iter().product(), low, high));
        }
        case
    }

    fn dims(&self) -> [Vec<usize>; 8] {
        let d = self.groups * self.channels;
        let Self { batch, len, groups, states, .. } = *self;
        [
            vec![batch, len, d],
            vec![batch, len, d],
            vec![d, states],
            vec![batch, len, groups, states],
            vec![batch, len, groups, states],
            vec![d],
            vec![d],
            vec![batch, d, states],
        ]
    }

    fn tensors(&self, dtype: DType) -> Vec<Tensor> {
        self.inputs.iter().zip(self.dims()).map(|(v, d)| tensor(v, &d, dtype)).collect()
    }

    /// y and the last states.
    fn oracle(&self) -> (Tensor, Tensor) {
        let d = self.groups * self.channels;
        let [u, delta, a, b, c, skip, bias, init] = &self.inputs[..] else { unreachable!() };
        let (mut y, mut last) = (vec![0.; u.len()], vec![0.; init.len()]);
        for bi in 0..self.batch {
            for ch in 0..d {
                for n in 0..self.states {
                    let at = (bi * d + ch) * self.states + n;
                    let mut h = if self.options[2] { init[at] } else { 0. };
                    for t in 0..self.len {
                        let row = (bi * self.len + t) * d + ch;
                        let group = ch / self.channels;
                        let bc = ((bi * self.len + t) * self.groups + group) * self.states + n;
                        let mut step = delta[row] + if self.options[1] { bias[ch] } else { 0. };
                        if self.softplus {
                            step = softplus(step);
                        }
                        h = (step * a[ch * self.states + n]).exp() * h + step * b[bc] * u[row];
                        y[row] += c[bc] * h;
                        if n == 0 && self.options[0] {
                            y[row] += skip[ch] * u[row];
                        }
                    }
                    last[at] = h;
                }
            }
        }
        let [flow, .., state] = self.dims();
        (tensor(&y, &flow, DType::F64), tensor(&last, &state, DType::F64))
    }

    fn run(&self, t: &[Tensor]) -> (Tensor, Tensor) {
        let options = ScanOptions {
            d_skip: self.options[0].then_some(&t[5]),
            delta_bias: self.options[1].then_some(&t[6]),
            softplus: self.softplus,
            initial_state: self.options[2].then_some(&t[7]),
        };
        let alone = selective_scan(&t[0], &t[1], &t[2], &t[3], &t[4], &options).unwrap();
        let (y, last) =
            selective_scan_with_state(&t[0], &t[1], &t[2], &t[3], &t[4], &options).unwrap();
        assert_eq!(values(&alone), values(&y));
        (y, last)
    }

    fn check(&self, seed: u64) {
        let want = self.oracle();
        let mut numbers = Numbers(seed);
        let (dy, dlast) = (random(want.0.dims(), seed), random(want.1.dims(), seed + 1));
        let mut exact: Vec<Tensor> = Vec::new();
        // Rounding of f64, and of f32 as the golden values have it.
        for (dtype, tolerance) in [(DType::F64, 1e-13), (DType::F32, 1e-6)] {
            let vars: Vec<Var> =
                self.tensors(dtype).iter().map(|t| Var::from_tensor(t).unwrap()).collect();
            let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
            let (y, last) = self.run(&tensors);
            assert!(relative(&y, &want.0) < tolerance, "{self:?} {dtype:?}");
            assert!(relative(&last, &want.1) < tolerance, "{self:?} {dtype:?}");
            let part = |y: Tensor, dy: &Tensor| (y * dy.to_dtype(dtype)?)?.sum_all();
            let loss = part(y, &dy).unwrap() + part(last, &dlast).unwrap();
            let grads = loss.unwrap().backward().unwrap();
            for (i, var) in vars.iter().enumerate() {
                if i >= 5 && !self.options[i - 5] {
                    assert!(grads.get(var).is_none());
                    exact.push(var.as_tensor().clone());
                    continue;
                }
                let gradient = grads.get(var).unwrap();
                if dtype == DType::F32 {
                    let error = relative(gradient, &exact[i]);
                    assert!(error < 1e-5, "f32 gradient of {}: {error:e}", NAMES[i]);
                    continue;
                }
                let got = values(gradient);
                for _ in 0..10 {
                    let at = (numbers.unit() * got.len() as f64) as usize;
                    let mut moved = self.clone();
                    let mut loss = |by: f64| {
                        moved.inputs[i][at] = self.inputs[i][at] + by;
                        let (y, last) = moved.oracle();
                        dot(&y, &dy) + dot(&last, &dlast)
                    };
                    let slope = (loss(1e-5) - loss(-1e-5)) / 2e-5;
                    // Truncation of 1e-10 and rounding of 1e-10, times sizes of order 1 to 100.
                    let error = (slope - got[at]).abs();
                    assert!(error < 1e-7 * (1. + slope.abs()), "{}[{at}]: {error:e}", NAMES[i]);
                }
                exact.push(gradient.clone());
            }
        }
    }
}

#[test]
fn every_option_with_its_gradients() {
    let sizes = [
        [1, 1, 1, 1, 1],
        [2, 5, 1, 3, 4],
        [2, 33, 3, 5, 2],
        [1, 70, 2, 16, 9],
        [1, 97, 1, 20, 16],
        [3, 64, 4, 1, 21],
    ];
    for (i, sizes) in sizes.into_iter().enumerate() {
        for options in 0..8usize {
            let options = [options & 1 > 0, options & 2 > 0, options & 4 > 0];
            for softplus in [false, true] {
                Case::new(sizes, softplus, options, i as u64).check(7);
            }
        }
    }
}

/// A scan of two halves, the state handed over, equals the scan of the whole.
#[test]
fn a_sequence_can_be_continued() {
    let case = Case::new([2, 90, 2, 9, 5], true, [true, true, false], 1);
    let t = case.tensors(DType::F64);
    let (whole, end) = case.run(&t);
    let part = |start: usize, len: usize, state: Option<&Tensor>| {
        let cut = |i: usize| t[i].narrow(1, start, len).unwrap();
        let options = ScanOptions {
            d_skip: Some(&t[5]),
            delta_bias: Some(&t[6]),
            softplus: true,
            initial_state: state,
        };
        selective_scan_with_state(&cut(0), &cut(1), &t[2], &cut(3), &cut(4), &options).unwrap()
    };
    let (first, state) = part(0, 37, None);
    let (second, state) = part(37, 53, Some(&state));
    let joined = Tensor::cat(&[first, second], 1).unwrap();
    assert_eq!(values(&joined), values(&whole));
    assert_eq!(values(&state), values(&end));
}

#[test]
fn wrong_inputs_are_refused() {
    let case = Case::new([2, 6, 2, 3, 4], true, [true; 3], 1);
    let good = case.tensors(DType::F32);
    let run = |t: &[Tensor]| {
        let options = ScanOptions {
            d_skip: Some(&t[5]),
            delta_bias: Some(&t[6]),
            softplus: true,
            initial_state: Some(&t[7]),
        };
        selective_scan(&t[0], &t[1], &t[2], &t[3], &t[4], &options)
    };
    assert!(run(&good).is_ok());
    for (i, name) in NAMES.iter().enumerate() {
        for change in 0..3 {
            let mut bad = good.clone();
            bad[i] = match change {
                0 => bad[i].unsqueeze(0).unwrap(),
                1 => bad[i].narrow(0, 0, 0).unwrap(),
                _ => bad[i].to_dtype(DType::F64).unwrap(),
            };
            assert!(run(&bad).is_err(), "{name} {change}");
        }
    }
    let mut bad = good.clone();
    bad[3] = good[3].narrow(2, 0, 1).unwrap().repeat((1, 1, 4, 1)).unwrap();
    refused(run(&bad), &["a divisor of 6"]);
}
