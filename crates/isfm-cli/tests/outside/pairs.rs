//! Real photographs, which are other people's: beside the workspace, where they exist.

use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageBuffer, Luma};
use isfm::{Isfm, Normalize, Tiling, read_image};
use isfm_files::Pairing;
use isfm_files::pairs::Folder;
use rayon::prelude::*;

use crate::Outcome;
use crate::common::{evaluate, json, text};

/// A file or folder beside the workspace.
fn shared(name: &str) -> Result<PathBuf, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(name);
    if path.exists() { Ok(path) } else { Err(format!("there is no ../shared/{name}")) }
}

/// The first pair of each set.
fn pairs() -> Result<Vec<(DynamicImage, DynamicImage)>, String> {
    let first = |set: &str| {
        let set = shared(set)?;
        let names = std::fs::read_dir(set.join("vi")).unwrap().map(|e| e.unwrap().file_name());
        let name = names.min().expect("a picture");
        let read = |side: &str| read_image(set.join(side).join(&name)).unwrap();
        Ok((read("vi"), read("ir")))
    };
    ["data/msrs_sample", "data/roadscene/test"].into_iter().map(first).collect()
}

fn differences(a: &DynamicImage, b: &DynamicImage) -> (f64, u8) {
    let (a, b) = (a.to_rgb8(), b.to_rgb8());
    let all: Vec<u8> = a.iter().zip(b.iter()).map(|(a, b)| a.abs_diff(*b)).collect();
    let sum: u64 = all.iter().map(|&d| u64::from(d)).sum();
    (sum as f64 / all.len() as f64, all.into_iter().max().unwrap_or(0))
}

/// The network sees the whole base, and what is cut depends on near neighbours alone.
pub(crate) fn tiles_do_not_show_on_real_pairs() -> Outcome {
    let whole = Isfm::builder().tiling(Tiling::Whole).build().unwrap();
    for (visible, infrared) in pairs()? {
        let want = whole.fuse(&visible, &infrared).unwrap();
        assert_eq!((want.width(), want.height()), (visible.width(), visible.height()));
        let tiled = Isfm::builder().tiling(Tiling::Edge(256)).build().unwrap();
        let got = tiled.fuse(&visible, &infrared).unwrap();
        let (mean, worst) = differences(&want, &got);
        let (w, h) = (want.width(), want.height());
        println!("{w}x{h}, tiles of 256: {mean:.3} levels on average, {worst} at the worst");
        assert_eq!(worst, 0, "{mean}");
    }
    Ok(())
}

/// Every folder beside the workspace that holds files.
fn folders() -> Result<Vec<PathBuf>, String> {
    let mut open = vec![shared("data")?];
    let mut found = Vec::new();
    while let Some(folder) = open.pop() {
        let entries = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path());
        let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
        open.extend(folders);
        if !files.is_empty() {
            found.push(folder);
        }
    }
    Ok(found)
}

/// At least 40 dB.
pub(crate) fn every_picture_fused_with_itself_comes_back() -> Outcome {
    let fuser = Isfm::embedded().unwrap();
    let listed: Vec<Folder> = folders()?.iter().map(|f| Folder::list(f).unwrap()).collect();
    let pictures = listed.iter().flat_map(|f| f.by_stem().into_values().flatten());
    let pictures: Vec<&Path> = pictures.collect();
    pictures.par_iter().for_each(|path| {
        let picture = read_image(path).unwrap();
        let fused = fuser.fuse(&picture, &picture).unwrap().to_rgb8();
        let picture = picture.to_rgb8();
        let squares = fused.iter().zip(picture.iter()).map(|(a, b)| {
            let off = f64::from(a.abs_diff(*b));
            off * off
        });
        let mse = squares.sum::<f64>() / fused.len() as f64;
        let psnr = 10. * (255. * 255. / mse).log10();
        assert!(psnr >= 40., "{}: {psnr:.1} dB", path.display());
    });
    assert!(pictures.len() > 100);
    println!("{} pictures", pictures.len());
    Ok(())
}

/// Where both sources of a medical pair are below 3, the result is below 5.
pub(crate) fn medical_backgrounds_stay_black() -> Outcome {
    let fuser = Isfm::embedded().unwrap();
    let mut pixels = 0;
    for mri in folders()?.iter().filter(|f| f.ends_with("ir") || f.ends_with("mri")) {
        let set = mri.parent().unwrap();
        let name = set.file_name().unwrap().to_string_lossy();
        let Some(kind) = name.strip_prefix("mri_") else { continue };
        let other = if mri.ends_with("mri") { kind } else { "vi" };
        for pair in Pairing::find(set.join(other), mri).unwrap().pairs {
            let [visible, infrared] =
                [&pair.visible, &pair.infrared].map(|path| read_image(path).unwrap());
            let fused = fuser.fuse(&visible, &infrared).unwrap().to_luma8();
            let (visible, infrared) = (visible.to_luma8(), infrared.to_luma8());
            let sources = visible.iter().zip(infrared.iter());
            for ((v, i), &got) in sources.zip(fused.iter()) {
                if v.max(i) < &3 {
                    pixels += 1;
                    assert!(got < 5, "{}: {got}", pair.visible.display());
                }
            }
        }
    }
    assert!(pixels > 1_000_000);
    println!("{pixels} pixels of background");
    Ok(())
}

/// A thermal frame as a camera gives it, 14 bit around an offset, fuses about as its 8-bit
/// rendering does.
pub(crate) fn raw_thermal_frames_fuse_like_rendered_ones() -> Outcome {
    let fuser = Isfm::embedded().unwrap();
    for (visible, infrared) in pairs()? {
        let [visible, infrared] = [visible, infrared].map(|image| image.crop_imm(0, 0, 240, 180));
        let infrared = infrared.to_luma8();
        let raw = ImageBuffer::from_fn(240, 180, |x, y| {
            Luma([7000u16 + 5 * u16::from(infrared.get_pixel(x, y)[0])])
        });
        let stretched = Isfm::builder()
            .normalize_infrared(Normalize::Percentile { low: 0.1, high: 99.9 })
            .build()
            .unwrap();
        let want = stretched.fuse(&visible, &infrared.into()).unwrap();
        let got = fuser.fuse(&visible, &DynamicImage::ImageLuma16(raw)).unwrap();
        assert!(differences(&want, &got).1 <= 1);
    }
    Ok(())
}

/// The means of two methods on RoadScene, as other programs measured them.
pub(crate) fn roadscene_is_as_others_measured_it() -> Outcome {
    let (set, peers) = (shared("data/roadscene/test")?, shared("peers.json")?);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("s.json");
    let output = format!("--json={}", text(&file));
    let args = ["--visible=@/vi", "--infrared=@/ir", "--baseline=average,max", &output];
    assert_eq!(evaluate(&set, &args).unwrap(), []);
    let (json, peers) = (json(&file), json(&peers));
    for method in json["methods"].as_array().unwrap() {
        let name = method["name"].as_str().unwrap();
        assert_eq!(method["images"], 50);
        let want = peers["methods"][name].as_object().unwrap();
        let mut compared = 0;
        for (metric, want) in want.iter().filter(|(metric, _)| *metric != "parameters") {
            // They are given to four digits after the point.
            let got = method["mean"][metric].as_f64().unwrap();
            let rounded = format!("{got:.4}").parse::<f64>().unwrap();
            assert_eq!(Some(rounded), want.as_f64(), "{name} {metric}: {got}");
            compared += 1;
        }
        assert_eq!(compared, 9, "{name}");
    }
    Ok(())
}
