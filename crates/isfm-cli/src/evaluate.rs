//! `isfm evaluate`: scores of fused pictures as a table, a page and files.

pub mod analysis;
pub mod certainty;
pub mod detect;
mod export;
pub mod figure;
pub mod inputs;
pub mod laplacian;
pub mod latex;
mod page;
pub mod pictures;
mod plot;
pub mod report;
pub mod segment;
pub mod stored;
pub mod table;
pub mod tasks;
pub mod workbook;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand};
use image::DynamicImage;
use isfm_metrics::{Convention, Metric};
use rayon::prelude::*;

use crate::align::AlignArgs;
use crate::options::{named, on_threads, threads};
use crate::pairs::{Found, PairArgs};
use crate::{Console, Usage};

use analysis::{Analysis, Plan};
use figure::FigureArgs;
use inputs::{Baseline, Source};
use report::{PairReport, Problem, Report};

/// Score fused pictures against the pairs they were made of.
///
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
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:\n  \
        isfm evaluate --visible vi --infrared ir --fused ISFM=fused --baseline average,max,laplacian\n  \
        isfm evaluate --visible vi --infrared ir --methods results --html scores.html\n  \
        isfm evaluate --visible vi --infrared ir --methods results --latex table.tex --xlsx scores.xlsx \\\n    \
          --subset day=day.txt --subset night=night.txt --intervals --against=ISFM\n  \
        isfm evaluate --visible vi --infrared ir --methods results --figure 00537D --box 120,80,64,48 \\\n    \
          --figure-file figure.svg --figure-file figure.png"
)]
pub struct Args {
    /// Scores of what others make of the pictures, instead of the pictures' own.
    #[command(subcommand)]
    pub task: Option<Task>,
    /// The pairs.
    #[command(flatten)]
    pub pairs: PairArgs,
    /// Where infrared pictures lie. With --crop results may be cropped already, or of the visible picture's size.
    #[command(flatten)]
    pub align: AlignArgs,
    /// A method's name and the folder of its results, or of one pair the result; once for each method
    #[arg(long, value_name = "NAME=DIR", value_parser = named("NAME=DIR, such as ISFM=out/isfm"),
        required_unless_present_any = ["baseline", "methods"])]
    pub fused: Vec<(String, PathBuf)>,
    /// A folder whose subfolders are methods: each one's name, and its results
    #[arg(long, value_name = "DIR")]
    pub methods: Option<PathBuf>,
    /// Also score what is made of each pair's luminance on the spot: `average` (halves to even, as
    /// NumPy rounds), `max` and `laplacian`, or `laplacian:L` with L from 1 to 8 instead of 2
    ///
    /// laplacian is a pyramid of L levels (5-tap binomial, OpenCV's pyrDown and pyrUp with their
    /// default borders): the larger base, and at each place of each level the detail whose mean
    /// square over 5×5 places (mirrored at the borders) is larger, of equal ones the visible
    /// picture's; the sum rounded to 8 bits, halves to even, and clamped. Its name is LaplacianL.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub baseline: Vec<Baseline>,
    /// What is written.
    #[command(flatten)]
    pub outputs: Outputs,
    /// A figure.
    #[command(flatten)]
    pub figure: FigureArgs,
    /// Metrics to show, by their names in the tables, or `all` that isfm-metrics has, of which FMI
    /// and Qp take a hundred times as long as the rest [default:
    /// EN,SD,SF,AG,MI,SCD,VIF,Qabf,SSIM,CC,MSE,PSNR]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = metrics)]
    pub metrics: Vec<&'static [Metric]>,
    /// Whose definitions to follow, so that numbers compare with those that its users print: logarithms,
    /// windows, grey levels to 1 or 255, sums or means, borders. docs/metrics.md has them side by side.
    /// Any other than released shows that program's metrics unless --metrics says which
    #[arg(long, value_name = "NAME", default_value = "released", value_parser = convention())]
    pub convention: Convention,
    /// Threads to use, at most as many as the machine has; all by default
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
}

/// What a fused picture is judged by, if not by itself.
// A comment on a variant would take the place of the whole help of its arguments.
#[derive(Subcommand, Debug)]
#[expect(missing_docs, reason = "their arguments have them")]
pub enum Task {
    Detect(detect::Args),
    Segment(segment::Args),
}

/// What becomes of the scores.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Outputs {
    /// Write means and every picture's values as JSON, to standard output if no file is named
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "/dev/stdout")]
    pub json: Option<PathBuf>,
    /// Write every picture's values as CSV, a row for each picture and method
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write the means as CSV, a row for each method and metric, with what --subset, --intervals and
    /// --against add
    #[arg(long, value_name = "FILE")]
    pub means: Option<PathBuf>,
    /// Write the means as a LaTeX table (booktabs): the best bold, the second best underlined
    #[arg(long, value_name = "FILE")]
    pub latex: Option<PathBuf>,
    /// Write a workbook (.xlsx): a sheet of means, and one for each metric with pictures down and
    /// methods across
    #[arg(long, value_name = "FILE")]
    pub xlsx: Option<PathBuf>,
    /// Write a page of tables, distributions and all pictures, in one file that needs no network
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write each metric's distribution as an SVG file of its name into DIR
    #[arg(long, value_name = "DIR")]
    pub plots: Option<PathBuf>,
    /// What is asked beyond means.
    #[command(flatten)]
    pub analysis: Analysis,
    /// Say nothing but what failed
    #[arg(short, long)]
    pub quiet: bool,
}

/// How a report becomes a file.
type Format = fn(&Report) -> Result<Vec<u8>>;

impl Outputs {
    fn all(&self) -> Vec<(&Path, Format)> {
        let all: [(&Option<PathBuf>, Format); 6] = [
            (&self.json, |report| Ok(export::json(report).into_bytes())),
            (&self.csv, export::csv),
            (&self.means, export::means),
            (&self.latex, |report| Ok(latex::table(report).into_bytes())),
            (&self.xlsx, workbook::xlsx),
            (&self.html, |report| Ok(page::html(report).into_bytes())),
        ];
        all.into_iter().filter_map(|(path, format)| Some((path.as_deref()?, format))).collect()
    }

    /// Whether anything is asked for but the table.
    pub fn any(&self) -> bool {
        let Analysis { subset, intervals, against, .. } = &self.analysis;
        let more = !subset.is_empty() || intervals.is_some() || against.is_some();
        more || self.plots.is_some() || !self.all().is_empty()
    }

    /// Where to talk, if each of the files, and those that are `more`, can be one.
    ///
    /// # Errors
    /// [`Usage`].
    pub fn console(&self, more: &[PathBuf]) -> Result<Console> {
        let paths = self.all().into_iter().map(|(path, _)| path);
        let paths: Vec<&Path> = paths.chain(more.iter().map(PathBuf::as_path)).collect();
        if let Some(folder) = self.plots.as_ref().filter(|path| path.exists() && !path.is_dir()) {
            let told = anyhow!("{} is a file: --plots needs a folder", folder.display());
            return Err(Usage::of(told));
        }
        Console::for_files(self.quiet, &paths)
    }

    /// Does what is asked beyond means, prints the tables and writes the files.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, report: &mut Report, plan: &Plan, console: Console) -> Result<()> {
        plan.apply(report);
        console.say(table::text(report).trim_end());
        for (path, format) in self.all() {
            let bytes =
                format(report).with_context(|| format!("cannot make {}", path.display()))?;
            console.write(path, &bytes)?;
        }
        if let Some(folder) = &self.plots {
            for &metric in &report.metrics {
                let path = folder.join(format!("{metric}.svg"));
                console.write(&path, plot::file(report, metric).as_bytes())?;
            }
        }
        plan.say_unknown(console);
        Ok(())
    }
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
    ///
    /// # Errors
    /// [`Usage`], if the convention has one of them not.
    fn chosen(&self) -> Result<Vec<Metric>> {
        let known = self.convention.metrics();
        if self.metrics.is_empty() {
            let released = self.convention == Convention::Released;
            return Ok(if released { &known[..DEFAULT] } else { known }.to_vec());
        }
        let asked = |metric: &Metric| self.metrics.iter().any(|m| m.contains(metric));
        let chosen: Vec<Metric> = known.iter().copied().filter(asked).collect();
        for metric in self.metrics.iter().filter(|m| m.len() == 1).flat_map(|m| m.iter()) {
            if !chosen.contains(metric) {
                let names: Vec<_> = known.iter().map(|metric| metric.name()).collect();
                let name = self.convention;
                let told = anyhow!("{name} has no {metric}; it has {}", names.join(", "));
                return Err(Usage::of(told));
            }
        }
        Ok(chosen)
    }
}

/// A convention by its name.
fn convention() -> impl TypedValueParser<Value = Convention> {
    PossibleValuesParser::new(Convention::ALL.iter().map(|convention| convention.name()))
        .try_map(|name| name.parse::<Convention>())
}

/// Does what the arguments ask. What could not be scored is returned, the rest is done.
pub fn run(args: &Args) -> Result<Vec<Problem>> {
    match &args.task {
        Some(Task::Detect(args)) => return detect::run(args),
        Some(Task::Segment(args)) => return segment::run(args),
        None => {}
    }
    let console = args.outputs.console(&args.figure.figure_file)?;
    on_threads(args.threads, || evaluate(args, console))
}

fn evaluate(args: &Args, console: Console) -> Result<Vec<Problem>> {
    let Found { mut pairing, single, .. } = args.pairs.find()?;
    // Means do not depend on the order of a list.
    pairing.pairs.sort_by(|a, b| a.name.cmp(&b.name));
    let pairs = &pairing.pairs;
    let methods = inputs::methods(args, pairs, single).map_err(Usage::of)?;
    let names: Vec<&str> = methods.iter().map(|method| method.name.as_str()).collect();
    let known: HashSet<&str> = pairs
        .iter()
        .map(|pair| pair.name.as_str())
        .chain(pairing.ambiguous.iter().map(|ambiguous| ambiguous.name()))
        .collect();
    let plan = args.outputs.analysis.plan(&names, &known, args.pairs.shard.is_some())?;
    let alignment = args.align.read()?;
    let place = |visible: DynamicImage, infrared: DynamicImage| match &alignment {
        Some(alignment) => args.align.placed(alignment, visible, &infrared),
        None => report::unplaced(visible, infrared),
    };
    let figure = args.figure.prepare(pairs, &methods, &place)?;
    let start = Instant::now();

    let bar = console.bar(pairs.len(), "pairs");
    let metrics = args.chosen()?;
    let shown = args.outputs.html.as_ref().map(|_| pictures::budget(pairs.len(), methods.len()));
    let scored = pairs.par_iter().enumerate().map(|(at, pair)| {
        let sources: Vec<&Source> = methods.iter().map(|m| &m.sources[at]).collect();
        let scored = report::score(pair, &sources, &metrics, args.convention, shown, &place);
        bar.inc(1);
        scored
    });
    let scored: Vec<_> = scored.collect();
    bar.finish_and_clear();

    let ambiguous = pairing.ambiguous.iter().map(|ambiguous| PairReport {
        name: ambiguous.name().to_owned(),
        outcome: Err(ambiguous.to_string()),
    });
    let names = methods.iter().map(|m| m.name.clone()).collect();
    let mut report = Report::new(names, ambiguous.chain(scored).collect(), metrics);
    report.convention = args.convention;
    args.outputs.write(&mut report, &plan, console)?;
    if let Some(figure) = figure {
        figure.write(console)?;
    }
    let took = start.elapsed().as_secs_f64();
    let (scored, all) = (report.scored(), report.methods.len());
    console.say(format_args!("{scored} pairs, {all} methods in {took:.1} s"));
    args.pairs.say_others(&pairing, console);
    for method in &methods {
        console.list(&format!("pictures of {} belong to no pair", method.name), &method.unused);
        if let Some((folder, skipped)) = &method.skipped {
            console.skipped(folder, *skipped);
        }
    }
    Ok(report.problems())
}
