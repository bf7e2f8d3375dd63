//! `isfm fuse`: a pair, folders of pairs, or a list of them.

pub mod manifest;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use image::DynamicImage;
use isfm::{Alignment, Config, Isfm, Normalize, Picture, PictureFormat, Preset, Side, Tiling};
use isfm_files::is_stream;
use isfm_files::pairs::Pair;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::align::{AlignArgs, crop, size, sizes};
use crate::options::{DeviceName, ElementType, low_high, preset, threads};
use crate::pairs::{Found, PairArgs};
use crate::{Console, ConsoleArgs, Usage};

use manifest::{Manifest, Record, State};

/// Fuse pairs of an infrared and a visible picture.
///
/// Two files become a third. Of two folders, or a list, each pair's result is OUTPUT/NAME.png. A result is
/// written whole or not at all, also if the program is killed.
///
/// Pairs that cannot be fused, and pictures that could make a pair in several ways, are told at the end,
/// all others are done, and the exit code is 1.
#[derive(Parser, Debug)]
#[command(
    name = "fuse",
    after_help = "Examples:\n  \
        isfm fuse --visible v.png --infrared i.png -o fused.png\n  \
        isfm fuse --visible vi --infrared ir -o fused --manifest fused.jsonl --resume\n  \
        isfm fuse --list pairs.csv -o fused --shard 2/8"
)]
pub struct Args {
    /// What to fuse.
    #[command(flatten)]
    pub pairs: PairArgs,
    /// Where to: a picture (the extension says the format), a folder, or what is no file, such as
    /// /dev/stdout or a FIFO
    #[arg(short, long, value_name = "O")]
    pub output: PathBuf,
    /// Format of the result, by extension, such as tiff or jpg; by default the output's extension says
    /// it, and in folders and for /dev/stdout it is png
    #[arg(long, value_name = "EXT")]
    pub format: Option<PictureFormat>,
    /// Leave out the pairs whose result is there; results appear whole, so such a pair is done
    #[arg(long)]
    pub resume: bool,
    /// Write what became of each pair, as JSON lines: pair, state (fused, found, failed), output, error,
    /// milliseconds, the SHA-256 of the weights. With --shard, I-of-N becomes part of the name. With
    /// --resume the file is gone on with
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
    /// Pairs at the same time, so that some are read and written while another is in the network; by
    /// default one more than there are threads, up to 8. Those of one size go to a GPU as one tensor
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: Option<u16>,
    /// Weights, .safetensors or released .pth; the embedded ones if none are named
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
    /// Configuration of the weights, as JSON; without it the file itself tells
    #[arg(long, value_name = "FILE.json", conflicts_with = "preset")]
    pub config: Option<PathBuf>,
    /// Configuration of the weights, by name
    #[arg(long, value_name = "NAME", value_parser = preset())]
    pub preset: Option<Preset>,
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
    #[arg(long, value_name = "LOW,HIGH", value_parser = low_high, allow_hyphen_values = true)]
    pub infrared_range: Option<(f64, f64)>,
    /// Take the infrared picture's values at these two percentiles as black and white, such as 1,99
    #[arg(long, value_name = "LOW,HIGH", value_parser = low_high, conflicts_with = "infrared_range")]
    pub infrared_percentiles: Option<(f64, f64)>,
    /// Stored values of the visible picture that are black and white
    #[arg(long, value_name = "LOW,HIGH", value_parser = low_high, allow_hyphen_values = true)]
    pub visible_range: Option<(f64, f64)>,
    /// Resize infrared pictures of another size than the visible ones; both must show the same view
    #[arg(long, conflicts_with = "align")]
    pub resize_infrared: bool,
    /// Where infrared pictures lie.
    #[command(flatten)]
    pub align: AlignArgs,
    /// Spread each fused luma so that the values at these two percentiles (0 to 100, nearest rank)
    /// become black and white, such as 0.5,99.5; by default it stays as the network gives it
    #[arg(long, value_name = "LOW,HIGH", value_parser = low_high)]
    pub stretch: Option<(f64, f64)>,
    /// cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: DeviceName,
    /// Element type to compute in: f32, on a GPU also f16 or bf16
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    pub dtype: ElementType,
    /// Threads to use, at most as many as the machine has; all by default
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
    /// Say of each picture its size, its type and which stored values are black and white
    #[arg(short, long, conflicts_with = "quiet")]
    pub verbose: bool,
    /// What is said.
    #[command(flatten)]
    pub console: ConsoleArgs,
}

/// A pair that could not be used.
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

/// Does what the arguments ask. Pairs that fail are returned, the others are done.
pub fn run(args: &Args) -> Result<Vec<Failed>> {
    let console = Console::new(args.console, [args.output.as_path()]);
    // What can be refused is, before the work.
    let found = args.pairs.find()?;
    let format = args.format_of(&found).map_err(Usage::of)?;
    let jobs = args.jobs(&found);
    let alignment = args.align.read()?;
    let isfm = args.network(jobs, alignment)?;
    if let Some((low, high)) = args.stretch {
        let text =
            format_args!("each fused luma is spread from its {low} to its {high} percentile");
        console.say(text);
    }
    let fuser = Fuser { args, isfm, alignment, format, console };
    if found.single { fuser.files(&found.pairing.pairs[0]) } else { fuser.many(found, jobs) }
}

impl Args {
    /// What results are written as; and whether they can be.
    fn format_of(&self, found: &Found) -> Result<PictureFormat> {
        let output = &self.output;
        if !found.single {
            if self.pairs.is_input(output) {
                bail!("{} is an input folder: its pictures would be overwritten", output.display());
            }
            if output.exists() && !output.is_dir() {
                bail!("{} is no folder: results of many pairs need one", output.display());
            }
            return Ok(self.format.unwrap_or(PictureFormat::PNG));
        }
        if self.pairs.is_input(output) {
            bail!("{} is an input: it would be overwritten", output.display());
        }
        if output.is_dir() {
            bail!("{} is a folder: name the picture to write", output.display());
        }
        for (given, option) in [
            (self.resume, "--resume"),
            (self.manifest.is_some(), "--manifest"),
            (self.jobs.is_some(), "--jobs"),
        ] {
            if given {
                bail!("{option} is for folders and lists, and this is one pair of files");
            }
        }
        Ok(match self.format {
            Some(format) => format,
            None if is_stream(output) => PictureFormat::of(output).unwrap_or(PictureFormat::PNG),
            None => PictureFormat::of(output)?,
        })
    }

    fn jobs(&self, found: &Found) -> usize {
        let threads =
            self.threads.or_else(|| std::thread::available_parallelism().ok().map(usize::from));
        let jobs = self.jobs.map_or(threads.unwrap_or(1).saturating_add(1).min(8), usize::from);
        jobs.min(found.pairing.pairs.len()).max(1)
    }

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

    fn network(&self, jobs: usize, alignment: Option<Alignment>) -> Result<Isfm> {
        let mut builder = Isfm::builder()
            .device(self.device.open()?)
            .dtype(self.dtype.into())
            .batch(jobs)
            .normalize_visible(self.normalize(Side::Visible))
            .normalize_infrared(self.normalize(Side::Infrared))
            .resize_infrared(self.resize_infrared);
        if let Some(alignment) = alignment {
            builder = builder.alignment(alignment);
        }
        if let Some(path) = &self.config {
            builder = builder.config(Config::read(path).map_err(Usage::of)?);
        } else if let Some(preset) = self.preset {
            builder = builder.config(preset.into());
        }
        if let Some(path) = &self.weights {
            builder = builder.weights(path);
        }
        if let Some(levels) = self.pyramid {
            builder = builder.pyramid(levels);
        }
        if let Some(edge) = self.tile {
            builder = builder.tiling(Tiling::Edge(edge));
        }
        if let Some((low, high)) = self.stretch {
            builder = builder.stretch(low, high);
        }
        if let Some(threads) = self.threads {
            builder = builder.threads(threads);
        }
        // Pairs at the same time share what one would have.
        if jobs > 1
            && self.device == DeviceName::Cpu
            && let Some(bytes) = isfm::available_memory()
        {
            builder = builder.memory_limit(bytes / 2 / jobs);
        }
        builder.build().map_err(|error| match error {
            isfm::Error::Memory { .. } | isfm::Error::MemoryLimit { .. } => error.into(),
            error => Usage::of(error),
        })
    }

    /// The manifest's name, with the shard in it.
    fn manifest(&self) -> Option<PathBuf> {
        let path = self.manifest.as_ref()?;
        let Some(shard) = self.pairs.shard else { return Some(path.clone()) };
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let extension = path.extension().map(|e| format!(".{}", e.to_string_lossy()));
        Some(path.with_file_name(format!(
            "{stem}.{}{}",
            shard.label(),
            extension.unwrap_or_default()
        )))
    }

    /// The SHA-256 of the weights' file.
    fn hash_of_weights(&self) -> Result<String> {
        let hash = match &self.weights {
            Some(path) => {
                Sha256::digest(std::fs::read(path).with_context(|| path.display().to_string())?)
            }
            None => Sha256::digest(isfm::embedded_weights()),
        };
        Ok(hash.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// All that it takes to fuse a pair.
struct Fuser<'a> {
    args: &'a Args,
    isfm: Isfm,
    alignment: Option<Alignment>,
    format: PictureFormat,
    console: Console,
}

impl Fuser<'_> {
    /// One pair of files.
    fn files(&self, pair: &Pair) -> Result<Vec<Failed>> {
        let (size, seconds) = self.fuse(pair, &self.args.output)?;
        let (width, height) = size;
        let to = self.args.output.display();
        self.console.say(format_args!("{to} ({width}x{height}, fused in {seconds:.2} s)"));
        self.console.tell(&json!({
            "type": "pair", "pair": pair.name, "state": State::Fused, "output": self.args.output,
            "width": width, "height": height, "milliseconds": 1e3 * seconds,
        }));
        Ok(Vec::new())
    }

    /// Reads, fuses, writes; the result's size, and the seconds that the fusing alone took.
    fn fuse(&self, pair: &Pair, to: &Path) -> Result<((u32, u32), f64)> {
        let visible = self.read(&pair.visible, Side::Visible)?;
        let infrared = self.read(&pair.infrared, Side::Infrared)?;
        let start = Instant::now();
        let fused = self.isfm.fuse(&visible, &infrared).with_context(|| {
            format!("{} and {}", pair.visible.display(), pair.infrared.display())
        })?;
        let sizes = sizes(size(&visible), size(&infrared));
        let common = self.alignment.map(|a| self.args.align.common(&a, sizes)).transpose()?;
        let fused = match common.flatten() {
            Some(part) => crop(&fused, part),
            None => fused,
        };
        let seconds = start.elapsed().as_secs_f64();
        isfm::write_image_as(&fused, to, self.format)?;
        Ok(((fused.width(), fused.height()), seconds))
    }

    /// Reads a picture and says what there is to say of it.
    fn read(&self, path: &Path, side: Side) -> Result<DynamicImage> {
        let Picture { image, notes, .. } = Picture::read(path, side)?;
        for note in notes {
            self.console.note(format_args!("{}: {note}", path.display()));
        }
        if self.args.verbose {
            let range = self.args.normalize(side).range_of(&image, side);
            let (low, high) = range.with_context(|| path.display().to_string())?;
            let (width, height) = (image.width(), image.height());
            let kind = image.color();
            self.console.say(format_args!(
                "{}: {side}, {width}x{height} {kind:?}, black is {low}, white {high}",
                path.display()
            ));
        }
        Ok(image)
    }

    /// All pairs of folders or a list, some at the same time.
    fn many(&self, found: Found, jobs: usize) -> Result<Vec<Failed>> {
        let (args, console) = (self.args, self.console);
        let Found { pairing, all, .. } = found;
        let output = &args.output;
        std::fs::create_dir_all(output)
            .with_context(|| format!("cannot make the folder {}", output.display()))?;
        let weights = match (args.manifest(), args.console.json) {
            (None, false) => String::new(),
            _ => args.hash_of_weights()?,
        };
        let mut log = None;
        let mut known = Vec::new();
        if let Some(path) = args.manifest() {
            let (manifest, records) =
                Manifest::open(&path, args.resume, &weights).map_err(Usage::of)?;
            (log, known) = (Some(manifest), records);
        }
        let known = manifest::best(known);

        let start = Instant::now();
        let bar = console.bar(pairing.pairs.len(), "pairs");
        let mut tell = |record: &Record| -> Result<()> {
            if let Some(log) = &mut log {
                log.add(record)?;
            }
            let mut line = serde_json::to_value(record)?;
            line["type"] = "pair".into();
            console.tell(&line);
            Ok(())
        };
        let to = |pair: &Pair| output.join(format!("{}.{}", pair.name, self.format));
        let record = |pair: &Pair, state, error: Option<&anyhow::Error>, milliseconds| Record {
            pair: pair.name.clone(),
            state,
            output: error.is_none().then(|| to(pair)),
            error: error.map(|error| format!("{error:#}")),
            milliseconds,
            weights: weights.clone(),
        };
        let mut open = Vec::new();
        for pair in &pairing.pairs {
            if !(args.resume && to(pair).is_file()) {
                open.push(pair);
                continue;
            }
            bar.inc(1);
            if known.get(&pair.name).is_none_or(|known| known.state == State::Failed) {
                tell(&record(pair, State::Found, None, 0.))?;
            }
        }

        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let (sender, done) = mpsc::channel();
        let mut failed = Vec::new();
        std::thread::scope(|scope| -> Result<()> {
            for _ in 0..jobs {
                let (sender, next, stop, open, to) = (sender.clone(), &next, &stop, &open, &to);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(pair) = open.get(at) else { return };
                        let start = Instant::now();
                        let fused = self.unless_it_panics(pair, &to(pair));
                        // Nobody listens once the manifest cannot be written.
                        _ = sender.send((at, fused, 1e3 * start.elapsed().as_secs_f64()));
                    }
                });
            }
            drop(sender);
            for (at, fused, milliseconds) in done {
                let (pair, error) = (open[at], fused.err());
                let state = if error.is_none() { State::Fused } else { State::Failed };
                let told = tell(&record(pair, state, error.as_ref(), milliseconds));
                if told.is_err() {
                    stop.store(true, Ordering::Relaxed);
                    return told;
                }
                failed.extend(error.map(|error| (at, Failed { pair: pair.name.clone(), error })));
                bar.inc(1);
            }
            Ok(())
        })?;
        bar.finish_and_clear();
        failed.sort_by_key(|(at, _)| *at);
        let mut failed: Vec<Failed> = failed.into_iter().map(|(_, failed)| failed).collect();

        let (took, count, fused) =
            (start.elapsed().as_secs_f64(), pairing.pairs.len(), open.len() - failed.len());
        let there = match count - open.len() {
            0 => String::new(),
            there => format!(" ({there} more were there)"),
        };
        let share = if args.pairs.shard.is_some() { format!(" of {all}") } else { String::new() };
        console.say(format_args!(
            "fused {fused} of {count} pairs{share} into {} in {took:.1} s{there}",
            output.display()
        ));
        args.pairs.say_others(&pairing, console);
        for ambiguous in pairing.ambiguous {
            let pair = Pair { name: ambiguous.name().to_owned(), ..Pair::default() };
            let error = anyhow!("{ambiguous}");
            tell(&record(&pair, State::Failed, Some(&error), 0.))?;
            failed.push(Failed { pair: pair.name, error });
        }
        console.tell(&json!({
            "type": "summary", "pairs": count, "fused": fused, "found": count - open.len(),
            "failed": failed.len(), "seconds": took, "weights": weights,
        }));
        Ok(failed)
    }

    /// A pair whose decoder has a fault of its own does not end the others.
    fn unless_it_panics(&self, pair: &Pair, to: &Path) -> Result<()> {
        let fused = catch_unwind(AssertUnwindSafe(|| self.fuse(pair, to)));
        let fused = fused.unwrap_or_else(|_| Err(anyhow!("a fault of the program, told above")));
        fused.map(|_| ())
    }
}
