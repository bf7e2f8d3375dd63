//! `Builder::stretch`.

use candle_core::Tensor;
use image::DynamicImage;
use isfm::{Error, Isfm, Tiling};

use crate::common::{builder, colour_image, grey_image, isfm, plane, tensor, values};

const PERCENTILES: (f64, f64) = (2., 95.);

fn stretching() -> isfm::Builder {
    builder().stretch(PERCENTILES.0, PERCENTILES.1)
}

/// By definition: the values of the nearest ranks become 0 and 1.
fn by_hand(luma: &[f32]) -> Vec<f32> {
    let mut sorted = luma.to_vec();
    sorted.sort_by(f32::total_cmp);
    let at = |percent: f64| sorted[(percent / 100. * (sorted.len() - 1) as f64).round() as usize];
    let (low, high) = (at(PERCENTILES.0), at(PERCENTILES.1));
    assert!(0.1 < high - low && high - low < 0.95, "{low} {high}");
    luma.iter().map(|v| ((v - low) / (high - low)).clamp(0., 1.)).collect()
}

/// Even and odd sizes, whole and in tiles, each plane of a batch for itself.
#[test]
fn percentiles_become_black_and_white() {
    for tiling in [Tiling::Whole, Tiling::Edge(32)] {
        let plain = builder().tiling(tiling).build().unwrap();
        let stretching = stretching().tiling(tiling).build().unwrap();
        for (height, width) in [(40, 52), (37, 45)] {
            let pair = |seed| (plane(height, width, seed), plane(height, width, seed + 1));
            let ((a, b), (c, d)) = (pair(1), pair(5));
            let fuse = |isfm: &Isfm, v: &Tensor, i: &Tensor| values(&isfm.fuse_luma(v, i).unwrap());
            let want = [by_hand(&fuse(&plain, &a, &b)), by_hand(&fuse(&plain, &c, &d))];
            assert_eq!(fuse(&stretching, &a, &b), want[0]);
            let batch = |a, c| Tensor::stack(&[a, c], 0).unwrap().unsqueeze(1).unwrap();
            assert_eq!(fuse(&stretching, &batch(&a, &c), &batch(&b, &d)), want.concat());
        }
    }
}

#[test]
fn images_are_stretched_in_their_luma() {
    let stretching = stretching().build().unwrap();
    let infrared = grey_image(45, 37, 2);
    // Grey: the float result is not to be had, so the rounded one, stretched, is two roundings off.
    let visible = grey_image(45, 37, 1);
    let plain = isfm().fuse(&visible, &infrared).unwrap().to_luma8();
    let fused = stretching.fuse(&visible, &infrared).unwrap();
    let want = by_hand(&plain.iter().map(|&v| f32::from(v) / 255.).collect::<Vec<_>>());
    for (got, want) in fused.to_luma8().iter().zip(&want) {
        assert!((f32::from(*got) - want * 255.).abs() < 3., "{got} {want}");
    }
    assert!(fused.to_luma8().contains(&0) && fused.to_luma8().contains(&255));

    // Colour: as grey, with the visible image's Cr and Cb.
    let visible = colour_image(45, 37, 5).to_rgb32f();
    let luma = |p: &[f32; 3]| 0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2];
    let of = |values: Vec<f32>| tensor(values, &[37, 45]);
    let y = of(visible.pixels().map(|p| luma(&p.0)).collect());
    let heat = of(infrared.to_luma8().iter().map(|&v| f32::from(v) / 255.).collect());
    let y = values(&stretching.fuse_luma(&y, &heat).unwrap());
    let fused = stretching.fuse(&DynamicImage::from(visible.clone()), &infrared).unwrap();
    for ((p, q), y) in visible.pixels().zip(fused.to_rgb32f().pixels()).zip(y) {
        let (cr, cb) = ((p[0] - luma(&p.0)) * 0.713, (p[2] - luma(&p.0)) * 0.564);
        let want = [y + 1.403 * cr, y - 0.714 * cr - 0.344 * cb, y + 1.773 * cb];
        for (got, want) in q.0.iter().zip(want) {
            assert!((got - want.clamp(0., 1.)).abs() < 1e-4, "{q:?} {want:?}");
        }
    }
}

/// One pixel, whose percentiles are one value.
#[test]
fn without_contrast_nothing_is_stretched() {
    let (v, i) = (plane(1, 1, 1), plane(1, 1, 2));
    let stretching = stretching().build().unwrap();
    let want = values(&isfm().fuse_luma(&v, &i).unwrap());
    assert_eq!(values(&stretching.fuse_luma(&v, &i).unwrap()), want);
    let none = Tensor::zeros((0, 1, 4, 4), candle_core::DType::F32, &candle_core::Device::Cpu);
    let none = none.unwrap();
    assert_eq!(stretching.fuse_luma(&none, &none).unwrap().dims(), [0, 1, 4, 4]);
}

#[test]
fn the_luma_held_counts_in_the_memory() {
    let needed = |b: isfm::Builder| b.build().unwrap().memory_needed(300, 260);
    let (plain, stretched) = (needed(builder()), needed(stretching()));
    assert_eq!(stretched - plain, 8 * 300 * 260);
    let (v, i) = (plane(260, 300, 1), plane(260, 300, 2));
    let run = |limit| stretching().memory_limit(limit).build().unwrap().fuse_luma(&v, &i);
    let whole =
        values(&stretching().tiling(Tiling::Whole).build().unwrap().fuse_luma(&v, &i).unwrap());
    assert_eq!(values(&run(stretched).unwrap()), whole);
    assert_ne!(values(&run(stretched - 1).unwrap()), whole);
    let error = run(1000).unwrap_err();
    let Error::MemoryLimit { limit: 1000, needed } = error else { panic!("{error}") };
    assert!(run(needed).is_ok());
}

#[test]
fn percentiles_that_are_none_are_refused() {
    let bad = [(5., 5.), (60., 40.), (-1., 99.), (0., 100.1), (f64::NAN, 99.), (1., f64::NAN)];
    for (low, high) in bad {
        let error = builder().stretch(low, high).build().unwrap_err();
        assert!(matches!(error, Error::Option { .. }), "{error}");
        assert!(error.to_string().contains("0 <= low < high <= 100"), "{error}");
    }
    assert!(builder().stretch(0., 100.).build().is_ok());
}
