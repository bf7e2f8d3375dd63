//! The element in pipelines, in process.

mod common;
mod ends;
mod equality;
mod live;
mod refusals;
