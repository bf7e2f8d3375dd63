//! How much memory a forward pass takes.

use isfm_model::Config;

/// Bytes for each pixel that the network sees at once: its feature maps, and the planes (two lumas
/// and the result as `f32`, and their copies).
pub(crate) fn per_pixel(config: &Config) -> usize {
    maps(config).saturating_add(24)
}

/// Bytes for each pixel of a picture that is taken apart and put together on a pyramid: two lumas and
/// the result, and at most 14 planes of the finest level and a third of that below.
pub(crate) const PYRAMID_PLANES: usize = 24 + 4 * 14 * 4 / 3;

/// Bytes for each pixel of so many planes of a base.
pub(crate) const fn base_planes(count: usize) -> usize {
    count * size_of::<f32>()
}

/// Bytes for each pixel of a base while it is merged: both bases, the network's outputs twice and what
/// is made of them, and the pyramid below.
pub(crate) const fn merged_bases(outputs: usize) -> usize {
    base_planes(2 + 3 * outputs) + PYRAMID_PLANES
}

/// Bytes for each pixel of an image whose fused luma is stretched: the luma, and the copy in which its
/// percentiles are found.
pub(crate) const STRETCHED: usize = 2 * size_of::<f32>();

/// Bytes for each pixel at the peak of a forward pass, which comes inside the last fusion layer: then
/// the sum of the reconstruction (64 channels) is there, some four maps of C channels, four of D, and
/// the scan's projections (R + 2N values for each of four directions).
///
/// Fitted to the peak memory of the three presets at 256×256 and 640×480 (1354, 3137 and 6804 bytes
/// for each pixel more), from which it differs by −4 to 3 %; a tenth is added for what the allocator does
/// not give back.
fn maps(config: &Config) -> usize {
    let (c, d) = (config.embed_dim, config.d_inner());
    let maps = 256 + 16 * c + 16 * d;
    let projections = 16 * (config.dt_rank() + 2 * config.d_state);
    (maps + projections).saturating_mul(11) / 10
}

#[cfg(test)]
mod tests {
    use isfm_model::Preset;

    use super::*;

    #[test]
    fn the_estimate_is_a_little_above_what_was_measured() {
        for (preset, measured) in
            [(Preset::Small, 1354.), (Preset::Base, 3137.), (Preset::Paper, 6804.)]
        {
            let estimate = maps(&preset.into()) as f64;
            let above = estimate / measured;
            assert!((1.05..1.3).contains(&above), "{preset}: {estimate} for {measured}");
        }
    }
}
