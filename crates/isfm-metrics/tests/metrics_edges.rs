//! Images and tables with nothing in them to measure, and input that must be refused.

use isfm_metrics::{
    Direction::{Higher, Lower},
    Error, Metric, Plane, Sample, Scores, Triple, average_rank, luma_u8, psnr, qabf, ssim, vif,
};

fn triple<'a, T: Sample>(v: &'a [T], i: &'a [T], f: &'a [T], w: usize, h: usize) -> Triple<'a, T> {
    let plane = |data| Plane::new(data, w, h).unwrap();
    Triple::new(plane(v), plane(i), plane(f)).unwrap()
}

fn gradient_image(w: usize, h: usize) -> Vec<u8> {
    (0..w * h).map(|p| ((p % w * 7 + p / w * 13) % 256) as u8).collect()
}

fn none_is_nan(s: &Scores, what: &str) {
    for &metric in Metric::ALL {
        assert!(!s.get(metric).is_some_and(f64::is_nan), "{what}: {metric}");
    }
}

#[test]
fn every_size_from_one_pixel() {
    for (w, h) in [(1, 1), (1, 50), (50, 1), (2, 2), (6, 7), (7, 7), (40, 41), (41, 40), (41, 41)] {
        let a = gradient_image(w, h);
        let b: Vec<u8> = a.iter().rev().copied().collect();
        let t = triple(&a, &b, &a, w, h);
        let s = Scores::evaluate(&t);
        none_is_nan(&s, &format!("{w}x{h}"));
        assert_eq!(s.ssim.is_some(), w >= 7 && h >= 7);
        assert_eq!(s.vif.is_some(), w >= 41 && h >= 41);
        assert_eq!(ssim(&t).ok(), s.ssim);
        assert_eq!(vif(&t).ok(), s.vif);
    }
    let one = [200u8];
    let t = triple(&one, &one, &one, 1, 1);
    let text = vif(&t).unwrap_err().to_string();
    assert_eq!(text, "VIF of 1x1 images: needs at least 41 pixels each way");
    let s = Scores::evaluate(&t);
    assert_eq!([s.en, s.sd, s.sf, s.ag, s.mi, s.scd, s.qabf, s.cc, s.mse], [0.; 9]);
    assert_eq!(s.psnr, f64::INFINITY);
}

#[test]
fn constant_images() {
    let (w, h) = (48, 45);
    for (v, i, f) in [(0u8, 0u8, 0u8), (90, 90, 90), (0, 0, 255), (255, 255, 0), (10, 200, 77)] {
        let images = [v, i, f].map(|level| vec![level; w * h]);
        let s = Scores::evaluate(&triple(&images[0], &images[1], &images[2], w, h));
        none_is_nan(&s, &format!("{v} {i} {f}"));
        assert_eq!([s.en, s.sd, s.sf, s.ag, s.mi, s.scd, s.cc], [0.; 7]);
        assert_eq!(s.vif, Some(2.), "a constant source counts as 1");
        let error = |a: u8, b: u8| (f64::from(a) - f64::from(b)).powi(2);
        assert_eq!(s.mse, 0.5 * (error(f, v) + error(f, i)));
    }
    // Fractional grey levels do not sum exactly; the rounding must not look like a signal.
    let images = [0.1f32, 77.7, 200.3].map(|level| vec![level; w * h]);
    let s = Scores::evaluate(&triple(&images[0], &images[1], &images[2], w, h));
    none_is_nan(&s, "fractional");
    assert_eq!((s.scd, s.cc), (0., 0.));
    assert!(s.sd < 1e-9);
}

#[test]
fn black_images() {
    let (w, h) = (50, 50);
    let (black, other) = (vec![0u8; w * h], gradient_image(w, h));
    assert_eq!(qabf(&triple(&black, &black, &other, w, h)), 0.);
    assert_eq!(psnr(&triple(&black, &black, &black, w, h)), f64::INFINITY);
    assert_eq!(psnr(&triple(&other, &other, &black, w, h)), f64::NEG_INFINITY);
    let s = Scores::evaluate(&triple(&other, &black, &black, w, h));
    none_is_nan(&s, "one source black");
    assert!(s.vif.unwrap() < 1.1);
}

#[test]
fn identical_images() {
    let (w, h) = (64, 50);
    let a = gradient_image(w, h);
    let s = Scores::evaluate(&triple(&a, &a, &a, w, h));
    none_is_nan(&s, "identical");
    assert_eq!((s.mse, s.psnr, s.scd), (0., f64::INFINITY, 0.));
    let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-6, "{got} {want}");
    close(s.cc, 1.);
    close(s.ssim.unwrap(), 2.);
    close(s.vif.unwrap(), 2.);
    close(s.mi, 2. * s.en * 2f64.ln());
    // Fused = infrared + a constant, visible flat: r(vi, f − ir) counts as 0, r(ir, f − vi) is 1.
    let half: Vec<u8> = a.iter().map(|p| p / 2).collect();
    let up: Vec<u8> = half.iter().map(|p| p + 31).collect();
    let flat = vec![9u8; w * h];
    close(Scores::evaluate(&triple(&flat, &half, &up, w, h)).scd, 1.);
}

#[test]
fn the_sources_can_be_exchanged() {
    let (w, h) = (55, 47);
    let a = gradient_image(w, h);
    let b: Vec<u8> = a.iter().rev().map(|p| p / 3).collect();
    let f: Vec<u8> = a.iter().zip(&b).map(|(a, b)| a / 2 + b / 2).collect();
    let one = Scores::evaluate(&triple(&a, &b, &f, w, h));
    let other = Scores::evaluate(&triple(&b, &a, &f, w, h));
    for &metric in Metric::ALL {
        let (x, y) = (one.get(metric).unwrap(), other.get(metric).unwrap());
        assert!((x - y).abs() <= 1e-12 * x.abs(), "{metric}: {x} {y}");
    }
}

#[test]
fn the_same_bits_for_any_number_of_threads() {
    let (w, h) = (133, 117);
    let a = gradient_image(w, h);
    let b: Vec<u8> = a.iter().rev().map(|p| p / 3).collect();
    let f: Vec<u8> = a.iter().zip(&b).map(|(a, b)| a / 2 + b / 2).collect();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| Scores::evaluate(&triple(&a, &b, &f, w, h)))
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(3));
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
    let a = Scores::evaluate(&triple(&large, &dark, &large, 48, 48));
    let b = Scores::evaluate(&triple(&large, &dark, &dark, 48, 48));
    let mean = Scores::mean(&[a, b]).unwrap();
    for &metric in Metric::ALL {
        let want = (a.get(metric).unwrap() + b.get(metric).unwrap()) / 2.;
        assert_eq!(mean.get(metric), Some(want), "{metric}");
    }
    let small = Scores::evaluate(&triple(&large[..400], &dark[..400], &large[..400], 20, 20));
    let mixed = Scores::mean(&[a, small]).unwrap();
    assert!(mixed.vif.is_none() && mixed.ssim.is_some());
}

#[test]
fn luma_and_names() {
    assert_eq!([luma_u8(0, 0, 0), luma_u8(255, 255, 255), luma_u8(7, 7, 7)], [0, 255, 7]);
    assert_eq!([luma_u8(255, 0, 0), luma_u8(0, 255, 0), luma_u8(0, 0, 255)], [76, 150, 29]);
    assert_eq!(format!("{:>6}|{:<6}", Metric::Qabf, Metric::En), "  Qabf|EN    ");
    let mut names: Vec<_> = Metric::ALL.iter().map(|m| m.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 12);
    assert!(Metric::RANKED.iter().all(|m| m.direction() == Higher));
    assert_eq!(Metric::Mse.direction(), Lower);
}
