//! Which pictures are scored, and how they are read.

use std::collections::HashSet;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, ensure};
use image::codecs::jpeg::JpegDecoder;
use image::{
    DynamicImage, GrayImage, ImageDecoder, ImageError, ImageFormat, Limits, Luma, Rgb, RgbImage,
};
use isfm::{Normalize, Note, Picture, Side, to_8_bits};
use isfm_metrics::luma_u8;
use libjpeg_turbo_rs::{PixelFormat, decompress_to};

use isfm_files::pairs::{Folder, Pair, Skipped};

use crate::shard::Shard;

use super::{Args, laplacian};

/// What evaluation programs put before the pair's name when they save a result.
const PREFIX: &str = "VIF_";

/// A result that is made on the spot of the two luminances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Baseline {
    /// Half the sum, halves to even: what NumPy's `round` makes of it
    Average,
    /// The larger one
    Max,
    /// A Laplacian pyramid of so many levels, 1 to 8 where it is read from text: see
    /// [`laplacian::fuse`]
    Laplacian(usize),
}

/// `average`, `max`, `laplacian` of two levels, or `laplacian:L`.
impl FromStr for Baseline {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let levels = |text: &str| text.parse().ok().filter(|levels| (1..=8).contains(levels));
        match (text, text.strip_prefix("laplacian:").map(levels)) {
            ("average", _) => Ok(Self::Average),
            ("max", _) => Ok(Self::Max),
            ("laplacian", _) => Ok(Self::Laplacian(2)),
            (_, Some(Some(levels))) => Ok(Self::Laplacian(levels)),
            _ => Err("needs average, max, laplacian or laplacian:L with L from 1 to 8".to_owned()),
        }
    }
}

impl Baseline {
    /// The method's name in tables.
    pub fn name(self) -> String {
        match self {
            Self::Average => "Average".to_owned(),
            Self::Max => "Max".to_owned(),
            Self::Laplacian(levels) => format!("Laplacian{levels}"),
        }
    }

    /// Both luminances are of one size.
    pub fn fuse(self, visible: &GrayImage, infrared: &GrayImage) -> GrayImage {
        let each = |f: fn(u8, u8) -> u8| {
            let mut fused = visible.clone();
            fused.iter_mut().zip(infrared.iter()).for_each(|(v, &i)| *v = f(*v, i));
            fused
        };
        match self {
            Self::Average => each(|v, i| {
                let sum = u16::from(v) + u16::from(i);
                (sum / 2 + (sum & 1 & (sum / 2))) as u8
            }),
            Self::Max => each(u8::max),
            Self::Laplacian(levels) => laplacian::fuse(visible, infrared, levels),
        }
    }
}

/// Where a method's result for one pair comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A picture.
    File(PathBuf),
    /// It is made of the pair.
    Made(Baseline),
    /// There is none in this folder.
    Missing(PathBuf),
    /// Several pictures could be it.
    Ambiguous(Vec<PathBuf>),
}

/// A method and its results, one for each pair.
#[derive(Debug)]
pub struct Method {
    /// As given, or a baseline's.
    pub name: String,
    /// One for each pair.
    pub sources: Vec<Source>,
    /// Pictures in its folder that belong to no pair.
    pub unused: Vec<PathBuf>,
    /// Its folder, and what was not taken for pictures in it.
    pub skipped: Option<(PathBuf, Skipped)>,
}

/// The methods: those named, then those of the folder of methods, then baselines.
pub fn methods(args: &Args, pairs: &[Pair], single: bool) -> Result<Vec<Method>> {
    let mut folders = args.fused.clone();
    if let Some(all) = &args.methods {
        folders.extend(subfolders(all, "method")?);
    }
    let from = |(name, path): &(String, PathBuf)| {
        if single {
            from_file(name, path)
        } else {
            from_folder(name, path, pairs, args.pairs.shard)
        }
    };
    let mut methods = folders.iter().map(from).collect::<Result<Vec<_>>>()?;
    for &baseline in &args.baseline {
        let sources = vec![Source::Made(baseline); pairs.len()];
        let name = baseline.name();
        methods.push(Method { name, sources, unused: Vec::new(), skipped: None });
    }
    let mut names = HashSet::new();
    for method in &methods {
        ensure!(names.insert(&method.name), "two methods are called {:?}", method.name);
    }
    Ok(methods)
}

/// The folders in a folder, by name, but for hidden ones; each is a `what`.
///
/// # Errors
/// If there is none, or it cannot be listed.
pub fn subfolders(folder: &Path, what: &str) -> Result<Vec<(String, PathBuf)>> {
    let cannot = || format!("cannot list the {what}s in {}", folder.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(cannot)? {
        let path = entry.with_context(cannot)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        if let Some(name) = name.filter(|name| !name.starts_with('.') && path.is_dir()) {
            found.push((name, path));
        }
    }
    ensure!(!found.is_empty(), "{} has no subfolders: each is a {what}", folder.display());
    found.sort();
    Ok(found)
}

/// The result for the only pair.
fn from_file(name: &str, path: &Path) -> Result<Method> {
    ensure!(!path.is_dir(), "{} is a folder: of one pair, name {name}'s picture", path.display());
    let sources = vec![Source::File(path.to_path_buf())];
    Ok(Method { name: name.to_owned(), sources, unused: Vec::new(), skipped: None })
}

/// A method's results in a folder.
///
/// # Errors
/// If it has none of these pairs.
pub fn from_folder(
    name: &str,
    folder: &Path,
    pairs: &[Pair],
    shard: Option<Shard>,
) -> Result<Method> {
    let listed = Folder::list(folder).with_context(|| format!("results of {name}"))?;
    let mut pictures = listed.by_stem();
    ensure!(!pictures.is_empty(), "{}, the folder of {name}, has no pictures", folder.display());
    let own: HashSet<&str> = pairs.iter().map(|p| p.name.as_str()).collect();
    let mut sources = Vec::new();
    for pair in pairs {
        let prefixed = format!("{PREFIX}{}", pair.name);
        // Where a pair is itself called VIF_…, the name is that pair's.
        let prefixed = Some(prefixed.as_str()).filter(|name| !own.contains(name));
        let names = [Some(pair.name.as_str()), prefixed];
        let found = names.into_iter().flatten().filter_map(|name| pictures.remove(name));
        sources.push(match found.flatten().collect::<Vec<_>>()[..] {
            [] => Source::Missing(folder.to_path_buf()),
            [path] => Source::File(path.to_path_buf()),
            ref several => Source::Ambiguous(several.iter().map(|p| p.to_path_buf()).collect()),
        });
    }
    ensure!(
        // A share may be empty, or lack all of them.
        shard.is_some() || sources.iter().any(|s| !matches!(s, Source::Missing(_))),
        "no picture in {}, the folder of {name}, has the name of a pair, such as {}",
        folder.display(),
        pairs.first().map_or("", |p| &p.name)
    );
    let mut unused: Vec<_> = pictures.into_values().flatten().map(Path::to_path_buf).collect();
    if shard.is_some() {
        // Those of other shares.
        unused.clear();
    }
    let skipped = Some((folder.to_path_buf(), listed.skipped));
    Ok(Method { name: name.to_owned(), sources, unused, skipped })
}

/// The luminance of a picture, in 8 bits.
pub fn luminance(image: &DynamicImage) -> GrayImage {
    if !image.color().has_color() {
        return image.to_luma8();
    }
    let colour = image.to_rgb8();
    GrayImage::from_fn(colour.width(), colour.height(), |x, y| {
        let Rgb([r, g, b]) = *colour.get_pixel(x, y);
        Luma([luma_u8(r, g, b)])
    })
}

/// One of a pair's pictures as [`read`], in 8 bits on the levels that fusing sees, so that of a thermal
/// frame what was fused is scored.
pub fn read_source(path: &Path, side: Side) -> Result<DynamicImage> {
    let image = read(path, side)?;
    let color = image.color();
    if color.bytes_per_pixel() == color.channel_count() {
        return Ok(image);
    }
    to_8_bits(&image, side, Normalize::Auto).with_context(|| path.display().to_string())
}

/// Reads a picture as [`isfm::Picture::read`] does, but JPEG with libjpeg-turbo's own arithmetic: the
/// inverse DCT, the "fancy" upsampling and the colour conversion. Other decoders differ by a level
/// or two where chroma is upsampled, and then scores do too, by up to 6e-5 of their value on
/// RoadScene.
pub fn read(path: &Path, side: Side) -> Result<DynamicImage> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let picture = Picture::decode(&bytes, path, side)?;
    for note in &picture.notes {
        eprintln!("{}: {note}", path.display());
    }
    let raw = picture.notes.iter().any(|note| matches!(note, Note::Radiometric(..)));
    match image::guess_format(&bytes) {
        Ok(ImageFormat::Jpeg) if !raw => {
            read_jpeg(&bytes).with_context(|| format!("cannot read {}", path.display()))
        }
        _ => Ok(picture.image),
    }
}

/// A picture from the bytes of a JPEG file.
pub fn read_jpeg(bytes: &[u8]) -> Result<DynamicImage> {
    let header = || {
        let mut header = JpegDecoder::new(Cursor::new(bytes))?;
        Limits::default().reserve(header.total_bytes())?;
        Ok((header.orientation()?, header))
    };
    // The texts of these errors have their causes in them.
    let (orientation, header) = header().map_err(|e: ImageError| anyhow!("{e}"))?;
    let (width, height) = header.dimensions();
    let decoded = |format| Ok::<_, anyhow::Error>(decompress_to(bytes, format)?.data);
    let image = if header.color_type().has_color() {
        RgbImage::from_raw(width, height, decoded(PixelFormat::Rgb)?).map(DynamicImage::from)
    } else {
        GrayImage::from_raw(width, height, decoded(PixelFormat::Grayscale)?).map(DynamicImage::from)
    };
    let mut image = image.context("the picture's size is not what its header says")?;
    image.apply_orientation(orientation);
    Ok(image)
}
