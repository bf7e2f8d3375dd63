//! What became of each pair of a folder, line by line, so that a run can be gone on with and runs of
//! several processes put together.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// What became of a pair. The best is last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// There is no result, for a reason that is told.
    Failed,
    /// Its result was there before this run, which went on with another.
    Found,
    /// Its result was written.
    Fused,
}

/// A line of a manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The pair's name.
    pub pair: String,
    /// What became of it.
    pub state: State,
    /// The result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<PathBuf>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How long it took from reading to the written result, in milliseconds.
    pub milliseconds: f64,
    /// The SHA-256 of the file of weights, as `sha256sum` gives it.
    pub weights: String,
}

/// Reads a manifest. A last line without its end was being written when its process was killed, and is
/// left out.
///
/// # Errors
/// If it cannot be read or a whole line is no [`Record`].
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let text = crate::text_of(path)?;
    parse(&text).with_context(|| path.display().to_string())
}

/// The records of a text.
///
/// # Errors
/// As [`read`].
pub fn parse(text: &str) -> Result<Vec<Record>> {
    records(text).map(|(records, _)| records)
}

/// The records, and the bytes that they take.
fn records(text: &str) -> Result<(Vec<Record>, usize)> {
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    let lines = text[..whole].lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    let record = |(line, number): (&str, usize)| {
        serde_json::from_str(line).with_context(|| format!("line {number} is no manifest's"))
    };
    Ok((lines.map(record).collect::<Result<_>>()?, whole))
}

/// The best of each pair, by name.
pub fn best(records: impl IntoIterator<Item = Record>) -> BTreeMap<String, Record> {
    let mut best = BTreeMap::<String, Record>::new();
    for record in records {
        let better = best.get(&record.pair).is_none_or(|known| known.state <= record.state);
        if better {
            best.insert(record.pair.clone(), record);
        }
    }
    best
}

/// A manifest that is being written.
#[derive(Debug)]
pub struct Manifest {
    path: PathBuf,
    file: File,
}

impl Manifest {
    /// A new one in the place of what is there, or with `resume` what is there, if it is of the same
    /// weights, and its records.
    ///
    /// # Errors
    /// If it cannot be written or read, or is of other weights.
    pub fn open(path: &Path, resume: bool, weights: &str) -> Result<(Self, Vec<Record>)> {
        let cannot = || format!("cannot write the manifest {}", path.display());
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(cannot)?;
        }
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(!resume);
        let mut file = options.open(path).with_context(cannot)?;
        let mut text = String::new();
        let (mut known, mut whole) = (Vec::new(), 0);
        if resume {
            let of = || path.display().to_string();
            file.read_to_string(&mut text).with_context(of)?;
            (known, whole) = records(&text).with_context(of)?;
        }
        if let Some(other) = known.iter().find(|record| record.weights != weights) {
            bail!(
                "{} is of weights with the SHA-256 {}, but these have {weights}: results of the two \
                 would stand beside each other",
                path.display(),
                other.weights
            );
        }
        // What a killed process had begun to write.
        file.set_len(whole as u64).with_context(cannot)?;
        file.seek(SeekFrom::End(0)).with_context(cannot)?;
        Ok((Self { path: path.to_owned(), file }, known))
    }

    /// Adds a line, in one write.
    ///
    /// # Errors
    /// The system's.
    pub fn add(&mut self, record: &Record) -> Result<()> {
        let line = serde_json::to_string(record)? + "\n";
        let written = self.file.write_all(line.as_bytes());
        written.with_context(|| format!("cannot write the manifest {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(pair: &str, state: State) -> Record {
        let error = (state == State::Failed).then(|| "no picture \"x\"".to_owned());
        let (pair, weights) = (pair.to_owned(), "ab".to_owned());
        Record { pair, state, output: None, error, milliseconds: 1.25, weights }
    }

    #[test]
    fn a_torn_line_is_left_out_and_gone_on_after() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/m.jsonl");
        let (mut first, known) = Manifest::open(&path, true, "ab").unwrap();
        assert_eq!(known, []);
        first.add(&record("a", State::Failed)).unwrap();
        first.add(&record("b", State::Fused)).unwrap();
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.truncate(text.len() - 5);
        std::fs::write(&path, &text).unwrap();
        assert_eq!(read(&path).unwrap(), [record("a", State::Failed)]);
        let (mut second, known) = Manifest::open(&path, true, "ab").unwrap();
        assert_eq!(known, [record("a", State::Failed)]);
        second.add(&record("c", State::Found)).unwrap();
        second.add(&record("a", State::Fused)).unwrap();
        let all = read(&path).unwrap();
        assert_eq!(all.len(), 3);
        let best: Vec<_> = best(all).into_values().map(|r| (r.pair, r.state)).collect();
        assert_eq!(best, [("a".to_owned(), State::Fused), ("c".to_owned(), State::Found)]);
        let other = format!("{:#}", Manifest::open(&path, true, "cd").unwrap_err());
        assert!(other.contains("ab") && other.contains("cd"), "{other}");
        let (_, known) = Manifest::open(&path, false, "cd").unwrap();
        assert!(known.is_empty() && std::fs::read(&path).unwrap().is_empty());
        std::fs::write(&path, "{}\n").unwrap();
        assert!(format!("{:#}", read(&path).unwrap_err()).contains("line 1"));
    }
}
