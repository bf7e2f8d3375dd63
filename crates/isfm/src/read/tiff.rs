//! TIFF files, of the kinds that thermal cameras and measuring programs write too: integers and
//! floats of any depth, grey or colour, palettes and several pages.

use std::io::{BufRead, Cursor, Read, Seek};

use image::metadata::Orientation;
use image::{DynamicImage, ImageBuffer, ImageDecoder, ImageResult};
use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::tags::{ByteOrder, CompressionMethod, Tag};
use tiff::{ColorType, TiffResult};

use super::{Header, LIMIT, check_size, jpeg, wrong};

/// What files say when a picture's values are places in its colour map.
const PALETTE: u16 = 3;
/// Pages are counted no further: a file of directories alone would take long.
const MOST_PAGES: usize = 1000;

fn open<R: Read + Seek>(source: R) -> TiffResult<(Decoder<R>, Header)> {
    let mut limits = Limits::default();
    limits.decoding_buffer_size = LIMIT as usize;
    limits.intermediate_buffer_size = LIMIT as usize;
    let mut decoder = Decoder::new(source)?.with_limits(limits);
    let size = decoder.dimensions()?;
    let mark = decoder.find_tag(Tag::Orientation)?.and_then(|v| v.into_u16().ok());
    let mark = mark.and_then(|mark| Orientation::from_exif(mark.try_into().ok()?));
    Ok((decoder, Header { size, orientation: mark.unwrap_or(Orientation::NoTransforms) }))
}

pub(super) fn header(source: impl Read + Seek) -> ImageResult<Header> {
    Ok(open(source).map_err(wrong)?.1)
}

/// The first page, not yet turned as its orientation says, and how many pages there are.
pub(super) fn read(mut source: impl BufRead + Seek) -> ImageResult<(DynamicImage, Header, usize)> {
    let (mut decoder, header) = open(&mut source).map_err(wrong)?;
    let kind = decoder.find_tag_unsigned(Tag::PhotometricInterpretation).map_err(wrong)?;
    let compression = decoder.find_tag_unsigned(Tag::Compression).map_err(wrong)?;
    let image = if kind == Some(PALETTE) {
        let map = decoder.find_tag_unsigned_vec::<u16>(Tag::ColorMap).map_err(wrong)?;
        let map = map.ok_or_else(|| wrong("its palette is missing"))?;
        // The decoder knows no palettes, but grey of the same depth, which is stored alike.
        let big_endian = decoder.byte_order() == ByteOrder::BigEndian;
        let directory = decoder.ifd_pointer().map_or(0, |pointer| pointer.0);
        drop(decoder);
        source.rewind()?;
        let mut bytes = Vec::new();
        (&mut source).take(LIMIT).read_to_end(&mut bytes)?;
        call_grey(&mut bytes, directory, big_endian)
            .ok_or_else(|| wrong("its directory is damaged"))?;
        let grey = pixels(&mut open(Cursor::new(&bytes[..])).map_err(wrong)?.0)?;
        grey.coloured(&map).ok_or_else(|| wrong("its palette is too small, or too large"))?
    } else if let Ok(ColorType::CMYK(_)) = decoder.colortype() {
        drop(decoder);
        source.rewind()?;
        let decoder = image::codecs::tiff::TiffDecoder::new(&mut source)?;
        check_size(header.size, decoder.total_bytes())?;
        DynamicImage::from_decoder(decoder)?
    } else {
        if compression == Some(CompressionMethod::ModernJPEG.to_u16()) {
            whole_jpegs(&mut decoder)?;
        }
        pixels(&mut decoder)?.image().ok_or_else(|| wrong("it holds fewer pixels than it says"))?
    };
    source.rewind()?;
    Ok((image, header, pages(&mut source)))
}

/// The number of pages, small copies of others left out.
fn pages(source: impl Read + Seek) -> usize {
    let Ok((mut decoder, _)) = open(source) else { return 1 };
    let mut pages = 1;
    for _ in 1..MOST_PAGES {
        if !decoder.more_images() || decoder.next_image().is_err() {
            break;
        }
        let kind = decoder.find_tag_unsigned::<u32>(Tag::NewSubfileType);
        pages += usize::from(!matches!(kind, Ok(Some(kind)) if kind & 1 == 1));
    }
    pages
}

/// Rewrites what a directory says of its kind of picture to black is zero.
fn call_grey(bytes: &mut [u8], directory: u64, big_endian: bool) -> Option<()> {
    let wide = [bytes.get(2)?, bytes.get(3)?].contains(&&43);
    let (head, size, value) = if wide { (8, 20, 12) } else { (2, 12, 8) };
    let entries = bytes.get_mut(usize::try_from(directory).ok()?.checked_add(head)?..)?;
    let short = |b: &[u8]| {
        let b = [b[0], b[1]];
        if big_endian { u16::from_be_bytes(b) } else { u16::from_le_bytes(b) }
    };
    let tag = Tag::PhotometricInterpretation.to_u16();
    let entry = entries.chunks_exact_mut(size).find(|entry| short(entry) == tag)?;
    let one = match (big_endian, short(&entry[2..])) {
        (true, 3) => [0, 1, 0, 0],
        (true, 4) => [0, 0, 0, 1],
        _ => [1, 0, 0, 0],
    };
    entry[value..value + 4].copy_from_slice(&one);
    Some(())
}

/// Looks whether the JPEGs in a file are whole: the decoder fills what is missing.
fn whole_jpegs(decoder: &mut Decoder<impl Read + Seek>) -> ImageResult<()> {
    let mut numbers = |tags: [Tag; 2]| {
        let found = tags.into_iter().find_map(|tag| decoder.get_tag_u64_vec(tag).ok());
        found.unwrap_or_default()
    };
    let places = numbers([Tag::StripOffsets, Tag::TileOffsets]);
    let lengths = numbers([Tag::StripByteCounts, Tag::TileByteCounts]);
    let tables = decoder.get_tag_u8_vec(Tag::JPEGTables).unwrap_or_default();
    let tables = &tables[..tables.len().saturating_sub(2)];
    for (place, length) in places.into_iter().zip(lengths) {
        let mut bytes = tables.to_vec();
        decoder.goto_offset_u64(place)?;
        decoder.inner().take(length.min(LIMIT)).read_to_end(&mut bytes)?;
        jpeg::complete(&bytes).map_err(wrong)?;
    }
    Ok(())
}

/// Pixels as the decoder gives them.
struct Pixels {
    data: DecodingResult,
    size: (u32, u32),
    /// 1 grey, 2 grey and alpha, 3 colour, 4 colour and alpha.
    channels: usize,
    /// Of one value.
    bits: u8,
}

/// Runs `$body` with `$v` the vector of whatever type the values are.
macro_rules! each_type {
    ($data:expr, $v:ident => $body:expr; $($type:ident),*) => {
        match $data { $(DecodingResult::$type($v) => $body),* }
    };
}

fn pixels(decoder: &mut Decoder<impl Read + Seek>) -> ImageResult<Pixels> {
    let size = decoder.dimensions().map_err(wrong)?;
    let (bits, channels) = match decoder.colortype().map_err(wrong)? {
        ColorType::Gray(bits) => (bits, 1),
        ColorType::Multiband { bit_depth, num_samples: 2 } => (bit_depth, 2),
        ColorType::RGB(bits) => (bits, 3),
        ColorType::RGBA(bits) => (bits, 4),
        other => return Err(wrong(format!("pictures of the kind {other:?} are not read"))),
    };
    let layout = decoder.image_buffer_layout().map_err(wrong)?;
    // Deeper values become floats, which the `image` crate has of colour only.
    let each = if bits <= 8 {
        channels
    } else if bits == 16 {
        2 * channels
    } else {
        16
    };
    let all = u64::from(size.0) * u64::from(size.1) * each as u64;
    check_size(size, all.max(layout.complete_len as u64))?;
    let mut data = DecodingResult::U8(Vec::new());
    decoder.read_image_to_buffer(&mut data).map_err(wrong)?;
    if data.as_buffer(0).byte_len() < layout.complete_len {
        return Err(wrong("it holds fewer pixels than it says"));
    }
    if layout.planes > 1 {
        each_type!(&mut data, v => *v = interleaved(v, layout.planes);
            U8, U16, U32, U64, F16, F32, F64, I8, I16, I32, I64);
    }
    Ok(Pixels { data, size, channels, bits })
}

fn interleaved<T: Copy>(planes: &[T], count: usize) -> Vec<T> {
    let size = planes.len() / count;
    (0..size * count).map(|i| planes[i % count * size + i / count]).collect()
}

impl Pixels {
    /// Up to 8 bits spread over 8, 16 as they are; other whole numbers in 16 bits if all fit, or else
    /// in floats, as floats are. None if there are too few.
    fn image(self) -> Option<DynamicImage> {
        let Self { data, size, channels, bits } = self;
        macro_rules! integers {
            ($v:expr) => {
                match $v.iter().map(|&v| u16::try_from(v).ok()).collect() {
                    Some(v) => sixteen(size, channels, v),
                    None => floats(size, channels, $v.into_iter().map(|v| v as f32)),
                }
            };
        }
        match data {
            DecodingResult::U8(v) if bits < 8 => {
                let most = (1u16 << bits) - 1;
                let spread = |v| (u16::from(v) * 255 / most) as u8;
                eight(size, channels, unpacked(&v, size, bits).map(spread).collect())
            }
            DecodingResult::U8(v) => eight(size, channels, v),
            DecodingResult::U16(v) => sixteen(size, channels, v),
            DecodingResult::U32(v) => integers!(v),
            DecodingResult::U64(v) => integers!(v),
            DecodingResult::I8(v) => integers!(v),
            DecodingResult::I16(v) => integers!(v),
            DecodingResult::I32(v) => integers!(v),
            DecodingResult::I64(v) => integers!(v),
            DecodingResult::F16(v) => floats(size, channels, v.into_iter().map(|v| v.to_f32())),
            DecodingResult::F32(v) => floats(size, channels, v.into_iter()),
            DecodingResult::F64(v) => floats(size, channels, v.into_iter().map(|v| v as f32)),
        }
    }

    /// The colours of a map, all reds first, at the places that the values are. None if they are no
    /// places in it.
    fn coloured(self, map: &[u16]) -> Option<DynamicImage> {
        let DecodingResult::U8(data) = self.data else { return None };
        let colours = 1 << self.bits;
        let map = map.get(..3 * colours)?;
        // Some programs write 8 bits where 16 are meant.
        let shift = if map.iter().all(|&v| v < 256) { 0 } else { 8 };
        let colour = |v: u8| [0, 1, 2].map(|c| (map[c * colours + usize::from(v)] >> shift) as u8);
        eight(self.size, 3, unpacked(&data, self.size, self.bits).flat_map(colour).collect())
    }
}

/// Grey values of `bits` bits, 1 to 8, of rows that begin with a byte each.
fn unpacked(data: &[u8], size: (u32, u32), bits: u8) -> impl Iterator<Item = u8> {
    let (width, bits) = (size.0 as usize, usize::from(bits));
    let row = (width * bits).div_ceil(8).max(1);
    data.chunks_exact(row).flat_map(move |row| {
        (0..width).map(move |x| {
            let pair = [row[x * bits / 8], *row.get(x * bits / 8 + 1).unwrap_or(&0)];
            let left = u16::from_be_bytes(pair) << (x * bits % 8);
            (left >> (16 - bits)) as u8
        })
    })
}

macro_rules! image_of {
    ($name:ident, $type:ty, $grey:ident, $grey_alpha:ident, $colour:ident, $colour_alpha:ident) => {
        fn $name((w, h): (u32, u32), channels: usize, v: Vec<$type>) -> Option<DynamicImage> {
            match channels {
                1 => ImageBuffer::from_raw(w, h, v).map(DynamicImage::$grey),
                2 => ImageBuffer::from_raw(w, h, v).map(DynamicImage::$grey_alpha),
                3 => ImageBuffer::from_raw(w, h, v).map(DynamicImage::$colour),
                _ => ImageBuffer::from_raw(w, h, v).map(DynamicImage::$colour_alpha),
            }
        }
    };
}
image_of!(eight, u8, ImageLuma8, ImageLumaA8, ImageRgb8, ImageRgba8);
image_of!(sixteen, u16, ImageLuma16, ImageLumaA16, ImageRgb16, ImageRgba16);

/// Grey becomes three equal channels, without its alpha.
fn floats(
    (width, height): (u32, u32),
    channels: usize,
    values: impl Iterator<Item = f32>,
) -> Option<DynamicImage> {
    if channels == 4 {
        return ImageBuffer::from_raw(width, height, values.collect())
            .map(DynamicImage::ImageRgba32F);
    }
    let colour = match channels {
        3 => values.collect(),
        _ => values.step_by(channels).flat_map(|v| [v; 3]).collect(),
    };
    ImageBuffer::from_raw(width, height, colour).map(DynamicImage::ImageRgb32F)
}
