//! Runs with all that the authors' recipe does not have: validation, average, clipping.

use std::path::Path;

use crate::common::{builder, everything, log, paint};
use candle_core::{Device, Tensor};
use isfm_model::{Checkpoint, Weights};
use isfm_train::{RunOptions, State, TrainConfig, ValidationReport};

fn values(weights: &Weights) -> Vec<f32> {
    let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    weights.values().flat_map(values).collect()
}

fn file(path: impl AsRef<Path>) -> Checkpoint {
    Checkpoint::read(path, None, &Device::Cpu).unwrap()
}

#[test]
fn a_resumed_run_with_everything_repeats_bit_by_bit() {
    let dir = tempfile::tempdir().unwrap();
    let (data, whole, parts) =
        (dir.path().join("data"), dir.path().join("a"), dir.path().join("b"));
    paint(&data, 9);
    let mut trainer = builder(&data, everything()).create(&whole).unwrap();
    trainer.run(&RunOptions { threads: Some(2), ..RunOptions::default() }).unwrap();

    let one = RunOptions { threads: Some(1), ..RunOptions::default() };
    let mut part = builder(&data, everything()).create(&parts).unwrap();
    part.run(&RunOptions { stop_after: Some(3), ..one.clone() }).unwrap();
    // Beyond the checkpoint, a validation included: done again.
    part.step().unwrap();
    assert_eq!(part.validations().unwrap().len(), 2);
    drop(part);
    let mut part = builder(&data, everything()).resume(&parts).unwrap();
    assert_eq!((part.steps_done(), part.validations().unwrap().len()), (3, 1));
    part.run(&one).unwrap();

    assert_eq!(log(&parts), log(&whole));
    let text = |of: &Path| std::fs::read_to_string(of.join("validation.jsonl")).unwrap();
    assert_eq!(text(&parts), text(&whole));
    assert_eq!(values(&part.weights().unwrap()), values(&trainer.weights().unwrap()));
    assert_eq!(values(&part.averaged().unwrap()), values(&trainer.averaged().unwrap()));
    let best = |of: &Path| values(&file(of.join("best.safetensors")).weights);
    assert_eq!(best(&parts), best(&whole));
    let state = |of: &Path| State::latest(of).unwrap().0;
    assert!(state(&parts).best.is_some() && state(&parts).best == state(&whole).best);
    assert_eq!(state(&parts).average, state(&whole).average);
}

#[test]
fn reports_say_what_was_done() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (dir.path().join("data"), dir.path().join("out"));
    paint(&data, 9);
    let mut trainer = builder(&data, everything()).create(&out).unwrap();
    assert_eq!(trainer.total_steps(), 7);
    let mut bests = Vec::new();
    for step in 1..=7 {
        let report = trainer.step().unwrap();
        assert!(report.scd.is_some_and(f32::is_finite) && report.norm.is_some_and(|n| n > 0.));
        let validations = trainer.validations().unwrap();
        // After every second step and the last.
        if [2, 4, 6, 7].contains(&step) {
            let last: &ValidationReport = validations.last().unwrap();
            assert_eq!((last.step, last.pairs), (step, 2));
            assert!(last.criterion.is_finite());
            for name in ["EN", "SF", "AG", "VIF", "MI", "Qabf", "SCD", "SSIM"] {
                assert!(last.scores[name].is_finite(), "{name}");
            }
            if last.best {
                bests.push((last.criterion, values(&trainer.averaged().unwrap())));
            }
        } else {
            assert_ne!(validations.last().map(|v| v.step), Some(step));
        }
    }
    assert!(trainer.step().unwrap_err().to_string().contains("`steps`"));
    assert!(bests.windows(2).all(|w| w[0].0 < w[1].0));
    let best = file(out.join("best.safetensors"));
    let (criterion, weights) = bests.last().unwrap();
    assert_eq!(&values(&best.weights), weights);
    assert_eq!(best.metadata["validation"], criterion.to_string());
    for n in 1..=2 {
        let picture = image::open(out.join(format!("validation-{n}.png"))).unwrap();
        assert!(picture.width() >= 60 && picture.height() >= 50);
    }
    trainer.export().unwrap();
    let curve = std::fs::read_to_string(out.join("curve.svg")).unwrap();
    assert!(curve.contains(">validation<") && curve.contains(">scd<") && !curve.contains("NaN"));
    assert_eq!(
        values(&file(out.join("weights.safetensors")).weights),
        values(&trainer.averaged().unwrap())
    );
}

#[test]
fn the_average_follows_its_formula() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    paint(&data, 7);
    let config = TrainConfig { ema: Some(0.25), ..crate::common::recipe(2) };
    let mut trainer = builder(&data, config).create(dir.path().join("out")).unwrap();
    let mut average: Vec<f64> =
        values(&trainer.weights().unwrap()).into_iter().map(f64::from).collect();
    for t in 1..=5 {
        trainer.step().unwrap();
        let decay = [2. / 11., 3. / 12., 0.25, 0.25, 0.25][t - 1];
        for (a, w) in average.iter_mut().zip(values(&trainer.weights().unwrap())) {
            *a = decay * *a + (1. - decay) * f64::from(w);
        }
    }
    let got = values(&trainer.averaged().unwrap());
    let off = got.iter().zip(&average).map(|(g, a)| (f64::from(*g) - a).abs());
    assert!(off.fold(0., f64::max) < 1e-6);
    assert_ne!(got, values(&trainer.weights().unwrap()));
}

#[test]
fn a_share_that_holds_back_nothing_or_all_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    paint(&data, 3);
    for share in [1e-9, 1. - 1e-9] {
        let mut config = everything();
        config.validation.as_mut().unwrap().share = share;
        let error = builder(&data, config).create(dir.path().join("out")).unwrap_err();
        assert!(error.to_string().contains("`validation.share`"), "{error}");
    }
}
