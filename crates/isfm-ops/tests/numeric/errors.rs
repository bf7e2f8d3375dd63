//! What a caller can get wrong: a clear error or an empty result, never a panic.

use candle_core::{DType, Device, Result, Tensor, Var};
use isfm_ops::Epilogue;
use isfm_testing::refused;

fn zeros(dims: &[usize]) -> Tensor {
    Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap()
}

#[test]
fn wrong_shapes_are_named() {
    let x = zeros(&[1, 4, 5, 3]);
    let conv = |x: &Tensor, w: &[usize]| isfm_ops::conv2d(x, &zeros(w), None, Epilogue::None);
    refused(conv(&zeros(&[4, 5, 3]), &[2, 3, 3, 3]), &["conv2d", "[4, 5, 3]", "batch, height"]);
    refused(conv(&x, &[2, 4, 3, 3]), &["conv2d", "weight", "[2, 4, 3, 3]", "[outputs, 3, k, k]"]);
    refused(conv(&x, &[2, 3, 3, 5]), &["weight", "[2, 3, 3, 5]"]);
    refused(conv(&x, &[2, 3, 2, 2]), &["window", "2", "odd"]);
    refused(conv(&x, &[2, 3, 0, 0]), &["window", "0", "odd"]);
    refused(
        isfm_ops::conv2d(&x, &zeros(&[2, 3, 3, 3]), Some(&zeros(&[3])), Epilogue::None),
        &["bias", "[3]", "[2]"],
    );
    refused(
        isfm_ops::conv2d(&zeros(&[1, 2, 2, 0]), &zeros(&[2, 0, 3, 3]), None, Epilogue::None),
        &["channel"],
    );

    let depthwise = |w: &[usize]| isfm_ops::depthwise_conv2d(&x, &zeros(w), None, Epilogue::None);
    refused(depthwise(&[4, 1, 3, 3]), &["depthwise_conv2d", "[4, 1, 3, 3]", "[3, 1, k, k]"]);
    refused(depthwise(&[3, 3, 3, 3]), &["weight"]);
    refused(depthwise(&[3, 1, 4, 4]), &["window", "4", "odd"]);
    refused(depthwise(&[3, 1, 0, 0]), &["window", "0"]);
    let bias = zeros(&[1]);
    refused(
        isfm_ops::depthwise_conv2d(&x, &zeros(&[3, 1, 3, 3]), Some(&bias), Epilogue::None),
        &["bias"],
    );

    refused(
        isfm_ops::linear(&x, &zeros(&[2, 4]), None, Epilogue::None),
        &["linear", "[2, 4]", "[outputs, 3]"],
    );
    refused(
        isfm_ops::linear(&x, &zeros(&[2, 3]), Some(&zeros(&[3])), Epilogue::None),
        &["bias", "[3]", "[2]"],
    );
    refused(
        isfm_ops::linear(&zeros(&[]), &zeros(&[2, 3]), None, Epilogue::None),
        &["x", "[]", "axis"],
    );
    refused(
        isfm_ops::linear(&zeros(&[4, 0]), &zeros(&[2, 0]), None, Epilogue::None),
        &["at least one"],
    );

    for k in [0, 2, 4] {
        refused(isfm_ops::avg_pool2d(&x, k), &["avg_pool2d", "window", "odd"]);
        refused(isfm_ops::max_pool2d(&x, k), &["max_pool2d", "window", "odd"]);
    }
    refused(isfm_ops::max_pool2d(&zeros(&[3]), 3), &["max_pool2d", "[3]"]);

    let norm = |w, b| isfm_ops::layer_norm(&x, &zeros(&[w]), &zeros(&[b]), 1e-5);
    refused(norm(4, 3), &["layer_norm", "weight", "[4]", "[3]"]);
    refused(norm(3, 4), &["bias", "[4]", "[3]"]);
    let rms = |w| isfm_ops::rms_norm(&x, &zeros(&[w]), 1e-5);
    refused(rms(4), &["rms_norm", "weight", "[4]", "[3]"]);

    let line = zeros(&[2, 5, 3]);
    let causal = |x: &Tensor, w: &[usize]| isfm_ops::causal_conv1d(x, &zeros(w), None, None);
    refused(causal(&x, &[3, 1, 4]), &["causal_conv1d", "[1, 4, 5, 3]", "batch, length"]);
    refused(causal(&line, &[4, 1, 4]), &["weight", "[4, 1, 4]", "[3, 1, K]"]);
    refused(causal(&line, &[3, 4]), &["weight", "[3, 4]"]);
    refused(causal(&line, &[3, 1, 0]), &["K at least 1"]);
    let weight = zeros(&[3, 1, 4]);
    let few = zeros(&[2]);
    refused(isfm_ops::causal_conv1d(&line, &weight, Some(&few), None), &["bias", "[2]", "[3]"]);
    let long = zeros(&[2, 4, 3]);
    refused(isfm_ops::causal_conv1d(&line, &weight, None, Some(&long)), &["before", "[2, 3, 3]"]);
    let wide = zeros(&[2, 3, 3]).to_dtype(DType::F64).unwrap();
    refused(isfm_ops::causal_conv1d(&line, &weight, None, Some(&wide)), &["before", "F64"]);

    let none = zeros(&[0]);
    refused(isfm_ops::rms_norm(&zeros(&[2, 0]), &none, 1e-5), &["at least one"]);
    refused(isfm_ops::layer_norm(&zeros(&[2, 0]), &none, &none, 1e-5), &["at least one"]);

    refused(isfm_ops::resize_bilinear(&zeros(&[2, 2]), 1, 1), &["resize_bilinear", "[2, 2]"]);
    refused(isfm_ops::resize_bilinear(&zeros(&[1, 0, 2, 1]), 2, 2), &["at least one pixel"]);
    for size in [usize::MAX, usize::MAX / 4, 1 << 62] {
        refused(isfm_ops::resize_bilinear(&x, size, 1), &["result", "addressed"]);
        refused(isfm_ops::resize_bilinear(&x, 1, size), &["result", "addressed"]);
    }

    refused(isfm_ops::silu_gate(&x, &zeros(&[4, 5, 3])), &["silu_gate", "z", "[4, 5, 3]"]);
    refused(isfm_ops::sigmoid_gate(&x, &zeros(&[1])), &["sigmoid_gate", "z"]);
    refused(isfm_ops::scale_add(&x, &zeros(&[2]), &x), &["scale_add", "scale", "[2]", "[3]"]);
    refused(isfm_ops::scale_add(&x, &zeros(&[3]), &zeros(&[3])), &["scale_add", "y"]);
    refused(isfm_ops::scale_add(&x, &zeros(&[9, 3]), &x), &["scale_add", "scale", "[9, 3]"]);
    refused(isfm_ops::softmax_last_dim(&zeros(&[])), &["softmax_last_dim", "axis"]);
    let add = |map: &[usize]| {
        let (map, weight) = (zeros(map), zeros(&[2, 3, 3, 3]));
        isfm_ops::conv2d(&x, &weight, None, Epilogue::Add(&map))
    };
    refused(add(&[1, 4, 5, 3]), &["conv2d", "the map added", "[1, 4, 5, 3]", "[1, 4, 5, 2]"]);
    refused(isfm_ops::weighted_sum(&x, 1., &zeros(&[3]), 1.), &["weighted_sum", "y", "[3]"]);
    refused(isfm_ops::scale_add(&zeros(&[]), &zeros(&[1]), &zeros(&[])), &["axis"]);
    let step = isfm_ops::AdamStep {
        gain: 1.,
        mean_rest: 0.1,
        square_keep: 0.999,
        square_rest: 0.001,
        keep: 1.,
        rate: 0.1,
        root: 1.,
        eps: 1e-8,
    };
    let adam = |gradient: &[usize], moments: &[usize]| {
        isfm_ops::adam_step(&x, &zeros(gradient), &zeros(moments), step)
    };
    refused(adam(&[3], &[2, 60]), &["adam_step", "gradient", "[3]", "[1, 4, 5, 3]"]);
    refused(adam(&[1, 4, 5, 3], &[3, 60]), &["adam_step", "moments", "[3, 60]", "[2, 60]"]);

    refused(isfm_ops::pyr_down(&zeros(&[3])), &["pyr_down", "[3]", "[…, height, width]"]);
    refused(isfm_ops::pyr_up(&zeros(&[]), 1, 1), &["pyr_up", "x", "[]", "[…, height, width]"]);
    for (height, width) in [(6usize, 9usize), (8, 5), (9, 7), (0, 0), (usize::MAX, 5)] {
        let (h, w) = (height.div_ceil(2), width.div_ceil(2));
        let needed = format!("[…, {h}, {w}] for a result of {height}x{width}");
        refused(isfm_ops::pyr_up(&x, height, width), &["pyr_up", "[1, 4, 5, 3]", &needed]);
    }
    let merge = |v: &[usize], i: &[usize], control: &[usize], sharpness| {
        isfm_ops::merge_details(&zeros(v), &zeros(i), &zeros(control), sharpness)
    };
    let (picture, control): (&[usize], &[usize]) = (&[2, 1, 4, 5], &[2, 2, 4, 5]);
    assert_eq!(merge(picture, picture, control, 1.).unwrap().dims(), picture);
    let three: &[usize] = &[2, 3, 4, 5];
    refused(
        merge(three, three, control, 1.),
        &["merge_details", "visible", "[2, 3, 4, 5]", "[batch, 1, height, width]"],
    );
    refused(merge(&[4, 5], &[4, 5], control, 1.), &["visible", "[4, 5]"]);
    refused(merge(picture, &[2, 1, 5, 4], control, 1.), &["infrared", "[2, 1, 5, 4]"]);
    refused(merge(picture, picture, picture, 1.), &["control", "[2, 1, 4, 5]", "[2, 2, 4, 5]"]);
    for sharpness in [f64::NAN, f64::INFINITY] {
        refused(merge(picture, picture, control, sharpness), &["sharpness", "finite"]);
    }
}

#[test]
fn wrong_types_are_named() {
    let x = zeros(&[1, 2, 2, 3]);
    let whole = x.to_dtype(DType::U32).unwrap();
    refused(isfm_ops::silu(&whole), &["silu", "U32", "F32 or F64"]);
    refused(isfm_ops::avg_pool2d(&whole, 3), &["avg_pool2d", "U32"]);
    refused(isfm_ops::softmax_last_dim(&whole), &["softmax_last_dim", "U32"]);
    let wide = zeros(&[2, 3]).to_dtype(DType::F64).unwrap();
    refused(isfm_ops::linear(&x, &wide, None, Epilogue::None), &["weight", "F64", "F32"]);
    refused(isfm_ops::pyr_down(&whole), &["pyr_down", "U32"]);
    refused(isfm_ops::pyr_up(&whole, 4, 6), &["pyr_up", "U32"]);
    let (v, control) = (zeros(&[1, 1, 2, 3]), zeros(&[1, 2, 2, 3]));
    let wide = control.to_dtype(DType::F64).unwrap();
    refused(isfm_ops::merge_details(&v, &v, &wide, 1.), &["control", "F64", "F32"]);
}

/// A zero batch, height, width or number of channels.
#[test]
fn empty_inputs_give_empty_results() {
    let (h, w, c) = (3, 4, 5);
    for dims in [[0, h, w, c], [2, 0, w, c], [2, h, 0, c], [2, h, w, 0], [0, 0, 0, 0]] {
        let x = Var::from_tensor(&zeros(&dims)).unwrap();
        let c = dims[3];
        let same = |t: Result<Tensor>| assert_eq!(t.unwrap().dims(), dims);
        same(isfm_ops::depthwise_conv2d(
            &x,
            &zeros(&[c, 1, 3, 3]),
            Some(&zeros(&[c])),
            Epilogue::None,
        ));
        same(isfm_ops::avg_pool2d(&x, 3));
        same(isfm_ops::max_pool2d(&x, 3));
        same(isfm_ops::silu(&x));
        same(isfm_ops::softmax_last_dim(&x));
        same(isfm_ops::silu_gate(&x, &x));
        same(isfm_ops::sigmoid_gate(&x, &x));
        same(isfm_ops::scale_add(&x, &zeros(&[c]), &x));
        let line = x.reshape((dims[0], dims[1] * dims[2], c)).unwrap();
        let result = isfm_ops::causal_conv1d(&line, &zeros(&[c, 1, 4]), Some(&zeros(&[c])), None);
        assert_eq!(result.unwrap().dims(), line.dims());
        if c > 0 {
            same(isfm_ops::rms_norm(&x, &zeros(&[c]), 1e-5));
            let to = [dims[0], dims[1], dims[2], 2];
            let got =
                isfm_ops::conv2d(&x, &zeros(&[2, c, 3, 3]), Some(&zeros(&[2])), Epilogue::None)
                    .unwrap();
            assert_eq!(got.dims(), to);
            assert_eq!(
                isfm_ops::conv2d(&x, &zeros(&[2, c, 1, 1]), None, Epilogue::None).unwrap().dims(),
                to
            );
            assert_eq!(
                isfm_ops::linear(&x, &zeros(&[2, c]), None, Epilogue::None).unwrap().dims(),
                to
            );
            same(isfm_ops::layer_norm(&x, &zeros(&[c]), &zeros(&[c]), 1e-5));
        }
        let half = [dims[0], dims[1], dims[2].div_ceil(2), dims[3].div_ceil(2)];
        let down = isfm_ops::pyr_down(&x).unwrap();
        assert_eq!(down.dims(), half);
        same(isfm_ops::pyr_up(&down, dims[2], dims[3]));
        let (b, h, w) = (dims[0], dims[1], dims[2] * dims[3]);
        let picture = zeros(&[b, 1, h, w]);
        let merged = isfm_ops::merge_details(&picture, &picture, &zeros(&[b, 2, h, w]), 1.);
        assert_eq!(merged.unwrap().dims(), picture.dims());
        let resized = isfm_ops::resize_bilinear(&x, 0, 7).unwrap();
        assert_eq!(resized.dims(), [dims[0], 0, 7, c]);
    }
    let x = zeros(&[1, 3, 3, 2]);
    assert_eq!(
        isfm_ops::conv2d(&x, &zeros(&[0, 2, 3, 3]), None, Epilogue::None).unwrap().dims(),
        [1, 3, 3, 0]
    );
    assert_eq!(
        isfm_ops::linear(&x, &zeros(&[0, 2]), None, Epilogue::None).unwrap().dims(),
        [1, 3, 3, 0]
    );
    assert_eq!(isfm_ops::silu(&zeros(&[])).unwrap().rank(), 0);
}
