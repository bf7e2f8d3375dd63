//! The `fuse` program: a pair, folders of pairs, or a painted pair.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use candle_core::DType;
use clap::Parser;
use image::DynamicImage;
use indicatif::{ProgressBar, ProgressStyle};
use isfm::{Config, Isfm, Normalize, Picture, PictureFormat, Preset, Side, Tiling};
use isfm_files::{Pairing, is_stream};

use crate::device::{device, threads};
use crate::{Voice, paint, sheet};

/// Fuse an infrared and a visible picture into one.
///
/// VISIBLE, INFRARED and OUTPUT are three files or three folders. In folders, pictures of one
/// name are pairs (whole names first, then names without extension), and each result is
/// OUTPUT/NAME.png. Without VISIBLE and INFRARED, a night road is painted and fused into OUTPUT
/// (or ./out).
///
/// Pairs that cannot be fused, and pictures that could make a pair in several ways, are told at the end,
/// all others are done, and the exit code is 1.
#[derive(Parser, Debug)]
#[command(name = "fuse")]
pub struct Args {
    /// Visible picture or folder; its colour is kept
    #[arg(long, value_name = "V", requires_all = ["infrared", "output"])]
    pub visible: Option<PathBuf>,
    /// Infrared picture or folder
    #[arg(long, value_name = "I", requires_all = ["visible", "output"])]
    pub infrared: Option<PathBuf>,
    /// Where to: a picture (the extension says the format), a folder, or what is no file, such as
    /// /dev/stdout or a FIFO
    #[arg(long, value_name = "O")]
    pub output: Option<PathBuf>,
    /// Format of the result, by extension, such as tiff or jpg; by default the output's extension says
    /// it, and in folders and for /dev/stdout it is png
    #[arg(long, value_name = "EXT")]
    pub format: Option<PictureFormat>,
    /// Weights, .safetensors or released .pth; the embedded ones if none are named
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
    /// Configuration of the weights, as JSON; without it the file itself tells
    #[arg(long, value_name = "FILE.json", conflicts_with = "preset")]
    pub config: Option<PathBuf>,
    /// Configuration of the weights, by name: live (the embedded weights'), small, base, paper
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
    /// Fuse on a pyramid of L levels: the network sees 1/4 of the pixels for each level, the detail
    /// above is merged by its energy. 0 is the network on the whole picture, as in the paper; by
    /// default it is what the weights were trained for
    #[arg(long, value_name = "L")]
    pub pyramid: Option<usize>,
    /// Fuse in tiles of at most N pixels a side; by default only what memory is too small for
    #[arg(long, value_name = "N")]
    pub tile: Option<usize>,
    /// Stored values of the infrared picture that are black and white, such as 7000,9000 counts or
    /// 280,310 kelvin; by default they are found for each picture alone (--verbose says them)
    #[arg(long, value_name = "LOW,HIGH", value_parser = numbers, allow_hyphen_values = true)]
    pub infrared_range: Option<(f64, f64)>,
    /// Take the infrared picture's values at these two percentiles as black and white, such as 1,99
    #[arg(long, value_name = "LOW,HIGH", value_parser = numbers, conflicts_with = "infrared_range")]
    pub infrared_percentiles: Option<(f64, f64)>,
    /// Stored values of the visible picture that are black and white
    #[arg(long, value_name = "LOW,HIGH", value_parser = numbers, allow_hyphen_values = true)]
    pub visible_range: Option<(f64, f64)>,
    /// Resize infrared pictures of another size than the visible ones; both must show the same view
    #[arg(long)]
    pub resize_infrared: bool,
    /// Say of each picture its size, its type and which stored values are black and white
    #[arg(long)]
    pub verbose: bool,
    /// Spread each fused luma so that the values at these two percentiles (0 to 100, nearest rank)
    /// become black and white, such as 0.5,99.5; by default it stays as the network gives it
    #[arg(long, value_name = "LOW,HIGH", value_parser = numbers)]
    pub stretch: Option<(f64, f64)>,
    /// cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: String,
    /// Element type to compute in: f32, on a GPU also f16 or bf16
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    pub dtype: String,
    /// Threads to use, at most as many as the machine has; all by default
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

fn numbers(text: &str) -> std::result::Result<(f64, f64), String> {
    let number = |text: &str| text.trim().parse().ok();
    let both = text.split_once(',').and_then(|(low, high)| number(low).zip(number(high)));
    both.ok_or_else(|| "needs LOW,HIGH, such as 0.5,99.5".to_owned())
}

impl Args {
    /// Which stored values of one side are black and white.
    fn normalize(&self, side: Side) -> Normalize {
        let (range, percentiles) = match side {
            Side::Visible => (self.visible_range, None),
            Side::Infrared => (self.infrared_range, self.infrared_percentiles),
        };
        match (range, percentiles) {
            (Some((low, high)), _) => Normalize::Range { low, high },
            (_, Some((low, high))) => Normalize::Percentile { low, high },
            _ => Normalize::Auto,
        }
    }
}

/// A pair that could not be fused.
#[derive(Debug)]
pub struct Failed {
    /// The pair's name.
    pub pair: String,
    /// Why.
    pub error: anyhow::Error,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:#}", self.pair, self.error)
    }
}

/// What is done once the network is there.
type Work<'a> = Box<dyn FnOnce(&Isfm) -> Result<Vec<Failed>> + 'a>;

/// Does what the arguments ask. Pairs of a folder that fail are returned, the others are done.
pub fn run(args: &Args) -> Result<Vec<Failed>> {
    let voice = Voice::beside(args.output.as_deref());
    // What can be refused is, before the work.
    let work: Work<'_> = match (&args.visible, &args.infrared, &args.output) {
        (Some(visible), Some(infrared), Some(output)) => {
            match (visible.is_dir(), infrared.is_dir()) {
                (true, true) => {
                    let found = Pairing::find(visible, infrared)?;
                    if is_either(output, visible, infrared) {
                        bail!(
                            "{} is an input folder: its pictures would be overwritten",
                            output.display()
                        );
                    }
                    let format = args.format.unwrap_or(PictureFormat::PNG);
                    Box::new(move |isfm| {
                        folders(args, isfm, found, [visible, infrared], output, format, voice)
                    })
                }
                (false, false) => {
                    let format = format_of(args, output)?;
                    Box::new(move |isfm| {
                        voice
                            .say(fuse_files(args, isfm, visible, infrared, output, format, voice)?);
                        Ok(Vec::new())
                    })
                }
                (first, _) => {
                    let (folder, file) =
                        if first { (visible, infrared) } else { (infrared, visible) };
                    bail!(
                        "{} is a folder, but {} is none: give two files or two folders",
                        folder.display(),
                        file.display()
                    );
                }
            }
        }
        (None, None, output) => {
            let output = output.as_deref().unwrap_or(Path::new("out"));
            if output.exists() && !output.is_dir() {
                bail!("{} is no folder: a painted pair needs one", output.display());
            }
            let format = args.format.unwrap_or(PictureFormat::PNG);
            Box::new(move |isfm| painted(isfm, output, format, voice))
        }
        _ => bail!("--visible, --infrared and --output go together"),
    };
    let isfm = network(args)?;
    if let Some((low, high)) = args.stretch {
        voice
            .say(format_args!("each fused luma is spread from its {low} to its {high} percentile"));
    }
    work(&isfm)
}

/// What a single picture is written as.
fn format_of(args: &Args, output: &Path) -> Result<PictureFormat> {
    if output.is_dir() {
        bail!("{} is a folder: name the picture to write", output.display());
    }
    Ok(match args.format {
        Some(format) => format,
        None if is_stream(output) => PictureFormat::of(output).unwrap_or(PictureFormat::PNG),
        None => PictureFormat::of(output)?,
    })
}

fn network(args: &Args) -> Result<Isfm> {
    let dtype = match args.dtype.as_str() {
        "f32" => DType::F32,
        "f16" => DType::F16,
        "bf16" => DType::BF16,
        other => bail!("element type {other:?} is none of f32, f16, bf16"),
    };
    let mut builder = Isfm::builder()
        .device(device(&args.device)?)
        .dtype(dtype)
        .normalize_visible(args.normalize(Side::Visible))
        .normalize_infrared(args.normalize(Side::Infrared))
        .resize_infrared(args.resize_infrared);
    if let Some(path) = &args.config {
        builder = builder.config(Config::read(path)?);
    } else if let Some(name) = &args.preset {
        builder = builder.config(name.parse::<Preset>()?.into());
    }
    if let Some(path) = &args.weights {
        builder = builder.weights(path);
    }
    if let Some(levels) = args.pyramid {
        builder = builder.pyramid(levels);
    }
    if let Some(edge) = args.tile {
        builder = builder.tiling(Tiling::Edge(edge));
    }
    if let Some((low, high)) = args.stretch {
        builder = builder.stretch(low, high);
    }
    if let Some(threads) = threads(args.threads)? {
        builder = builder.threads(threads);
    }
    Ok(builder.build()?)
}

/// Fuses two files into a third, and says what was done.
fn fuse_files(
    args: &Args,
    isfm: &Isfm,
    visible: &Path,
    infrared: &Path,
    output: &Path,
    format: PictureFormat,
    voice: Voice,
) -> Result<String> {
    if is_either(output, visible, infrared) {
        bail!("{} is an input: it would be overwritten", output.display());
    }
    let visible_image = read(args, visible, Side::Visible, voice)?;
    let infrared_image = read(args, infrared, Side::Infrared, voice)?;
    let start = Instant::now();
    let fused = isfm
        .fuse(&visible_image, &infrared_image)
        .with_context(|| format!("{} and {}", visible.display(), infrared.display()))?;
    let took = start.elapsed().as_secs_f64();
    isfm::write_image_as(&fused, output, format)?;
    let (width, height) = (fused.width(), fused.height());
    Ok(format!("{} ({width}x{height}, fused in {took:.2} s)", output.display()))
}

/// Reads a picture and says what there is to say of it.
fn read(args: &Args, path: &Path, side: Side, voice: Voice) -> Result<DynamicImage> {
    let Picture { image, notes, .. } = Picture::read(path, side)?;
    for note in notes {
        eprintln!("{}: {note}", path.display());
    }
    if args.verbose {
        let range = args.normalize(side).range_of(&image, side);
        let (low, high) = range.with_context(|| path.display().to_string())?;
        let (width, height) = (image.width(), image.height());
        let kind = image.color();
        voice.say(format_args!(
            "{}: {side}, {width}x{height} {kind:?}, black is {low}, white {high}",
            path.display()
        ));
    }
    Ok(image)
}

fn is_either(path: &Path, visible: &Path, infrared: &Path) -> bool {
    let is = |path: &Path, other: &Path| other.canonicalize().is_ok_and(|other| other == path);
    path.canonicalize().is_ok_and(|path| is(&path, visible) || is(&path, infrared))
}

fn folders(
    args: &Args,
    isfm: &Isfm,
    found: Pairing,
    [visible, infrared]: [&Path; 2],
    output: &Path,
    format: PictureFormat,
    voice: Voice,
) -> Result<Vec<Failed>> {
    std::fs::create_dir_all(output)
        .with_context(|| format!("cannot make the folder {}", output.display()))?;
    let start = Instant::now();
    let bar = ProgressBar::new(found.pairs.len() as u64);
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} ({eta} left)")?);
    let mut failed = Vec::new();
    for pair in &found.pairs {
        bar.set_message(pair.name.clone());
        let to = output.join(format!("{}.{format}", pair.name));
        if let Err(error) =
            fuse_files(args, isfm, &pair.visible, &pair.infrared, &to, format, voice)
        {
            failed.push(Failed { pair: pair.name.clone(), error });
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let (all, took) = (found.pairs.len(), start.elapsed().as_secs_f64());
    let fused = all - failed.len();
    voice
        .say(format_args!("fused {fused} of {all} pairs into {} in {took:.1} s", output.display()));
    let alone = [found.visible_alone, found.infrared_alone].concat();
    voice.list("pictures have no partner", &alone);
    voice.skipped([(visible, found.skipped[0]), (infrared, found.skipped[1])]);
    failed.extend(found.ambiguous.into_iter().map(|ambiguous| Failed {
        pair: ambiguous.name().to_owned(),
        error: anyhow!("{ambiguous}"),
    }));
    Ok(failed)
}

/// Paints a pair, fuses it, and writes the three pictures and a sheet of them.
fn painted(isfm: &Isfm, output: &Path, format: PictureFormat, voice: Voice) -> Result<Vec<Failed>> {
    let (visible, infrared) = paint::night_road();
    let (visible, infrared) = (visible.into(), infrared.into());
    let start = Instant::now();
    let fused = isfm.fuse(&visible, &infrared)?;
    let (took, width, height) = (start.elapsed().as_secs_f64(), fused.width(), fused.height());
    voice.say(format_args!("painted a night road and fused it ({width}x{height}) in {took:.2} s:"));
    let sheet = sheet::side_by_side(&[
        ("VISIBLE", &visible.to_rgb8()),
        ("INFRARED", &infrared.to_rgb8()),
        ("FUSED", &fused.to_rgb8()),
    ]);
    let pictures =
        [("visible", visible), ("infrared", infrared), ("fused", fused), ("sheet", sheet.into())];
    for (name, picture) in pictures {
        let path = output.join(format!("{name}.{format}"));
        isfm::write_image_as(&picture, &path, format)?;
        voice.say(format_args!("  {}", path.display()));
    }
    Ok(Vec::new())
}
