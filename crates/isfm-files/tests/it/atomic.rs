//! Atomic writes, and what is left after those that fail.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use isfm_files::{is_stream, is_unfinished, write_atomically};

use crate::names;

fn put(path: &Path, text: &str) -> io::Result<()> {
    write_atomically(path, |file| file.write_all(text.as_bytes()))
}

#[test]
fn a_file_is_replaced_and_folders_are_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b/text");
    for text in ["long text", "short"] {
        put(&path, text).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
    assert_eq!(names(path.parent().unwrap()), ["text"]);
}

#[test]
fn a_failed_write_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text");
    let fail = || {
        write_atomically(&path, |file| {
            file.write_all(&[b'x'; 100_000])?;
            // The unfinished file is beside its place, under a name that says so.
            let aside = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path());
            assert_eq!(aside.filter(|p| is_unfinished(p)).count(), 1);
            Err(io::Error::other("no more"))
        })
    };
    assert_eq!(fail().unwrap_err().to_string(), "no more");
    assert_eq!(names(folder.path()), [""; 0]);
    put(&path, "old").unwrap();
    fail().unwrap_err();
    assert_eq!(names(folder.path()), ["text"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    assert!(!is_unfinished(&path));
}

#[test]
fn places_for_no_file_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "text").unwrap_err();
    put(&folder.path().join(".."), "text").unwrap_err();
    put(Path::new(""), "text").unwrap_err();
    put(&folder.path().join("file"), "text").unwrap();
    put(&folder.path().join("file/in it"), "text").unwrap_err();
    assert_eq!(names(folder.path()), ["file"]);
}

#[cfg(unix)]
mod unix {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn permissions_are_those_of_any_new_file() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, ordinary) = (folder.path().join("ours"), folder.path().join("ordinary"));
        put(&ours, "").unwrap();
        fs::write(&ordinary, "").unwrap();
        let mode = |path| fs::metadata(path).unwrap().mode();
        assert_eq!(mode(&ours), mode(&ordinary));
    }

    #[test]
    fn links_stay_links() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("there")).unwrap();
        symlink("there/file", at("one")).unwrap();
        symlink(at("one"), at("two")).unwrap();
        // The first time the links lead nowhere.
        for text in ["first", "second"] {
            put(&at("two"), text).unwrap();
            assert_eq!(fs::read_to_string(at("there/file")).unwrap(), text);
        }
        assert!(at("one").is_symlink() && at("two").is_symlink());
        assert_eq!(names(&at("there")), ["file"]);
        symlink("circle", at("circle")).unwrap();
        assert!(put(&at("circle"), "").unwrap_err().to_string().contains("circle"));
    }

    #[test]
    fn a_fifo_is_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let reader = std::thread::spawn({
            let path = path.clone();
            move || fs::read_to_string(path).unwrap()
        });
        put(&path, "through").unwrap();
        assert_eq!(reader.join().unwrap(), "through");
        assert_eq!(names(folder.path()), ["fifo"]);
    }

    #[test]
    fn streams_are_told_from_files() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        put(&at("file"), "").unwrap();
        symlink("file", at("link")).unwrap();
        symlink("/dev/null", at("null")).unwrap();
        for path in [at("file"), at("link"), at("none"), folder.path().to_path_buf()] {
            assert!(!is_stream(&path), "{}", path.display());
        }
        assert!(is_stream(&at("null")) && is_stream(Path::new("/dev/null")));
        put(&at("null"), "text").unwrap();
        assert!(at("null").is_symlink());
    }

    /// A name of an open file stands for that, not for the path that it was opened under.
    #[test]
    #[cfg(target_os = "linux")]
    fn an_open_file_is_added_to() {
        use std::os::fd::AsRawFd;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let open = fs::File::create(&path).unwrap();
        (&open).write_all(b"before, ").unwrap();
        for name in ["/dev/fd", "/proc/self/fd"] {
            let name = Path::new(name).join(open.as_raw_fd().to_string());
            assert!(is_stream(&name));
            put(&name, "after").unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "before, afterafter");
        fs::remove_file(&path).unwrap();
        put(&Path::new("/dev/fd").join(open.as_raw_fd().to_string()), "more").unwrap();
        assert_eq!(names(folder.path()), [""; 0]);
    }
}
