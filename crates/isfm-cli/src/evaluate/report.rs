//! Scores of all pairs and methods, and what follows from them.

use std::collections::HashSet;
use std::fmt;

use anyhow::{Context, Result, bail, ensure};
use image::{DynamicImage, GrayImage};
use isfm::Side;
use isfm_metrics::{Convention, Direction, Metric, Plane, Scores, Triple, average_rank};

use isfm_align::Rectangle;

use crate::align::{Placed, crop};

use super::certainty::{Comparison, Intervals};
use super::inputs::{self, Source, luminance};
use super::pictures;
use isfm_files::pairs::Pair;

/// What could not be scored, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// The pair's name.
    pub pair: String,
    /// None if the pair itself is at fault.
    pub method: Option<String>,
    /// What is wrong, with its causes.
    pub why: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.method {
            Some(method) => write!(f, "{}, {method}: {}", self.pair, self.why),
            None => write!(f, "{}: {}", self.pair, self.why),
        }
    }
}

/// A method's score and picture for one pair.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// The value of every metric.
    pub scores: Scores,
    /// A data URI; empty if no page is asked for.
    pub picture: String,
}

/// One pair, with an entry for each method.
#[derive(Clone, Debug, PartialEq)]
pub struct PairReport {
    /// The pair's name.
    pub name: String,
    /// What came of it, or what is wrong with the pair itself.
    pub outcome: std::result::Result<Outcome, String>,
}

/// The scores of a pair.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Width and height of all its pictures.
    pub size: (u32, u32),
    /// Data URIs of the visible and the infrared picture; empty if no page is asked for.
    pub sources: [String; 2],
    /// What came of each method, or what is wrong with its result.
    pub methods: Vec<std::result::Result<Scored, String>>,
}

/// Scores every method on a pair; with a budget of bytes, pictures for the page are made too.
pub fn score(
    pair: &Pair,
    methods: &[&Source],
    metrics: &[Metric],
    convention: Convention,
    shown: Option<usize>,
    place: &Place<'_>,
) -> PairReport {
    let outcome = score_methods(pair, methods, metrics, convention, shown, place)
        .map_err(|e| format!("{e:#}"));
    PairReport { name: pair.name.clone(), outcome }
}

fn score_methods(
    pair: &Pair,
    methods: &[&Source],
    metrics: &[Metric],
    convention: Convention,
    shown: Option<usize>,
    place: &Place<'_>,
) -> Result<Outcome> {
    let embed = |image: &DynamicImage| match shown {
        Some(budget) => pictures::data_uri(image, budget),
        None => Ok(String::new()),
    };
    let visible_image = inputs::read_source(&pair.visible, Side::Visible)?;
    let infrared_image = inputs::read_source(&pair.infrared, Side::Infrared)?;
    let whole = (visible_image.width(), visible_image.height());
    let Placed { visible: visible_image, infrared: infrared_image, cropped } =
        place(visible_image, infrared_image)?;
    let (visible, infrared) = (luminance(&visible_image), luminance(&infrared_image));
    let (v, i) = (visible.dimensions(), infrared.dimensions());
    ensure!(v == i, "the visible picture is {}x{} but the infrared one {}x{}", v.0, v.1, i.0, i.1);
    let sources = [embed(&visible_image)?, embed(&infrared_image)?];
    drop((visible_image, infrared_image));
    let methods = methods.iter().map(|source| {
        let fused_image = result(source, &visible, &infrared, cropped.map(|r| (whole, r)))?;
        let fused = luminance(&fused_image);
        let triple = Triple::new(plane(&visible)?, plane(&infrared)?, plane(&fused)?)?;
        let scores = Scores::evaluate_as(&triple, metrics, convention);
        Ok(Scored { scores, picture: embed(&fused_image)? })
    });
    let methods = methods.map(|m: Result<Scored>| m.map_err(|e| format!("{e:#}"))).collect();
    Ok(Outcome { size: v, sources, methods })
}

/// What lays an infrared picture on its visible one.
pub type Place<'a> = dyn Fn(DynamicImage, DynamicImage) -> Result<Placed> + Sync + 'a;

/// Of pairs that lie on each other already.
///
/// # Errors
/// Never.
pub fn unplaced(visible: DynamicImage, infrared: DynamicImage) -> Result<Placed> {
    Ok(Placed { visible, infrared, cropped: None })
}

/// A method's picture for a pair of these luminances, of their size. Where these are cropped out of a `whole` picture,
/// so is a result of its size.
pub fn result(
    source: &Source,
    visible: &GrayImage,
    infrared: &GrayImage,
    cropped: Option<((u32, u32), Rectangle)>,
) -> Result<DynamicImage> {
    let mut image = match source {
        Source::File(path) => inputs::read(path, Side::Visible)?,
        Source::Made(baseline) => baseline.fuse(visible, infrared).into(),
        Source::Missing(folder) => bail!("no result in {}", folder.display()),
        Source::Ambiguous(paths) => {
            let names = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
            bail!("which of these is the result: {}?", names.join(", "))
        }
    };
    if let Some((whole, r)) = cropped
        && (image.width(), image.height()) == whole
    {
        image = crop(&image, r);
    }
    let (f, v) = ((image.width(), image.height()), visible.dimensions());
    ensure!(f == v, "the result is {}x{} but the pair {}x{}", f.0, f.1, v.0, v.1);
    Ok(image)
}

fn plane(grey: &GrayImage) -> Result<Plane<'_, u8>> {
    Plane::new(grey, grey.width() as usize, grey.height() as usize).context("an empty picture")
}

/// A method over all pairs.
#[derive(Clone, Debug)]
pub struct MethodReport {
    /// The method's name.
    pub name: String,
    /// On how many pairs it was scored.
    pub images: usize,
    /// The means over those; none if there are none.
    pub mean: Option<Scores>,
    /// Its mean place among the methods that have every picture; none if it is not one of them.
    pub average_rank: Option<f64>,
}

/// A place in a column that the tables mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The best value, or one equal to it.
    Best,
    /// The best of the other values.
    Second,
}

/// All scores, and the ranks that follow.
#[derive(Debug)]
pub struct Report {
    /// In the order given.
    pub methods: Vec<MethodReport>,
    /// In the order of their names.
    pub pairs: Vec<PairReport>,
    /// The metrics to show.
    pub metrics: Vec<Metric>,
    /// Those of them that the average rank is over.
    pub ranked: Vec<Metric>,
    /// Whose definitions the values follow.
    pub convention: Convention,
    /// Parts of the pairs, if asked for.
    pub subsets: Vec<Subset>,
    /// How sure the means are, if asked for.
    pub intervals: Option<Intervals>,
    /// How sure the differences between methods are, if asked for.
    pub comparison: Option<Comparison>,
}

/// Some of the pairs.
#[derive(Debug)]
pub struct Subset {
    /// As given.
    pub name: String,
    /// The same methods and metrics on these pairs, without pictures.
    pub report: Report,
}

impl Report {
    /// Means and ranks of the methods of these names.
    pub fn new(names: Vec<String>, pairs: Vec<PairReport>, metrics: Vec<Metric>) -> Self {
        let mut report = Report {
            methods: Vec::new(),
            pairs,
            metrics,
            ranked: Vec::new(),
            convention: Convention::Released,
            subsets: Vec::new(),
            intervals: None,
            comparison: None,
        };
        for (at, name) in names.into_iter().enumerate() {
            let scores: Vec<Scores> = report.scores(at).map(|(_, scores)| *scores).collect();
            let mean = Scores::mean(&scores);
            let images = scores.len();
            report.methods.push(MethodReport { name, images, mean, average_rank: None });
        }
        report.rank();
        report
    }

    /// The same of these pairs alone, without pictures.
    pub fn of_pairs(&self, names: &HashSet<String>) -> Self {
        let bare = |pair: &PairReport| {
            let outcome = pair.outcome.as_ref().map(|outcome| Outcome {
                size: outcome.size,
                sources: Default::default(),
                methods: outcome
                    .methods
                    .iter()
                    .map(|method| {
                        let scores = method.as_ref().map(|scored| scored.scores);
                        scores
                            .map(|scores| Scored { scores, picture: String::new() })
                            .map_err(Clone::clone)
                    })
                    .collect(),
            });
            PairReport { name: pair.name.clone(), outcome: outcome.map_err(Clone::clone) }
        };
        let pairs = self.pairs.iter().filter(|pair| names.contains(&pair.name)).map(bare).collect();
        let methods = self.methods.iter().map(|method| method.name.clone()).collect();
        let mut report = Self::new(methods, pairs, self.metrics.clone());
        report.convention = self.convention;
        report
    }

    /// The mean of a method by a metric.
    pub fn mean(&self, method: usize, metric: Metric) -> Option<f64> {
        self.methods[method].mean.as_ref()?.get(metric).filter(|mean| !mean.is_nan())
    }

    /// All pairs, under no name, and the subsets.
    pub fn parts(&self) -> impl Iterator<Item = (&str, &Report)> {
        let subsets = self.subsets.iter().map(|subset| (subset.name.as_str(), &subset.report));
        std::iter::once(("", self)).chain(subsets)
    }

    /// The pairs whose own pictures are sound.
    pub fn scored(&self) -> usize {
        self.pairs.iter().filter(|p| p.outcome.is_ok()).count()
    }

    /// The pairs on which a method was scored, by place, and its scores.
    pub fn scores(&self, method: usize) -> impl Iterator<Item = (usize, &Scores)> {
        self.pairs.iter().enumerate().filter_map(move |(at, pair)| {
            let outcome = pair.outcome.as_ref().ok()?;
            outcome.methods[method].as_ref().ok().map(|scored| (at, &scored.scores))
        })
    }

    /// Means over different pictures cannot be compared: only methods that have them all are.
    fn competing(&self) -> Vec<(usize, &Scores)> {
        let scored = self.scored();
        let complete = self.methods.iter().enumerate().filter(|(_, m)| m.images == scored);
        complete.filter_map(|(at, m)| Some((at, m.mean.as_ref()?))).collect()
    }

    fn rank(&mut self) {
        let competing = self.competing();
        let known = |metric: Metric| {
            self.metrics.contains(&metric)
                && competing.iter().all(|(_, mean)| mean.get(metric).is_some_and(|v| !v.is_nan()))
        };
        let ranked: Vec<Metric> = Metric::RANKED.iter().copied().filter(|&m| known(m)).collect();
        let directions: Vec<Direction> = ranked.iter().map(|m| m.direction()).collect();
        let row = |mean: &Scores| ranked.iter().filter_map(|&m| mean.get(m)).collect();
        let table: Vec<Vec<f64>> = competing.iter().map(|(_, mean)| row(mean)).collect();
        let places: Vec<usize> = competing.iter().map(|(at, _)| *at).collect();
        // An error means that there is nothing to rank.
        let ranks = average_rank(&table, &directions).unwrap_or_default();
        for (at, rank) in places.into_iter().zip(ranks) {
            self.methods[at].average_rank = Some(rank);
        }
        self.ranked = ranked;
    }

    /// Which methods are best and second best by a metric; none if fewer than two can be compared.
    pub fn marks(&self, metric: Metric) -> Vec<Option<Mark>> {
        let mut values = vec![None; self.methods.len()];
        for (at, mean) in self.competing() {
            values[at] = mean.get(metric);
        }
        marks(&values, metric.direction())
    }

    /// The same by the average rank.
    pub fn rank_marks(&self) -> Vec<Option<Mark>> {
        let ranks: Vec<_> = self.methods.iter().map(|method| method.average_rank).collect();
        marks(&ranks, Direction::Lower)
    }

    /// What could not be scored, pair by pair.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for PairReport { name, outcome } in &self.pairs {
            let mut tell = |method: Option<&MethodReport>, why: &str| {
                let method = method.map(|m| m.name.clone());
                problems.push(Problem { pair: name.clone(), method, why: why.to_owned() });
            };
            match outcome {
                Err(why) => tell(None, why),
                Ok(outcome) => {
                    let results = self.methods.iter().zip(&outcome.methods);
                    let failed =
                        results.filter_map(|(m, result)| Some((m, result.as_ref().err()?)));
                    failed.for_each(|(method, why)| tell(Some(method), why));
                }
            }
        }
        problems
    }
}

/// Which of these values are the best and the second best, equal ones alike; none if fewer than two are
/// known.
pub fn marks(values: &[Option<f64>], better: Direction) -> Vec<Option<Mark>> {
    let known = |value: &Option<f64>| value.filter(|value| !value.is_nan());
    let mut order: Vec<f64> = values.iter().filter_map(known).collect();
    let compared = order.len() > 1;
    order.sort_by(f64::total_cmp);
    if better == Direction::Higher {
        order.reverse();
    }
    order.dedup();
    let mark = |value: &Option<f64>| {
        let value = known(value).filter(|_| compared)?;
        let place = order.iter().position(|&other| other == value)?;
        [Mark::Best, Mark::Second].get(place).copied()
    };
    values.iter().map(mark).collect()
}
