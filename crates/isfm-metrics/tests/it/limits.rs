//! Images and tables with nothing in them to measure, and input that must be refused.

use isfm_metrics::{
    Direction::{Higher, Lower},
    Error, Metric, Plane, Sample, Scores, Triple, average_rank, luma_u8, psnr, qabf, scd, vif,
};
use isfm_testing::same_on_any_threads;

use crate::{scores, single, triple};

fn gradient_image(w: usize, h: usize) -> Vec<u8> {
    (0..w * h).map(|p| ((p % w * 7 + p / w * 13) % 256) as u8).collect()
}

/// All scores, none of which is NaN.
fn sound<T: Sample>(images: [&[T]; 3], w: usize, h: usize, what: &str) -> Scores {
    let s = scores(images, w, h);
    for &metric in Metric::ALL {
        assert!(!s.get(metric).is_some_and(f64::is_nan), "{what}: {metric}");
    }
    s
}

/// The values of these metrics, all of which must exist.
fn values<const N: usize>(s: &Scores, metrics: [Metric; N]) -> [f64; N] {
    metrics.map(|m| s.get(m).unwrap_or_else(|| panic!("no {m}")))
}

/// The smallest side for which a metric has a value.
fn smallest(metric: Metric) -> usize {
    match metric {
        Metric::Vif => 41,
        Metric::Ssim => 7,
        Metric::MsSsim => 161,
        Metric::FmiPixel | Metric::FmiGradient | Metric::FmiDct | Metric::FmiWavelet => 3,
        _ => 1,
    }
}

#[test]
fn every_size_from_one_pixel() {
    let sizes = [(1, 1), (1, 50), (50, 1), (2, 2), (2, 3), (3, 3), (6, 7), (7, 7), (8, 9)];
    let larger = [(40, 41), (41, 40), (41, 41), (160, 161), (161, 160), (161, 161)];
    for (w, h) in sizes.into_iter().chain(larger) {
        let a = gradient_image(w, h);
        let b: Vec<u8> = a.iter().rev().copied().collect();
        let t = triple([&a, &b, &a], w, h);
        let s = sound([&a, &b, &a], w, h, &format!("{w}x{h}"));
        for &metric in Metric::ALL {
            let enough = w.min(h) >= smallest(metric);
            assert_eq!(s.get(metric).is_some(), enough, "{w}x{h} {metric}");
            match single(&t, metric) {
                Ok(value) => assert_eq!(Some(value), s.get(metric), "{w}x{h} {metric}"),
                Err(error) => {
                    let (width, height, needed) = (w, h, smallest(metric));
                    assert_eq!(error, Error::TooSmall { metric, width, height, needed });
                }
            }
        }
    }
    let one = [200u8];
    let t = triple([&one, &one, &one], 1, 1);
    let text = vif(&t).unwrap_err().to_string();
    assert_eq!(text, "VIF of 1x1 images: needs at least 41 pixels each way");
    let s = Scores::evaluate(&t);
    use Metric::*;
    let zero = [En, Sd, Sf, Ag, Mi, Scd, Qabf, Cc, Mse, Nabf, Qcv, Qp, Ce, Ei, Rmse, Qmi, Qte];
    assert_eq!(values(&s, zero), [0.; 17]);
    assert_eq!(values(&s, [Psnr, Qcb]), [f64::INFINITY, 1.]);
}

#[test]
fn constant_images() {
    use Metric::*;
    let (w, h) = (168, 161);
    for (v, i, f) in [(0u8, 0u8, 0u8), (90, 90, 90), (0, 0, 255), (255, 255, 0), (10, 200, 77)] {
        let images = [v, i, f].map(|level| vec![level; w * h]);
        let s = sound(images.each_ref().map(|i| &i[..]), w, h, &format!("{v} {i} {f}"));
        let zero = [En, Sd, Sf, Ag, Mi, Scd, Cc, Nabf, Qcv, Qp, Ce, Ei, Qmi, Qte];
        assert_eq!(values(&s, zero), [0.; 14], "{v} {i} {f}");
        // Constant images say nothing of each other: all eigenvalues are 1.
        assert!((s.get(Qncie).unwrap() - (1. - 3f64.log(256.))).abs() < 1e-12);
        assert_eq!(values(&s, [Vif, Qcb]), [2., 1.], "a constant source counts as 1");
        // Windows of one level are alike only if it is the same level.
        let alike = 0.5 * (f64::from(u8::from(f == v)) + f64::from(u8::from(f == i)));
        assert_eq!(values(&s, [FmiPixel]), [alike]);
        assert_eq!(values(&s, [FmiGradient]), [1.]);
        let error = |a: u8, b: u8| (f64::from(a) - f64::from(b)).powi(2);
        assert_eq!(values(&s, [Mse]), [0.5 * (error(f, v) + error(f, i))]);
        let root = |a: u8, b: u8| f64::from(a.abs_diff(b));
        assert_eq!(values(&s, [Rmse]), [0.5 * (root(f, v) + root(f, i))]);
    }
    // Fractional grey levels do not sum exactly; the rounding must not look like a signal.
    let images = [0.1f32, 77.7, 200.3].map(|level| vec![level; w * h]);
    let s = sound(images.each_ref().map(|i| &i[..]), w, h, "fractional");
    assert_eq!(
        values(&s, [Scd, Cc, Qcv, Qcb, Qp, Nabf, FmiGradient]),
        [0., 0., 0., 1., 0., 0., 1.]
    );
    assert!(s.get(Sd).unwrap() < 1e-9);
}

#[test]
fn black_images() {
    let (w, h) = (170, 165);
    let (black, other) = (vec![0u8; w * h], gradient_image(w, h));
    assert_eq!(qabf(&triple([&black, &black, &other], w, h)), 0.);
    assert_eq!(psnr(&triple([&black, &black, &black], w, h)), f64::INFINITY);
    assert_eq!(psnr(&triple([&other, &other, &black], w, h)), f64::NEG_INFINITY);
    let s = sound([&other, &black, &black], w, h, "one source black");
    assert!(s.get(Metric::Vif).unwrap() < 1.1);
    // No source has a feature that could be kept.
    let s = sound([&black, &black, &other], w, h, "only the fused image is not black");
    assert_eq!(values(&s, [Metric::Qp, Metric::Qcv]), [0., 0.]);
    // Every edge is new, but against weights of next to nothing.
    assert!(s.get(Metric::Nabf).unwrap() > 0.9);
}

#[test]
fn identical_images() {
    use Metric::*;
    let (w, h) = (176, 163);
    let a = gradient_image(w, h);
    let s = sound([&a, &a, &a], w, h, "identical");
    let expected = [0., f64::INFINITY, 0., 0., 0., 0.];
    assert_eq!(values(&s, [Mse, Psnr, Scd, Nabf, Ce, Rmse]), expected);
    // The spectra of the images come from different transforms.
    assert!(s.get(Qcv).unwrap() < 1e-20);
    let exact = [FmiPixel, FmiGradient, FmiDct, FmiWavelet];
    assert_eq!(values(&s, exact), [1.; 4]);
    let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-6, "{got} {want}");
    for (metric, want) in [(Cc, 1.), (Ssim, 2.), (Vif, 2.), (MsSsim, 2.), (Qcb, 1.), (Qmi, 2.)] {
        close(s.get(metric).unwrap(), want);
    }
    close(s.get(Mi).unwrap(), 2. * s.get(En).unwrap() * 2f64.ln());
    // The fused image's own map is not set to 0 where there is no feature, so 1 is not reached.
    assert!((0.5..=1.001).contains(&s.get(Qp).unwrap()), "{:?}", s.get(Qp));
    // Fused = infrared + a constant, visible flat: r(vi, f − ir) counts as 0, r(ir, f − vi) is 1.
    let half: Vec<u8> = a.iter().map(|p| p / 2).collect();
    let up: Vec<u8> = half.iter().map(|p| p + 31).collect();
    let flat = vec![9u8; w * h];
    close(scd(&triple([&flat, &half, &up], w, h)), 1.);
}

/// Two sources and their mean.
fn fused_images(w: usize, h: usize) -> [Vec<u8>; 3] {
    let a = gradient_image(w, h);
    let b: Vec<u8> = a.iter().rev().map(|p| p / 3).collect();
    let f = a.iter().zip(&b).map(|(a, b)| a / 2 + b / 2).collect();
    [a, b, f]
}

#[test]
fn the_sources_can_be_exchanged() {
    let (w, h) = (173, 161);
    let [a, b, f] = fused_images(w, h);
    let one = scores([&a, &b, &f], w, h);
    let other = scores([&b, &a, &f], w, h);
    for &metric in Metric::ALL {
        let (x, y) = (one.get(metric).unwrap(), other.get(metric).unwrap());
        // Both spectra come from one transform, so that its rounding depends on the order.
        assert!((x - y).abs() <= 1e-10 * x.abs(), "{metric}: {x} {y}");
    }
}

#[test]
fn the_same_bits_for_any_number_of_threads() {
    let (w, h) = (183, 167);
    let [a, b, f] = fused_images(w, h);
    same_on_any_threads("all metrics", || scores([&a, &b, &f], w, h));
}

#[test]
fn planes_that_are_refused() {
    assert!(matches!(Plane::<u8>::new(&[], 0, 5), Err(Error::Empty { width: 0, height: 5 })));
    assert!(matches!(Plane::<u8>::new(&[], 5, 0), Err(Error::Empty { .. })));
    assert!(matches!(Plane::new(&[1u8; 7], 2, 3), Err(Error::Length { got: 7, .. })));
    assert!(matches!(Plane::new(&[1u8; 5], 2, 3), Err(Error::Length { .. })));
    assert!(matches!(Plane::new(&[1u8; 4], usize::MAX, 4), Err(Error::Length { .. })));
    for bad in [f32::NAN, f32::INFINITY, -0.01, 255.1] {
        let data = [0., 255., 3., bad, 1., 2.];
        assert!(matches!(Plane::new(&data, 2, 3), Err(Error::Pixel { x: 1, y: 1, .. })), "{bad}");
    }
    let data = [0u8; 12];
    let (wide, tall) = (Plane::new(&data, 4, 3).unwrap(), Plane::new(&data, 3, 4).unwrap());
    for (v, i, f) in [(wide, wide, tall), (wide, tall, wide), (tall, wide, wide)] {
        assert!(matches!(Triple::new(v, i, f), Err(Error::SizeMismatch { .. })));
    }
    let text = Triple::new(wide, wide, tall).unwrap_err().to_string();
    assert!(text.starts_with("visible is 4x3, infrared 4x3, fused 3x4;"), "{text}");
}

#[test]
fn ranks() {
    let table = [vec![3., 0.5], vec![2., 0.1], vec![2., 0.9], vec![1., f64::INFINITY]];
    let ranks = average_rank(&table, &[Higher, Lower]).unwrap();
    assert_eq!(ranks, [1.5, 1.75, 2.75, 4.]);
    assert_eq!(average_rank(&[[5., 5.]; 3], &[Higher, Lower]).unwrap(), [2.; 3]);
    assert_eq!(average_rank(&[[7.]], &[Higher]).unwrap(), [1.]);

    let none: [[f64; 1]; 0] = [];
    assert!(matches!(average_rank(&none, &[Higher]), Err(Error::TableEmpty { methods: 0, .. })));
    assert!(matches!(average_rank(&[[0.; 0]], &[]), Err(Error::TableEmpty { metrics: 0, .. })));
    let ragged = [vec![1., 2.], vec![1.]];
    let error = average_rank(&ragged, &[Higher, Higher]).unwrap_err();
    assert_eq!(error, Error::TableRow { row: 1, got: 1, needed: 2 });
    let error = average_rank(&[[1., f64::NAN]], &[Higher, Higher]).unwrap_err();
    assert_eq!(error, Error::TableNan { row: 0, column: 1 });
}

#[test]
fn means_over_a_set() {
    assert_eq!(Scores::mean(&[]), None);
    let large = gradient_image(48, 48);
    let dark: Vec<u8> = large.iter().map(|p| p / 2).collect();
    let a = scores([&large, &dark, &large], 48, 48);
    let b = scores([&large, &dark, &dark], 48, 48);
    let mean = Scores::mean(&[a, b]).unwrap();
    for &metric in Metric::ALL {
        let want = a.get(metric).zip(b.get(metric)).map(|(a, b)| (a + b) / 2.);
        assert_eq!(mean.get(metric), want, "{metric}");
    }
    let small = scores([&large[..400], &dark[..400], &large[..400]], 20, 20);
    let mixed = Scores::mean(&[a, small]).unwrap();
    assert!(mixed.get(Metric::Vif).is_none() && mixed.get(Metric::Ssim).is_some());
}

#[test]
fn luma_and_names() {
    assert_eq!([luma_u8(0, 0, 0), luma_u8(255, 255, 255), luma_u8(7, 7, 7)], [0, 255, 7]);
    assert_eq!([luma_u8(255, 0, 0), luma_u8(0, 255, 0), luma_u8(0, 0, 255)], [76, 150, 29]);
    assert_eq!(format!("{:>6}|{:<6}", Metric::Qabf, Metric::En), "  Qabf|EN    ");
    let mut names: Vec<_> = Metric::ALL.iter().map(|m| m.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 27);
    assert!(Metric::RANKED.iter().all(|m| m.direction() == Higher));
    for metric in [Metric::Mse, Metric::Nabf, Metric::Qcv, Metric::Ce, Metric::Rmse] {
        assert_eq!(metric.direction(), Lower);
    }
}

#[test]
fn only_what_was_asked_for() {
    let (w, h) = (64, 50);
    let a = gradient_image(w, h);
    let b: Vec<u8> = a.iter().map(|p| p / 2).collect();
    let t = triple([&a, &b, &a], w, h);
    let all = Scores::evaluate(&t);
    for metrics in
        [Metric::RELEASED, Metric::RANKED, &[Metric::Qcb], &[Metric::Mi, Metric::Sd], &[]]
    {
        let some = Scores::evaluate_only(&t, metrics);
        for &metric in Metric::ALL {
            let want = all.get(metric).filter(|_| metrics.contains(&metric));
            assert_eq!(some.get(metric), want, "{metric} of {metrics:?}");
        }
        assert_eq!(some.iter().count(), metrics.len());
    }
    // MS-SSIM needs larger images.
    assert_eq!(all.iter().count(), Metric::ALL.len() - 1);
    assert!(Metric::ALL.iter().enumerate().all(|(k, &m)| m as usize == k), "the order of the enum");
}
