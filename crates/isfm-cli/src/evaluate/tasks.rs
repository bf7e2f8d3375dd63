//! What `detect` and `segment` have in common: methods side by side in tables, and the files of them.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};

use super::report::Mark;
use super::table::number;
use crate::{Console, ConsoleArgs, Usage, text_of};

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

/// `NAME=PATH`, a method and what it made.
pub fn named_path(text: &str) -> std::result::Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.trim().is_empty() && !path.is_empty() => {
            Ok((name.trim().to_owned(), path.into()))
        }
        _ => Err("needs NAME=PATH, such as ISFM=runs/isfm".to_owned()),
    }
}

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
        let check = || {
            for (at, path) in paths.iter().enumerate() {
                ensure!(!path.is_dir(), "{} is a folder: name a file to write", path.display());
                let twice = paths[..at].contains(path);
                ensure!(!twice, "{} is named twice as an output", path.display());
            }
            Ok(())
        };
        check().map_err(Usage::of)?;
        Ok(Console::new(ConsoleArgs { quiet: self.quiet, json: false }, paths))
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
            (&self.latex, |scored| Ok(latex(scored).into_bytes())),
        ];
        for (path, format) in files {
            let Some(path) = path else { continue };
            let bytes = format(scored)?;
            isfm_files::write_atomically(path, |file| file.write_all(&bytes))
                .with_context(|| format!("cannot write {}", path.display()))?;
            console.say(path.display());
        }
        Ok(())
    }
}

/// Which methods are best and second best, equal ones alike; none if fewer than two can be compared.
pub fn marks(values: &[Option<f64>], complete: &[bool]) -> Vec<Option<Mark>> {
    let known = |at: usize| values[at].filter(|_| complete[at]);
    let mut order: Vec<f64> = (0..values.len()).filter_map(known).collect();
    let compared = order.len() > 1;
    order.sort_by(|a, b| b.total_cmp(a));
    order.dedup();
    let place = |value| order.iter().position(|&other| other == value);
    let mark = |at| [Mark::Best, Mark::Second].get(place(known(at)?)?).copied();
    (0..values.len()).map(|at| if compared { mark(at) } else { None }).collect()
}

/// Columns of a terminal that lines are kept within; a wider table goes on below.
const WIDTH: usize = 100;

/// The tables as they are printed.
pub fn text(scored: &Scored) -> String {
    let names: Vec<String> =
        std::iter::once(String::new()).chain(scored.methods.iter().cloned()).collect();
    let first = width(&names);
    let mut out = String::new();
    for table in &scored.tables {
        let columns = table.columns.iter().map(|column| {
            let marks = marks(&column.values, &scored.complete);
            let cells = column.values.iter().zip(marks).map(|(&value, mark)| {
                let sign = match mark {
                    Some(Mark::Best) => '¹',
                    Some(Mark::Second) => '²',
                    None => ' ',
                };
                format!("{}{sign}", number(value))
            });
            std::iter::once(format!("{} ", column.head)).chain(cells).collect::<Vec<_>>()
        });
        let columns: Vec<Vec<String>> = columns.collect();
        if !table.title.is_empty() {
            out += &format!("{}\n", table.title);
        }
        let mut rest = &columns[..];
        while !rest.is_empty() {
            let mut line = first;
            let fits = |column: &&Vec<String>| {
                line += 2 + width(column);
                line <= WIDTH
            };
            let (block, more) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            for (row, name) in names.iter().enumerate() {
                let mut line = format!("{name:<first$}");
                for column in block {
                    line += &format!("  {:>1$}", column[row], width(column));
                }
                out += line.trim_end();
                out.push('\n');
            }
            out.push('\n');
            rest = more;
        }
    }
    if scored.methods.len() > 1 {
        out += "¹ best, ² second best; ";
    }
    out + &scored.note + "\n"
}

fn width(column: &[String]) -> usize {
    column.iter().map(|cell| cell.chars().count()).max().unwrap_or(0)
}

fn csv(rows: &[Vec<String>]) -> Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer.write_record(row)?;
    }
    Ok(writer.into_inner().map_err(|error| error.into_error())?)
}

/// The tables for a paper.
pub fn latex(scored: &Scored) -> String {
    let mut out = String::new();
    for table in &scored.tables {
        if !table.title.is_empty() {
            out += &format!("% {}\n", table.title.replace(['\n', '\r'], " "));
        }
        out += &format!("\\begin{{tabular}}{{l{}}}\n\\toprule\n", "r".repeat(table.columns.len()));
        let heads = table.columns.iter().map(|column| escaped(&column.head));
        let heads: Vec<String> = std::iter::once("Method".to_owned()).chain(heads).collect();
        out += &format!("{} \\\\\n\\midrule\n", heads.join(" & "));
        let marks: Vec<_> =
            table.columns.iter().map(|column| marks(&column.values, &scored.complete)).collect();
        for (row, name) in scored.methods.iter().enumerate() {
            out += &escaped(name);
            for (column, marks) in table.columns.iter().zip(&marks) {
                let number = match column.values[row] {
                    Some(value) => format!("{value:.4}"),
                    None => "--".to_owned(),
                };
                out += &match marks[row] {
                    Some(Mark::Best) => format!(" & \\textbf{{{number}}}"),
                    Some(Mark::Second) => format!(" & \\underline{{{number}}}"),
                    None => format!(" & {number}"),
                };
            }
            out += " \\\\\n";
        }
        out += "\\bottomrule\n\\end{tabular}\n";
    }
    out
}

/// A text whose characters LaTeX prints.
fn escaped(text: &str) -> String {
    let escape = |c: char| match c {
        '&' | '%' | '$' | '#' | '_' | '{' | '}' => format!("\\{c}"),
        '\\' => "\\textbackslash{}".to_owned(),
        '~' => "\\textasciitilde{}".to_owned(),
        '^' => "\\textasciicircum{}".to_owned(),
        c if c.is_control() => " ".to_owned(),
        c => c.to_string(),
    };
    text.chars().map(escape).collect()
}
