//! `isfm paper ablate`: Tables III to VI and Fig. 15, trained and scored.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use image::DynamicImage;
use isfm::{Isfm, Side};
use isfm_files::Pairing;
use isfm_files::pairs::Pair;
use isfm_metrics::{Metric, Plane, Scores, Triple};
use isfm_model::{Config, Directions, Preset, Table};
use isfm_train::{DataSet, Outcome, PairFolder, RunFile, RunOptions, TrainConfig, Trainer};
use serde::{Deserialize, Serialize};

use super::ModelArgs;
use super::series::{METRICS, Row, Series, Value};
use crate::evaluate::inputs::{luminance, read_source};
use crate::evaluate::report::Problem;
use crate::options::{on_threads, threads};
use crate::{Console, ConsoleArgs, Usage, stop_after_step, text_of};

/// Train and score the networks of the paper's ablations (Tables III to VI, Fig. 15).
///
/// Every row of a table is trained from the same seed on the same samples, then fuses and is scored on the
/// test pairs: EN, SF, AG, VIF, MI, Qabf and SCD as the paper's tables have them. A network that several
/// tables have is trained once. The paper's own numbers are of other pairs and far longer training: they
/// compare row with row, not with these.
///
/// A seed from which nothing can be learned (the fused picture lies outside of 0 to 1 all over) is named at the end,
/// and its row's means are over the others.
///
/// A run may be stopped at any moment, kill -9 included: the same command goes on where it was. In the output
/// folder each network has a folder of its own with a run of `isfm train` for each seed, and there are
/// `ablations.md`, `.tex` and `.csv`.
#[derive(Parser, Debug)]
#[command(
    name = "ablate",
    after_help = "Examples:\n  \
        isfm paper ablate --table III --data train --test test --steps 400 -o ablations\n  \
        isfm paper ablate --table III,IV,V,VI,K --data train --test test --steps 2000 --seeds 3 -o ablations"
)]
pub struct Args {
    /// Which tables: III, IV, V, VI, K (Fig. 15), directions, expand
    #[arg(long, value_name = "TABLES", value_delimiter = ',', required = true, value_parser = table)]
    pub table: Vec<Table>,
    /// The network whose modules are replaced; small by default.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Folder of pairs to train on, vi/NAME and ir/NAME, or with train/vi and train/ir
    #[arg(long, value_name = "DIR", required_unless_present = "run")]
    pub data: Option<PathBuf>,
    /// A run file (TOML or JSON) of settings and folders to train on, as `isfm train` takes; its model is
    /// the network whose modules are replaced
    #[arg(long, value_name = "FILE", conflicts_with_all = ["data", "preset", "config"])]
    pub run: Option<PathBuf>,
    /// Folder of pairs to score on, vi/NAME and ir/NAME
    #[arg(long, value_name = "DIR")]
    pub test: PathBuf,
    /// Folder of all results; goes on with what is there
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// Training steps of each network and seed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..1 << 32))]
    pub steps: u64,
    /// How many seeds each row is trained from: means and spreads are over them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub seeds: u64,
    /// Pairs per step [default: 4]
    #[arg(long, value_name = "N")]
    pub batch: Option<usize>,
    /// Side of the square samples [default: 128]
    #[arg(long, value_name = "N")]
    pub patch: Option<usize>,
    /// Highest learning rate [default: 1e-4]
    #[arg(long, value_name = "N")]
    pub lr: Option<f64>,
    /// Numbers to print below each table, such as the paper's own: CSV with the columns table, row, metric
    /// and mean, named as in `ablations.csv`
    #[arg(long, value_name = "FILE.csv")]
    pub paper: Option<PathBuf>,
    /// Threads to use, at most as many as the machine has; all by default
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
    /// What is said.
    #[command(flatten)]
    pub console: ConsoleArgs,
}

fn table(name: &str) -> Result<Table, isfm_model::Error> {
    name.parse()
}

/// What a trained network scored: `scores.json` in its folder.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Scored {
    model: Config,
    train: TrainConfig,
    /// The test pairs' names.
    pairs: Vec<String>,
    /// Means over the pairs, by the metrics' names.
    scores: BTreeMap<String, f64>,
    /// Seconds of training.
    seconds: f64,
}

/// One network, under the names that tables have for it.
struct Network {
    config: Config,
    /// Its folder's name.
    slug: String,
    name: String,
}

/// Does what the arguments ask. What could not be scored is returned.
///
/// # Errors
/// [`Usage`] if it cannot be begun.
pub fn run(args: &Args) -> Result<Vec<Problem>> {
    on_threads(args.threads, || ablate(args))
}

/// Settings that all networks have in common.
struct Plan {
    base: Config,
    train: TrainConfig,
    file: Option<RunFile>,
    pairs: Vec<Pair>,
    /// Of `--paper`: table, row, metric and value.
    paper: Vec<(Table, String, Metric, f64)>,
}

impl Plan {
    fn of(args: &Args) -> Result<Self> {
        let file = args.run.as_ref().map(RunFile::read).transpose()?;
        let model = file.as_ref().and_then(|file| file.model.clone());
        let base = model.map_or_else(|| args.model.read(Preset::Small), Ok)?;
        base.validate()?;
        let mut train = file.as_ref().map_or_else(TrainConfig::default, |file| file.train.clone());
        train.steps = Some(usize::try_from(args.steps)?);
        train.batch = args.batch.unwrap_or(train.batch);
        train.patch = args.patch.unwrap_or(train.patch);
        if let Some(peak) = args.lr {
            train.schedule.peak = peak;
        }
        train.validate()?;
        let [visible, infrared] = ["vi", "ir"].map(|side| args.test.join(side));
        let found = Pairing::find(&visible, &infrared).with_context(|| {
            format!("--test {}: needs folders vi and ir of pairs", args.test.display())
        })?;
        let mut pairs = found.pairs;
        ensure!(!pairs.is_empty(), "--test {} has no pairs", args.test.display());
        pairs.sort_by(|a, b| a.name.cmp(&b.name));
        let paper =
            args.paper.as_deref().map_or_else(|| Ok(Vec::new()), |path| paper(path, &base))?;
        Ok(Self { base, train, file, pairs, paper })
    }

    fn data(&self, args: &Args) -> Result<DataSet> {
        const CACHE: usize = 1 << 30;
        match (&args.data, &self.file) {
            (Some(folder), _) => Ok(PairFolder::open(folder)?.cache_bytes(CACHE).into()),
            (None, Some(file)) => Ok(file.open_data(CACHE)?),
            (None, None) => bail!("needs --data, or --run with a section [[data]]"),
        }
    }
}

fn ablate(args: &Args) -> Result<Vec<Problem>> {
    let console = Console::new(args.console, []);
    let plan = Plan::of(args).map_err(Usage::of)?;
    // Told before the first network is trained.
    plan.data(args).map_err(Usage::of)?;
    let mut networks: Vec<Network> = Vec::new();
    for row in args.table.iter().flat_map(|table| table.rows(&plan.base)) {
        if !networks.iter().any(|network| network.config == row.config) {
            row.config.validate().map_err(Usage::of)?;
            let slug = slug(&row.config);
            networks.push(Network { config: row.config, slug, name: row.name });
        }
    }
    let stop = stop_after_step(true)?;

    let seeds = 0..args.seeds;
    let runs: Vec<_> = seeds.flat_map(|seed| networks.iter().map(move |n| (n, seed))).collect();
    let (mut problems, mut took) = (Vec::new(), Vec::new());
    let mut scores: BTreeMap<(&str, u64), BTreeMap<String, f64>> = BTreeMap::new();
    for (at, &(network, seed)) in runs.iter().enumerate() {
        let dir = args.output.join(&network.slug).join(format!("seed-{seed}"));
        let start = Instant::now();
        let left = match took.len() {
            0 => String::new(),
            n => {
                let mean = took.iter().sum::<Duration>() / n as u32;
                format!(", {} min left", (mean * (runs.len() - at) as u32).as_secs().div_ceil(60))
            }
        };
        let what = format!("{} of {}: {}, seed {seed}{left}", at + 1, runs.len(), network.name);
        match one(args, &plan, network, seed, &dir, &stop, || console.note(&what)) {
            Ok(Some((scored, fresh))) => {
                scores.insert((network.slug.as_str(), seed), scored.scores);
                if fresh {
                    took.push(start.elapsed());
                }
            }
            Ok(None) => {
                console.note("stopped; the same command goes on");
                break;
            }
            // A network that cannot be trained does not take the others with it.
            Err(error) if !error.is::<Usage>() => problems.push(Problem {
                pair: format!("{}, seed {seed}", network.name),
                method: None,
                why: format!("{error:#}"),
            }),
            Err(error) => return Err(error),
        }
    }

    let mut all = Vec::new();
    for &table in &args.table {
        all.push(series(table, &plan, &scores, args.seeds));
        all.extend(published(table, &plan));
    }
    let note = format!(
        "{} steps of {} pairs of {}x{}, {} seed{}; {} test pairs. The paper's numbers are of other pairs and \
         longer training.\n",
        args.steps,
        plan.train.batch,
        plan.train.patch,
        plan.train.patch,
        args.seeds,
        if args.seeds == 1 { "" } else { "s" },
        plan.pairs.len()
    );
    for series in &all {
        console.say(series.text());
    }
    console.say(format_args!("¹ best, ² second best; {}", note.trim_end()));
    let joined = |one: fn(&Series) -> String| all.iter().map(one).collect::<Vec<_>>().join("\n");
    let markdown = format!("{}\n{note}", joined(Series::markdown));
    console.write(&args.output.join("ablations.md"), markdown.as_bytes())?;
    console.write(&args.output.join("ablations.tex"), joined(Series::latex).as_bytes())?;
    console.write(&args.output.join("ablations.csv"), &Series::csv(&all)?)?;
    Ok(problems)
}

fn series(
    table: Table,
    plan: &Plan,
    scores: &BTreeMap<(&str, u64), BTreeMap<String, f64>>,
    seeds: u64,
) -> Series {
    let rows = table.rows(&plan.base).into_iter().map(|row| {
        let slug = slug(&row.config);
        let trained = scores.keys().filter(|(of, _)| *of == slug).count() as u64;
        let name = match trained == seeds {
            true => row.name,
            false => format!("{} ({trained} of {seeds} seeds)", row.name),
        };
        let value = |metric: &Metric| {
            let own = scores.iter().filter(|((of, _), _)| *of == slug);
            let values: Vec<f64> =
                own.filter_map(|(_, all)| all.get(metric.name()).copied()).collect();
            Value::of(&values)
        };
        Row { name, values: METRICS.iter().map(value).collect() }
    });
    Series { title: table.title().to_owned(), rows: rows.collect() }
}

/// What `--paper` has of a table.
fn published(table: Table, plan: &Plan) -> Option<Series> {
    let own: Vec<_> = plan.paper.iter().filter(|(of, ..)| *of == table).collect();
    let rows = table.rows(&plan.base).into_iter().map(|row| {
        let value = |metric: &Metric| {
            let found = own.iter().find(|(_, name, of, _)| (name, of) == (&row.name, metric));
            found.map(|&&(.., mean)| Value { mean, spread: None })
        };
        let values = METRICS.iter().map(value).collect();
        Row { name: row.name, values }
    });
    let title = format!("{}, as published", table.title());
    (!own.is_empty()).then(|| Series { title, rows: rows.collect() })
}

fn paper(path: &Path, base: &Config) -> Result<Vec<(Table, String, Metric, f64)>> {
    let told = path.display();
    let text = text_of(path)?;
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let heads = reader.headers().with_context(|| told.to_string())?.clone();
    let column = |name: &str| {
        let found = heads.iter().position(|head| head.trim() == name);
        found.with_context(|| format!("{told}: needs the columns table, row, metric and mean"))
    };
    let columns = [column("table")?, column("row")?, column("metric")?, column("mean")?];
    let mut all = Vec::new();
    for (at, record) in reader.records().enumerate() {
        let record = record.with_context(|| told.to_string())?;
        let [table, row, metric, mean] = columns.map(|at| record.get(at).unwrap_or("").trim());
        let one = || {
            let named = |of: &&Table| of.title() == table || of.name().eq_ignore_ascii_case(table);
            let table = Table::ALL.iter().find(named).context("no such table")?;
            ensure!(table.rows(base).iter().any(|of| of.name == row), "{table} has no row {row:?}");
            let named = |of: &&Metric| of.name().eq_ignore_ascii_case(metric);
            let metric = METRICS.iter().find(named).context("no metric of these tables")?;
            let mean: f64 =
                mean.parse().ok().filter(|v: &f64| v.is_finite()).context("no number")?;
            Ok::<_, anyhow::Error>((*table, row.to_owned(), *metric, mean))
        };
        all.push(one().with_context(|| format!("{told}, line {}", at + 2))?);
    }
    ensure!(!all.is_empty(), "{told} has no numbers");
    Ok(all)
}

/// A network's folder: what tells it from the others of the tables.
fn slug(config: &Config) -> String {
    let modules = &config.modules;
    // As configurations name them.
    let name = |value: serde_json::Result<serde_json::Value>| {
        value.ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
    };
    let spatial = name(serde_json::to_value(modules.spatial));
    let directions = match modules.directions {
        Directions::All => String::new(),
        some => format!("-{}", name(serde_json::to_value(some))),
    };
    let without = |is: bool, name| if is { "" } else { name };
    format!(
        "{spatial}{}{}{}{directions}-k{}-e{}",
        without(modules.frequency, "-no-frequency"),
        without(modules.lffb, "-low-sum"),
        without(modules.hffb, "-high-sum"),
        config.layers(),
        config.expand
    )
}

/// The scores of one network and seed, and whether they are new; none if it was stopped. `begin` is called
/// before it is trained.
fn one(
    args: &Args,
    plan: &Plan,
    network: &Network,
    seed: u64,
    dir: &Path,
    stop: &Arc<AtomicBool>,
    begin: impl Fn(),
) -> Result<Option<(Scored, bool)>> {
    let train = TrainConfig { seed, ..plan.train.clone() };
    let names: Vec<String> = plan.pairs.iter().map(|pair| pair.name.clone()).collect();
    let path = dir.join("scores.json");
    if path.exists() {
        let stored: Scored = serde_json::from_str(&text_of(&path)?)
            .with_context(|| format!("{}: not what this program writes", path.display()))?;
        let same = (&stored.model, &stored.train) == (&network.config, &train);
        if !same || stored.pairs != names {
            let what = if same { "other test pairs" } else { "other settings" };
            return Err(Usage::of(anyhow::anyhow!(
                "{} is of {what}: give another --output",
                path.display()
            )));
        }
        return Ok(Some((stored, false)));
    }
    begin();
    let builder = Trainer::builder(network.config.clone(), plan.data(args)?).config(train.clone());
    let mut trainer = match dir.join("last.safetensors").exists() {
        true => builder.resume(dir).map_err(Usage::of)?,
        false => builder.create(dir)?,
    };
    let options = RunOptions {
        checkpoint_every: Duration::from_secs(60),
        stop: Some(stop.clone()),
        progress: !args.console.quiet,
        ..RunOptions::default()
    };
    if let Outcome::Stopped = trainer.run(&options)? {
        return Ok(None);
    }
    let seconds = trainer.seconds();
    drop(trainer);
    let isfm = Isfm::load(dir.join("weights.safetensors"))?;
    let scores = plan
        .pairs
        .iter()
        .map(|pair| score(&isfm, pair).with_context(|| format!("the test pair {}", pair.name)));
    let scores = scores.collect::<Result<Vec<_>>>()?;
    let mean = Scores::mean(&scores).context("no test pairs")?;
    let value = |metric: &Metric| Some((metric.name().to_owned(), mean.get(*metric)?));
    let scores = METRICS.iter().filter_map(value).collect();
    let model = network.config.clone();
    let scored = Scored { model, train, pairs: names, scores, seconds };
    let text = serde_json::to_string_pretty(&scored)? + "\n";
    isfm_files::write_atomically(&path, |file| std::io::Write::write_all(file, text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Some((scored, true)))
}

/// The scores of a pair as the paper's tables have them: of luminance in 8 bits.
fn score(isfm: &Isfm, pair: &Pair) -> Result<Scores> {
    let visible = luminance(&read_source(&pair.visible, Side::Visible)?);
    let infrared = luminance(&read_source(&pair.infrared, Side::Infrared)?);
    let [visible, infrared] = [visible, infrared].map(DynamicImage::from);
    let fused = isfm.fuse(&visible, &infrared)?;
    let planes = [&visible, &infrared, &fused].map(luminance);
    let plane = |at: usize| {
        let image: &image::GrayImage = &planes[at];
        Plane::new(image, image.width() as usize, image.height() as usize)
    };
    let triple = Triple::new(plane(0)?, plane(1)?, plane(2)?)?;
    Ok(Scores::evaluate_only(&triple, METRICS))
}
