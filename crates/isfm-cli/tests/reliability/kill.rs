//! `kill -9` at random moments: nothing is lost, nothing half-written, and what goes on does as if it
//! had never stopped.

use std::cell::Cell;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use candle_core::{DType, Device};
use isfm_model::{Checkpoint, Preset};
use isfm_train::State;

use crate::child::{self, command, options, trainer};
use crate::common::{Random, asked, model, pairs, recipe};

fn kills() -> usize {
    asked("ISFM_KILLS", 10)
}

fn start(job: &str, args: &[&str]) -> Child {
    let mut command = if job == "fuse" { child::fuse(args) } else { command(job, args) };
    command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap()
}

/// Starts the job again and again, kills it after 0 to `longest`, and calls `check` each time, until so
/// many were killed; `finished` is called where one came to its end before.
fn kill(
    (job, args): (&str, &[&str]),
    longest: Duration,
    mut check: impl FnMut(),
    mut finished: impl FnMut(),
) {
    let mut random = Random::new(14);
    let (mut killed, mut ended) = (0, 0);
    while killed < kills() {
        let mut child = start(job, args);
        sleep(Duration::from_micros(random.below(longest.as_micros() as u64)));
        _ = child.kill();
        let status = child.wait().unwrap();
        if status.signal() == Some(9) {
            killed += 1;
            check();
        } else {
            assert!(status.success(), "{job}: {status}");
            ended += 1;
            finished();
        }
    }
    println!("  {killed} killed, {ended} came to their end before");
}

/// A run that is killed is begun or gone on with until it is finished, and is then the same, byte for
/// byte, as one that was left alone: its log, validations, weights and checkpoint.
pub(crate) fn training() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    for folder in [&whole, &killed] {
        pairs(&folder.join("data"), 7, (60, 50));
    }
    let started = Instant::now();
    assert!(start("train", &[whole.to_str().unwrap()]).wait().unwrap().success());
    let took = started.elapsed();
    let run = killed.join("run");
    let steps = Cell::new(0);
    let check = || {
        let Ok((state, _, damaged)) = State::latest(&run) else {
            // Before its first checkpoint.
            assert!(!run.join("last.safetensors").exists());
            return;
        };
        // Between two renames there is no `last`; what is there is whole.
        assert!(damaged.is_none() || !run.join("last.safetensors").exists(), "{damaged:?}");
        assert!(state.step >= steps.get(), "{} after {}", state.step, steps.get());
        steps.set(state.step);
        weights_are_whole(&run);
    };
    let finished = || {
        for name in ["log.jsonl", "validation.jsonl"] {
            assert_eq!(
                without_times(&run.join(name)),
                without_times(&whole.join("run").join(name))
            );
        }
        let state = |folder: &Path| State::read(&folder.join("run/last.safetensors")).unwrap();
        assert_same(&state(&killed), &state(&whole));
        for name in ["weights.safetensors", "best.safetensors"] {
            let weights = |folder: &Path| {
                let path = folder.join("run").join(name);
                bits(&Checkpoint::read(path, None, &Device::Cpu).unwrap().weights)
            };
            assert!(weights(&killed) == weights(&whole), "{name}");
        }
        fs::remove_dir_all(&run).unwrap();
        steps.set(0);
    };
    kill(("train", &[killed.to_str().unwrap()]), took, check, finished);
    // The last one is led to its end, too.
    trainer(&killed).run(&options()).unwrap();
    assert_same(
        &State::read(&run.join("last.safetensors")).unwrap(),
        &State::read(&whole.join("run/last.safetensors")).unwrap(),
    );
}

/// A process that does nothing but write checkpoints.
pub(crate) fn saving() {
    let folder = tempfile::tempdir().unwrap();
    pairs(&folder.path().join("data"), 7, (60, 50));
    let mut begun = trainer(folder.path());
    begun.step().unwrap();
    begun.save().unwrap();
    drop(begun);
    let run = folder.path().join("run");
    let (before, ..) = State::latest(&run).unwrap();
    let check = || {
        let (state, _, damaged) = State::latest(&run).unwrap();
        assert!(damaged.is_none() || !run.join("last.safetensors").exists(), "{damaged:?}");
        assert_same(&state, &before);
    };
    kill(("save", &[folder.path().to_str().unwrap()]), Duration::from_millis(150), check, || ());
}

/// Every picture in the folder of results is whole, also those of earlier calls, and the inputs are what
/// they were.
pub(crate) fn fusing() {
    let folder = tempfile::tempdir().unwrap();
    pairs(folder.path(), 6, (96, 80));
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (vi, ir, whole, killed) = (at("vi"), at("ir"), at("whole"), at("killed"));
    let args = |output| ["--visible", &vi, "--infrared", &ir, "--output", output];
    let started = Instant::now();
    assert!(start("fuse", &args(&whole)).wait().unwrap().success());
    let took = started.elapsed();
    let (results, inputs) =
        (files(Path::new(&whole)), [files(Path::new(&vi)), files(Path::new(&ir))]);
    assert_eq!(results.len(), 6);
    let mut most = 0;
    let check = || {
        let there =
            if Path::new(&killed).exists() { files(Path::new(&killed)) } else { Vec::new() };
        assert!(there.iter().all(|file| results.contains(file)), "a file that is not whole");
        assert!(there.len() >= most, "a file was lost");
        most = there.len();
    };
    kill(("fuse", &args(&killed)), took, check, || ());
    assert!(start("fuse", &args(&killed)).wait().unwrap().success());
    assert!(files(Path::new(&killed)) == results);
    assert!([files(Path::new(&vi)), files(Path::new(&ir))] == inputs);
}

/// The file of weights is at any time one of the two that are written in turn.
pub(crate) fn converting() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let config = isfm_model::Config::from(Preset::Small);
    let weights = isfm_model::initial_weights(&config, 1, &Device::Cpu).unwrap();
    let metadata = Default::default();
    let from = Checkpoint { config, weights, self_contained: true, metadata };
    from.write(at("from.safetensors"), DType::F32).unwrap();
    let both = [DType::F16, DType::F32].map(|dtype| {
        from.write(at("to.safetensors"), dtype).unwrap();
        fs::read(at("to.safetensors")).unwrap()
    });
    assert_ne!(both[0], both[1]);
    let check = || assert!(both.contains(&fs::read(at("to.safetensors")).unwrap()));
    let args = [folder.path().to_str().unwrap()];
    kill(("convert", &args), Duration::from_millis(150), check, || ());
}

/// Names and contents of a folder's files, but for those that say of themselves that they are unfinished.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !isfm_files::is_unfinished(path))
        .map(|path| {
            (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

fn weights_are_whole(run: &Path) {
    for name in ["weights.safetensors", "best.safetensors"].map(|name| run.join(name)) {
        if name.exists() {
            assert_eq!(Checkpoint::read(&name, None, &Device::Cpu).unwrap().config, model());
        }
    }
}

/// A log's lines without the time that a step took.
fn without_times(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| line.split(",\"seconds\"").next().unwrap().to_owned()).collect()
}

fn bits(weights: &isfm_model::Weights) -> Vec<(String, Vec<u32>)> {
    let bits = |t: &candle_core::Tensor| {
        let values = t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    };
    weights.iter().map(|(name, tensor)| (name.clone(), bits(tensor))).collect()
}

/// All but the time that they took.
fn assert_same(state: &State, other: &State) {
    assert_eq!((state.step, &state.train), (other.step, &recipe()));
    assert_eq!(state.best.map(f64::to_bits), other.best.map(f64::to_bits));
    assert!(bits(&state.weights) == bits(&other.weights), "weights");
    let moments = |state: &State| {
        let both = |m: &isfm_train::Moments| {
            [&m.mean, &m.square].map(|v| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>())
        };
        state.moments.values().map(both).collect::<Vec<_>>()
    };
    assert!(moments(state) == moments(other), "moments");
    assert!(state.average == other.average, "average");
}
