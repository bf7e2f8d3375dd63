//! Slow oracles in f64 and what the test files share.
#![allow(dead_code)]

use candle_core::{DType, Device, Tensor, Var};
use isfm_ssm::ScanParams;

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
pub(crate) fn scan(t: &[Tensor]) -> candle_core::Result<Tensor> {
    params(&t[2..]).over_map(&t[0], &t[1])
}

/// dt weights, dt bias, A_logs and Ds.
pub(crate) fn params(t: &[Tensor]) -> ScanParams {
    let [dt_projs_weight, dt_projs_bias, a_logs, ds] = [0, 1, 2, 3].map(|i| t[i].clone());
    ScanParams { dt_projs_weight, dt_projs_bias, a_logs, ds }
}

/// One direction of a Mamba block by plain loops, from projected inputs B×L×D to before the gate:
/// causal convolution, SiLU, projection, scan. `get` gives the tensors by name, without the suffix.
pub(crate) fn mamba_branch(
    x: &[f64],
    [batch, len, d]: [usize; 3],
    get: &dyn Fn(&str) -> Vec<f64>,
) -> Vec<f64> {
    let [conv, conv_bias, x_proj] = ["conv1d.weight", "conv1d.bias", "x_proj.weight"].map(get);
    let [dt_weight, dt_bias] = ["dt_proj.weight", "dt_proj.bias"].map(get);
    let [a_log, skip] = ["A_log", "D"].map(get);
    let (k, r, n) = (conv.len() / d, dt_weight.len() / d, a_log.len() / d);
    let mut out = vec![0.; x.len()];
    for b in 0..batch {
        let mut state = vec![0.; d * n];
        for t in 0..len {
            let mut u = vec![0.; d];
            for c in 0..d {
                let mut sum = conv_bias[c];
                for j in 0..k {
                    if t + j + 1 >= k {
                        sum += conv[c * k + j] * x[(b * len + t + j + 1 - k) * d + c];
                    }
                }
                u[c] = sum / (1. + (-sum).exp());
            }
            let row: Vec<f64> = x_proj
                .chunks(d)
                .map(|weights| weights.iter().zip(&u).map(|(w, u)| w * u).sum())
                .collect();
            for c in 0..d {
                let dt: f64 = (0..r).map(|i| dt_weight[c * r + i] * row[i]).sum();
                let delta = softplus(dt + dt_bias[c]);
                let mut y = skip[c] * u[c];
                for i in 0..n {
                    let h = &mut state[c * n + i];
                    *h = (-delta * a_log[c * n + i].exp()).exp() * *h + delta * row[r + i] * u[c];
                    y += row[r + n + i] * *h;
                }
                out[(b * len + t) * d + c] = y;
            }
        }
    }
    out
}

/// Rows of `x` times the transpose of `weight`, which has rows of `columns`.
pub(crate) fn project(x: &[f64], weight: &[f64], columns: usize) -> Vec<f64> {
    let dot = |x: &[f64], w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
    x.chunks(columns)
        .flat_map(|x| weight.chunks(columns).map(move |w| (x, w)))
        .map(|(x, w)| dot(x, w))
        .collect()
}

/// Moves every variable away from its initial value, by up to 0.3 and depending on its name alone.
pub(crate) fn scramble(map: &candle_nn::VarMap, seed: u64) {
    let mut numbers = Numbers(seed);
    let data = map.data().lock().unwrap();
    let names: std::collections::BTreeSet<&String> = data.keys().collect();
    for name in names {
        let var = &data[name];
        let noise = numbers.vec(var.elem_count(), -0.3, 0.3);
        let start = if name.contains("norm") { 1. } else { 0. };
        let moved: Vec<f64> = noise.iter().map(|v| start + v).collect();
        var.set(&tensor(&moved, var.dims(), var.dtype())).unwrap();
    }
}

/// Compares the gradients of Σ r ⊙ f(x) in x and every variable with central differences along
/// random directions, which see every element at once. In f64.
pub(crate) fn check_gradients(map: &candle_nn::VarMap, x: &Tensor, f: &dyn Fn(&Tensor) -> Tensor) {
    // Truncation (step² times a third derivative of order 10 to 100) and rounding (1e-16 of the
    // loss over the step) both stay below 1e-8 of these losses.
    const STEP: f64 = 1e-5;
    let mut numbers = Numbers(77);
    let input = Var::from_tensor(x).unwrap();
    let weights = f(input.as_tensor());
    let r = tensor(&numbers.vec(weights.elem_count(), -1., 1.), weights.dims(), DType::F64);
    let loss = || (f(input.as_tensor()) * &r).unwrap().sum_all().unwrap();
    let grads = loss().backward().unwrap();
    let mut vars: Vec<(String, Var)> =
        map.data().lock().unwrap().iter().map(|(n, v)| (n.clone(), v.clone())).collect();
    vars.sort_by(|a, b| a.0.cmp(&b.0));
    vars.push(("the input".to_string(), input.clone()));
    for (name, var) in &vars {
        let got = values(grads.get(var).unwrap_or_else(|| panic!("no gradient of {name}")));
        let start = values(var);
        for _ in 0..3 {
            let direction = numbers.vec(start.len(), -1., 1.);
            let at = |step: f64| {
                let moved: Vec<f64> =
                    start.iter().zip(&direction).map(|(v, d)| v + step * d).collect();
                var.set(&tensor(&moved, var.dims(), DType::F64)).unwrap();
                loss().to_scalar::<f64>().unwrap()
            };
            let want = (at(STEP) - at(-STEP)) / (2. * STEP);
            at(0.);
            let got: f64 = got.iter().zip(&direction).map(|(g, d)| g * d).sum();
            let error = (got - want).abs();
            assert!(error < 1e-7 * (1. + want.abs()), "{name}: {got}, should be {want}");
        }
    }
}
