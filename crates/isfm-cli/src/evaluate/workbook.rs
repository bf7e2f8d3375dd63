//! The scores as a workbook: means, subsets, what is known of their certainty, and a sheet for each
//! metric.

use anyhow::Result;
use isfm_metrics::{Direction, Metric};
use rust_xlsxwriter::{Format, FormatUnderline, Workbook, Worksheet};

use super::report::{Mark, Report};

/// The formats that cells have.
struct Formats {
    plain: Format,
    head: Format,
    best: Format,
    second: Format,
}

impl Formats {
    fn of(&self, mark: Option<Mark>) -> &Format {
        match mark {
            Some(Mark::Best) => &self.best,
            Some(Mark::Second) => &self.second,
            None => &self.plain,
        }
    }
}

/// A file of Office Open XML (.xlsx).
///
/// # Errors
/// If there are more pictures than a sheet has rows, or longer names than a cell can hold.
pub fn xlsx(report: &Report) -> Result<Vec<u8>> {
    let four = || Format::new().set_num_format("0.0000");
    let formats = Formats {
        plain: four(),
        head: Format::new().set_bold(),
        best: four().set_bold(),
        second: four().set_underline(FormatUnderline::Single),
    };
    let mut book = Book { book: Workbook::new(), names: Vec::new(), formats };
    for (name, part) in report.parts() {
        let name = if name.is_empty() { "Means".to_owned() } else { format!("Means {name}") };
        book.means(&name, part)?;
    }
    book.intervals(report)?;
    book.tests(report)?;
    for &metric in &report.metrics {
        book.metric(report, metric)?;
    }
    Ok(book.book.save_to_buffer()?)
}

struct Book {
    book: Workbook,
    names: Vec<String>,
    formats: Formats,
}

impl Book {
    /// An empty sheet with these heads, which stay in sight with the first column.
    fn sheet(&mut self, name: &str, heads: &[String]) -> Result<(&mut Worksheet, &Formats)> {
        let name = sheet_name(name, &self.names);
        let sheet = self.book.add_worksheet();
        sheet.set_name(&name)?.set_freeze_panes(1, 1)?.set_column_width(0, 24)?;
        self.names.push(name);
        for (column, head) in heads.iter().enumerate() {
            sheet.write_string_with_format(0, u16::try_from(column)?, head, &self.formats.head)?;
        }
        Ok((sheet, &self.formats))
    }

    fn means(&mut self, name: &str, report: &Report) -> Result<()> {
        let metrics = report.metrics.iter().map(|&metric| with_arrow(metric));
        let heads = ["Method".to_owned(), "Images".to_owned()].into_iter().chain(metrics);
        let heads: Vec<String> = heads.chain(["Avg. rank ↓".to_owned()]).collect();
        let (sheet, formats) = self.sheet(name, &heads)?;
        let marks: Vec<_> = report.metrics.iter().map(|&metric| report.marks(metric)).collect();
        let rank_marks = report.rank_marks();
        for (at, method) in report.methods.iter().enumerate() {
            let row = at as u32 + 1;
            sheet.write_string(row, 0, &method.name)?;
            sheet.write_number(row, 1, method.images as f64)?;
            let ranks = std::iter::once((method.average_rank, rank_marks[at]));
            let means = report.metrics.iter().zip(&marks);
            let means = means.map(|(&metric, marks)| (report.mean(at, metric), marks[at]));
            for (column, (value, mark)) in (2..).zip(means.chain(ranks)) {
                write(sheet, row, column, value, formats.of(mark))?;
            }
        }
        Ok(())
    }

    fn intervals(&mut self, report: &Report) -> Result<()> {
        let Some(intervals) = &report.intervals else { return Ok(()) };
        let sides = |metric: &Metric| ["from", "to"].map(|side| format!("{metric} {side}"));
        let heads = std::iter::once("Method".to_owned());
        let heads: Vec<String> = heads.chain(report.metrics.iter().flat_map(sides)).collect();
        let name = format!("Intervals {} %", intervals.level);
        let (sheet, formats) = self.sheet(&name, &heads)?;
        for ((row, method), bounds) in (1..).zip(&report.methods).zip(&intervals.bounds) {
            sheet.write_string(row, 0, &method.name)?;
            let bounds = bounds.iter().flat_map(|b| [b.map(|b| b[0]), b.map(|b| b[1])]);
            for (column, bound) in (1..).zip(bounds) {
                write(sheet, row, column, bound, &formats.plain)?;
            }
        }
        Ok(())
    }

    fn tests(&mut self, report: &Report) -> Result<()> {
        let Some(comparison) = &report.comparison else { return Ok(()) };
        let heads =
            ["Method", "Against", "Metric", "Pictures", "Better (rank sum)", "Worse (rank sum)"];
        let heads: Vec<String> =
            heads.into_iter().chain(["p", "p (Holm)"]).map(str::to_owned).collect();
        let (sheet, _) = self.sheet("Tests", &heads)?;
        let against = &report.methods[comparison.against].name;
        let mut row = 0;
        for (method, tests) in report.methods.iter().zip(&comparison.tests) {
            for (metric, test) in report.metrics.iter().zip(tests) {
                let Some(test) = test else { continue };
                row += 1;
                sheet.write_string(row, 0, &method.name)?;
                sheet.write_string(row, 1, against)?;
                sheet.write_string(row, 2, metric.name())?;
                let values = [test.pictures as f64, test.better, test.worse, test.p, test.adjusted];
                for (column, value) in (3..).zip(values) {
                    sheet.write_number(row, column, value)?;
                }
            }
        }
        Ok(())
    }

    /// Pictures down, methods across, the means last.
    fn metric(&mut self, report: &Report, metric: Metric) -> Result<()> {
        let methods = report.methods.iter().map(|method| method.name.clone());
        let heads: Vec<String> = std::iter::once("Picture".to_owned()).chain(methods).collect();
        let (sheet, formats) = self.sheet(metric.name(), &heads)?;
        let mut row = 0;
        for pair in &report.pairs {
            let Ok(outcome) = &pair.outcome else { continue };
            row += 1;
            sheet.write_string(row, 0, &pair.name)?;
            for (column, scored) in (1..).zip(&outcome.methods) {
                let value = scored.as_ref().ok().and_then(|scored| scored.scores.get(metric));
                write(sheet, row, column, value, &formats.plain)?;
            }
        }
        row += 1;
        sheet.write_string_with_format(row, 0, "mean", &formats.head)?;
        for ((at, column), mark) in (0..report.methods.len()).zip(1..).zip(report.marks(metric)) {
            write(sheet, row, column, report.mean(at, metric), formats.of(mark))?;
        }
        Ok(())
    }
}

/// Numbers as numbers, infinite ones, which a sheet does not have, as text.
fn write(
    sheet: &mut Worksheet,
    row: u32,
    column: u16,
    value: Option<f64>,
    format: &Format,
) -> Result<()> {
    match value {
        Some(value) if value.is_infinite() => {
            sheet.write_string_with_format(row, column, value.to_string(), format)?;
        }
        Some(value) if !value.is_nan() => {
            sheet.write_number_with_format(row, column, value, format)?;
        }
        _ => {}
    }
    Ok(())
}

fn with_arrow(metric: Metric) -> String {
    let arrow = match metric.direction() {
        Direction::Higher => '↑',
        Direction::Lower => '↓',
    };
    format!("{metric} {arrow}")
}

/// A sheet's name that Excel takes: at most 31 units of UTF-16, no `[]:*?/\`, no apostrophe at its ends,
/// not one of `taken` in capitals or not, nor "History", which it keeps for itself.
pub fn sheet_name(wanted: &str, taken: &[String]) -> String {
    const LENGTH: usize = 31;
    let free = |name: &str| {
        let name = name.to_lowercase();
        name != "history" && taken.iter().all(|taken| taken.to_lowercase() != name)
    };
    let sound = |c: char| if c.is_control() || "[]:*?/\\".contains(c) { '_' } else { c };
    let sound: String = wanted.chars().map(sound).collect();
    let mut number = 1;
    loop {
        let end = if number == 1 { String::new() } else { format!(" ({number})") };
        let mut room = LENGTH - end.len();
        let fits = |c: &char| {
            let fits = c.len_utf16() <= room;
            room = room.saturating_sub(c.len_utf16());
            fits
        };
        let start: String = sound.trim().chars().take_while(fits).collect();
        let start = start.trim().trim_matches('\'');
        let name = format!("{}{end}", if start.is_empty() { "Sheet" } else { start });
        if free(&name) {
            return name;
        }
        number += 1;
    }
}
