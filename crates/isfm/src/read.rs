//! Picture files in.

mod jpeg;
mod radiometric;
mod tiff;

use std::error::Error as StdError;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek};
use std::path::Path;

use image::codecs::{png::PngDecoder, webp::WebPDecoder};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, ImageResult};

use crate::{Error, Result, Side, available_memory};

/// The most that a picture may take in memory, in bytes; a file's header alone could ask for more
/// than there is.
const LIMIT: u64 = 512 << 20;

/// Reads a picture file: what it is follows from its content, not its name, and a camera's
/// orientation mark is obeyed. [`Picture`] has what else is to be said of it.
///
/// # Errors
/// Those of [`Picture::read`].
pub fn read_image(path: impl AsRef<Path>) -> Result<DynamicImage> {
    Ok(Picture::read(path, Side::Visible)?.image)
}

/// Width and height of what [`read_image`] gives, from the file's header alone.
///
/// # Errors
/// [`Error::Read`], with the file's name, if it is missing or no picture.
pub fn read_image_size(path: impl AsRef<Path>) -> Result<(u32, u32)> {
    Picture::size(path, Side::Visible)
}

/// A picture out of a file.
///
/// Read are PNG, JPEG, TIFF, BMP, WebP and PNM. Of TIFF also what thermal cameras and measuring
/// programs write: grey and colour in 1 to 64 bits, signed, unsigned or floats, palettes, strips and
/// tiles, big-endian and BigTIFF, compressed or not. Integers of other than 8 and 16 bits become 16-bit
/// ones if all their values fit, or else floats, and grey floats three equal channels, because the
/// `image` crate has no type for them; the values stay what they are.
///
/// A JPEG of a FLIR camera that has the raw thermal frame inside gives that frame, in 16 bits, where it
/// is read as the [infrared](Side::Infrared) side: what such a file shows is a drawing of it, in false
/// colours and with the camera's marks. The frame can be smaller than what the file shows.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Picture {
    /// The pixels.
    pub image: DynamicImage,
    /// What is worth a word about the file.
    pub notes: Vec<Note>,
}

/// Something that reads as if all were well, but is good to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// The file has so many pages, or at least so many, of which the first was read.
    Pages(usize),
    /// The file is an animation, of which the first frame was read.
    Animation,
    /// The raw thermal frame was read, of this width and height, not the picture that the file shows.
    Radiometric(u32, u32),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pages(pages) => write!(f, "the first of its {pages} pages is taken"),
            Self::Animation => write!(f, "the first frame of its animation is taken"),
            Self::Radiometric(width, height) => {
                write!(f, "its raw thermal frame of {width}x{height} is taken")
            }
        }
    }
}

impl Picture {
    /// Reads a picture that is used as `side`.
    ///
    /// # Errors
    /// [`Error::Read`], with the file's name, if it is missing, no picture, cut off or damaged, of a
    /// kind that is not read here, or larger than 512 MiB in memory.
    pub fn read(path: impl AsRef<Path>, side: Side) -> Result<Self> {
        let path = path.as_ref();
        let read = || from(BufReader::new(File::open(path)?), side);
        read().map_err(|problem| unreadable(path, problem))
    }

    /// The same of a file that is in memory; `name` is what errors call it.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    pub fn decode(bytes: &[u8], name: impl AsRef<Path>, side: Side) -> Result<Self> {
        from(Cursor::new(bytes), side).map_err(|problem| unreadable(name.as_ref(), problem))
    }

    /// Width and height of what [`read`](Self::read) gives, from the file's headers alone.
    ///
    /// # Errors
    /// [`Error::Read`], with the file's name, if it is missing or no picture.
    pub fn size(path: impl AsRef<Path>, side: Side) -> Result<(u32, u32)> {
        let path = path.as_ref();
        let size = || {
            let mut source = BufReader::new(File::open(path)?);
            let Header { size: (width, height), orientation } = match format(&mut source)? {
                ImageFormat::Tiff => tiff::header(source)?,
                ImageFormat::Jpeg => {
                    let bytes = all(source)?;
                    let frame =
                        if side == Side::Infrared { radiometric::find(&bytes)? } else { None };
                    let size = frame.map(|frame| frame.size());
                    let mut header = other_header(Cursor::new(&bytes[..]))?;
                    header.size = size.unwrap_or(header.size);
                    header
                }
                _ => other_header(source)?,
            };
            Ok(match orientation {
                Orientation::Rotate90
                | Orientation::Rotate270
                | Orientation::Rotate90FlipH
                | Orientation::Rotate270FlipH => (height, width),
                _ => (width, height),
            })
        };
        size().map_err(|problem| unreadable(path, problem))
    }
}

fn unreadable(path: &Path, problem: ImageError) -> Error {
    let problem = match problem {
        ImageError::IoError(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            wrong("it is cut off: its data end too early")
        }
        problem => problem,
    };
    Error::Read { path: path.to_path_buf(), problem }
}

/// What a file's header says of its picture, as stored.
struct Header {
    size: (u32, u32),
    orientation: Orientation,
}

fn from(mut source: impl BufRead + Seek, side: Side) -> ImageResult<Picture> {
    let mut notes = Vec::new();
    let (mut image, orientation) = match format(&mut source)? {
        ImageFormat::Tiff => {
            let (image, header, pages) = tiff::read(source)?;
            notes.extend((pages > 1).then_some(Note::Pages(pages)));
            (image, header.orientation)
        }
        ImageFormat::Jpeg => {
            let bytes = all(source)?;
            let frame = if side == Side::Infrared { radiometric::find(&bytes)? } else { None };
            match frame {
                Some(frame) => {
                    let orientation = other_header(Cursor::new(&bytes[..]))?.orientation;
                    let image = frame.decode()?;
                    notes.push(Note::Radiometric(image.width(), image.height()));
                    (image, orientation)
                }
                None => {
                    let decoder = other(Cursor::new(&bytes[..]))?;
                    // Before it is decoded: a few bytes may name a picture that takes seconds.
                    jpeg::complete(&bytes).map_err(wrong)?;
                    let pictures = jpeg::pictures(&bytes);
                    notes.extend((pictures > 1).then_some(Note::Pages(pictures)));
                    pixels(decoder)?
                }
            }
        }
        format => {
            if is_animation(format, &mut source) {
                notes.push(Note::Animation);
            }
            source.rewind()?;
            let picture = pixels(other(&mut source)?)?;
            if format == ImageFormat::Pnm && begins_a_pnm(&mut source)? {
                notes.push(Note::Pages(2));
            }
            picture
        }
    };
    image.apply_orientation(orientation);
    Ok(Picture { image, notes })
}

/// A picture of a format that the `image` crate reads, not too large for its memory.
fn other<'a>(source: impl BufRead + Seek + 'a) -> ImageResult<impl ImageDecoder + 'a> {
    let decoder = ImageReader::new(source).with_guessed_format()?.into_decoder()?;
    check_size(decoder.dimensions(), decoder.total_bytes())?;
    Ok(decoder)
}

fn pixels(mut decoder: impl ImageDecoder) -> ImageResult<(DynamicImage, Orientation)> {
    let orientation = decoder.orientation()?;
    Ok((DynamicImage::from_decoder(decoder)?, orientation))
}

fn other_header(source: impl BufRead + Seek) -> ImageResult<Header> {
    let mut decoder = ImageReader::new(source).with_guessed_format()?.into_decoder()?;
    Ok(Header { size: decoder.dimensions(), orientation: decoder.orientation()? })
}

fn is_animation(format: ImageFormat, source: &mut (impl BufRead + Seek)) -> bool {
    match format {
        ImageFormat::Png => PngDecoder::new(source).is_ok_and(|d| d.is_apng().unwrap_or(false)),
        ImageFormat::WebP => WebPDecoder::new(source).is_ok_and(|d| d.has_animation()),
        _ => false,
    }
}

/// Whether another picture follows the one that was read, as netpbm's programs write them one after the other.
fn begins_a_pnm(source: &mut impl BufRead) -> ImageResult<bool> {
    let mut next = Vec::new();
    source.take(64).read_to_end(&mut next)?;
    Ok(matches!(next.trim_ascii_start(), [b'P', b'1'..=b'7', ..]))
}

/// What a file is, by its first bytes.
fn format(source: &mut (impl BufRead + Seek)) -> ImageResult<ImageFormat> {
    let mut first = Vec::new();
    (&mut *source).take(64).read_to_end(&mut first)?;
    source.rewind()?;
    if first.is_empty() {
        return Err(wrong("the file is empty"));
    }
    if first.starts_with(b"version https://git-lfs") {
        return Err(wrong("it is a Git LFS pointer: `git lfs pull` fetches the picture"));
    }
    // BigTIFF, which the guess does not know.
    if first.starts_with(b"II\x2b\0\x08\0") || first.starts_with(b"MM\0\x2b\0\x08") {
        return Ok(ImageFormat::Tiff);
    }
    image::guess_format(&first)
}

/// All bytes of a file.
fn all(source: impl Read) -> ImageResult<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(LIMIT + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 {
        ..=LIMIT => Ok(bytes),
        _ => Err(wrong(format!("the file has more than {} MiB, the limit", LIMIT >> 20))),
    }
}

/// # Errors
/// For a picture that takes more memory than the limit, or than the system has left.
fn check_size((width, height): (u32, u32), bytes: u64) -> ImageResult<()> {
    let left = available_memory().map_or(u64::MAX, |left| left as u64);
    let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
    let but = if bytes > LIMIT {
        format!("the limit is {} MiB", LIMIT >> 20)
    } else if bytes > left {
        format!("{} MiB are left to this process", mebibytes(left))
    } else {
        return Ok(());
    };
    let needed = mebibytes(bytes);
    Err(wrong(format!("its {width}x{height} pixels take {needed} MiB of memory, {but}")))
}

/// An error that says this and nothing before it.
fn wrong(problem: impl Into<Box<dyn StdError + Send + Sync>>) -> ImageError {
    ImageError::IoError(io::Error::other(problem))
}
