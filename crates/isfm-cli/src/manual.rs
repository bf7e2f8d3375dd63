//! Completions for shells, and manual pages.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser};
use clap_complete::Shell;

use crate::Cli;

/// Write completions for a shell to standard output.
///
/// For bash, for instance: isfm completions bash > ~/.local/share/bash-completion/completions/isfm
#[derive(Parser, Debug)]
pub struct Completions {
    /// The shell
    pub shell: Shell,
}

/// Write the manual pages, one for each subcommand.
///
/// To read one: isfm man /tmp/man, then man /tmp/man/isfm-fuse.1
#[derive(Parser, Debug)]
pub struct Pages {
    /// The folder that they go to
    pub folder: PathBuf,
}

/// Writes the completions.
pub fn completions(args: &Completions) -> Result<Vec<String>> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "isfm", &mut script);
    // That nobody listens any more is no fault.
    _ = std::io::Write::write_all(&mut std::io::stdout(), &script);
    Ok(Vec::new())
}

/// Writes the manual pages.
pub fn pages(args: &Pages) -> Result<Vec<String>> {
    let cannot = || format!("cannot write the manual pages to {}", args.folder.display());
    std::fs::create_dir_all(&args.folder).with_context(cannot)?;
    clap_mangen::generate_to(Cli::command(), &args.folder).with_context(cannot)?;
    Ok(Vec::new())
}
