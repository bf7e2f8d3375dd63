//! The distribution of a metric, as SVG.

use isfm_metrics::Metric;
use maud::{Markup, PreEscaped, html};

use super::certainty::quantile;
use super::page::better;
use super::report::Report;
use super::table::number;

/// Of a file that stands alone: what readers of SVG beside browsers know too.
const STYLE: &str = include_str!("plot.css");
const WIDTH: f64 = 420.;
const LABEL: f64 = 96.;
const RIGHT: f64 = 22.;
const ROW: f64 = 30.;
const TOP: f64 = 6.;
const AXIS: f64 = 22.;
/// Half of the height that the points of a row are spread over.
const SPREAD: f64 = 9.;
/// Characters that a label has room for.
const LABEL_LENGTH: usize = 14;

/// The least value, the lower quartile, the median, the upper quartile, the greatest value and the
/// mean of at least one value.
fn summary(sorted: &[f64]) -> [f64; 6] {
    let at = |part| quantile(sorted, part);
    let mean = sorted.iter().sum::<f64>() / sorted.len() as f64;
    [at(0.), at(0.25), at(0.5), at(0.75), at(1.), mean]
}

/// The distribution as part of the page, whose style it has.
pub fn figure(report: &Report, metric: Metric) -> Markup {
    let (height, drawing) = drawing(report, metric);
    html! {
        figure class="plot" {
            figcaption { b { (metric.name()) } " " (better(metric)) }
            svg viewBox=(format!("0 0 {WIDTH} {height}")) role="img"
                aria-label=(format!("{metric} of each method")) { (drawing) }
        }
    }
}

/// The distribution as a file of SVG that needs nothing else.
pub fn file(report: &Report, metric: Metric) -> String {
    const HEAD: f64 = 22.;
    let (height, drawing) = drawing(report, metric);
    let all = height + HEAD;
    let file = html! {
        svg xmlns="http://www.w3.org/2000/svg" width=(WIDTH) height=(all)
            viewBox=(format!("0 0 {WIDTH} {all}")) {
            title { (metric.name()) " of each method" }
            style { (PreEscaped(STYLE)) }
            rect width=(WIDTH) height=(all) fill="#fff" {}
            text x="4" y="15" { tspan class="name" { (metric.name()) } " " (better(metric)) }
            g transform=(format!("translate(0 {HEAD})")) { (drawing) }
        }
    };
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}\n", file.into_string())
}

/// A row for each method: a point for each picture, a box from the lower to the upper quartile with
/// the median in it, a line from the least to the greatest value, and a diamond at the mean. With the
/// height of it all.
fn drawing(report: &Report, metric: Metric) -> (f64, Markup) {
    let rows: Vec<Vec<f64>> = (0..report.methods.len())
        .map(|at| report.scores(at).filter_map(|(_, s)| s.get(metric)).collect())
        .collect();
    let finite = || rows.iter().flatten().copied().filter(|v| v.is_finite());
    let (low, high) =
        finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    let bottom = TOP + ROW * rows.len() as f64;
    if low > high {
        return (bottom + AXIS, html! { text x="8" y="20" { "no finite values" } });
    }
    let ticks = ticks(low, high);
    let (from, to) = (ticks[0].min(low), ticks[ticks.len() - 1].max(high));
    let x = |v: f64| LABEL + (WIDTH - LABEL - RIGHT) * (v - from) / (to - from);
    let drawing = html! {
        @for &tick in &ticks {
            path class="grid" d=(format!("M{:.1} {TOP}V{bottom}", x(tick))) {}
            text class="tick" x=(format!("{:.1}", x(tick))) y=(bottom + 15.) {
                (tick_label(tick, &ticks))
            }
        }
        @for (at, (method, values)) in report.methods.iter().zip(&rows).enumerate() {
            g class=(format!("c{}", at % 8)) {
                (row(&method.name, values, TOP + ROW * (at as f64 + 0.5), x))
            }
        }
    };
    (bottom + AXIS, drawing)
}

fn row(name: &str, values: &[f64], middle: f64, x: impl Fn(f64) -> f64) -> Markup {
    let mut label: String = name.chars().take(LABEL_LENGTH).collect();
    if label.len() < name.len() {
        label.pop();
        label.push('…');
    }
    let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    if sorted.is_empty() {
        return html! { text x="4" y=(middle + 4.) { (label) } };
    }
    let summary = summary(&sorted);
    let [least, lower, median, upper, most, mean] = summary.map(|v| number(Some(v)));
    let infinite = match values.len() - sorted.len() {
        0 => String::new(),
        n => format!(", {n} infinite"),
    };
    let told = format!(
        "{name}: mean {mean}, median {median}, quartiles {lower} and {upper}, from {least} to \
         {most}{infinite}"
    );
    // A path of dots: a line of no length with round caps draws one.
    let mut dots = String::new();
    for (i, value) in values.iter().enumerate().filter(|(_, v)| v.is_finite()) {
        // The golden ratio spreads points evenly, the same way in every run.
        let spread = (i as f64 * 0.618_033_988_75).fract() * 2. - 1.;
        dots += &format!("M{:.1} {:.1}h0", x(*value), middle + SPREAD * spread);
    }
    let [least, lower, median, upper, most, mean] = summary.map(x);
    let (top, width, left) = (middle - 7., (upper - lower).max(0.5), mean - 4.);
    let line = format!("M{least:.1} {middle}H{lower:.1}M{upper:.1} {middle}H{most:.1}");
    html! {
        text x="4" y=(middle + 4.) { (label) title { (told) } }
        path class="dots" d=(dots) {}
        path class="line" d=(line) {}
        rect class="box" x=(format!("{lower:.1}")) y=(top) width=(format!("{width:.1}"))
            height="14" rx="2" {}
        path class="median" d=(format!("M{median:.1} {top}v14")) {}
        path class="mean" d=(format!("M{left:.1} {middle}l4 -4l4 4l-4 4z")) {}
    }
}

/// Three to seven round numbers that enclose the values.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    // Equal values still need an axis with a length.
    let span = (high - low).max(low.abs().max(high.abs()) * 1e-6).max(1e-9);
    let rough = span / 4.;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1., 2., 5., 10.].map(|m| m * power).into_iter().find(|s| *s >= rough);
    let step = step.unwrap_or(10. * power);
    let (first, last) = ((low / step).floor(), (high / step).ceil());
    let count = (last - first).max(1.) as usize;
    (0..=count).map(|i| (first + i as f64) * step).collect()
}

/// As many digits as the step needs, the same for all.
fn tick_label(tick: f64, ticks: &[f64]) -> String {
    let step = ticks[1] - ticks[0];
    let digits = (-(step.log10() + 1e-9).floor()).max(0.) as usize;
    // Not −0.
    format!("{:.digits$}", tick + 0.)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_enclose_what_they_measure() {
        let cases =
            [(0., 1.), (6.1, 7.9), (-0.3, 0.2), (1e-7, 3e-7), (0., 65025.), (5., 5.), (0., 0.)];
        for (low, high) in cases {
            let ticks = ticks(low, high);
            assert!((2..=7).contains(&ticks.len()), "{low} {high}: {ticks:?}");
            assert!(ticks[0] <= low && ticks[ticks.len() - 1] >= high, "{low} {high}: {ticks:?}");
            let mut labels: Vec<_> = ticks.iter().map(|&t| tick_label(t, &ticks)).collect();
            labels.dedup();
            assert_eq!(labels.len(), ticks.len(), "{labels:?}");
        }
        assert_eq!(ticks(6.1, 7.9), [6., 6.5, 7., 7.5, 8.]);
        assert_eq!(tick_label(6.5, &ticks(6.1, 7.9)), "6.5");
    }

    #[test]
    fn quantiles_are_numpys() {
        // numpy.quantile([1, 2, 4, 8], [0, .25, .5, .75, 1])
        assert_eq!(summary(&[1., 2., 4., 8.]), [1., 1.75, 3., 5., 8., 3.75]);
        assert_eq!(summary(&[3.])[3], 3.);
    }
}
