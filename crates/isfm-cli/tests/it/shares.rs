//! Folders that are fused and scored in parts: lists, shards, manifests, and what puts them together.

use std::collections::BTreeSet;
use std::path::Path;

use clap::Parser;
use isfm_cli::fuse::manifest::{self, Record, State};
use isfm_cli::{fuse, merge};

use crate::common::{evaluate, parsed, scene, set, text};

/// `isfm fuse` with these arguments, in which `@` stands for `folder`; the pairs that failed.
fn run(folder: &Path, args: &[&str]) -> anyhow::Result<Vec<String>> {
    let args = args.iter().map(|arg| arg.replace('@', text(folder)));
    let args = ["fuse".to_owned()].into_iter().chain(args);
    let failed = fuse::run(&parsed(fuse::Args::try_parse_from(args))?)?;
    Ok(failed.into_iter().map(|failed| failed.to_string()).collect())
}

fn merge(folder: &Path, args: &[&str]) -> anyhow::Result<Vec<String>> {
    let args = args.iter().map(|arg| arg.replace('@', text(folder)));
    merge::run(&parsed(merge::Args::try_parse_from(["merge".to_owned()].into_iter().chain(args)))?)
}

/// Names and contents of a folder's files.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut files: Vec<_> =
        entries.map(|path| (name(&path), std::fs::read(path).unwrap())).collect();
    files.sort();
    files
}

fn states(records: &[Record]) -> Vec<(&str, State)> {
    records.iter().map(|record| (record.pair.as_str(), record.state)).collect()
}

/// The union of shards is the whole, bit for bit, and so is what is gone on with.
#[test]
fn shards_make_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let [vi, ir, ..] = set(folder.path(), 12, (24, 18));
    std::fs::write(ir.join("c.png"), "no picture").unwrap();
    let pair = ["--visible=@/vi", "--infrared=@/ir", "--quiet"];
    let go = |args: &[&str]| run(folder.path(), &[&pair[..], args].concat()).unwrap();

    let failed = go(&["--output=@/whole", "--manifest=@/whole.jsonl", "--jobs=1"]);
    assert!(failed.len() == 1 && failed[0].starts_with("c: "), "{failed:?}");
    let whole = files(&at("whole"));
    assert_eq!(whole.len(), 11);
    let records = manifest::read(&at("whole.jsonl")).unwrap();
    assert_eq!(records.len(), 12);
    let bad = records.iter().find(|record| record.pair == "c").unwrap();
    assert!(bad.state == State::Failed && bad.error.as_ref().unwrap().contains("c.png"));
    assert!(bad.output.is_none() && bad.weights.len() == 64);
    let good = &records[0];
    assert!(good.milliseconds > 0. && good.output.as_ref().unwrap().is_file());

    let mut seen = BTreeSet::new();
    for shard in 1..=3 {
        let shard = format!("--shard={shard}/3");
        go(&["--output=@/parts", "--manifest=@/parts.jsonl", &shard, "--jobs=4"]);
    }
    assert!(files(&at("parts")) == whole);
    for shard in 1..=3 {
        for record in manifest::read(&at(&format!("parts.{shard}-of-3.jsonl"))).unwrap() {
            assert!(seen.insert(record.pair.clone()), "{} is in two shards", record.pair);
        }
    }
    let parts = ["@/parts.1-of-3.jsonl", "@/parts.2-of-3.jsonl", "@/parts.3-of-3.jsonl", "-q"];
    let told =
        merge(folder.path(), &[&parts[..], &["-o=@/all.jsonl"], &pair[..2]].concat()).unwrap();
    assert!(told.len() == 1 && told[0].starts_with("c: "), "{told:?}");
    let all = manifest::read(&at("all.jsonl")).unwrap();
    let mut sorted = records.clone();
    sorted.sort_by(|a, b| a.pair.cmp(&b.pair));
    assert_eq!(states(&all), states(&sorted));

    // One shard's file is not there, and neither are its pairs.
    let told = merge(folder.path(), &[&parts[1..], &pair[..2]].concat()).unwrap();
    assert!(told[0].contains("shard 1 of 3"), "{told:?}");
    let lost = manifest::read(&at("parts.1-of-3.jsonl")).unwrap().len();
    assert_eq!(told.iter().filter(|line| line.contains("in none")).count(), lost);

    // Gone on with: a lost result is made again, a repaired picture is fused, the rest is left alone.
    std::fs::remove_file(at("whole/e.png")).unwrap();
    std::fs::write(at("whole/f.png"), "left alone").unwrap();
    scene(2, 24, 18)[1].save(ir.join("c.png")).unwrap();
    let more = ["--output=@/whole", "--manifest=@/whole.jsonl", "--resume"];
    assert!(go(&more).is_empty());
    assert_eq!(std::fs::read(at("whole/f.png")).unwrap(), b"left alone");
    assert_eq!(std::fs::read(at("whole/e.png")).unwrap(), whole[3].1);
    assert!(at("whole/c.png").is_file());
    let records = manifest::read(&at("whole.jsonl")).unwrap();
    // No line twice for what was there: e was lost, c failed.
    assert_eq!(records.len(), 14);
    let new: BTreeSet<_> = records[12..].iter().map(|r| (r.pair.as_str(), r.state)).collect();
    assert_eq!(new, [("c", State::Fused), ("e", State::Fused)].into());
    // Without its manifest, what was there is found.
    go(&["--output=@/whole", "--manifest=@/new.jsonl", "--resume"]);
    let found = manifest::read(&at("new.jsonl")).unwrap();
    assert!(found.len() == 12 && found.iter().all(|record| record.state == State::Found));
    // Results of other weights do not stand beside these.
    let other = at("other.safetensors");
    let weights =
        isfm::Checkpoint::from_bytes("", isfm::embedded_weights(), None, &candle_core::Device::Cpu);
    weights.unwrap().write(&other, candle_core::DType::F32).unwrap();
    let other = format!("--weights={}", text(&other));
    let args = [&pair[..], &more, &[other.as_str()]].concat();
    assert!(crate::fault(run(folder.path(), &args)).contains("SHA-256"));
    assert_eq!(vi, at("vi"));
}

#[test]
fn a_list_takes_the_place_of_folders() {
    let folder = tempfile::tempdir().unwrap();
    set(folder.path(), 3, (24, 18));
    let list =
        "visible,infrared,name\nvi/a.png,ir/a.png,\nvi/b.png,ir/c.png,day/b\nvi/c.png,gone.png,\n";
    std::fs::write(folder.path().join("l.csv"), list).unwrap();
    let go = |args: &[&str]| run(folder.path(), args);
    let failed = go(&["--list=@/l.csv", "--output=@/out", "--quiet"]).unwrap();
    assert!(failed.len() == 1 && failed[0].contains("gone.png"), "{failed:?}");
    assert!(folder.path().join("out/a.png").is_file());
    assert!(folder.path().join("out/day/b.png").is_file());
    let error = crate::fault(go(&["--list=@/vi", "--output=@/out"]));
    assert!(error.contains("vi"), "{error}");
    assert!(crate::fault(go(&["--list=@/l.csv", "--output=@/l.csv"])).contains("no folder"));
    // Options of folders with a pair of files.
    let pair = ["--visible=@/vi/a.png", "--infrared=@/ir/a.png", "--output=@/o.png"];
    for option in ["--resume", "--manifest=@/m.jsonl", "--jobs=2", "--shard=1/2"] {
        let told = crate::fault(go(&[&pair[..], &[option]].concat()));
        assert!(told.contains(option.split('=').next().unwrap()), "{told}");
    }
    // Scored by the same list.
    let fused = ["--fused=A=@/ir", "--baseline=max", "--json=@/s.json", "--quiet"];
    let problems = evaluate(folder.path(), &[&["--list=@/l.csv"], &fused[..]].concat()).unwrap();
    let told: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert!(told.len() == 2 && told[0].contains("gone.png") && told[1].contains("no result"));
}

/// Scores of shards, put together, are those of one process, to the last digit of the file.
#[test]
fn scores_of_shards_are_those_of_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let [_, ir, sharp, _] = set(folder.path(), 9, (45, 43));
    std::fs::write(ir.join("d.png"), "no picture").unwrap();
    std::fs::remove_file(sharp.join("VIF_f.png")).unwrap();
    scene(4, 45, 43)[0].save(sharp.join("VIF_e.png")).unwrap();
    let go = |args: &[&str]| {
        let pair = ["--visible=@/vi", "--infrared=@/ir", "--fused=Sharp=@/sharp"];
        let more = ["--fused=Flat, \"x\"=@/flat", "--baseline=average,max", "--quiet"];
        evaluate(folder.path(), &[&pair, &more[..], args].concat()).unwrap()
    };
    let problems = go(&["--json=@/whole.json", "--csv=@/whole.csv"]);
    assert_eq!(problems.len(), 2);
    let names: Vec<String> = (1..=4).map(|shard| format!("@/{shard}.json")).collect();
    for (shard, name) in (1..).zip(&names) {
        go(&[&format!("--shard={shard}/4"), &format!("--json={name}")]);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let outputs = ["--json=@/all.json", "--csv=@/all.csv", "--quiet"];
    let told = merge(folder.path(), &[&names, &outputs[..]].concat()).unwrap();
    assert_eq!(told, problems.iter().map(ToString::to_string).collect::<Vec<_>>());
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert!(read("all.json") == read("whole.json"));
    assert!(read("all.csv") == read("whole.csv"));
    // The same file twice changes nothing; another value is refused.
    let twice = [&names[..], &names, &outputs].concat();
    assert_eq!(merge(folder.path(), &twice).unwrap().len(), 2);
    assert!(read("all.json") == read("whole.json"));
    let changed = read("whole.json").replacen("\"AG\": ", "\"AG\": 1", 4);
    std::fs::write(folder.path().join("changed.json"), changed).unwrap();
    let error = crate::fault(merge(folder.path(), &["@/whole.json", "@/changed.json"]));
    assert!(error.contains("other values"), "{error}");
    go(&["--metrics=EN", "--json=@/en.json"]);
    let error = crate::fault(merge(folder.path(), &["@/whole.json", "@/en.json"]));
    assert!(error.contains("other methods or metrics"), "{error}");
    for (name, text, word) in [
        ("x.json", "{}", "metrics"),
        ("x.json", "[", "EOF"),
        (
            "x.json",
            "{\"metrics\":[{\"name\":\"XX\"}],\"methods\":[],\"images\":[],\"problems\":[]}",
            "XX",
        ),
        ("gone.json", "", "gone.json"),
    ] {
        if name != "gone.json" {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let error = crate::fault(merge(folder.path(), &[&format!("@/{name}")]));
        assert!(error.contains(word), "{error}");
    }
}

/// Each subfolder a method; and a single pair of files.
#[test]
fn folders_of_methods_and_single_pairs() {
    let folder = tempfile::tempdir().unwrap();
    let [_, _, sharp, flat] = set(folder.path(), 2, (20, 16));
    let methods = folder.path().join("methods");
    std::fs::create_dir_all(methods.join(".hidden")).unwrap();
    std::fs::rename(sharp, methods.join("Sharp")).unwrap();
    std::fs::rename(flat, methods.join("Flat")).unwrap();
    std::fs::write(methods.join("notes.txt"), "").unwrap();
    let pair = ["--visible=@/vi", "--infrared=@/ir", "--json=@/s.json", "-q"];
    let go = |args: &[&str]| evaluate(folder.path(), &[&pair[..], args].concat());
    assert_eq!(go(&["--methods=@/methods", "--fused=A=@/vi"]).unwrap(), []);
    let json = crate::common::json(&folder.path().join("s.json"));
    let names: Vec<_> = json["methods"].as_array().unwrap().iter().map(|m| &m["name"]).collect();
    assert_eq!(names, ["A", "Flat", "Sharp"]);
    assert!(crate::fault(go(&["--methods=@/vi"])).contains("subfolders"));
    assert!(crate::fault(go(&["--methods=@/gone"])).contains("gone"));

    let pair = ["--visible=@/vi/a.png", "--infrared=@/ir/a.png", "--baseline=max", "-q"];
    let go = |args: &[&str]| evaluate(folder.path(), &[&pair[..], args].concat());
    assert_eq!(go(&["--fused=Flat=@/methods/Flat/a.bmp", "--json=@/one.json"]).unwrap(), []);
    let one = crate::common::json(&folder.path().join("one.json"));
    let value = |json: &serde_json::Value| json["images"][0]["scores"]["Flat"]["EN"].clone();
    assert_eq!(value(&one), value(&json));
    assert!(crate::fault(go(&["--fused=Flat=@/methods/Flat"])).contains("is a folder"));
}
