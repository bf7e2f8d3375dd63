//! What is asked of the scores beyond their means.

use std::collections::HashSet;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use isfm_files::is_picture;

use super::certainty::{Comparison, Intervals};
use super::report::{Report, Subset};
use crate::options::named;
use crate::{Console, Usage};

/// Sets of pictures that are drawn for intervals unless told otherwise.
const RESAMPLES: usize = 10_000;

/// Subsets, intervals and tests.
#[derive(Args, Clone, Debug, Default)]
pub struct Analysis {
    /// Also give means and ranks over the pairs that FILE names, one a line, with or without a
    /// picture's extension, such as those by day; once for each subset
    #[arg(long, value_name = "NAME=FILE", value_parser = named("NAME=FILE, such as day=day.txt"))]
    pub subset: Vec<(String, PathBuf)>,
    /// Give the interval that each mean lies in with LEVEL percent [default: 95]
    ///
    /// It is the percentile bootstrap over pictures: as many are drawn, with replacement, as there
    /// are, again and again, and the middle LEVEL percent of the means are taken. The draws are the same
    /// in every run. It tells how much the choice of pictures matters, and nothing of training anew.
    #[arg(long, value_name = "LEVEL", require_equals = true, value_parser = level)]
    pub intervals: Option<Option<f64>>,
    /// How many sets of pictures are drawn for --intervals [default: 10000]
    #[arg(long, value_name = "N", requires = "intervals", value_parser = resamples)]
    pub resamples: Option<usize>,
    /// Test whether each method differs from the method NAME, or from the first
    ///
    /// For each metric Wilcoxon's signed-rank test, two-sided, on the pictures that both have: exact
    /// for up to 50 that differ, by the normal distribution for more. The p that are shown are
    /// corrected by Holm's rule for the number of methods, not for that of metrics.
    #[arg(long, value_name = "NAME", require_equals = true)]
    pub against: Option<Option<String>>,
}

fn level(text: &str) -> std::result::Result<f64, String> {
    let level = text.strip_suffix('%').unwrap_or(text).parse().ok();
    let level = level.filter(|level| (50. ..100.).contains(level));
    level.ok_or_else(|| "needs percent, from 50 to below 100, such as 95".to_owned())
}

fn resamples(text: &str) -> std::result::Result<usize, String> {
    let number = text.parse().ok().filter(|number| (100..=100_000).contains(number));
    number.ok_or_else(|| "needs a number from 100 to 100000".to_owned())
}

/// What is asked for, found possible.
#[derive(Debug, Default)]
pub struct Plan {
    subsets: Vec<(String, HashSet<String>)>,
    intervals: Option<(f64, usize)>,
    against: Option<usize>,
    /// What is told of names in a list that are no pair, and they.
    unknown: Vec<(String, Vec<PathBuf>)>,
}

impl Analysis {
    /// Reads the lists and finds the methods; of a share of the pairs names may belong to others.
    ///
    /// # Errors
    /// [`Usage`].
    pub fn plan(&self, methods: &[&str], pairs: &HashSet<&str>, share: bool) -> Result<Plan> {
        self.look(methods, pairs, share).map_err(Usage::of)
    }

    fn look(&self, methods: &[&str], pairs: &HashSet<&str>, share: bool) -> Result<Plan> {
        let mut plan = Plan::default();
        for (name, file) in &self.subset {
            let twice = plan.subsets.iter().any(|(known, _)| known == name);
            ensure!(!twice, "two subsets are called {name:?}");
            let text = crate::text_of(file).with_context(|| format!("subset {name}"))?;
            let (mut own, mut unknown) = (HashSet::new(), Vec::new());
            for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
                let path = PathBuf::from(line);
                let stem = path.with_extension("");
                let stem = stem.to_str().filter(|_| is_picture(&path));
                match [Some(line), stem].into_iter().flatten().find(|name| pairs.contains(name)) {
                    Some(name) => _ = own.insert(name.to_owned()),
                    None => unknown.push(path),
                }
            }
            ensure!(
                share || !own.is_empty(),
                "{} names none of the pairs: it needs one a line, such as {}",
                file.display(),
                pairs.iter().min().unwrap_or(&"")
            );
            if !share && !unknown.is_empty() {
                let told = format!("names of {name} ({}) are no pairs", file.display());
                plan.unknown.push((told, unknown));
            }
            plan.subsets.push((name.clone(), own));
        }
        plan.intervals =
            self.intervals.map(|level| (level.unwrap_or(95.), self.resamples.unwrap_or(RESAMPLES)));
        if let Some(name) = &self.against {
            ensure!(methods.len() > 1, "--against needs two methods, and there is one");
            let at = name.as_ref().map_or(Some(0), |name| methods.iter().position(|m| m == name));
            let Some(at) = at else {
                let name = name.as_deref().unwrap_or_default();
                bail!("--against: no method is called {name:?}, but {}", methods.join(", "));
            };
            plan.against = Some(at);
        }
        Ok(plan)
    }
}

impl Plan {
    /// Does it.
    pub fn apply(&self, report: &mut Report) {
        report.subsets = self
            .subsets
            .iter()
            .map(|(name, pairs)| Subset { name: name.clone(), report: report.of_pairs(pairs) })
            .collect();
        report.intervals =
            self.intervals.map(|(level, resamples)| Intervals::of(report, level, resamples));
        report.comparison = self.against.map(|at| Comparison::of(report, at));
    }

    /// Tells which names were of no use.
    pub fn say_unknown(&self, console: Console) {
        self.unknown.iter().for_each(|(what, names)| console.list(what, names));
    }
}
