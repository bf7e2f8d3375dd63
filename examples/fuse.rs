//! Fuses an infrared and a visible picture, or folders of them; without arguments a pair that it
//! paints itself. `--help` tells the rest.

use std::process::ExitCode;

use clap::Parser;
use isfm_examples::fuse::{Args, run};

fn main() -> ExitCode {
    isfm::keep_freed_memory();
    isfm_examples::finish(run(&Args::parse()), "failed")
}
