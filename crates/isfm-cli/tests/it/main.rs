//! The programs, from their arguments to the files they write.

mod align;
mod certainty;
mod common;
mod evaluate;
mod figures;
mod fuse;
mod live;
mod outputs;
mod paper;
mod program;
mod shares;
mod tasks;

/// What the user is told when nothing could be done, which is no cause twice.
fn fault<T>(result: anyhow::Result<T>) -> String {
    let Err(error) = result else { panic!("no error") };
    isfm_testing::chain(error.as_ref())
}
