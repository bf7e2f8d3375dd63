use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use image::{DynamicImage, ImageReader};

use crate::checkpoint::Fnv;
use crate::{Error, Result};

const EXTENSIONS: [&str; 9] = ["png", "jpg", "jpeg", "bmp", "tif", "tiff", "webp", "pgm", "ppm"];

/// A decoded pair of the same size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// The visible image, 8-bit RGB, row-major, `3 * width * height` values.
    pub visible: Vec<u8>,
    /// The infrared image, 8-bit grey, row-major, `width * height` values.
    pub infrared: Vec<u8>,
}

impl Pair {
    fn bytes(&self) -> usize {
        self.visible.len() + self.infrared.len()
    }
}

struct Entry {
    name: String,
    visible: PathBuf,
    infrared: PathBuf,
    decoded: OnceLock<Arc<Pair>>,
}

/// A folder of image pairs in MSRS's layout: `vi/NAME` and `ir/NAME`.
///
/// Files are paired by their whole name, those left over by their name without its extension.
/// Images are decoded when first asked for and kept in memory as far as a limit allows
/// (1 GiB unless [`PairFolder::cache_bytes`] says otherwise).
///
/// Sources are taken to 8 bits: 16-bit files by their upper byte, so thermal frames that fill only
/// a sliver of their range must be normalised before. Alpha is ignored; a colour infrared image
/// is taken as .299R + .587G + .114B; a grey visible image as three equal channels.
pub struct PairFolder {
    entries: Vec<Entry>,
    unpaired: Vec<PathBuf>,
    room: AtomicUsize,
    fingerprint: u64,
}

impl std::fmt::Debug for PairFolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PairFolder")
            .field("pairs", &self.entries.len())
            .field("unpaired", &self.unpaired)
            .finish_non_exhaustive()
    }
}

impl PairFolder {
    /// Reads names and sizes (not pixels) of `dir/{vi,ir}`, or else of `dir/train/{vi,ir}`.
    ///
    /// # Errors
    /// If the folders are not there or hold no pair, a name stands for two files, a file's header
    /// cannot be read, or the two images of a pair differ in size.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let wrong = |problem: String| Error::Folder { dir: dir.to_path_buf(), problem };
        if !dir.is_dir() {
            return Err(wrong("no such folder".into()));
        }
        let root = [dir.to_path_buf(), dir.join("train")]
            .into_iter()
            .find(|d| d.join("vi").is_dir() && d.join("ir").is_dir())
            .ok_or_else(|| wrong("no folders vi and ir".into()))?;

        let mut visible = images(&root.join("vi"))?;
        let mut infrared = images(&root.join("ir"))?;
        let same: Vec<String> =
            visible.keys().filter(|n| infrared.contains_key(*n)).cloned().collect();
        let mut pairs = Vec::new();
        for name in same {
            if let (Some(v), Some(i)) = (visible.remove(&name), infrared.remove(&name)) {
                pairs.push((name, v, i));
            }
        }
        let mut visible = by_stem(visible.into_values())?;
        let mut infrared = by_stem(infrared.into_values())?;
        let stems: BTreeSet<String> =
            visible.keys().filter(|n| infrared.contains_key(*n)).cloned().collect();
        for stem in stems {
            if let (Some(v), Some(i)) = (visible.remove(&stem), infrared.remove(&stem)) {
                pairs.push((stem, v, i));
            }
        }
        let unpaired: Vec<PathBuf> = visible.into_values().chain(infrared.into_values()).collect();
        if pairs.is_empty() {
            let problem = match unpaired.first() {
                Some(first) => format!(
                    "no pairs ({} images without a partner, the first {})",
                    unpaired.len(),
                    first.display()
                ),
                None => "no images".into(),
            };
            return Err(wrong(problem));
        }
        // The order must not depend on how the pairs were found.
        pairs.sort();

        let mut fingerprint = Fnv::default();
        let mut entries = Vec::with_capacity(pairs.len());
        for (name, visible, infrared) in pairs {
            let visible_size = dimensions(&visible)?;
            let infrared_size = dimensions(&infrared)?;
            if visible_size != infrared_size {
                return Err(Error::PairSize { visible, visible_size, infrared, infrared_size });
            }
            fingerprint.bytes(name.as_bytes());
            fingerprint.word(u64::from(visible_size.0));
            fingerprint.word(u64::from(visible_size.1));
            for path in [&visible, &infrared] {
                let length = std::fs::metadata(path).map_err(Error::io(path))?.len();
                fingerprint.word(length);
            }
            entries.push(Entry { name, visible, infrared, decoded: OnceLock::new() });
        }
        let fingerprint = fingerprint.finish();
        Ok(Self { entries, unpaired, room: AtomicUsize::new(1 << 30), fingerprint })
    }

    /// Limits the memory for decoded images to `bytes`; 0 decodes them anew every time.
    #[must_use]
    pub fn cache_bytes(mut self, bytes: usize) -> Self {
        let held: usize =
            self.entries.iter().filter_map(|e| e.decoded.get()).map(|p| p.bytes()).sum();
        self.room = AtomicUsize::new(bytes.saturating_sub(held));
        self
    }

    /// The number of pairs.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Never true: a folder without pairs cannot be opened.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Images that have no partner and are left out, for a warning.
    pub fn unpaired(&self) -> &[PathBuf] {
        &self.unpaired
    }

    /// The name of a pair, `None` past the end.
    pub fn name(&self, index: usize) -> Option<&str> {
        self.entries.get(index).map(|e| e.name.as_str())
    }

    /// A number that tells data sets apart: made of names, sizes and file lengths.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// A pair's pixels.
    ///
    /// # Errors
    /// If `index` is past the end, or a file cannot be decoded.
    pub fn pair(&self, index: usize) -> Result<Arc<Pair>> {
        let entry = self.entries.get(index).ok_or_else(|| Error::Setting {
            setting: "index",
            got: index.to_string(),
            needed: format!("a pair below {}", self.entries.len()),
        })?;
        if let Some(pair) = entry.decoded.get() {
            return Ok(pair.clone());
        }
        let pair = Arc::new(entry.decode()?);
        let bytes = pair.bytes();
        let fits = self
            .room
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(bytes));
        if fits.is_ok() && entry.decoded.set(pair.clone()).is_err() {
            // Another thread kept the same pair first.
            self.room.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(pair)
    }
}

impl Entry {
    fn decode(&self) -> Result<Pair> {
        let visible = decode(&self.visible)?.into_rgb8();
        let infrared = decode(&self.infrared)?;
        let infrared = match infrared.color().has_color() {
            false => infrared.into_luma8(),
            // Not `into_luma8`, whose weights are those of another colour space (BT.709).
            true => {
                let rgb = infrared.into_rgb8();
                image::GrayImage::from_fn(rgb.width(), rgb.height(), |x, y| {
                    image::Luma([luma(rgb.get_pixel(x, y).0).round() as u8])
                })
            }
        };
        // The file may have been changed since the folder was opened.
        if visible.dimensions() != infrared.dimensions() {
            return Err(Error::PairSize {
                visible: self.visible.clone(),
                visible_size: visible.dimensions(),
                infrared: self.infrared.clone(),
                infrared_size: infrared.dimensions(),
            });
        }
        let (width, height) = visible.dimensions();
        Ok(Pair {
            width: width as usize,
            height: height as usize,
            visible: visible.into_raw(),
            infrared: infrared.into_raw(),
        })
    }
}

/// Y of 8-bit R, G, B, in 0..=255 (spec: .299R + .587G + .114B).
pub(crate) fn luma([r, g, b]: [u8; 3]) -> f32 {
    0.299 * f32::from(r) + 0.587 * f32::from(g) + 0.114 * f32::from(b)
}

/// The images of a folder by file name.
fn images(dir: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).map_err(Error::io(dir))? {
        let path = entry.map_err(Error::io(dir))?.path();
        let known = path
            .extension()
            .and_then(|e| e.to_str())
            .is_some_and(|e| EXTENSIONS.contains(&e.to_ascii_lowercase().as_str()));
        let name = path.file_name().and_then(|n| n.to_str()).map(str::to_string);
        if let Some(name) = name.filter(|_| known && path.is_file()) {
            found.insert(name, path);
        }
    }
    Ok(found)
}

fn by_stem(paths: impl Iterator<Item = PathBuf>) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::<String, PathBuf>::new();
    for path in paths {
        let Some(stem) = path.file_stem().and_then(|s| s.to_str()) else { continue };
        if let Some(other) = found.get(stem) {
            let dir = path.parent().unwrap_or(Path::new("")).to_path_buf();
            let problem = format!("{} and {} have the same name", other.display(), path.display());
            return Err(Error::Folder { dir, problem });
        }
        found.insert(stem.to_string(), path);
    }
    Ok(found)
}

fn reader(path: &Path) -> Result<ImageReader<std::io::BufReader<std::fs::File>>> {
    let reader = ImageReader::open(path).map_err(Error::io(path))?;
    // By content: extensions of found data sets are not to be trusted.
    reader.with_guessed_format().map_err(Error::io(path))
}

fn dimensions(path: &Path) -> Result<(u32, u32)> {
    let failed = |source| Error::Image { path: path.to_path_buf(), source };
    reader(path)?.into_dimensions().map_err(failed)
}

fn decode(path: &Path) -> Result<DynamicImage> {
    let failed = |source| Error::Image { path: path.to_path_buf(), source };
    reader(path)?.decode().map_err(failed)
}
