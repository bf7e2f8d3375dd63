//! `isfm paper`: the tables and figures of the ISFM paper, on one's own pairs.

pub mod ablate;
pub mod compare;
pub mod count;
pub mod figures;
mod series;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use isfm_model::{Config, Preset};

use crate::Usage;
use crate::evaluate::{detect, report::Problem, segment};
use crate::options::preset;

/// Make the tables and figures of the ISFM paper on your own pairs.
///
/// Tables I, II: compare. Tables III to VI and Fig. 15: ablate. Tables VII, VIII: count. Tables IX, X:
/// downstream. Figs. 12 to 15: figures. (Figs. 16 and 17 are pictures of detections and segmentations:
/// `isfm evaluate --figure` puts any pictures of a pair side by side.)
#[derive(Parser, Debug)]
#[command(
    name = "paper",
    after_help = "Examples:\n  \
        isfm paper count --preset paper --size 640x480\n  \
        isfm paper ablate --table III,IV --data train --test test --steps 400 --seeds 3 -o ablations\n  \
        isfm paper compare --sets sets --methods results --latex tables.tex\n  \
        isfm paper figures --visible V.png --infrared I.png -o figures\n  \
        isfm paper downstream detect --truth val.json --detections ISFM=isfm.json"
)]
pub struct Args {
    /// What to make.
    #[command(subcommand)]
    pub what: What,
}

/// What can be made.
// A comment on a variant would take the place of the whole help of its arguments.
#[derive(Subcommand, Debug)]
#[expect(missing_docs, reason = "their arguments have them")]
pub enum What {
    Count(count::Args),
    Ablate(ablate::Args),
    Compare(compare::Args),
    Figures(figures::Args),
    Downstream(Downstream),
}

/// Tables IX and X: scores of what a detector or a segmentation network makes of each method's pictures.
///
/// The same programs as `isfm evaluate detect` and `segment`: precision, recall, AP50 (mAP@.50) and AP50:95
/// (mAP@[.50:.95]); IoU of each class and mIoU.
#[derive(Parser, Debug)]
#[command(name = "downstream")]
pub struct Downstream {
    /// Which of the two.
    #[command(subcommand)]
    pub task: crate::evaluate::Task,
}

/// Which network.
#[derive(clap::Args, Clone, Debug)]
pub struct ModelArgs {
    /// A configuration by name
    #[arg(long, value_name = "NAME", value_parser = preset(), conflicts_with = "config")]
    pub preset: Option<Preset>,
    /// A configuration as a JSON file
    #[arg(long, value_name = "FILE.json")]
    pub config: Option<PathBuf>,
}

impl ModelArgs {
    /// The configuration, or that of `default`.
    ///
    /// # Errors
    /// [`Usage`], if the file is none.
    pub fn read(&self, default: Preset) -> Result<Config> {
        match &self.config {
            Some(path) => Config::read(path).map_err(Usage::of),
            None => Ok(self.preset.unwrap_or(default).into()),
        }
    }
}

/// Refuses pictures for which the system has too little memory left, `times` what fusing them takes.
fn room(config: &Config, (width, height): (u32, u32), times: usize, instead: &str) -> Result<()> {
    let pixels = u128::from(width) * u128::from(height);
    let needed = isfm::memory_per_pixel(config) as u128 * pixels * times as u128;
    if let Some(left) = isfm::available_memory()
        && needed > left as u128
    {
        bail!(
            "a pair of {width}x{height} needs some {} MiB at once, {} MiB are left: {instead}",
            needed >> 20,
            left >> 20
        );
    }
    Ok(())
}

/// Does what the arguments ask. What could not be scored is returned.
pub fn run(args: &Args) -> Result<Vec<Problem>> {
    match &args.what {
        What::Count(args) => count::run(args).map(|()| Vec::new()),
        What::Ablate(args) => ablate::run(args),
        What::Compare(args) => compare::run(args),
        What::Figures(args) => figures::run(args).map(|()| Vec::new()),
        What::Downstream(Downstream { task }) => match task {
            crate::evaluate::Task::Detect(args) => detect::run(args),
            crate::evaluate::Task::Segment(args) => segment::run(args),
        },
    }
}
