//! Picture files out.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Cursor, Write};
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::pnm::{PnmEncoder, PnmSubtype, SampleEncoding};
use image::{ColorType, DynamicImage, ImageFormat, ImageResult};

use crate::{Error, Normalize, Result, Side, to_8_bits};

/// JPEG at 75, the usual default, shows its blocks in the dark parts of fused pictures.
const JPEG_QUALITY: u8 = 95;

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
    /// In small letters; of several for one format always the same.
    extension: &'static str,
}

impl PictureFormat {
    /// PNG.
    pub const PNG: Self = Self { format: ImageFormat::Png, extension: "png" };

    /// The format of a path's extension.
    ///
    /// # Errors
    /// [`Error::Format`] for an unknown one, or none.
    pub fn of(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let own = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        let extension =
            isfm_files::PICTURE_EXTENSIONS.into_iter().find(|e| own.eq_ignore_ascii_case(e));
        let format = ImageFormat::from_path(path).ok();
        let format = format.filter(|f| f.writing_enabled() && f.can_write());
        let Some((format, extension)) = format.zip(extension) else {
            return Err(Error::Format(path.to_path_buf()));
        };
        let extension = match extension {
            "tiff" => "tif",
            "jpeg" => "jpg",
            other => other,
        };
        Ok(Self { format, extension })
    }
}

/// The usual extension, without the dot.
impl fmt::Display for PictureFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.extension)
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
/// floats too), all others 8. JPEG is written with quality 95, WebP lossless. PGM holds the luma of a
/// colour picture, .299 R + .587 G + .114 B, PPM a grey one in three equal channels; PNM is whichever
/// of the two the picture needs.
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
    let (path, PictureFormat { format, extension }) = (path.as_ref(), format);
    let image = match extension {
        "pgm" if image.color().has_color() => {
            let colour = image.to_rgb8().into();
            Cow::Owned(to_8_bits(&colour, Side::Infrared, Normalize::FullRange)?)
        }
        "ppm" => Cow::Owned(image.to_rgb8().into()),
        _ => Cow::Borrowed(image),
    };
    let pam = extension == "pam";
    let image = in_a_depth_of(format, pam, &image);
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
