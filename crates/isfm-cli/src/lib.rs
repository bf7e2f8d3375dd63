//! The program `isfm` as a library, for its own tests and the making of its manual pages. What it is
//! made of changes with the program: to fuse, score or train from Rust take the crates `isfm`,
//! `isfm-metrics` and `isfm-train`.

pub mod align;
mod console;
pub mod convert;
pub mod evaluate;
pub mod fuse;
mod interrupt;
pub mod list;
pub mod live;
pub mod manual;
pub mod merge;
pub mod options;
pub mod pairs;
pub mod paper;
pub mod ranks;
pub mod shard;
pub mod train;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

pub use console::{Console, ConsoleArgs, Failures, Usage, end};
pub use interrupt::{on_interrupt, stop_after_step};

/// Align infrared and visible pictures, fuse them into one, score fused pictures, train the network, make the tables and
/// figures of its paper.
///
/// Exit codes: 0 if all is done, 1 if something failed (it is named at the end, the rest is done), 2 if
/// what was asked for cannot be begun: a wrong option, a file that is not there.
#[derive(Parser, Debug)]
#[command(name = "isfm", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
// A comment on a variant would take the place of the whole help of its arguments.
#[derive(Subcommand, Debug)]
#[expect(missing_docs, reason = "their arguments have them")]
pub enum Command {
    Align(Box<align::Args>),
    Fuse(Box<fuse::Args>),
    Evaluate(Box<evaluate::Args>),
    Live(Box<live::Args>),
    Train(Box<train::Args>),
    Convert(Box<convert::Args>),
    Merge(Box<merge::Args>),
    Paper(Box<paper::Args>),
    Completions(manual::Completions),
    Man(manual::Pages),
}

/// The whole program.
pub fn main() -> ExitCode {
    isfm::keep_freed_memory();
    let cli = Cli::parse();
    // Training answers by a checkpoint.
    let trains = match &cli.command {
        Command::Train(_) => true,
        Command::Paper(args) => matches!(args.what, paper::What::Ablate(_)),
        _ => false,
    };
    if !trains && let Err(error) = on_interrupt(|code| isfm_files::exit(code)) {
        return end(Failures::<String>::Err(error.into()), "");
    }
    run(cli)
}

/// Does what was asked, and says what failed.
pub fn run(cli: Cli) -> ExitCode {
    match cli.command {
        Command::Align(args) => end(align::run(&args), "were left out"),
        Command::Fuse(args) => end(fuse::run(&args), "failed"),
        Command::Evaluate(args) => end(evaluate::run(&args), "problems; everything else is scored"),
        Command::Live(args) => end(live::run(&args), ""),
        Command::Train(args) => match ranks::Ranks::join() {
            Ok(ranks) => {
                let failed = train::run(*args, &ranks);
                ranks.end(failed)
            }
            Err(error) => end(Failures::<String>::Err(error), ""),
        },
        Command::Convert(args) => end(convert::run(*args), ""),
        Command::Merge(args) => {
            end(merge::run(&args), "failed in one of the shards or are in none")
        }
        Command::Paper(args) => end(paper::run(&args), "problems; everything else is done"),
        Command::Completions(args) => end(manual::completions(&args), ""),
        Command::Man(args) => end(manual::pages(&args), ""),
    }
}

/// A list, a manifest or scores, which may be of any size; without a byte-order mark.
fn text_of(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(isfm_files::without_mark(&text).to_owned())
}
