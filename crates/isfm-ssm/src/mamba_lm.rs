use candle_core::{DType, Module, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use isfm_ops::Epilogue;
use isfm_ops::internal::{dtype_error, shape_error};
use isfm_ops::nn::{RmsNorm, rms_norm};
use serde::{Deserialize, Serialize};

use crate::mamba::{NORM_EPS, check_sequence, one_step};
use crate::{MambaConfig, MambaLayer, MambaState, mamba_layer};

/// Residual Mamba layers and a last RMSNorm: a released model without its vocabulary.
///
/// # Shapes
/// B×L×C to B×L×C.
#[derive(Clone, Debug)]
pub struct MambaStack {
    layers: Vec<MambaLayer>,
    norm_f: RmsNorm,
}

/// Builds a [`MambaStack`] of `n_layer` layers from `layers.0` … and `norm_f.weight`.
///
/// # Errors
/// If a tensor is missing or has another shape, or the configuration is invalid.
pub fn mamba_stack(config: &MambaConfig, n_layer: usize, vb: VarBuilder) -> Result<MambaStack> {
    let layers = vb.pp("layers");
    Ok(MambaStack {
        layers: (0..n_layer)
            .map(|i| mamba_layer(config, layers.pp(i)))
            .collect::<Result<Vec<_>>>()?,
        norm_f: rms_norm(config.d_model, NORM_EPS, vb.pp("norm_f"))?,
    })
}

impl MambaStack {
    /// Its layers.
    pub fn layers(&self) -> &[MambaLayer] {
        &self.layers
    }

    /// The states before the first step of a stream, one a layer.
    ///
    /// # Errors
    /// If the tensors cannot be made.
    pub fn initial_state(&self, batch: usize) -> Result<Vec<MambaState>> {
        self.layers.iter().map(|layer| layer.mixer().initial_state(batch)).collect()
    }

    /// The next L steps of a stream, and the states after them; see
    /// [`Mamba::forward_with_state`](crate::Mamba::forward_with_state).
    ///
    /// # Errors
    /// If there is not one state a layer, a shape or an element type does not fit, or B or L is 0.
    pub fn forward_with_state(
        &self,
        x: &Tensor,
        states: &[MambaState],
    ) -> Result<(Tensor, Vec<MambaState>)> {
        if states.len() != self.layers.len() {
            let needed = format!("{}, one a layer", self.layers.len());
            return Err(shape_error("mamba_stack", "states", states.len(), needed));
        }
        let mut x = x.clone();
        let mut next = Vec::with_capacity(states.len());
        for (layer, state) in self.layers.iter().zip(states) {
            let (y, state) = layer.forward_with_state(&x, state)?;
            x = y;
            next.push(state);
        }
        Ok((self.norm_f.forward(&x)?, next))
    }

    /// The next step of a stream, B×C to B×C; see [`Mamba::step`](crate::Mamba::step).
    ///
    /// # Errors
    /// As [`MambaStack::forward_with_state`]; the states are then as they were.
    pub fn step(&self, x: &Tensor, states: &mut [MambaState]) -> Result<Tensor> {
        let (y, next) = self.forward_with_state(&one_step("mamba_stack", x)?, states)?;
        for (state, next) in states.iter_mut().zip(next) {
            *state = next.detach();
        }
        y.squeeze(1)
    }
}

impl Module for MambaStack {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        check_sequence("mamba_stack", x, self.norm_f.weight().dim(0)?)?;
        let mut x = x.clone();
        for layer in &self.layers {
            x = layer.forward(&x)?;
        }
        self.norm_f.forward(&x)
    }
}

/// Sizes of a [`MambaLm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MambaLmConfig {
    /// Sizes of every block.
    pub block: MambaConfig,
    /// The number of layers.
    pub n_layer: usize,
    /// V: tokens, including what released vocabularies are padded with (to a multiple of 8).
    pub vocab_size: usize,
    /// Whether the last projection is the embedding itself, as in released models.
    pub tie_embeddings: bool,
}

impl MambaLmConfig {
    /// A tied embedding and blocks of the released sizes for a width.
    pub fn new(d_model: usize, n_layer: usize, vocab_size: usize) -> Self {
        let block = MambaConfig::new(d_model);
        Self { block, n_layer, vocab_size, tie_embeddings: true }
    }
}

/// A language model: an embedding, a [`MambaStack`], and a projection to the vocabulary.
///
/// # Shapes
/// Tokens B×L (`U32`) to logits B×L×V.
#[derive(Clone, Debug)]
pub struct MambaLm {
    embedding: Tensor,
    stack: MambaStack,
    lm_head: Tensor,
}

/// Builds a [`MambaLm`] from `embedding.weight`, `layers.0` …, `norm_f.weight` and, unless it is
/// the embedding, `lm_head.weight`. [`MambaCheckpoint`](crate::MambaCheckpoint) brings released
/// files to these names.
///
/// # Errors
/// If a tensor is missing or has another shape, or the configuration is invalid.
pub fn mamba_lm(config: &MambaLmConfig, vb: VarBuilder) -> Result<MambaLm> {
    if config.vocab_size == 0 {
        return Err(shape_error("MambaLmConfig", "vocab_size", 0, "at least 1"));
    }
    let shape = (config.vocab_size, config.block.d_model);
    let init = Init::Randn { mean: 0., stdev: 0.02 };
    let stack = mamba_stack(&config.block, config.n_layer, vb.clone())?;
    let embedding = vb.pp("embedding").get_with_hints(shape, "weight", init)?;
    let lm_head = if config.tie_embeddings {
        embedding.clone()
    } else {
        vb.pp("lm_head").get_with_hints(shape, "weight", init)?
    };
    Ok(MambaLm { embedding, stack, lm_head })
}

impl MambaLm {
    /// The layers between embedding and projection.
    pub fn stack(&self) -> &MambaStack {
        &self.stack
    }

    /// The states before the first token, one a layer.
    ///
    /// # Errors
    /// If the tensors cannot be made.
    pub fn initial_state(&self, batch: usize) -> Result<Vec<MambaState>> {
        self.stack.initial_state(batch)
    }

    /// Logits after the next L tokens of a stream, and the states after them.
    ///
    /// # Errors
    /// If a token is not in the vocabulary, there is not one state a layer, or a shape does not
    /// fit.
    pub fn forward_with_state(
        &self,
        tokens: &Tensor,
        states: &[MambaState],
    ) -> Result<(Tensor, Vec<MambaState>)> {
        let (y, states) = self.stack.forward_with_state(&self.embed(tokens)?, states)?;
        Ok((isfm_ops::linear(&y, &self.lm_head, None, Epilogue::None)?, states))
    }

    /// Logits B×V after the next token of each stream, `tokens` being B of them.
    ///
    /// # Errors
    /// As [`MambaLm::forward_with_state`]; the states are then as they were.
    pub fn step(&self, tokens: &Tensor, states: &mut [MambaState]) -> Result<Tensor> {
        if tokens.rank() != 1 {
            return Err(shape_error("mamba_lm", "tokens", tokens.dims(), "[B]"));
        }
        let x = self.embed(&tokens.unsqueeze(1)?)?.squeeze(1)?;
        let y = self.stack.step(&x, states)?;
        isfm_ops::linear(&y, &self.lm_head, None, Epilogue::None)
    }

    /// B×L to B×L×C.
    fn embed(&self, tokens: &Tensor) -> Result<Tensor> {
        const OP: &str = "mamba_lm";
        let (batch, len) = match *tokens.dims() {
            [batch, len] if batch * len > 0 => (batch, len),
            _ => return Err(shape_error(OP, "tokens", tokens.dims(), "[B, L], both at least 1")),
        };
        if tokens.dtype() != DType::U32 {
            return Err(dtype_error(OP, tokens.dtype(), "U32"));
        }
        let (vocabulary, width) = self.embedding.dims2()?;
        let tokens = tokens.flatten_all()?;
        let largest = tokens.max(0)?.to_scalar::<u32>()?;
        if largest as usize >= vocabulary {
            return Err(shape_error(
                OP,
                "the largest token",
                largest,
                format!("below {vocabulary}"),
            ));
        }
        self.embedding.embedding(&tokens)?.reshape((batch, len, width))
    }
}

impl Module for MambaLm {
    fn forward(&self, tokens: &Tensor) -> Result<Tensor> {
        let y = self.stack.forward(&self.embed(tokens)?)?;
        isfm_ops::linear(&y, &self.lm_head, None, Epilogue::None)
    }
}
