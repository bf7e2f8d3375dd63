//! Files that are whole or not there.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

const PREFIX: &str = ".isfm-";
const SUFFIX: &str = ".tmp";

/// As many links one after the other as Linux follows.
const MOST_LINKS: usize = 40;

/// Writes a file beside its place and renames it into it, so that `path` is at no time half a file:
/// it holds what it held before, or all of what `write` wrote, also after a crash (the file is
/// brought to the disk before the rename and the folder after it, where the platform can).
///
/// Missing folders are made. The new file has the permissions of any other new file (0666 less the
/// umask on Unix). A symbolic link stays one: the file that it points to is replaced. What is there
/// already and is no regular file, such as a FIFO or `/dev/stdout`, is written to directly.
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
    if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        return fill(&File::options().write(true).open(path)?, write);
    }
    let path = behind_links(path)?;
    let folder = path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut aside = tempfile::Builder::new();
    aside.prefix(PREFIX).suffix(SUFFIX);
    // The default is 0600, right for secrets and wrong for results.
    #[cfg(unix)]
    aside.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let aside = aside.tempfile_in(folder)?;
    fill(aside.as_file(), write)?;
    aside.as_file().sync_all()?;
    aside.persist(&path).map_err(|e| e.error)?;
    Ok(sync_folder(folder)?)
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

/// Where a chain of symbolic links ends, whether or not there is a file.
fn behind_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_path_buf();
    for _ in 0..MOST_LINKS {
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
