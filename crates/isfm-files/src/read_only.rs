//! What stands for `atomic.rs` without the feature `write`: for machines without files, such as a
//! browser's.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;

/// Writes nothing: the feature `write` is off.
///
/// # Errors
/// Always, of the kind [`io::ErrorKind::Unsupported`].
pub fn write_atomically<E: From<io::Error>>(
    _: &Path,
    _: impl FnOnce(&mut BufWriter<&File>) -> Result<(), E>,
) -> Result<(), E> {
    let why = "isfm-files was built without its feature `write`";
    Err(io::Error::new(io::ErrorKind::Unsupported, why).into())
}

/// Whether a file is what a killed process left of [`write_atomically`]: without the feature `write`
/// none is taken for one.
pub fn is_unfinished(_: &Path) -> bool {
    false
}

/// Nothing: there is no rename to bring to the disk.
///
/// # Errors
/// None.
pub fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Whether a path can only be written to directly: nothing is written.
pub fn is_stream(_: &Path) -> bool {
    false
}

/// Ends the process with this exit code; there are no unfinished files.
pub fn exit(code: i32) -> ! {
    std::process::exit(code)
}
