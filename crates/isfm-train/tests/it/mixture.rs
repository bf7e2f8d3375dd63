//! Several folders as one data set.

use std::path::Path;

use crate::common::{model, paint, recipe};
use isfm_train::{DataSet, PairFolder, TrainConfig, Trainer, Validation};

/// Two folders of 7 and 5 pairs.
fn mixture(dir: &Path, shares: [f64; 2]) -> DataSet {
    let folders = [("one", 7), ("two", 5)].map(|(name, pairs)| {
        paint(&dir.join(name), pairs);
        PairFolder::open(dir.join(name)).unwrap()
    });
    DataSet::mixture(folders.into_iter().zip(shares).collect()).unwrap()
}

fn trainer(dir: &Path, shares: [f64; 2], output: &str) -> Trainer {
    let builder = Trainer::builder(model(), mixture(dir, shares)).config(recipe(200));
    builder.create(dir.join(output)).unwrap()
}

#[test]
fn folders_are_chosen_by_their_shares() {
    let dir = tempfile::tempdir().unwrap();
    let three = trainer(dir.path(), [3., 1.], "three");
    assert_eq!((three.steps_per_epoch(), three.total_steps()), (6, 1200));
    let drawn: Vec<_> = (0..1200).flat_map(|step| three.pairs_of_step(step)).collect();
    let of_one = drawn.iter().filter(|name| name.contains("one")).count();
    // Five standard deviations, sqrt(2400 * 3 / 16) = 21.
    assert!(of_one.abs_diff(1800) < 106, "{of_one}");
    let mut names = drawn.clone();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 12);
    let again = trainer(dir.path(), [3., 1.], "again");
    assert_eq!(again.pairs_of_step(77), three.pairs_of_step(77));
}

#[test]
fn a_mixture_trains_and_is_resumed_with_its_own_shares() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = trainer(dir.path(), [3., 1.], "run");
    let first = run.step().unwrap();
    run.save().unwrap();
    let second = run.step().unwrap();
    drop(run);
    let resume = |shares| {
        let builder = Trainer::builder(model(), mixture(dir.path(), shares)).config(recipe(200));
        builder.resume(dir.path().join("run"))
    };
    let error = resume([2., 1.]).unwrap_err().to_string();
    assert!(error.contains("`data.names`"), "{error}");
    let repeated = resume([3., 1.]).unwrap().step().unwrap();
    assert_eq!((repeated.step, repeated.total.to_bits()), (2, second.total.to_bits()));
    assert_ne!(first.total, second.total);
}

#[test]
fn a_folder_alone_is_what_it_always_was() {
    let dir = tempfile::tempdir().unwrap();
    paint(dir.path(), 4);
    let open = || PairFolder::open(dir.path()).unwrap();
    let print = open().fingerprint();
    assert_eq!(DataSet::from(open()).fingerprint(), print);
    let set = DataSet::mixture(vec![(open(), 3.)]).unwrap();
    assert_eq!((set.fingerprint(), set.len(), set.is_empty()), (print, 4, false));
    for share in [0., -1., f64::NAN] {
        let error = DataSet::mixture(vec![(open(), share)]).unwrap_err().to_string();
        assert!(error.contains("`data.share`"), "{error}");
    }
    assert!(DataSet::mixture(Vec::new()).is_err());
}

#[test]
fn pairs_held_back_are_never_trained_on() {
    let dir = tempfile::tempdir().unwrap();
    let validation = Some(Validation { share: 0.3, ..Validation::default() });
    let config = TrainConfig { validation, ..recipe(200) };
    paint(&dir.path().join("data"), 12);
    let sets = [
        ("mixture", mixture(dir.path(), [1., 1.])),
        ("single", PairFolder::open(dir.path().join("data")).unwrap().into()),
    ];
    for (name, set) in sets {
        let pairs = set.len();
        let builder = Trainer::builder(model(), set).config(config.clone());
        let trainer = builder.create(dir.path().join(name)).unwrap();
        let held = trainer.held_back();
        assert!(!held.is_empty() && held.len() < pairs, "{name}: {held:?}");
        assert_eq!(trainer.steps_per_epoch(), (pairs - held.len()) / 2);
        let mut drawn: Vec<_> = (0..300).flat_map(|step| trainer.pairs_of_step(step)).collect();
        drawn.sort();
        drawn.dedup();
        assert!(drawn.iter().all(|name| !held.contains(name)));
        assert_eq!(drawn.len() + held.len(), pairs, "{name}");
    }
}

#[test]
fn adding_pictures_moves_no_other_between_the_two() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let held = |pairs, output: &str| {
        paint(&data, pairs);
        let validation = Some(Validation { share: 0.4, ..Validation::default() });
        let config = TrainConfig { validation, ..recipe(2) };
        let builder = crate::common::builder(&data, config);
        builder.create(dir.path().join(output)).unwrap().held_back()
    };
    let (few, many) = (held(8, "few"), held(14, "many"));
    let mut old: Vec<_> = many.into_iter().filter(|name| name.as_str() < "008.png").collect();
    let mut few = few;
    old.sort();
    few.sort();
    assert_eq!(few, old);
}
