//! Fuses an infrared and a visible picture, or folders of them; without arguments a pair that it
//! paints itself. `--help` tells the rest.

use std::process::ExitCode;

use clap::Parser;
use isfm_examples::fuse::{Args, run};

fn main() -> ExitCode {
    isfm::keep_freed_memory();
    if let Err(error) = isfm_examples::on_interrupt(|code| isfm_files::exit(code)) {
        return isfm_examples::end(Err(error.into()));
    }
    isfm_examples::finish(run(&Args::parse()), "failed")
}
