//! Finding pairs, decoding them, and taking samples from them.

use std::path::Path;

use crate::common;
use image::{GrayImage, ImageBuffer, Luma, Rgb, RgbImage};
use isfm_train::{Error, Pair, PairFolder, Placement, draw, resize_bicubic};

fn grey(path: impl AsRef<Path>, w: u32, h: u32) {
    let path = path.as_ref();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    GrayImage::from_fn(w, h, |x, y| Luma([(x * 7 + y * 3) as u8])).save(path).unwrap();
}

fn message(dir: &Path) -> String {
    PairFolder::open(dir).unwrap_err().to_string()
}

#[test]
fn pairs_are_found_by_name_then_by_stem() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("train");
    grey(root.join("vi/b.png"), 8, 6);
    grey(root.join("ir/b.png"), 8, 6);
    grey(root.join("vi/a.jpg"), 9, 5);
    grey(root.join("ir/a.bmp"), 9, 5);
    grey(root.join("vi/c.tif"), 4, 4);
    grey(root.join("ir/C.TIFF"), 4, 4);
    std::fs::write(root.join("vi/notes.txt"), "no image").unwrap();
    let data = PairFolder::open(dir.path()).unwrap();
    assert_eq!((data.len(), data.is_empty()), (2, false));
    assert_eq!((data.name(0), data.name(1), data.name(2)), (Some("a"), Some("b.png"), None));
    let pair = data.pair(1).unwrap();
    assert_eq!((pair.width, pair.height), (8, 6));
    assert_eq!(pair.infrared[8 + 2], 7 * 2 + 3);
    assert_eq!(pair.visible[3 * (8 + 2)..3 * (8 + 3)], [17; 3]);
    let unpaired: Vec<_> =
        data.unpaired().iter().map(|p| p.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(unpaired, ["c.tif", "C.TIFF"]);
    assert!(data.pair(2).is_err());
}

#[test]
fn a_folder_without_pairs_says_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    assert!(message(&dir.path().join("nowhere")).contains("no such folder"));
    assert!(message(dir.path()).contains("no folders vi and ir"));
    std::fs::create_dir_all(dir.path().join("vi")).unwrap();
    std::fs::create_dir_all(dir.path().join("ir")).unwrap();
    assert!(message(dir.path()).contains("no pictures"));
    grey(dir.path().join("vi/one.png"), 4, 4);
    grey(dir.path().join("ir/two.png"), 4, 4);
    let text = message(dir.path());
    assert!(text.contains("no pairs") && text.contains("one.png") && text.contains("two.png"));
    grey(dir.path().join("ir/two.bmp"), 4, 4);
    grey(dir.path().join("vi/two.jpg"), 4, 4);
    grey(dir.path().join("ir/one.png"), 4, 4);
    // Nobody can say which is meant, but the pair beside them is one.
    let data = PairFolder::open(dir.path()).unwrap();
    assert_eq!(data.len(), 1);
    let text = data.ambiguous()[0].to_string();
    assert!(text.contains("two.bmp, ") && text.contains("two.png"), "{text}");
    for name in ["._one.png", "notes.txt"] {
        std::fs::write(dir.path().join("ir").join(name), "no picture").unwrap();
    }
    let skipped = PairFolder::open(dir.path()).unwrap().skipped();
    assert_eq!(skipped.map(|of| [of.hidden, of.others]), [[0, 0], [1, 1]]);
}

#[test]
fn broken_and_ill_matched_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    grey(path.join("vi/a.png"), 40, 30);
    grey(path.join("ir/a.png"), 40, 31);
    let data = PairFolder::open(path).unwrap();
    for text in [data.problems()[0].1.to_string(), data.pair(0).unwrap_err().to_string()] {
        assert!(text.contains("a.png is 40x30, but") && text.contains("is 40x31"), "{text}");
    }

    grey(path.join("ir/a.png"), 40, 30);
    let bytes = std::fs::read(path.join("ir/a.png")).unwrap();
    std::fs::write(path.join("ir/a.png"), &bytes[..bytes.len() / 2]).unwrap();
    // The header is whole, so the folder opens; decoding fails by name, every time.
    let data = PairFolder::open(path).unwrap();
    for _ in 0..2 {
        let error = data.pair(0).unwrap_err();
        let Error::Image(error) = error else { panic!("{error}") };
        let named = matches!(&*error, isfm::Error::Read { path, .. } if path.ends_with("ir/a.png"));
        assert!(named, "{error}");
    }
    assert!(data.problems().is_empty());
    std::fs::write(path.join("ir/a.png"), "not an image").unwrap();
    let data = PairFolder::open(path).unwrap();
    assert!(data.problems()[0].1.to_string().contains("a.png") && data.pair(0).is_err());
    // Half a JPEG is no picture either.
    std::fs::remove_file(path.join("ir/a.png")).unwrap();
    grey(path.join("ir/a.jpg"), 40, 30);
    let bytes = std::fs::read(path.join("ir/a.jpg")).unwrap();
    std::fs::write(path.join("ir/a.jpg"), &bytes[..bytes.len() * 4 / 5]).unwrap();
    let error = PairFolder::open(path).unwrap().pair(0).unwrap_err().to_string();
    assert!(error.contains("a.jpg") && error.contains("cut off"), "{error}");
}

#[test]
fn every_kind_of_pixel_becomes_8_bit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    grey(path.join("vi/a.png"), 2, 1);
    std::fs::create_dir_all(path.join("ir")).unwrap();
    let colour = RgbImage::from_raw(2, 1, vec![255, 0, 0, 10, 200, 30]).unwrap();
    colour.save(path.join("ir/a.png")).unwrap();
    let alpha = image::GrayAlphaImage::from_raw(2, 1, vec![9, 3, 255, 0]).unwrap();
    alpha.save(path.join("ir/b.png")).unwrap();
    let rgba = image::RgbaImage::from_raw(2, 1, vec![1, 2, 3, 0, 4, 5, 6, 255]).unwrap();
    rgba.save(path.join("vi/b.png")).unwrap();
    let data = PairFolder::open(path).unwrap();
    // .299 * 255 = 76.2; 2.99 + 117.4 + 3.42 = 123.8.
    assert_eq!(data.pair(0).unwrap().infrared, [76, 124]);
    assert_eq!(data.pair(1).unwrap().infrared, [9, 255]);
    assert_eq!(data.pair(1).unwrap().visible, [1, 2, 3, 4, 5, 6]);
}

/// A 14-bit thermal frame in a 16-bit file, whose upper bytes are a handful of levels, trains on the
/// values that fusing sees; a 16-bit picture that fills its range keeps its exposure.
#[test]
fn deep_frames_are_read_as_for_fusing() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for side in ["vi", "ir"] {
        std::fs::create_dir(at(side)).unwrap();
    }
    let frame = |low: u32, step: u32| {
        ImageBuffer::from_fn(50, 40, |x, y| Luma([(low + step * (50 * y + x)) as u16]))
    };
    frame(0, 32).save(at("vi/a.png")).unwrap();
    frame(7300, 1).save(at("ir/a.png")).unwrap();
    let pair = PairFolder::open(dir.path()).unwrap().pair(0).unwrap();
    // The 0.1 and 99.9 percentiles of 7300, 7301 … 9299.
    for (i, &got) in pair.infrared.iter().enumerate() {
        let seen = ((i as f32 - 2.) / (1997. - 2.)).clamp(0., 1.);
        assert!((f32::from(got) / 255. - seen).abs() <= 0.501 / 255., "{i}: {got} {seen}");
    }
    for (i, got) in pair.visible.as_chunks::<3>().0.iter().enumerate() {
        let want = (32 * i) as f32 / 257.;
        assert!(got.iter().all(|&g| (f32::from(g) - want).abs() <= 0.501), "{i}: {got:?} {want}");
    }

    let white = ImageBuffer::from_pixel(50, 40, Rgb([1f32, f32::NAN, 0.]));
    image::DynamicImage::ImageRgb32F(white).save(at("vi/a.tif")).unwrap();
    std::fs::remove_file(at("vi/a.png")).unwrap();
    let error = PairFolder::open(dir.path()).unwrap().pair(0).unwrap_err();
    assert!(matches!(&error, Error::Pixels { path, .. } if path.ends_with("vi/a.tif")), "{error}");
}

/// A camera's mark that its picture lies on its side counts for the size and for the pixels.
#[test]
fn a_turned_picture_is_turned_back() {
    let dir = tempfile::tempdir().unwrap();
    let (visible, infrared) = (dir.path().join("vi/a.jpg"), dir.path().join("ir/a.png"));
    grey(&infrared, 16, 24);
    std::fs::create_dir_all(visible.parent().unwrap()).unwrap();
    let lying = RgbImage::from_fn(24, 16, |x, _| Rgb([if x < 12 { 20 } else { 220 }; 3]));
    let mut jpeg = Vec::new();
    let encoder = image::codecs::jpeg::JpegEncoder::new(&mut jpeg);
    image::DynamicImage::from(lying).write_with_encoder(encoder).unwrap();
    // After the start of the image: an EXIF block whose only entry is orientation 6.
    let exif = b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    jpeg.splice(2..2, *exif);
    std::fs::write(&visible, jpeg).unwrap();
    let pair = PairFolder::open(dir.path()).unwrap().pair(0).unwrap();
    assert_eq!((pair.width, pair.height), (16, 24));
    // Left has become above.
    assert!(pair.visible[..3 * 16 * 10].iter().all(|&v| v < 60));
    assert!(pair.visible[3 * 16 * 14..].iter().all(|&v| v > 180));
}

#[test]
fn the_cache_keeps_to_its_limit_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    common::paint(dir.path(), 4);
    let kept = PairFolder::open(dir.path()).unwrap();
    let first = kept.pair(0).unwrap();
    assert!(std::sync::Arc::ptr_eq(&first, &kept.pair(0).unwrap()));
    // Room for one pair: the first that is asked for.
    let limited = PairFolder::open(dir.path()).unwrap().cache_bytes(60 * 50 * 4);
    let a = limited.pair(0).unwrap();
    assert!(std::sync::Arc::ptr_eq(&a, &limited.pair(0).unwrap()));
    let b = limited.pair(1).unwrap();
    assert!(!std::sync::Arc::ptr_eq(&b, &limited.pair(1).unwrap()));
    assert_eq!((a, b), (first, kept.pair(1).unwrap()));
}

#[test]
fn the_fingerprint_tells_data_sets_apart() {
    let dir = tempfile::tempdir().unwrap();
    let print = || PairFolder::open(dir.path()).unwrap().fingerprint();
    common::paint(dir.path(), 3);
    let three = print();
    assert_eq!(three, print());
    let names = || PairFolder::open(dir.path()).unwrap().names_fingerprint();
    let named = names();
    grey(dir.path().join("vi/000.png"), 60, 50);
    assert_ne!(three, print());
    assert_eq!(named, names());
    common::paint(dir.path(), 4);
    assert_ne!(three, print());
    assert_ne!(named, names());
}

/// The `resize_*` fixtures: sines, hard edges and noise, painted with NumPy and resized by Pillow
/// 13.0.0, `Image.resize(size, Image.BICUBIC)`.
#[test]
fn resizing_agrees_with_pillow() {
    let read = |name: &str| {
        let path = format!("{}/tests/fixtures/resize_{name}.png", env!("CARGO_MANIFEST_DIR"));
        image::open(path).unwrap()
    };
    let source = read("source").into_rgb8();
    let (w, h) = (source.width() as usize, source.height() as usize);
    for (name, new_w, new_h) in [("down", 40, 32), ("up", 144, 150)] {
        let want = read(name).into_rgb8();
        let got = resize_bicubic(&source, 3, w, h, new_w, new_h).unwrap();
        assert_close(&got, &want, name);
    }
    let grey = read("grey").into_luma8();
    let got = resize_bicubic(&grey, 1, w, h, 48, 48).unwrap();
    assert_close(&got, &read("grey_48").into_luma8(), "grey");
    assert_eq!(resize_bicubic(&grey, 1, w, h, w, h).unwrap(), grey.into_raw());
}

/// One grey level: coefficients are rounded to different numbers of bits.
fn assert_close(got: &[u8], want: &[u8], name: &str) {
    assert_eq!(got.len(), want.len());
    let worst = got.iter().zip(want).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(worst <= Some(1), "{name}: {worst:?}");
}

#[test]
fn resizing_refuses_nonsense() {
    for (len, channels, w, h, to) in [
        (12, 2, 2, 3, 4),
        (12, 3, 2, 3, 4),
        (0, 1, 0, 3, 4),
        (6, 1, 2, 3, 0),
        (6, 1, usize::MAX, 2, 4),
    ] {
        assert!(resize_bicubic(&vec![0; len], channels, w, h, to, 4).is_err());
    }
    assert_eq!(resize_bicubic(&[7], 1, 1, 1, 5, 2).unwrap(), [7; 10]);
}

fn pair(w: usize, h: usize, f: impl Fn(usize, usize) -> u8) -> Pair {
    let infrared: Vec<u8> = (0..w * h).map(|i| f(i % w, i / w)).collect();
    let visible = infrared.iter().flat_map(|&v| [v; 3]).collect();
    Pair { width: w, height: h, visible, infrared }
}

#[test]
fn samples_are_spread_as_specified() {
    const DRAWS: usize = 4000;
    let pair = pair(70, 50, |x, y| (60 + x + y) as u8);
    let (patch, mid) = (16, 24);
    let mut cells = [0; 4];
    let mut edges = [[false; 9]; 2];
    for i in 0..DRAWS {
        let sample = draw(&pair, patch, 3407, i / 100, i % 100).unwrap();
        assert_eq!((sample.visible.len(), sample.infrared.len()), (256, 256));
        if let Placement::Patch { x, y } = sample.placement {
            let cell = (x / mid, y / mid);
            // Inside its cell: never across the middle.
            assert!(x % mid + patch <= mid && y % mid + patch <= mid, "{x} {y}");
            cells[cell.0 + 2 * cell.1] += 1;
            edges[0][x % mid] = true;
            edges[1][y % mid] = true;
        }
    }
    // Five standard deviations of the binomial counts: sqrt(4000/4) = 32 and sqrt(4000*7/64) = 21.
    let patches: usize = cells.iter().sum();
    assert!(patches.abs_diff(DRAWS / 2) < 160, "{patches}");
    assert!(cells.iter().all(|c| c.abs_diff(DRAWS / 8) < 105), "{cells:?}");
    assert_eq!(edges, [[true; 9]; 2]);
}

#[test]
fn a_patch_is_what_lies_at_its_place() {
    // 48x48 is already three patches of 16, so that a patch is a plain crop.
    let pair = pair(48, 48, |x, y| (x * 5) as u8 ^ (y * 3) as u8);
    let mut seen = [false; 2];
    for index in 0..20 {
        let sample = draw(&pair, 16, 1, 0, index).unwrap();
        let (x0, y0, from, side) = match sample.placement {
            Placement::Patch { x, y } => (x, y, pair.infrared.clone(), 48),
            Placement::Whole => {
                (0, 0, resize_bicubic(&pair.infrared, 1, 48, 48, 16, 16).unwrap(), 16)
            }
            Placement::Window { .. } => panic!("not the authors' sampling"),
        };
        seen[usize::from(side == 16)] = true;
        for i in 0..256 {
            let want = f32::from(from[(y0 + i / 16) * side + x0 + i % 16]) / 255.;
            assert_eq!(sample.infrared[i], want);
            assert!((sample.visible[i] - want).abs() < 1e-6);
        }
    }
    assert_eq!(seen, [true; 2]);
}

#[test]
fn dark_places_are_not_taken() {
    for index in 0..200 {
        let black = draw(&pair(60, 60, |_, _| 0), 16, 5, 0, index).unwrap();
        assert_eq!(black.placement, Placement::Whole);
        // Light in the right third only, so that both left cells are black.
        let right =
            draw(&pair(60, 60, |x, _| if x < 40 { 0 } else { 120 }), 16, 5, 0, index).unwrap();
        if let Placement::Patch { x, .. } = right.placement {
            assert!(x >= 24);
        }
    }
    // One image alone is enough.
    let mut lit = pair(60, 60, |_, _| 100);
    lit.infrared.fill(255);
    assert!((0..20).any(|i| draw(&lit, 16, 5, 0, i).unwrap().placement != Placement::Whole));
}

#[test]
fn samples_repeat_and_differ_as_their_counters_do() {
    let pair = pair(64, 64, |x, y| (x * y) as u8);
    let all = |seed, epoch| -> Vec<_> {
        (0..12).map(|i| draw(&pair, 16, seed, epoch, i).unwrap().placement).collect()
    };
    assert_eq!(all(1, 0), all(1, 0));
    assert_ne!(all(1, 0), all(1, 1));
    assert_ne!(all(1, 0), all(2, 0));
    assert!(draw(&pair, 0, 1, 0, 0).is_err());
    // A pair of one pixel, and one far from square.
    let dot = Pair { width: 1, height: 1, visible: vec![9; 3], infrared: vec![9] };
    assert!(draw(&dot, 16, 1, 0, 0).unwrap().infrared.iter().all(|&v| v == 9. / 255.));
    let strip = Pair { width: 300, height: 1, visible: vec![9; 900], infrared: vec![9; 300] };
    assert!(draw(&strip, 16, 1, 0, 1).is_ok());
}

#[test]
fn luma_has_the_papers_weights() {
    let rgb = [Rgb([255u8, 0, 0]), Rgb([0, 255, 0]), Rgb([0, 0, 255]), Rgb([255; 3])];
    for (pixel, want) in rgb.iter().zip([0.299, 0.587, 0.114, 1.]) {
        let flat = Pair { width: 1, height: 1, visible: pixel.0.to_vec(), infrared: vec![50] };
        let sample = draw(&flat, 12, 1, 0, 0).unwrap();
        assert!(sample.visible.iter().all(|v| (v - want).abs() < 1e-6 && *v <= 1.));
    }
}
