//! Values and gradients of the losses: against the released program's numbers, against ordinary
//! Candle operations, and against finite differences.

use std::slice::from_ref;

use candle_core::{DType, Device, Tensor, Var};
use isfm_losses::{
    Error, FusionLoss, LossWeights, Result, clamp_unit, content_loss, fusion_loss, gradient_loss,
    intensity_loss, plain, scd_loss, ssim_loss, vif_loss,
};
use isfm_testing::{
    Differences, Numbers, bits, check_gradients, golden, relative, same_on_any_threads, values,
};
use proptest::prelude::*;

type Loss = fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>;
type Plain = fn(&Tensor, &Tensor, &Tensor) -> candle_core::Result<Tensor>;

const LOSSES: [(&str, Loss, Plain); 6] = [
    ("content", content_loss, plain::content_loss),
    ("intensity", intensity_loss, plain::intensity_loss),
    ("gradient", gradient_loss, plain::gradient_loss),
    ("ssim", ssim_loss, plain::ssim_loss),
    ("scd", scd_loss, plain::scd_loss),
    ("vif", vif_loss, plain::vif_loss),
];

/// Numbers in [0, 1).
fn image(seed: u64, shape: (usize, usize, usize, usize)) -> Tensor {
    let numbers = Numbers(seed).vec(shape.0 * shape.1 * shape.2 * shape.3, 0., 1.);
    Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
}

fn triple(seed: u64, shape: (usize, usize, usize, usize)) -> [Tensor; 3] {
    [1, 2, 3].map(|k| image(3 * seed + k, shape))
}

fn scalar(t: &Tensor) -> f64 {
    assert_eq!(t.dims(), [0usize; 0]);
    t.to_dtype(DType::F64).unwrap().to_scalar().unwrap()
}

fn terms(loss: &FusionLoss) -> [(&'static str, &Tensor); 5] {
    [
        ("content", &loss.content),
        ("intensity", &loss.intensity),
        ("gradient", &loss.gradient),
        ("ssim", &loss.ssim),
        ("total", &loss.total),
    ]
}

fn slope(loss: &Tensor, fused: &Var) -> Tensor {
    loss.backward().unwrap().get(fused).expect("no gradient for the fused image").clone()
}

/// The tolerances are what two f32 programs that sum in different orders reach, with some room.
#[test]
fn the_released_programs_numbers() {
    let golden = golden!("losses.safetensors");
    for (dtype, case) in
        [DType::F32, DType::F64].into_iter().flat_map(|d| (0..3).map(move |c| (d, c)))
    {
        let get = |name: &str| golden[&*format!("case{case}.{name}")].to_dtype(dtype).unwrap();
        let fused = Var::from_tensor(&get("fused")).unwrap();
        let weights = LossWeights::default();
        let loss = fusion_loss(&fused, &get("vi"), &get("ir"), &weights).unwrap();
        for (name, got) in terms(&loss) {
            let error = relative(&got.reshape(1).unwrap(), &get(name));
            assert!(error < 1e-6, "{dtype:?} case {case} {name}: {error:e}");
        }
        let error = relative(&slope(&loss.total, &fused), &get("grad_total_wrt_fused"));
        eprintln!("{dtype:?} case {case}: gradient differs by {error:.1e}");
        assert!(error < 1e-5, "{dtype:?} case {case} gradient: {error:e}");
    }
}

#[test]
fn finite_differences() {
    // A step of 1e-6 leaves about 1e-9 of rounding and 1e-10 of curvature.
    let how = Differences { step: 1e-6, tolerance: 3e-8, one_by_one: usize::MAX };
    for shape in [(1, 1, 1, 1), (2, 1, 5, 7), (1, 1, 1, 9), (1, 1, 13, 2)] {
        let [fused, visible, infrared] = triple(7, shape);
        for (name, loss, _) in LOSSES {
            let of_fused = |x: &[Tensor]| Ok(loss(&x[0], &visible, &infrared)?);
            check_gradients(&format!("{name} {shape:?}"), from_ref(&fused), how, of_fused);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(32) })]

    /// f64 against f64: only the order of the sums differs.
    #[test]
    fn the_same_as_ordinary_operations(b in 1usize..4, h in 1usize..20, w in 1usize..20, seed in 0u64..1000) {
        let [fused, visible, infrared] = triple(seed, (b, 1, h, w));
        let fused = Var::from_tensor(&fused).unwrap();
        for (name, loss, plain) in LOSSES {
            let ours = loss(&fused, &visible, &infrared).unwrap();
            let theirs = plain(&fused, &visible, &infrared).unwrap();
            prop_assert!((scalar(&ours) - scalar(&theirs)).abs() < 1e-12, "{}", name);
            let error = relative(&slope(&ours, &fused), &slope(&theirs, &fused));
            prop_assert!(error < 1e-10, "{} {:e}", name, error);
        }
    }
}

#[test]
fn slope_zero_where_the_fused_image_meets_a_source() {
    let same = Var::from_tensor(&image(5, (1, 1, 6, 6))).unwrap();
    let constant = same.as_detached_tensor();
    // SCD asks for a difference that is like the other source, VIF for more contrast: they have a
    // slope here.
    for (name, loss, plain) in LOSSES.into_iter().filter(|l| !["scd", "vif"].contains(&l.0)) {
        let ours = loss(&same, &constant, &constant).unwrap();
        assert!(scalar(&ours).abs() < 1e-15, "{name}");
        assert!(values(&slope(&ours, &same)).iter().all(|g| g.abs() < 1e-15), "{name}");
        let theirs = plain(&same, &constant, &constant).unwrap();
        assert!(values(&slope(&theirs, &same)).iter().all(|g| g.abs() < 1e-15), "{name}");
    }
}

#[test]
fn the_visible_edge_wins_a_tie() {
    let visible = image(1, (1, 1, 4, 4));
    let infrared = visible.neg().unwrap();
    assert_eq!(scalar(&gradient_loss(&visible, &visible, &infrared).unwrap()), 0.);
    assert!(scalar(&gradient_loss(&infrared, &visible, &infrared).unwrap()) > 0.);
}

#[test]
fn weights_and_upstream_gradients_scale() {
    let [fused, visible, infrared] = triple(4, (2, 1, 9, 8));
    let fused = Var::from_tensor(&fused).unwrap();
    let weights = LossWeights {
        content: 0.,
        intensity: 0.,
        gradient: 0.,
        ssim: 3.,
        ..LossWeights::default()
    };
    let loss = fusion_loss(&fused, &visible, &infrared, &weights).unwrap();
    assert!((scalar(&loss.total) - 3. * scalar(&loss.ssim)).abs() < 1e-14);
    let alone = ssim_loss(&fused, &visible, &infrared).unwrap();
    let tripled = (slope(&alone, &fused) * 3.).unwrap();
    assert!(relative(&slope(&loss.total, &fused), &tripled) < 1e-14);
    assert_eq!(scalar(&alone), scalar(&loss.ssim));
}

#[test]
fn scd_is_left_out_unless_it_counts() {
    let [fused, visible, infrared] = triple(4, (2, 1, 9, 8));
    let fused = Var::from_tensor(&fused).unwrap();
    let without = fusion_loss(&fused, &visible, &infrared, &LossWeights::default()).unwrap();
    assert!(without.scd.is_none());
    let weights = LossWeights { scd: 2., ..LossWeights::default() };
    let with = fusion_loss(&fused, &visible, &infrared, &weights).unwrap();
    let scd = scalar(&with.scd.unwrap());
    assert!((scalar(&with.total) - scalar(&without.total) - 2. * scd).abs() < 1e-14);
}

/// The sum of the sources is the best there is; constant pictures have a value and no slope.
#[test]
fn scd_at_its_ends() {
    let [_, visible, infrared] = triple(6, (1, 1, 16, 16));
    let best = scd_loss(&(&visible + &infrared).unwrap(), &visible, &infrared).unwrap();
    // ε / variance = 1e-5 / 0.083 of the correlation is lost.
    assert!((0. ..2e-4).contains(&scalar(&best)), "{best}");
    let flat = Tensor::full(0.5, (1, 1, 16, 16), &Device::Cpu).unwrap();
    let fused = Var::from_tensor(&visible).unwrap();
    let loss = scd_loss(&fused, &flat, &flat).unwrap();
    assert!((scalar(&loss) - 1.).abs() < 1e-12);
    assert!(values(&slope(&loss, &fused)).iter().all(|g| g.abs() < 1e-15));
    // Not 0 where only the difference is constant, but finite.
    let fused = Var::from_tensor(&visible).unwrap();
    let loss = scd_loss(&fused, &visible, &infrared).unwrap();
    assert!(values(&slope(&loss, &fused)).iter().all(|g| g.is_finite()));
}

#[test]
fn gradients_reach_what_the_fused_image_was_made_of() {
    // A transposed view is not contiguous; its gradient must come back in the leaf's layout.
    let [leaf, visible, infrared] = triple(9, (1, 1, 5, 8));
    let leaf = Var::from_tensor(&leaf.transpose(2, 3).unwrap().contiguous().unwrap()).unwrap();
    let fused = leaf.transpose(2, 3).unwrap();
    for (name, loss, plain) in LOSSES {
        let ours = slope(&loss(&fused, &visible, &infrared).unwrap(), &leaf);
        let copy = fused.contiguous().unwrap();
        let theirs = slope(&plain(&copy, &visible, &infrared).unwrap(), &leaf);
        assert!(relative(&ours, &theirs) < 1e-10, "{name}");
    }
}

#[test]
fn views_of_larger_tensors() {
    let [fused, visible, infrared] = triple(2, (3, 1, 6, 7));
    let whole = Tensor::cat(&[&fused, &visible, &infrared], 1).unwrap();
    let [f, v, i] = [0, 1, 2].map(|c| whole.narrow(1, c, 1).unwrap());
    for (name, loss, _) in LOSSES {
        let (a, b) = (loss(&f, &v, &i).unwrap(), loss(&fused, &visible, &infrared).unwrap());
        assert_eq!(scalar(&a), scalar(&b), "{name}");
    }
}

#[test]
fn the_same_bits_for_any_number_of_threads() {
    let [fused, visible, infrared] =
        triple(8, (5, 1, 19, 23)).map(|t| t.to_dtype(DType::F32).unwrap());
    same_on_any_threads("all losses", || {
        let fused = Var::from_tensor(&fused).unwrap();
        let loss = fusion_loss(&fused, &visible, &infrared, &LossWeights::default()).unwrap();
        (terms(&loss).map(|(_, t)| bits(t)), bits(&slope(&loss.total, &fused)))
    });
}

#[test]
fn nan_in_nan_out() {
    let shape = (2, 1, 4, 5);
    for which in 0..3 {
        let mut images = triple(3, shape);
        let mut data = values(&images[which]);
        data[7] = f64::NAN;
        images[which] = Tensor::from_vec(data, shape, &Device::Cpu).unwrap();
        let fused = Var::from_tensor(&images[0]).unwrap();
        for (name, loss, plain) in LOSSES {
            let ours = loss(&fused, &images[1], &images[2]).unwrap();
            assert!(scalar(&ours).is_nan(), "{name} {which}");
            assert!(values(&slope(&ours, &fused)).iter().any(|g| g.is_nan()), "{name} {which}");
            let theirs = plain(&fused, &images[1], &images[2]).unwrap();
            assert!(scalar(&theirs).is_nan(), "plain {name} {which}");
        }
    }
    for (_, loss, _) in LOSSES {
        let huge = Tensor::full(1e300f64, shape, &Device::Cpu).unwrap();
        let [_, visible, infrared] = triple(3, shape);
        loss(&huge, &visible, &infrared).unwrap();
    }
}

#[test]
fn images_that_do_not_fit() {
    let cpu = Device::Cpu;
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &cpu).unwrap();
    let good = zeros(&[1, 1, 4, 6], DType::F32);
    for (name, loss, _) in LOSSES {
        let other = zeros(&[1, 1, 6, 4], DType::F32);
        let error = loss(&good, &good, &other).unwrap_err();
        assert!(matches!(error, Error::ShapeMismatch { .. }), "{name}");
        let text = error.to_string();
        assert!(text.contains("fused is [1, 1, 4, 6], visible [1, 1, 4, 6]"), "{text}");
        assert!(text.contains("infrared [1, 1, 6, 4]"), "{text}");

        for shape in [&[4, 6][..], &[1, 3, 4, 6], &[0, 1, 4, 6], &[1, 1, 0, 6], &[1, 1, 4, 0]] {
            let t = zeros(shape, DType::F32);
            assert!(matches!(loss(&t, &t, &t), Err(Error::Shape { .. })), "{name} {shape:?}");
        }
        let double = zeros(&[1, 1, 4, 6], DType::F64);
        assert!(matches!(loss(&good, &double, &good), Err(Error::DType { .. })), "{name}");
        let half = zeros(&[1, 1, 4, 6], DType::F16);
        assert!(matches!(loss(&half, &half, &half), Err(Error::DType { .. })), "{name}");
    }
}

#[test]
fn clamp_has_pytorchs_gradient() {
    for dtype in [DType::F32, DType::F64] {
        let x = [-0.5, -0.0, 0., 0.25, 1., 1.5, f64::INFINITY, f64::NEG_INFINITY];
        let x = Var::from_tensor(&Tensor::new(&x, &Device::Cpu).unwrap().to_dtype(dtype).unwrap());
        let x = x.unwrap();
        let y = clamp_unit(&x).unwrap();
        assert_eq!(values(&y), [0., 0., 0., 0.25, 1., 1., 1., 0.]);
        let twice = (y * 2.).unwrap().sum_all().unwrap();
        assert_eq!(values(&slope(&twice, &x)), [0., 2., 2., 2., 2., 0., 0., 0.]);
    }
    let nan = Tensor::new(&[f32::NAN, 2.], &Device::Cpu).unwrap();
    let clamped = values(&clamp_unit(&nan).unwrap());
    assert!(clamped[0].is_nan() && clamped[1] == 1.);

    // Not a leaf: the graph above the clamp must still be reached.
    let leaf = Var::new(&[0.2f32, 0.9], &Device::Cpu).unwrap();
    let y = clamp_unit(&(leaf.as_tensor() * 2.).unwrap()).unwrap().sum_all().unwrap();
    assert_eq!(values(&slope(&y, &leaf)), [2., 0.]);
}
