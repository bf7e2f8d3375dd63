//! Picture files of all kinds, whole, cut off and damaged.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use crate::common::{colour_image, grey_image, value};
use image::{ColorType, DynamicImage, GrayImage, ImageBuffer, ImageFormat, Luma};
use isfm::{Note, Picture, Side, read_image, read_image_size, write_image};
use isfm_testing::chain;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn decode(bytes: &[u8]) -> isfm::Result<Picture> {
    Picture::decode(bytes, "picture", Side::Infrared)
}

/// The stored values of the first channel.
fn stored(image: &DynamicImage) -> Vec<f64> {
    let step = usize::from(image.color().channel_count());
    match image {
        DynamicImage::ImageLuma8(b) => b.iter().map(|&v| v.into()).collect(),
        DynamicImage::ImageRgb8(b) => b.iter().step_by(step).map(|&v| v.into()).collect(),
        DynamicImage::ImageLuma16(b) => b.iter().map(|&v| v.into()).collect(),
        DynamicImage::ImageRgb16(b) => b.iter().step_by(step).map(|&v| v.into()).collect(),
        other => other.to_rgb32f().iter().step_by(3).map(|&v| v.into()).collect(),
    }
}

/// One page of a TIFF file: tags with their type (3 short, 4 long) and values, and the pixels.
struct Page {
    tags: Vec<(u16, u16, Vec<u32>)>,
    data: Vec<u8>,
}

impl Page {
    /// A page of one strip, or of one tile if its tags say how large that is.
    fn new(size: [u32; 2], bits: u32, format: u32, kind: u32, data: Vec<u8>) -> Self {
        let tag = |tag, value| (tag, 3, vec![value]);
        let mut tags = vec![tag(256, size[0]), tag(257, size[1]), tag(258, bits), tag(259, 1)];
        tags.extend([tag(262, kind), tag(277, 1), tag(339, format)]);
        Self { tags, data }
    }

    fn with(mut self, tag: u16, values: Vec<u32>) -> Self {
        self.tags.push((tag, 3, values));
        self
    }
}

fn tiff(big_endian: bool, pages: Vec<Page>) -> Vec<u8> {
    let short =
        |v: u32| if big_endian { (v as u16).to_be_bytes() } else { (v as u16).to_le_bytes() };
    let long = |v: u32| if big_endian { v.to_be_bytes() } else { v.to_le_bytes() };
    let mut out =
        if big_endian { b"MM\0\x2a\0\0\0\0".to_vec() } else { b"II\x2a\0\0\0\0\0".to_vec() };
    let mut link = 4;
    for Page { mut tags, data } in pages {
        let tiled = tags.iter().any(|t| t.0 == 322);
        let (place, length) = (out.len() as u32, data.len() as u32);
        tags.push((if tiled { 324 } else { 273 }, 4, vec![place]));
        tags.push((if tiled { 325 } else { 279 }, 4, vec![length]));
        tags.sort();
        out.extend(data);
        out.resize(out.len().next_multiple_of(2), 0);
        let mut entries = short(tags.len() as u32).to_vec();
        for (tag, kind, values) in tags {
            let bytes: Vec<u8> = match kind {
                3 => values.iter().flat_map(|&v| short(v)).collect(),
                _ => values.iter().flat_map(|&v| long(v)).collect(),
            };
            let head = [short(tag.into()), short(kind.into())].concat();
            entries.extend([head, long(values.len() as u32).to_vec()].concat());
            let mut value = bytes.clone();
            if bytes.len() > 4 {
                value = long(out.len() as u32).to_vec();
                out.extend(bytes);
            }
            value.resize(4, 0);
            entries.extend(value);
        }
        let directory = long(out.len() as u32);
        out[link..link + 4].copy_from_slice(&directory);
        out.extend(entries);
        link = out.len();
        out.extend([0; 4]);
    }
    out
}

const SIZE: [u32; 2] = [24, 16];

/// Values of a kind of 24×16 pixels, and how they are stored.
fn values<const N: usize>(
    level: impl Fn(f32) -> f64,
    bytes: impl Fn(f64) -> [u8; N],
) -> (Vec<f64>, Vec<u8>) {
    let at = |i: u32| level(value(i % SIZE[0], i / SIZE[0], 3));
    let values: Vec<f64> = (0..SIZE[0] * SIZE[1]).map(at).collect();
    let bytes = values.iter().flat_map(|&v| bytes(v)).collect();
    (values, bytes)
}

#[test]
fn tiff_of_every_type() {
    let kelvin = |v: f32| f64::from(290. + 20. * v);
    let celsius = |v: f32| f64::from((3000. * v).round() - 1000.);
    let count = |v: f32| f64::from((7000. + 2000. * v).round());
    let large = |v: f32| f64::from((1e5 + 1e6 * v).round());
    let half = |v: f64| {
        // Whole numbers from 1024 to 2047 are their own mantissa.
        (0x6400 | (v as u16 - 1024)).to_le_bytes()
    };
    let small = |v: f32| f64::from((200. * v).round() - 100.);
    let eight = |v: f32| f64::from((255. * v).round());
    let cases = [
        ("u8", 8, 1, values(eight, |v| [v as u8])),
        ("i8", 8, 2, values(small, |v| (v as i8).to_le_bytes())),
        ("u16", 16, 1, values(count, |v| (v as u16).to_le_bytes())),
        ("i16", 16, 2, values(celsius, |v| (v as i16).to_le_bytes())),
        ("f16", 16, 3, values(|v| f64::from((1100. + 900. * v).round()), half)),
        ("u32 of counts", 32, 1, values(count, |v| (v as u32).to_le_bytes())),
        ("u32", 32, 1, values(large, |v| (v as u32).to_le_bytes())),
        ("i32", 32, 2, values(celsius, |v| (v as i32).to_le_bytes())),
        ("f32", 32, 3, values(kelvin, |v| (v as f32).to_le_bytes())),
        ("u64", 64, 1, values(large, |v| (v as u64).to_le_bytes())),
        ("i64", 64, 2, values(celsius, |v| (v as i64).to_le_bytes())),
        ("f64", 64, 3, values(kelvin, |v| v.to_le_bytes())),
    ];
    for (name, bits, format, (want, bytes)) in cases {
        let picture = decode(&tiff(false, vec![Page::new(SIZE, bits, format, 1, bytes.clone())]));
        let image = picture.unwrap_or_else(|e| panic!("{name}: {e}")).image;
        assert_eq!((image.width(), image.height()), (SIZE[0], SIZE[1]));
        assert_eq!(stored(&image), want, "{name}");
        // The same, big-endian.
        let step = bits as usize / 8;
        let swapped = bytes.chunks_exact(step).flat_map(|v| v.iter().rev().copied()).collect();
        let picture = decode(&tiff(true, vec![Page::new(SIZE, bits, format, 1, swapped)]));
        assert_eq!(picture.unwrap().image, image, "{name} big-endian");
        // And in a tile that is larger than the picture.
        let row = |row: &[u8]| [row, &vec![0; 8 * step]].concat();
        let tile = bytes.chunks_exact(24 * step).flat_map(row).collect();
        let page = Page::new(SIZE, bits, format, 1, tile).with(322, vec![32]).with(323, vec![16]);
        assert_eq!(decode(&tiff(false, vec![page])).unwrap().image, image, "{name} tiled");
    }
}

#[test]
fn tiff_of_few_bits_and_of_palettes() {
    for bits in [1usize, 2, 4, 8] {
        let colours = 1 << bits;
        let places: Vec<usize> = (0..13 * 5).map(|i| i * 7 % colours).collect();
        let pack = |row: &[usize]| {
            let mut bytes = vec![0u8; (13 * bits).div_ceil(8)];
            for (x, &place) in row.iter().enumerate() {
                bytes[x * bits / 8] |= (place << (8 - bits - x * bits % 8)) as u8;
            }
            bytes
        };
        let data: Vec<u8> = places.chunks(13).flat_map(pack).collect();
        for (kind, white) in [(1, colours - 1), (0, 0)] {
            let page = Page::new([13, 5], bits as u32, 1, kind, data.clone());
            let got = stored(&decode(&tiff(false, vec![page])).unwrap().image);
            let want = places
                .iter()
                .map(|&p| (p.abs_diff(colours - 1 - white) * 255 / (colours - 1)) as f64);
            assert_eq!(got, want.collect::<Vec<_>>(), "{bits} bits, kind {kind}");
        }
        let map = |c: usize, i: usize| ((i * 37 + c * 91) % 256) as u8;
        for scale in [1, 257] {
            let all = (0..3 * colours).map(|i| u32::from(map(i / colours, i % colours)) * scale);
            for big_endian in [false, true] {
                let page = Page::new([13, 5], bits as u32, 1, 3, data.clone());
                let page = page.with(320, all.clone().collect());
                let image = decode(&tiff(big_endian, vec![page])).unwrap().image;
                assert_eq!(image.color(), ColorType::Rgb8);
                for (pixel, &place) in image.to_rgb8().pixels().zip(&places) {
                    assert_eq!(pixel.0, [0, 1, 2].map(|c| map(c, place)), "{bits} bits");
                }
            }
        }
    }
}

#[test]
fn tiff_compressed_and_big() {
    use tiff::encoder::{Compression, DeflateLevel, Predictor, TiffEncoder, colortype};
    let (want, _) = values(|v| f64::from(290. + 20. * v), f64::to_le_bytes);
    let values: Vec<f32> = want.iter().map(|&v| v as f32).collect();
    for compression in [
        Compression::Uncompressed,
        Compression::Lzw,
        Compression::Deflate(DeflateLevel::Balanced),
        Compression::Packbits,
    ] {
        let mut out = Cursor::new(Vec::new());
        let mut encoder = TiffEncoder::new(&mut out).unwrap().with_compression(compression);
        encoder.write_image::<colortype::Gray32Float>(SIZE[0], SIZE[1], &values).unwrap();
        assert_eq!(stored(&decode(out.get_ref()).unwrap().image), stored_f32(&values));
        let mut out = Cursor::new(Vec::new());
        let encoder = TiffEncoder::new_big(&mut out).unwrap().with_compression(compression);
        let mut encoder = encoder.with_predictor(Predictor::Horizontal);
        let counts: Vec<u16> =
            (0..SIZE[0] * SIZE[1]).map(|i| 7000 + (i * 31 % 997) as u16).collect();
        encoder.write_image::<colortype::Gray16>(SIZE[0], SIZE[1], &counts).unwrap();
        let DynamicImage::ImageLuma16(image) = decode(out.get_ref()).unwrap().image else {
            panic!()
        };
        assert_eq!(image.into_raw(), counts);
    }
}

fn stored_f32(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| v.into()).collect()
}

#[test]
fn more_than_one_page_is_said() {
    let page = |kind| Page::new([2, 2], 8, 1, 1, vec![1, 2, 3, 4]).with(254, vec![kind]);
    let note = |pages| decode(&tiff(false, pages)).unwrap().notes;
    assert_eq!(note(vec![page(0)]), []);
    // A small copy is no page.
    assert_eq!(note(vec![page(0), page(1)]), []);
    let notes = note(vec![page(0), page(0), page(1), page(0)]);
    assert_eq!(notes, [Note::Pages(3)]);
    assert!(notes[0].to_string().contains("3 pages"));
    // A second page that is damaged does not spoil the first.
    let mut bytes = tiff(false, vec![page(0), page(0)]);
    bytes.truncate(bytes.len() - 30);
    assert_eq!(stored(&decode(&bytes).unwrap().image), [1., 2., 3., 4.]);
}

#[test]
fn more_pictures_after_the_first_are_said() {
    let notes = |bytes: &[u8]| decode(bytes).unwrap().notes;
    for (kind, raster) in [("P5", &b"abcdef"[..]), ("P2", b"1 2 3\n4 5 6\n"), ("P4", b"\xa0\x40")] {
        let most = if kind == "P4" { "" } else { "255\n" };
        let one = [format!("{kind}\n3 2\n{most}").as_bytes(), raster].concat();
        assert_eq!(notes(&one), [], "{kind}");
        assert_eq!(notes(&[&one[..], b"\n"].concat()), [], "{kind} and a line's end");
        assert_eq!(notes(&[&one[..], &one].concat()), [Note::Pages(2)], "{kind} twice");
    }

    let mut jpeg = Vec::new();
    GrayImage::new(9, 7).write_to(&mut Cursor::new(&mut jpeg), ImageFormat::Jpeg).unwrap();
    // An index of two pictures and a small copy of the first.
    let index = |big_endian: bool| {
        let short = |v: u16| if big_endian { v.to_be_bytes() } else { v.to_le_bytes() };
        let long = |v: u32| if big_endian { v.to_be_bytes() } else { v.to_le_bytes() };
        let mut index = if big_endian { b"MM\0*" } else { b"II*\0" }.to_vec();
        index.extend(long(8));
        index.extend(short(1));
        index.extend([short(0xb002), short(7)].concat());
        index.extend([long(48), long(26), long(0)].concat());
        for kind in [0x2003_0000, 0x0001_0001, 0] {
            index.extend([long(kind), long(0), long(0), long(0)].concat());
        }
        index
    };
    let with = |index: &[u8]| {
        let length = (index.len() + 6) as u16;
        let segment = [&[0xff, 0xe2][..], &length.to_be_bytes(), b"MPF\0", index].concat();
        [&jpeg[..2], &segment, &jpeg[2..]].concat()
    };
    assert_eq!(notes(&jpeg), []);
    for big_endian in [false, true] {
        let index = index(big_endian);
        assert_eq!(notes(&with(&index)), [Note::Pages(2)]);
        // One that is cut off says nothing.
        for length in 0..index.len() {
            assert_eq!(notes(&with(&index[..length])), []);
        }
    }
}

#[test]
fn what_is_no_picture_is_said() {
    let cut_off = b"P5 4 4 65535\n0123456789";
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    for (bytes, words) in [
        (&b""[..], "the file is empty"),
        (cut_off, "cut off"),
        (pointer, "git lfs pull"),
        (b"hello", "format"),
    ] {
        isfm_testing::refused(decode(bytes).map_err(|error| chain(&error)), &["picture", words]);
    }
}

#[test]
fn tiff_is_turned_as_it_says() {
    let page = Page::new([3, 2], 16, 3, 1, [0x3c00u16; 6].map(u16::to_le_bytes).concat());
    let bytes = tiff(false, vec![page.with(274, vec![6])]);
    let image = decode(&bytes).unwrap().image;
    assert_eq!((image.width(), image.height()), (2, 3));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.tif");
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(read_image_size(path).unwrap(), (2, 3));
}

/// Cut anywhere, a file is an error or its whole picture, and never a panic.
#[test]
fn cut_off_files() {
    let folder = tempfile::tempdir().unwrap();
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for extension in ["png", "jpg", "tif", "bmp", "webp", "pgm", "ppm", "pam"] {
        for (kind, image) in [("grey", grey_image(61, 47, 1)), ("colour", colour_image(61, 47, 2))]
        {
            let path = folder.path().join(format!("{kind}.{extension}"));
            write_image(&image, &path).unwrap();
            files.push((path.display().to_string(), std::fs::read(path).unwrap()));
        }
    }
    for name in ["progressive.jpg", "restart.jpg"] {
        files.push((name.into(), std::fs::read(fixture(name)).unwrap()));
    }
    for (name, bytes) in files {
        let whole = decode(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        let jpeg = name.ends_with("jpg");
        let step = (bytes.len() / 700).max(1);
        for keep in (0..bytes.len()).filter(|&n| n % step == 0 || bytes.len() - n < 30) {
            let mut cut = bytes[..keep].to_vec();
            for end in [&[][..], &[0xff, 0xd9], &[0; 5000]] {
                cut.truncate(keep);
                cut.extend(end);
                match decode(&cut) {
                    // Zeros may be what was there.
                    Ok(picture) if picture == whole || !jpeg && !end.is_empty() => {}
                    Ok(_) => panic!("{name}: {keep} bytes of {} give another picture", bytes.len()),
                    Err(error) => {
                        assert!(chain(&error).starts_with("cannot read the image picture: "))
                    }
                }
            }
        }
    }
}

#[test]
fn jpegs_that_lack_something_in_the_middle() {
    for name in ["progressive.jpg", "restart.jpg"] {
        let bytes = std::fs::read(fixture(name)).unwrap();
        let whole = decode(&bytes).unwrap();
        let cuts = (700..bytes.len() - 400).step_by(37).flat_map(|at| [(at, 50), (at, 300)]);
        // Data without marks can be lost between two marks and end in the right place by accident.
        let is_mark = |two: &[u8]| two[0] == 0xff && (0xd0..=0xd7).contains(&two[1]);
        let cuts = cuts.filter(|&(at, gone)| {
            name != "restart.jpg" || bytes[at..at + gone].windows(2).any(is_mark)
        });
        let accepted = |&(at, gone): &(usize, usize)| {
            decode(&[&bytes[..at], &bytes[at + gone..]].concat()).is_ok()
        };
        assert_eq!(cuts.filter(accepted).collect::<Vec<_>>(), [], "{name}");
        // Neither fill bytes before markers nor bytes after the end are a fault.
        let end = bytes.len() - 2;
        let odd = [&bytes[..end], &[0xff, 0xff], &bytes[end..], b"trailer"].concat();
        assert_eq!(decode(&odd).unwrap(), whole, "{name}");
    }
    for name in ["trunc.jpg", "tr_rst_30.jpg"] {
        let error = chain(&read_image(fixture(name)).unwrap_err());
        assert!(error.contains(name) && error.contains("cut off"), "{error}");
    }
}

#[test]
fn damaged_files_do_no_harm() {
    let page = || Page::new([13, 5], 4, 1, 3, vec![0x12; 35]).with(320, vec![257; 48]);
    let files = [
        tiff(false, vec![page(), page()]),
        tiff(true, vec![Page::new(SIZE, 32, 3, 1, vec![7; 4 * 24 * 16])]),
        std::fs::read(fixture("restart.jpg")).unwrap(),
        std::fs::read(fixture("progressive.jpg")).unwrap(),
        radiometric(1, true, &thermal()),
        radiometric(3, false, &thermal()),
    ];
    for bytes in files {
        for at in 0..bytes.len().min(3000) {
            for change in [0x01, 0x10, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= change;
                let _ = decode(&changed);
            }
        }
    }
}

#[test]
fn limits_are_named() {
    let mut bomb = Cursor::new(Vec::new());
    grey_image(8, 8, 1).write_to(&mut bomb, ImageFormat::Bmp).unwrap();
    let mut bomb = bomb.into_inner();
    bomb[18..22].copy_from_slice(&60_000u32.to_le_bytes());
    bomb[22..26].copy_from_slice(&60_000u32.to_le_bytes());
    let page = Page::new([60_000, 60_000], 32, 3, 1, vec![0; 9]);
    for bytes in [bomb, tiff(false, vec![page])] {
        let text = chain(&decode(&bytes).unwrap_err());
        assert!(text.contains("60000x60000") && text.contains("512 MiB"), "{text}");
    }
}

/// Runs of empty blocks take a few bytes for a scan of any size.
#[test]
fn more_scans_than_a_picture_needs_are_refused() {
    const BLOCKS: usize = 2048 * 2048;
    let mut file = b"\xff\xd8\xff\xc2\0\x0b\x08\x40\0\x40\0\x01\x01\x11\0".to_vec();
    // One code of one bit: 2^14 blocks without a value, and as many again as the next 14 bits say.
    file.extend(b"\xff\xc4\0\x14\x10\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xe0");
    for scan in 0..40 {
        file.extend(b"\xff\xda\0\x08\x01\x01\0\x01\x3f");
        file.push(if scan == 0 { 0x01 } else { 0x10 });
        file.extend(std::iter::repeat_n(0, (BLOCKS >> 14) * 15 / 8));
    }
    file.extend(b"\xff\xd9");
    let error = decode(&file).unwrap_err().to_string();
    assert!(error.contains("its 33 scans are too many for its size"), "{error}");
}

fn thermal() -> Vec<u16> {
    (0..20 * 15).map(|i| 3000 + (i * 7919 % 1999) as u16).collect()
}

/// A JPEG with a raw thermal frame of 20×15 inside, in so many pieces, plain or as a PNG.
fn radiometric(pieces: usize, png: bool, values: &[u16]) -> Vec<u8> {
    let data = if png {
        // FLIR writes the bytes of a PNG the wrong way round.
        let swapped = values.iter().map(|v| v.swap_bytes()).collect();
        let image = ImageBuffer::<Luma<u16>, Vec<u16>>::from_raw(20, 15, swapped).unwrap();
        let mut out = Cursor::new(Vec::new());
        DynamicImage::from(image).write_to(&mut out, ImageFormat::Png).unwrap();
        out.into_inner()
    } else {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    };
    let mut record = [2u16, 20, 15].map(u16::to_le_bytes).concat();
    record.resize(32, 0);
    record.extend(data);
    // The header, with its directory of one record at 64.
    let mut file = b"FFF\0".to_vec();
    file.resize(20, 0);
    file.extend([100u32, 64, 1].map(u32::to_be_bytes).concat());
    file.resize(64, 0);
    file.extend([0, 1, 0, 0]);
    file.extend([0u32, 0, 96, record.len() as u32].map(u32::to_be_bytes).concat());
    file.resize(96, 0);
    file.extend(record);
    let jpeg = std::fs::read(fixture("restart.jpg")).unwrap();
    let mut out = jpeg[..2].to_vec();
    for (i, piece) in file.chunks(file.len().div_ceil(pieces)).enumerate() {
        out.extend([0xff, 0xe1]);
        out.extend((piece.len() as u16 + 10).to_be_bytes());
        out.extend(b"FLIR\0\x01");
        out.extend([i as u8, pieces as u8 - 1]);
        out.extend(piece);
    }
    [&out, &jpeg[2..]].concat()
}

#[test]
fn the_raw_frame_of_a_radiometric_jpeg() {
    let want = thermal();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flir.jpg");
    for (pieces, png) in [(1, false), (1, true), (4, false), (4, true)] {
        let bytes = radiometric(pieces, png, &want);
        std::fs::write(&path, &bytes).unwrap();
        let Picture { image, notes, .. } = Picture::read(&path, Side::Infrared).unwrap();
        assert_eq!(notes, [Note::Radiometric(20, 15)]);
        assert_eq!(Picture::size(&path, Side::Infrared).unwrap(), (20, 15));
        let DynamicImage::ImageLuma16(image) = image else { panic!("{image:?}") };
        assert_eq!(image.into_raw(), want, "{pieces} {png}");
        // As the visible side it is the picture that it shows.
        let shown = Picture::read(&path, Side::Visible).unwrap();
        assert_eq!(shown, decode(&std::fs::read(fixture("restart.jpg")).unwrap()).unwrap());
        assert_eq!(read_image_size(&path).unwrap(), (160, 120));
    }
    // A piece is missing, the frame is shorter than it says.
    let bytes = radiometric(4, false, &want);
    let second =
        bytes.windows(7).enumerate().filter(|w| w.1 == b"FLIR\0\x01\x01").map(|w| w.0).next();
    let mut missing = bytes.clone();
    missing[second.unwrap()] = b'X';
    for bad in [missing, radiometric(1, false, &want[..299])] {
        let text = chain(&decode(&bad).unwrap_err());
        assert!(text.contains("thermal frame is damaged"), "{text}");
    }
}
