//! What the processes do that are killed: the program itself, or this one again with a job in its
//! environment.

use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};

use candle_core::DType;
use isfm_cli::on_interrupt;
use isfm_model::Checkpoint;
use isfm_train::{PairFolder, RunOptions, State, Trainer};

use crate::common::{model, recipe};

const JOB: &str = "ISFM_RELIABILITY_JOB";

/// `isfm fuse` with these arguments.
pub(crate) fn fuse(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_isfm"));
    command.arg("fuse").args(args);
    command
}

/// This program with a job and its arguments.
pub(crate) fn command(job: &str, args: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(JOB, job).args(args);
    command
}

/// Does the job of the environment, if there is one.
pub(crate) fn run() -> Option<ExitCode> {
    let job = std::env::var(JOB).ok()?;
    let args: Vec<String> = std::env::args().skip(1).collect();
    let folder = args.first().map_or(Path::new(""), Path::new);
    match job.as_str() {
        "train" => _ = trainer(folder).run(&options()).unwrap(),
        "save" => {
            let mut trainer = trainer(folder);
            loop {
                trainer.save().unwrap();
            }
        }
        "convert" => loop {
            for dtype in [DType::F16, DType::F32] {
                let from = folder.join("from.safetensors");
                let read = Checkpoint::read(from, None, &candle_core::Device::Cpu).unwrap();
                read.write(folder.join("to.safetensors"), dtype).unwrap();
            }
        },
        "wait" => {
            on_interrupt(|code| isfm_files::exit(code)).unwrap();
            isfm_files::write_atomically(&folder.join("file"), |file| {
                file.write_all(&[7; 100_000])?;
                println!("ready");
                std::thread::sleep(std::time::Duration::from_secs(60));
                std::io::Result::Ok(())
            })
            .unwrap();
        }
        other => panic!("no job {other}"),
    }
    Some(ExitCode::SUCCESS)
}

/// On one thread, with a checkpoint after every step.
pub(crate) fn options() -> RunOptions {
    RunOptions { checkpoint_steps: 1, threads: Some(1), ..RunOptions::default() }
}

/// The run in `run`, begun or gone on with.
pub(crate) fn trainer(folder: &Path) -> Trainer {
    let run = folder.join("run");
    let data = PairFolder::open(folder.join("data")).unwrap();
    let builder = Trainer::builder(model(), data).config(recipe());
    let there = State::latest(&run).is_ok();
    if there { builder.resume(&run) } else { builder.create(&run) }.unwrap()
}
