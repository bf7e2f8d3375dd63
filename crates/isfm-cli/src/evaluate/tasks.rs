//! What `detect` and `segment` have in common: methods side by side in tables, and the files of them.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use isfm_metrics::Direction;
use serde_json::{Map, Value};

use super::latex::{self, escape, line};
use super::report::{Mark, marks};
use super::table::{blocks, marked, number};
use crate::{Console, Usage, text_of};

/// What becomes of the scores.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct TaskOutputs {
    /// Write all scores as JSON, to standard output if no file is named
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "/dev/stdout")]
    pub json: Option<PathBuf>,
    /// Write a row for each method (its class is empty) and for each method and class as CSV
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write the tables as LaTeX for the package booktabs, the best in bold and the second underlined
    #[arg(long, value_name = "FILE")]
    pub latex: Option<PathBuf>,
    /// Say nothing but what failed
    #[arg(short, long)]
    pub quiet: bool,
}

/// A column of scores, higher is better.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// What stands above it.
    pub head: String,
    /// One for each method, 0 to 1.
    pub values: Vec<Option<f64>>,
}

/// Methods down, scores across.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// What the scores are, or nothing if their heads say it.
    pub title: String,
    /// The scores.
    pub columns: Vec<Column>,
}

/// Everything that is printed and written.
#[derive(Debug)]
pub struct Scored {
    /// The methods' names.
    pub methods: Vec<String>,
    /// Those that others can be compared with: they have all that is asked for.
    pub complete: Vec<bool>,
    /// What is printed.
    pub tables: Vec<Table>,
    /// What is said below them.
    pub note: String,
    /// What is written as JSON.
    pub json: Value,
    /// What is written as CSV, the header first.
    pub rows: Vec<Vec<String>>,
}

/// A row or an object's member of what a score may lack.
pub fn cell(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// An object of scores by their names.
pub fn object<'a>(scores: impl IntoIterator<Item = (&'a str, Option<f64>)>) -> Map<String, Value> {
    scores.into_iter().map(|(name, value)| (name.to_owned(), Value::from(value))).collect()
}

/// What `NAME=PATH`, a method and what it made, needs.
pub const NAMED: &str = "NAME=PATH, such as ISFM=runs/isfm";

/// The names of methods, none of them twice.
///
/// # Errors
/// [`Usage`].
pub fn distinct(methods: &[(String, PathBuf)]) -> Result<()> {
    for (at, (name, _)) in methods.iter().enumerate() {
        if methods[..at].iter().any(|(other, _)| other == name) {
            let error = anyhow::anyhow!("two methods are called {name}: give each its own name");
            return Err(Usage::of(error));
        }
    }
    Ok(())
}

/// Names of classes, one a line: that of class 0 first.
///
/// # Errors
/// If it cannot be read, names none, or two alike.
pub fn class_names(path: &Path) -> Result<Vec<String>> {
    let text = text_of(path)?;
    let names: Vec<String> = text.trim_end().lines().map(|line| line.trim().to_owned()).collect();
    let told = path.display();
    ensure!(!text.trim().is_empty(), "{told} names no classes: needs a name in each line");
    for (at, name) in names.iter().enumerate() {
        let line = at + 1;
        ensure!(!name.is_empty(), "{told}, line {line} is empty: needs the name of class {at}");
        let first = names[..at].iter().position(|other| other == name);
        ensure!(
            first.is_none(),
            "{told}, lines {} and {line} are both {name:?}: needs a name of its own for each class",
            first.unwrap_or(at) + 1
        );
    }
    Ok(names)
}

/// The first few of a list that may be long.
pub fn first_few<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    const FEW: usize = 5;
    let mut items = items.into_iter();
    let mut told: Vec<String> = items.by_ref().take(FEW).map(|item| item.to_string()).collect();
    if items.next().is_some() {
        told.push("…".to_owned());
    }
    told.join(", ")
}

impl TaskOutputs {
    /// Where to talk, if each of the files can be one.
    ///
    /// # Errors
    /// [`Usage`].
    pub fn console(&self) -> Result<Console> {
        let paths: Vec<&Path> =
            [&self.json, &self.csv, &self.latex].into_iter().filter_map(|p| p.as_deref()).collect();
        Console::for_files(self.quiet, &paths)
    }

    /// Prints the tables and writes the files.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, scored: &Scored, console: Console) -> Result<()> {
        console.say(text(scored).trim_end());
        type Format = fn(&Scored) -> Result<Vec<u8>>;
        let files: [(&Option<PathBuf>, Format); 3] = [
            (&self.json, |scored| Ok(format!("{:#}\n", scored.json).into_bytes())),
            (&self.csv, |scored| csv(&scored.rows)),
            (&self.latex, |scored| Ok(as_latex(scored).into_bytes())),
        ];
        for (path, format) in files {
            let Some(path) = path else { continue };
            let bytes = format(scored)?;
            console.write(path, &bytes)?;
        }
        Ok(())
    }
}

impl Scored {
    fn marks(&self, column: &Column) -> Vec<Option<Mark>> {
        let values = column.values.iter().zip(&self.complete);
        let compared: Vec<_> =
            values.map(|(value, complete)| value.filter(|_| *complete)).collect();
        marks(&compared, Direction::Higher)
    }
}

/// The tables as they are printed.
pub fn text(scored: &Scored) -> String {
    let mut out = String::new();
    for table in &scored.tables {
        let column = |column: &Column| {
            let cells = column.values.iter().map(|&value| number(value));
            marked(&column.head, cells, scored.marks(column))
        };
        let columns: Vec<_> = table.columns.iter().map(column).collect();
        if !table.title.is_empty() {
            out += &format!("{}\n", table.title);
        }
        out += &blocks(scored.methods.iter().map(String::as_str), &columns);
    }
    if scored.methods.len() > 1 {
        out += "¹ best, ² second best; ";
    }
    out + &scored.note + "\n"
}

fn csv(rows: &[Vec<String>]) -> Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer.write_record(row)?;
    }
    Ok(writer.into_inner().map_err(|error| error.into_error())?)
}

/// The tables for a paper.
pub fn as_latex(scored: &Scored) -> String {
    let mut out = String::new();
    for table in &scored.tables {
        if !table.title.is_empty() {
            out += &format!("% {}\n", line(&table.title));
        }
        out += &format!("\\begin{{tabular}}{{l{}}}\n\\toprule\n", "r".repeat(table.columns.len()));
        let heads = table.columns.iter().map(|column| escape(&column.head));
        let heads: Vec<String> = std::iter::once("Method".to_owned()).chain(heads).collect();
        out += &format!("{} \\\\\n\\midrule\n", heads.join(" & "));
        let marks: Vec<_> = table.columns.iter().map(|column| scored.marks(column)).collect();
        for (row, name) in scored.methods.iter().enumerate() {
            out += &escape(name);
            for (column, marks) in table.columns.iter().zip(&marks) {
                out += &format!(" & {}", latex::cell(column.values[row], 4, marks[row]));
            }
            out += " \\\\\n";
        }
        out += "\\bottomrule\n\\end{tabular}\n";
    }
    out
}
