//! Sets of named tensors, and holding one against a configuration.

use isfm_files::checkpoint::{Difference, Tensors};

use crate::{Config, Error, Pyramid, Result, tensor_shapes};

/// Tensors by their released names, in a fixed order.
pub type Weights = Tensors;

/// Whether the network uses a tensor of a released checkpoint: all but the wavelet's constant
/// filters and a layer norm that is never called.
pub(crate) fn is_used(name: &str) -> bool {
    let constant = |part: &str| part == "dwt" || part == "idwt";
    !name.split('.').any(constant) && !name.starts_with("norm.")
}

/// Checks that `weights` are exactly those of `config`, and names every difference at once.
pub(crate) fn check(origin: &str, config: &Config, weights: &Weights) -> Result<()> {
    let difference = Difference::between(weights, &tensor_shapes(config)?);
    if difference.is_empty() {
        return Ok(());
    }
    let looks = infer_config(weights).filter(|looks| looks != config).map(Box::new);
    let (origin, config, difference) = (origin.to_string(), config.clone(), Box::new(difference));
    Err(Error::Mismatch { origin, config, difference, looks })
}

/// The configuration that the tensors' names and shapes speak of, if they are an ISFM network's.
pub(crate) fn infer_config(weights: &Weights) -> Option<Config> {
    let dim = |name: &str, axis: usize| weights.get(name)?.dims().get(axis).copied();
    // How many of prefix.0, prefix.1, … there are.
    let count = |prefix: String| {
        let exists = |i: &usize| {
            let prefix = format!("{prefix}{i}.");
            let next = weights.range(prefix.clone()..).next();
            next.is_some_and(|(name, _)| name.starts_with(&prefix))
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
        // How many levels there are of each kind no shape says.
        pyramid: Pyramid::default(),
    };
    config.validate().ok()?;
    Some(config)
}
