//! Picture files in and out.

use std::borrow::Cow;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::pnm::{PnmEncoder, PnmSubtype, SampleEncoding};
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, ImageResult, Limits};

use crate::{Error, Result};

/// JPEG at 75, the usual default, shows its blocks in the dark parts of fused pictures.
const JPEG_QUALITY: u8 = 95;

/// Reads a picture file: what it is follows from its content, not its name, and a camera's
/// orientation mark is obeyed.
///
/// # Errors
/// [`Error::Read`], with the file's name, if it is missing, no picture, cut off, or larger than
/// 512 MiB in memory.
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
    Limits::default().reserve(decoder.total_bytes())?;
    let orientation = decoder.orientation()?;
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    Ok(image)
}

fn decoder(path: &Path) -> ImageResult<impl ImageDecoder> {
    ImageReader::open(path)?.with_guessed_format()?.into_decoder()
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
    let format = ImageFormat::from_path(path).ok().filter(|f| f.writing_enabled() && f.can_write());
    let Some(format) = format else {
        return Err(Error::Format(path.to_path_buf()));
    };
    write(image, path, format).map_err(|problem| Error::Write { path: path.to_path_buf(), problem })
}

fn write(image: &DynamicImage, path: &Path, format: ImageFormat) -> ImageResult<()> {
    let pam = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("pam"));
    let image = in_a_depth_of(format, pam, image);
    isfm_files::write_atomically(path, |writer| encode(&image, writer, format, pam))
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
        _ => image.write_to(writer, format),
    }
}
