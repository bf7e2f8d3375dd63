//! `isfm paper compare`: Tables I and II, all methods on all sets.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use isfm_files::Pairing;
use isfm_metrics::{Convention, Direction, Metric};
use rayon::prelude::*;

use super::series::{METRICS, Row, Series, Value};
use crate::evaluate::inputs::{self, Baseline, Method, Source, subfolders};
use crate::evaluate::latex;
use crate::evaluate::report::{Problem, Report, marks, score, unplaced};
use crate::evaluate::table::{blocks, marked, rank};
use crate::options::{on_threads, threads};
use crate::{Console, Usage};

/// Score all methods on all sets (Tables I and II): EN, SF, AG, VIF, MI, Qabf, SCD and average rank.
///
/// Each subfolder of --sets is a set of pairs, vi/NAME and ir/NAME. Each subfolder of --methods is a method,
/// with a subfolder of results for each set, named as it: METHODS/ISFM/MSRS/NAME. A method that lacks
/// pictures of a set has no scores on it.
#[derive(Parser, Debug)]
#[command(
    name = "compare",
    after_help = "Examples:\n  \
        isfm paper compare --sets sets --methods results --baseline average,max,laplacian\n  \
        isfm paper compare --sets sets --methods results --markdown tables.md --latex tables.tex"
)]
pub struct Args {
    /// Folder of sets, SET/vi/NAME and SET/ir/NAME
    #[arg(long, value_name = "DIR")]
    pub sets: PathBuf,
    /// Folder of methods, METHOD/SET/NAME
    #[arg(long, value_name = "DIR", required_unless_present = "baseline")]
    pub methods: Option<PathBuf>,
    /// Also what is made of each pair's luminance on the spot: average, max, laplacian or laplacian:L
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub baseline: Vec<Baseline>,
    /// Write the tables as Markdown: the best bold, the second underlined
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Write the tables as LaTeX (booktabs)
    #[arg(long, value_name = "FILE")]
    pub latex: Option<PathBuf>,
    /// Write all means as CSV
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Threads to use, at most as many as the machine has; all by default
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
    /// Say nothing but what failed
    #[arg(short, long)]
    pub quiet: bool,
}

/// Does what the arguments ask. What could not be scored is returned, the rest is done.
///
/// # Errors
/// [`Usage`] if nothing can be scored; if a file cannot be written.
pub fn run(args: &Args) -> Result<Vec<Problem>> {
    let outputs = [&args.markdown, &args.latex, &args.csv].into_iter().filter_map(|p| p.as_deref());
    let console = Console::for_files(args.quiet, &outputs.collect::<Vec<&Path>>())?;
    on_threads(args.threads, || compare(args, console))
}

struct Set {
    name: String,
    pairing: Pairing,
    methods: Vec<Method>,
}

fn sets(args: &Args) -> Result<Vec<Set>> {
    let folders = subfolders(&args.sets, "set")?;
    let methods = match &args.methods {
        Some(folder) => subfolders(folder, "method")?,
        None => Vec::new(),
    };
    for (at, baseline) in args.baseline.iter().enumerate() {
        let name = baseline.name();
        let twice = methods.iter().any(|(other, _)| *other == name)
            || args.baseline[..at].contains(baseline);
        ensure!(!twice, "two methods are called {name}");
    }
    let set = |(name, folder): (String, PathBuf)| {
        let found = Pairing::find(folder.join("vi"), folder.join("ir"));
        let mut pairing = found.with_context(|| {
            format!("the set {}: needs folders vi and ir of pairs", folder.display())
        })?;
        pairing.pairs.sort_by(|a, b| a.name.cmp(&b.name));
        let pairs = &pairing.pairs;
        let none = |method: &str, folder: PathBuf| Method {
            name: method.to_owned(),
            sources: vec![Source::Missing(folder); pairs.len()],
            unused: Vec::new(),
            skipped: None,
        };
        let method = |(method, of): &(String, PathBuf)| match of.join(&name) {
            results if results.is_dir() => inputs::from_folder(method, &results, pairs, None),
            results => Ok(none(method, results)),
        };
        let mut all = methods.iter().map(method).collect::<Result<Vec<_>>>()?;
        for &baseline in &args.baseline {
            let sources = vec![Source::Made(baseline); pairs.len()];
            all.push(Method { sources, ..none(&baseline.name(), PathBuf::new()) });
        }
        Ok(Set { name, pairing, methods: all })
    };
    folders.into_iter().map(set).collect()
}

fn compare(args: &Args, console: Console) -> Result<Vec<Problem>> {
    let sets = sets(args).map_err(Usage::of)?;
    let bar = console.bar(sets.iter().map(|set| set.pairing.pairs.len()).sum(), "pairs");
    let (mut tables, mut ranks, mut problems) = (Vec::new(), Vec::new(), Vec::new());
    for Set { name, pairing, methods } in &sets {
        let scored = pairing.pairs.par_iter().enumerate().map(|(at, pair)| {
            let sources: Vec<&Source> = methods.iter().map(|m| &m.sources[at]).collect();
            let scored = score(pair, &sources, METRICS, Convention::Released, None, &unplaced);
            bar.inc(1);
            scored
        });
        let names: Vec<String> = methods.iter().map(|method| method.name.clone()).collect();
        let report = Report::new(names, scored.collect(), METRICS.to_vec());
        let row = |(at, name): (usize, &Method)| {
            let whole = report.methods[at].images == report.scored();
            let value = |&metric: &Metric| {
                let mean = report.mean(at, metric).filter(|_| whole)?;
                Some(Value { mean, spread: None })
            };
            Row { name: name.name.clone(), values: METRICS.iter().map(value).collect() }
        };
        let title = format!("{name}, {} pairs", report.scored());
        let rows = methods.iter().enumerate().map(row).collect();
        tables.push(Series { title, rows });
        ranks.push(report.methods.iter().map(|method| method.average_rank).collect::<Vec<_>>());
        let ambiguous = pairing.ambiguous.iter().map(|ambiguous| Problem {
            pair: ambiguous.name().to_owned(),
            method: None,
            why: ambiguous.to_string(),
        });
        for problem in ambiguous.chain(report.problems()) {
            problems.push(Problem { pair: format!("{name}/{}", problem.pair), ..problem });
        }
    }
    bar.finish_and_clear();

    let overall = Overall::new(&sets, ranks);
    for table in &tables {
        console.say(table.text());
    }
    console.say(overall.text().trim_end());
    console.say("¹ best, ² second best");
    let joined = |one: fn(&Series) -> String, last: String| {
        tables.iter().map(one).chain([last]).collect::<Vec<_>>().join("\n")
    };
    if let Some(path) = &args.markdown {
        console.write(path, joined(Series::markdown, overall.markdown()).as_bytes())?;
    }
    if let Some(path) = &args.latex {
        console.write(path, joined(Series::latex, overall.latex()).as_bytes())?;
    }
    if let Some(path) = &args.csv {
        console.write(path, &Series::csv(&tables)?)?;
    }
    Ok(problems)
}

/// The average ranks on all sets, and their mean.
struct Overall {
    methods: Vec<String>,
    /// A head, and a value for each method.
    columns: Vec<(String, Vec<Option<f64>>)>,
}

impl Overall {
    fn new(sets: &[Set], ranks: Vec<Vec<Option<f64>>>) -> Self {
        let methods: Vec<String> = sets
            .first()
            .map_or(&[][..], |set| &set.methods)
            .iter()
            .map(|m| m.name.clone())
            .collect();
        let mean = |at: usize| {
            let all = ranks.iter().map(|ranks| ranks[at]).collect::<Option<Vec<f64>>>()?;
            Some(all.iter().sum::<f64>() / all.len() as f64)
        };
        let means = ("mean".to_owned(), (0..methods.len()).map(mean).collect());
        let columns = sets.iter().map(|set| set.name.clone()).zip(ranks).chain([means]).collect();
        Self { methods, columns }
    }

    const TITLE: &str = "Average rank on each set";

    fn text(&self) -> String {
        let columns: Vec<_> = self
            .columns
            .iter()
            .map(|(head, values)| {
                let cells = values.iter().map(|&value| rank(value));
                marked(head, cells, marks(values, Direction::Lower))
            })
            .collect();
        format!("{}\n{}", Self::TITLE, blocks(self.methods.iter().map(String::as_str), &columns))
    }

    fn markdown(&self) -> String {
        let heads: Vec<&str> = self.columns.iter().map(|(head, _)| head.as_str()).collect();
        let mut out = format!("### {}\n\n| | {} |\n| --- |", Self::TITLE, heads.join(" | "));
        out += &" ---: |".repeat(heads.len());
        for (at, name) in self.methods.iter().enumerate() {
            let cells = self.columns.iter().map(|(_, values)| rank(values[at]));
            out += &format!("\n| {name} | {} |", cells.collect::<Vec<_>>().join(" | "));
        }
        out + "\n"
    }

    fn latex(&self) -> String {
        let heads: Vec<String> = self.columns.iter().map(|(head, _)| latex::escape(head)).collect();
        let mut out = format!(
            "% {}\n\\begin{{tabular}}{{l{}}}\n\\toprule\nMethod & {} \\\\\n\\midrule\n",
            Self::TITLE,
            "r".repeat(heads.len()),
            heads.join(" & ")
        );
        for (at, name) in self.methods.iter().enumerate() {
            out += &latex::escape(name);
            for (_, values) in &self.columns {
                let mark = marks(values, Direction::Lower)[at];
                out += &format!(" & {}", latex::cell(values[at], 2, mark));
            }
            out += " \\\\\n";
        }
        out + "\\bottomrule\n\\end{tabular}\n"
    }
}
