//! The raw thermal frame inside a FLIR camera's JPEG.
//!
//! `APP1` segments of the name `FLIR` carry the pieces of one "FFF" file: a header, a directory of
//! records, and as the record of type 1 the frame, either plain 16-bit values or a 16-bit PNG (whose
//! bytes FLIR stores in the wrong order). As ExifTool's documentation of the format has it
//! (<https://exiftool.org/TagNames/FLIR.html>).

use std::io::Cursor;

use image::codecs::png::PngDecoder;
use image::{ColorType, DynamicImage, ImageBuffer, ImageDecoder, ImageResult, Luma};

use super::{check_size, jpeg, wrong};

const APP1: u8 = 0xe1;
const SOS: u8 = 0xda;
const NAME: &[u8] = b"FLIR\0";
/// Bytes of the frame's record before its values.
const HEAD: usize = 32;
/// The type of record that a raw frame is.
const RAW: u16 = 1;

/// A frame as found.
pub(super) struct Frame {
    size: (u32, u32),
    /// Of plain values.
    big_endian: bool,
    values: Vec<u8>,
}

/// The raw frame, if the JPEG has one.
///
/// # Errors
/// If pieces of it are missing or it is damaged.
pub(super) fn find(bytes: &[u8]) -> ImageResult<Option<Frame>> {
    let (mut at, mut pieces) = (0, Vec::new());
    while let Some((marker, range)) = jpeg::segment(bytes, &mut at).filter(|s| s.0 != SOS) {
        // The name, a 1, the piece's number, the last piece's number.
        if let (APP1, Some(&[_, number, last, ref data @ ..])) =
            (marker, bytes[range].strip_prefix(NAME))
        {
            pieces.push((number, last, data));
        }
    }
    let Some(&(_, last, _)) = pieces.first() else { return Ok(None) };
    pieces.sort_by_key(|piece| piece.0);
    if !pieces.iter().map(|p| p.0).eq(0..=last) {
        let (here, all) = (pieces.len(), usize::from(last) + 1);
        return Err(wrong(format!(
            "its raw thermal frame is damaged: {here} pieces of {all} are there"
        )));
    }
    let file = pieces.iter().map(|p| p.2).collect::<Vec<_>>().concat();
    let damaged = || wrong("its raw thermal frame is damaged");
    match record(&file).ok_or_else(damaged)? {
        Some(record) => frame(record).map(Some).ok_or_else(damaged),
        None => Ok(None),
    }
}

fn short(bytes: &[u8], at: usize, big_endian: bool) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?.try_into().ok()?;
    Some(if big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
}

fn long(bytes: &[u8], at: usize, big_endian: bool) -> Option<usize> {
    let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
    let value = if big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
    usize::try_from(value).ok()
}

/// The record of the raw frame; none at all if the file is damaged.
fn record(file: &[u8]) -> Option<Option<&[u8]>> {
    if !file.starts_with(b"FFF\0") && !file.starts_with(b"AFF\0") {
        return None;
    }
    // The version is 1xx in the file's own byte order.
    let big_endian = (100..200).contains(&long(file, 20, true)?);
    let (start, count) = (long(file, 24, big_endian)?, long(file, 28, big_endian)?);
    let entries = file.get(start..)?.chunks_exact(32).take(count);
    let Some(entry) = entries.into_iter().find(|e| short(e, 0, big_endian) == Some(RAW)) else {
        return Some(None);
    };
    let (at, length) = (long(entry, 12, big_endian)?, long(entry, 16, big_endian)?);
    Some(Some(file.get(at..at.checked_add(length)?)?))
}

fn frame(record: &[u8]) -> Option<Frame> {
    // The first value is 2 in the record's own byte order.
    let big_endian = short(record, 0, false)? >= 0x100;
    let size = [2, 4].map(|at| short(record, at, big_endian));
    let (width, height) = (size[0]?.into(), size[1]?.into());
    let values = record.get(HEAD..)?;
    let enough = values.len() as u64 >= 2 * u64::from(width) * u64::from(height);
    if width == 0 || height == 0 || !(enough || is_png(values)) {
        return None;
    }
    Some(Frame { size: (width, height), big_endian, values: values.to_vec() })
}

fn is_png(values: &[u8]) -> bool {
    values.starts_with(b"\x89PNG\r\n\x1a\n")
}

impl Frame {
    pub(super) fn size(&self) -> (u32, u32) {
        self.size
    }

    pub(super) fn decode(self) -> ImageResult<DynamicImage> {
        let (width, height) = self.size;
        let values: Vec<u16> = if is_png(&self.values) {
            let decoder = PngDecoder::new(Cursor::new(&self.values[..]))?;
            let (stored, kind) = (decoder.dimensions(), decoder.color_type());
            if stored != self.size || kind != ColorType::L16 {
                return Err(wrong("its raw thermal frame is damaged: another size or type inside"));
            }
            check_size(stored, decoder.total_bytes())?;
            let DynamicImage::ImageLuma16(image) = DynamicImage::from_decoder(decoder)? else {
                return Err(wrong("its raw thermal frame is damaged"));
            };
            image.into_raw().into_iter().map(u16::swap_bytes).collect()
        } else {
            let value = |v: &[u8]| match self.big_endian {
                true => u16::from_be_bytes([v[0], v[1]]),
                false => u16::from_le_bytes([v[0], v[1]]),
            };
            let count = width as usize * height as usize;
            self.values.chunks_exact(2).take(count).map(value).collect()
        };
        let image = ImageBuffer::<Luma<u16>, _>::from_raw(width, height, values);
        image.map(DynamicImage::from).ok_or_else(|| wrong("its raw thermal frame is damaged"))
    }
}
