//! What the example programs and their tests share.

pub mod device;
pub mod evaluate;
pub mod fuse;
mod interrupt;
pub mod paint;
mod sheet;
pub mod text;

use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use isfm_files::pairs::Skipped;

pub use interrupt::on_interrupt;

/// How a program ends that goes on past what fails: `failed` are told at the end, as `what`.
pub fn finish<P: Display>(failed: anyhow::Result<Vec<P>>, what: &str) -> ExitCode {
    match failed {
        Ok(failed) if failed.is_empty() => return ExitCode::SUCCESS,
        Ok(failed) => {
            eprintln!("\n{} {what}:", failed.len());
            failed.iter().for_each(|one| eprintln!("  {one}"));
        }
        Err(error) => eprintln!("error: {error:#}"),
    }
    ExitCode::FAILURE
}

/// How a program ends that does one thing.
pub fn end(done: anyhow::Result<()>) -> ExitCode {
    finish(done.map(|()| Vec::<String>::new()), "")
}

/// Where a program says what it does.
#[derive(Clone, Copy, Debug)]
pub struct Voice {
    aside: bool,
}

impl Voice {
    /// On standard output, or, if one of the results goes to a stream, which may be that, on standard
    /// error.
    pub fn beside<'a>(outputs: impl IntoIterator<Item = &'a Path>) -> Self {
        Self { aside: outputs.into_iter().any(isfm_files::is_stream) }
    }

    /// A line, or more. That nobody listens any more is no reason to stop.
    pub fn say(self, text: impl Display) {
        _ = match self.aside {
            true => writeln!(std::io::stderr(), "{text}"),
            false => writeln!(std::io::stdout(), "{text}"),
        };
    }

    /// How many they are, and the first ten, if there are any.
    pub fn list(self, what: &str, paths: &[PathBuf]) {
        const LISTED: usize = 10;
        if paths.is_empty() {
            return;
        }
        self.say(format_args!("{} {what}:", paths.len()));
        paths.iter().take(LISTED).for_each(|path| self.say(format_args!("  {}", path.display())));
        if paths.len() > LISTED {
            self.say(format_args!("  and {} more", paths.len() - LISTED));
        }
    }

    /// What of folders was not taken for pictures.
    pub fn skipped<const N: usize>(self, folders: [(&Path, Skipped); N]) {
        for (folder, skipped) in folders.into_iter().filter(|(_, skipped)| skipped.total() > 0) {
            self.say(format_args!("no pictures in {}: {skipped}", folder.display()));
        }
    }
}
