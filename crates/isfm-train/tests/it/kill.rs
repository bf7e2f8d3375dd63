//! `kill -9` in the middle of a run.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{create, log, paint, resume};
use isfm_train::RunOptions;

const CHILD: &str = "ISFM_TRAIN_TEST_FOLDER";
const EPOCHS: usize = 4;

fn options() -> RunOptions {
    RunOptions { checkpoint_steps: 1, threads: Some(1), ..RunOptions::default() }
}

/// Not a test of its own: what the process that is killed does.
#[test]
fn child() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let dir = Path::new(&dir);
    let mut trainer = create(&dir.join("data"), &dir.join("killed"), EPOCHS);
    trainer.run(&options()).unwrap();
}

#[test]
fn a_killed_run_goes_on_as_if_nothing_had_happened() {
    let dir = tempfile::tempdir().unwrap();
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

    let mut trainer = resume(&data, &out, EPOCHS).unwrap();
    let done = trainer.steps_done();
    assert!((3..trainer.total_steps()).contains(&done), "{done}");
    trainer.run(&options()).unwrap();

    let whole = dir.path().join("whole");
    create(&data, &whole, EPOCHS).run(&options()).unwrap();
    assert_eq!(log(&out), log(&whole));
}
