//! Sets of named tensors, and holding one against a configuration.

use std::collections::BTreeMap;
use std::fmt::Write;

use candle_core::Tensor;

use crate::{Config, Error, Result, tensor_shapes};

/// Tensors by their released names, in a fixed order.
pub type Weights = BTreeMap<String, Tensor>;

/// Names listed for each kind of difference before the rest are only counted.
const LISTED: usize = 12;

/// Tensors that released checkpoints hold and the network does not use: the wavelet's constant
/// filters and a layer norm that is never called.
pub(crate) fn is_unused(name: &str) -> bool {
    let constant = |part: &str| part == "dwt" || part == "idwt";
    name.split('.').any(constant) || name.starts_with("norm.")
}

/// Checks that `weights` are exactly those of `config`, and names every difference at once.
pub(crate) fn check(origin: &str, config: &Config, weights: &Weights) -> Result<()> {
    let expected = tensor_shapes(config)?;
    let missing = expected.keys().filter(|name| !weights.contains_key(*name));
    let unexpected = weights.keys().filter(|name| !expected.contains_key(*name));
    let misshaped = weights.iter().filter_map(|(name, tensor)| {
        let needed = expected.get(name)?;
        (tensor.dims() != needed).then(|| format!("{name} ({:?}, needs {needed:?})", tensor.dims()))
    });
    let mut differences = String::new();
    list(&mut differences, "missing", missing.cloned().collect());
    list(&mut differences, "unexpected", unexpected.cloned().collect());
    list(&mut differences, "of another shape", misshaped.collect());
    if differences.is_empty() {
        return Ok(());
    }
    if let Some(looks) = infer_config(weights).filter(|looks| looks != config) {
        let _ = write!(differences, "\n  they look like the configuration {}", json(&looks));
    }
    let origin = origin.to_string();
    Err(Error::Mismatch { origin, config: json(config), differences })
}

fn list(out: &mut String, what: &str, names: Vec<String>) {
    if names.is_empty() {
        return;
    }
    let shown = names.iter().take(LISTED).cloned().collect::<Vec<_>>().join(", ");
    let _ = write!(out, "\n  {} {what}: {shown}", names.len());
    if names.len() > LISTED {
        let _ = write!(out, " and {} more", names.len() - LISTED);
    }
}

fn json(config: &Config) -> String {
    serde_json::to_string(config).unwrap_or_else(|_| format!("{config:?}"))
}

/// The configuration that the tensors' names and shapes speak of, if they are an ISFM network's.
pub(crate) fn infer_config(weights: &Weights) -> Option<Config> {
    let dim = |name: &str, axis: usize| weights.get(name)?.dims().get(axis).copied();
    // How many of prefix.0, prefix.1, … there are.
    let count = |prefix: String| {
        let exists = |i: &usize| {
            let prefix = format!("{prefix}{i}.");
            weights
                .range(prefix.clone()..)
                .next()
                .is_some_and(|(name, _)| name.starts_with(&prefix))
        };
        (0..).take_while(exists).count()
    };
    let embed_dim = dim("conv1_before.2.weight", 0)?;
    let layers = count("ISF_layers.".to_string());
    let config = Config {
        embed_dim,
        depths: (0..layers).map(|k| count(format!("ISF_layers.{k}.ISF.blocks."))).collect(),
        d_state: dim("ISF_layers.0.ISF.blocks.0.FGS.A_logs", 1)?,
        expand: dim("ISF_layers.0.ISF.blocks.0.FGS.dt_projs_bias", 1)? / embed_dim.max(1),
    };
    config.validate().ok()?;
    Some(config)
}
