//! Lists of pairs, for pictures that do not lie in two folders by name.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use isfm_files::pairs::Pair;
use serde::Deserialize;

/// A row of a list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    visible: PathBuf,
    infrared: PathBuf,
    /// The pair's name, and so the result's.
    #[serde(default)]
    name: Option<String>,
}

/// Reads a list: CSV with a header of `visible`, `infrared` and, where wanted, `name`; or, if the file's
/// extension is `jsonl` or `ndjson`, a JSON object with these keys in each line. Paths are relative to
/// the list's folder. Without a name the visible picture's stem is taken.
///
/// # Errors
/// What is wrong, with the line. Two pairs of one name are; pictures that are not there are not looked
/// for.
pub fn read(path: &Path) -> Result<Vec<Pair>> {
    let text = crate::text_of(path)?;
    let lines = path.extension().is_some_and(|e| e == "jsonl" || e == "ndjson");
    let folder = path.parent().unwrap_or(Path::new(""));
    parse(&text, lines, folder).with_context(|| path.display().to_string())
}

/// The pairs of a text, JSON lines or CSV, with paths relative to `folder`.
///
/// # Errors
/// As [`read`].
pub fn parse(text: &str, json: bool, folder: &Path) -> Result<Vec<Pair>> {
    pairs(if json { json_lines(text)? } else { comma_separated(text)? }, folder)
}

fn json_lines(text: &str) -> Result<Vec<(u64, Row)>> {
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    let row = |(line, number)| {
        let row = serde_json::from_str(line).with_context(|| format!("line {number}"))?;
        Ok((number, row))
    };
    lines.map(row).collect()
}

fn comma_separated(text: &str) -> Result<Vec<(u64, Row)>> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let header = reader.headers()?.clone();
    for column in ["visible", "infrared"] {
        ensure!(
            header.iter().any(|name| name == column),
            "its first line has no column `{column}` but {}: needs visible,infrared and, where \
             wanted, name",
            header.iter().collect::<Vec<_>>().join(",")
        );
    }
    let mut rows = Vec::new();
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record)? {
        let line = record.position().map_or(0, csv::Position::line);
        rows.push((
            line,
            record.deserialize(Some(&header)).with_context(|| format!("line {line}"))?,
        ));
    }
    Ok(rows)
}

fn pairs(rows: Vec<(u64, Row)>, folder: &Path) -> Result<Vec<Pair>> {
    ensure!(!rows.is_empty(), "it lists no pairs");
    let mut lines = HashMap::new();
    let mut pairs = Vec::with_capacity(rows.len());
    for (line, row) in rows {
        let stem = || row.visible.file_stem()?.to_str().map(str::to_owned);
        let name = row.name.filter(|name| !name.is_empty()).or_else(stem);
        let Some(name) = name else { bail!("line {line}: the pair has no name") };
        let parts = Path::new(&name).components().all(|part| matches!(part, Component::Normal(_)));
        ensure!(
            parts,
            "line {line}: {name:?} is no name for a result: no path of its own, no `..`"
        );
        if let Some(first) = lines.insert(name.clone(), line) {
            bail!("lines {first} and {line} are both called {name:?}: give each a `name`");
        }
        let [visible, infrared] = [&row.visible, &row.infrared].map(|path| folder.join(path));
        pairs.push(Pair { name, visible, infrared });
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_as(name: &str, text: &str) -> Result<Vec<Pair>> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join(name);
        std::fs::write(&path, text)?;
        let pairs = read(&path)?.into_iter().map(|pair| Pair {
            name: pair.name,
            visible: pair.visible.strip_prefix(folder.path()).unwrap_or(&pair.visible).into(),
            infrared: pair.infrared.strip_prefix(folder.path()).unwrap_or(&pair.infrared).into(),
        });
        Ok(pairs.collect())
    }

    #[test]
    fn both_forms_say_the_same() {
        let csv =
            "\u{feff}infrared, visible, name\r\nir/a.png,vi/a.png,\r\n\"x,y.tif\",/v.jpg,day/b\r\n";
        let json = "{\"visible\":\"vi/a.png\",\"infrared\":\"ir/a.png\"}\n\n\
                    {\"visible\":\"/v.jpg\",\"infrared\":\"x,y.tif\",\"name\":\"day/b\"}\n";
        let [csv, json] = [read_as("l.csv", csv), read_as("l.jsonl", json)].map(Result::unwrap);
        assert_eq!(csv, json);
        let pair = |name: &str, visible: &str, infrared: &str| Pair {
            name: name.into(),
            visible: visible.into(),
            infrared: infrared.into(),
        };
        assert_eq!(csv, [pair("a", "vi/a.png", "ir/a.png"), pair("day/b", "/v.jpg", "x,y.tif")]);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let head = "visible,infrared,name\n";
        for (name, text, words) in [
            ("l.csv", "", "no column `visible`"),
            ("l.csv", "a.png,b.png\n", "no column `visible`"),
            ("l.csv", head, "no pairs"),
            ("l.csv", &format!("{head}a,b\n"), "line: 2"),
            ("l.csv", &format!("{head}a,b,c\nd,e,c\n"), "lines 2 and 3"),
            ("l.csv", &format!("{head}a,b,../c\n"), "line 2"),
            ("l.csv", &format!("{head}a,b,/c\n"), "line 2"),
            ("l.csv", "visible,infrared,nam\na,b,c\n", "line 2"),
            ("l.jsonl", "{\"visible\":\"a\"}\n", "line 1"),
            ("l.jsonl", "\nnothing\n", "line 2"),
        ] {
            let told = format!("{:#}", read_as(name, text).unwrap_err());
            assert!(told.contains(words) && told.contains(name), "{words}: {told}");
        }
    }
}
