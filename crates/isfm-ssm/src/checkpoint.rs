use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use candle_core::{DType, Device, Error, Result, Tensor};
use candle_nn::VarBuilder;

use crate::{Mamba, MambaConfig, MambaLm, MambaLmConfig, MambaStack, mamba, mamba_lm, mamba_stack};

/// The weights of a released Mamba model, under one naming.
///
/// state-spaces' files call the parts `backbone.layers.0.mixer.A_log` …, `backbone.embedding`,
/// `backbone.norm_f` and `lm_head`; Hugging Face's `MambaForCausalLM` says `backbone.embeddings`,
/// its `MambaModel` leaves `backbone.` out. Here they are `layers.0.mixer.A_log` …,
/// `layers.0.norm`, `embedding`, `norm_f` and `lm_head`, all as `F32` whatever the file stores.
///
/// ```no_run
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::Device;
/// use isfm_ssm::MambaCheckpoint;
/// let file = MambaCheckpoint::read("mamba-130m/model.safetensors", None, &Device::Cpu)?;
/// println!("{:?}", file.config());
/// let block = file.block(0)?; // one Mamba block,
/// let model = file.lm()?; // or all of it
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct MambaCheckpoint {
    tensors: BTreeMap<String, Tensor>,
    config: MambaLmConfig,
}

impl MambaCheckpoint {
    /// Reads a `.safetensors` file or a `state_dict` that `torch.save` wrote in its zip form
    /// (`.bin`, `.pt`, `.pth`); which of the two it is, the content says. Without `config` the
    /// sizes are those of the tensors.
    ///
    /// # Errors
    /// If the file cannot be read or is not one of the two, or it holds other tensors than the
    /// configuration needs: missing, unexpected and mis-shaped ones are named in one error.
    pub fn read(
        path: impl AsRef<Path>,
        config: Option<&MambaLmConfig>,
        device: &Device,
    ) -> Result<Self> {
        let path = path.as_ref();
        let origin = path.display().to_string();
        let broken = |message: String| Error::msg(format!("{origin}: {message}"));
        let mut magic = Vec::with_capacity(4);
        std::fs::File::open(path)
            .and_then(|file| file.take(4).read_to_end(&mut magic))
            .map_err(|e| broken(format!("cannot be read ({e})")))?;
        let tensors = if magic.starts_with(b"PK") {
            read_torch(path, device).map_err(broken)?
        } else if magic.starts_with(&[0x80]) {
            let message = "PyTorch's old format; save it again with a PyTorch of 1.6 or later";
            return Err(broken(message.to_string()));
        } else {
            let all = candle_core::safetensors::load(path, device).map_err(|e| {
                broken(format!(
                    "not a safetensors file, nor one of torch.save's, or truncated ({e})"
                ))
            })?;
            all.into_iter().collect()
        };
        Self::from_tensors(&origin, tensors, config)
    }

    /// As [`MambaCheckpoint::read`], from tensors that are in memory already, or were read from
    /// several files. `origin` names them in errors.
    ///
    /// # Errors
    /// As [`MambaCheckpoint::read`].
    pub fn from_tensors(
        origin: &str,
        tensors: impl IntoIterator<Item = (String, Tensor)>,
        config: Option<&MambaLmConfig>,
    ) -> Result<Self> {
        let broken = |message: String| Error::msg(format!("{origin}: {message}"));
        let mut all = BTreeMap::new();
        for (name, tensor) in tensors {
            let short = short_name(&name);
            let tensor = tensor
                .to_dtype(DType::F32)
                .and_then(|t| t.contiguous())
                .map_err(|e| broken(format!("{name}: {e}")))?;
            if all.insert(short.clone(), tensor).is_some() {
                return Err(broken(format!("two tensors are {short}")));
            }
        }
        let config = match config {
            Some(config) => *config,
            None => infer(&all).map_err(broken)?,
        };
        check(&all, &config).map_err(broken)?;
        Ok(Self { tensors: all, config })
    }

    /// The sizes.
    pub fn config(&self) -> &MambaLmConfig {
        &self.config
    }

    /// All tensors under the names above; to train further, set the variables of a `VarMap` to
    /// them.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// The tensors as what the builder functions of this crate take, at the type `dtype` (`F32` or
    /// `F64`).
    pub fn var_builder(&self, dtype: DType) -> VarBuilder<'static> {
        let device = self.tensors.values().next().map_or(Device::Cpu, |t| t.device().clone());
        let tensors = self.tensors.iter().map(|(n, t)| (n.clone(), t.clone())).collect();
        VarBuilder::from_tensors(tensors, dtype, &device)
    }

    /// The block of layer `layer`.
    ///
    /// # Errors
    /// If there is no such layer.
    pub fn block(&self, layer: usize) -> Result<Mamba> {
        let vb = self.var_builder(DType::F32).pp("layers").pp(layer).pp("mixer");
        mamba(&self.config.block, vb)
    }

    /// All layers and the last norm.
    ///
    /// # Errors
    /// If the model cannot be built; its tensors have been checked already.
    pub fn stack(&self) -> Result<MambaStack> {
        let MambaLmConfig { block, n_layer, .. } = self.config;
        mamba_stack(&block, n_layer, self.var_builder(DType::F32))
    }

    /// The language model.
    ///
    /// # Errors
    /// If the model cannot be built; its tensors have been checked already.
    pub fn lm(&self) -> Result<MambaLm> {
        mamba_lm(&self.config, self.var_builder(DType::F32))
    }
}

/// What is right, or what is wrong.
type Checked<T> = std::result::Result<T, String>;

/// A released name as this crate says it.
fn short_name(name: &str) -> String {
    // "module." is what PyTorch's DataParallel puts before every name.
    let name = name.strip_prefix("module.").unwrap_or(name);
    let name = name.strip_prefix("backbone.").unwrap_or(name);
    match name {
        "embeddings.weight" => "embedding.weight".to_string(),
        name => name.to_string(),
    }
}

/// Reads a `torch.save` zip: a `state_dict`, bare or under one of the usual keys.
fn read_torch(path: &Path, device: &Device) -> Checked<Vec<(String, Tensor)>> {
    use candle_core::pickle::PthTensors;
    let bare = PthTensors::new(path, None)
        .map_err(|e| format!("not a torch.save file, or truncated ({e})"))?;
    let keyed = || {
        let file = |key| PthTensors::new(path, Some(key)).ok();
        ["state_dict", "model"].into_iter().filter_map(file).find(|f| !f.tensor_infos().is_empty())
    };
    let file = if bare.tensor_infos().is_empty() { keyed() } else { Some(bare) };
    let file = file.ok_or("a zip file without a state_dict")?;
    let mut tensors = Vec::with_capacity(file.tensor_infos().len());
    for name in file.tensor_infos().keys() {
        let tensor = file.get(name).and_then(|t| t.map(|t| t.to_device(device)).transpose());
        match tensor {
            Ok(Some(tensor)) => tensors.push((name.clone(), tensor)),
            Ok(None) => return Err(format!("{name}: not in the file")),
            Err(e) => return Err(format!("{name}: {e}")),
        }
    }
    Ok(tensors)
}

/// The sizes that the tensors of layer 0 speak of.
fn infer(tensors: &BTreeMap<String, Tensor>) -> Checked<MambaLmConfig> {
    let mixer = |name: &str| format!("layers.0.mixer.{name}");
    let dims = |name: String, rank: usize| match tensors.get(&name) {
        Some(t) if t.rank() == rank => Ok(t.dims().to_vec()),
        Some(t) => {
            let hint = if name.ends_with("A_log") { "; is this Mamba-2?" } else { "" };
            Err(format!("{name} has the shape {:?}, needs {rank} axes{hint}", t.dims()))
        }
        None => Err(format!("no {name}, and no configuration is given: not a Mamba model's file?")),
    };
    let a_log = dims(mixer("A_log"), 2)?;
    let in_proj = dims(mixer("in_proj.weight"), 2)?;
    let conv = dims(mixer("conv1d.weight"), 3)?;
    let dt = dims(mixer("dt_proj.weight"), 2)?;
    let (d, c) = (a_log[0], in_proj[1]);
    if c == 0 || d % c != 0 {
        return Err(format!("A_log has {d} channels, which is no multiple of in_proj's {c}"));
    }
    let layers = tensors.keys().filter_map(|name| {
        let (number, _) = name.strip_prefix("layers.")?.split_once('.')?;
        number.parse::<usize>().ok()
    });
    Ok(MambaLmConfig {
        block: MambaConfig {
            d_model: c,
            d_state: a_log[1],
            d_conv: conv[2],
            expand: d / c,
            dt_rank: Some(dt[1]),
            conv_bias: tensors.contains_key(&mixer("conv1d.bias")),
            bias: tensors.contains_key(&mixer("in_proj.bias")),
        },
        n_layer: layers.max().map_or(0, |last| last.saturating_add(1)).min(tensors.len()),
        vocab_size: dims("embedding.weight".to_string(), 2)?[0],
        tie_embeddings: is_tied(tensors),
    })
}

/// Whether the projection to the vocabulary is the embedding: absent, or stored a second time.
fn is_tied(tensors: &BTreeMap<String, Tensor>) -> bool {
    let (embedding, head) = (tensors.get("embedding.weight"), tensors.get("lm_head.weight"));
    let (Some(embedding), Some(head)) = (embedding, head) else {
        return head.is_none();
    };
    let equal = || -> candle_core::Result<bool> {
        Ok(embedding.ne(head)?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()? == 0.)
    };
    embedding.dims() == head.dims() && equal().unwrap_or(false)
}

/// Names all that is missing, unexpected or of another shape.
fn check(tensors: &BTreeMap<String, Tensor>, config: &MambaLmConfig) -> Checked<()> {
    config.block.validate().map_err(|e| e.to_string())?;
    let mut needed = needed(config);
    if !needed.contains_key("lm_head.weight") && tensors.contains_key("lm_head.weight") {
        // Released files store a tied projection again.
        needed.insert("lm_head.weight".to_string(), vec![config.vocab_size, config.block.d_model]);
    }
    let list = |names: Vec<String>| {
        const SHOWN: usize = 12;
        let rest = names.len().saturating_sub(SHOWN);
        let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
        format!("{}{more}", names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", "))
    };
    let missing = needed.keys().filter(|n| !tensors.contains_key(*n)).cloned();
    let unexpected = tensors.keys().filter(|n| !needed.contains_key(*n)).cloned();
    let mis_shaped = needed.iter().filter_map(|(name, dims)| {
        let got = tensors.get(name)?.dims();
        (got != dims).then(|| format!("{name} is {got:?}, needs {dims:?}"))
    });
    let mut wrong: Vec<String> = [
        ("missing", missing.collect::<Vec<_>>()),
        ("unexpected", unexpected.collect()),
        ("mis-shaped", mis_shaped.collect()),
    ]
    .into_iter()
    .filter(|(_, names)| !names.is_empty())
    .map(|(what, names)| format!("{what}: {}", list(names)))
    .collect();
    if wrong.is_empty() && config.tie_embeddings && !is_tied(tensors) {
        wrong.push("lm_head.weight is not the embedding, to which it should be tied".to_string());
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

/// The tensors of a model, with their shapes.
fn needed(config: &MambaLmConfig) -> BTreeMap<String, Vec<usize>> {
    let block = &config.block;
    let (c, d, n, r) = (block.d_model, block.d_inner(), block.d_state, block.dt_rank());
    let mut all = BTreeMap::new();
    let mut add = |name: String, dims: &[usize]| all.insert(name, dims.to_vec());
    add("embedding.weight".to_string(), &[config.vocab_size, c]);
    add("norm_f.weight".to_string(), &[c]);
    if !config.tie_embeddings {
        add("lm_head.weight".to_string(), &[config.vocab_size, c]);
    }
    for i in 0..config.n_layer {
        add(format!("layers.{i}.norm.weight"), &[c]);
        let mut add = |name: &str, dims: &[usize]| add(format!("layers.{i}.mixer.{name}"), dims);
        add("in_proj.weight", &[2 * d, c]);
        add("conv1d.weight", &[d, 1, block.d_conv]);
        add("x_proj.weight", &[r + 2 * n, d]);
        add("dt_proj.weight", &[d, r]);
        add("dt_proj.bias", &[d]);
        add("A_log", &[d, n]);
        add("D", &[d]);
        add("out_proj.weight", &[c, d]);
        if block.conv_bias {
            add("conv1d.bias", &[d]);
        }
        if block.bias {
            add("in_proj.bias", &[2 * d]);
            add("out_proj.bias", &[c]);
        }
    }
    all
}
