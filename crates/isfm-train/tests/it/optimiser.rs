//! The schedule against the formula's values, Adam against its textbook form in f64.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use candle_nn::Optimizer;
use isfm_train::{Adam, AdamConfig, Schedule, TrainConfig, Update, Validation};

#[test]
fn the_schedule_is_the_authors() {
    let config = TrainConfig::default();
    // Worked out by hand: 1e-5 + t 1.8e-5 up to 4, then 5e-6 + 4.75e-5 (1 + cos(pi t / 100)).
    let wanted = [
        (0, 1e-5),
        (1, 2.8e-5),
        (4, 8.2e-5),
        (5, 9.941_519_616e-5),
        (50, 5.25e-5),
        (99, 5.023_438_4e-6),
    ];
    for (epoch, want) in wanted {
        let got = config.rate(epoch);
        assert!((got - want).abs() < 1e-13, "epoch {epoch}: {got:e} {want:e}");
    }
    let mut last = f64::INFINITY;
    for epoch in 5..100 {
        assert!(config.rate(epoch) < last && config.rate(epoch) > 5e-6);
        last = config.rate(epoch);
    }
    // A short run, all warm-up, and one without.
    let steep = Schedule { peak: 1e-3, ..Schedule::default() };
    assert!((steep.rate(2, 3) - (1e-5 + 2. * 9.9e-4 / 5.)).abs() < 1e-15);
    assert_eq!(Schedule { warmup: 0, ..steep }.rate(0, 3), 1e-3);
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    TrainConfig::default().validate().unwrap();
    type Change = fn(&mut TrainConfig);
    let change: [(&str, Change); 20] = [
        ("batch", |c| c.batch = 0),
        ("micro_batch", |c| c.micro_batch = Some(0)),
        ("micro_batch", |c| c.micro_batch = Some(3)),
        ("micro_batch", |c| c.micro_batch = Some(8)),
        ("epochs", |c| c.epochs = 0),
        ("patch", |c| c.patch = 3),
        ("patch", |c| c.patch = 1 << 40),
        ("schedule.peak", |c| c.schedule.peak = f64::NAN),
        ("schedule.start", |c| c.schedule.start = -1.),
        ("adam.beta2", |c| c.adam.beta2 = 1.),
        ("loss.ssim", |c| c.loss.ssim = f64::INFINITY),
        ("loss.scd", |c| c.loss.scd = -1.),
        ("steps", |c| c.steps = Some(0)),
        ("clip", |c| c.clip = Some(0.)),
        ("weight_decay", |c| c.weight_decay = f64::NAN),
        ("ema", |c| c.ema = Some(1.)),
        ("augment.night", |c| c.augment.night = 1.5),
        ("augment.scale_max", |c| c.augment.scale_max = 0.25),
        ("validation.share", |c| {
            c.validation = Some(Validation { share: 1., ..Validation::default() });
        }),
        ("validation.every", |c| {
            c.validation = Some(Validation { every: 0, ..Validation::default() });
        }),
    ];
    for (name, change) in change {
        let mut config = TrainConfig::default();
        change(&mut config);
        let text = config.validate().unwrap_err().to_string();
        assert!(text.contains(&format!("`{name}`")), "{text}");
    }
    let text = r#"{"batch": 3, "schedule": {"peak": 0.01}}"#;
    let config: TrainConfig = serde_json::from_str(text).unwrap();
    assert_eq!((config.batch, config.schedule.peak, config.schedule.warmup), (3, 0.01, 5));
    assert!(serde_json::from_str::<TrainConfig>(r#"{"bach": 3}"#).is_err());
}

#[test]
fn a_run_counted_in_steps_has_its_schedule_by_steps() {
    let config = TrainConfig { steps: Some(1000), ..TrainConfig::default() };
    for step in [0, 3, 5, 500, 999] {
        assert_eq!(config.rate_of_step(step, 7), config.schedule.rate(step, 1000));
    }
    assert_eq!(TrainConfig::default().rate_of_step(15, 7), TrainConfig::default().rate(2));
}

/// Settings that are off are not written: files are as they were before these settings existed,
/// and old ones are read.
#[test]
fn settings_that_are_off_leave_no_trace() {
    let old = r#"{"batch":4,"epochs":100,"seed":3407,"patch":128,"schedule":{"start":1e-5,"peak":0.0001,"floor":5e-6,"warmup":5},"adam":{"beta1":0.9,"beta2":0.999,"eps":1e-8},"loss":{"content":1.0,"intensity":5.0,"gradient":5.0,"ssim":0.5}}"#;
    let read: TrainConfig = serde_json::from_str(old).unwrap();
    assert_eq!(read, TrainConfig::default());
    let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(value(&serde_json::to_string(&read).unwrap()), value(old));
}

fn vars(values: &[(&str, Vec<f32>)]) -> BTreeMap<String, Var> {
    let var = |v: &Vec<f32>| Var::from_slice(v, v.len(), &Device::Cpu).unwrap();
    values.iter().map(|(n, v)| (n.to_string(), var(v))).collect()
}

/// A step with exactly these gradients: those of the sum of g times w.
fn step(adam: &mut Adam, g: &[(&str, Vec<f32>)], rate: f64) -> Update {
    let mut loss = Tensor::new(0f32, &Device::Cpu).unwrap();
    for (name, g) in g {
        let g = Tensor::from_slice(g, g.len(), &Device::Cpu).unwrap();
        loss = (loss + (adam.vars()[*name].as_tensor() * g).unwrap().sum_all().unwrap()).unwrap();
    }
    adam.set_learning_rate(rate);
    adam.update(&loss.backward().unwrap()).unwrap()
}

#[test]
fn adam_follows_its_textbook_form() {
    let start = [0.7f32, -1.3, 1e-3, 40.];
    let vars = vars(&[("w", start.to_vec())]);
    let mut adam = Adam::named(vars.clone(), AdamConfig::default()).unwrap();
    let (mut p, mut m, mut v) = (start.map(f64::from), [0f64; 4], [0f64; 4]);
    for t in 1..=60 {
        let phase = f64::from(t) * 0.7;
        // Tiny, huge, sign-changing and rarely non-zero gradients.
        let g = [phase.sin(), 1e-7, 1e4 * phase.cos(), if t % 9 == 0 { 3. } else { 0. }];
        let g = g.map(|g| g as f32);
        let rate = 0.01 / f64::from(t);
        assert_eq!(step(&mut adam, &[("w", g.to_vec())], rate), Update::Done);
        for i in 0..4 {
            let g = f64::from(g[i]);
            m[i] = 0.9 * m[i] + 0.1 * g;
            v[i] = 0.999 * v[i] + 0.001 * g * g;
            let mean = m[i] / (1. - 0.9f64.powi(t));
            let square = v[i] / (1. - 0.999f64.powi(t));
            p[i] -= rate * mean / (square.sqrt() + 1e-8);
        }
        let got: Vec<f32> = vars["w"].to_vec1().unwrap();
        for (got, want) in got.iter().zip(p) {
            // Rounding to f32 once per step, and that of the moments on an update of 0.01.
            let bound = f64::from(t) * (want.abs() * 6e-8 + 0.01 * 1e-6);
            assert!((f64::from(*got) - want).abs() < bound, "step {t}: {got} {want}");
        }
    }
    assert_eq!(adam.steps(), 60);
}

#[test]
fn the_first_step_is_the_rate_against_the_gradients_sign() {
    let vars = vars(&[("w", vec![0., 0., 0.])]);
    let mut adam = Adam::named(vars.clone(), AdamConfig::default()).unwrap();
    step(&mut adam, &[("w", vec![3., -2e-3, 0.])], 0.125);
    let got: Vec<f32> = vars["w"].to_vec1().unwrap();
    for (got, want) in got.iter().zip([-0.125, 0.125, 0.]) {
        // eps / |g| = 5e-6 for the smallest gradient.
        assert!((got - want).abs() < 1e-6, "{got} {want}");
    }
}

#[test]
fn unused_parameters_stay_and_bad_gradients_change_nothing() {
    let vars = vars(&[("unused", vec![5.]), ("w", vec![1., 2.])]);
    let mut adam = Adam::named(vars.clone(), AdamConfig::default()).unwrap();
    assert_eq!(step(&mut adam, &[("w", vec![1., 1.])], 0.1), Update::Done);
    assert_eq!(vars["unused"].to_vec1::<f32>().unwrap(), [5.]);
    let (weights, state): (Vec<f32>, _) = (vars["w"].to_vec1().unwrap(), adam.moments().unwrap());
    for bad in [f32::NAN, f32::INFINITY] {
        let g = [("unused", vec![1.]), ("w", vec![1., bad])];
        assert_eq!(step(&mut adam, &g, 0.1), Update::NonFinite("w".into()));
    }
    assert_eq!(vars["w"].to_vec1::<f32>().unwrap(), weights);
    assert_eq!((adam.steps(), adam.moments().unwrap()), (1, state));
    assert_eq!(step(&mut adam, &[("w", vec![0., 0.])], 0.1), Update::Unguided);
    let nothing = Tensor::new(0f32, &Device::Cpu).unwrap().backward().unwrap();
    assert!(adam.update(&nothing).is_err());
}

#[test]
fn restored_state_goes_on_as_before() {
    let gradient = |t: usize| vec![("w", vec![t as f32, -1., 0.5 / t as f32])];
    let one = vars(&[("w", vec![1., 2., 3.])]);
    let config = AdamConfig::default;
    let mut adam = Adam::named(one.clone(), config()).unwrap();
    (1..4).for_each(|t| assert_eq!(step(&mut adam, &gradient(t), 0.1), Update::Done));
    let two = vars(&[("w", one["w"].to_vec1().unwrap())]);
    let (steps, moments) = (adam.steps(), adam.moments().unwrap());
    let mut restored = Adam::restore(two.clone(), config(), steps, moments.clone()).unwrap();
    for t in 4..9 {
        step(&mut adam, &gradient(t), 0.1);
        step(&mut restored, &gradient(t), 0.1);
    }
    assert_eq!(one["w"].to_vec1::<f32>().unwrap(), two["w"].to_vec1::<f32>().unwrap());
    for (name, values) in [("x", vec![1., 2., 3.]), ("w", vec![1., 2.])] {
        let other = vars(&[(name, values)]);
        assert!(Adam::restore(other, config(), steps, moments.clone()).is_err(), "{name}");
    }
}

#[test]
fn clipped_gradients_keep_their_direction() {
    let start = vec![1f32, 2., 3.];
    let g = [3f32, -4., 12.];
    let clipped = vars(&[("w", start.clone())]);
    let mut adam =
        Adam::named(clipped.clone(), AdamConfig::default()).unwrap().with_clip(Some(1.3));
    assert_eq!(adam.norm(), None);
    step(&mut adam, &[("w", g.to_vec())], 0.1);
    assert_eq!(adam.norm(), Some(13.));
    for (mean, g) in adam.moments().unwrap()["w"].mean.iter().zip(g) {
        assert!((mean - 0.1 * 0.1 * g).abs() < 1e-6, "{mean} {g}");
    }
    // A short one is left as it is, bit by bit.
    let (one, two) = (vars(&[("w", start.clone())]), vars(&[("w", start)]));
    step(
        &mut Adam::named(one.clone(), AdamConfig::default()).unwrap().with_clip(Some(14.)),
        &[("w", g.to_vec())],
        0.1,
    );
    step(&mut Adam::named(two.clone(), AdamConfig::default()).unwrap(), &[("w", g.to_vec())], 0.1);
    assert_eq!(one["w"].to_vec1::<f32>().unwrap(), two["w"].to_vec1::<f32>().unwrap());
}

#[test]
fn matrices_decay_and_vectors_do_not() {
    let run = |decay: f64| -> [Vec<f32>; 2] {
        let matrix = Var::new(&[[2f32, -4.]], &Device::Cpu).unwrap();
        let vector = Var::new(&[2f32, -4.], &Device::Cpu).unwrap();
        let named = BTreeMap::from([("m".into(), matrix), ("v".into(), vector)]);
        let mut adam = Adam::named(named, AdamConfig::default()).unwrap().with_weight_decay(decay);
        adam.set_learning_rate(0.1);
        let sum = |name: &str| adam.vars()[name].as_tensor().sum_all().unwrap();
        let loss = (sum("m") + sum("v")).unwrap();
        adam.update(&loss.backward().unwrap()).unwrap();
        ["m", "v"].map(|n| adam.vars()[n].flatten_all().unwrap().to_vec1().unwrap())
    };
    let ([plain, vector], [decayed, same]) = (run(0.), run(0.5));
    assert_eq!(vector, same);
    for ((plain, decayed), start) in plain.iter().zip(&decayed).zip([2f32, -4.]) {
        assert!((plain - decayed - 0.1 * 0.5 * start).abs() < 1e-6, "{plain} {decayed}");
    }
}

/// Candle's trait is the same update, by variables without names.
#[test]
fn candles_optimizer_does_the_same() {
    let start = vec![1f32, -2., 3.];
    let named = vars(&[("0", start.clone())]);
    let mut ours = Adam::named(named.clone(), AdamConfig::default()).unwrap();
    let plain = Var::new(start, &Device::Cpu).unwrap();
    let mut candles = Adam::new(vec![plain.clone()], AdamConfig::default()).unwrap();
    assert_eq!(candles.learning_rate(), 1e-3);
    for t in 1..5 {
        let g = vec![t as f32, -0.5, 0.25];
        step(&mut ours, &[("0", g.clone())], 1e-3);
        let loss = plain.mul(&Tensor::new(g, &Device::Cpu).unwrap()).unwrap().sum_all().unwrap();
        candles.backward_step(&loss).unwrap();
    }
    assert_eq!(named["0"].to_vec1::<f32>().unwrap(), plain.to_vec1::<f32>().unwrap());
    let bad = plain.affine(f64::NAN, 0.).unwrap().sum_all().unwrap();
    assert!(candles.backward_step(&bad).unwrap_err().to_string().contains("not finite"));
}
