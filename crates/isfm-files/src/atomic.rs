//! Files that are whole or not there.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::NamedTempFile;

const PREFIX: &str = ".isfm-";
const SUFFIX: &str = ".tmp";

/// As many links one after the other as Linux follows.
const MOST_LINKS: usize = 40;

/// Writes a file beside its place and renames it into it, so that `path` is at no time half a file:
/// it holds what it held before, or all of what `write` wrote, also after a crash (the file is
/// brought to the disk before the rename and the folder after it, where the platform can).
///
/// Missing folders are made. The new file has the permissions of any other new file (0666 less the
/// umask on Unix). A symbolic link stays one: the file that it points to is replaced. A
/// [stream](is_stream) is written to directly.
///
/// ```
/// use std::io::Write;
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("scores/table.csv");
/// isfm_files::write_atomically(&path, |file| writeln!(file, "name,score"))?;
/// assert_eq!(std::fs::read_to_string(&path)?, "name,score\n");
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// Whatever `write` returns, and the system's errors; `path` is then as it was before and nothing
/// is left beside it (save where the folder alone could not be brought to the disk).
pub fn write_atomically<E: From<io::Error>>(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> Result<(), E>,
) -> Result<(), E> {
    if is_stream(path) {
        // What others wrote to a file that is behind standard output stays before it.
        return fill(&File::options().append(true).open(path)?, write);
    }
    let path = behind_links(path)?;
    let folder = path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let (_listed, aside) = beside(folder)?;
    fill(aside.as_file(), write)?;
    aside.as_file().sync_all()?;
    aside.persist(&path).map_err(|e| e.error)?;
    Ok(sync_folder(folder)?)
}

/// Whether [`write_atomically`] writes to `path` directly because nothing could take its place: what
/// is there is no regular file and no folder (a FIFO, a device, a socket), or it is an open file of a
/// process (`/dev/stdout`, `/dev/fd/1`), whatever that is.
pub fn is_stream(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|there| {
        !there.is_dir() && (!there.is_file() || behind_links(path).is_ok_and(|p| is_open_file(&p)))
    })
}

/// A name that stands for what a process has open.
fn is_open_file(path: &Path) -> bool {
    ["/dev/fd", "/dev/stdin", "/dev/stdout", "/dev/stderr", "/proc"]
        .map(Path::new)
        .iter()
        .any(|open| path.starts_with(open))
}

/// The files that are being written beside their places.
static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn unfinished() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the process with this exit code and removes the files that [`write_atomically`] has not
/// finished: for a program's answer to Ctrl-C, which leaves them lying otherwise.
///
/// Not for a signal handler itself, which must not take locks: for the thread that it wakes.
pub fn exit(code: i32) -> ! {
    let unfinished = unfinished();
    for path in unfinished.iter() {
        _ = fs::remove_file(path);
    }
    // With the lock held, so that no other is begun.
    std::process::exit(code)
}

/// Makes a file that is removed when it is dropped, and by [`exit`].
fn beside(folder: &Path) -> io::Result<(Listed, NamedTempFile)> {
    let mut aside = tempfile::Builder::new();
    aside.prefix(PREFIX).suffix(SUFFIX);
    // The default is 0600, right for secrets and wrong for results.
    #[cfg(unix)]
    aside.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut all = unfinished();
    let file = aside.tempfile_in(folder)?;
    let path = file.path().to_path_buf();
    all.insert(path.clone());
    Ok((Listed(path), file))
}

/// Among the unfinished files until it is dropped.
struct Listed(PathBuf);

impl Drop for Listed {
    fn drop(&mut self) {
        unfinished().remove(&self.0);
    }
}

/// Whether a file is what a killed process left of [`write_atomically`], which its owner may
/// delete when no other process writes into the folder.
pub fn is_unfinished(path: &Path) -> bool {
    let name = path.file_name().and_then(|n| n.to_str());
    name.is_some_and(|n| n.starts_with(PREFIX) && n.ends_with(SUFFIX))
}

fn fill<E: From<io::Error>>(
    file: &File,
    write: impl FnOnce(&mut BufWriter<&File>) -> Result<(), E>,
) -> Result<(), E> {
    let mut writer = BufWriter::new(file);
    write(&mut writer)?;
    Ok(writer.flush()?)
}

/// Where a chain of symbolic links ends, whether or not there is a file. What a process has open is
/// such an end: the link behind it may name a file that is gone.
fn behind_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_path_buf();
    for _ in 0..MOST_LINKS {
        if is_open_file(&path) {
            return Ok(path);
        }
        let Ok(next) = fs::read_link(&path) else { return Ok(path) };
        path = path.parent().unwrap_or(Path::new("")).join(next);
    }
    Err(io::Error::other("a circle of symbolic links"))
}

/// Brings a rename in a folder to the disk where the platform can: Windows opens no folders, some
/// network file systems have no such call, and a folder may be writable without being readable.
///
/// # Errors
/// If the disk fails.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    let Ok(folder) = File::open(folder) else { return Ok(()) };
    match folder.sync_all() {
        Err(e) if !matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            Err(e)
        }
        _ => Ok(()),
    }
}
