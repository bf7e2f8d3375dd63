//! Fuses an infrared and a visible picture, or folders of them; without arguments a pair that it
//! paints itself. `--help` tells the rest.

use std::process::ExitCode;

use clap::Parser;
use isfm_examples::fuse::{Args, run};

fn main() -> ExitCode {
    isfm::keep_freed_memory();
    match run(&Args::parse()) {
        Ok(failed) if failed.is_empty() => ExitCode::SUCCESS,
        Ok(failed) => {
            eprintln!("\n{} failed:", failed.len());
            for (name, error) in &failed {
                eprintln!("  {name}: {error:#}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
