//! Slow oracles in f64 and what the test files share.
#![allow(dead_code)]

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use isfm_ssm::ScanParams;
use isfm_testing::{Differences, Numbers, check_variables, gradients, random, tensor};

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
    pub(crate) fn run(&self, dtype: DType) -> Tensor {
        scan(&self.tensors(dtype)).unwrap()
    }

    /// Random numbers of the output's shape.
    pub(crate) fn weights(&self, seed: u64) -> Tensor {
        random(&self.dims()[0], seed)
    }

    /// The crate's gradients of Σ dy·y.
    pub(crate) fn gradients(&self, dy: &Tensor, dtype: DType) -> Vec<Tensor> {
        let dy = dy.to_dtype(dtype).unwrap();
        gradients(&self.tensors(dtype), |t| (scan(t)? * &dy)?.sum_all())
    }

    /// What the crate should compute.
    pub(crate) fn oracle(&self) -> Tensor {
        let Sizes { b, h, w, d, r, n } = self.sizes;
        let rows: Vec<usize> = (0..h * w).collect();
        let columns: Vec<usize> = (0..w).flat_map(|j| (0..h).map(move |i| i * w + j)).collect();
        let [rows_back, columns_back] =
            [&rows, &columns].map(|order| order.iter().rev().copied().collect());
        let orders = [rows, columns, rows_back, columns_back];
        tensor(&oracle(&self.inputs, [b, h * w, d, r, n], &orders), &[b, h, w, d], DType::F64)
    }
}

/// The scan in any orders by plain loops, one order at a time, on materialised sequences. The
/// inputs are those of [`NAMES`], the sizes B, H·W, D, R and N.
pub(crate) fn oracle(
    [x, x_dbl, dtw, dtb, a_logs, ds]: &[Vec<f64>; 6],
    [b, l, d, r, n]: [usize; 5],
    orders: &[Vec<usize>],
) -> Vec<f64> {
    let mut y = vec![0.; b * l * d];
    for (k, order) in orders.iter().enumerate() {
        for bi in 0..b {
            for c in 0..d {
                let channel = k * d + c;
                let mut state = vec![0.; n];
                for &p in order {
                    let at = bi * l + p;
                    let row = &x_dbl[(at * orders.len() + k) * (r + 2 * n)..][..r + 2 * n];
                    let dt: f64 = (0..r).map(|i| dtw[channel * r + i] * row[i]).sum();
                    let delta = softplus(dt + dtb[channel]);
                    let u = x[at * d + c];
                    let mut out = ds[channel] * u;
                    for (i, s) in state.iter_mut().enumerate() {
                        let a = -a_logs[channel * n + i].exp();
                        *s = (delta * a).exp() * *s + delta * row[r + i] * u;
                        out += row[r + n + i] * *s;
                    }
                    y[at * d + c] += out;
                }
            }
        }
    }
    y
}

/// The scan on tensors in the order of [`NAMES`].
pub(crate) fn scan(t: &[Tensor]) -> Result<Tensor> {
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

/// What `make` builds in f64 or f32, on variables that are moved by [`scramble`].
pub(crate) fn built<T>(
    dtype: DType,
    seed: u64,
    make: impl FnOnce(VarBuilder<'_>) -> Result<T>,
) -> (VarMap, T) {
    let map = VarMap::new();
    let module = make(VarBuilder::from_varmap(&map, dtype, &Device::Cpu)).unwrap();
    scramble(&map, seed);
    (map, module)
}

/// The variables in the order of their names.
pub(crate) fn variables(map: &VarMap) -> Vec<(String, Var)> {
    let data = map.data().lock().unwrap();
    let mut all: Vec<_> = data.iter().map(|(name, var)| (name.clone(), var.clone())).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// "name [dims]" of every variable.
pub(crate) fn names_and_shapes(map: &VarMap) -> Vec<String> {
    variables(map).iter().map(|(name, var)| format!("{name} {:?}", var.dims())).collect()
}

/// Moves every variable away from its initial value, by up to 0.3 and depending on its name alone.
fn scramble(map: &VarMap, seed: u64) {
    let mut numbers = Numbers(seed);
    for (name, var) in variables(map) {
        let start = if name.contains("norm") { 1. } else { 0. };
        let moved = numbers.vec(var.elem_count(), start - 0.3, start + 0.3);
        var.set(&tensor(&moved, var.dims(), var.dtype())).unwrap();
    }
}

/// y, then the gradient of Σ y² in each variable.
pub(crate) fn with_gradients(map: &VarMap, y: Tensor) -> Vec<(String, Tensor)> {
    let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    let gradients =
        variables(map).into_iter().map(|(name, v)| (name, grads.get(&v).unwrap().clone()));
    std::iter::once(("result".to_string(), y)).chain(gradients).collect()
}

/// Compares gradients in x and every variable with central differences in f64: element by element
/// in inputs of at most `one_by_one`, else along random directions.
///
/// The value at the start is taken off, so that the loss is 0 there and the bound is 1e-7 of
/// 1 + |slope|. Truncation (step² times a third derivative of order 10 to 100) and rounding (1e-16
/// of what is summed, over the step) stay below 1e-8.
pub(crate) fn check_gradients(
    map: &VarMap,
    x: &Tensor,
    one_by_one: usize,
    f: impl Fn(&Tensor) -> Result<Tensor>,
) {
    let input = Var::from_tensor(x).unwrap();
    let mut all = variables(map);
    all.push(("the input".to_string(), input.clone()));
    let start = f(&input).unwrap().detach();
    let how = Differences { tolerance: 1e-7, one_by_one, ..Differences::default() };
    check_variables(&all, how, || f(&input)? - &start);
}
