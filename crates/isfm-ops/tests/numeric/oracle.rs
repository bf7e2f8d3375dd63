//! Slow, plain versions of the operations in f64, and cases to compare them on.
#![allow(dead_code, missing_docs, unreachable_pub)]

use candle_core::{DType, Result, Tensor};
use isfm_ops::Epilogue;
use isfm_testing::{random, tensor, values};

#[path = "pyramid_oracle.rs"]
pub mod pyramid;

pub fn to_f32(t: &Tensor) -> Tensor {
    t.to_dtype(DType::F32).unwrap()
}

/// Element (b, y, x, c) of a map, or `None` outside.
struct Map {
    v: Vec<f64>,
    dims: (usize, usize, usize, usize),
}

impl Map {
    fn new(t: &Tensor) -> Self {
        Self { v: values(t), dims: t.dims4().unwrap() }
    }

    fn at(&self, b: usize, y: isize, x: isize, c: usize) -> Option<f64> {
        let (_, h, w, channels) = self.dims;
        if y < 0 || x < 0 || y >= h as isize || x >= w as isize {
            return None;
        }
        Some(self.v[((b * h + y as usize) * w + x as usize) * channels + c])
    }

    fn each(&self, outputs: usize, f: impl Fn(usize, isize, isize, usize) -> f64) -> Tensor {
        let (b, h, w, _) = self.dims;
        let mut out = Vec::new();
        for i in 0..b {
            for y in 0..h as isize {
                for x in 0..w as isize {
                    out.extend((0..outputs).map(|c| f(i, y, x, c)));
                }
            }
        }
        tensor(&out, &[b, h, w, outputs], DType::F64)
    }
}

pub fn conv2d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let (cout, cin, k, _) = weight.dims4().unwrap();
    let (map, w) = (Map::new(x), values(weight));
    let bias = bias.map(values);
    map.each(cout, |b, y, x, o| {
        let mut sum = bias.as_ref().map_or(0., |b| b[o]);
        for c in 0..cin {
            for i in 0..k {
                for j in 0..k {
                    let (dy, dx) = (i as isize - k as isize / 2, j as isize - k as isize / 2);
                    let v = map.at(b, y + dy, x + dx, c).unwrap_or(0.);
                    sum += v * w[((o * cin + c) * k + i) * k + j];
                }
            }
        }
        sum
    })
}

pub fn depthwise(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let (channels, _, k, _) = weight.dims4().unwrap();
    let (map, w) = (Map::new(x), values(weight));
    let bias = bias.map(values);
    map.each(channels, |b, y, x, c| {
        let mut sum = bias.as_ref().map_or(0., |b| b[c]);
        for i in 0..k {
            for j in 0..k {
                let (dy, dx) = (i as isize - k as isize / 2, j as isize - k as isize / 2);
                sum += map.at(b, y + dy, x + dx, c).unwrap_or(0.) * w[(c * k + i) * k + j];
            }
        }
        sum
    })
}

fn window(k: usize) -> impl Iterator<Item = (isize, isize)> {
    let p = k as isize / 2;
    (-p..=p).flat_map(move |i| (-p..=p).map(move |j| (i, j)))
}

pub fn avg_pool(x: &Tensor, k: usize) -> Tensor {
    let map = Map::new(x);
    map.each(map.dims.3, |b, y, x, c| {
        let sum: f64 = window(k).filter_map(|(i, j)| map.at(b, y + i, x + j, c)).sum();
        sum / (k * k) as f64
    })
}

pub fn max_pool(x: &Tensor, k: usize) -> Tensor {
    let map = Map::new(x);
    map.each(map.dims.3, |b, y, x, c| {
        let inside = window(k).filter_map(|(i, j)| map.at(b, y + i, x + j, c));
        inside.fold(f64::NEG_INFINITY, |m, v| if m.is_nan() || v <= m { m } else { v })
    })
}

/// PyTorch's rule for where the gradient of a window goes.
pub fn max_pool_gradient(x: &Tensor, grad: &Tensor, k: usize) -> Tensor {
    let (map, grad) = (Map::new(x), Map::new(grad));
    let (b, h, w, channels) = map.dims;
    let mut out = vec![0.; map.v.len()];
    for i in 0..b {
        for y in 0..h as isize {
            for x in 0..w as isize {
                for c in 0..channels {
                    let mut best: Option<(f64, (isize, isize))> = None;
                    for (dy, dx) in window(k) {
                        if let Some(v) = map.at(i, y + dy, x + dx, c)
                            && best.is_none_or(|(m, _)| v > m || v.is_nan())
                        {
                            best = Some((v, (y + dy, x + dx)));
                        }
                    }
                    let (_, (y0, x0)) = best.unwrap();
                    let at = ((i * h + y0 as usize) * w + x0 as usize) * channels + c;
                    out[at] += grad.at(i, y, x, c).unwrap();
                }
            }
        }
    }
    tensor(&out, &[b, h, w, channels], DType::F64)
}

pub fn resize(x: &Tensor, height: usize, width: usize) -> Tensor {
    let map = Map::new(x);
    let (b, h, w, channels) = map.dims;
    let place = |i: usize, from: usize, to: usize| {
        let at = ((i as f64 + 0.5) * from as f64 / to as f64 - 0.5).max(0.);
        let first = (at.floor() as usize).min(from - 1);
        (first as isize, (first + 1).min(from - 1) as isize, at - first as f64)
    };
    let mut out = Vec::new();
    for i in 0..b {
        for y in 0..height {
            for x in 0..width {
                let ((y0, y1, v), (x0, x1, u)) = (place(y, h, height), place(x, w, width));
                for c in 0..channels {
                    let at = |y, x| map.at(i, y, x, c).unwrap();
                    let top = at(y0, x0) * (1. - u) + at(y0, x1) * u;
                    let bottom = at(y1, x0) * (1. - u) + at(y1, x1) * u;
                    out.push(top * (1. - v) + bottom * v);
                }
            }
        }
    }
    tensor(&out, &[b, height, width, channels], DType::F64)
}

fn by_row(x: &Tensor, f: impl Fn(&[f64]) -> Vec<f64>) -> Tensor {
    let n = *x.dims().last().unwrap();
    let out: Vec<f64> = values(x).chunks(n).flat_map(f).collect();
    let mut dims = x.dims().to_vec();
    *dims.last_mut().unwrap() = out.len() / (x.elem_count() / n);
    tensor(&out, &dims, DType::F64)
}

pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Tensor {
    let (w, b) = (values(weight), values(bias));
    by_row(x, |row| {
        let n = row.len() as f64;
        let mean = row.iter().sum::<f64>() / n;
        let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        let normal = row.iter().map(|v| (v - mean) / (variance + eps).sqrt());
        normal.zip(w.iter().zip(&b)).map(|(v, (w, b))| v * w + b).collect()
    })
}

pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Tensor {
    let w = values(weight);
    by_row(x, |row| {
        let square = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
        row.iter().zip(&w).map(|(v, w)| v / (square + eps).sqrt() * w).collect()
    })
}

pub fn causal_conv(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    before: Option<&Tensor>,
) -> Tensor {
    let (b, l, c) = x.dims3().unwrap();
    let k = weight.dim(2).unwrap();
    let (v, w) = (values(x), values(weight));
    let (bias, before) = (bias.map(values), before.map(values));
    let mut out = Vec::new();
    for i in 0..b * l * c {
        let (image, t, channel) = (i / c / l, i / c % l, i % c);
        let mut sum = bias.as_ref().map_or(0., |b| b[channel]);
        for j in 0..k {
            let past = match (t + j + 1).checked_sub(k) {
                Some(step) => v[(image * l + step) * c + channel],
                None => before
                    .as_ref()
                    .map_or(0., |before| before[(image * (k - 1) + t + j) * c + channel]),
            };
            sum += past * w[channel * k + j];
        }
        out.push(sum);
    }
    tensor(&out, &[b, l, c], DType::F64)
}

pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let (w, bias) = (values(weight), bias.map(values));
    by_row(x, |row| {
        let outputs = w.chunks(row.len()).enumerate();
        outputs
            .map(|(o, w)| {
                let start = bias.as_ref().map_or(0., |b| b[o]);
                start + row.iter().zip(w).map(|(a, b)| a * b).sum::<f64>()
            })
            .collect()
    })
}

pub fn softmax(x: &Tensor) -> Tensor {
    by_row(x, |row| {
        let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|v| (v - most).exp()).sum();
        row.iter().map(|v| (v - most).exp() / sum).collect()
    })
}

fn zip(a: &Tensor, b: &Tensor, f: impl Fn(f64, f64) -> f64) -> Tensor {
    let v: Vec<f64> = values(a).iter().zip(values(b)).map(|(&a, b)| f(a, b)).collect();
    tensor(&v, a.dims(), DType::F64)
}

pub fn silu(x: &Tensor) -> Tensor {
    zip(x, x, |x, _| x / (1. + (-x).exp()))
}

pub fn silu_gate(x: &Tensor, z: &Tensor) -> Tensor {
    zip(x, z, |x, z| x * z / (1. + (-z).exp()))
}

pub fn sigmoid_gate(x: &Tensor, z: &Tensor) -> Tensor {
    zip(x, z, |x, z| x / (1. + (-z).exp()))
}

pub fn scale_add(x: &Tensor, scale: &Tensor, y: &Tensor) -> Tensor {
    let s = values(scale);
    let scaled = by_row(x, |row| row.iter().zip(&s).map(|(a, b)| a * b).collect());
    zip(&scaled, y, |a, b| a + b)
}

/// An operation of the crate on some inputs.
pub type Op = dyn Fn(&[Tensor]) -> Result<Tensor> + Send + Sync;

/// What it should give, by plain loops.
pub type Oracle = dyn Fn(&[Tensor]) -> Tensor;

/// One operation with inputs to try it on.
pub struct Case {
    pub name: String,
    pub inputs: Vec<Tensor>,
    pub op: Box<Op>,
    pub oracle: Box<Oracle>,
}

fn case(
    name: String,
    dims: &[&[usize]],
    op: impl Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static,
    oracle: impl Fn(&[Tensor]) -> Tensor + 'static,
) -> Case {
    let name = format!("{name} {dims:?}");
    let inputs = dims.iter().enumerate().map(|(i, d)| random(d, 7 + i as u64)).collect();
    Case { name, inputs, op: Box::new(op), oracle: Box::new(oracle) }
}

/// The same order of values, evenly spaced over ±1: no two so close that a finite difference could
/// swap them.
fn spaced(t: &Tensor) -> Tensor {
    let v = values(t);
    let mut order: Vec<usize> = (0..v.len()).collect();
    order.sort_by(|&a, &b| v[a].total_cmp(&v[b]));
    let mut out = vec![0.; v.len()];
    for (rank, &i) in order.iter().enumerate() {
        out[i] = 2. * rank as f64 / v.len() as f64 - 1.;
    }
    tensor(&out, t.dims(), DType::F64)
}

/// Every operation on maps of b×h×w×c (and `d` channels where there is a second number).
pub fn cases(b: usize, h: usize, w: usize, c: usize, d: usize) -> Vec<Case> {
    let map: &[usize] = &[b, h, w, c];
    let mut all = Vec::new();
    for k in [1, 3, 5, 7, 9] {
        let weight: &[usize] = &[c, 1, k, k];
        for dims in [&[map, weight, &[c]][..], &[map, weight]] {
            all.push(case(
                format!("depthwise k={k}"),
                dims,
                |t| isfm_ops::depthwise_conv2d(&t[0], &t[1], t.get(2), Epilogue::None),
                |t| depthwise(&t[0], &t[1], t.get(2)),
            ));
        }
    }
    for k in [1, 3, 5] {
        let weight: &[usize] = &[d, c, k, k];
        for dims in [&[map, weight, &[d]][..], &[map, weight]] {
            all.push(case(
                format!("conv k={k}"),
                dims,
                |t| isfm_ops::conv2d(&t[0], &t[1], t.get(2), Epilogue::None),
                |t| conv2d(&t[0], &t[1], t.get(2)),
            ));
        }
    }
    for dims in [&[map, &[d, c], &[d]][..], &[map, &[d, c]]] {
        all.push(case(
            "linear".into(),
            dims,
            |t| isfm_ops::linear(&t[0], &t[1], t.get(2), Epilogue::None),
            |t| linear(&t[0], &t[1], t.get(2)),
        ));
    }
    for k in [1, 3] {
        let (weight, own): (&[usize], &[usize]) = (&[d, c, k, k], &[c, 1, k, k]);
        let out: &[usize] = &[b, h, w, d];
        all.push(case(
            format!("conv k={k} and SiLU"),
            &[map, weight, &[d]],
            |t| isfm_ops::conv2d(&t[0], &t[1], Some(&t[2]), Epilogue::Silu),
            |t| silu(&conv2d(&t[0], &t[1], Some(&t[2]))),
        ));
        all.push(case(
            format!("conv k={k} and a map"),
            &[map, weight, out],
            |t| isfm_ops::conv2d(&t[0], &t[1], None, Epilogue::Add(&t[2])),
            |t| zip(&conv2d(&t[0], &t[1], None), &t[2], |x, y| x + y),
        ));
        all.push(case(
            format!("conv k={k}, bias and a map"),
            &[map, weight, &[d], out],
            |t| isfm_ops::conv2d(&t[0], &t[1], Some(&t[2]), Epilogue::Add(&t[3])),
            |t| zip(&conv2d(&t[0], &t[1], Some(&t[2])), &t[3], |x, y| x + y),
        ));
        all.push(case(
            format!("depthwise k={k} and SiLU"),
            &[map, own, &[c]],
            |t| isfm_ops::depthwise_conv2d(&t[0], &t[1], Some(&t[2]), Epilogue::Silu),
            |t| silu(&depthwise(&t[0], &t[1], Some(&t[2]))),
        ));
        all.push(case(
            format!("depthwise k={k} and a map"),
            &[map, own, map],
            |t| isfm_ops::depthwise_conv2d(&t[0], &t[1], None, Epilogue::Add(&t[2])),
            |t| zip(&depthwise(&t[0], &t[1], None), &t[2], |x, y| x + y),
        ));
    }
    for k in [1, 3, 5] {
        all.push(case(
            format!("avg pool k={k}"),
            &[map],
            move |t| isfm_ops::avg_pool2d(&t[0], k),
            move |t| avg_pool(&t[0], k),
        ));
        let mut max = case(
            format!("max pool k={k}"),
            &[map],
            move |t| isfm_ops::max_pool2d(&t[0], k),
            move |t| max_pool(&t[0], k),
        );
        max.inputs[0] = spaced(&max.inputs[0]);
        all.push(max);
    }
    all.push(case(
        "layer norm".into(),
        &[map, &[c], &[c]],
        |t| isfm_ops::layer_norm(&t[0], &t[1], &t[2], 1e-2),
        |t| layer_norm(&t[0], &t[1], &t[2], 1e-2),
    ));
    for k in [1, 2, 4, 7] {
        let dims: [&[usize]; 4] = [&[b, h * w, c], &[c, 1, k], &[c], &[b, k - 1, c]];
        for given in 0..4usize {
            let (bias, before) = (given & 1 > 0, given & 2 > 0 && k > 1);
            let dims =
                [&dims[..2], &dims[2..2 + usize::from(bias)], &dims[3..][..usize::from(before)]];
            all.push(case(
                format!("causal conv k={k}"),
                &dims.concat(),
                move |t| {
                    let (x, weight) = (&t[0], &t[1]);
                    let before = before.then(|| &t[t.len() - 1]);
                    isfm_ops::causal_conv1d(x, weight, bias.then(|| &t[2]), before)
                },
                move |t| {
                    let before = before.then(|| &t[t.len() - 1]);
                    causal_conv(&t[0], &t[1], bias.then(|| &t[2]), before)
                },
            ));
        }
    }
    all.push(case(
        "rms norm".into(),
        &[map, &[c]],
        |t| isfm_ops::rms_norm(&t[0], &t[1], 1e-2),
        |t| rms_norm(&t[0], &t[1], 1e-2),
    ));
    all.push(case(
        "softmax".into(),
        &[map],
        |t| isfm_ops::softmax_last_dim(&t[0]),
        |t| softmax(&t[0]),
    ));
    for (y, x) in [(h, w), (1, 1), (h + 1, w + 1), (2 * h, 3 * w), (h.div_ceil(2), w.div_ceil(2))] {
        all.push(case(
            format!("resize to {y}x{x}"),
            &[map],
            move |t| isfm_ops::resize_bilinear(&t[0], y, x),
            move |t| resize(&t[0], y, x),
        ));
    }
    pyramids(b, h, w, c, &mut all);
    all.push(case("silu".into(), &[map], |t| isfm_ops::silu(&t[0]), |t| silu(&t[0])));
    all.push(case(
        "silu_gate".into(),
        &[map, map],
        |t| isfm_ops::silu_gate(&t[0], &t[1]),
        |t| silu_gate(&t[0], &t[1]),
    ));
    all.push(case(
        "sigmoid_gate".into(),
        &[map, map],
        |t| isfm_ops::sigmoid_gate(&t[0], &t[1]),
        |t| sigmoid_gate(&t[0], &t[1]),
    ));
    all.push(case(
        "scale_add".into(),
        &[map, &[c], map],
        |t| isfm_ops::scale_add(&t[0], &t[1], &t[2]),
        |t| scale_add(&t[0], &t[1], &t[2]),
    ));
    all.push(case(
        "scale_add of each image".into(),
        &[map, &[b, c], map],
        |t| isfm_ops::scale_add(&t[0], &t[1], &t[2]),
        |t| {
            let image = |i: usize| {
                let part = |t: &Tensor| t.narrow(0, i, 1).unwrap();
                scale_add(&part(&t[0]), &t[1].get(i).unwrap(), &part(&t[2]))
            };
            let images: Vec<Tensor> = (0..t[0].dims()[0]).map(image).collect();
            Tensor::cat(&images, 0).unwrap()
        },
    ));
    all.push(case(
        "weighted_sum".into(),
        &[map, map],
        |t| isfm_ops::weighted_sum(&t[0], 0.25, &t[1], -1.5),
        |t| zip(&t[0], &t[1], |x, y| 0.25 * x - 1.5 * y),
    ));
    all
}

/// Away from 0, where the logarithm of a small window's energy is too curved for finite differences.
fn away_from_0(t: &Tensor) -> Tensor {
    zip(t, t, |v, _| v + 0.3 * v.signum())
}

/// A pyramid's operations on channels-first pictures.
fn pyramids(b: usize, h: usize, w: usize, c: usize, all: &mut Vec<Case>) {
    let (half_h, half_w) = (h.div_ceil(2), w.div_ceil(2));
    for dims in [&[b, c, h, w][..], &[b * w, c], &[b, 1, 2, w, h]] {
        all.push(case(
            "pyr_down".into(),
            &[dims],
            |t| isfm_ops::pyr_down(&t[0]),
            |t| pyramid::pyr_down(&t[0]),
        ));
    }
    for (height, width) in [(h, w), (2 * half_h, 2 * half_w)] {
        all.push(case(
            format!("pyr_up to {height}x{width}"),
            &[&[b, c, half_h, half_w]],
            move |t| isfm_ops::pyr_up(&t[0], height, width),
            move |t| pyramid::pyr_up(&t[0], height, width),
        ));
    }
    for sharpness in [0., 1.5] {
        let picture: &[usize] = &[b, 1, h, w];
        let mut merge = case(
            format!("merge_details sharpness={sharpness}"),
            &[picture, picture, &[b, 2, h, w]],
            move |t| isfm_ops::merge_details(&t[0], &t[1], &t[2], sharpness),
            move |t| pyramid::merge_details(&t[0], &t[1], &t[2], sharpness),
        );
        merge.inputs[..2].iter_mut().for_each(|t| *t = away_from_0(t));
        all.push(merge);
    }
}
