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

/// Bytes for each pixel at the peak of a forward pass, which comes inside the last fusion layer: then
/// the sum of the reconstruction (64 channels) is there, some four maps of C channels, four of D, and
/// the scan's projections (R + 2N values for each of four directions).
///
/// Fitted to the peak memory of the three presets at 256×256 and 640×480 (1354, 3137 and 6804 bytes
/// for each pixel more), from which it differs by −4 to 3 %; a tenth is added for what the allocator does
/// not give back.
pub(crate) fn per_pixel(config: &Config) -> usize {
    let (c, d) = (config.embed_dim, config.d_inner());
    let maps = 256 + 16 * c + 16 * d;
    let projections = 16 * (config.dt_rank() + 2 * config.d_state);
    (maps + projections).saturating_mul(11) / 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_is_a_little_above_what_was_measured() {
        for (preset, measured) in [("small", 1354.), ("base", 3137.), ("paper", 6804.)] {
            let estimate = per_pixel(&Config::preset(preset).unwrap()) as f64;
            let above = estimate / measured;
            assert!((1.05..1.3).contains(&above), "{preset}: {estimate} for {measured}");
        }
    }
}
