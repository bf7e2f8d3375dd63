//! Reading and writing weights: safetensors, self-contained, and the released `.pth` form.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::Path;

use candle_core::{DType, Device};
use isfm_files::checkpoint::{self, Contents};

use crate::weights::{Weights, check, infer_config, is_used};
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
    /// Reads a file of the forms that [`isfm_files::checkpoint::read`] takes: `.safetensors`, or a
    /// `state_dict` saved by `torch.save`. Constant buffers and unused tensors of released
    /// checkpoints are left out.
    ///
    /// The configuration is `config` if given, else the file's own, else the one that the tensors'
    /// shapes speak of.
    ///
    /// # Errors
    /// If the file cannot be read, is not one of the two, is truncated, has values that are not
    /// finite, or holds other tensors than the configuration needs: missing, unexpected and
    /// mis-shaped ones are named in one error.
    pub fn read(path: impl AsRef<Path>, config: Option<&Config>, device: &Device) -> Result<Self> {
        let path = path.as_ref();
        let contents = checkpoint::read(path, device, is_used)?;
        Self::assemble(&path.display().to_string(), config, contents)
    }

    /// As [`Checkpoint::read`], from the bytes of a safetensors file; `origin` names them in
    /// errors.
    ///
    /// # Errors
    /// As [`Checkpoint::read`].
    pub fn from_safetensors(
        origin: &str,
        bytes: &[u8],
        config: Option<&Config>,
        device: &Device,
    ) -> Result<Self> {
        let contents = checkpoint::from_safetensors(origin, bytes, device, is_used)?;
        Self::assemble(origin, config, contents)
    }

    fn assemble(origin: &str, config: Option<&Config>, contents: Contents) -> Result<Self> {
        let broken = |message: String| isfm_files::Error::weights(origin, message);
        let Contents { tensors: weights, mut metadata } = contents;
        if weights.is_empty() {
            return Err(broken("no tensors in it".into()).into());
        }
        let own = metadata.remove(CONFIG_KEY).map(|json| Config::from_json(&json));
        let own = own.transpose().map_err(|e| broken(format!("its configuration: {e}")))?;
        let self_contained = own.is_some();
        let config = config.cloned().or(own).or_else(|| infer_config(&weights));
        const NONE: &str =
            "these tensors are not an ISFM network's, and no configuration is with them";
        let config = config.ok_or_else(|| broken(NONE.into()))?;
        check(origin, &config, &weights)?;
        for (name, tensor) in &weights {
            // A sum is finite only if all its terms are; these are far too small to overflow.
            if !tensor.sum_all()?.to_scalar::<f32>()?.is_finite() {
                return Err(broken(format!("{name} has values that are not finite")).into());
            }
        }
        Ok(Self { config, weights, self_contained, metadata })
    }

    /// Writes a safetensors file with the configuration and the metadata inside, its tensors as
    /// `dtype` (F32, F16 or BF16), by [`isfm_files::write_atomically`]: at no time is there half a
    /// file under `path`, and missing folders are made.
    ///
    /// # Errors
    /// If the weights are not the configuration's, or the file cannot be written.
    pub fn write(&self, path: impl AsRef<Path>, dtype: DType) -> Result<()> {
        let path = path.as_ref();
        check(&path.display().to_string(), &self.config, &self.weights)?;
        let bytes = self.to_safetensors(dtype)?;
        isfm_files::write_atomically(path, |file| file.write_all(&bytes))
            .map_err(|source| Error::Write { path: path.to_path_buf(), source })
    }

    /// The bytes that [`Checkpoint::write`] writes.
    ///
    /// # Errors
    /// If a tensor cannot be brought to `dtype`.
    pub fn to_safetensors(&self, dtype: DType) -> Result<Vec<u8>> {
        let config = serde_json::to_string(&self.config)?;
        let mut metadata: HashMap<String, String> = self.metadata.clone().into_iter().collect();
        metadata.insert(CONFIG_KEY.to_string(), config);
        let mut tensors = Vec::with_capacity(self.weights.len());
        for (name, tensor) in &self.weights {
            tensors.push((name, tensor.to_dtype(dtype)?.contiguous()?));
        }
        let bytes = safetensors::serialize(tensors.iter().map(|(n, t)| (n, t)), Some(metadata));
        Ok(bytes.map_err(candle_core::Error::wrap)?)
    }
}
