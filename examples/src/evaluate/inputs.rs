//! Which pictures are scored, and how they are read.

use std::collections::HashSet;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::ValueEnum;
use image::codecs::jpeg::JpegDecoder;
use image::{DynamicImage, GrayImage, ImageDecoder, ImageError, ImageFormat, Limits, RgbImage};
use isfm_metrics::luma_u8;
use libjpeg_turbo_rs::{PixelFormat, decompress_to};

use isfm_files::pairs::{Folder, Pair};

/// What evaluation programs put before the pair's name when they save a result.
const PREFIX: &str = "VIF_";

/// A result that is made on the spot, pixel by pixel, of the two luminances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Baseline {
    /// Half the sum, halves to even: what NumPy's `round` makes of it
    Average,
    /// The larger one
    Max,
}

impl Baseline {
    /// The method's name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Average => "Average",
            Self::Max => "Max",
        }
    }

    /// Both luminances are of one size.
    pub fn fuse(self, visible: &Grey, infrared: &Grey) -> Grey {
        let pixel = |(&v, &i): (&u8, &u8)| match self {
            Self::Average => {
                let sum = u16::from(v) + u16::from(i);
                (sum / 2 + (sum & 1 & (sum / 2))) as u8
            }
            Self::Max => v.max(i),
        };
        let data = visible.data.iter().zip(&infrared.data).map(pixel).collect();
        Grey { data, ..*visible }
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
}

/// The methods in the order given, baselines last.
pub fn methods(
    fused: &[(String, PathBuf)],
    baselines: &[Baseline],
    pairs: &[Pair],
) -> Result<Vec<Method>> {
    let mut methods = Vec::new();
    for (name, folder) in fused {
        methods.push(from_folder(name, folder, pairs)?);
    }
    for &baseline in baselines {
        let sources = vec![Source::Made(baseline); pairs.len()];
        methods.push(Method { name: baseline.name().to_owned(), sources, unused: Vec::new() });
    }
    let mut names = HashSet::new();
    for method in &methods {
        ensure!(names.insert(&method.name), "two methods are called {:?}", method.name);
    }
    Ok(methods)
}

fn from_folder(name: &str, folder: &Path, pairs: &[Pair]) -> Result<Method> {
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
            [a, b, ..] => bail!(
                "{} and {} could both be the result of {name} for {}",
                a.display(),
                b.display(),
                pair.name
            ),
        });
    }
    ensure!(
        sources.iter().any(|s| matches!(s, Source::File(_))),
        "no picture in {}, the folder of {name}, has the name of a pair, such as {}",
        folder.display(),
        pairs.first().map_or("", |p| &p.name)
    );
    let unused = pictures.into_values().flatten().map(Path::to_path_buf).collect();
    Ok(Method { name: name.to_owned(), sources, unused })
}

/// Grey levels, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Grey {
    /// `width` × `height` values.
    pub data: Vec<u8>,
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Grey {
    /// The luminance of a picture, in 8 bits.
    pub fn of(image: &DynamicImage) -> Self {
        let (width, height) = (image.width(), image.height());
        let data = if image.color().has_color() {
            image.to_rgb8().pixels().map(|p| luma_u8(p[0], p[1], p[2])).collect()
        } else {
            image.to_luma8().into_raw()
        };
        Self { data, width, height }
    }

    /// Width and height.
    pub fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }
}

impl From<Grey> for DynamicImage {
    fn from(grey: Grey) -> Self {
        GrayImage::from_raw(grey.width, grey.height, grey.data).unwrap_or_default().into()
    }
}

/// Reads a picture as [`isfm::read_image`] does, but JPEG with libjpeg-turbo's own arithmetic: the
/// inverse DCT, the "fancy" upsampling and the colour conversion. Other decoders differ by a level
/// or two where chroma is upsampled, and then scores do too, by up to 6e-5 of their value on
/// RoadScene.
pub fn read(path: &Path) -> Result<DynamicImage> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    match image::guess_format(&bytes) {
        Ok(ImageFormat::Jpeg) => {
            read_jpeg(&bytes).with_context(|| format!("cannot read {}", path.display()))
        }
        _ => Ok(isfm::read_image(path)?),
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
    let grey = !header.color_type().has_color();
    let format = if grey { PixelFormat::Grayscale } else { PixelFormat::Rgb };
    let data = decompress_to(bytes, format)?.data;
    let image = if grey {
        GrayImage::from_raw(width, height, data).map(DynamicImage::from)
    } else {
        RgbImage::from_raw(width, height, data).map(DynamicImage::from)
    };
    let mut image = image.context("the picture's size is not what its header says")?;
    image.apply_orientation(orientation);
    Ok(image)
}
