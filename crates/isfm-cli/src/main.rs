//! The program `isfm`.

use std::process::ExitCode;

fn main() -> ExitCode {
    isfm_cli::main()
}
