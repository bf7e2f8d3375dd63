//! The loss curve as a picture.

use std::fmt::Write;

use crate::{StepReport, ValidationReport};

const WIDTH: f32 = 760.;
const HEIGHT: f32 = 420.;
const LEFT: f32 = 60.;
const RIGHT: f32 = 110.;
const TOP: f32 = 20.;
const BOTTOM: f32 = 40.;
/// What the panel of validations adds to the height.
const PANEL: f32 = 200.;
const COLOURS: [&str; 6] = ["#000000", "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e"];
/// At most so many points a line: each is the mean of its share of the steps.
const POINTS: usize = 300;

/// An SVG of the total and its (unweighted) terms against steps, on a logarithmic scale, and below
/// it of the validations' criterion, if there are any.
pub(crate) fn svg(reports: &[StepReport], validations: &[ValidationReport]) -> String {
    let share = reports.len().div_ceil(POINTS).max(1);
    let names = reports.first().map(StepReport::all_losses).unwrap_or_default();
    let terms = names.len();
    let lines: Vec<Vec<(f32, f32)>> = (0..terms)
        .map(|term| {
            let mean = |chunk: &[StepReport]| {
                let sum: f32 =
                    chunk.iter().map(|r| r.all_losses().get(term).map_or(0., |l| l.1)).sum();
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
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        if validations.is_empty() { HEIGHT } else { HEIGHT + PANEL }
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
    for (i, ((line, colour), (name, _))) in lines.iter().zip(COLOURS).zip(names).enumerate() {
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
    panel(&mut out, validations, x);
    out.push_str("</svg>\n");
    out
}

/// The criterion against steps, between its least and its largest value; a dot at the best.
fn panel(out: &mut String, validations: &[ValidationReport], x: impl Fn(f32) -> f32) {
    let values = || validations.iter().map(|v| v.criterion as f32);
    let Some(best) = validations.iter().rfind(|v| v.best) else { return };
    let (low, high) = values().fold((0f32, 0f32), |(low, high), v| (low.min(v), high.max(v)));
    let (top, bottom) = (HEIGHT + TOP, HEIGHT + PANEL - TOP);
    let y = |v: f32| bottom - (bottom - top) * (v - low) / (high - low).max(1e-6);
    let right = WIDTH - RIGHT;
    for value in [low, 0., high] {
        let at = y(value);
        let _ = writeln!(
            out,
            "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#cccccc\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value:.3}</text>",
            LEFT - 6.,
            at + 4.
        );
    }
    let mut path = String::new();
    for (validation, v) in validations.iter().zip(values()) {
        let _ = write!(path, " {:.1},{:.1}", x(validation.step as f32), y(v));
    }
    let _ = writeln!(
        out,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#000000\" stroke-width=\"1.5\"/>\
         <circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\">validation</text>",
        path.trim_start(),
        x(best.step as f32),
        y(best.criterion as f32),
        right + 12.,
        top + 4.
    );
}
