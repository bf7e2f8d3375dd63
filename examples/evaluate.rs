//! Scores fused pictures: a table of methods, values of each picture as JSON and CSV, and a page
//! to look at them. `--help` tells the rest.

use std::process::ExitCode;

use clap::Parser;
use isfm_examples::evaluate::{Args, run};

fn main() -> ExitCode {
    isfm_examples::finish(run(&Args::parse()), "problems; everything else is scored")
}
