//! The schedule against the formula's values, Adam against its textbook form in f64.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use candle_nn::Optimizer;
use isfm_train::{Adam, AdamConfig, Schedule, TrainConfig, Update};

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
    let change: [(&str, Change); 8] = [
        ("batch", |c| c.batch = 0),
        ("epochs", |c| c.epochs = 0),
        ("patch", |c| c.patch = 3),
        ("patch", |c| c.patch = 1 << 40),
        ("schedule.peak", |c| c.schedule.peak = f64::NAN),
        ("schedule.start", |c| c.schedule.start = -1.),
        ("adam.beta2", |c| c.adam.beta2 = 1.),
        ("loss.ssim", |c| c.loss.ssim = f64::INFINITY),
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
    let mut adam = Adam::named(vars.clone(), AdamConfig::default());
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
    let mut adam = Adam::named(vars.clone(), AdamConfig::default());
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
    let mut adam = Adam::named(vars.clone(), AdamConfig::default());
    assert_eq!(step(&mut adam, &[("w", vec![1., 1.])], 0.1), Update::Done);
    assert_eq!(vars["unused"].to_vec1::<f32>().unwrap(), [5.]);
    let (weights, state): (Vec<f32>, _) = (vars["w"].to_vec1().unwrap(), adam.moments().clone());
    for bad in [f32::NAN, f32::INFINITY] {
        let g = [("unused", vec![1.]), ("w", vec![1., bad])];
        assert_eq!(step(&mut adam, &g, 0.1), Update::NonFinite("w".into()));
    }
    assert_eq!(vars["w"].to_vec1::<f32>().unwrap(), weights);
    assert_eq!((adam.steps(), adam.moments()), (1, &state));
    assert_eq!(step(&mut adam, &[("w", vec![0., 0.])], 0.1), Update::Unguided);
    let nothing = Tensor::new(0f32, &Device::Cpu).unwrap().backward().unwrap();
    assert!(adam.update(&nothing).is_err());
}

#[test]
fn restored_state_goes_on_as_before() {
    let gradient = |t: usize| vec![("w", vec![t as f32, -1., 0.5 / t as f32])];
    let one = vars(&[("w", vec![1., 2., 3.])]);
    let config = AdamConfig::default;
    let mut adam = Adam::named(one.clone(), config());
    (1..4).for_each(|t| assert_eq!(step(&mut adam, &gradient(t), 0.1), Update::Done));
    let two = vars(&[("w", one["w"].to_vec1().unwrap())]);
    let (steps, moments) = (adam.steps(), adam.moments().clone());
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

/// Candle's trait is the same update, by variables without names.
#[test]
fn candles_optimizer_does_the_same() {
    let start = vec![1f32, -2., 3.];
    let named = vars(&[("0", start.clone())]);
    let mut ours = Adam::named(named.clone(), AdamConfig::default());
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
