//! Reading and writing weights: safetensors, self-contained, and the released `.pth` form.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::path::Path;

use candle_core::safetensors::Load;
use candle_core::{DType, Device};
use safetensors::SafeTensors;

use crate::weights::{Weights, check, infer_config, is_unused};
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
    /// Reads a `.safetensors` file or a `state_dict` saved by `torch.save` (its zip form); which
    /// of the two it is, the content says. Constant buffers and unused tensors of released
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
        let origin = path.display().to_string();
        let file = std::fs::File::open(path).map_err(|e| Error::io("read", path, e))?;
        let mut magic = Vec::with_capacity(4);
        let head = file.take(4).read_to_end(&mut magic);
        head.map_err(|e| Error::io("read", path, e))?;
        if magic.starts_with(b"PK") {
            let weights = read_torch(path, &origin, device)?;
            return Self::assemble(&origin, config, None, weights, BTreeMap::new());
        }
        if magic.starts_with(&[0x80]) {
            let message =
                "this is PyTorch's old format; save it again with a PyTorch of 1.6 or later";
            return Err(Error::Weights { origin, message: message.to_string() });
        }
        let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
        Self::from_safetensors(&origin, &bytes, config, device)
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
        let broken = |message: String| Error::Weights { origin: origin.to_string(), message };
        let not_one = |e: safetensors::SafeTensorError| {
            broken(format!("not a safetensors file, nor a torch.save one, or truncated ({e})"))
        };
        let file = SafeTensors::deserialize(bytes).map_err(not_one)?;
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(not_one)?;
        let mut metadata: BTreeMap<String, String> =
            header.metadata().clone().unwrap_or_default().into_iter().collect();
        let own = metadata.remove(CONFIG_KEY).map(|json| serde_json::from_str::<Config>(&json));
        let own = own.transpose().map_err(|e| broken(format!("its configuration: {e}")))?;
        let mut weights = Weights::new();
        for (name, view) in file.iter().filter(|(name, _)| !is_unused(name)) {
            let tensor = view.load(device).map_err(|e| broken(format!("{name}: {e}")))?;
            weights.insert(name.to_string(), tensor.to_dtype(DType::F32)?);
        }
        Self::assemble(origin, config, own.as_ref(), weights, metadata)
    }

    fn assemble(
        origin: &str,
        config: Option<&Config>,
        own: Option<&Config>,
        weights: Weights,
        metadata: BTreeMap<String, String>,
    ) -> Result<Self> {
        let broken = |message: &str| Error::Weights {
            origin: origin.to_string(),
            message: message.to_string(),
        };
        if weights.is_empty() {
            return Err(broken("no tensors in it"));
        }
        let config = match config.or(own) {
            Some(config) => config.clone(),
            None => infer_config(&weights).ok_or_else(|| {
                broken("these tensors are not an ISFM network's, and no configuration is with them")
            })?,
        };
        check(origin, &config, &weights)?;
        for (name, tensor) in &weights {
            // A sum is finite only if all its terms are; these are far too small to overflow.
            if !tensor.sum_all()?.to_scalar::<f32>()?.is_finite() {
                return Err(broken(&format!("{name} has values that are not finite")));
            }
        }
        Ok(Self { config, weights, self_contained: own.is_some(), metadata })
    }

    /// Writes a safetensors file with the configuration and the metadata inside, its tensors as
    /// `dtype` (F32, F16 or BF16). The file is written aside and renamed, so that at no time there
    /// is half of one under `path`.
    ///
    /// # Errors
    /// If the weights are not the configuration's, or the file cannot be written.
    pub fn write(&self, path: impl AsRef<Path>, dtype: DType) -> Result<()> {
        let path = path.as_ref();
        check(&path.display().to_string(), &self.config, &self.weights)?;
        let bytes = self.to_safetensors(dtype)?;
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let failed = |e: std::io::Error| Error::io("write", path, e);
        let mut aside = tempfile::Builder::new();
        // The default is 0600, right for secrets and wrong for weights; the umask still applies.
        #[cfg(unix)]
        aside.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut aside = aside.tempfile_in(folder).map_err(failed)?;
        aside.write_all(&bytes).map_err(failed)?;
        aside.as_file().sync_all().map_err(failed)?;
        aside.persist(path).map_err(|e| failed(e.error))?;
        Ok(())
    }

    /// The bytes that [`Checkpoint::write`] writes.
    ///
    /// # Errors
    /// If a tensor cannot be brought to `dtype`.
    pub fn to_safetensors(&self, dtype: DType) -> Result<Vec<u8>> {
        let config = serde_json::to_string(&self.config).map_err(candle_core::Error::wrap)?;
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

/// Reads a `torch.save` zip: a `state_dict`, bare or under one of the usual keys.
fn read_torch(path: &Path, origin: &str, device: &Device) -> Result<Weights> {
    let broken = |message: String| Error::Weights { origin: origin.to_string(), message };
    let mut opened = None;
    for key in [None, Some("state_dict"), Some("model"), Some("params")] {
        match candle_core::pickle::PthTensors::new(path, key) {
            Ok(file) if !file.tensor_infos().is_empty() => {
                opened = Some(file);
                break;
            }
            Ok(_) => {}
            // Without a key the file itself is at fault; with one, the key may just not be there.
            Err(e) if key.is_none() => {
                return Err(broken(format!("not a torch.save file, or truncated ({e})")));
            }
            Err(_) => {}
        }
    }
    let file = opened.ok_or_else(|| broken("a zip file without a state_dict".to_string()))?;
    let mut weights = Weights::new();
    for name in file.tensor_infos().keys() {
        // What DataParallel puts before every name.
        let short = name.strip_prefix("module.").unwrap_or(name);
        if is_unused(short) {
            continue;
        }
        let tensor = file.get(name).map_err(|e| broken(format!("{name}: {e}")))?;
        let tensor = tensor.ok_or_else(|| broken(format!("{name}: not in the file")))?;
        let tensor = tensor.to_dtype(DType::F32)?.to_device(device)?;
        weights.insert(short.to_string(), tensor);
    }
    Ok(weights)
}
