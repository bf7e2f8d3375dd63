//! Trains a small network on a folder of pairs (`DIR/vi/NAME`, `DIR/ir/NAME`), or on crops of a painted
//! pair, and fuses with it.
//!
//! ```text
//! cargo run --release --example train_folder -- DIR
//! ```

use std::path::{Path, PathBuf};

use anyhow::Result;
use isfm::{Isfm, Preset};
use isfm_train::{PairFolder, RunOptions, Schedule, TrainConfig, Trainer};

fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let data = match std::env::args().nth(1) {
        Some(path) => PathBuf::from(path),
        None => paint_pairs(folder.path())?,
    };
    let config = TrainConfig {
        steps: Some(12),
        batch: 2,
        patch: 64,
        schedule: Schedule { start: 1e-4, peak: 1e-3, warmup: 2, ..Schedule::default() },
        ..TrainConfig::default()
    };
    let run = folder.path().join("run");
    let mut trainer = Trainer::builder(Preset::Live.into(), PairFolder::open(&data)?)
        .config(config)
        .create(&run)?;
    // Or step by step: `trainer.step()?` gives the losses. A run that was stopped, even by `kill -9`, goes
    // on with `.resume(&run)` in the place of `.create(&run)`.
    trainer.run(&RunOptions { progress: true, ..RunOptions::default() })?;

    let isfm = Isfm::builder().weights(run.join("weights.safetensors")).build()?;
    let (visible, infrared) = isfm_testing::paint::night_road();
    isfm::write_image(&isfm.fuse(&visible.into(), &infrared.into())?, "out/trained.png")?;
    println!("out/trained.png");
    Ok(())
}

fn paint_pairs(folder: &Path) -> Result<PathBuf> {
    let (visible, infrared) = isfm_testing::paint::night_road();
    let (visible, infrared): (image::DynamicImage, image::DynamicImage) =
        (visible.into(), infrared.into());
    for k in 0..6 {
        for (side, picture) in [("vi", &visible), ("ir", &infrared)] {
            let crop = picture.crop_imm(90 * k, 20 * k, 160, 120);
            isfm::write_image(&crop, folder.join(format!("{side}/{k}.png")))?;
        }
    }
    Ok(folder.to_owned())
}
