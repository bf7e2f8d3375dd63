//! How much memory a forward pass takes.

use isfm_model::Config;

/// Bytes that fusing one image of `width`×`height` pixels without tiles needs at its peak, beside
/// the caller's own images: the network's feature maps and this crate's planes.
pub(crate) fn estimate(config: &Config, width: usize, height: usize) -> usize {
    per_pixel(config).saturating_add(PLANES).saturating_mul(width.saturating_mul(height))
}

/// Bytes for the planes kept during the whole of a fusion, for each pixel of the image: the two
/// lumas and the result, as `f32`, and room for the padded copies.
pub(crate) const PLANES: usize = 24;

pub(crate) fn per_pixel(config: &Config) -> usize {
    let c = config.embed_dim;
    let k = config.depths.len();
    4 * c * (2 * k + 16)
}
