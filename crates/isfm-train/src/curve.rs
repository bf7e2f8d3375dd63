//! The loss curve as a picture.

use std::fmt::Write;

use crate::StepReport;

const WIDTH: f32 = 760.;
const HEIGHT: f32 = 420.;
const LEFT: f32 = 60.;
const RIGHT: f32 = 110.;
const TOP: f32 = 20.;
const BOTTOM: f32 = 40.;
const COLOURS: [&str; 5] = ["#000000", "#1f77b4", "#d62728", "#2ca02c", "#9467bd"];
/// At most so many points a line: each is the mean of its share of the steps.
const POINTS: usize = 300;

/// An SVG of the total and its (unweighted) terms against steps, on a logarithmic scale.
pub(crate) fn svg(reports: &[StepReport]) -> String {
    let share = reports.len().div_ceil(POINTS).max(1);
    let lines: Vec<Vec<(f32, f32)>> = (0..COLOURS.len())
        .map(|term| {
            let mean = |chunk: &[StepReport]| {
                let sum: f32 = chunk.iter().map(|r| r.losses()[term].1).sum();
                (chunk[chunk.len() / 2].step as f32, (sum / chunk.len() as f32).max(1e-6).log10())
            };
            reports.chunks(share).map(mean).collect()
        })
        .collect();
    let all = || lines.iter().flatten();
    let last = reports.last().map_or(1, |r| r.step).max(2) as f32;
    let low = all().map(|p| p.1).fold(f32::INFINITY, f32::min).min(0.).floor();
    let high = all().map(|p| p.1).fold(f32::NEG_INFINITY, f32::max).max(0.).ceil().max(low + 1.);
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let x = |step: f32| LEFT + (right - LEFT) * step / last;
    let y = |v: f32| bottom - (bottom - TOP) * (v - low) / (high - low);

    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    // Writing to a string cannot fail.
    for decade in low as i32..=high as i32 {
        let at = y(decade as f32);
        let _ = writeln!(
            out,
            "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#cccccc\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 6.,
            at + 4.,
            10f32.powi(decade)
        );
    }
    for quarter in 0..=4 {
        let step = (last * quarter as f32 / 4.).round();
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{step}</text>",
            x(step),
            bottom + 18.
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">step</text>",
        x(last / 2.),
        HEIGHT - 6.
    );
    let names = reports.first().map(StepReport::losses);
    for (i, ((line, colour), (name, _))) in
        lines.iter().zip(COLOURS).zip(names.into_iter().flatten()).enumerate()
    {
        let mut path = String::new();
        for &(step, v) in line {
            let _ = write!(path, " {:.1},{:.1}", x(step), y(v));
        }
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{name}</text>",
            path.trim_start(),
            right + 12.,
            TOP + 16. * (i + 1) as f32
        );
    }
    out.push_str("</svg>\n");
    out
}
