//! Fuses an infrared and a visible picture, or folders of them; without arguments a pair that it
//! paints itself. `--help` tells the rest.

mod cli;
#[path = "../device.rs"]
mod device;
mod paint;
mod pairs;
mod sheet;
mod text;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    isfm::keep_freed_memory();
    match cli::run(&cli::Args::parse()) {
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
