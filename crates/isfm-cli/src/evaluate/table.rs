//! The table of means, as text.

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
type Column = Vec<String>;

/// Methods down, metrics across.
pub fn text(report: &Report) -> String {
    let column = |head: &str, marks: Vec<Option<Mark>>, cell: &dyn Fn(&MethodReport) -> String| {
        let cells = report.methods.iter().map(cell).zip(marks);
        let cells = cells.map(|(cell, mark)| format!("{cell}{}", sign(mark)));
        std::iter::once(format!("{head} ")).chain(cells).collect::<Column>()
    };
    let names = report.methods.iter().map(|m| m.name.clone());
    let names: Column = std::iter::once(String::new()).chain(names).collect();
    let images = report.methods.iter().map(|m| m.images.to_string());
    let mut columns = vec![std::iter::once("images".to_owned()).chain(images).collect()];
    for &metric in &report.metrics {
        let value = |m: &MethodReport| number(m.mean.as_ref().and_then(|mean| mean.get(metric)));
        columns.push(column(metric.name(), report.marks(metric), &value));
    }
    columns.push(column("Avg. rank", report.rank_marks(), &|m| rank(m.average_rank)));

    let mut out = String::new();
    let name_width = width(&names);
    let mut rest = &columns[..];
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
    out += "¹ best, ² second best";
    let ranked: Vec<_> = report.ranked.iter().map(|m| m.name()).collect();
    if !ranked.is_empty() {
        out += &format!("; average rank over {}", ranked.join(", "));
    }
    out.push('\n');
    out
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
