//! Every gradient against finite differences in f64, and f32 against f64.

use crate::oracle::{Case, cases, max_pool_gradient, to_f32};
use candle_core::{DType, Tensor, Var};
use isfm_ops::Epilogue;
use isfm_testing::{Differences, assert_close, gradients, random, tensor, values};

pub(crate) fn check(case: &Case) {
    let how = Differences::default();
    isfm_testing::check_gradients(&case.name, &case.inputs, how, &*case.op);
}

#[test]
fn finite_differences_small() {
    for (b, h, w, c, d) in [(1, 1, 1, 1, 1), (2, 2, 3, 3, 2), (1, 4, 4, 1, 3), (1, 3, 4, 5, 1)] {
        cases(b, h, w, c, d).iter().for_each(check);
    }
}

/// Along random directions: many rows (several partial sums), many channels, several tiles.
#[test]
fn finite_differences_large() {
    let sizes = [(2, 21, 23, 19, 7), (1, 5, 210, 4, 70), (3, 7, 6, 70, 130), (1, 40, 9, 33, 1)];
    for (b, h, w, c, d) in sizes {
        cases(b, h, w, c, d).iter().for_each(check);
    }
}

#[test]
fn f32_gradients_agree_with_f64() {
    for (b, h, w, c, d) in [(2, 17, 19, 37, 21), (1, 33, 30, 64, 1), (1, 24, 40, 1, 64)] {
        for case in cases(b, h, w, c, d) {
            let narrow: Vec<Tensor> = case.inputs.iter().map(to_f32).collect();
            let wide: Vec<Tensor> =
                narrow.iter().map(|t| t.to_dtype(DType::F64).unwrap()).collect();
            let got = gradients(&narrow, &*case.op);
            for (got, want) in got.iter().zip(gradients(&wide, &*case.op)) {
                // Sums of up to 960 terms of about 1, with a rounding error of 6e-8 each.
                assert_close(got, &want, 3e-6, &case.name);
            }
        }
    }
}

/// Ties go to the first place, NaN to the last one, −∞ everywhere to the first place.
#[test]
fn max_pool_ties_follow_pytorch() {
    let few = |seed| ((random(&[2, 7, 6, 5], seed) * 1.5).unwrap().round().unwrap() * 1.).unwrap();
    let mut inputs = vec![few(1), few(2), few(3).zeros_like().unwrap()];
    let mut v = values(&few(4));
    v.iter_mut().step_by(7).for_each(|v| *v = f64::NAN);
    v.iter_mut().skip(1).step_by(11).for_each(|v| *v = f64::NEG_INFINITY);
    inputs.push(tensor(&v, &[2, 7, 6, 5], DType::F64));
    inputs.push((few(3).ones_like().unwrap() * f64::NEG_INFINITY).unwrap());
    for x in inputs {
        for k in [3, 5] {
            let r = random(x.dims(), 99);
            let loss = |x: &[Tensor]| (isfm_ops::max_pool2d(&x[0], k)? * to_f32(&r))?.sum_all();
            let got = gradients(&[to_f32(&x)], loss);
            assert_close(&got[0], &max_pool_gradient(&x, &r, k), 1e-6, "max pool");
        }
    }
}

/// Operations in a chain, with inputs that are views and tensors that are used twice: what the
/// network does.
#[test]
fn gradients_flow_through_chains() {
    let chain = |t: &[Tensor]| {
        let both = isfm_ops::linear(&t[0], &t[1], None, Epilogue::None)?;
        let (x, z) = (both.narrow(3, 0, 6)?, both.narrow(3, 6, 6)?);
        let x = isfm_ops::silu(&isfm_ops::depthwise_conv2d(&x, &t[2], None, Epilogue::None)?)?;
        let x = isfm_ops::silu_gate(&isfm_ops::layer_norm(&x, &t[3], &t[4], 1e-3)?, &z)?;
        let x = isfm_ops::conv2d(&x, &t[5], Some(&t[4]), Epilogue::None)?;
        let pooled = isfm_ops::max_pool2d(&x, 3)?;
        let x = isfm_ops::scale_add(&x, &t[3], &isfm_ops::avg_pool2d(&pooled, 5)?)?;
        isfm_ops::sigmoid_gate(
            &isfm_ops::resize_bilinear(&x, 7, 5)?,
            &pooled.narrow(1, 0, 1)?.broadcast_as((2, 7, 5, 6))?,
        )
    };
    let dims: [&[usize]; 6] = [&[2, 4, 5, 3], &[12, 3], &[6, 1, 3, 3], &[6], &[6], &[6, 6, 3, 3]];
    let inputs: Vec<_> = (50..).zip(dims).map(|(seed, d)| random(d, seed)).collect();
    isfm_testing::check_gradients("chain", &inputs, Differences::default(), chain);
}

/// Constants among the arguments change nothing in the others' gradients.
#[test]
fn constants_need_no_gradient() {
    for case in cases(1, 5, 6, 8, 4) {
        let r = random((case.op)(&case.inputs).unwrap().dims(), 99);
        let loss = |t: &[Tensor]| ((case.op)(t)? * &r)?.sum_all();
        for (i, want) in gradients(&case.inputs, loss).iter().enumerate() {
            let mut inputs = case.inputs.clone();
            let var = Var::from_tensor(&inputs[i]).unwrap();
            inputs[i] = var.as_tensor().clone();
            let grads = loss(&inputs).unwrap().backward().unwrap();
            assert_close(grads.get(&var).unwrap(), want, 0., &case.name);
            let layer = ["conv", "depthwise", "linear"].iter().any(|n| case.name.starts_with(n));
            // The costly gradient of an image, which nobody asked for, is not computed.
            assert!(i == 0 || !layer || grads.get(&inputs[0]).is_none(), "{}", case.name);
        }
    }
}
