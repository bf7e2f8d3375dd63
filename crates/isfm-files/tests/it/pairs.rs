//! Which pictures make pairs, and what is said of the others.

use std::path::{Path, PathBuf};

use isfm_files::pairs::{Ambiguous, Folder, Skipped};
use isfm_files::{Error, Pairing, is_picture};

/// Two folders with empty files of these names.
fn folders(visible: &[&str], infrared: &[&str]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (folder, names) in [("vi", visible), ("ir", infrared)] {
        std::fs::create_dir(root.path().join(folder)).unwrap();
        for name in names {
            std::fs::write(root.path().join(folder).join(name), "").unwrap();
        }
    }
    root
}

fn find(root: &Path) -> isfm_files::Result<Pairing> {
    Pairing::find(root.join("vi"), root.join("ir"))
}

fn pairs(found: &Pairing) -> Vec<[String; 3]> {
    let name = |p: &PathBuf| p.file_name().unwrap().to_str().unwrap().to_owned();
    found.pairs.iter().map(|p| [p.name.clone(), name(&p.visible), name(&p.infrared)]).collect()
}

#[test]
fn pictures_are_known_by_extension() {
    for name in ["a.png", "a.JPG", "a.b.Tiff", "a.pnm", "a.pam"] {
        assert!(is_picture(Path::new(name)), "{name}");
    }
    for name in ["png", "a", "a.txt", "a.png.txt", ".png", "a."] {
        assert!(!is_picture(Path::new(name)), "{name}");
    }
}

#[test]
fn whole_names_go_before_stems() {
    let root = folders(
        &["b.png", "a.png", "a.jpg", "c.jpg", "alone.png", "d.e.png"],
        &["a.jpg", "b.BMP", "a.png", "c.jpg", "c.png", "other.png", "d.e.tif"],
    );
    let found = find(root.path()).unwrap();
    let want = [
        ["a.jpg", "a.jpg", "a.jpg"],
        ["a.png", "a.png", "a.png"],
        ["b", "b.png", "b.BMP"],
        ["c", "c.jpg", "c.jpg"],
        ["d.e", "d.e.png", "d.e.tif"],
    ];
    assert_eq!(pairs(&found), want);
    assert_eq!(found.visible_alone, [root.path().join("vi/alone.png")]);
    assert_eq!(
        found.infrared_alone,
        ["c.png", "other.png"].map(|n| root.path().join("ir").join(n))
    );
    assert!(found.ambiguous.is_empty());
}

#[test]
fn what_is_ambiguous_does_not_stop_the_rest() {
    let root = folders(&["a.png", "a.jpg", "b.png"], &["a.bmp", "b.png"]);
    let found = find(root.path()).unwrap();
    assert_eq!(pairs(&found), [["b", "b.png", "b.png"]]);
    let ambiguous = Ambiguous {
        visible: ["a.jpg", "a.png"].map(|n| root.path().join("vi").join(n)).to_vec(),
        infrared: vec![root.path().join("ir/a.bmp")],
    };
    assert_eq!(found.ambiguous, std::slice::from_ref(&ambiguous));
    assert_eq!(ambiguous.name(), "a");
    assert!(found.visible_alone.is_empty() && found.infrared_alone.is_empty());

    for folder in ["vi", "ir"] {
        std::fs::remove_file(root.path().join(folder).join("b.png")).unwrap();
    }
    let error = find(root.path()).unwrap_err();
    assert!(matches!(&error, Error::Ambiguous(a) if *a == ambiguous), "{error}");
}

#[test]
fn what_is_no_picture_is_counted() {
    let root = folders(&["a.png", "._a.png", ".DS_Store", "notes.txt", "b"], &["a.png"]);
    std::fs::create_dir(root.path().join("vi/folder.png")).unwrap();
    let found = find(root.path()).unwrap();
    assert_eq!(pairs(&found), [["a", "a.png", "a.png"]]);
    assert_eq!(found.skipped, [Skipped { hidden: 2, not_utf8: 0, others: 3 }, Skipped::default()]);
    assert_eq!(found.skipped[0].total(), 5);
}

/// Where results are called by these names, none is written over another.
#[test]
fn no_two_pairs_have_one_name() {
    let files = ["a.jpg", "a.png", "a.png.jpg", "a.png.jpg.bmp", "b.png"];
    let found = find(folders(&files, &files).path()).unwrap();
    let mut names: Vec<_> = found.pairs.iter().map(|pair| pair.name.as_str()).collect();
    assert_eq!(names, ["a.jpg", "a.png", "a.png.jpg", "a.png.jpg.bmp", "b"]);
    names.dedup();
    assert_eq!(names.len(), found.pairs.len());
}

#[cfg(unix)]
#[test]
fn what_leads_nowhere_is_counted() {
    use std::os::unix::fs::symlink;
    let root = folders(&["a.png", "c.PNG"], &["a.png", "c.png"]);
    let vi = root.path().join("vi");
    symlink("gone.png", vi.join("b.png")).unwrap();
    symlink("circle.png", vi.join("circle.png")).unwrap();
    symlink("a.png", vi.join("link.png")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(vi.join("fifo.png")).status();
    assert!(made.unwrap().success());
    let found = find(root.path()).unwrap();
    assert_eq!(pairs(&found), [["a", "a.png", "a.png"], ["c", "c.PNG", "c.png"]]);
    assert_eq!(found.visible_alone, [vi.join("link.png")]);
    assert_eq!(found.skipped[0].others, 3);
}

#[test]
fn what_is_skipped_is_said() {
    for (hidden, not_utf8, others, said) in
        [(0, 0, 0, ""), (2, 0, 1, "2 hidden, 1 others"), (0, 3, 0, "3 not in UTF-8")]
    {
        assert_eq!(Skipped { hidden, not_utf8, others }.to_string(), said);
    }
}

/// Other systems refuse to make such a file.
#[cfg(target_os = "linux")]
#[test]
fn names_that_are_not_utf8_are_counted() {
    use std::os::unix::ffi::OsStrExt;
    let root = folders(&["a.png"], &[]);
    let name = std::ffi::OsStr::from_bytes(b"\xff.png");
    std::fs::write(root.path().join("vi").join(name), "").unwrap();
    let folder = Folder::list(root.path().join("vi")).unwrap();
    assert_eq!((folder.pictures.len(), folder.skipped.not_utf8), (1, 1));
}

#[test]
fn errors_name_the_folders_and_what_would_be_right() {
    let said = |root: &Path, parts: &[&str]| {
        let error = find(root).unwrap_err().to_string();
        parts.iter().for_each(|p| assert!(error.contains(p), "{p:?} is not in: {error}"));
    };
    let root = folders(&["a.png", "b.png", "c.png"], &["x.png", "y.txt"]);
    said(root.path(), &["no pairs", "vi has a.png, b.png, …,", "ir has x.png"]);
    std::fs::remove_file(root.path().join("ir/x.png")).unwrap();
    said(root.path(), &["no pictures in", "ir (1 other files)", "png, jpg"]);
    std::fs::remove_dir_all(root.path().join("ir")).unwrap();
    said(root.path(), &["cannot list the folder", "ir"]);
    std::fs::write(root.path().join("ir"), "").unwrap();
    said(root.path(), &["cannot list the folder", "ir"]);
}
