//! Numbers of several seeds: their tables.

use anyhow::Result;
use isfm_metrics::{Direction, Metric, average_rank};

use crate::evaluate::latex;
use crate::evaluate::report::{Mark, marks};
use crate::evaluate::table::{blocks, marked, number, rank};

/// The metrics of the paper's tables.
pub const METRICS: &[Metric] = Metric::RANKED;

/// Mean and spread of a score over seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Value {
    /// The mean.
    pub mean: f64,
    /// The standard deviation of one seed's value (n − 1); none for a single one.
    pub spread: Option<f64>,
}

impl Value {
    /// Of these values; none if there is none or one is not a number.
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let spread = (values.len() > 1).then(|| (squares / (n - 1.)).sqrt());
        (!mean.is_nan()).then_some(Self { mean, spread })
    }
}

/// A row of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What it is called.
    pub name: String,
    /// One for each of [`METRICS`].
    pub values: Vec<Option<Value>>,
}

/// Rows of [`METRICS`].
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// What it shows.
    pub title: String,
    /// The rows.
    pub rows: Vec<Row>,
}

impl Series {
    fn column(&self, at: usize) -> Vec<Option<f64>> {
        self.rows.iter().map(|row| row.values[at].map(|value| value.mean)).collect()
    }

    fn marks(&self, at: usize) -> Vec<Option<Mark>> {
        marks(&self.column(at), METRICS[at].direction())
    }

    /// The mean of each row's places, of those rows that have all values.
    fn ranks(&self) -> Vec<Option<f64>> {
        let whole = |row: &Row| row.values.iter().map(|value| Some((*value)?.mean)).collect();
        let rows: Vec<Option<Vec<f64>>> = self.rows.iter().map(whole).collect();
        let table: Vec<&Vec<f64>> = rows.iter().flatten().collect();
        let directions: Vec<Direction> = METRICS.iter().map(|m| m.direction()).collect();
        // An error means that there is nothing to rank.
        let mut ranks = average_rank(&table, &directions).unwrap_or_default().into_iter();
        rows.iter().map(|row| row.as_ref().and_then(|_| ranks.next())).collect()
    }

    /// For a terminal: means, then spreads if there are any.
    pub fn text(&self) -> String {
        let names = || self.rows.iter().map(|row| row.name.as_str());
        let mut columns: Vec<Vec<String>> = Vec::new();
        for (at, metric) in METRICS.iter().enumerate() {
            let cells = self.column(at).into_iter().map(number);
            columns.push(marked(metric.name(), cells, self.marks(at)));
        }
        let ranks = self.ranks();
        let best = marks(&ranks, Direction::Lower);
        columns.push(marked("Avg. rank", ranks.into_iter().map(rank), best));
        let mut out = format!("{}\n{}", self.title, blocks(names(), &columns));
        if self.has_spreads() {
            let spread = |at: usize| {
                let cells = self.rows.iter().map(|row| match row.values[at] {
                    Some(Value { spread: Some(spread), .. }) => format!("±{spread:.4}"),
                    _ => "–".to_owned(),
                });
                std::iter::once(METRICS[at].name().to_owned()).chain(cells).collect()
            };
            let spreads: Vec<Vec<String>> = (0..METRICS.len()).map(spread).collect();
            out += &format!("standard deviation over seeds\n{}", blocks(names(), &spreads));
        }
        out.trim_end().to_owned() + "\n"
    }

    fn has_spreads(&self) -> bool {
        let spread = |value: &Option<Value>| value.is_some_and(|value| value.spread.is_some());
        self.rows.iter().any(|row| row.values.iter().any(spread))
    }

    /// A Markdown table: the best bold, the second best underlined.
    pub fn markdown(&self) -> String {
        let heads: Vec<&str> = METRICS.iter().map(|metric| metric.name()).collect();
        let mut out =
            format!("### {}\n\n| | {} | Avg. rank |\n| --- |", self.title, heads.join(" | "));
        out += &" ---: |".repeat(heads.len() + 1);
        out.push('\n');
        let ranks = self.ranks();
        let best = marks(&ranks, Direction::Lower);
        for (at, row) in self.rows.iter().enumerate() {
            out += &format!("| {} |", row.name);
            for (column, value) in row.values.iter().enumerate() {
                let text = stressed(number(value.map(|value| value.mean)), self.marks(column)[at]);
                let spread = value.and_then(|value| value.spread);
                let spread = spread.map_or_else(String::new, |spread| format!(" ±{spread:.4}"));
                out += &format!(" {text}{spread} |");
            }
            out += &format!(" {} |\n", stressed(rank(ranks[at]), best[at]));
        }
        out
    }

    /// A booktabs table.
    pub fn latex(&self) -> String {
        let heads = METRICS.iter().map(|metric| latex::escape(metric.name()));
        let heads: Vec<String> = heads.collect();
        let mut out = format!(
            "% {}. Needs \\usepackage{{booktabs}}. Best bold, second underlined.\n\
             \\begin{{tabular}}{{l{}}}\n\\toprule\n & {} & Avg.\\ rank \\\\\n\\midrule\n",
            latex::line(&self.title),
            "r".repeat(heads.len() + 1),
            heads.join(" & ")
        );
        let ranks = self.ranks();
        let best = marks(&ranks, Direction::Lower);
        for (at, row) in self.rows.iter().enumerate() {
            out += &latex::escape(&row.name);
            for (column, value) in row.values.iter().enumerate() {
                let mean = value.map(|value| value.mean);
                out += &format!(" & {}", latex::cell(mean, 4, self.marks(column)[at]));
                if let Some(spread) = value.and_then(|value| value.spread) {
                    out += &format!(" {{\\footnotesize $\\pm${spread:.4}}}");
                }
            }
            out += &format!(" & {} \\\\\n", latex::cell(ranks[at], 2, best[at]));
        }
        out + "\\bottomrule\n\\end{tabular}\n"
    }

    /// A line for each row and metric: title, row, metric, mean, spread.
    ///
    /// # Errors
    /// None that can be met.
    pub fn csv(all: &[Self]) -> Result<Vec<u8>> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(["table", "row", "metric", "mean", "spread"])?;
        for series in all {
            for row in &series.rows {
                for (metric, value) in METRICS.iter().zip(&row.values) {
                    let text =
                        |number: Option<f64>| number.map_or(String::new(), |n| n.to_string());
                    writer.write_record([
                        &series.title,
                        &row.name,
                        metric.name(),
                        &text(value.map(|value| value.mean)),
                        &text(value.and_then(|value| value.spread)),
                    ])?;
                }
            }
        }
        Ok(writer.into_inner().map_err(|error| error.into_error())?)
    }
}

fn stressed(text: String, mark: Option<Mark>) -> String {
    match mark {
        Some(Mark::Best) => format!("**{text}**"),
        Some(Mark::Second) => format!("<u>{text}</u>"),
        None => text,
    }
}
