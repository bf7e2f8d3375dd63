//! Scores fused pictures: a table of methods, values of each picture as JSON and CSV, and a page
//! to look at them. `--help` tells the rest.

mod cli;
mod export;
mod inputs;
mod page;
#[path = "../fuse/pairs.rs"]
mod pairs;
mod pictures;
mod plot;
mod report;
mod table;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::run(&cli::Args::parse()) {
        Ok(problems) if problems.is_empty() => ExitCode::SUCCESS,
        Ok(problems) => {
            eprintln!("\n{} problems; everything else is scored:", problems.len());
            for problem in &problems {
                eprintln!("  {problem}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
