//! Laws that hold for any size.

use crate::gradients::check;
use crate::oracle::cases;
use candle_core::Tensor;
use isfm_testing::{assert_close, dot, gradients, random, values};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_size_agrees_with_the_oracle(
        b in 1usize..3, h in 1usize..8, w in 1usize..20, c in 1usize..36, d in 1usize..36,
        pick in any::<prop::sample::Index>(),
    ) {
        let all = cases(b, h, w, c, d);
        let case = &all[pick.index(all.len())];
        let got = (case.op)(&case.inputs).unwrap();
        assert_close(&got, &(case.oracle)(&case.inputs), 1e-12, &case.name);
    }

    #[test]
    fn any_gradient_agrees_with_differences(
        b in 1usize..3, h in 1usize..6, w in 1usize..9, c in 1usize..7, d in 1usize..7,
        pick in any::<prop::sample::Index>(),
    ) {
        let all = cases(b, h, w, c, d);
        check(&all[pick.index(all.len())]);
    }

    /// ⟨resize x, y⟩ = ⟨x, its gradient at y⟩, and a constant map stays constant.
    #[test]
    fn resize_is_linear_and_keeps_constants(
        h in 1usize..9, w in 1usize..9, to_h in 1usize..14, to_w in 1usize..14,
    ) {
        let (x, y) = (random(&[1, h, w, 2], 1), random(&[1, to_h, to_w, 2], 2));
        let forward = dot(&isfm_ops::resize_bilinear(&x, to_h, to_w).unwrap(), &y);
        let loss = |x: &[Tensor]| (isfm_ops::resize_bilinear(&x[0], to_h, to_w)? * &y)?.sum_all();
        prop_assert!((forward - dot(&x, &gradients(std::slice::from_ref(&x), loss)[0])).abs() < 1e-10);
        let ones = x.ones_like().unwrap();
        let same = isfm_ops::resize_bilinear(&ones, to_h, to_w).unwrap();
        prop_assert!(values(&same).iter().all(|v| (v - 1.).abs() < 1e-12));
    }

    /// A pool's largest value is the map's, and no mean leaves the map's range with 0 added.
    #[test]
    fn pools_stay_in_range(h in 1usize..9, w in 1usize..9, half in 0usize..4) {
        let x = random(&[1, h, w, 3], 3);
        let max = |t: &Tensor| values(t).into_iter().fold(f64::NEG_INFINITY, f64::max);
        let k = 2 * half + 1;
        prop_assert_eq!(max(&isfm_ops::max_pool2d(&x, k).unwrap()), max(&x));
        prop_assert!(max(&isfm_ops::avg_pool2d(&x, k).unwrap()) <= max(&x).max(0.) + 1e-12);
    }

    /// Adding a constant to a row and scaling it leave a norm with eps 0 as it is.
    #[test]
    fn norm_ignores_offset_and_scale(c in 2usize..40, offset in -5f64..5., scale in 0.1f64..9.) {
        let x = random(&[3, c], 4);
        let (w, b) = (random(&[c], 5), random(&[c], 6));
        let moved = x.affine(scale, offset).unwrap();
        let got = isfm_ops::layer_norm(&moved, &w, &b, 0.).unwrap();
        assert_close(&got, &isfm_ops::layer_norm(&x, &w, &b, 0.).unwrap(), 1e-9, "norm");
    }
}
