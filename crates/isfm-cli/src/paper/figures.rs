//! `isfm paper figures`: Figs. 12 to 15, what the network's stages make of a pair.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle_core::{D, Device, Tensor};
use clap::Parser;
use image::{GrayImage, RgbImage};
use isfm::Side;
use isfm_blocks::Features;
use isfm_dwt::{Border, DataFormat, Wavelet};
use isfm_model::{Checkpoint, Config, Modules, Network, Spatial, Stages, Table, Weights};

use super::room;
use crate::evaluate::figure::{self, chart};
use crate::evaluate::inputs::{luminance, read_source};
use crate::{Console, Usage, text_of};

/// Draw what the network's stages make of a pair (Figs. 12 to 14), and an ablation of K (Fig. 15).
///
/// Every map becomes a picture in the same way: the root mean square over its channels at each place, black for
/// 0 and white from the 99.5th percentile of all maps that share a scale on. Both sources share theirs, as do ISF
/// with and without FGG, and what goes into a block and what comes out of it do not: their channels are not
/// the same ones.
///
/// fig12.png: a layer's HFFB, LFFB, MFF, ISF, ISF with its gates made without the frequencies (no FGG), and the
/// last convolution. fig13.png: LL, LH, HL and HH of both sources' features (the mean of deep and shallow
/// ones, as the MFF reads them) and of what the MFF makes of them. fig14.png: the high bands before and after
/// the HFFB. fig15.png, with --ablation: scores against K.
///
/// On a pyramid the network sees the base, and so do the figures.
#[derive(Parser, Debug)]
#[command(
    name = "figures",
    after_help = "Examples:\n  \
        isfm paper figures --visible V.png --infrared I.png -o figures\n  \
        isfm paper figures --visible V.png --infrared I.png --weights released.pth --layer 4 -o figures\n  \
        isfm paper figures --ablation ablations -o figures"
)]
pub struct Args {
    /// The visible picture
    #[arg(long, value_name = "FILE", requires = "infrared", required_unless_present = "ablation")]
    pub visible: Option<PathBuf>,
    /// The infrared picture, of the same size
    #[arg(long, value_name = "FILE", requires = "visible")]
    pub infrared: Option<PathBuf>,
    /// Weights (.safetensors or .pth) [default: those inside the program]
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
    /// Which of the K layers is shown, from 1
    #[arg(long, value_name = "K", default_value_t = 1)]
    pub layer: usize,
    /// An output folder of `isfm paper ablate --table K`, for Fig. 15
    #[arg(long, value_name = "DIR")]
    pub ablation: Option<PathBuf>,
    /// Where the pictures go
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
}

/// Does what the arguments ask.
///
/// # Errors
/// [`Usage`] for pictures, weights or results that cannot be drawn; if a file cannot be written.
pub fn run(args: &Args) -> Result<()> {
    let console = Console::for_files(false, &[])?;
    let mut sheets = Vec::new();
    if let (Some(visible), Some(infrared)) = (&args.visible, &args.infrared) {
        sheets.extend(stages(args, visible, infrared).map_err(Usage::of)?);
    }
    if let Some(folder) = &args.ablation {
        sheets.push(("fig15.png", fig15(folder).map_err(Usage::of)?));
    }
    for (name, sheet) in sheets {
        console.write(&args.output.join(name), &sheet)?;
    }
    Ok(())
}

/// A map of channels that is to become a picture, and which of them share a scale.
struct Panel {
    caption: String,
    scale: usize,
    map: Tensor,
}

fn panel(caption: impl Into<String>, scale: usize, map: &Tensor) -> Result<Panel> {
    // B×H×W×C with one picture to H×W.
    let map = map.squeeze(0)?.sqr()?.mean(D::Minus1)?.sqrt()?;
    Ok(Panel { caption: caption.into(), scale, map })
}

fn sheet(panels: Vec<Panel>, columns: usize) -> Result<Vec<u8>> {
    let mut whites = std::collections::BTreeMap::<usize, Vec<f32>>::new();
    for panel in &panels {
        whites.entry(panel.scale).or_default().extend(panel.map.flatten_all()?.to_vec1::<f32>()?);
    }
    let whites: std::collections::BTreeMap<usize, f32> = whites
        .into_iter()
        .map(|(scale, mut values)| {
            let at = (values.len() * 995 / 1000).min(values.len().saturating_sub(1));
            values.sort_unstable_by(f32::total_cmp);
            (scale, values.get(at).copied().unwrap_or(1.).max(f32::MIN_POSITIVE))
        })
        .collect();
    let picture = |panel: Panel| -> Result<(String, RgbImage)> {
        let (height, width) = panel.map.dims2()?;
        let white = whites.get(&panel.scale).copied().unwrap_or(1.);
        let level = |value: f32| (255. * value / white).round().clamp(0., 255.) as u8;
        let grey = panel.map.flatten_all()?.to_vec1::<f32>()?.into_iter().map(level).collect();
        let grey = GrayImage::from_raw(width as u32, height as u32, grey).context("a map")?;
        Ok((panel.caption, image::DynamicImage::from(grey).to_rgb8()))
    };
    figure::sheet(panels.into_iter().map(picture).collect::<Result<_>>()?, columns)
}

/// LL, LH, HL and HH of B×H×W×C, each B×⌊H/2⌋×⌊W/2⌋×C.
fn bands(map: &Tensor) -> Result<[Tensor; 4]> {
    let bands = isfm_dwt::dwt2(map, &Wavelet::haar(), Border::Drop, DataFormat::ChannelsLast)?;
    let [lh, hl, hh] = details(&bands.details)?;
    Ok([bands.approx, lh, hl, hh])
}

fn details(packed: &Tensor) -> Result<[Tensor; 3]> {
    let c = packed.dim(3)? / 3;
    let part = |i: usize| packed.narrow(3, i * c, c);
    Ok([part(0)?, part(1)?, part(2)?])
}

const BANDS: [&str; 4] = ["LL", "LH", "HL", "HH"];

type Sheet = (&'static str, Vec<u8>);

fn stages(args: &Args, visible: &Path, infrared: &Path) -> Result<Vec<Sheet>> {
    let origin = "inside the program";
    let checkpoint = match &args.weights {
        Some(path) => Checkpoint::read(path, None, &Device::Cpu)?,
        None => Checkpoint::from_bytes(origin, isfm::embedded_weights(), None, &Device::Cpu)?,
    };
    let Checkpoint { config, weights, .. } = checkpoint;
    let layers = config.layers();
    ensure!(
        (1..=layers).contains(&args.layer),
        "--layer is {}, but the network has layers 1 to {layers}",
        args.layer
    );
    let [visible, infrared] = pictures(&config, visible, infrared)?;
    let stages = Network::from_weights(&config, &weights)?.forward_stages(&visible, &infrared)?;
    let k = args.layer - 1;
    let mut sheets =
        vec![("fig12.png", fig12(&config, &weights, &stages, k, [&visible, &infrared])?)];
    let source = |features: &Features| -> Result<[Tensor; 4]> {
        bands(&((&features.deep + &features.shallow)? * 0.5)?)
    };
    let sources = [source(&stages.visible)?, source(&stages.infrared)?];
    let mut panels = Vec::new();
    // A scale for the low bands and one for the high ones.
    let scale = |band: usize| usize::from(band > 0);
    for (name, of) in ["visible", "infrared"].into_iter().zip(&sources) {
        for (band, map) in of.iter().enumerate() {
            panels.push(panel(format!("{name} {}", BANDS[band]), scale(band), map)?);
        }
    }
    if let Some(output) = stages.frequency.get(k) {
        let [lh, hl, hh] = details(&output.bands.high)?;
        let fused = [&output.bands.low, &lh, &hl, &hh];
        for (band, map) in fused.into_iter().enumerate() {
            panels.push(panel(format!("MFF {}", BANDS[band]), 2 + scale(band), map)?);
        }
        sheets.push(("fig13.png", sheet(panels, 4)?));
        let mut panels = Vec::new();
        for band in 1..4 {
            let mean = ((&sources[0][band] + &sources[1][band])? * 0.5)?;
            panels.push(panel(format!("before HFFB: {}", BANDS[band]), 0, &mean)?);
        }
        for (band, map) in [lh, hl, hh].iter().enumerate() {
            panels.push(panel(format!("after HFFB: {}", BANDS[band + 1]), 1, map)?);
        }
        sheets.push(("fig14.png", sheet(panels, 3)?));
    } else {
        sheets.push(("fig13.png", sheet(panels, 4)?));
    }
    Ok(sheets)
}

fn fig12(
    config: &Config,
    weights: &Weights,
    stages: &Stages,
    k: usize,
    [visible, infrared]: [&Tensor; 2],
) -> Result<Vec<u8>> {
    let mut panels = Vec::new();
    if let Some(output) = stages.frequency.get(k) {
        if config.modules.hffb {
            panels.push(panel("HFFB", 0, &output.bands.high)?);
        }
        if config.modules.lffb {
            panels.push(panel("LFFB", 1, &output.bands.low)?);
        }
        if let Some(map) = &output.fused {
            panels.push(panel("MFF", 2, map)?);
        }
    }
    if let Some(map) = stages.interactive.get(k) {
        panels.push(panel("ISF", 3, map)?);
    }
    if config.modules.spatial == Spatial::Fgm {
        let modules = Modules { spatial: Spatial::FgmOwnGate, ..config.modules };
        // Bands that nothing reads have no blocks.
        let read = modules.frequency;
        let modules =
            Modules { lffb: modules.lffb || !read, hffb: modules.hffb || !read, ..modules };
        let own = Config { modules, ..config.clone() };
        let names = isfm_model::tensor_shapes(&own)?;
        let kept = weights.iter().filter(|(name, _)| names.contains_key(*name));
        let kept = kept.map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
        let without = Network::from_weights(&own, &kept)?.forward_stages(visible, infrared)?;
        if let Some(map) = without.interactive.get(k) {
            panels.push(panel("ISF without FGG", 3, map)?);
        }
    }
    let last = stages.fused.permute((0, 2, 3, 1))?.contiguous()?;
    panels.push(panel("last convolution", 4, &last)?);
    sheet(panels, 6)
}

/// What the network sees of a pair, B×1×H×W.
fn pictures(config: &Config, visible: &Path, infrared: &Path) -> Result<[Tensor; 2]> {
    let read =
        |path: &Path, side| -> Result<GrayImage> { Ok(luminance(&read_source(path, side)?)) };
    let (visible, infrared) = (read(visible, Side::Visible)?, read(infrared, Side::Infrared)?);
    let (v, i) = (visible.dimensions(), infrared.dimensions());
    ensure!(v == i, "the visible picture is {}x{} but the infrared one {}x{}", v.0, v.1, i.0, i.1);
    // All stages are kept.
    room(config, v, 3, "give a smaller pair")?;
    let base = |image: GrayImage| -> Result<Tensor> {
        let shape = (1, 1, image.height() as usize, image.width() as usize);
        let unit: Vec<f32> = image.iter().map(|&level| f32::from(level) / 255.).collect();
        Ok(config.pyramid.base(&Tensor::from_vec(unit, shape, &Device::Cpu)?)?)
    };
    let pictures = [base(visible)?, base(infrared)?];
    let (height, width) = (pictures[0].dim(2)?, pictures[0].dim(3)?);
    ensure!(
        height > 1 && width > 1,
        "the network sees {width}x{height} of these pictures; the figures need 2x2 at least"
    );
    Ok(pictures)
}

/// Scores against K, from an ablation's `ablations.csv`.
fn fig15(folder: &Path) -> Result<Vec<u8>> {
    let path = folder.join("ablations.csv");
    let text = text_of(&path)?;
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let mut lines = Vec::<(String, Vec<(f64, f64, f64)>)>::new();
    let wrong = || format!("{}: not what `isfm paper ablate` writes", path.display());
    for record in reader.records() {
        let record = record.with_context(wrong)?;
        if record.get(0) != Some(Table::K.title()) {
            continue;
        }
        let cell = |at: usize| record.get(at).with_context(wrong);
        // Behind the number may stand how many seeds were trained.
        let number = cell(1)?.strip_prefix("K = ").and_then(|k| k.split(' ').next());
        let layers = number.and_then(|k| k.parse().ok()).with_context(wrong)?;
        if cell(3)?.is_empty() {
            continue;
        }
        let mean: f64 = cell(3)?.parse().with_context(wrong)?;
        let spread: f64 = match cell(4)? {
            "" => 0.,
            spread => spread.parse().with_context(wrong)?,
        };
        let metric = cell(2)?;
        match lines.iter_mut().find(|(name, _)| name == metric) {
            Some((_, points)) => points.push((layers, mean, spread)),
            None => lines.push((metric.to_owned(), vec![(layers, mean, spread)])),
        }
    }
    ensure!(
        !lines.is_empty(),
        "{} has no ablation of K: make it with `isfm paper ablate --table K`",
        path.display()
    );
    let charts = lines.into_iter().map(|(metric, points)| {
        let picture = chart(&points);
        (format!("{metric} against K"), picture)
    });
    figure::sheet(charts.collect(), 4)
}
