//! Data, recipe and whole runs.

mod augment;
mod common;
mod data;
#[cfg(unix)]
mod kill;
mod mixture;
mod optimiser;
mod ranks;
mod run;
mod run_file;
mod validation;
