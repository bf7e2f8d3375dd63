//! Folders of pictures, and which picture of one belongs to which of another.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The extensions of the picture formats that the workspace reads.
pub const PICTURE_EXTENSIONS: [&str; 11] =
    ["png", "jpg", "jpeg", "bmp", "tif", "tiff", "webp", "pgm", "ppm", "pnm", "pam"];

/// Whether a file's extension, in capitals or not, is one of [`PICTURE_EXTENSIONS`].
pub fn is_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str());
    extension.is_some_and(|e| PICTURE_EXTENSIONS.iter().any(|known| e.eq_ignore_ascii_case(known)))
}

/// The pictures of a folder, not those of the folders in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// The folder.
    pub path: PathBuf,
    /// Its pictures, in the order of their names.
    pub pictures: Vec<PathBuf>,
    /// What else it holds.
    pub skipped: Skipped,
}

/// How many entries of a folder are not taken for pictures, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Names that begin with a dot, such as the `._NAME.png` that macOS puts beside `NAME.png`.
    pub hidden: usize,
    /// Names that are not UTF-8.
    pub not_utf8: usize,
    /// Files with another extension than a picture's, and what is no file: folders, links that lead
    /// nowhere, devices.
    pub others: usize,
}

/// Such as `3 hidden, 1 not in UTF-8, 2 others`; what there is none of is left out.
impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds =
            [(self.hidden, "hidden"), (self.not_utf8, "not in UTF-8"), (self.others, "others")];
        let told = kinds.iter().filter(|(count, _)| *count > 0);
        f.write_str(
            &told.map(|(count, what)| format!("{count} {what}")).collect::<Vec<_>>().join(", "),
        )
    }
}

impl Skipped {
    /// All of them.
    pub fn total(self) -> usize {
        self.hidden + self.not_utf8 + self.others
    }
}

impl Folder {
    /// Lists a folder; nothing is opened.
    ///
    /// # Errors
    /// [`Error::List`] if it is not there or no folder or cannot be listed.
    pub fn list(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        let cannot = |source| Error::List { folder: path.clone(), source };
        let (mut pictures, mut skipped) = (Vec::new(), Skipped::default());
        for entry in std::fs::read_dir(&path).map_err(cannot)? {
            let file = entry.map_err(cannot)?.path();
            match file.file_name().and_then(|n| n.to_str()) {
                None => skipped.not_utf8 += 1,
                Some(name) if name.starts_with('.') => skipped.hidden += 1,
                Some(_) if is_picture(&file) && file.is_file() => pictures.push(file),
                Some(_) => skipped.others += 1,
            }
        }
        pictures.sort();
        Ok(Self { path, pictures, skipped })
    }

    /// The pictures by their stem, the name without its last extension. Several can have one.
    pub fn by_stem(&self) -> BTreeMap<&str, Vec<&Path>> {
        let mut stems = BTreeMap::<_, Vec<_>>::new();
        for picture in &self.pictures {
            stems.entry(stem(picture)).or_default().push(picture.as_path());
        }
        stems
    }
}

/// A visible and an infrared picture of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pair {
    /// The common stem; where several pairs have it, the visible file's whole name. No two pairs
    /// have one name.
    pub name: String,
    /// The visible picture.
    pub visible: PathBuf,
    /// The infrared picture.
    pub infrared: PathBuf,
}

/// Pictures of one stem that could make a pair in several ways, and make none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ambiguous {
    /// The visible pictures.
    pub visible: Vec<PathBuf>,
    /// The infrared pictures.
    pub infrared: Vec<PathBuf>,
}

impl Ambiguous {
    /// The stem that they have.
    pub fn name(&self) -> &str {
        self.visible.first().map_or("", |picture| stem(picture))
    }
}

impl fmt::Display for Ambiguous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |paths: &[PathBuf]| {
            paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
        };
        write!(
            f,
            "which visible picture ({}) belongs to which infrared one ({})? Give them one whole \
             name, or take all but one away",
            list(&self.visible),
            list(&self.infrared)
        )
    }
}

/// What two folders hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairing {
    /// The pairs, in the order of their stems, then of their visible pictures.
    pub pairs: Vec<Pair>,
    /// Visible pictures without an infrared one.
    pub visible_alone: Vec<PathBuf>,
    /// Infrared pictures without a visible one.
    pub infrared_alone: Vec<PathBuf>,
    /// Pictures that could make a pair in several ways.
    pub ambiguous: Vec<Ambiguous>,
    /// What else the two folders hold, the visible one first.
    pub skipped: [Skipped; 2],
}

impl Pairing {
    /// Pairs the pictures of two folders by their whole names, those left over by their stems. The
    /// result does not depend on the order in which the system lists files. Nothing is opened.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let (vi, ir) = (folder.path().join("vi"), folder.path().join("ir"));
    /// # for file in [&vi, &ir] { std::fs::create_dir(file)?; }
    /// # for file in [vi.join("a.png"), vi.join("b.jpg"), ir.join("b.png"), ir.join("._b.png")] {
    /// #     std::fs::write(file, "")?;
    /// # }
    /// let found = isfm_files::Pairing::find(&vi, &ir)?; // vi/{a.png,b.jpg}, ir/{b.png,._b.png}
    /// assert_eq!(found.pairs[0].name, "b");
    /// assert_eq!(found.visible_alone, [vi.join("a.png")]);
    /// assert_eq!(found.skipped[1].hidden, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// If a folder cannot be listed or has no pictures, or no pair is found.
    pub fn find(visible: impl AsRef<Path>, infrared: impl AsRef<Path>) -> Result<Self> {
        let folders = [Folder::list(visible)?, Folder::list(infrared)?];
        let [visible, infrared] = &folders;
        for Folder { path, pictures, skipped } in &folders {
            if pictures.is_empty() {
                return Err(Error::NoPictures { folder: path.clone(), skipped: skipped.total() });
            }
        }
        let skipped = [visible.skipped, infrared.skipped];
        let mut found = Self { skipped, ..Self::default() };
        let (visibles, mut infrareds) = (visible.by_stem(), infrared.by_stem());
        for (stem, visibles) in visibles {
            found.of_one_stem(stem, visibles, infrareds.remove(stem).unwrap_or_default());
        }
        found.infrared_alone.extend(infrareds.into_values().flatten().map(Path::to_path_buf));
        found.infrared_alone.sort();
        found.visible_alone.sort();
        found.part_names();
        if !found.pairs.is_empty() {
            return Ok(found);
        }
        Err(match found.ambiguous.into_iter().next() {
            Some(ambiguous) => Error::Ambiguous(ambiguous),
            None => Error::NoPairs {
                names: [first_names(visible), first_names(infrared)],
                visible: visible.path.clone(),
                infrared: infrared.path.clone(),
            },
        })
    }

    fn of_one_stem(&mut self, stem: &str, visible: Vec<&Path>, infrared: Vec<&Path>) {
        let [mut visible, mut infrared] = [visible, infrared]
            .map(|paths| paths.into_iter().map(Path::to_path_buf).collect::<Vec<_>>());
        let name = stem.to_owned();
        let start = self.pairs.len();
        visible.retain(|v| {
            let Some(at) = infrared.iter().position(|i| i.file_name() == v.file_name()) else {
                return true;
            };
            let infrared = infrared.remove(at);
            self.pairs.push(Pair { name: name.clone(), visible: v.clone(), infrared });
            false
        });
        match (visible.len(), infrared.len()) {
            (_, 0) => self.visible_alone.extend(visible),
            (0, _) => self.infrared_alone.extend(infrared),
            (1, 1) => {
                let (visible, infrared) = (visible.remove(0), infrared.remove(0));
                self.pairs.push(Pair { name, visible, infrared });
            }
            _ => self.ambiguous.push(Ambiguous { visible, infrared }),
        }
        self.pairs[start..].sort_by(|a, b| a.visible.cmp(&b.visible));
    }

    /// Gives the pairs of one name their visible pictures' whole names, until no two are called alike:
    /// `a.png` is the stem of `a.png.png` too.
    fn part_names(&mut self) {
        loop {
            let mut counts = HashMap::<String, usize>::new();
            self.pairs.iter().for_each(|pair| *counts.entry(pair.name.clone()).or_default() += 1);
            let mut alike = self.pairs.iter_mut().filter(|pair| counts[&pair.name] > 1).peekable();
            if alike.peek().is_none() {
                return;
            }
            alike.for_each(|pair| pair.name = file_name(&pair.visible).to_owned());
        }
    }
}

// Of a listed picture neither is ever empty: its name is UTF-8 and has an extension.
fn stem(picture: &Path) -> &str {
    picture.file_stem().and_then(|s| s.to_str()).unwrap_or_default()
}

fn file_name(picture: &Path) -> &str {
    picture.file_name().and_then(|n| n.to_str()).unwrap_or_default()
}

fn first_names(folder: &Folder) -> String {
    let names = folder.pictures.iter().take(2).map(|p| file_name(p)).collect::<Vec<_>>();
    let more = if folder.pictures.len() > 2 { ", …" } else { "" };
    format!("{}{more}", names.join(", "))
}
