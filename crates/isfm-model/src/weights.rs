//! Sets of named tensors, and holding one against a configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use isfm_files::checkpoint::{Difference, Tensors};

use crate::{Config, Error, Modules, Pyramid, Result, Spatial, tensor_shapes};

/// Tensors by their released names, in a fixed order.
pub type Weights = Tensors;

/// Whether the network uses a tensor of a released checkpoint: all but the wavelet's constant
/// filters and a layer norm that is never called.
pub(crate) fn is_used(name: &str) -> bool {
    let constant = |part: &str| part == "dwt" || part == "idwt";
    !name.split('.').any(constant) && !name.starts_with("norm.")
}

/// Whether a name is one that a network of some configuration has.
pub(crate) fn is_known(name: &str) -> bool {
    static KNOWN: OnceLock<BTreeSet<String>> = OnceLock::new();
    let known = KNOWN.get_or_init(|| {
        // Layers and blocks differ in their numbers only; no configuration of one fails. Between them
        // these three have all kinds of tensors.
        let spatial = [Spatial::Fgm, Spatial::CrossAttention, Spatial::ConcatLinear];
        let shapes = spatial.map(|spatial| {
            let modules = Modules { spatial, ..Modules::default() };
            tensor_shapes(&Config { depths: vec![1], modules, ..Config::default() })
        });
        let names = shapes.into_iter().flat_map(|shapes| shapes.unwrap_or_default().into_keys());
        names.map(|name| without_numbers(&name)).collect()
    });
    known.contains(&without_numbers(name))
}

fn without_numbers(name: &str) -> String {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let parts = name.split('.').map(|part| if number(part) { "#" } else { part });
    parts.collect::<Vec<_>>().join(".")
}

/// Checks that `weights` are exactly those of `config`, and names every difference at once, with
/// `others`, which were found beside them.
pub(crate) fn check(
    origin: &str,
    config: &Config,
    weights: &Weights,
    others: Vec<String>,
) -> Result<()> {
    let mut difference = Difference::between(weights, &tensor_shapes(config)?);
    difference.unexpected.extend(others);
    if difference.is_empty() {
        return Ok(());
    }
    let looks = infer_config(weights).filter(|looks| looks != config).map(Box::new);
    let (origin, difference) = (origin.to_string(), Box::new(difference));
    let config = Box::new(config.clone());
    Err(Error::Mismatch { origin, config, difference, looks })
}

/// The configuration that most of the tensors' names and shapes speak of, if any do: some tensors
/// may be missing, or of another shape.
pub(crate) fn infer_config(weights: &Weights) -> Option<Config> {
    // The size along an axis that most tensors have of those whose names end so.
    let most = |ends: &[&str], axis: usize| {
        let mut votes = BTreeMap::new();
        let named = weights.iter().filter(|(name, _)| ends.iter().any(|end| name.ends_with(end)));
        for size in named.filter_map(|(_, tensor)| tensor.dims().get(axis)) {
            *votes.entry(*size).or_insert(0) += 1;
        }
        votes.into_iter().max_by_key(|&(_, votes)| votes).map(|(size, _)| size)
    };
    // One more than the largest number that stands behind a prefix.
    let count = |prefix: &str| {
        let number = |name: &String| name.strip_prefix(prefix)?.split('.').next()?.parse().ok();
        weights.keys().filter_map(number).max().map_or(0, |last: usize| last.saturating_add(1))
    };
    const MOST: usize = 16; // as `Config::validate` has it
    let width =
        [".ln_1.weight", ".ln_2.weight", ".skip_scale", ".dw_conv_3.bias", "_before.2.bias"];
    let embed_dim = most(&width, 0)?;
    let layers = count("ISF_layers.").max(count("MFF_layers.")).clamp(1, MOST);
    let depth = |k| count(&format!("ISF_layers.{k}.ISF.blocks.")).clamp(1, MOST);
    let defaults = Config::default();
    let config = Config {
        embed_dim,
        depths: (0..layers).map(depth).collect(),
        d_state: most(&[".A_logs"], 1).unwrap_or(defaults.d_state),
        expand: most(&[".dt_projs_bias"], 1).map_or(defaults.expand, |d| d / embed_dim.max(1)),
        // Released weights have all of them.
        modules: Modules::default(),
        // How many levels there are of each kind no shape says.
        pyramid: Pyramid::default(),
    };
    config.validate().ok()?;
    Some(config)
}
