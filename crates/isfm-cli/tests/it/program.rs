//! The program as it is started: exit codes, what goes where, completions and manual pages.

use std::path::Path;
use std::process::{Command, Output};

use clap::CommandFactory;
use serde_json::Value;

use crate::common::{set, text};

pub(crate) fn isfm(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_isfm")).current_dir(folder).args(args).output().unwrap()
}

fn lines(bytes: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(bytes).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_commands_make_sense() {
    isfm_cli::Cli::command().debug_assert();
}

/// 0: all done; 1: some failed, and are named; 2: nothing can be begun.
#[test]
fn exit_codes() {
    let folder = tempfile::tempdir().unwrap();
    let [_, ir, ..] = set(folder.path(), 3, (24, 18));
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    let fuse = ["fuse", "--visible", "vi", "--infrared", "ir", "-o", "out"];
    let score = ["evaluate", "--visible", "vi", "--infrared", "ir", "--baseline", "max"];
    let check = |code, args: &[&str], word: &str| {
        let output = isfm(folder.path(), args);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
        assert!(told.contains(word), "{args:?}: {told}");
        assert!(!told.contains("panicked"), "{told}");
    };
    check(0, &fuse, "");
    check(0, &score, "");
    std::fs::write(ir.join("b.png"), "no picture").unwrap();
    check(1, &fuse, "1 failed:\n  b: ");
    check(1, &score, "b: ");
    let more = |args: &[&'static str], more: &[&'static str]| [args, more].concat();
    for (args, word) in [
        (vec![], "Usage"),
        (vec!["fuze"], "fuze"),
        (vec!["fuse"], "--output"),
        (vec!["fuse", "-o", "x"], "--visible"),
        (more(&fuse, &["--weights", "gone.pth"]), "gone.pth"),
        (more(&fuse, &["--device", "tpu"]), "tpu"),
        (more(&fuse, &["--preset", "huge"]), "live, small"),
        (vec!["fuse", "--visible", "vi", "--infrared", "empty", "-o", "out"], "no pictures"),
        (vec!["fuse", "--visible", "vi", "--infrared", "ir", "-o", "vi"], "overwritten"),
        (more(&score, &["--fused", "A=empty"]), "no pictures"),
        (more(&score, &["--json", "empty"]), "is a folder"),
        (vec!["evaluate", "--visible", "vi", "--infrared", "ir"], "--fused"),
        (vec!["convert", "--weights", "gone.pth", "-o", "x"], "gone.pth"),
        (vec!["train", "--data", "empty", "--preset", "live", "-o", "run"], "empty"),
        (vec!["train", "-o", "run"], "--data"),
        (vec!["merge", "gone.jsonl", "-o", "x"], "gone.jsonl"),
    ] {
        check(2, &args, word);
    }
}

/// With `--json` nothing else comes out of standard output; with `--quiet` nothing at all.
#[test]
fn what_is_said_where() {
    let folder = tempfile::tempdir().unwrap();
    let [_, ir, ..] = set(folder.path(), 3, (24, 18));
    std::fs::write(ir.join("b.png"), "no picture").unwrap();
    let fuse = ["fuse", "--visible", "vi", "--infrared", "ir", "-o", "out"];
    let said = isfm(folder.path(), &fuse);
    assert!(String::from_utf8_lossy(&said.stdout).contains("fused 2 of 3 pairs into out"));
    let told = isfm(folder.path(), &[&fuse[..], &["--json"]].concat());
    let objects = lines(&told.stdout);
    let kinds: Vec<_> = objects.iter().map(|object| object["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["pair", "pair", "pair", "summary"]);
    let last = &objects[3];
    assert_eq!((&last["fused"], &last["failed"]), (&2.into(), &1.into()));
    assert_eq!(objects.iter().filter(|object| object["state"] == "failed").count(), 1);
    let quiet = isfm(folder.path(), &[&fuse[..], &["--quiet"]].concat());
    assert!(quiet.stdout.is_empty());
    let told = String::from_utf8_lossy(&quiet.stderr).into_owned();
    assert!(
        told.contains("1 failed") && told.lines().filter(|l| !l.is_empty()).count() == 2,
        "{told}"
    );

    std::fs::remove_file(ir.join("b.png")).unwrap();
    let score = ["evaluate", "--visible", "vi", "--infrared", "ir", "--baseline", "max", "--json"];
    let told = isfm(folder.path(), &score);
    let json: Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(json["methods"][0]["name"], "Max");
    assert!(String::from_utf8_lossy(&told.stderr).contains("¹ best"));

    std::fs::write(folder.path().join("w"), isfm::embedded_weights()).unwrap();
    let convert = ["convert", "--weights", "w", "-o", "x.safetensors", "--json", "-q"];
    let told = isfm(folder.path(), &convert);
    assert!(told.stderr.is_empty());
    let bytes = std::fs::metadata(folder.path().join("x.safetensors")).unwrap().len();
    assert_eq!(lines(&told.stdout)[0]["bytes"], bytes);
}

#[test]
fn a_network_is_trained_stopped_and_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    set(folder.path(), 4, (40, 36));
    let train = ["train", "--data", ".", "--preset", "small", "-o", "run", "--patch", "32"];
    let more = ["--epochs", "2", "--batch", "2", "--steps", "1", "--json", "-q"];
    let first = isfm(folder.path(), &[&train[..], &more].concat());
    assert_eq!(first.status.code(), Some(0), "{}", String::from_utf8_lossy(&first.stderr));
    let summary = &lines(&first.stdout)[0];
    assert_eq!((&summary["finished"], &summary["steps"]), (&false.into(), &1.into()));
    // What is there is not written over.
    assert_eq!(isfm(folder.path(), &[&train[..], &more].concat()).status.code(), Some(2));
    let again = ["train", "--data", ".", "-o", "run", "--resume", "--json"];
    let again = isfm(folder.path(), &again);
    let summary = &lines(&again.stdout)[0];
    assert_eq!((&summary["finished"], &summary["steps"]), (&true.into(), &4.into()));
    let weights = summary["weights"].as_str().unwrap();
    let fuse = ["fuse", "--visible", "vi/a.png", "--infrared", "ir/a.png", "-o", "f.png"];
    let fused = isfm(folder.path(), &[&fuse[..], &["--weights", weights]].concat());
    assert_eq!(fused.status.code(), Some(0));
}

#[test]
fn completions_and_manual_pages() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = isfm(folder.path(), &["completions", shell]).stdout;
        let script = String::from_utf8(script).unwrap();
        assert!(script.contains("infrared-range") && script.contains("evaluate"), "{shell}");
    }
    let pages = folder.path().join("man");
    assert_eq!(isfm(folder.path(), &["man", text(&pages)]).status.code(), Some(0));
    for page in ["isfm.1", "isfm-fuse.1", "isfm-evaluate.1", "isfm-train.1", "isfm-merge.1"] {
        let page = std::fs::read_to_string(pages.join(page)).unwrap();
        assert!(page.starts_with(".ie") || page.contains(".TH"), "{page}");
    }
}

/// `--help` says all that the arguments document, not only its first line.
#[test]
fn the_help_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    for (command, words) in [
        (&["fuse"][..], "Two files become a third"),
        (&["evaluate"], "A method's result for the pair NAME"),
        (&["evaluate", "detect"], "YOLO"),
        (&["evaluate", "segment"], "palette"),
        (&["train"], "kill -9"),
        (&["convert"], "No code of the file is run"),
        (&["merge"], "What failed in a shard"),
        (&["completions"], "bash-completion"),
        (&["man"], "isfm-fuse.1"),
    ] {
        let output = isfm(folder.path(), &[command, &["--help"]].concat());
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && help.contains(words), "{command:?}: {help}");
    }
    let list = String::from_utf8(isfm(folder.path(), &["--help"]).stdout).unwrap();
    for about in ["Fuse pairs of", "Score fused pictures", "Train a network", "Write the manual"] {
        assert!(list.contains(about), "{list}");
    }
}
