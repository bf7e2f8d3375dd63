//! The tables, as text.

use std::cmp::Ordering;

use isfm_metrics::Convention;

use super::certainty::Test;
use super::report::{Mark, MethodReport, Report};

/// Columns of a terminal that lines are kept within; a wider table goes on below.
const WIDTH: usize = 100;

/// Four digits after the point, as papers print them.
pub fn number(value: Option<f64>) -> String {
    match value {
        Some(v) if v == f64::INFINITY => "∞".to_owned(),
        Some(v) if v == f64::NEG_INFINITY => "−∞".to_owned(),
        Some(v) if !v.is_nan() => format!("{v:.4}"),
        _ => "–".to_owned(),
    }
}

/// Two digits after the point.
pub fn rank(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), |rank| format!("{rank:.2}"))
}

/// A header and a cell for each method.
pub type Column = Vec<String>;

/// Methods down, metrics across; then what else was asked for.
pub fn text(report: &Report) -> String {
    let mut out = means(report);
    out += "¹ best, ² second best";
    out += &ranked(report, "; ");
    if report.convention != Convention::Released {
        out += &format!("; values as {} defines them", report.convention);
    }
    out.push('\n');
    for (name, part) in report.parts().skip(1) {
        out += &format!("\n{name}: {} pairs\n{}\n", part.scored(), means(part).trim_end());
        if part.ranked != report.ranked {
            out += &format!("{}\n", ranked(part, ""));
        }
    }
    out + &intervals(report) + &comparison(report)
}

fn ranked(report: &Report, before: &str) -> String {
    let ranked: Vec<_> = report.ranked.iter().map(|m| m.name()).collect();
    if ranked.is_empty() {
        return String::new();
    }
    format!("{before}average rank over {}", ranked.join(", "))
}

fn means(report: &Report) -> String {
    let column = |head: &str, marks: Vec<Option<Mark>>, cell: &dyn Fn(&MethodReport) -> String| {
        marked(head, report.methods.iter().map(cell), marks)
    };
    let images = report.methods.iter().map(|m| m.images.to_string());
    let mut columns = vec![std::iter::once("images".to_owned()).chain(images).collect()];
    for &metric in &report.metrics {
        let value = |m: &MethodReport| number(m.mean.as_ref().and_then(|mean| mean.get(metric)));
        columns.push(column(metric.name(), report.marks(metric), &value));
    }
    columns.push(column("Avg. rank", report.rank_marks(), &|m| rank(m.average_rank)));
    blocks(names(report), &columns)
}

fn names(report: &Report) -> impl Iterator<Item = &str> {
    report.methods.iter().map(|method| method.name.as_str())
}

fn intervals(report: &Report) -> String {
    let Some(intervals) = &report.intervals else { return String::new() };
    let (level, resamples) = (intervals.level, intervals.resamples);
    let columns: Vec<Column> = (0..report.metrics.len())
        .map(|at| {
            let cells = intervals.bounds.iter().map(|bounds| interval(bounds[at]));
            std::iter::once(report.metrics[at].name().to_owned()).chain(cells).collect()
        })
        .collect();
    format!(
        "\n{level} % intervals of the means (bootstrap over pictures, {resamples} times)\n{}",
        blocks(names(report), &columns).trim_end_matches('\n')
    ) + "\n"
}

/// From … to.
pub fn interval(bounds: Option<[f64; 2]>) -> String {
    bounds.map_or("–".to_owned(), |[from, to]| {
        format!("{}…{}", number(Some(from)), number(Some(to)))
    })
}

fn comparison(report: &Report) -> String {
    let Some(comparison) = &report.comparison else { return String::new() };
    let columns: Vec<Column> = (0..report.metrics.len())
        .map(|at| {
            let cells = comparison.tests.iter().map(|tests| p_value(tests[at]));
            std::iter::once(report.metrics[at].name().to_owned()).chain(cells).collect()
        })
        .collect();
    let against = &report.methods[comparison.against].name;
    format!(
        "\np of the difference to {against} (Wilcoxon's signed-rank test over pictures, Holm's \
         correction)\n{}+ better, - worse than {against} on more, or larger, differences\n",
        blocks(names(report), &columns)
    )
}

/// The corrected p, and on which side.
pub fn p_value(test: Option<Test>) -> String {
    let Some(test) = test else { return "– ".to_owned() };
    let p = match test.adjusted {
        p if p < 0.0001 => "<0.0001".to_owned(),
        p => format!("{p:.4}"),
    };
    let side = match test.better.total_cmp(&test.worse) {
        Ordering::Greater => '+',
        Ordering::Less => '-',
        Ordering::Equal => ' ',
    };
    format!("{p}{side}")
}

/// Columns beside the methods' names, as many as there is room for, the others below.
pub fn blocks<'a>(names: impl Iterator<Item = &'a str>, columns: &[Column]) -> String {
    let names: Column = std::iter::once("").chain(names).map(str::to_owned).collect();
    let mut out = String::new();
    let name_width = width(&names);
    let mut rest = columns;
    while !rest.is_empty() {
        let mut line = name_width;
        let fits = |c: &&Column| {
            line += 2 + width(c);
            line <= WIDTH
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (block, more) = rest.split_at(count);
        for row in 0..names.len() {
            let mut line = pad(&names[row], name_width, false);
            for column in block {
                line += "  ";
                line += &pad(&column[row], width(column), true);
            }
            out += line.trim_end();
            out.push('\n');
        }
        out.push('\n');
        rest = more;
    }
    out
}

/// A column whose cells have their marks behind them.
pub fn marked(head: &str, cells: impl Iterator<Item = String>, marks: Vec<Option<Mark>>) -> Column {
    let cells = cells.zip(marks).map(|(cell, mark)| format!("{cell}{}", sign(mark)));
    std::iter::once(format!("{head} ")).chain(cells).collect()
}

fn sign(mark: Option<Mark>) -> char {
    match mark {
        Some(Mark::Best) => '¹',
        Some(Mark::Second) => '²',
        None => ' ',
    }
}

fn width(column: &Column) -> usize {
    column.iter().map(|cell| cell.chars().count()).max().unwrap_or(0)
}

fn pad(text: &str, width: usize, right: bool) -> String {
    if right { format!("{text:>width$}") } else { format!("{text:<width$}") }
}
