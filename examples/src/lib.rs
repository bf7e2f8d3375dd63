//! What the example programs and their tests share.

pub mod device;
pub mod evaluate;
pub mod fuse;
pub mod paint;
mod sheet;
pub mod text;

use std::fmt::Display;
use std::process::ExitCode;

/// How a program ends that goes on past what fails: `failed` are told at the end, as `what`.
pub fn finish<P: Display>(failed: anyhow::Result<Vec<P>>, what: &str) -> ExitCode {
    match failed {
        Ok(failed) if failed.is_empty() => return ExitCode::SUCCESS,
        Ok(failed) => {
            eprintln!("\n{} {what}:", failed.len());
            failed.iter().for_each(|one| eprintln!("  {one}"));
        }
        Err(error) => eprintln!("error: {error:#}"),
    }
    ExitCode::FAILURE
}
