//! Real pairs, where they are: the workspace's neighbour `shared/data`. The pictures are other
//! people's and no part of the project, so these tests say so and pass where they are missing.

use std::path::PathBuf;

use image::{DynamicImage, ImageBuffer, Luma};
use isfm::{Isfm, Tiling, read_image};

fn pairs() -> Vec<(DynamicImage, DynamicImage)> {
    let data = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data"));
    let folders =
        [("msrs_sample/vi", "msrs_sample/ir"), ("roadscene/test/vi", "roadscene/test/ir")];
    let mut found = Vec::new();
    for (visible, infrared) in folders {
        let (visible, infrared) = (data.join(visible), data.join(infrared));
        let Ok(entries) = std::fs::read_dir(&visible) else {
            eprintln!("SKIPPED: no real pairs at {}", visible.display());
            continue;
        };
        let mut names: Vec<_> = entries.filter_map(|e| Some(e.ok()?.file_name())).collect();
        names.sort();
        let name = names.first().expect("an empty folder");
        let read = |folder: PathBuf| read_image(folder.join(name)).unwrap();
        found.push((read(visible), read(infrared)));
    }
    found
}

fn differences(a: &DynamicImage, b: &DynamicImage) -> (f64, u8) {
    let (a, b) = (a.to_rgb8(), b.to_rgb8());
    let all: Vec<u8> = a.iter().zip(b.iter()).map(|(a, b)| a.abs_diff(*b)).collect();
    let sum: u64 = all.iter().map(|&d| u64::from(d)).sum();
    (sum as f64 / all.len() as f64, all.into_iter().max().unwrap_or(0))
}

/// Prints the numbers that the README gives (`--nocapture`). The bound is for eyes: nobody sees
/// three levels that come and go over dozens of pixels.
#[cfg(feature = "embedded-weights")]
#[test]
fn tiles_do_not_show_on_real_pairs() {
    let whole = Isfm::builder().tiling(Tiling::Whole).build().unwrap();
    for (visible, infrared) in pairs() {
        let want = whole.fuse(&visible, &infrared).unwrap();
        assert_eq!((want.width(), want.height()), (visible.width(), visible.height()));
        for edge in [128, 256] {
            let tiled = Isfm::builder().tiling(Tiling::Edge(edge)).build().unwrap();
            let got = tiled.fuse(&visible, &infrared).unwrap();
            let (mean, worst) = differences(&want, &got);
            let (w, h) = (want.width(), want.height());
            eprintln!(
                "{w}x{h}, tiles of {edge}: {mean:.3} levels on average, {worst} at the worst"
            );
            assert!(mean < 1. && worst <= 8, "{mean} {worst}");
        }
    }
}

/// A thermal frame as a camera gives it, 14 bit around an offset, fuses about as its 8-bit
/// rendering does.
#[cfg(feature = "embedded-weights")]
#[test]
fn raw_thermal_frames_fuse_like_rendered_ones() {
    let fuser = Isfm::embedded().unwrap();
    for (visible, infrared) in pairs() {
        let (visible, infrared) =
            (visible.crop_imm(0, 0, 240, 180), infrared.crop_imm(0, 0, 240, 180).to_luma8());
        let raw = ImageBuffer::from_fn(240, 180, |x, y| {
            Luma([7000u16 + 5 * u16::from(infrared.get_pixel(x, y)[0])])
        });
        let stretched = isfm::Isfm::builder()
            .normalize_infrared(isfm::Normalize::Percentile { low: 0.1, high: 99.9 })
            .build()
            .unwrap();
        let want = stretched.fuse(&visible, &infrared.into()).unwrap();
        let got = fuser.fuse(&visible, &DynamicImage::ImageLuma16(raw)).unwrap();
        assert!(differences(&want, &got).1 <= 1);
    }
}
