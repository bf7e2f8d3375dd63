//! Picture and weights files, good and bad.

use std::path::Path;

use crate::common::{self, checkpoint, colour_image, config, grey_image};
use candle_core::{DType, Device};
use image::{ColorType, DynamicImage};
use isfm::{
    Checkpoint, Config, Error, Isfm, Normalize, Preset, Side, read_image, to_8_bits, write_image,
};
use isfm_testing::chain;

/// The error names the file; there was no panic.
fn refused<T>(result: Result<T, Error>, path: &Path) -> String {
    let text = chain(&result.err().expect("an error"));
    assert!(text.contains(path.file_name().unwrap().to_str().unwrap()), "{text}");
    text
}

#[test]
fn pictures_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    refused(read_image(at("missing.png")), &at("missing.png"));
    refused(read_image(folder.path()), folder.path());
    for (name, bytes) in [("text.png", &b"hello, this is no picture"[..]), ("empty.jpg", b"")] {
        std::fs::write(at(name), bytes).unwrap();
        refused(read_image(at(name)), &at(name));
    }
    write_image(&grey_image(60, 50, 1), at("whole.bmp")).unwrap();
    // A header that promises 100,000 × 100,000 pixels is refused before the memory is taken.
    let mut bomb = std::fs::read(at("whole.bmp")).unwrap();
    bomb[18..22].copy_from_slice(&100_000u32.to_le_bytes());
    bomb[22..26].copy_from_slice(&100_000u32.to_le_bytes());
    std::fs::write(at("bomb.bmp"), bomb).unwrap();
    refused(read_image(at("bomb.bmp")), &at("bomb.bmp"));
}

#[test]
fn pictures_come_back_as_they_were_written() {
    let folder = tempfile::tempdir().unwrap();
    let colour = colour_image(23, 19, 1);
    let all: [DynamicImage; 5] = [
        colour.to_luma8().into(),
        colour.clone(),
        colour.to_luma16().into(),
        colour.to_rgb16().into(),
        colour.to_rgb32f().into(),
    ];
    for image in &all {
        for extension in ["png", "jpg", "JPEG", "tif", "bmp", "webp", "pgm", "ppm", "pnm", "pam"] {
            let path = folder.path().join(format!("new/folder/x.{extension}"));
            write_image(image, &path).unwrap();
            let back = read_image(&path).unwrap();
            let eight = !["png", "tif", "pam"].contains(&extension);
            let deep = image.color().bytes_per_pixel() > image.color().channel_count();
            let want = if deep && !eight { 2 } else { 1 };
            if extension == "tif" && image.color() == ColorType::Rgb32F {
                assert_eq!(&back, image);
                continue;
            }
            let depth = back.color().bytes_per_pixel() / back.color().channel_count();
            assert_eq!(depth, want, "{extension} {:?}", image.color());
            let tolerance = if extension.to_lowercase().starts_with('j') { 24 } else { 0 };
            if extension == "pgm" && image.color().has_color() {
                let luma = to_8_bits(&image.to_rgb8().into(), Side::Infrared, Normalize::Auto);
                assert_eq!(back, luma.unwrap());
                continue;
            }
            for (a, b) in back.to_rgb8().iter().zip(image.to_rgb8().iter()) {
                assert!(a.abs_diff(*b) <= tolerance, "{extension} {:?}: {a} {b}", image.color());
            }
            // What programs that go by the name expect.
            match extension {
                "pgm" => assert_eq!(back.color(), ColorType::L8),
                "ppm" => assert_eq!(back.color(), ColorType::Rgb8),
                _ => {}
            }
        }
        let left: Vec<_> = std::fs::read_dir(folder.path().join("new/folder")).unwrap().collect();
        assert_eq!(left.len(), 10, "files put aside must be gone");
    }
    // The content says what a file is, not its name.
    let path = folder.path().join("really.png");
    write_image(&colour, folder.path().join("x.bmp")).unwrap();
    std::fs::rename(folder.path().join("x.bmp"), &path).unwrap();
    assert_eq!(read_image(&path).unwrap(), colour);
}

#[test]
fn places_that_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["x", "x.txt", "x.gif", "x.pbm", "x.safetensors"] {
        let path = folder.path().join(name);
        let text = refused(write_image(&grey_image(2, 2, 1), &path), &path);
        assert!(text.contains("png"), "{text}");
        assert!(!path.exists());
    }
    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    refused(write_image(&grey_image(2, 2, 1), file.join("x.png")), Path::new("x.png"));
    let taken = folder.path().join("taken.png");
    std::fs::create_dir(&taken).unwrap();
    refused(write_image(&grey_image(2, 2, 1), &taken), &taken);
}

#[test]
fn weights_that_fit_and_weights_that_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("random.safetensors");
    checkpoint().write(&path, DType::F32).unwrap();
    let (visible, infrared) = (colour_image(20, 14, 1), grey_image(20, 14, 2));
    let want = common::isfm().fuse(&visible, &infrared).unwrap();
    let loaded = Isfm::load(&path).unwrap();
    assert_eq!(loaded.config(), &config());
    assert_eq!(loaded.fuse(&visible, &infrared).unwrap(), want);
    let named = Isfm::builder().weights(&path).config(config()).build().unwrap();
    assert_eq!(named.fuse(&visible, &infrared).unwrap(), want);

    let other = Config { embed_dim: 12, ..config() };
    refused(Isfm::builder().weights(&path).config(other.clone()).build(), &path);
    let wrong = Isfm::builder().checkpoint(checkpoint().clone()).config(other).build();
    assert!(matches!(wrong, Err(Error::Model(_))));

    let bytes = std::fs::read(&path).unwrap();
    let refuse = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        refused(Isfm::load(&path), &path);
    };
    for keep in [0, 4, 7, 100, bytes.len() / 2, bytes.len() - 1] {
        refuse("cut.safetensors", &bytes[..keep]);
    }
    for bytes in [&b"no weights at all"[..], b"PK\x03\x04 but no zip", b"\x80\x02 old"] {
        refuse("not_one.pth", bytes);
    }
    let picture = folder.path().join("picture.png");
    write_image(&visible, &picture).unwrap();
    refused(Isfm::load(&picture), &picture);
    refused(Isfm::load(folder.path().join("gone.pth")), Path::new("gone.pth"));
    let bytes = std::fs::read(common::golden().join("tiny_pth.pth")).unwrap();
    for keep in [10, 1000, bytes.len() / 2, bytes.len() - 10] {
        refuse("cut.pth", &bytes[..keep]);
    }
}

#[test]
fn damaged_weights_are_found_out_in_use() {
    let mut broken: Checkpoint = checkpoint().clone();
    let name = "conv_final_fuse.2.bias".to_string();
    let nan = candle_core::Tensor::new(&[f32::NAN], &Device::Cpu).unwrap();
    broken.weights.insert(name, nan);
    let fuser = Isfm::builder().checkpoint(broken).build().unwrap();
    let error = fuser.fuse(&grey_image(8, 8, 1), &grey_image(8, 8, 2)).unwrap_err();
    assert!(matches!(error, Error::NotFiniteOutput), "{error}");
}

#[cfg(feature = "embedded-weights")]
#[test]
fn the_embedded_weights_are_the_live_preset_s() {
    let fuser = Isfm::embedded().unwrap();
    assert_eq!(fuser.config(), &Preset::Live.into());
    let live = Isfm::builder().config(Preset::Live.into()).build().unwrap();
    let (visible, infrared) = (colour_image(20, 14, 1), grey_image(20, 14, 2));
    let fused = fuser.fuse(&visible, &infrared).unwrap();
    assert_eq!(fused, live.fuse(&visible, &infrared).unwrap());
    let error = Isfm::builder().config(Preset::Paper.into()).build().unwrap_err();
    assert!(matches!(error, Error::NotEmbedded { .. }), "{error}");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/embedded.safetensors");
    assert!(std::fs::metadata(file).unwrap().len() < 2 << 20);
}
