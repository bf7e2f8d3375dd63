//! Which file of one folder belongs to which of another.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use image::ImageFormat;

/// A visible and an infrared file with one name.
#[derive(Debug, PartialEq)]
pub(crate) struct Pair {
    /// The name without extension.
    pub(crate) name: String,
    pub(crate) visible: PathBuf,
    pub(crate) infrared: PathBuf,
}

/// What two folders hold.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    /// In the order of their names.
    pub(crate) pairs: Vec<Pair>,
    /// Names that are in one folder only.
    pub(crate) alone: Vec<PathBuf>,
}

/// Pairs the pictures of two folders by name, whatever their extensions.
pub(crate) fn find(visible: &Path, infrared: &Path) -> Result<Pairs> {
    let visibles = pictures(visible)?;
    let mut infrareds = pictures(infrared)?;
    let mut found = Pairs::default();
    for (name, visible) in visibles {
        match infrareds.remove(&name) {
            Some(infrared) => found.pairs.push(Pair { name, visible, infrared }),
            None => found.alone.push(visible),
        }
    }
    found.alone.extend(infrareds.into_values());
    if found.pairs.is_empty() {
        bail!(
            "no pairs: no picture in {} has the name (without extension) of one in {}",
            visible.display(),
            infrared.display()
        );
    }
    Ok(found)
}

/// The pictures of a folder by their names without extension.
pub(crate) fn pictures(folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let cannot = || format!("cannot list the folder {}", folder.display());
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).with_context(cannot)? {
        let path = entry.with_context(cannot)?.path();
        let picture = path.is_file() && ImageFormat::from_path(&path).is_ok();
        let Some(name) = path.file_stem().filter(|_| picture) else { continue };
        let name = name.to_string_lossy().into_owned();
        if let Some(other) = found.insert(name, path.clone()) {
            bail!(
                "{} and {} have one name: which of them makes the pair?",
                other.display(),
                path.display()
            );
        }
    }
    Ok(found)
}
