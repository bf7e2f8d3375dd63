//! Picture files out.

use std::borrow::Cow;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::pnm::{PnmEncoder, PnmSubtype, SampleEncoding};
use image::{ColorType, DynamicImage, ImageFormat, ImageResult, RgbImage};

use crate::{Error, Normalize, Result, Side, to_8_bits};

/// JPEG at 75, the usual default, shows its blocks in the dark parts of fused pictures.
const JPEG_QUALITY: u8 = 95;

/// Writes a picture file in the format of its extension, whole or not at all
/// ([`isfm_files::write_atomically`]). Missing folders are made.
///
/// A depth that the format lacks becomes the nearest it has: PNG, TIFF and PAM hold 16 bits (TIFF
/// floats too), all others 8. JPEG is written with quality 95, WebP lossless. PGM holds the luma of a
/// colour picture, .299 R + .587 G + .114 B, PPM a grey one in three equal channels; PNM is whichever
/// of the two the picture needs.
///
/// # Errors
/// [`Error::Format`] for an unknown extension; [`Error::Write`] if it cannot be written.
pub fn write_image(image: &DynamicImage, path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let format = ImageFormat::from_path(path).ok().filter(|f| f.writing_enabled() && f.can_write());
    let Some(format) = format.filter(|_| isfm_files::is_picture(path)) else {
        return Err(Error::Format(path.to_path_buf()));
    };
    let grey = named(path, "pgm") && image.color().has_color();
    let luma = |image: RgbImage| to_8_bits(&image.into(), Side::Infrared, Normalize::FullRange);
    let luma = grey.then(|| luma(image.to_rgb8())).transpose()?;
    write(luma.as_ref().unwrap_or(image), path, format)
        .map_err(|problem| Error::Write { path: path.to_path_buf(), problem })
}

/// Whether a file's extension is this one, in capitals or not.
fn named(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
}

fn write(image: &DynamicImage, path: &Path, format: ImageFormat) -> ImageResult<()> {
    let pam = named(path, "pam");
    let image = match named(path, "ppm") {
        true => Cow::Owned(image.to_rgb8().into()),
        false => in_a_depth_of(format, pam, image),
    };
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
