use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use isfm_files::checkpoint::{self, Difference, Tensors, bare_name};

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
    tensors: Tensors,
    config: MambaLmConfig,
}

impl MambaCheckpoint {
    /// Reads a file of the forms that [`isfm_files::checkpoint`] takes: `.safetensors`, or what
    /// `torch.save` wrote (`.bin`, `.pt`, `.pth`), from whatever dictionary has the model's names. Without
    /// `config` the sizes are those of the tensors.
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
        let file = checkpoint::read(path, device, is_known)?;
        Self::assemble(&path.display().to_string(), file.tensors, file.others, config)
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
        Self::assemble(origin, tensors, vec![], config)
    }

    /// From tensors, and the names of others that were found beside them.
    fn assemble(
        origin: &str,
        tensors: impl IntoIterator<Item = (String, Tensor)>,
        others: Vec<String>,
        config: Option<&MambaLmConfig>,
    ) -> Result<Self> {
        let broken = |message: String| -> candle_core::Error {
            isfm_files::Error::weights(origin, message).into()
        };
        let mut all = Tensors::new();
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
        check(&all, others, &config).map_err(broken)?;
        Ok(Self { tensors: all, config })
    }

    /// The sizes.
    pub fn config(&self) -> &MambaLmConfig {
        &self.config
    }

    /// All tensors under the names above; to train further, set the variables of a `VarMap` to
    /// them.
    pub fn tensors(&self) -> &Tensors {
        &self.tensors
    }

    /// The tensors for the builder functions of this crate, with elements of type `dtype` (`F32` or
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

/// A result whose error is a text for [`isfm_files::Error::weights`].
type Checked<T> = std::result::Result<T, String>;

/// This crate's name for a tensor of a released file.
fn short_name(name: &str) -> String {
    let name = bare_name(name);
    let name = name.strip_prefix("backbone.").unwrap_or(name);
    match name {
        "embeddings.weight" => "embedding.weight".to_string(),
        name => name.to_string(),
    }
}

/// Whether a name is one that a model of some configuration has.
fn is_known(name: &str) -> bool {
    let name = short_name(name);
    let Some((number, part)) = name.strip_prefix("layers.").and_then(|rest| rest.split_once('.'))
    else {
        return ["embedding.weight", "norm_f.weight", "lm_head.weight"].contains(&name.as_str());
    };
    let block = MambaConfig { conv_bias: true, bias: true, ..MambaConfig::new(1) };
    let layer = needed(&MambaLmConfig { block, ..MambaLmConfig::new(1, 1, 1) });
    number.bytes().all(|b| b.is_ascii_digit()) && layer.contains_key(&format!("layers.0.{part}"))
}

/// The configuration, from the tensors' shapes and names.
fn infer(tensors: &Tensors) -> Checked<MambaLmConfig> {
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
fn is_tied(tensors: &Tensors) -> bool {
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
fn check(tensors: &Tensors, others: Vec<String>, config: &MambaLmConfig) -> Checked<()> {
    config.block.validate().map_err(|e| e.to_string())?;
    let mut needed = needed(config);
    if !needed.contains_key("lm_head.weight") && tensors.contains_key("lm_head.weight") {
        // Released files store a tied projection again.
        needed.insert("lm_head.weight".to_string(), vec![config.vocab_size, config.block.d_model]);
    }
    let mut difference = Difference::between(tensors, &needed);
    difference.unexpected.extend(others);
    if !difference.is_empty() {
        return Err(format!("the tensors do not fit the configuration:\n  {difference}"));
    }
    if config.tie_embeddings && !is_tied(tensors) {
        return Err("lm_head.weight is not the embedding, to which it should be tied".to_string());
    }
    Ok(())
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
