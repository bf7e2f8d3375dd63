//! The distribution of a metric, as SVG.

use std::fmt::Write;

use isfm_metrics::Metric;

use super::page::{better, escape};
use super::report::Report;
use super::table::number;

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
    // Quantiles between the two nearest values, as NumPy's `quantile`.
    let at = |part: f64| {
        let place = part * (sorted.len() - 1) as f64;
        let below = place.floor() as usize;
        let above = (below + 1).min(sorted.len() - 1);
        sorted[below] + (sorted[above] - sorted[below]) * (place - place.floor())
    };
    let mean = sorted.iter().sum::<f64>() / sorted.len() as f64;
    [at(0.), at(0.25), at(0.5), at(0.75), at(1.), mean]
}

/// A row for each method: a point for each picture, a box from the lower to the upper quartile with
/// the median in it, a line from the least to the greatest value, and a diamond at the mean.
pub fn svg(report: &Report, metric: Metric) -> String {
    let rows: Vec<Vec<f64>> = (0..report.methods.len())
        .map(|at| report.scores(at).filter_map(|(_, s)| s.get(metric)).collect())
        .collect();
    let finite = || rows.iter().flatten().copied().filter(|v| v.is_finite());
    let (low, high) =
        finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    let (name, better) = (escape(metric.name()), better(metric));
    let bottom = TOP + ROW * rows.len() as f64;
    let mut out = format!(
        "<figure class=plot><figcaption><b>{name}</b> {better}</figcaption>\
         <svg viewBox='0 0 {WIDTH} {height}' role=img aria-label='{name} of each method'>",
        height = bottom + AXIS
    );
    if low > high {
        return out + "<text x=8 y=20>no finite values</text></svg></figure>";
    }
    let ticks = ticks(low, high);
    let (from, to) = (ticks[0].min(low), ticks[ticks.len() - 1].max(high));
    let x = |v: f64| LABEL + (WIDTH - LABEL - RIGHT) * (v - from) / (to - from);
    for &tick in &ticks {
        let _ = write!(
            out,
            "<path class=grid d='M{x:.1} {TOP}V{bottom}'/>\
             <text class=tick x={x:.1} y={y}>{label}</text>",
            x = x(tick),
            y = bottom + 15.,
            label = tick_label(tick, &ticks)
        );
    }
    for (at, (method, values)) in report.methods.iter().zip(&rows).enumerate() {
        let middle = TOP + ROW * (at as f64 + 0.5);
        let mut label: String = method.name.chars().take(LABEL_LENGTH).collect();
        if label.len() < method.name.len() {
            label.pop();
            label.push('…');
        }
        let _ = write!(out, "<g class=c{}><text x=4 y={}>{}", at % 8, middle + 4., escape(&label));
        let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        if sorted.is_empty() {
            out += "</text></g>";
            continue;
        }
        let summary = summary(&sorted);
        let [least, lower, median, upper, most, mean] = summary.map(|v| number(Some(v)));
        let infinite = match values.len() - sorted.len() {
            0 => String::new(),
            n => format!(", {n} infinite"),
        };
        let _ = write!(
            out,
            "<title>{}: mean {mean}, median {median}, quartiles {lower} and {upper}, \
             from {least} to {most}{infinite}</title></text>",
            escape(&method.name)
        );
        // A path of dots: a line of no length with round caps draws one.
        out += "<path class=dots d='";
        for (i, value) in values.iter().enumerate().filter(|(_, v)| v.is_finite()) {
            // The golden ratio spreads points evenly, the same way in every run.
            let spread = (i as f64 * 0.618_033_988_75).fract() * 2. - 1.;
            let _ = write!(out, "M{:.1} {:.1}h0", x(*value), middle + SPREAD * spread);
        }
        let [least, lower, median, upper, most, mean] = summary.map(x);
        let (top, width, left) = (middle - 7., (upper - lower).max(0.5), mean - 4.);
        let _ = write!(
            out,
            "'/><path class=line \
             d='M{least:.1} {middle}H{lower:.1}M{upper:.1} {middle}H{most:.1}'/>\
             <rect class=box x={lower:.1} y={top} width={width:.1} height=14 rx=2 />\
             <path class=median d='M{median:.1} {top}v14'/>\
             <path class=mean d='M{left:.1} {middle}l4 -4l4 4l-4 4z'/></g>"
        );
    }
    out + "</svg></figure>"
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
