//! Picture files in and out.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Cursor, Write};
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::pnm::{PnmEncoder, PnmSubtype, SampleEncoding};
use image::metadata::Orientation;
use image::{
    ColorType, DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, ImageResult,
};

use crate::{Error, Result, available_memory};

/// JPEG at 75, the usual default, shows its blocks in the dark parts of fused pictures.
const JPEG_QUALITY: u8 = 95;

/// Reads a picture file: what it is follows from its content, not its name, and a camera's
/// orientation mark is obeyed.
///
/// # Errors
/// [`Error::Read`], with the file's name, if it is missing, no picture, cut off, or larger than
/// 512 MiB in memory or than what the system has left.
pub fn read_image(path: impl AsRef<Path>) -> Result<DynamicImage> {
    let path = path.as_ref();
    read(path).map_err(|problem| Error::Read { path: path.to_path_buf(), problem })
}

/// Width and height of what [`read_image`] gives, from the file's header alone.
///
/// # Errors
/// [`Error::Read`], with the file's name, if it is missing or no picture.
pub fn read_image_size(path: impl AsRef<Path>) -> Result<(u32, u32)> {
    let path = path.as_ref();
    let size = || {
        let mut decoder = decoder(path)?;
        let (width, height) = decoder.dimensions();
        Ok(match decoder.orientation()? {
            Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH => (height, width),
            _ => (width, height),
        })
    };
    size().map_err(|problem| Error::Read { path: path.to_path_buf(), problem })
}

fn read(path: &Path) -> ImageResult<DynamicImage> {
    let mut decoder = decoder(path)?;
    // `into_decoder` leaves the limit on the pixels to its caller.
    room_for(decoder.total_bytes())?;
    let orientation = decoder.orientation()?;
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    Ok(image)
}

/// The most bytes that a decoded picture may take.
const MOST: u64 = 512 << 20;

/// # Errors
/// If decoded pixels take more than is allowed, or than the system has left.
fn room_for(bytes: u64) -> ImageResult<()> {
    let left = available_memory().map_or(u64::MAX, |left| left as u64);
    let problem = if bytes > MOST {
        format!("its pixels take {bytes} bytes, more than the limit of {MOST}")
    } else if bytes > left {
        format!("not enough memory: its pixels take {bytes} bytes, {left} are left to this process")
    } else {
        return Ok(());
    };
    Err(ImageError::IoError(io::Error::new(io::ErrorKind::OutOfMemory, problem)))
}

fn decoder(path: &Path) -> ImageResult<impl ImageDecoder> {
    ImageReader::open(path)?.with_guessed_format()?.into_decoder()
}

/// A format that pictures are written in, by one of the extensions that name it
/// ([`isfm_files::PICTURE_EXTENSIONS`], in capitals or not).
///
/// ```
/// use isfm::PictureFormat;
///
/// assert_eq!(PictureFormat::of("fused.TIF")?, "tiff".parse()?);
/// assert!(PictureFormat::of("fused.xyz").is_err());
/// # Ok::<(), isfm::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PictureFormat {
    format: ImageFormat,
    /// Of the formats that `format` calls PNM.
    pam: bool,
}

impl PictureFormat {
    /// PNG.
    pub const PNG: Self = Self { format: ImageFormat::Png, pam: false };

    /// The format of a path's extension.
    ///
    /// # Errors
    /// [`Error::Format`] for an unknown one, or none.
    pub fn of(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let known = Some(path).filter(|path| isfm_files::is_picture(path));
        let format = known.and_then(|path| ImageFormat::from_path(path).ok());
        let format = format.filter(|f| f.writing_enabled() && f.can_write());
        let pam = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("pam"));
        format.map(|format| Self { format, pam }).ok_or_else(|| Error::Format(path.to_path_buf()))
    }
}

/// The usual extension, without the dot.
impl fmt::Display for PictureFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.format {
            ImageFormat::Pnm if self.pam => "pam",
            // Grey pictures and coloured ones are told apart by their content.
            ImageFormat::Pnm => "pnm",
            ImageFormat::Tiff => "tif",
            format => format.extensions_str().first().copied().unwrap_or("png"),
        })
    }
}

/// An extension, without the dot.
impl std::str::FromStr for PictureFormat {
    type Err = Error;

    fn from_str(extension: &str) -> Result<Self> {
        Self::of(format!("picture.{extension}")).map_err(|_| Error::Option {
            what: "the picture format",
            got: extension.to_string(),
            needed: isfm_files::PICTURE_EXTENSIONS.join(", "),
        })
    }
}

/// Writes a picture file in the format of its extension, whole or not at all
/// ([`isfm_files::write_atomically`]). Missing folders are made.
///
/// A depth that the format lacks becomes the nearest it has: PNG, TIFF and PAM hold 16 bits (TIFF
/// floats too), all others 8. JPEG is written with quality 95, WebP lossless.
///
/// # Errors
/// [`Error::Format`] for an unknown extension; [`Error::Write`] if it cannot be written.
pub fn write_image(image: &DynamicImage, path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    write_image_as(image, path, PictureFormat::of(path)?)
}

/// As [`write_image`], in this format whatever the path's extension: for `/dev/stdout` and others
/// that have none.
///
/// # Errors
/// [`Error::Write`] if it cannot be written.
pub fn write_image_as(
    image: &DynamicImage,
    path: impl AsRef<Path>,
    format: PictureFormat,
) -> Result<()> {
    let (path, PictureFormat { format, pam }) = (path.as_ref(), format);
    let image = in_a_depth_of(format, pam, image);
    isfm_files::write_atomically(path, |writer| encode(&image, writer, format, pam))
        .map_err(|problem| Error::Write { path: path.to_path_buf(), problem })
}

/// The image in a colour type that the format has.
fn in_a_depth_of(format: ImageFormat, pam: bool, image: &DynamicImage) -> Cow<'_, DynamicImage> {
    let deep = matches!(format, ImageFormat::Png | ImageFormat::Tiff) || pam;
    let grey = matches!(image.color(), ColorType::L8 | ColorType::L16);
    match image.color() {
        ColorType::L8 | ColorType::Rgb8 => Cow::Borrowed(image),
        ColorType::L16 | ColorType::Rgb16 if deep => Cow::Borrowed(image),
        ColorType::Rgb32F if format == ImageFormat::Tiff => Cow::Borrowed(image),
        _ if grey => Cow::Owned(image.to_luma8().into()),
        _ if deep => Cow::Owned(image.to_rgb16().into()),
        _ => Cow::Owned(image.to_rgb8().into()),
    }
}

fn encode(
    image: &DynamicImage,
    writer: &mut BufWriter<&File>,
    format: ImageFormat,
    pam: bool,
) -> ImageResult<()> {
    match format {
        ImageFormat::Jpeg => {
            image.write_with_encoder(JpegEncoder::new_with_quality(writer, JPEG_QUALITY))
        }
        // Left to itself the encoder writes PAM under any name, which few programs open.
        ImageFormat::Pnm if !pam => {
            let subtype = match image.color() {
                ColorType::L8 => PnmSubtype::Graymap(SampleEncoding::Binary),
                _ => PnmSubtype::Pixmap(SampleEncoding::Binary),
            };
            image.write_with_encoder(PnmEncoder::new(writer).with_subtype(subtype))
        }
        // Goes back to what it has written, which no pipe can.
        ImageFormat::Tiff => {
            let mut file = Cursor::new(Vec::new());
            image.write_to(&mut file, format)?;
            Ok(writer.write_all(file.get_ref())?)
        }
        _ => image.write_to(writer, format),
    }
}
