//! Picture files in and out.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use image::codecs::pnm::{PnmEncoder, PnmSubtype, SampleEncoding};
use image::{ColorType, DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

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

fn read(path: &Path) -> std::result::Result<DynamicImage, ImageError> {
    let mut decoder = ImageReader::open(path)?.with_guessed_format()?.into_decoder()?;
    // `into_decoder` leaves the limit on the pixels to its caller.
    Limits::default().reserve(decoder.total_bytes())?;
    let orientation = decoder.orientation()?;
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    Ok(image)
}

/// Writes a picture file in the format of its extension, beside its place first and then renamed
/// into it, so that nobody ever sees half a file. Missing folders are made.
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

fn write(
    image: &DynamicImage,
    path: &Path,
    format: ImageFormat,
) -> std::result::Result<(), ImageError> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder.to_path_buf(),
        _ => PathBuf::from("."),
    };
    std::fs::create_dir_all(&folder)?;
    let mut aside = tempfile::Builder::new();
    aside.prefix(".isfm-").suffix(".tmp");
    // The default is 0600, right for secrets and wrong for pictures; the umask still applies.
    #[cfg(unix)]
    aside.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let aside = aside.tempfile_in(&folder)?;
    let mut writer = BufWriter::new(aside.as_file());
    let pam = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("pam"));
    encode(&in_a_depth_of(format, pam, image), &mut writer, format, pam)?;
    writer.flush()?;
    drop(writer);
    aside.persist(path).map_err(|e| ImageError::IoError(e.error))?;
    Ok(())
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
) -> std::result::Result<(), ImageError> {
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
