//! Slow, plain versions of the pyramid's operations in f64.

use candle_core::{DType, Tensor};
use isfm_testing::{tensor, values};

/// Pictures of a tensor of any number of axes, and their size.
fn pictures(x: &Tensor) -> (Vec<f64>, usize, usize) {
    let dims = x.dims();
    (values(x), dims[dims.len() - 2], dims[dims.len() - 1])
}

/// A result of the size (height, width) for every picture.
fn each(x: &Tensor, (h, w): (usize, usize), f: impl Fn(&[f64], usize, usize) -> f64) -> Tensor {
    let (v, height, width) = pictures(x);
    let mut out = Vec::new();
    for picture in v.chunks(height * width) {
        for y in 0..h {
            out.extend((0..w).map(|x| f(picture, y, x)));
        }
    }
    let lead = &x.dims()[..x.rank() - 2];
    tensor(&out, &[lead, &[h, w]].concat(), DType::F64)
}

const BINOMIAL: [f64; 5] = [1. / 16., 4. / 16., 6. / 16., 4. / 16., 1. / 16.];

/// OpenCV's `BORDER_REFLECT_101`.
fn reflected(i: isize, n: usize) -> usize {
    if n == 1 {
        return 0;
    }
    let at = i.rem_euclid(2 * n as isize - 2) as usize;
    at.min(2 * n - 2 - at)
}

pub fn pyr_down(x: &Tensor) -> Tensor {
    let (_, h, w) = pictures(x);
    each(x, (h.div_ceil(2), w.div_ceil(2)), |picture, y, x| {
        let mut sum = 0.;
        for (j, b) in BINOMIAL.iter().enumerate() {
            for (i, a) in BINOMIAL.iter().enumerate() {
                let y = reflected((2 * y + j) as isize - 2, h);
                sum += a * b * picture[y * w + reflected((2 * x + i) as isize - 2, w)];
            }
        }
        sum
    })
}

/// Zeros between the pixels of a line that goes on with its second pixel before the first and its
/// last after the last; then twice the binomial.
fn up_weights(n: usize, at: usize) -> Vec<(usize, f64)> {
    let mut terms = Vec::new();
    for (k, weight) in BINOMIAL.iter().enumerate() {
        let place = (at + k) as isize - 2;
        if place % 2 == 0 {
            let from = match place / 2 {
                -1 => 1.min(n - 1),
                i => (i as usize).min(n - 1),
            };
            terms.push((from, 2. * weight));
        }
    }
    terms
}

pub fn pyr_up(x: &Tensor, height: usize, width: usize) -> Tensor {
    let (_, h, w) = pictures(x);
    each(x, (height, width), |picture, y, x| {
        let mut sum = 0.;
        for (y, b) in up_weights(h, y) {
            for (x, a) in up_weights(w, x) {
                sum += a * b * picture[y * w + x];
            }
        }
        sum
    })
}

pub fn merge_details(v: &Tensor, i: &Tensor, control: &Tensor, sharpness: f64) -> Tensor {
    let (b, _, h, w) = v.dims4().unwrap();
    let (v, i, control) = (values(v), values(i), values(control));
    let noise = 25. * (0.5f64 / 255.).powi(2);
    let mut out = Vec::new();
    for at in 0..b * h * w {
        let (image, y, x) = (at / (h * w), at / w % h, at % w);
        let (mut vv, mut ii, mut vi) = (0., 0., 0.);
        for y in y.saturating_sub(2)..(y + 3).min(h) {
            for x in x.saturating_sub(2)..(x + 3).min(w) {
                let at = (image * h + y) * w + x;
                vv += v[at] * v[at];
                ii += i[at] * i[at];
                vi += v[at] * i[at];
            }
        }
        let p = control[(2 * image * h + y) * w + x];
        let q = control[((2 * image + 1) * h + y) * w + x];
        let matched = (2. * vi + noise) / (vv + ii + noise);
        let logit = p + sharpness * ((ii + noise) / (vv + noise)).ln();
        let share = 1. / (1. + (-logit).exp());
        let gain = 1. + 0.5 * (1. - matched) * q.tanh();
        out.push(gain * (v[at] + share * (i[at] - v[at])));
    }
    tensor(&out, &[b, 1, h, w], DType::F64)
}
