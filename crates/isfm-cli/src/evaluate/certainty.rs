//! How sure the means are: bootstrap intervals over pictures, and paired tests between methods.

use isfm_metrics::{Direction, Metric};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;

use super::report::Report;

/// Where the mean of each method and metric would lie had other pictures been drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Intervals {
    /// In percent.
    pub level: f64,
    /// How many sets of pictures were drawn.
    pub resamples: usize,
    /// By method, then by the report's metrics; none where there is no mean, or fewer than two pictures.
    pub bounds: Vec<Vec<Option<[f64; 2]>>>,
}

impl Intervals {
    /// Percentile intervals: pictures are drawn with replacement, as many as a method was scored on,
    /// the same ones for all methods that were scored on as many.
    ///
    /// The draws depend on nothing but the numbers of pictures and of the draw: the same scores have
    /// the same intervals in every run, on any number of threads.
    pub fn of(report: &Report, level: f64, resamples: usize) -> Self {
        let tail = (1. - level / 100.) / 2.;
        let interval = |at: usize| {
            let scores: Vec<_> = report.scores(at).map(|(_, scores)| scores).collect();
            let row = |metric: &Metric| -> Vec<f64> {
                scores.iter().map(|s| s.get(*metric).unwrap_or(f64::NAN)).collect()
            };
            let columns: Vec<Vec<f64>> = report.metrics.iter().map(row).collect();
            let mut means = resampled(&columns, scores.len(), resamples);
            let bounds = means.iter_mut().map(|means| {
                means.sort_by(f64::total_cmp);
                let sound = scores.len() > 1 && means.iter().all(|mean| !mean.is_nan());
                sound.then(|| [quantile(means, tail), quantile(means, 1. - tail)])
            });
            bounds.collect()
        };
        let bounds = (0..report.methods.len()).map(interval).collect();
        Self { level, resamples, bounds }
    }
}

/// The means of every column over sets of `count` places drawn with replacement, a row for each
/// column.
fn resampled(columns: &[Vec<f64>], count: usize, resamples: usize) -> Vec<Vec<f64>> {
    // Whole pictures side by side: one place in memory for each that is drawn.
    let pictures: Vec<Vec<f64>> =
        (0..count).map(|at| columns.iter().map(|column| column[at]).collect()).collect();
    let draw = |number: usize| {
        let mut random = ChaCha8Rng::from_seed(*b"isfm evaluate, bootstrap of mean");
        random.set_stream(number as u64);
        let mut sums = vec![0.; columns.len()];
        for _ in 0..count {
            // The bias, below count/2³², is nothing for numbers of pictures.
            let drawn = ((u64::from(random.next_u32()) * count as u64) >> 32) as usize;
            sums.iter_mut().zip(&pictures[drawn]).for_each(|(sum, value)| *sum += value);
        }
        sums.iter_mut().for_each(|sum| *sum /= count as f64);
        sums
    };
    let means: Vec<Vec<f64>> = (0..resamples).into_par_iter().map(draw).collect();
    (0..columns.len()).map(|column| means.iter().map(|row| row[column]).collect()).collect()
}

/// The value that this part of at least one sorted value lies below, between the two nearest ones as
/// NumPy's `quantile`.
pub fn quantile(sorted: &[f64], part: f64) -> f64 {
    let place = part * (sorted.len() - 1) as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    let (low, high, part) = (sorted[below], sorted[above], place - place.floor());
    // Differences of infinite values are no numbers.
    if part == 0. || low == high || low.is_infinite() { low } else { low + (high - low) * part }
}

/// Every method against one.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The place of the method that the others are compared with.
    pub against: usize,
    /// By method, then by the report's metrics; none for the method itself, and where the two have no
    /// picture in common that the metric has a value for.
    pub tests: Vec<Vec<Option<Test>>>,
}

/// What Wilcoxon's signed-rank test says of two methods' values of one metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Test {
    /// On how many pictures both have a value.
    pub pictures: usize,
    /// The sum of ranks of the pictures on which the method is better than the other.
    pub better: f64,
    /// The sum of ranks of those on which it is worse.
    pub worse: f64,
    /// How likely ranks as unlike as these are if the methods are alike; two-sided.
    pub p: f64,
    /// The same by Holm's rule over all methods that are compared by this metric.
    pub adjusted: f64,
}

impl Comparison {
    /// Tests every method against that at the place `against`, on the pictures that both have.
    pub fn of(report: &Report, against: usize) -> Self {
        let values = |method: usize, metric: Metric| {
            let mut values = vec![f64::NAN; report.pairs.len()];
            for (at, scores) in report.scores(method) {
                values[at] = scores.get(metric).unwrap_or(f64::NAN);
            }
            values
        };
        let mut tests = vec![vec![None; report.metrics.len()]; report.methods.len()];
        for (column, &metric) in report.metrics.iter().enumerate() {
            let other = values(against, metric);
            for (method, row) in tests.iter_mut().enumerate().filter(|(at, _)| *at != against) {
                let own = values(method, metric);
                let known = own.iter().zip(&other).filter(|(a, b)| !a.is_nan() && !b.is_nan());
                let differences: Vec<f64> = known
                    .map(|(a, b)| match metric.direction() {
                        // Two infinite values are equal, but have no difference.
                        _ if a == b => 0.,
                        Direction::Higher => a - b,
                        Direction::Lower => b - a,
                    })
                    .collect();
                row[column] = (!differences.is_empty()).then(|| signed_rank(&differences));
            }
            let mut column: Vec<&mut Test> =
                tests.iter_mut().filter_map(|row| row[column].as_mut()).collect();
            let adjusted = holm(&column.iter().map(|test| test.p).collect::<Vec<_>>());
            column.iter_mut().zip(adjusted).for_each(|(test, adjusted)| test.adjusted = adjusted);
        }
        Self { against, tests }
    }
}

/// The most differences that all signs are gone through for.
const EXACT: usize = 50;

/// Wilcoxon's signed-rank test, two-sided: of up to 50 differences from all their signs, ties
/// included, and of more from the normal distribution, with ties and continuity corrected for.
/// Differences of zero are left out, as Wilcoxon did.
pub fn signed_rank(differences: &[f64]) -> Test {
    let mut sizes: Vec<(f64, bool)> =
        differences.iter().filter(|d| **d != 0.).map(|d| (d.abs(), *d > 0.)).collect();
    sizes.sort_by(|a, b| a.0.total_cmp(&b.0));
    // Twice the ranks: equal sizes share the mean of their places.
    let (mut doubled, mut ties, mut sums) = (Vec::<usize>::new(), 0., [0usize; 2]);
    for equal in sizes.chunk_by(|a, b| a.0 == b.0) {
        let rank = 2 * doubled.len() + equal.len() + 1;
        let count = equal.len() as f64;
        ties += count * count * count - count;
        for (_, better) in equal {
            sums[usize::from(!better)] += rank;
            doubled.push(rank);
        }
    }
    let (n, least) = (doubled.len(), sums[0].min(sums[1]));
    let p = if n <= EXACT { exact(&doubled, least) } else { normal(n, least as f64 / 2., ties) };
    let [better, worse] = sums.map(|sum| sum as f64 / 2.);
    Test { pictures: differences.len(), better, worse, p, adjusted: p }
}

/// Twice the part of all 2ⁿ signs whose sum of ranks is at most `least`.
fn exact(ranks: &[usize], least: usize) -> f64 {
    // How many ways there are to each sum; up to 2⁵⁰, which `f64` has all numbers of.
    let mut ways = vec![0.; least + 1];
    ways[0] = 1.;
    for &rank in ranks {
        for sum in (rank..=least).rev() {
            ways[sum] += ways[sum - rank];
        }
    }
    (2. * ways.iter().sum::<f64>() / 2f64.powi(ranks.len() as i32)).min(1.)
}

fn normal(n: usize, least: f64, ties: f64) -> f64 {
    let n = n as f64;
    let mean = n * (n + 1.) / 4.;
    let deviation = (n * (n + 1.) * (2. * n + 1.) / 24. - ties / 48.).sqrt();
    let z = (mean - least - 0.5).max(0.) / deviation;
    libm::erfc(z / std::f64::consts::SQRT_2)
}

/// Each p with the number of those that are not smaller, and no smaller than what smaller ones became
/// (Holm 1979).
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let (mut adjusted, mut most) = (vec![0.; p.len()], 0f64);
    for (place, at) in order.into_iter().enumerate() {
        most = most.max((p[at] * (p.len() - place) as f64).min(1.));
        adjusted[at] = most;
    }
    adjusted
}
