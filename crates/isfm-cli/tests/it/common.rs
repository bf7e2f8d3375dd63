//! Pictures to score.

use std::path::{Path, PathBuf};

use clap::Parser;
use image::{DynamicImage, GrayImage, Luma, Rgb, RgbImage};
use isfm_cli::evaluate::{self, report::Problem};
use isfm_metrics::luma_u8;
use serde_json::Value;

/// The `evaluate` program with these arguments, in which `@` stands for `folder`.
pub(crate) fn evaluate(folder: &Path, args: &[&str]) -> anyhow::Result<Vec<Problem>> {
    let args = [&["evaluate"], args].concat();
    let args = args.iter().map(|arg| arg.replace('@', text(folder)));
    evaluate::run(&parsed(evaluate::Args::try_parse_from(args))?)
}

pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A colour picture, its infrared partner and two results, all different for each `k`.
pub(crate) fn scene(k: u32, width: u32, height: u32) -> [DynamicImage; 4] {
    let visible = RgbImage::from_fn(width, height, |x, y| {
        Rgb([(7 * x + 31 * k) as u8, (5 * y) as u8, (x * y / 8) as u8])
    });
    let infrared =
        GrayImage::from_fn(width, height, |x, y| Luma([((x / 9 + y / 7 + k) % 2 * 180 + y) as u8]));
    let grey = |x, y| {
        let p: &Rgb<u8> = visible.get_pixel(x, y);
        luma_u8(p[0], p[1], p[2])
    };
    let sharp = GrayImage::from_fn(width, height, |x, y| {
        Luma([grey(x, y) / 2 + infrared.get_pixel(x, y)[0] / 3])
    });
    let flat = RgbImage::from_fn(width, height, |x, y| Rgb([grey(x, y) / 4, 90, 90]));
    [visible.into(), infrared.into(), sharp.into(), flat.into()]
}

/// Folders `vi`, `ir`, `sharp` and `flat` with pictures called a, b, c, … z, p26, p27, …
pub(crate) fn set(folder: &Path, pairs: u32, (width, height): (u32, u32)) -> [PathBuf; 4] {
    let folders = ["vi", "ir", "sharp", "flat"].map(|name| folder.join(name));
    for folder in &folders {
        std::fs::create_dir(folder).unwrap();
    }
    for k in 0..pairs {
        let letter = || char::from(b'a' + k as u8).to_string();
        let name = if k < 26 { letter() } else { format!("p{k}") };
        for (at, (folder, image)) in folders.iter().zip(scene(k, width, height)).enumerate() {
            // Names as the programs that made them save them.
            let file = match at {
                2 => format!("VIF_{name}.png"),
                3 => format!("{name}.bmp"),
                _ => format!("{name}.png"),
            };
            image.save(folder.join(file)).unwrap();
        }
    }
    folders
}

/// A fault of the command line has its causes in its text.
pub(crate) fn parsed<T>(args: Result<T, clap::Error>) -> anyhow::Result<T> {
    args.map_err(|error| anyhow::anyhow!("{error}"))
}
