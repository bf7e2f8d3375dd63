//! The `evaluate` program: scores of fused pictures as a table, a page and files.

mod export;
pub mod inputs;
pub mod laplacian;
mod page;
pub mod pictures;
mod plot;
pub mod report;
pub mod table;

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;

use isfm_files::Pairing;
use isfm_metrics::Metric;

use crate::Voice;
use crate::device::threads;

use inputs::{Baseline, Source};
use report::{Problem, Report};

/// Score fused pictures against the pairs they were made of.
///
/// Pictures of one name in the folders of --visible and --infrared are pairs, whole names first, then
/// names without extension.
/// A method's result for the pair NAME is NAME or VIF_NAME, with any extension. Colour is scored by
/// its luminance, .299 R + .587 G + .114 B rounded to 8 bits; deeper pictures are brought to 8 bits
/// first. JPEG is decoded bit for bit as libjpeg-turbo does, which Python's programs read with.
///
/// The table has each method's means over all pairs: ¹ marks the best, ² the second best. Avg. rank
/// is the mean of a method's places over EN, SF, AG, VIF, MI, Qabf and SCD. A method that lacks
/// pictures is shown with the mean of those it has, and takes no part in ranks and marks.
///
/// What is missing, of the wrong size or unreadable is told at the end, all else is done, and the
/// exit code is 1.
#[derive(Parser, Debug)]
#[command(
    name = "evaluate",
    after_help = "Example:\n  evaluate --visible test/vi --infrared test/ir --fused ISFM=out \
                  --fused Rival=rival --baseline average,max --html scores.html"
)]
pub struct Args {
    /// Folder of visible pictures (PET, SPECT or CT of medical pairs)
    #[arg(long, value_name = "DIR")]
    pub visible: PathBuf,
    /// Folder of infrared pictures (MRI of medical pairs)
    #[arg(long, value_name = "DIR")]
    pub infrared: PathBuf,
    /// A method's name and the folder of its results; once for each method
    #[arg(long, value_name = "NAME=DIR", value_parser = named_folder, required_unless_present = "baseline")]
    pub fused: Vec<(String, PathBuf)>,
    /// Also score what is made of each pair's luminance on the spot: `average` (halves to even, as
    /// NumPy rounds), `max` and `laplacian`, or `laplacian:L` with L from 1 to 8 instead of 2
    ///
    /// laplacian is a pyramid of L levels (5-tap binomial, OpenCV's pyrDown and pyrUp with their
    /// default borders): the larger base, and at each place of each level the detail whose mean
    /// square over 5×5 places (mirrored at the borders) is larger, of equal ones the visible
    /// picture's; the sum rounded to 8 bits, halves to even, and clamped. Its name is LaplacianL.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub baseline: Vec<Baseline>,
    /// Write means and every picture's values as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write every picture's values as CSV, a row for each picture and method
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write a page of tables, distributions and all pictures, in one file that needs no network
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Metrics to show, by their names in the tables, or `all` that isfm-metrics has, of which FMI
    /// and Qp take a hundred times as long as the rest [default:
    /// EN,SD,SF,AG,MI,SCD,VIF,Qabf,SSIM,CC,MSE,PSNR]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = metrics)]
    pub metrics: Vec<&'static [Metric]>,
    /// Threads to use, at most as many as the machine has; all by default
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

/// How many metrics are shown by default, the first of the tables: those of the ISFM authors'
/// evaluation, nine of which they print.
pub const DEFAULT: usize = 12;

/// What one name stands for.
fn metrics(name: &str) -> std::result::Result<&'static [Metric], String> {
    if name.eq_ignore_ascii_case("all") {
        return Ok(Metric::ALL);
    }
    let found = Metric::ALL.iter().find(|m| m.name().eq_ignore_ascii_case(name));
    found.map(std::slice::from_ref).ok_or_else(|| {
        let names: Vec<_> = Metric::ALL.iter().map(|m| m.name()).collect();
        format!("it is none of all, {}", names.join(", "))
    })
}

impl Args {
    /// The metrics asked for, in the order of the tables.
    fn chosen(&self) -> Vec<Metric> {
        if self.metrics.is_empty() {
            return Metric::ALL[..DEFAULT].to_vec();
        }
        let asked = |metric: &Metric| self.metrics.iter().any(|m| m.contains(metric));
        Metric::ALL.iter().copied().filter(asked).collect()
    }
}

fn named_folder(text: &str) -> std::result::Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, folder)) if !name.trim().is_empty() && !folder.is_empty() => {
            Ok((name.trim().to_owned(), folder.into()))
        }
        _ => Err("needs NAME=DIR, such as ISFM=out/isfm".to_owned()),
    }
}

/// Does what the arguments ask. What could not be scored is returned, the rest is done.
pub fn run(args: &Args) -> Result<Vec<Problem>> {
    let mut pool = rayon::ThreadPoolBuilder::new();
    if let Some(threads) = threads(args.threads)? {
        pool = pool.num_threads(threads);
    }
    let outputs = [&args.json, &args.csv, &args.html];
    let outputs: Vec<&PathBuf> = outputs.into_iter().flatten().collect();
    for (at, path) in outputs.iter().enumerate() {
        ensure!(!path.is_dir(), "{} is a folder: name a file to write", path.display());
        ensure!(!outputs[..at].contains(path), "{} is named twice as an output", path.display());
    }
    let voice = Voice::beside(outputs.iter().map(|path| path.as_path()));
    pool.build()?.install(|| evaluate(args, voice))
}

fn evaluate(args: &Args, voice: Voice) -> Result<Vec<Problem>> {
    let found = Pairing::find(&args.visible, &args.infrared)?;
    let methods = inputs::methods(&args.fused, &args.baseline, &found.pairs)?;
    let start = Instant::now();

    let bar = ProgressBar::new(found.pairs.len() as u64);
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} pairs ({eta} left)")?);
    let metrics = args.chosen();
    let shown = args.html.as_ref().map(|_| pictures::budget(found.pairs.len(), methods.len()));
    let pairs = found
        .pairs
        .par_iter()
        .enumerate()
        .map(|(at, pair)| {
            let sources: Vec<&Source> = methods.iter().map(|m| &m.sources[at]).collect();
            let scored = report::score(pair, &sources, &metrics, shown);
            bar.inc(1);
            scored
        })
        .collect();
    bar.finish_and_clear();

    let names = methods.iter().map(|m| m.name.clone()).collect();
    let report = Report::new(names, pairs, metrics);
    voice.say(table::text(&report).trim_end());
    let took = start.elapsed().as_secs_f64();
    let (scored, all) = (report.scored(), report.methods.len());
    voice.say(format_args!("{scored} pairs, {all} methods in {took:.1} s"));
    let alone = [found.visible_alone, found.infrared_alone].concat();
    voice.list("pictures have no partner", &alone);
    voice.skipped([(&args.visible, found.skipped[0]), (&args.infrared, found.skipped[1])]);
    for method in &methods {
        voice.list(&format!("pictures of {} belong to no pair", method.name), &method.unused);
        if let Some((folder, skipped)) = &method.skipped {
            voice.skipped([(folder, *skipped)]);
        }
    }
    let formats: [fn(&Report) -> String; 3] = [export::json, export::csv, page::html];
    for (path, format) in [&args.json, &args.csv, &args.html].into_iter().zip(formats) {
        if let Some(path) = path {
            isfm_files::write_atomically(path, |file| file.write_all(format(&report).as_bytes()))
                .with_context(|| format!("cannot write {}", path.display()))?;
            voice.say(path.display());
        }
    }
    let ambiguous = found.ambiguous.iter().map(|ambiguous| Problem {
        pair: ambiguous.name().to_owned(),
        method: None,
        why: ambiguous.to_string(),
    });
    Ok(ambiguous.chain(report.problems()).collect())
}
