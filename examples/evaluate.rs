//! Scores fused pictures: a table of methods, values of each picture as JSON and CSV, and a page
//! to look at them. `--help` tells the rest.

use std::process::ExitCode;

use clap::Parser;
use isfm_examples::evaluate::{Args, run};

fn main() -> ExitCode {
    if let Err(error) = isfm_examples::on_interrupt(|code| isfm_files::exit(code)) {
        return isfm_examples::end(Err(error.into()));
    }
    isfm_examples::finish(run(&Args::parse()), "problems; everything else is scored")
}
