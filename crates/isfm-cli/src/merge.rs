//! `isfm merge`: what several processes did, as one.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::evaluate::report::{PairReport, Report};
use crate::evaluate::{Outputs, stored};
use crate::fuse::manifest::{self, Record, State};
use crate::pairs::PairArgs;
use crate::{Console, ConsoleArgs, Usage};

/// Put the manifests or the scores of shards together.
///
/// Of manifests (`isfm fuse --manifest`, .jsonl) the union is written to OUTPUT, a line for each pair, by
/// name: the best that became of it. Of scores (`isfm evaluate --json`, .json) it is what one process would
/// have written, means and ranks included.
///
/// What failed in a shard is told at the end, and the exit code is 1. So is a shard that is missing, by the
/// names of manifests (NAME.2-of-3.jsonl), and, if folders or a list are named, a pair that is in none.
#[derive(Parser, Debug)]
#[command(
    name = "merge",
    after_help = "Examples:\n  \
        isfm merge fused.*-of-8.jsonl -o fused.jsonl --visible vi --infrared ir\n  \
        isfm merge scores-1.json scores-2.json --json scores.json --csv scores.csv\n  \
        isfm merge scores-*.json --latex table.tex --xlsx scores.xlsx --intervals --against"
)]
pub struct Args {
    /// Manifests, or files of scores
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Where the manifest goes
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["json", "csv", "means", "latex", "xlsx", "html", "plots"])]
    pub output: Option<PathBuf>,
    /// The pairs that there should be.
    #[command(flatten)]
    pub pairs: PairArgs,
    /// What becomes of the scores.
    #[command(flatten)]
    pub outputs: Outputs,
}

/// Does what the arguments ask. What failed or is missing is returned.
pub fn run(args: &Args) -> Result<Vec<String>> {
    let named = args.pairs.visible.is_some() || args.pairs.list.is_some();
    let mut wanted = BTreeSet::new();
    if named {
        wanted.extend(args.pairs.find()?.pairing.pairs.into_iter().map(|pair| pair.name));
    }
    let is_manifest = |path: &PathBuf| path.extension().is_some_and(|e| e == "jsonl");
    let (merged, failed) = match args.files.iter().filter(|path| is_manifest(path)).count() {
        0 => scores(args)?,
        count if count == args.files.len() => manifests(args)?,
        _ => {
            let told = "manifests (.jsonl) and scores (.json) cannot be put together";
            return Err(Usage::of(anyhow::anyhow!(told)));
        }
    };
    let missing = wanted.into_iter().filter(|name| !merged.contains(name));
    let missing = missing.map(|name| format!("{name}: it is in none of the files"));
    Ok(missing_shards(&args.files).into_iter().chain(failed).chain(missing).collect())
}

/// The pairs that are there, and what failed.
type Merged = (BTreeSet<String>, Vec<String>);

fn manifests(args: &Args) -> Result<Merged> {
    if args.outputs.any() {
        let told = "manifests (.jsonl) go to --output; the other outputs are for scores (.json)";
        return Err(Usage::of(anyhow::anyhow!(told)));
    }
    let mut records = Vec::<Record>::new();
    for path in &args.files {
        let more = manifest::read(path).map_err(Usage::of)?;
        if let (Some(first), Some(other)) = (records.first(), more.first())
            && first.weights != other.weights
        {
            let told = anyhow::anyhow!(
                "{} is of other weights than {}: {} and {}",
                path.display(),
                args.files[0].display(),
                other.weights,
                first.weights
            );
            return Err(Usage::of(told));
        }
        records.extend(more);
    }
    let best = manifest::best(records);
    let outputs = args.output.as_deref();
    let console = Console::new(ConsoleArgs { quiet: args.outputs.quiet, json: false }, outputs);
    let count = |state| best.values().filter(|record| record.state == state).count();
    let (fused, found) = (count(State::Fused), count(State::Found));
    let failed = count(State::Failed);
    if let Some(path) = outputs {
        isfm_files::write_atomically(path, |file| -> Result<()> {
            for record in best.values() {
                writeln!(file, "{}", serde_json::to_string(record)?)?;
            }
            Ok(())
        })
        .with_context(|| format!("cannot write {}", path.display()))?;
        console.say(path.display());
    }
    let files = args.files.len();
    console.say(format_args!(
        "{} pairs in {files} manifests: {fused} fused, {found} found, {failed} failed",
        best.len()
    ));
    let failures = best.values().filter(|record| record.state == State::Failed);
    let failures = failures
        .map(|record| format!("{}: {}", record.pair, record.error.as_deref().unwrap_or("failed")));
    let failures = failures.collect();
    Ok((best.into_keys().collect(), failures))
}

fn scores(args: &Args) -> Result<Merged> {
    let console = args.outputs.console(&[])?;
    if args.output.is_some() {
        let told =
            "scores go to --json, --csv, --xlsx and so on; --output is for manifests (.jsonl)";
        return Err(Usage::of(anyhow::anyhow!(told)));
    }
    let mut report = union(&args.files).map_err(Usage::of)?;
    let methods: Vec<&str> = report.methods.iter().map(|method| method.name.as_str()).collect();
    let known: HashSet<&str> = report.pairs.iter().map(|pair| pair.name.as_str()).collect();
    let plan = args.outputs.analysis.plan(&methods, &known, false)?;
    args.outputs.write(&mut report, &plan, console)?;
    let pairs: BTreeSet<String> = report.pairs.iter().map(|pair| pair.name.clone()).collect();
    console.say(format_args!("{} pairs in {} files", pairs.len(), args.files.len()));
    Ok((pairs, report.problems().iter().map(ToString::to_string).collect()))
}

/// The pairs of all files, by name; one that is in two must be the same in both.
fn union(files: &[PathBuf]) -> Result<Report> {
    let mut pairs = BTreeMap::<String, (PairReport, &Path)>::new();
    let mut first: Option<(Vec<String>, Report)> = None;
    for path in files {
        let of = || path.display().to_string();
        let text = crate::text_of(path)?;
        let mut report = stored::read(&text).with_context(of)?;
        let names: Vec<String> = report.methods.iter().map(|m| m.name.clone()).collect();
        let own = std::mem::take(&mut report.pairs);
        match &first {
            Some((known, other)) if *known != names || other.metrics != report.metrics => bail!(
                "{} has other methods or metrics than {}: {} and {}",
                path.display(),
                files[0].display(),
                names.join(", "),
                known.join(", ")
            ),
            Some((_, other)) if other.convention != report.convention => bail!(
                "{} is by the convention {}, {} by {}",
                path.display(),
                report.convention,
                files[0].display(),
                other.convention
            ),
            Some(_) => {}
            None => first = Some((names, report)),
        }
        for pair in own {
            if let Some((known, before)) = pairs.get(&pair.name) {
                if *known != pair {
                    bail!(
                        "{} has other values in {} than in {}",
                        pair.name,
                        path.display(),
                        before.display()
                    );
                }
                continue;
            }
            pairs.insert(pair.name.clone(), (pair, path));
        }
    }
    let (names, first) = first.context("no file")?;
    let pairs = pairs.into_values().map(|(pair, _)| pair).collect();
    let mut report = Report::new(names, pairs, first.metrics);
    report.convention = first.convention;
    Ok(report)
}

/// Which shards' manifests are not among the files, by names such as `a.2-of-3.jsonl`.
fn missing_shards(files: &[PathBuf]) -> Vec<String> {
    let mut sets = HashMap::<(String, u64), BTreeSet<u64>>::new();
    for path in files {
        let place = |path: &Path| {
            let stem = path.file_stem()?.to_str()?;
            let (name, place) = stem.rsplit_once('.')?;
            let (index, count) = place.split_once("-of-")?;
            let name = path.with_file_name(name).display().to_string();
            Some(((name, count.parse().ok()?), index.parse().ok()?))
        };
        if let Some((set, index)) = place(path) {
            sets.entry(set).or_default().insert(index);
        }
    }
    let mut missing = Vec::new();
    for ((name, count), there) in sets {
        for index in (1..=count).filter(|index| !there.contains(index)).take(1000) {
            missing.push(format!("{name}: shard {index} of {count} is not among the files"));
        }
    }
    missing.sort();
    missing
}
