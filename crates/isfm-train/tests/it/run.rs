//! Whole runs of a small model on painted pairs.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::common::{builder, create, everything, log, model, paint, recipe, resume};
use candle_core::{Device, Tensor};
use isfm_model::{Checkpoint, Network, Weights};
use isfm_train::{Corrupt, Error, Outcome, PairFolder, RunOptions, State, Trainer};

const PAIRS: u32 = 7;

fn folder() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    paint(&data, PAIRS);
    (dir, data)
}

/// Initial weights, one bias of which is this value everywhere.
fn with_bias(name: &str, value: f64) -> Weights {
    let mut weights = isfm_model::initial_weights(&model(), 1, &Device::Cpu).unwrap();
    let bias = weights.get_mut(name).unwrap();
    *bias = bias.affine(0., value).unwrap();
    weights
}

fn bits(weights: &Weights) -> Vec<(String, Vec<u32>)> {
    let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let bits = |t| values(t).into_iter().map(f32::to_bits).collect();
    weights.iter().map(|(n, t)| (n.clone(), bits(t))).collect()
}

#[test]
fn training_lowers_the_loss_and_leaves_usable_weights() {
    let (dir, data) = folder();
    let out = dir.path().join("out");
    let mut trainer = create(&data, &out, 8);
    assert_eq!((trainer.steps_per_epoch(), trainer.total_steps()), (3, 24));
    assert_eq!(trainer.run(&RunOptions::default()).unwrap(), Outcome::Finished);
    let losses: Vec<f32> = log(&out).iter().map(|l| f32::from_bits(l.3[0])).collect();
    assert_eq!(losses.len(), 24);
    let mean = |l: &[f32]| l.iter().sum::<f32>() / l.len() as f32;
    let (first, last) = (mean(&losses[..6]), mean(&losses[18..]));
    assert!(last < 0.6 * first, "{first} to {last}: {losses:?}");

    // What was written is what was trained, and it fuses alike.
    let file = Checkpoint::read(out.join("weights.safetensors"), None, &Device::Cpu).unwrap();
    assert_eq!(file.config, model());
    assert_eq!(bits(&file.weights), bits(&trainer.weights().unwrap()));
    assert_eq!(file.metadata.get("training_step").map(String::as_str), Some("24"));
    let x = Tensor::rand(0f32, 1., (1, 1, 24, 30), &Device::Cpu).unwrap();
    let fuse = |n: &Network| n.forward(&x, &x).unwrap().flatten_all().unwrap().to_vec1::<f32>();
    let read = Network::from_weights(&file.config, &file.weights).unwrap();
    let kept = Network::from_weights(&model(), &trainer.weights().unwrap()).unwrap();
    let fused = fuse(&read).unwrap();
    assert_eq!(fused, fuse(&kept).unwrap());
    // The trainer's own network tracks gradients: it takes its steps one by one, not fused, which
    // rounds differently. Its output is about 1, and f32 carries 7 digits.
    let tracked = fuse(trainer.network()).unwrap();
    assert!(fused.iter().zip(&tracked).all(|(a, b)| (a - b).abs() < 1e-5));
    let curve = std::fs::read_to_string(out.join("curve.svg")).unwrap();
    assert!(curve.starts_with("<svg") && curve.contains("gradient") && !curve.contains("NaN"));

    // A finished run has nothing left to do.
    assert_eq!(trainer.run(&RunOptions::default()).unwrap(), Outcome::Finished);
    assert!(trainer.step().is_err());
    assert_eq!(log(&out).len(), 24);
}

#[test]
fn a_resumed_run_and_any_number_of_threads_repeat_the_run_bit_by_bit() {
    let (dir, data) = folder();
    let whole = dir.path().join("whole");
    let mut trainer = create(&data, &whole, 3);
    trainer.run(&RunOptions { threads: Some(2), ..RunOptions::default() }).unwrap();

    // Stopped in the middle of an epoch, twice, once by count and once by the flag.
    let parts = dir.path().join("parts");
    let one = || RunOptions { threads: Some(1), ..RunOptions::default() };
    let mut part = create(&data, &parts, 3);
    let stop_after = Some(2);
    assert_eq!(part.run(&RunOptions { stop_after, ..one() }).unwrap(), Outcome::Stopped);
    drop(part);
    let mut part = resume(&data, &parts, 3).unwrap();
    assert_eq!((part.steps_done(), part.warnings().len()), (2, 0));
    let stop = Some(Arc::new(AtomicBool::new(true)));
    assert_eq!(part.run(&RunOptions { stop, ..one() }).unwrap(), Outcome::Stopped);
    // Steps beyond the last checkpoint are done again.
    part.step().unwrap();
    drop(part);
    assert_eq!(log(&parts).len(), 4);
    let mut part = resume(&data, &parts, 3).unwrap();
    assert_eq!(part.steps_done(), 3);
    assert_eq!(log(&parts).len(), 3);
    assert_eq!(part.run(&one()).unwrap(), Outcome::Finished);
    assert_eq!(log(&parts), log(&whole));
    assert_eq!(bits(&part.weights().unwrap()), bits(&trainer.weights().unwrap()));
    assert!(part.seconds() > 0.);

    // Another seed is another run.
    let other = dir.path().join("other");
    let mut recipe = recipe(3);
    recipe.seed += 1;
    let mut other = builder(&data, recipe).create(&other).unwrap();
    assert_ne!(other.step().unwrap().total.to_bits(), log(&whole)[0].3[0]);
}

#[test]
fn a_damaged_checkpoint_gives_way_to_the_one_before() {
    let (dir, data) = folder();
    let out = dir.path().join("out");
    let mut trainer = create(&data, &out, 3);
    let options = RunOptions { stop_after: Some(4), checkpoint_steps: 1, ..RunOptions::default() };
    trainer.run(&options).unwrap();
    drop(trainer);
    let before = log(&out);
    let last = out.join("last.safetensors");
    let whole = std::fs::read(&last).unwrap();
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for damaged in [&whole[..whole.len() / 2], &whole[..5], &[], flipped.as_slice()] {
        std::fs::write(&last, damaged).unwrap();
        let trainer = resume(&data, &out, 3).unwrap();
        assert_eq!(trainer.steps_done(), 3);
        assert!(trainer.warnings()[0].contains("going on from"), "{:?}", trainer.warnings());
        assert!(out.join("damaged.safetensors").exists() && !last.exists());
    }
    // With only the previous one there, as when killed between two renames.
    let mut trainer = resume(&data, &out, 3).unwrap();
    trainer.step().unwrap();
    trainer.save().unwrap();
    assert_eq!(log(&out), before);
    assert_eq!(State::read(&out.join("previous.safetensors")).unwrap().step, 3);
    assert_eq!(State::read(&last).unwrap().step, 4);
    drop(trainer);

    for name in ["last.safetensors", "previous.safetensors"] {
        std::fs::write(out.join(name), "rubbish").unwrap();
    }
    assert!(matches!(resume(&data, &out, 3), Err(Error::NoCheckpoint { .. })));
    assert!(matches!(resume(&data, &dir.path().join("no"), 3), Err(Error::NoCheckpoint { .. })));
    // Weights alone are not a checkpoint, and the error says so.
    std::fs::copy(out.join("weights.safetensors"), &last).unwrap();
    let text = resume(&data, &out, 3).unwrap_err().to_string();
    assert!(text.contains("weights alone"), "{text}");
}

#[test]
fn a_run_is_resumed_only_with_its_own_settings() {
    let (dir, data) = folder();
    let out = dir.path().join("out");
    drop(create(&data, &out, 3));
    let differs = |error: Error| match error {
        Error::Differs { setting, .. } => setting,
        other => panic!("{other}"),
    };
    assert_eq!(differs(resume(&data, &out, 4).unwrap_err()), "epochs");
    let mut seed = recipe(3);
    seed.seed = 2;
    let text = builder(&data, seed).resume(&out).unwrap_err().to_string();
    assert!(text.contains("`seed` = 1, but 2 was given"), "{text}");
    let mut rate = recipe(3);
    rate.schedule.peak *= 2.;
    assert_eq!(differs(builder(&data, rate).resume(&out).unwrap_err()), "schedule.peak");
    let mut deeper = model();
    deeper.depths = vec![1, 1];
    let folder = PairFolder::open(&data).unwrap();
    let error = Trainer::builder(deeper, folder).config(recipe(3)).resume(&out).unwrap_err();
    assert_eq!(differs(error), "model.depths");
    paint(&data, PAIRS + 1);
    assert!(differs(resume(&data, &out, 3).unwrap_err()).starts_with("data."));
}

#[test]
fn a_loss_that_is_not_a_number_stops_and_keeps_the_checkpoint() {
    let (dir, data) = folder();
    let out = dir.path().join("out");
    let weights = with_bias("conv1_before.0.bias", f64::NAN);
    let mut trainer = builder(&data, recipe(3)).weights(weights).create(&out).unwrap();
    let before = std::fs::read(out.join("last.safetensors")).unwrap();
    let error = trainer.run(&RunOptions::default()).unwrap_err();
    let text = error.to_string();
    let Error::NonFinite { step, samples, checkpoint, checkpoint_step, .. } = error else {
        panic!("{text}")
    };
    assert_eq!((step, samples.len(), checkpoint_step), (1, 2, 0));
    assert!(samples.iter().all(|s| s.ends_with(".png")) && text.contains(&samples[0]), "{text}");
    assert_eq!(checkpoint, out.join("last.safetensors"));
    assert_eq!(std::fs::read(checkpoint).unwrap(), before);
    assert!(!out.join("weights.safetensors").exists());
    assert_eq!(log(&out).len(), 0);
}

#[test]
fn a_network_that_cannot_learn_is_given_up() {
    let (dir, data) = folder();
    // The output's bias: the whole picture lies below 0 and is clamped.
    let weights = with_bias("conv_final_fuse.2.bias", -100.);
    let builder = builder(&data, recipe(30)).weights(weights);
    let mut trainer = builder.create(dir.path().join("out")).unwrap();
    let error = trainer.run(&RunOptions::default()).unwrap_err();
    assert!(matches!(error, Error::Stuck { step: 50, steps: 50 }), "{error}");
}

/// Cuts off the end of a picture, which its header does not show, and gives back what it was.
fn cut(path: &Path) -> Vec<u8> {
    let bytes = std::fs::read(path).unwrap();
    std::fs::write(path, &bytes[..bytes.len() - 60]).unwrap();
    bytes
}

#[test]
fn a_damaged_pair_is_named_once_and_others_take_its_place() {
    let (dir, data) = folder();
    let path = data.join("vi/003.png");
    let whole_picture = cut(&path);
    let whole = dir.path().join("whole");
    let mut trainer = create(&data, &whole, 5);
    assert!(trainer.left_out().is_empty());
    assert_eq!(trainer.run(&RunOptions::default()).unwrap(), Outcome::Finished);
    let [told] = &trainer.left_out()[..] else { panic!("{:?}", trainer.left_out()) };
    assert!(told.contains("vi/003.png"), "{told}");
    drop(trainer);

    // Bit for bit, also where the run is stopped and on another number of threads.
    let parts = dir.path().join("parts");
    let some = RunOptions { stop_after: Some(4), threads: Some(1), ..RunOptions::default() };
    create(&data, &parts, 5).run(&some).unwrap();
    for _ in 0..2 {
        resume(&data, &parts, 5).unwrap().run(&some).unwrap();
    }
    assert_eq!(log(&parts)[..12], log(&whole)[..12]);

    // Once it is repaired, the run goes on and says that it has seen it.
    std::fs::write(&path, whole_picture).unwrap();
    let mut trainer = resume(&data, &parts, 5).unwrap();
    assert!(trainer.warnings()[0].contains("replaced"), "{:?}", trainer.warnings());
    assert_eq!(trainer.run(&RunOptions::default()).unwrap(), Outcome::Finished);
    assert!(trainer.left_out().is_empty());
}

#[test]
fn more_damage_than_allowed_ends_the_run_and_names_all_of_it() {
    let (dir, data) = folder();
    let begin =
        |corrupt, name| builder(&data, recipe(5)).corrupt(corrupt).create(dir.path().join(name));
    let fails = |result: isfm_train::Result<()>, count: usize| {
        let error = result.unwrap_err();
        let text = error.to_string();
        let Error::Corrupt { problems, pairs: 7, .. } = error else { panic!("{text}") };
        assert_eq!(problems.len(), count, "{text}");
        assert!(problems.iter().all(|problem| text.contains(problem)), "{text}");
    };
    cut(&data.join("ir/002.png"));
    fails(begin(Corrupt::Refuse, "a").map(drop), 1);
    cut(&data.join("vi/005.png"));
    fails(begin(Corrupt::Refuse, "b").map(drop), 2);
    // Found on the way, or by their headers before the first step.
    let mut trainer = begin(Corrupt::default(), "c").unwrap();
    fails(trainer.run(&RunOptions::default()).map(drop), 2);
    drop(trainer);
    std::fs::write(data.join("vi/005.png"), "no picture").unwrap();
    std::fs::remove_file(data.join("ir/002.png")).unwrap();
    std::fs::copy(data.join("ir/001.png"), data.join("ir/002.png")).unwrap();
    fails(begin(Corrupt::default(), "d").map(drop), 2);
    let mut trainer = begin(Corrupt::Skip(Some(2)), "e").unwrap();
    assert_eq!(trainer.left_out().len(), 2);
    assert_eq!(trainer.run(&RunOptions::default()).unwrap(), Outcome::Finished);
    // The run that gave up goes on with another answer.
    let builder = builder(&data, recipe(5)).corrupt(Corrupt::Skip(Some(2)));
    builder.resume(dir.path().join("c")).unwrap().run(&RunOptions::default()).unwrap();

    // Not one is left.
    for n in 0..7 {
        std::fs::write(data.join(format!("vi/00{n}.png")), "no picture").unwrap();
    }
    let mut trainer = begin(Corrupt::Skip(Some(99)), "f").unwrap();
    fails(trainer.run(&RunOptions::default()).map(drop), 7);
}

#[test]
fn damaged_pairs_that_are_held_back_are_not_scored() {
    let (dir, data) = folder();
    let out = dir.path().join("out");
    let held = builder(&data, everything()).create(dir.path().join("a")).unwrap().held_back();
    cut(&data.join("vi").join(&held[0]));
    let mut trainer = builder(&data, everything()).create(&out).unwrap();
    trainer.run(&RunOptions::default()).unwrap();
    assert!(trainer.validations().unwrap().iter().all(|v| v.pairs == held.len().min(2) - 1));
    assert!(trainer.left_out()[0].contains(&held[0]));
}

#[test]
fn options_out_of_range_are_refused() {
    let (dir, data) = folder();
    let mut trainer = create(&data, &dir.path().join("out"), 1);
    let mut told = |options: RunOptions| trainer.run(&options).unwrap_err().to_string();
    let some = RunOptions::default;
    assert!(told(RunOptions { stop_after: Some(0), ..some() }).contains("`stop_after` is 0"));
    for threads in [0, 1_000_000_000, usize::MAX] {
        let told = told(RunOptions { threads: Some(threads), ..some() });
        assert!(told.contains("`threads`") && told.contains("1 to 1024"), "{told}");
    }
    // Neither overflows nor waits for a checkpoint that is never due.
    let mut trainer = create(&data, &dir.path().join("long"), usize::MAX);
    assert_eq!(trainer.total_steps(), usize::MAX);
    let options = RunOptions {
        checkpoint_every: Duration::MAX,
        stop_after: Some(1),
        ..RunOptions::default()
    };
    assert_eq!(trainer.run(&options).unwrap(), Outcome::Stopped);
}

#[test]
#[cfg(target_os = "linux")]
fn a_step_that_no_memory_holds_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    for side in ["vi", "ir"] {
        std::fs::create_dir_all(data.join(side)).unwrap();
    }
    for n in 0..400 {
        for side in ["vi", "ir"] {
            image::GrayImage::new(1, 1).save(data.join(format!("{side}/{n}.png"))).unwrap();
        }
    }
    let recipe = isfm_train::TrainConfig { batch: 400, patch: 4096, ..recipe(1) };
    let error = builder(&data, recipe).create(dir.path().join("out")).unwrap_err();
    // 400 × 4096² pixels take 3 TB, wherever that can be compared with anything.
    let text = error.to_string();
    assert!(text.contains("400 samples of 4096x4096") && text.contains("bytes"), "{text}");
}

#[test]
fn outputs_are_never_overwritten_or_shared() {
    let (dir, data) = folder();
    let again = |out: &Path| builder(&data, recipe(1)).create(out);
    let out = dir.path().join("a/new/folder");
    let trainer = create(&data, &out, 1);
    assert!(matches!(again(&out), Err(Error::OutputNotEmpty(_))));
    assert!(matches!(resume(&data, &out, 1), Err(Error::OutputInUse(_))));
    drop(trainer);
    // Killed before its first checkpoint: begun again.
    let early = dir.path().join("early");
    std::fs::create_dir(&early).unwrap();
    for name in [".lock", "log.jsonl", "validation.jsonl", ".isfm-x.tmp"] {
        std::fs::write(early.join(name), "").unwrap();
    }
    drop(create(&data, &early, 1));
    assert!(!early.join(".isfm-x.tmp").exists());
    // Left by a killed run; swept up by the next.
    std::fs::write(out.join(".isfm-x.tmp"), "half").unwrap();
    drop(resume(&data, &out, 1).unwrap());
    assert!(!out.join(".isfm-x.tmp").exists());
    std::fs::write(dir.path().join("file"), "").unwrap();
    assert!(matches!(again(&dir.path().join("file")), Err(Error::Io { .. })));

    let mut large = recipe(1);
    large.batch = 8;
    let error = builder(&data, large).create(dir.path().join("b"));
    assert!(error.unwrap_err().to_string().contains("at most the 7 pairs"));
}

#[test]
fn checkpoints_are_written_as_time_goes_by() {
    let (dir, data) = folder();
    let out = dir.path().join("out");
    let mut trainer = create(&data, &out, 2);
    let checkpoint_every = Duration::ZERO;
    let options = RunOptions { checkpoint_every, stop_after: Some(2), ..RunOptions::default() };
    trainer.run(&options).unwrap();
    assert_eq!(State::read(&out.join("last.safetensors")).unwrap().step, 2);
    assert_eq!(State::read(&out.join("previous.safetensors")).unwrap().step, 1);
    let (state, path, problem) = State::latest(&out).unwrap();
    assert_eq!((state.step, state.train, problem.is_none()), (2, recipe(2), true));
    assert!(path.ends_with("last.safetensors"));
}
