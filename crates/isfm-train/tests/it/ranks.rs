//! Several ranks, as threads of one process, against a single one: bit by bit.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::common::{builder, everything, log, model, paint};
use candle_core::{Device, Tensor};
use isfm_train::{
    Collective, Corrupt, Error, InProcess, Outcome, RunOptions, State, TrainConfig, Trainer,
};

/// Enough for steps of four pairs with some held back.
const PAIRS: u32 = 12;

fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    paint(&data, PAIRS);
    (dir, data)
}

/// Everything that a run can have, in four micro-batches a step.
fn quarters() -> TrainConfig {
    TrainConfig { batch: 4, micro_batch: Some(1), ..everything() }
}

/// What each of `size` ranks gives.
fn on_ranks<T: Send>(size: usize, work: impl Fn(InProcess) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let work = &work;
        let ranks = InProcess::group(size).into_iter();
        let ranks: Vec<_> = ranks.map(|rank| scope.spawn(move || work(rank))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn one_thread() -> RunOptions {
    RunOptions { threads: Some(1), ..RunOptions::default() }
}

/// Trains on so many ranks, of which only the first is told of a folder that exists.
fn train(size: usize, data: &Path, output: &Path, train: &TrainConfig, options: &RunOptions) {
    let resume = output.exists();
    let outcomes = on_ranks(size, |group| {
        let elsewhere = Path::new("/no/such/folder");
        let output = if group.rank() == 0 { output } else { elsewhere };
        let builder = builder(data, train.clone()).collective(group);
        let trainer = if resume { builder.resume(output) } else { builder.create(output) };
        let mut trainer = trainer.unwrap();
        (trainer.run(options).unwrap(), trainer.steps_done())
    });
    assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "{outcomes:?}");
}

/// All that a run leaves but the times: log, validations, the newest checkpoint, and its weights.
fn left(output: &Path) -> impl PartialEq + std::fmt::Debug + use<> {
    let state = State::read(&output.join("last.safetensors")).unwrap();
    let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let tensor = |t: &Tensor| bits(&t.flatten_all().unwrap().to_vec1::<f32>().unwrap());
    let weights: Vec<_> = state.weights.iter().map(|(n, t)| (n.clone(), tensor(t))).collect();
    let moments = state.moments.values().flat_map(|m| [bits(&m.mean), bits(&m.square)]);
    let average = state.average.iter().flatten().map(|(_, values)| bits(values));
    let file = output.join("weights.safetensors");
    let file = isfm_model::Checkpoint::read(file, None, &Device::Cpu).unwrap();
    let file: Vec<_> = file.weights.iter().map(|(n, t)| (n.clone(), tensor(t))).collect();
    let validations = std::fs::read_to_string(output.join("validation.jsonl")).ok();
    (
        (log(output), validations, state.step, state.best.map(f64::to_bits)),
        (weights, moments.collect::<Vec<_>>(), average.collect::<Vec<_>>(), file),
        (state.train, state.pairs, state.fingerprint, state.names, state.run),
    )
}

/// The error that all ranks must have, as text.
fn same_error<T>(errors: Vec<isfm_train::Result<T>>) -> String {
    let texts: Vec<String> =
        errors.into_iter().map(|e| e.err().expect("no error").to_string()).collect();
    assert!(texts.iter().all(|text| *text == texts[0]), "{texts:#?}");
    texts[0].clone()
}

#[test]
fn any_number_of_ranks_repeats_the_run_bit_by_bit() {
    let (dir, data) = folder();
    let run = |size: usize| {
        let output = dir.path().join(size.to_string());
        train(size, &data, &output, &quarters(), &one_thread());
        left(&output)
    };
    let alone = run(1);
    for size in 2..=4 {
        assert_eq!(run(size), alone, "{size} ranks");
    }
    // Uneven shares: three micro-batches of two pairs on two ranks.
    let thirds = TrainConfig { batch: 6, micro_batch: Some(2), clip: None, ..quarters() };
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    train(1, &data, &a, &thirds, &one_thread());
    train(2, &data, &b, &thirds, &one_thread());
    assert_eq!(left(&a), left(&b));
}

#[test]
fn a_run_goes_on_with_any_number_of_ranks() {
    let (dir, data) = folder();
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    train(1, &data, &whole, &quarters(), &one_thread());
    let two = RunOptions { stop_after: Some(2), ..one_thread() };
    for size in [2, 4, 1] {
        train(size, &data, &parts, &quarters(), &two);
    }
    train(3, &data, &parts, &quarters(), &one_thread());
    assert_eq!(left(&parts), left(&whole));
}

/// In exact arithmetic the size of micro-batches changes nothing.
#[test]
fn micro_batches_are_means_over_the_batch() {
    let (dir, data) = folder();
    let step = |micro_batch| {
        let train = TrainConfig { micro_batch, ..quarters() };
        let output = dir.path().join(format!("{micro_batch:?}"));
        builder(&data, train).create(output).unwrap().step().unwrap()
    };
    let whole = step(None);
    for micro_batch in [1, 2, 4] {
        let report = step(Some(micro_batch));
        let (got, want) = (report.losses(), whole.losses());
        let extra = [("scd", report.scd.unwrap()), ("norm", report.norm.unwrap())];
        let wanted = [("scd", whole.scd.unwrap()), ("norm", whole.norm.unwrap())];
        for ((name, got), (_, want)) in got.iter().chain(&extra).zip(want.iter().chain(&wanted)) {
            // f32 carries 7 digits; the norm is of sums over thousands of pixels.
            assert!((got - want).abs() <= 1e-4 * want.abs(), "{name}: {got} {want}");
            assert!(micro_batch != 4 || got == want, "{name}: {got} {want}");
        }
    }
}

#[test]
fn a_loss_that_is_not_a_number_stops_all_with_the_same_error() {
    let (dir, data) = folder();
    let mut weights = isfm_model::initial_weights(&model(), 1, &Device::Cpu).unwrap();
    let bias = weights.get_mut("conv1_before.0.bias").unwrap();
    *bias = bias.affine(0., f64::NAN).unwrap();
    let run = |group: Option<InProcess>| {
        let name = if group.is_some() { "many" } else { "alone" };
        let mut builder = builder(&data, quarters()).weights(weights.clone());
        builder = match group {
            Some(group) => builder.collective(group),
            None => builder,
        };
        builder.create(dir.path().join(name)).unwrap().run(&RunOptions::default()).map(drop)
    };
    let alone = run(None).unwrap_err();
    let Error::NonFinite { samples, .. } = &alone else { panic!("{alone}") };
    assert_eq!(samples.len(), 4);
    let text = same_error(on_ranks(3, |group| run(Some(group))));
    assert_eq!(text.replace("many", "alone"), alone.to_string());
}

#[test]
fn a_damaged_pair_changes_nothing_between_ranks() {
    let (dir, data) = folder();
    let path = data.join("vi/003.png");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 60]).unwrap();
    let quarters = TrainConfig { steps: Some(9), validation: None, ..quarters() };
    let (alone, many) = (dir.path().join("alone"), dir.path().join("many"));
    train(1, &data, &alone, &quarters, &one_thread());
    let left_out = on_ranks(4, |group| {
        let mut trainer = builder(&data, quarters.clone()).collective(group).create(&many).unwrap();
        trainer.run(&one_thread()).unwrap();
        trainer.left_out()
    });
    assert_eq!(left(&many), left(&alone));
    // One rank met it, all know.
    for left_out in left_out {
        assert!(left_out.len() == 1 && left_out[0].contains("vi/003.png"), "{left_out:?}");
    }

    // One is too many.
    let refused = on_ranks(4, |group| {
        let builder = builder(&data, quarters.clone()).corrupt(Corrupt::Skip(Some(0)));
        let mut trainer = builder.collective(group).create(dir.path().join("refused")).unwrap();
        trainer.run(&one_thread())
    });
    let text = same_error(refused);
    assert!(text.contains("vi/003.png") && text.contains("at most 0"), "{text}");
}

#[test]
fn another_world_is_refused_before_the_first_step() {
    let (dir, data) = folder();
    let other_data = dir.path().join("other");
    paint(&other_data, PAIRS - 1);
    let renamed = dir.path().join("renamed");
    paint(&renamed, PAIRS);
    for side in ["vi", "ir"] {
        std::fs::rename(renamed.join(side).join("004.png"), renamed.join(side).join("z.png"))
            .unwrap();
    }
    let output = dir.path().join("out");
    let begin = |group: InProcess, data: &Path, train: TrainConfig| {
        builder(data, train).collective(group).create(&output)
    };
    let mut seed = quarters();
    seed.seed += 1;
    let mut rate = quarters();
    rate.schedule.peak *= 2.;
    type Given<'a> = (&'a str, &'a Path, TrainConfig);
    let cases: [Given; 4] = [
        ("seed", &data, seed),
        ("schedule.peak", &data, rate),
        ("data.pairs", &other_data, quarters()),
        ("data.names", &renamed, quarters()),
    ];
    for (setting, other_data, other) in cases {
        let text = same_error(on_ranks(3, |group| match group.rank() {
            1 => begin(group, other_data, other.clone()),
            _ => begin(group, &data, quarters()),
        }));
        assert!(text.starts_with(&format!("rank 1 has `{setting}`")), "{text}");
        assert!(!output.exists(), "{setting}");
    }

    // One that goes on where the others begin.
    let text = same_error(on_ranks(2, |group| {
        let resume = group.rank() == 1;
        let builder = builder(&data, quarters()).collective(group);
        if resume { builder.resume(&output) } else { builder.create(&output) }
    }));
    assert!(text.starts_with("rank 1 has `resume` = true, but rank 0 has false"), "{text}");

    // Settings that are wrong by themselves, on one rank or on all.
    let mut none = quarters();
    none.batch = 0;
    let text = same_error(on_ranks(2, |group| match group.rank() {
        1 => begin(group, &data, none.clone()),
        _ => begin(group, &data, quarters()),
    }));
    assert!(text.starts_with("rank 1: setting `batch` is 0"), "{text}");
    let halves = TrainConfig { micro_batch: Some(2), ..quarters() };
    let text = same_error(on_ranks(3, |group| begin(group, &data, halves.clone())));
    assert!(text.starts_with("setting `micro_batch` is 2") && text.contains("3 ranks"), "{text}");
    assert!(!output.exists());

    // A folder that only rank 0 can tell to be wrong.
    std::fs::create_dir(&output).unwrap();
    std::fs::write(output.join("mine"), "").unwrap();
    let text = same_error(on_ranks(2, |group| begin(group, &data, quarters())));
    assert!(text.contains("not empty"), "{text}");
}

#[test]
fn one_that_is_asked_to_stop_stops_all() {
    let (dir, data) = folder();
    let output = dir.path().join("out");
    let ended = on_ranks(3, |group| {
        let stop = Some(Arc::new(AtomicBool::new(group.rank() == 2)));
        let mut trainer = builder(&data, quarters()).collective(group).create(&output).unwrap();
        let outcome = trainer.run(&RunOptions { stop, ..one_thread() }).unwrap();
        (outcome, trainer.steps_done())
    });
    assert_eq!(ended, [(Outcome::Stopped, 1); 3]);
    assert_eq!(State::read(&output.join("last.safetensors")).unwrap().step, 1);
}

#[test]
fn what_one_rank_cannot_do_ends_all() {
    let (dir, data) = folder();
    let begin = |group: InProcess, name: &str| -> Trainer {
        let builder = builder(&data, TrainConfig { validation: None, ..quarters() });
        builder.collective(group).create(dir.path().join(name)).unwrap()
    };
    // Rank 0 cannot write, after the others have done their part: in the middle, and after the last step.
    for (name, stop_after) in [("middle", None), ("last", Some(1))] {
        let text = same_error(on_ranks(3, |group| {
            let first = group.rank() == 0;
            let mut trainer = begin(group, name);
            if first {
                std::fs::remove_dir_all(dir.path().join(name)).unwrap();
                std::fs::write(dir.path().join(name), "a file").unwrap();
            }
            let options = RunOptions { checkpoint_steps: 1, stop_after, ..one_thread() };
            trainer.run(&options).map(drop)
        }));
        // Which of its files is the first depends on where the epoch ends.
        assert!(text.starts_with("rank 0: cannot") && text.contains(".safetensors"), "{text}");
    }
    // One asks for what cannot be had.
    let text = same_error(on_ranks(2, |group| {
        let threads = Some(group.rank());
        begin(group, "threads").run(&RunOptions { threads, ..one_thread() }).map(drop)
    }));
    assert!(text.starts_with("rank 0: setting `threads` is 0"), "{text}");

    // One that is gone.
    let errors = on_ranks(3, |group| {
        let dies = group.rank() == 1;
        let mut trainer = begin(group, "dies");
        trainer.step().unwrap();
        if dies { None } else { Some(trainer.run(&one_thread()).unwrap_err()) }
    });
    for error in errors.into_iter().flatten() {
        // The last to notice may find another one gone first.
        assert!(matches!(error, Error::Collective(_)), "{error}");
    }
    // What it had saved is there.
    let state = State::latest(&dir.path().join("dies")).unwrap().0;
    assert_eq!(state.step, 0);
}
