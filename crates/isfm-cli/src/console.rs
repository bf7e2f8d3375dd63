//! What the program says, where, and how it ends.

use std::fmt::{self, Display};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use isfm_files::pairs::Skipped;
use serde_json::Value;

/// How much is said, and to whom.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct ConsoleArgs {
    /// Say nothing but what failed
    #[arg(short, long)]
    pub quiet: bool,
    /// Write what was done to standard output as JSON, one object a line, and all else to standard error
    #[arg(long)]
    pub json: bool,
}

/// An error of the command line: what is asked for cannot be begun. The program then ends with 2.
#[derive(Debug)]
pub struct Usage(anyhow::Error);

impl Usage {
    /// Marks an error as one.
    pub fn of(error: impl Into<anyhow::Error>) -> anyhow::Error {
        anyhow::Error::new(Self(error.into()))
    }
}

impl Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Usage {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// What a program that goes on past failures could not do.
pub type Failures<T> = anyhow::Result<Vec<T>>;

/// How the program ends: `failed` are told, as `what`.
pub fn end<T: Display>(failed: Failures<T>, what: &str) -> ExitCode {
    match failed {
        Ok(failed) if failed.is_empty() => ExitCode::SUCCESS,
        Ok(failed) => {
            eprintln!("\n{} {what}:", failed.len());
            failed.iter().for_each(|one| eprintln!("  {one}"));
            ExitCode::from(1)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
        }
    }
}

/// Where the program says what it does.
#[derive(Clone, Copy, Debug)]
pub struct Console {
    quiet: bool,
    /// Standard output is not for what is said: a result goes there.
    aside: bool,
    json: bool,
}

impl Console {
    /// On standard output, or on standard error if one of the results goes to a stream, which may be
    /// standard output, or what was done is told as JSON.
    pub fn new<'a>(args: ConsoleArgs, outputs: impl IntoIterator<Item = &'a Path>) -> Self {
        let streams = outputs.into_iter().any(isfm_files::is_stream);
        Self { quiet: args.quiet, aside: args.json || streams, json: args.json }
    }

    /// The same, if each of these files can be written: none is a folder, none is named twice.
    ///
    /// # Errors
    /// [`Usage`].
    pub fn for_files(quiet: bool, paths: &[&Path]) -> anyhow::Result<Self> {
        let check = || {
            for (at, path) in paths.iter().enumerate() {
                ensure!(!path.is_dir(), "{} is a folder: name a file to write", path.display());
                let twice = paths[..at].contains(path);
                ensure!(!twice, "{} is named twice as an output", path.display());
            }
            Ok(())
        };
        check().map_err(Usage::of)?;
        Ok(Self::new(ConsoleArgs { quiet, json: false }, paths.iter().copied()))
    }

    /// A line, or more. That nobody listens any more is no reason to stop.
    pub fn say(self, text: impl Display) {
        if self.quiet {
            return;
        }
        _ = match self.aside {
            true => writeln!(std::io::stderr(), "{text}"),
            false => writeln!(std::io::stdout(), "{text}"),
        };
    }

    /// What may make a result another than expected: on standard error.
    pub fn note(self, text: impl Display) {
        if !self.quiet {
            eprintln!("{text}");
        }
    }

    /// Writes a result whole or not at all, and says where.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(self, path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
        isfm_files::write_atomically(path, |file| file.write_all(bytes))
            .with_context(|| format!("cannot write {}", path.display()))?;
        self.say(path.display());
        Ok(())
    }

    /// For machines, where they asked.
    pub fn tell(self, value: &Value) {
        if self.json {
            _ = writeln!(std::io::stdout(), "{value}");
        }
    }

    /// Progress of so many, on standard error where that is a terminal.
    pub fn bar(self, count: usize, what: &str) -> ProgressBar {
        let bar = ProgressBar::new(count as u64);
        let template = format!("{{bar:30}} {{pos}}/{{len}} {what} ({{eta}} left)");
        if self.quiet {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        bar.with_style(
            ProgressStyle::with_template(&template)
                .unwrap_or_else(|_| ProgressStyle::default_bar()),
        )
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

    /// What of a folder was not taken for pictures.
    pub fn skipped(self, folder: &Path, skipped: Skipped) {
        if skipped.total() > 0 {
            self.say(format_args!("not taken for pictures in {}: {skipped}", folder.display()));
        }
    }
}
