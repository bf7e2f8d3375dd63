use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::checkpoint::write;
use crate::{Error, Result};

/// What one step did: a line of `log.jsonl`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Steps done, this one included.
    pub step: usize,
    /// The epoch it belongs to, from 0.
    pub epoch: usize,
    /// The learning rate.
    pub rate: f64,
    /// The weighted sum of the terms, which is minimised.
    pub total: f32,
    /// The content term, unweighted.
    pub content: f32,
    /// The intensity term, unweighted.
    pub intensity: f32,
    /// The gradient term, unweighted.
    pub gradient: f32,
    /// The SSIM term, unweighted.
    pub ssim: f32,
    /// The SCD term, unweighted, where it counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scd: Option<f32>,
    /// The VIF term, unweighted, where it counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vif: Option<f32>,
    /// The norm of all gradients together before clipping, where they are clipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm: Option<f32>,
    /// The time it took.
    pub seconds: f32,
}

impl StepReport {
    /// The total and the terms that every run has, with their names.
    pub fn losses(&self) -> [(&'static str, f32); 5] {
        [
            ("total", self.total),
            ("content", self.content),
            ("intensity", self.intensity),
            ("gradient", self.gradient),
            ("ssim", self.ssim),
        ]
    }

    /// [`StepReport::losses`] and the terms that only some runs have.
    pub(crate) fn all_losses(&self) -> Vec<(&'static str, f32)> {
        let more = [("scd", self.scd), ("vif", self.vif)];
        let more = more.into_iter().filter_map(|(name, loss)| Some((name, loss?)));
        self.losses().into_iter().chain(more).collect()
    }
}

/// A line of a log, which belongs to a step.
pub(crate) trait Line: Serialize + DeserializeOwned {
    fn step(&self) -> usize;
}

impl Line for StepReport {
    fn step(&self) -> usize {
        self.step
    }
}

/// An append-only file of one JSON object a line.
pub(crate) struct Log<L> {
    path: PathBuf,
    file: File,
    lines: PhantomData<L>,
}

impl<L: Line> Log<L> {
    /// Opens the log of a run that has done `step` steps: what lies beyond is what a killed run
    /// did after its last checkpoint, and is dropped.
    pub(crate) fn open(path: PathBuf, step: usize) -> Result<Self> {
        let mut text = Vec::new();
        // As they were written: a number read from JSON may differ in its last bit.
        for (line, _) in read::<L>(&path)?.iter().filter(|(_, report)| report.step() <= step) {
            text.extend_from_slice(line);
            text.push(b'\n');
        }
        write(&path, &text)?;
        let file = File::options().append(true).open(&path).map_err(Error::io(&path))?;
        Ok(Self { path, file, lines: PhantomData })
    }

    pub(crate) fn append(&mut self, report: &L) -> Result<()> {
        let line = line(&self.path, report)?;
        self.file.write_all(&line).map_err(Error::io(&self.path))
    }

    /// Before a checkpoint: what it counts must be on the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io(&self.path))
    }

    pub(crate) fn reports(&self) -> Result<Vec<L>> {
        Ok(read(&self.path)?.into_iter().map(|(_, report)| report).collect())
    }
}

fn line(path: &Path, report: &impl Line) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(report)
        .map_err(|e| Error::Io { path: path.to_path_buf(), source: e.into() })?;
    line.push(b'\n');
    Ok(line)
}

/// The lines of a log and what they say; a last line that was cut short is left out. No file is no reports.
fn read<L: Line>(path: &Path) -> Result<Vec<(Vec<u8>, L)>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(Error::Io { path: path.to_path_buf(), source }),
    };
    let mut reports = Vec::new();
    for line in BufReader::new(file).split(b'\n') {
        let line = line.map_err(Error::io(path))?;
        match serde_json::from_slice(&line) {
            Ok(report) => reports.push((line, report)),
            Err(_) => break,
        }
    }
    Ok(reports)
}
