//! Windows of pictures, and what is done to their pixels.

use isfm_train::{Augment, Pair, Placement, Sample, draw};

const PATCH: usize = 24;

fn pair(w: usize, h: usize) -> Pair {
    let infrared: Vec<u8> = (0..w * h).map(|i| ((i % w) * 7 + (i / w) * 13) as u8).collect();
    let visible = (0..w * h).flat_map(|i| [((i * 31) % 251) as u8; 3]).collect();
    Pair { width: w, height: h, visible, infrared }
}

fn only(change: impl Fn(&mut Augment)) -> Augment {
    let mut augment = Augment { crops: true, scale_min: 1., scale_max: 1., ..Augment::default() };
    change(&mut augment);
    augment
}

fn samples(augment: &Augment, pair: &Pair, n: usize) -> Vec<Sample> {
    (0..n).map(|i| augment.draw(pair, PATCH, 1, 0, i).unwrap()).collect()
}

#[test]
fn the_default_is_the_authors_sampling() {
    let pair = pair(70, 50);
    for index in 0..20 {
        let augmented = Augment::default().draw(&pair, PATCH, 3, 1, index).unwrap();
        assert_eq!(augmented, draw(&pair, PATCH, 3, 1, index).unwrap());
    }
}

#[test]
fn windows_lie_inside_and_have_scales_between_the_limits() {
    for (w, h) in [(200, 130), (24, 300), (20, 90), (1, 1)] {
        let pair = pair(w, h);
        let wide = only(|a| (a.scale_min, a.scale_max) = (0.25, 2.));
        let (mut least, mut most) = (usize::MAX, 0);
        for sample in samples(&wide, &pair, 300) {
            assert_eq!((sample.visible.len(), sample.infrared.len()), (576, 576));
            let Placement::Window { x, y, side } = sample.placement else { panic!("no window") };
            assert!(x + side <= w && y + side <= h && side >= 1, "{x} {y} {side} of {w}x{h}");
            // 24 / 2 to 24 / 0.25, or what the picture has.
            assert!((12.min(w)..=96).contains(&side), "{side}");
            (least, most) = (least.min(side), most.max(side));
        }
        assert!(least <= 13.min(w) && most >= 85.min(w.min(h)), "{least} {most}");
    }
    // Unscaled, a sample is the picture's own pixels.
    let pair = pair(60, 50);
    for sample in samples(&only(|_| ()), &pair, 20) {
        let Placement::Window { x, y, side: PATCH } = sample.placement else { panic!("no window") };
        for (i, &v) in sample.infrared.iter().enumerate() {
            let at = (y + i / PATCH) * 60 + x + i % PATCH;
            assert_eq!(v, f32::from(pair.infrared[at]) / 255.);
        }
    }
}

#[test]
fn everything_stays_between_0_and_1_and_repeats() {
    let all = Augment {
        crops: true,
        flips: 0.5,
        invert: 0.5,
        night: 0.5,
        levels: 1.,
        blur: 0.5,
        noise: 1.,
        same: 0.1,
        swap: 0.5,
        ..Augment::default()
    };
    let pair = pair(80, 60);
    let drawn = samples(&all, &pair, 200);
    for sample in &drawn {
        let both = sample.visible.iter().chain(&sample.infrared);
        assert!(both.into_iter().all(|v| (0. ..=1.).contains(v)));
    }
    assert_eq!(drawn, samples(&all, &pair, 200));
    assert_ne!(drawn[0], all.draw(&pair, PATCH, 2, 0, 0).unwrap());
    assert_ne!(drawn[0], all.draw(&pair, PATCH, 1, 1, 0).unwrap());
    // What is changed does not move where a sample is taken.
    let plain = samples(&Augment { crops: true, ..Augment::default() }, &pair, 200);
    assert!(drawn.iter().zip(&plain).all(|(a, b)| a.placement == b.placement));
}

#[test]
fn each_change_is_what_it_says() {
    let pair = pair(60, 50);
    let plain = samples(&only(|_| ()), &pair, 400);
    let compare = |change: fn(&mut Augment), check: &dyn Fn(&Sample, &Sample) -> bool| -> usize {
        let changed = samples(&only(change), &pair, 400);
        changed.iter().zip(&plain).filter(|(c, p)| check(c, p)).count()
    };
    let same = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
    let mean = |a: &[f32]| a.iter().sum::<f32>() / a.len() as f32;
    let invert = |c: &Sample, p: &Sample| {
        let inverted: Vec<f32> = p.infrared.iter().map(|v| 1. - v).collect();
        same(&c.infrared, &inverted) && c.visible == p.visible
    };
    assert_eq!(compare(|a| a.invert = 1., &invert), 400);
    // Five standard deviations of the binomial counts, sqrt(400 / 4) = 10.
    assert!(compare(|a| a.invert = 0.5, &invert).abs_diff(200) < 50);
    let swap = |c: &Sample, p: &Sample| c.visible == p.infrared && c.infrared == p.visible;
    assert_eq!(compare(|a| a.swap = 1., &swap), 400);
    let one = |c: &Sample, p: &Sample| c.visible == p.visible && c.infrared == p.visible;
    assert_eq!(compare(|a| a.same = 1., &one), 400);
    let night = |c: &Sample, p: &Sample| {
        c.infrared == p.infrared && mean(&c.visible) <= 0.5 * mean(&p.visible) + 1e-6
    };
    assert_eq!(compare(|a| a.night = 1., &night), 400);
    let roughness = |a: &[f32]| a.windows(2).map(|w| (w[0] - w[1]).abs()).sum::<f32>();
    let blur = |c: &Sample, p: &Sample| {
        c.visible == p.visible && roughness(&c.infrared) < roughness(&p.infrared)
    };
    assert_eq!(compare(|a| a.blur = 1., &blur), 400);
    let noise = |c: &Sample, p: &Sample| {
        let off = |a: &[f32], b: &[f32]| {
            let square: f32 = a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum();
            (square / a.len() as f32).sqrt()
        };
        let both = [off(&c.visible, &p.visible), off(&c.infrared, &p.infrared)];
        both[0] != both[1] && both.iter().all(|o| *o < 0.06)
    };
    assert_eq!(compare(|a| a.noise = 1., &noise), 400);
    let levels = |c: &Sample, p: &Sample| c.visible != p.visible && c.infrared != p.infrared;
    assert_eq!(compare(|a| a.levels = 1., &levels), 400);
}

#[test]
fn all_eight_positions_of_a_square_come_alike() {
    let (flips, plain) = (only(|a| a.flips = 0.5), only(|_| ()));
    let pair = pair(24, 24);
    let base = plain.draw(&pair, PATCH, 1, 0, 0).unwrap();
    let mut seen = std::collections::BTreeMap::<Vec<u32>, usize>::new();
    for sample in samples(&flips, &pair, 800) {
        let bits = sample.infrared.iter().map(|v| v.to_bits()).collect();
        *seen.entry(bits).or_default() += 1;
        let sorted = |plane: &[f32]| {
            let mut plane = plane.to_vec();
            plane.sort_by(f32::total_cmp);
            plane
        };
        assert_eq!(sorted(&sample.visible), sorted(&base.visible));
        // Both sides are turned alike: where a pixel went, its partner went.
        let pairs = |s: &Sample| {
            let bits = s.visible.iter().zip(&s.infrared).map(|(v, i)| (v.to_bits(), i.to_bits()));
            let mut bits: Vec<_> = bits.collect();
            bits.sort_unstable();
            bits
        };
        assert_eq!(pairs(&sample), pairs(&base));
    }
    assert_eq!(seen.len(), 8);
    // Five standard deviations, sqrt(800 * 7 / 64) = 9.4.
    assert!(seen.values().all(|n| n.abs_diff(100) < 47), "{:?}", seen.values());
}
