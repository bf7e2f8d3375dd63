//! Tests of alignments as a caller makes and uses them.

mod estimates;
mod files;
mod points;
mod scenes;
mod warps;
