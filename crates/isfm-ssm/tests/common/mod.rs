//! Slow oracles in f64 and what the test files share.
#![allow(dead_code)]

use candle_core::{DType, Device, Tensor, Var};
use isfm_ssm::{Scan2dParams, selective_scan_2d_with};

/// A small generator of reproducible numbers (splitmix64).
pub(crate) struct Numbers(pub u64);

impl Numbers {
    /// Uniform in [0, 1).
    pub(crate) fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `count` values uniform in [low, high).
    pub(crate) fn vec(&mut self, count: usize, low: f64, high: f64) -> Vec<f64> {
        (0..count).map(|_| low + (high - low) * self.unit()).collect()
    }
}

/// ‖a − b‖ / ‖b‖.
pub(crate) fn relative(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |x: f64| x.sqrt();
    let d = norm(a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum());
    d / norm(b.iter().map(|y| y * y).sum()).max(1e-300)
}

/// All elements as f64.
pub(crate) fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// A tensor of `dtype` on the CPU.
pub(crate) fn tensor(values: &[f64], dims: &[usize], dtype: DType) -> Tensor {
    Tensor::from_slice(values, dims, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

pub(crate) fn softplus(x: f64) -> f64 {
    if x > 20. { x } else { x.exp().ln_1p() }
}

/// Sizes of a four-direction case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) b: usize,
    pub(crate) h: usize,
    pub(crate) w: usize,
    pub(crate) d: usize,
    pub(crate) r: usize,
    pub(crate) n: usize,
}

/// The inputs of a four-direction scan: x, x_dbl, dt weights, dt bias, A_logs, Ds.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) sizes: Sizes,
    pub(crate) inputs: [Vec<f64>; 6],
}

pub(crate) const NAMES: [&str; 6] =
    ["x", "x_dbl", "dt_projs_weight", "dt_projs_bias", "A_logs", "Ds"];

impl Case {
    /// Random inputs for which every one of them matters to the output.
    pub(crate) fn new(sizes: Sizes, seed: u64) -> Self {
        let Sizes { b, h, w, d, r, n } = sizes;
        let mut numbers = Numbers(seed);
        let pixels = b * h * w;
        let inputs = [
            numbers.vec(pixels * d, -1., 1.),
            numbers.vec(pixels * 4 * (r + 2 * n), -1., 1.),
            numbers.vec(4 * d * r, -0.7, 0.7),
            numbers.vec(4 * d, -2., 1.),
            numbers.vec(4 * d * n, -1.5, 1.),
            numbers.vec(4 * d, 0.5, 1.5),
        ];
        Self { sizes, inputs }
    }

    pub(crate) fn dims(&self) -> [Vec<usize>; 6] {
        let Sizes { b, h, w, d, r, n } = self.sizes;
        [
            vec![b, h, w, d],
            vec![b, h, w, 4, r + 2 * n],
            vec![4, d, r],
            vec![4, d],
            vec![4 * d, n],
            vec![4 * d],
        ]
    }

    pub(crate) fn tensors(&self, dtype: DType) -> Vec<Tensor> {
        self.inputs.iter().zip(self.dims()).map(|(v, d)| tensor(v, &d, dtype)).collect()
    }

    /// What the crate computes.
    pub(crate) fn run(&self, dtype: DType) -> Vec<f64> {
        values(&scan(&self.tensors(dtype)).unwrap())
    }

    /// The crate's gradients of Σ dy·y.
    pub(crate) fn gradients(&self, dy: &[f64], dtype: DType) -> Vec<Vec<f64>> {
        let vars: Vec<Var> =
            self.tensors(dtype).iter().map(|t| Var::from_tensor(t).unwrap()).collect();
        let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        let y = scan(&tensors).unwrap();
        let dy = tensor(dy, y.dims(), dtype);
        let grads = (y * dy).unwrap().sum_all().unwrap().backward().unwrap();
        vars.iter().map(|v| values(grads.get(v).unwrap())).collect()
    }

    /// The scan by plain loops, one direction at a time, on materialised sequences.
    pub(crate) fn oracle(&self) -> Vec<f64> {
        let Sizes { b, h, w, d, r, n } = self.sizes;
        let [x, x_dbl, dtw, dtb, a_logs, ds] = &self.inputs;
        let l = h * w;
        let mut y = vec![0.; b * l * d];
        for k in 0..4 {
            let mut order: Vec<usize> = if k % 2 == 0 {
                (0..l).collect()
            } else {
                (0..w).flat_map(|j| (0..h).map(move |i| i * w + j)).collect()
            };
            if k >= 2 {
                order.reverse();
            }
            for bi in 0..b {
                for c in 0..d {
                    let mut state = vec![0.; n];
                    for &p in &order {
                        let row = &x_dbl[((bi * l + p) * 4 + k) * (r + 2 * n)..][..r + 2 * n];
                        let dt: f64 = (0..r).map(|i| dtw[(k * d + c) * r + i] * row[i]).sum();
                        let delta = softplus(dt + dtb[k * d + c]);
                        let at = (bi * l + p) * d + c;
                        let mut out = ds[k * d + c] * x[at];
                        for (i, s) in state.iter_mut().enumerate() {
                            let a = -a_logs[(k * d + c) * n + i].exp();
                            *s = (delta * a).exp() * *s + delta * row[r + i] * x[at];
                            out += row[r + n + i] * *s;
                        }
                        y[at] += out;
                    }
                }
            }
        }
        y
    }
}

/// The scan on tensors in the order of [`NAMES`].
pub(crate) fn scan(t: &[Tensor]) -> isfm_ssm::Result<Tensor> {
    let params =
        Scan2dParams { dt_projs_weight: &t[2], dt_projs_bias: &t[3], a_logs: &t[4], ds: &t[5] };
    selective_scan_2d_with(&t[0], &t[1], &params)
}
