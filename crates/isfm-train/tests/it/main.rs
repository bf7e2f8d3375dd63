//! Data, recipe and whole runs.

mod common;
mod data;
#[cfg(unix)]
mod kill;
mod optimiser;
mod run;
