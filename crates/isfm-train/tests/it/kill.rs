//! `kill -9` in the middle of a run.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{builder, everything, log, paint, recipe};
use isfm_train::{RunOptions, TrainConfig};

const CHILD: &str = "ISFM_TRAIN_TEST_FOLDER";

fn options() -> RunOptions {
    RunOptions { checkpoint_steps: 1, threads: Some(1), ..RunOptions::default() }
}

/// Not a test of its own: what the process that is killed does.
#[test]
fn child() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let dir = Path::new(&dir);
    let recipe = std::fs::read_to_string(dir.join("recipe.json")).unwrap();
    let recipe = serde_json::from_str(&recipe).unwrap();
    let builder = builder(&dir.join("data"), recipe);
    builder.create(dir.join("killed")).unwrap().run(&options()).unwrap();
}

#[test]
fn a_killed_run_goes_on_as_if_nothing_had_happened() {
    kill_and_resume(recipe(4));
}

#[test]
fn so_does_one_with_average_clipping_and_validation() {
    kill_and_resume(TrainConfig { steps: Some(12), ..everything() });
}

fn kill_and_resume(recipe: TrainConfig) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("recipe.json"), serde_json::to_string(&recipe).unwrap())
        .unwrap();
    let (data, out) = (dir.path().join("data"), dir.path().join("killed"));
    paint(&data, 7);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::child", "--test-threads=1"])
        .env(CHILD, dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Let it get into its stride, then kill it wherever it happens to be.
    let started = Instant::now();
    let lines = || std::fs::read_to_string(out.join("log.jsonl")).map_or(0, |t| t.lines().count());
    while lines() < 4 && child.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < Duration::from_secs(120), "the child makes no progress");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    let status = child.wait().unwrap();
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(status.signal(), Some(9), "the child ended before it was killed");

    let mut trainer = builder(&data, recipe.clone()).resume(&out).unwrap();
    let done = trainer.steps_done();
    assert!((3..trainer.total_steps()).contains(&done), "{done}");
    trainer.run(&options()).unwrap();

    let whole = dir.path().join("whole");
    builder(&data, recipe).create(&whole).unwrap().run(&options()).unwrap();
    assert_eq!(log(&out), log(&whole));
    let validations = |of: &Path| std::fs::read_to_string(of.join("validation.jsonl")).ok();
    assert_eq!(validations(&out), validations(&whole));
}
