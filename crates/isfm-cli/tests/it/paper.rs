//! `isfm paper`: tables and figures.

use std::collections::BTreeMap;
use std::path::Path;

use isfm_model::{Config, Modules, Spatial, Table};
use isfm_train::{PairFolder, RunOptions, Schedule, TrainConfig, Trainer};

use crate::common::{set, text};
use crate::program::isfm;

/// The values of a file that `ablate` or `compare` wrote, by table, row and metric.
fn values(path: &Path) -> BTreeMap<(String, String, String), (f64, String)> {
    let mut reader = csv::Reader::from_path(path).unwrap();
    let rows = reader.records().map(|row| row.unwrap());
    rows.map(|row| {
        let key = (row[0].to_owned(), row[1].to_owned(), row[2].to_owned());
        (key, (row[3].parse().unwrap(), row[4].to_owned()))
    })
    .collect()
}

/// Runs the program, which must end so, and returns both of its streams.
fn run(folder: &Path, code: i32, args: &[&str]) -> String {
    let output = isfm(folder, args);
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8_lossy(&told).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
    assert!(!told.contains("panicked"), "{told}");
    told
}

#[test]
fn parameters_and_operations_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["paper", "count", "--size", "128x128", "--runs", "0"];
    let told =
        run(folder.path(), 0, &[&args[..], &["--csv", "t.csv", "--markdown", "t.md"]].concat());
    for word in ["4418560", "4.4186", "3163520", "9147905", "210.59"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    assert!(!told.contains("ms for a pair"), "{told}");
    let mut reader = csv::Reader::from_path(folder.path().join("t.csv")).unwrap();
    let rows: Vec<_> = reader.records().map(|row| row.unwrap()).collect();
    let parts: u128 = rows[..4].iter().map(|row| row[2].parse::<u128>().unwrap()).sum();
    assert_eq!((parts, &rows[4][0]), (rows[4][2].parse().unwrap(), "total"));
    let markdown = std::fs::read_to_string(folder.path().join("t.md")).unwrap();
    assert!(markdown.contains("| total | 9147905 | 9.1479 | 210.59 |"), "{markdown}");

    let live = ["paper", "count", "--preset", "live", "--size", "65x33"];
    let told = run(folder.path(), 0, &live);
    assert!(told.contains("sees 9x5 of 65x33") && told.contains("ms for a pair"), "{told}");
    for (size, word) in [("128", "WxH"), ("0x9", "WxH"), ("1e3x5", "WxH"), ("65537x2", "65536")] {
        run(folder.path(), 2, &["paper", "count", "--size", size])
            .contains(word)
            .then_some(())
            .unwrap();
    }
    std::fs::write(folder.path().join("c.json"), r#"{"modules": {"spatial": "all"}}"#).unwrap();
    let told = run(folder.path(), 2, &["paper", "count", "--config", "c.json"]);
    assert!(told.contains("c.json") && told.contains("cross-attention"), "{told}");
    let told = run(folder.path(), 2, &["paper", "count", "--size", "65536x65536"]);
    assert!(told.contains("--runs 0"), "{told}");
}

fn ablation(folder: &Path) -> TrainConfig {
    set(folder, 5, (64, 48));
    let config = r#"{"embed_dim": 4, "depths": [1], "d_state": 2, "expand": 1}"#;
    std::fs::write(folder.join("c.json"), config).unwrap();
    TrainConfig {
        batch: 2,
        steps: Some(3),
        patch: 16,
        schedule: Schedule { peak: 1e-2, ..Schedule::default() },
        ..TrainConfig::default()
    }
}

const ABLATE: [&str; 18] = [
    "paper", "ablate", "--config", "c.json", "--data", ".", "--test", ".", "--steps", "3",
    "--batch", "2", "--patch", "16", "--lr", "0.01", "-o", "out",
];

#[test]
fn tables_are_trained_and_scored_and_go_on_where_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let train = ablation(folder.path());
    let out = folder.path().join("out");
    let more = |more: &[&'static str]| [&ABLATE[..], more].concat();
    let args = more(&["--table", "III,V", "--seeds", "2"]);
    let told = run(folder.path(), 0, &args);
    assert!(told.contains("14 of 14") && told.contains("Table V: what drives the gates"), "{told}");
    assert!(told.contains("3 steps of 2 pairs of 16x16, 2 seeds; 5 test pairs"), "{told}");
    let first = values(&out.join("ablations.csv"));
    assert_eq!(first.len(), (6 + 3) * 7);
    assert!(first.values().all(|(mean, spread)| mean.is_finite() && !spread.is_empty()));
    let of = |table: Table, row: &str, metric: &str| {
        first[&(table.title().to_owned(), row.to_owned(), metric.to_owned())].0
    };
    // The same network under two names.
    assert_eq!(of(Table::Iii, "full", "EN"), of(Table::V, "FGG", "EN"));
    assert_ne!(of(Table::Iii, "full", "EN"), of(Table::Iii, "baseline", "EN"));
    for file in ["ablations.md", "ablations.tex"] {
        let text = std::fs::read_to_string(out.join(file)).unwrap();
        assert!(text.contains("baseline") && text.contains("FGG"), "{text}");
    }

    // Numbers of others, below the tables that they are of.
    std::fs::write(
        folder.path().join("paper.csv"),
        "table,row,metric,mean\nV,FGG,EN,6.5\nTable V: what drives the gates,no interaction,SF,12\n",
    )
    .unwrap();
    let told = run(folder.path(), 0, &[&args[..], &["--paper", "paper.csv"]].concat());
    assert!(told.contains("gates, as published") && told.contains("6.5000"), "{told}");
    assert!(!told.contains("modules, as published"), "{told}");
    for (line, word) in [("XI,a,EN,1", "table"), ("V,a,EN,1", "row"), ("V,FGG,EN,x", "line 2")] {
        let text = format!("table,row,metric,mean\n{line}\n");
        std::fs::write(folder.path().join("paper.csv"), text).unwrap();
        let told = run(folder.path(), 2, &[&args[..], &["--paper", "paper.csv"]].concat());
        assert!(told.contains(word) && told.contains("paper.csv"), "{told}");
    }

    // Of one run only its first step is there, of another the scores are not.
    let full = out.join("fgm-k1-e1/seed-1");
    std::fs::remove_dir_all(&full).unwrap();
    let model = Config::read(folder.path().join("c.json")).unwrap();
    let data = PairFolder::open(folder.path()).unwrap();
    let config = TrainConfig { seed: 1, ..train };
    let mut begun = Trainer::builder(model, data).config(config).create(&full).unwrap();
    begun.run(&RunOptions { stop_after: Some(1), ..RunOptions::default() }).unwrap();
    drop(begun);
    std::fs::remove_file(out.join("concatenate-no-frequency-k1-e1/seed-0/scores.json")).unwrap();
    std::fs::remove_file(out.join("ablations.csv")).unwrap();
    let told = run(folder.path(), 0, &args);
    assert_eq!(told.matches(" of 14: ").count(), 2, "{told}");
    assert_eq!(values(&out.join("ablations.csv")), first);

    // Another table takes what is there; other settings are not taken for the same.
    let told = run(folder.path(), 0, &more(&["--table", "iv"]));
    assert_eq!(told.matches(" of 4: ").count(), 3, "{told}");
    let longer: Vec<&str> = args.iter().map(|arg| if *arg == "3" { "4" } else { arg }).collect();
    let told = run(folder.path(), 2, &longer);
    assert!(told.contains("other settings") && told.contains("--output"), "{told}");
    std::fs::remove_file(folder.path().join("vi/e.png")).unwrap();
    let told = run(folder.path(), 2, &args);
    assert!(told.contains("other test pairs"), "{told}");
}

/// A network that cannot be trained is named, and the others are scored all the same.
#[test]
fn a_seed_that_learns_nothing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    ablation(folder.path());
    let args = ABLATE.map(|arg| if arg == "0.01" { "1e30" } else { arg });
    let told = run(folder.path(), 1, &[&args[..], &["--table", "V"]].concat());
    assert!(told.contains("FGG (0 of 1 seeds)") && told.contains("FGG, seed 0: "), "{told}");
    let rows = std::fs::read_to_string(folder.path().join("out/ablations.csv")).unwrap();
    assert_eq!(rows.lines().count(), 1 + 3 * 7);
}

#[test]
fn ablations_that_cannot_be_begun_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    ablation(folder.path());
    std::fs::create_dir(folder.path().join("none")).unwrap();
    std::fs::write(folder.path().join("run.toml"), "[train]\nsteps = 1").unwrap();
    let swapped = |what: &str, by: &'static str| -> Vec<&'static str> {
        let at = ABLATE.iter().position(|arg| *arg == what).unwrap() + 1;
        let mut args = ABLATE.to_vec();
        args[at] = by;
        [args, vec!["--table", "III"]].concat()
    };
    let no_data: Vec<&str> = [
        "paper", "ablate", "--run", "run.toml", "--test", ".", "--steps", "1", "-o", "o",
        "--table", "K",
    ]
    .into();
    for (args, words) in [
        ([&ABLATE[..], &["--table", "VII"]].concat(), vec!["VII", "III, IV, V, VI, K"]),
        (ABLATE.to_vec(), vec!["--table"]),
        (swapped("--data", "gone"), vec!["gone"]),
        (swapped("--test", "none"), vec!["none", "vi"]),
        (swapped("--steps", "0"), vec!["--steps"]),
        (swapped("--patch", "5"), vec!["patch", "12"]),
        (swapped("--config", "gone.json"), vec!["gone.json"]),
        (no_data, vec!["data"]),
    ] {
        let told = run(folder.path(), 2, &args);
        let all = words.iter().all(|word| told.contains(word));
        assert!(all, "{args:?}: {told}");
        assert_eq!(told.matches("error:").count(), 1, "{told}");
    }
    assert!(!folder.path().join("out").exists());
}

#[test]
fn methods_are_compared_on_all_sets() {
    let folder = tempfile::tempdir().unwrap();
    for (name, pairs) in [("day", 3), ("night", 2)] {
        let own = folder.path().join("sets").join(name);
        std::fs::create_dir_all(&own).unwrap();
        set(&own, pairs, (64, 48));
        for method in ["sharp", "flat"] {
            let to = folder.path().join("methods").join(method);
            std::fs::create_dir_all(&to).unwrap();
            std::fs::rename(own.join(method), to.join(name)).unwrap();
        }
    }
    let args = [
        "paper",
        "compare",
        "--sets",
        "sets",
        "--methods",
        "methods",
        "--baseline",
        "max",
        "--csv",
        "t.csv",
        "--markdown",
        "t.md",
        "--latex",
        "t.tex",
    ];
    let told = run(folder.path(), 0, &args);
    assert!(told.contains("day, 3 pairs") && told.contains("night, 2 pairs"), "{told}");
    let all = values(&folder.path().join("t.csv"));
    assert_eq!(all.len(), 2 * 3 * 7);

    // The same numbers as of `isfm evaluate` on one set.
    let sets = folder.path().join("sets/day");
    let [vi, ir] = ["vi", "ir"].map(|side| sets.join(side));
    let fused = format!("sharp={}", text(&folder.path().join("methods/sharp/day")));
    let (vi, ir) = (text(&vi), text(&ir));
    let score =
        ["evaluate", "--visible", vi, "--infrared", ir, "--fused", &fused, "--means", "means.csv"];
    run(folder.path(), 0, &score);
    let means = std::fs::read_to_string(folder.path().join("means.csv")).unwrap();
    for ((_, _, metric), (mean, _)) in
        all.iter().filter(|((table, row, _), _)| table.starts_with("day") && row == "sharp")
    {
        assert!(
            means.contains(&format!("{metric},")) && means.contains(&mean.to_string()),
            "{means}"
        );
    }
    for file in ["t.md", "t.tex"] {
        let text = std::fs::read_to_string(folder.path().join(file)).unwrap();
        assert!(text.contains("sharp") && text.contains("Average rank on each set"), "{text}");
    }

    // A method without a set, and one without a picture.
    std::fs::remove_dir_all(folder.path().join("methods/flat/night")).unwrap();
    std::fs::remove_file(folder.path().join("methods/sharp/day/VIF_a.png")).unwrap();
    let told = run(folder.path(), 1, &args);
    assert!(told.contains("night/a, flat") && told.contains("day/a, sharp"), "{told}");
    let all = csv::Reader::from_path(folder.path().join("t.csv"))
        .unwrap()
        .into_records()
        .map(|row| row.unwrap());
    let lacks = |row: &csv::StringRecord| row[3].is_empty();
    assert_eq!(all.filter(lacks).count(), 2 * 7);
    for (args, word) in [
        (vec!["paper", "compare", "--sets", "gone", "--baseline", "max"], "gone"),
        (vec!["paper", "compare", "--sets", "methods", "--baseline", "max"], "vi and ir"),
        (vec!["paper", "compare", "--sets", "sets"], "--methods"),
        (vec!["paper", "compare", "--sets", "sets", "--baseline", "max,max"], "two methods"),
    ] {
        let told = run(folder.path(), 2, &args);
        assert!(told.contains(word), "{told}");
    }
}

#[test]
fn stages_become_pictures() {
    let folder = tempfile::tempdir().unwrap();
    set(folder.path(), 2, (64, 48));
    let pair = ["--visible", "vi/a.png", "--infrared", "ir/a.png", "-o", "figures"];
    let args = [&["paper", "figures"], &pair[..]].concat();
    run(folder.path(), 0, &args);
    let open =
        |name: &str| image::open(folder.path().join("figures").join(name)).unwrap().to_luma8();
    for name in ["fig12.png", "fig13.png", "fig14.png"] {
        let sheet = open(name);
        let levels: std::collections::BTreeSet<u8> = sheet.iter().copied().collect();
        assert!(sheet.width() > 100 && levels.len() > 20, "{name}");
    }

    // A network that has neither bands nor layers has fewer panels.
    let modules = Modules { spatial: Spatial::Concatenate, frequency: false, ..Modules::default() };
    let config = Config { embed_dim: 4, depths: vec![1, 1], modules, ..Config::default() };
    let weights = isfm_model::initial_weights(&config, 1, &candle_core::Device::Cpu).unwrap();
    let checkpoint =
        isfm_model::Checkpoint { config, weights, self_contained: true, metadata: BTreeMap::new() };
    let path = folder.path().join("w.safetensors");
    checkpoint.write(&path, candle_core::DType::F32).unwrap();
    std::fs::remove_file(folder.path().join("figures/fig14.png")).unwrap();
    run(folder.path(), 0, &[&args[..], &["--weights", "w.safetensors", "--layer", "2"]].concat());
    assert!(!folder.path().join("figures/fig14.png").exists());

    // Fig. 15 needs no pair.
    let title = Table::K.title();
    std::fs::create_dir(folder.path().join("k")).unwrap();
    let lines: String = (1..=8)
        .map(|k| {
            format!("{title},K = {k},EN,{},0.1\n{title},K = {k},SF,{k},\n", 6. + f64::from(k) / 9.)
        })
        .collect();
    let csv = format!("table,row,metric,mean,spread\n{lines}");
    std::fs::write(folder.path().join("k/ablations.csv"), csv).unwrap();
    run(folder.path(), 0, &["paper", "figures", "--ablation", "k", "-o", "figures"]);
    assert!(open("fig15.png").contains(&0));

    std::fs::write(folder.path().join("k/bad.csv"), "").unwrap();
    std::fs::create_dir(folder.path().join("bad")).unwrap();
    std::fs::write(folder.path().join("bad/ablations.csv"), "table,row\n1,2\n").unwrap();
    std::fs::write(
        folder.path().join("narrow.png"),
        std::fs::read(folder.path().join("vi/a.png")).unwrap(),
    )
    .unwrap();
    image::GrayImage::new(10, 10).save(folder.path().join("small.png")).unwrap();
    for (more, word) in [
        (vec!["--layer", "9"], "layers 1 to 2"),
        (vec!["--layer", "0"], "layers 1 to 2"),
        (vec!["--weights", "gone.pth"], "gone.pth"),
        (vec!["--ablation", "bad"], "no ablation of K"),
    ] {
        let told = run(folder.path(), 2, &[&args[..], &more].concat());
        assert!(told.contains(word), "{told}");
    }
    let sizes = ["paper", "figures", "--visible", "vi/a.png", "--infrared", "small.png", "-o", "x"];
    assert!(run(folder.path(), 2, &sizes).contains("64x48 but the infrared one 10x10"));
    assert!(run(folder.path(), 2, &["paper", "figures", "-o", "x"]).contains("--visible"));
    assert!(!folder.path().join("x").exists());
}

/// The tables of detection and segmentation are those of `isfm evaluate`.
#[test]
fn downstream_is_evaluates_own() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["truth", "made"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
        std::fs::write(folder.path().join(name).join("classes.txt"), "car\nperson\n").unwrap();
    }
    std::fs::write(folder.path().join("truth/a.txt"), "0 .5 .5 .2 .2\n1 .2 .2 .1 .1\n").unwrap();
    std::fs::write(folder.path().join("made/a.txt"), "0 .5 .5 .2 .2 .9\n").unwrap();
    let args = ["detect", "--truth", "truth", "--detections", "Mine=made"];
    let one = run(folder.path(), 0, &[&["paper", "downstream"], &args[..]].concat());
    let other = run(folder.path(), 0, &[&["evaluate"], &args[..]].concat());
    assert_eq!(one, other);
    assert!(one.contains("AP50:95"), "{one}");
    run(folder.path(), 2, &["paper", "downstream"]);
}
