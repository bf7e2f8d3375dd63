//! A whole run in one file.

use crate::common::{model, paint, recipe};
use isfm_model::{Config, Preset};
use isfm_train::{Corrupt, Error, RunFile, State, TrainConfig, Trainer, Validation};

const TOML: &str = r#"
[model]
embed_dim = 16
depths = [1]

[train]
batch = 2
steps = 30
ema = 0.999
augment = { crops = true, flips = 0.5 }
schedule = { peak = 1, warmup = 3 }
loss = { scd = 2 }

[[data]]
folder = "one"
share = 3

[[data]]
folder = "two"

[validation]
every = 10
share = 0.25
"#;

fn problem(text: &str) -> String {
    let error = RunFile::parse("run.toml", text).unwrap_err();
    assert!(matches!(error, Error::RunFile { .. } | Error::Setting { .. }), "{error}");
    error.to_string()
}

#[test]
fn toml_and_json_say_the_same() {
    let file = RunFile::parse("run.toml", TOML).unwrap();
    assert_eq!(file.model, Some(model()));
    let train = &file.train;
    assert_eq!(
        (train.batch, train.steps, train.epochs, train.ema),
        (2, Some(30), 100, Some(0.999))
    );
    assert!(train.augment.crops && train.augment.flips == 0.5 && train.augment.noise == 0.);
    assert_eq!((train.schedule.peak, train.schedule.floor, train.loss.scd), (1., 5e-6, 2.));
    let data: Vec<_> = file.data.iter().map(|d| (d.folder.to_str().unwrap(), d.share)).collect();
    assert_eq!(data, [("one", 3.), ("two", 1.)]);
    let validation = Validation { every: 10, share: 0.25, ..Validation::default() };
    assert_eq!((&train.validation, file.text()), (&Some(validation), TOML));

    let marked = RunFile::parse("run.toml", &format!("\u{feff}{TOML}")).unwrap();
    assert_eq!((&marked.model, &marked.train), (&file.model, &file.train));

    let json = r#"{"model": {"embed_dim": 16, "depths": [1]}, "train": {"batch": 2, "steps": 30,
        "ema": 0.999, "augment": {"crops": true, "flips": 0.5}, "loss": {"scd": 2},
        "schedule": {"peak": 1, "warmup": 3}}, "data": [{"folder": "one", "share": 3},
        {"folder": "two"}], "validation": {"every": 10, "share": 0.25}}"#;
    let same = RunFile::parse("run.json", json).unwrap();
    assert_eq!((same.model, same.train, same.data), (file.model, file.train, file.data));

    for (text, want) in [
        ("refuse", Corrupt::Refuse),
        ("skip", Corrupt::Skip(None)),
        ("skip:0", Corrupt::Skip(Some(0))),
        ("skip:40", Corrupt::Skip(Some(40))),
    ] {
        let file = RunFile::parse("run.toml", &format!("corrupt = \"{text}\"")).unwrap();
        assert_eq!(file.corrupt, Some(want));
    }
    let small = RunFile::parse("run.toml", "model.preset = \"small\"").unwrap();
    assert_eq!(small.model, Some(Config::from(Preset::Small)));
    assert_eq!((small.train, small.data), (TrainConfig::default(), Vec::new()));
}

#[test]
fn what_is_not_understood_is_named() {
    for (text, named) in [
        ("[trian]", "`trian`"),
        ("corrupt = \"ignore\"", "skip:N"),
        ("corrupt = 3", "`corrupt`"),
        ("[train]\nbach = 3", "`bach`"),
        ("[train]\naugment = { crop = true }", "`crop`"),
        ("[[data]]\nfolder = \"x\"\nweight = 2", "`weight`"),
        ("[[data]]\nshare = 2", "`folder`"),
        ("[validation]\nevry = 3", "`evry`"),
        ("[model]\npreset = \"huge\"", "huge"),
        ("[model]\npreset = \"small\"\nembed_dim = 3", "`embed_dim`"),
        ("[model]\nembed_dim = 3", "multiple of 4"),
        ("[model]\nwidth = 3", "`width`"),
        ("[train]\nbatch = 0", "`batch`"),
        ("[validation]\nshare = 2", "`validation.share`"),
        ("[train.validation]\nevery = 3\n[validation]\nevery = 4", "twice"),
        ("batch: 3", "run.toml"),
        ("{\"train\": 3}", "`train`"),
    ] {
        let problem = problem(text);
        assert!(problem.contains(named), "{text}: {problem}");
    }
    assert!(matches!(RunFile::read("nowhere.toml"), Err(Error::Io { .. })));
}

#[test]
fn checkpoints_keep_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    paint(&data, 7);
    let text = format!("[[data]]\nfolder = {data:?}\n[train]\nbatch = 2\n");
    std::fs::write(dir.path().join("run.toml"), &text).unwrap();
    let file = RunFile::read(dir.path().join("run.toml")).unwrap();
    let builder = || Trainer::builder(model(), file.open_data(1 << 20).unwrap()).config(recipe(1));
    let out = dir.path().join("out");
    drop(builder().run_file(&file).create(&out).unwrap());
    let stored = || State::latest(&out).unwrap().0.run;
    assert_eq!(stored().as_deref(), Some(&*text));
    // Resumed without the file, it is still there.
    let mut resumed = builder().resume(&out).unwrap();
    resumed.step().unwrap();
    resumed.save().unwrap();
    assert_eq!(stored().as_deref(), Some(&*text));
}
