use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use isfm_model::Config;
use safetensors::tensor::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};

use crate::adam::Moments;
use crate::{Error, Result, TrainConfig};

/// The newest checkpoint and the one before it.
pub(crate) const LAST: &str = "last.safetensors";
pub(crate) const PREVIOUS: &str = "previous.safetensors";
/// What will be the newest; one that a killed run leaves is swept up as an unfinished file.
const NEXT: &str = ".isfm-next.tmp";

const KEY: &str = "isfm-train";
const FORMAT: u32 = 1;
const WEIGHT: &str = "weight.";
const MEAN: &str = "adam.mean.";
const SQUARE: &str = "adam.square.";
const AVERAGE: &str = "average.";

/// Everything a run needs to go on exactly where it was: one safetensors file.
///
/// The random state is the pair of seed and step, because every random number is drawn from a
/// stream of its own.
#[derive(Clone, Debug)]
pub struct State {
    /// The model's configuration.
    pub model: Config,
    /// The run's settings.
    pub train: TrainConfig,
    /// The number of pairs that are trained on.
    pub pairs: usize,
    /// The data set's [fingerprint](crate::DataSet::fingerprint).
    pub fingerprint: u64,
    /// The data set's [names](crate::DataSet::names_fingerprint); a run of an earlier version has none,
    /// and goes on only with pictures of the same sizes and lengths.
    pub names: Option<u64>,
    /// Steps done.
    pub step: usize,
    /// Time spent in steps, in seconds.
    pub seconds: f64,
    /// The best validation's [criterion](crate::ValidationReport::criterion) so far.
    pub best: Option<f64>,
    /// The content of the [run file](crate::RunFile) that the run was started with.
    pub run: Option<String>,
    /// The weights by released name, `f32`.
    pub weights: BTreeMap<String, Tensor>,
    /// The optimiser's state by the same names.
    pub moments: BTreeMap<String, Moments>,
    /// The moving average of the weights by the same names, where the settings ask for one.
    pub average: Option<BTreeMap<String, Vec<f32>>>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    model: Config,
    train: TrainConfig,
    pairs: usize,
    fingerprint: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    names: Option<String>,
    /// For people; `step` decides.
    epoch: usize,
    step: usize,
    seconds: f64,
    /// Its bits, because a number read from JSON may differ in the last of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    best: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    run: Option<String>,
    checksum: String,
}

struct Plane<'a> {
    shape: &'a [usize],
    values: Cow<'a, [f32]>,
}

impl View for Plane<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }
    fn data_len(&self) -> usize {
        self.values.len() * size_of::<f32>()
    }
}

impl State {
    /// The file's content.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>> {
        let mut checksum = Fnv::default();
        let mut planes = Vec::with_capacity(3 * self.weights.len());
        for (name, tensor) in &self.weights {
            let moments = self.moments.get(name).ok_or_else(|| {
                Error::Optimiser(format!("{name} has no state to write to a checkpoint"))
            })?;
            let average = match &self.average {
                Some(average) => Some(average.get(name).ok_or_else(|| {
                    Error::Optimiser(format!("{name} has no average to write to a checkpoint"))
                })?),
                None => None,
            };
            let average = average.map(|values| (AVERAGE, Cow::Borrowed(values.as_slice())));
            let parts = [
                (WEIGHT, Cow::Owned(tensor.flatten_all()?.to_vec1()?)),
                (MEAN, Cow::Borrowed(moments.mean.as_slice())),
                (SQUARE, Cow::Borrowed(moments.square.as_slice())),
            ];
            for (prefix, values) in parts.into_iter().chain(average) {
                if values.len() != tensor.elem_count() {
                    return Err(Error::Optimiser(format!("{name} and its state differ in size")));
                }
                checksum.tensor(prefix, name, &values);
                planes.push((format!("{prefix}{name}"), Plane { shape: tensor.dims(), values }));
            }
        }
        let header = Header {
            format: FORMAT,
            model: self.model.clone(),
            train: self.train.clone(),
            pairs: self.pairs,
            fingerprint: format!("{:016x}", self.fingerprint),
            names: self.names.map(|names| format!("{names:016x}")),
            epoch: self.step / (self.pairs / self.train.batch.max(1)).max(1),
            step: self.step,
            seconds: self.seconds,
            best: self.best.map(|best| format!("{:016x}", best.to_bits())),
            run: self.run.clone(),
            checksum: format!("{:016x}", checksum.finish()),
        };
        let packed = serde_json::to_string(&header).map_err(|e| e.to_string()).and_then(|header| {
            let metadata = HashMap::from([(KEY.to_string(), header)]);
            safetensors::serialize(planes, Some(metadata)).map_err(|e| e.to_string())
        });
        packed.map_err(|problem| Error::Checkpoint { path: LAST.into(), problem })
    }

    /// Writes the file so that `path` is always a whole checkpoint, whenever the process is killed.
    /// What was there before becomes `previous`.
    ///
    /// # Errors
    /// If the file cannot be written; `path` and `previous` are then what they were.
    pub fn write(&self, path: &Path, previous: Option<&Path>) -> Result<()> {
        let bytes = self.bytes()?;
        let Some(previous) = previous.filter(|_| path.exists()) else {
            return write(path, &bytes);
        };
        let next = path.with_file_name(NEXT);
        write(&next, &bytes)?;
        // Killed between the two renames, a run is left with `previous` alone and resumes from it.
        std::fs::rename(path, previous).map_err(Error::io(previous))?;
        std::fs::rename(&next, path).map_err(Error::io(path))?;
        isfm_files::sync_folder(path.parent().unwrap_or(Path::new(""))).map_err(Error::io(path))
    }

    /// Reads a file that [`State::write`] wrote. The weights come to the CPU.
    ///
    /// # Errors
    /// If it cannot be read, is cut short or otherwise damaged, or is not a training checkpoint.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(path, &std::fs::read(path).map_err(Error::io(path))?)
    }

    /// Understands a file's content; `path` names it in errors.
    pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let wrong = |problem: String| Error::Checkpoint { path: path.to_path_buf(), problem };
        let file = SafeTensors::deserialize(bytes).map_err(|e| wrong(e.to_string()))?;
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| wrong(e.to_string()))?;
        let header = metadata.metadata().as_ref().and_then(|m| m.get(KEY)).ok_or_else(|| {
            wrong(format!("no `{KEY}` in its metadata (a file of weights alone cannot be resumed)"))
        })?;
        let header: Header =
            serde_json::from_str(header).map_err(|e| wrong(format!("metadata `{KEY}`: {e}")))?;
        if header.format != FORMAT {
            return Err(wrong(format!("format {}, this program reads {FORMAT}", header.format)));
        }
        let hash = |text: &String| u64::from_str_radix(text, 16);
        let fingerprint =
            hash(&header.fingerprint).map_err(|e| wrong(format!("fingerprint: {e}")))?;
        let named = header.names.as_ref().map(hash).transpose();
        let named = named.map_err(|e| wrong(format!("names: {e}")))?;
        let bits = |best: &String| u64::from_str_radix(best, 16).map(f64::from_bits);
        let best = header.best.as_ref().map(bits).transpose();
        let best = best.map_err(|e| wrong(format!("best: {e}")))?;

        let mut names: Vec<&str> =
            file.names().into_iter().filter_map(|n| n.strip_prefix(WEIGHT)).collect();
        names.sort_unstable();
        let mut checksum = Fnv::default();
        let mut weights = BTreeMap::new();
        let mut moments = BTreeMap::new();
        let mut average = header.train.ema.map(|_| BTreeMap::new());
        for name in names {
            let mut part = |prefix: &str| {
                let view = file
                    .tensor(&format!("{prefix}{name}"))
                    .map_err(|e| wrong(format!("{prefix}{name}: {e}")))?;
                if view.dtype() != Dtype::F32 {
                    return Err(wrong(format!("{prefix}{name} is {:?}, needs F32", view.dtype())));
                }
                let (words, _) = view.data().as_chunks::<4>();
                let values: Vec<f32> = words.iter().map(|&b| f32::from_le_bytes(b)).collect();
                checksum.tensor(prefix, name, &values);
                Ok((values, view.shape().to_vec()))
            };
            let (values, shape) = part(WEIGHT)?;
            let state = Moments { mean: part(MEAN)?.0, square: part(SQUARE)?.0 };
            if state.mean.len() != values.len() || state.square.len() != values.len() {
                return Err(wrong(format!("{name} and its state differ in size")));
            }
            if let Some(average) = &mut average {
                let values = part(AVERAGE)?.0;
                if values.len() != state.mean.len() {
                    return Err(wrong(format!("{name} and its average differ in size")));
                }
                average.insert(name.to_string(), values);
            }
            weights.insert(name.to_string(), Tensor::from_vec(values, shape, &Device::Cpu)?);
            moments.insert(name.to_string(), state);
        }
        if format!("{:016x}", checksum.finish()) != header.checksum {
            return Err(wrong("its checksum does not fit: the file is damaged".into()));
        }
        let Header { model, train, pairs, step, seconds, run, .. } = header;
        Ok(Self {
            model,
            train,
            pairs,
            fingerprint,
            names: named,
            step,
            seconds,
            best,
            run,
            weights,
            moments,
            average,
        })
    }

    /// The newest whole checkpoint of an output folder, its path, and what is wrong with a newer
    /// one, if there is one.
    ///
    /// # Errors
    /// [`Error::NoCheckpoint`] if there is none.
    pub fn latest(dir: &Path) -> Result<(Self, PathBuf, Option<Error>)> {
        let last = dir.join(LAST);
        let problem = match Self::read(&last) {
            Ok(state) => return Ok((state, last, None)),
            Err(e) => e,
        };
        let previous = dir.join(PREVIOUS);
        match Self::read(&previous) {
            Ok(state) => Ok((state, previous, Some(problem))),
            Err(other) => {
                let mut problem = problem.chain();
                if previous.exists() {
                    problem += &format!("; {}", other.chain());
                }
                Err(Error::NoCheckpoint { dir: dir.to_path_buf(), problem })
            }
        }
    }
}

/// Writes a file that is whole or not there.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    isfm_files::write_atomically(path, |file| file.write_all(bytes)).map_err(Error::io(path))
}

/// FNV-1a over words: tells damaged files and other data sets apart; no defence against malice.
/// Every step is a bijection, so that a single changed word always changes the result.
pub(crate) struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    pub(crate) fn word(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0100_0000_01b3);
    }

    /// With the length, so that "ab", "c" differs from "a", "bc".
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.word(bytes.len() as u64);
        bytes.iter().for_each(|&b| self.word(u64::from(b)));
    }

    fn tensor(&mut self, prefix: &str, name: &str, values: &[f32]) {
        self.bytes(prefix.as_bytes());
        self.bytes(name.as_bytes());
        values.iter().for_each(|v| self.word(u64::from(v.to_bits())));
    }

    pub(crate) fn finish(self) -> u64 {
        self.0
    }
}
