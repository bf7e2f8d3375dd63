//! Scores fused pictures: a table of methods, values of each picture as JSON and CSV, and a page
//! to look at them. `--help` tells the rest.

use std::process::ExitCode;

use clap::Parser;
use isfm_examples::evaluate::{Args, run};

fn main() -> ExitCode {
    match run(&Args::parse()) {
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
