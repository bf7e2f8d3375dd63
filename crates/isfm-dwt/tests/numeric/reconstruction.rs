//! What was taken apart comes back: any wavelet, border, shape and number of levels.

use candle_core::{DType, Tensor};
use isfm_dwt::{
    Border, Wavelet, WaveletPacket, dwt, idwt, iswt, iswt2, swt, swt2, wavedec, wavedec2, waverec,
    waverec2,
};
use isfm_testing::{difference, dot, random};
use proptest::prelude::*;

use crate::{MODES, any_layout, from_nchw};

fn wavelet() -> impl Strategy<Value = Wavelet> {
    let names: Vec<_> = Wavelet::names().collect();
    proptest::sample::select(names).prop_map(|name| Wavelet::named(&name).unwrap())
}

fn border() -> impl Strategy<Value = Border> {
    proptest::sample::select(MODES.map(|(_, border)| border).to_vec())
}

/// PyWavelets' taps are good for 4e-11 a level on signals of order 1 (`sym20`); the long bior3
/// filters make ten times more of what they are given.
const A_LEVEL: f64 = 1e-9;

/// `x` without what a reconstruction has too much.
fn cropped(x: &Tensor, like: &Tensor) -> Tensor {
    let mut x = x.clone();
    for (dim, &n) in like.dims().iter().enumerate() {
        assert!(x.dims()[dim] - n <= 1, "{:?}, {:?}", x.dims(), like.dims());
        x = x.narrow(dim, 0, n).unwrap();
    }
    x
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn of_signals(
        (outer, n, inner) in (1usize..4, 1usize..60, prop_oneof![1usize..5, 60usize..70]),
        levels in 0usize..4, wavelet in wavelet(), border in border(), seed in 0u64..1000,
    ) {
        let x = random(&[outer, n, inner], seed);
        let levels_of_x = wavedec(&x, &wavelet, border, 1, levels).unwrap();
        let back = waverec(&levels_of_x, &wavelet, border, 1).unwrap();
        let d = difference(&cropped(&back, &x), &x);
        prop_assert!(d < A_LEVEL * levels as f64 + 1e-30, "{} {border:?} {d}", wavelet.name());
    }

    #[test]
    fn of_maps(
        (b, c, h, w) in (1usize..3, 1usize..5, 1usize..25, 1usize..40),
        levels in 0usize..3, layout in any_layout(), wavelet in wavelet(), border in border(),
        seed in 0u64..1000,
    ) {
        let x = from_nchw(&random(&[b, c, h, w], seed), layout);
        let levels_of_x = wavedec2(&x, &wavelet, border, layout, levels).unwrap();
        let back = waverec2(&levels_of_x, &wavelet, border, layout).unwrap();
        let d = difference(&cropped(&back, &x), &x);
        prop_assert!(d < 2. * A_LEVEL * levels as f64 + 1e-30, "{} {border:?} {d}", wavelet.name());
    }

    #[test]
    fn of_stationary_transforms(
        (b, c, h, w) in (1usize..3, 1usize..4, 1usize..5, 1usize..7),
        levels in 0usize..4, layout in any_layout(), wavelet in wavelet(), seed in 0u64..1000,
    ) {
        let x = from_nchw(&random(&[b, c, h << levels, w << levels], seed), layout);
        let back = iswt2(&swt2(&x, &wavelet, layout, levels).unwrap(), &wavelet, layout).unwrap();
        let d = difference(&back, &x);
        prop_assert!(d < 2. * A_LEVEL * levels as f64 + 1e-30, "{} {d}", wavelet.name());
        let line = x.flatten_all().unwrap();
        let back = iswt(&swt(&line, &wavelet, 0, levels).unwrap(), &wavelet, 0).unwrap();
        let d = difference(&back, &line);
        prop_assert!(d < A_LEVEL * levels as f64 + 1e-30, "{} {d}", wavelet.name());
    }

    /// Along any tree: at each step a leaf, whichever `turns` picks, is split.
    #[test]
    fn of_packets(
        n in 2usize..40, turns in proptest::collection::vec(0usize..100, 0..6),
        wavelet in wavelet(), border in border(), layout in any_layout(), seed in 0u64..1000,
    ) {
        let grow = |tree: &mut WaveletPacket| {
            for turn in &turns {
                let paths: Vec<_> = tree.leaves().map(|(p, _)| p.to_string()).collect();
                tree.split(&paths[turn % paths.len()]).unwrap();
            }
        };
        let x = random(&[n], seed);
        let mut tree = WaveletPacket::new(&x, &wavelet, border, 0).unwrap();
        grow(&mut tree);
        prop_assert_eq!(tree.leaves().count(), 1 + turns.len());
        let d = difference(&tree.reconstruct().unwrap(), &x);
        prop_assert!(d < 6. * A_LEVEL, "{} {border:?} {d}", wavelet.name());

        let x = from_nchw(&random(&[1, 2, n, 7], seed), layout);
        let mut tree = WaveletPacket::new2(&x, &wavelet, border, layout).unwrap();
        grow(&mut tree);
        prop_assert_eq!(tree.leaves().count(), 1 + 3 * turns.len());
        let d = difference(&tree.reconstruct().unwrap(), &x);
        prop_assert!(d < 12. * A_LEVEL, "{} {border:?} {d}", wavelet.name());
    }

    /// An orthogonal wavelet with `Periodization` is an orthogonal matrix on even lengths, and so is
    /// the normalised stationary transform a tight frame.
    #[test]
    fn energy_stays(n in 1usize..40, name in "db(1|4|11|20)|sym(5|8)|coif[1-5]", seed in 0u64..1000) {
        let wavelet = Wavelet::named(&name).unwrap();
        let x = random(&[4 * n], seed);
        let energy = |parts: &[Tensor]| parts.iter().map(|c| dot(c, c)).sum::<f64>();
        let decimated = wavedec(&x, &wavelet, Border::Periodization, 0, 2).unwrap();
        prop_assert!((energy(&decimated) - dot(&x, &x)).abs() < 1e-9 * dot(&x, &x));
        let stationary = swt(&x, &wavelet.rescaled(0.5f64.sqrt()), 0, 2).unwrap();
        prop_assert!((energy(&stationary) - dot(&x, &x)).abs() < 1e-9 * dot(&x, &x));
    }
}

/// Half precision comes back as well as its 11 bits allow: values are below 1, their roundings
/// below 5e-4, and a reconstruction adds up some of them.
#[test]
fn in_half_precision() {
    let x = random(&[3, 300], 1).to_dtype(DType::F16).unwrap();
    for (_, border) in MODES {
        let wavelet = Wavelet::named("sym4").unwrap();
        let (a, d) = dwt(&x, &wavelet, border, 1).unwrap();
        let back = idwt(&a, &d, &wavelet, border, 1).unwrap();
        assert_eq!(back.dtype(), DType::F16);
        assert!(difference(&back, &x) < 2e-3);
    }
}
