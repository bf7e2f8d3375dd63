//! The table of means, as text.

use super::report::{Mark, Report};

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

/// A header and a cell for each method.
type Column = Vec<String>;

/// Methods down, metrics across.
pub fn text(report: &Report) -> String {
    let mut names: Column = vec![String::new()];
    names.extend(report.methods.iter().map(|m| m.name.clone()));
    let mut images: Column = vec!["images".to_owned()];
    images.extend(report.methods.iter().map(|m| m.images.to_string()));

    let mut columns = vec![images];
    for &metric in &report.metrics {
        let mut column: Column = vec![format!("{metric} ")];
        for (method, mark) in report.methods.iter().zip(report.marks(metric)) {
            let value = method.mean.as_ref().and_then(|mean| mean.get(metric));
            column.push(format!("{}{}", number(value), sign(mark)));
        }
        columns.push(column);
    }
    let mut ranks: Column = vec!["Avg. rank ".to_owned()];
    for (method, mark) in report.methods.iter().zip(report.rank_marks()) {
        let rank = method.average_rank.map_or("–".to_owned(), |r| format!("{r:.2}"));
        ranks.push(format!("{rank}{}", sign(mark)));
    }
    columns.push(ranks);

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
