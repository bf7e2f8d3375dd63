//! The programs, from their arguments to the files they write.

mod common;
mod evaluate;
mod fuse;

/// What the user is told when nothing could be done, which is no cause twice.
fn fault<T>(result: anyhow::Result<T>) -> String {
    let Err(error) = result else { panic!("no error") };
    let chain: Vec<_> = error.chain().map(ToString::to_string).collect();
    for pair in chain.windows(2) {
        assert!(!pair[0].contains(&pair[1]), "a cause is told twice: {error:#}");
    }
    format!("{error:#}")
}
