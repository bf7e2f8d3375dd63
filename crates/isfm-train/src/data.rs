use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use isfm::{Normalize, Picture, Side, to_8_bits};
use isfm_align::{Alignment, Image, Interpolation, Rectangle, Reference, Sizes};
use isfm_files::Pairing;
use isfm_files::pairs::{Ambiguous, Skipped};

use crate::checkpoint::Fnv;
use crate::{Error, Result};

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
    alignment: Option<Arc<Alignment>>,
    decoded: OnceLock<Arc<Pair>>,
}

/// A folder of image pairs in MSRS's layout: `vi/NAME` and `ir/NAME`.
///
/// Files are paired by their whole name, those left over by their name without its extension
/// ([`Pairing`]). Images are decoded when first asked for and kept in memory as far as a limit
/// allows (1 GiB unless [`PairFolder::cache_bytes`] says otherwise).
///
/// Sources are read as for fusing ([`isfm::Picture`], so a camera's orientation mark counts) and
/// taken to 8 bits on the levels that fusing sees ([`isfm::to_8_bits`] with [`Normalize::Auto`]), so
/// a 16-bit or float thermal frame is stretched. Alpha is ignored; a colour infrared image is taken as
/// .299R + .587G + .114B; a grey visible image as three equal channels.
pub struct PairFolder {
    entries: Vec<Entry>,
    unpaired: Vec<PathBuf>,
    ambiguous: Vec<Ambiguous>,
    skipped: [Skipped; 2],
    problems: Vec<(usize, Error)>,
    room: AtomicUsize,
    names: u64,
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
    /// A pair whose sizes cannot be read, or differ, is a pair all the same, so that the others are
    /// where they are once it is repaired; [`PairFolder::pair`] says what is wrong with it.
    ///
    /// # Errors
    /// If the folders are not there or hold no pair.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_as(dir.as_ref(), None)
    }

    /// The same of pairs that do not line up: infrared images are laid on their visible ones, and of both the largest
    /// rectangle that both cover is taken.
    ///
    /// # Errors
    /// As [`open`](Self::open). A pair with other proportions than the alignment's is a problem of that pair.
    pub fn open_aligned(dir: impl AsRef<Path>, alignment: Alignment) -> Result<Self> {
        Self::open_as(dir.as_ref(), Some(Arc::new(alignment)))
    }

    fn open_as(dir: &Path, alignment: Option<Arc<Alignment>>) -> Result<Self> {
        let wrong = |problem: String| Error::Folder { dir: dir.to_path_buf(), problem };
        if !dir.is_dir() {
            return Err(wrong("no such folder".into()));
        }
        let root = [dir.to_path_buf(), dir.join("train")]
            .into_iter()
            .find(|d| d.join("vi").is_dir() && d.join("ir").is_dir())
            .ok_or_else(|| wrong("no folders vi and ir".into()))?;

        let found = Pairing::find(root.join("vi"), root.join("ir"))?;
        let unpaired = [found.visible_alone, found.infrared_alone].concat();
        // Samples and fingerprint depend on these names and their order; earlier runs have them.
        let named = |pair: isfm_files::pairs::Pair| {
            let (visible, infrared) = (&pair.visible, &pair.infrared);
            let whole = visible.file_name() == infrared.file_name();
            let name = if whole { visible.file_name() } else { visible.file_stem() };
            let name = name.unwrap_or_default().to_string_lossy().into_owned();
            (name, pair.visible, pair.infrared)
        };
        let mut pairs: Vec<_> = found.pairs.into_iter().map(named).collect();
        pairs.sort();

        let (mut names, mut fingerprint) = (Fnv::default(), Fnv::default());
        let (mut entries, mut problems) = (Vec::with_capacity(pairs.len()), Vec::new());
        for (name, visible, infrared) in pairs {
            let alignment = alignment.clone();
            let entry = Entry { name, visible, infrared, alignment, decoded: OnceLock::new() };
            let (width, height) = entry.size().unwrap_or_else(|problem| {
                problems.push((entries.len(), problem));
                (0, 0)
            });
            names.bytes(entry.name.as_bytes());
            fingerprint.bytes(entry.name.as_bytes());
            fingerprint.word(u64::from(width));
            fingerprint.word(u64::from(height));
            for path in [&entry.visible, &entry.infrared] {
                fingerprint.word(std::fs::metadata(path).map_or(0, |file| file.len()));
            }
            entries.push(entry);
        }
        if let Some(alignment) = &alignment {
            alignment.homography().matrix().iter().for_each(|v| fingerprint.word(v.to_bits()));
        }
        Ok(Self {
            entries,
            unpaired,
            ambiguous: found.ambiguous,
            skipped: found.skipped,
            problems,
            room: AtomicUsize::new(1 << 30),
            names: names.finish(),
            fingerprint: fingerprint.finish(),
        })
    }

    /// Limits the memory for decoded images to `bytes`; 0 decodes them anew every time.
    #[must_use]
    pub fn cache_bytes(mut self, bytes: usize) -> Self {
        let held = self.entries.iter().filter_map(|e| Some(e.decoded.get()?.bytes()));
        self.room = AtomicUsize::new(bytes.saturating_sub(held.sum()));
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

    /// Images that could make a pair in several ways and are left out, for a warning.
    pub fn ambiguous(&self) -> &[Ambiguous] {
        &self.ambiguous
    }

    /// What else the folders of visible and of infrared images hold.
    pub fn skipped(&self) -> [Skipped; 2] {
        self.skipped
    }

    /// The pairs whose sizes could not be read, or differ, by their number; others can turn out to be
    /// damaged when they are decoded.
    pub fn problems(&self) -> &[(usize, Error)] {
        &self.problems
    }

    /// The name of a pair, `None` past the end.
    pub fn name(&self, index: usize) -> Option<&str> {
        self.entries.get(index).map(|e| e.name.as_str())
    }

    /// The visible picture's file.
    pub(crate) fn visible(&self, index: usize) -> Option<&Path> {
        self.entries.get(index).map(|e| e.visible.as_path())
    }

    /// A number that tells data sets apart: made of names, sizes and file lengths.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// A number made of the names alone, which stays what it is when a picture is replaced.
    pub fn names_fingerprint(&self) -> u64 {
        self.names
    }

    /// A pair's pixels.
    ///
    /// # Errors
    /// If `index` is past the end, or a file cannot be decoded.
    pub fn pair(&self, index: usize) -> Result<Arc<Pair>> {
        let needed = || format!("a pair below {}", self.entries.len());
        let entry = self.entries.get(index);
        let entry = entry.ok_or_else(|| Error::setting("index", index, &needed()))?;
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
    /// The size of both, from the files' headers.
    fn size(&self) -> Result<(u32, u32)> {
        let visible = Picture::size(&self.visible, Side::Visible)?;
        let infrared = Picture::size(&self.infrared, Side::Infrared)?;
        match self.common(visible, infrared)? {
            Some((_, common)) => Ok((common.width as u32, common.height as u32)),
            None => self.same(visible, infrared),
        }
    }

    /// The alignment for these sizes, and what both cover of the visible image.
    fn common(
        &self,
        visible: (u32, u32),
        infrared: (u32, u32),
    ) -> Result<Option<(Alignment, Rectangle)>> {
        let Some(alignment) = &self.alignment else { return Ok(None) };
        let both = |(w, h): (u32, u32)| (w as usize, h as usize);
        let wrong = |source| self.misaligned(source);
        let sizes = Sizes { visible: both(visible), infrared: both(infrared) };
        let alignment = alignment.for_sizes(sizes).map_err(wrong)?;
        let common = alignment.common(Reference::Visible).map_err(wrong)?;
        let (visible, infrared) = (self.visible.clone(), self.infrared.clone());
        let nothing = Error::NothingCommon { visible, infrared };
        Ok(Some((alignment, common.ok_or(nothing)?)))
    }

    fn misaligned(&self, source: isfm_align::Error) -> Error {
        let path = self.infrared.clone();
        Error::Pixels { path, source: isfm::Error::from(source).into() }
    }

    fn same(&self, visible_size: (u32, u32), infrared_size: (u32, u32)) -> Result<(u32, u32)> {
        if visible_size == infrared_size {
            return Ok(visible_size);
        }
        let (visible, infrared) = (self.visible.clone(), self.infrared.clone());
        Err(Error::PairSize { visible, visible_size, infrared, infrared_size })
    }

    fn decode(&self) -> Result<Pair> {
        let decode = |path: &Path, side| {
            to_8_bits(&Picture::read(path, side)?.image, side, Normalize::Auto)
                .map_err(|e| Error::Pixels { path: path.to_path_buf(), source: e.into() })
        };
        let visible = decode(&self.visible, Side::Visible)?.into_rgb8();
        let infrared = decode(&self.infrared, Side::Infrared)?.into_luma8();
        if let Some((alignment, part)) = self.common(visible.dimensions(), infrared.dimensions())? {
            let wrong = |source| self.misaligned(source);
            let (w, h) = infrared.dimensions();
            let image = Image::new(infrared.as_raw(), w as usize, h as usize).map_err(wrong)?;
            let laid = alignment.warp(&image, Reference::Visible, Interpolation::CatmullRom);
            let laid = laid.map_err(wrong)?;
            return Ok(Pair {
                width: part.width,
                height: part.height,
                visible: part.of(visible.as_raw(), laid.width, 3),
                infrared: part.of(&laid.data, laid.width, 1),
            });
        }
        let (width, height) = self.same(visible.dimensions(), infrared.dimensions())?;
        let (width, height) = (width as usize, height as usize);
        Ok(Pair { width, height, visible: visible.into_raw(), infrared: infrared.into_raw() })
    }
}
