//! Reading and writing weights: safetensors, self-contained, and the released `.pth` form.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use isfm_files::checkpoint::{self, Contents};

use crate::weights::{Weights, check, infer_config, is_known, is_used};
use crate::{Config, Error, Result};

/// The metadata key under which a file carries its configuration, as JSON.
const CONFIG_KEY: &str = "isfm.config";

/// Weights with the configuration they belong to.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The network's configuration.
    pub config: Config,
    /// All of the network's tensors and no others, f32, by their released names.
    pub weights: Weights,
    /// Whether the weights came with their configuration, as [`Checkpoint::write`] stores it. Those
    /// of the released program do not.
    pub self_contained: bool,
    /// What else the file says of itself.
    pub metadata: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Reads a file of the forms that [`isfm_files::checkpoint`] takes: `.safetensors`, or what
    /// `torch.save` made of a `state_dict`, a whole checkpoint around one, or a module. Constant
    /// buffers and unused tensors of released checkpoints are left out.
    ///
    /// The configuration is `config` if given, else the file's own, else the one that most tensors'
    /// shapes speak of.
    ///
    /// # Errors
    /// If the file cannot be read, is not one of the two, is truncated, has values that are not
    /// finite, or holds other tensors than the configuration needs: missing, unexpected and
    /// mis-shaped ones are named in one error.
    pub fn read(path: impl AsRef<Path>, config: Option<&Config>, device: &Device) -> Result<Self> {
        let path = path.as_ref();
        let contents = checkpoint::read(path, device, is_known)?;
        Self::assemble(&path.display().to_string(), config, contents)
    }

    /// As [`Checkpoint::read`], from a file's bytes; `origin` names them in errors.
    ///
    /// # Errors
    /// As [`Checkpoint::read`].
    pub fn from_bytes(
        origin: &str,
        bytes: &[u8],
        config: Option<&Config>,
        device: &Device,
    ) -> Result<Self> {
        let contents = checkpoint::from_bytes(origin, bytes, device, is_known)?;
        Self::assemble(origin, config, contents)
    }

    fn assemble(origin: &str, config: Option<&Config>, contents: Contents) -> Result<Self> {
        let broken = |message: String| isfm_files::Error::weights(origin, message);
        let Contents { tensors: weights, mut others, mut metadata } = contents;
        others.retain(|name| is_used(name));
        if weights.is_empty() {
            let shown = others[..others.len().min(3)].join(", ");
            return Err(broken(match others.len() {
                0 => "no tensors in it".into(),
                n => format!("no tensor of an ISFM network among its {n}: {shown} …"),
            })
            .into());
        }
        let own = metadata.remove(CONFIG_KEY).map(|json| Config::from_json(&json));
        let own = own.transpose().map_err(|e| broken(format!("its configuration: {e}")))?;
        let self_contained = own.is_some();
        let config = config.cloned().or(own).or_else(|| infer_config(&weights));
        let config = config.ok_or_else(|| {
            let shapes = weights.iter().map(|(name, t)| format!("{name} {:?}", t.dims()));
            let shown = shapes.take(3).collect::<Vec<_>>().join(", ");
            broken(format!("no configuration is with it, and its shapes tell of none: {shown} …"))
        })?;
        check(origin, &config, &weights, others)?;
        for (name, tensor) in &weights {
            if let Some((at, value)) = first(tensor, |value| !value.is_finite())? {
                let message = format!("{name} has the value {value} at {at}, which is not finite");
                return Err(broken(message).into());
            }
        }
        Ok(Self { config, weights, self_contained, metadata })
    }

    /// Writes a safetensors file with the configuration and the metadata inside, its tensors as
    /// `dtype` (F32, F16 or BF16), by [`isfm_files::write_atomically`]: at no time is there half a
    /// file under `path`, and missing folders are made.
    ///
    /// # Errors
    /// If the weights are not the configuration's, `dtype` cannot hold one, or the file cannot be
    /// written.
    pub fn write(&self, path: impl AsRef<Path>, dtype: DType) -> Result<()> {
        let path = path.as_ref();
        check(&path.display().to_string(), &self.config, &self.weights, vec![])?;
        let bytes = self.to_safetensors(dtype)?;
        isfm_files::write_atomically(path, |file| file.write_all(&bytes))
            .map_err(|source| Error::Write { path: path.to_path_buf(), source })
    }

    /// The bytes that [`Checkpoint::write`] writes.
    ///
    /// # Errors
    /// [`Error::Range`] for a finite value that `dtype` cannot hold.
    pub fn to_safetensors(&self, dtype: DType) -> Result<Vec<u8>> {
        let config = serde_json::to_string(&self.config)?;
        let mut metadata: HashMap<String, String> = self.metadata.clone().into_iter().collect();
        metadata.insert(CONFIG_KEY.to_string(), config);
        let mut tensors = Vec::with_capacity(self.weights.len());
        for (name, tensor) in &self.weights {
            let stored = tensor.to_dtype(dtype)?.contiguous()?;
            if let Some((at, _)) = first(&stored, |value| !value.is_finite())? {
                let value = tensor.flatten_all()?.get(at)?.to_dtype(DType::F32)?.to_scalar()?;
                if f32::is_finite(value) {
                    return Err(Error::Range { name: name.clone(), value, dtype });
                }
            }
            tensors.push((name, stored));
        }
        let bytes = safetensors::serialize(tensors.iter().map(|(n, t)| (n, t)), Some(metadata));
        Ok(bytes.map_err(candle_core::Error::wrap)?)
    }
}

/// The first value, row by row, of which `is` holds, with its place.
fn first(tensor: &Tensor, is: impl Fn(f32) -> bool) -> Result<Option<(usize, f32)>> {
    let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    Ok(values.into_iter().enumerate().find(|&(_, value)| is(value)))
}
