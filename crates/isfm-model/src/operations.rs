//! How much a network computes, from its configuration alone.

use std::ops::{Add, AddAssign, Mul};

use crate::{Config, Result, Spatial};

/// Multiply-adds of one pair of pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Of convolutions and linear layers, and of the products in cross-attention.
    pub layers: u128,
    /// Of the scans' projections to dt, B and C, and of dt's to all channels.
    pub projections: u128,
    /// Of the wavelet transforms as convolutions: the released program's four forward ones and one
    /// inverse in every layer. (Here one forward transform does for all of them.)
    pub wavelets: u128,
    /// Of the scans' outputs y = C h.
    pub readout: u128,
}

impl Work {
    /// All of it. What a recurrence takes (h ← e^(δA) h + δBu) is not in it, nor norms, activations and
    /// pools.
    pub fn total(&self) -> u128 {
        self.layers + self.projections + self.wavelets + self.readout
    }

    /// [`total`](Self::total) in floating-point operations: a multiply-add is two.
    pub fn flop(&self) -> u128 {
        2 * self.total()
    }
}

impl Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            layers: self.layers + other.layers,
            projections: self.projections + other.projections,
            wavelets: self.wavelets + other.wavelets,
            readout: self.readout + other.readout,
        }
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Mul<u128> for Work {
    type Output = Self;

    fn mul(self, times: u128) -> Self {
        Self {
            layers: self.layers * times,
            projections: self.projections * times,
            wavelets: self.wavelets * times,
            readout: self.readout * times,
        }
    }
}

/// What the parts of a network compute for one pair, as the paper's Table VIII counts it: a pure
/// function of configuration and size.
///
/// ```
/// use isfm_model::{Config, OperationCounts};
/// let counts = OperationCounts::of(&Config::default(), 128, 128)?;
/// assert_eq!((counts.total().flop() + 5_000_000) / 10_000_000, 21_059); // 210.59 GFLOP
/// # Ok::<(), isfm_model::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OperationCounts {
    /// The two modality-specific extractors.
    pub extractor: Work,
    /// The frequency layers.
    pub mff: Work,
    /// The interactive layers.
    pub isf: Work,
    /// The reconstruction.
    pub other: Work,
}

impl OperationCounts {
    /// Counts what `config` computes for a pair of `height`×`width` pixels. On a pyramid the network
    /// sees pictures of that size halved (upwards) on every level; what the pyramid itself computes is
    /// not counted.
    ///
    /// # Errors
    /// If the configuration makes no sense.
    pub fn of(config: &Config, height: u32, width: u32) -> Result<Self> {
        config.validate()?;
        let wide = |n: usize| n as u128;
        let (c, d, n, r) = (config.embed_dim, config.d_inner(), config.d_state, config.dt_rank());
        let (c, d, n, r) = (wide(c), wide(d), wide(n), wide(r));
        let (height, width) = Self::seen(config, height, width);
        let (height, width) = (u128::from(height), u128::from(width));
        let (pixels, positions) = (height * width, (height / 2) * (width / 2));
        let modules = &config.modules;
        let directions = wide(modules.directions.count());
        let layers = |layers| Work { layers, ..Work::default() };
        // At every pixel.
        let scan = Work {
            projections: directions * (d * (r + 2 * n) + r * d),
            readout: directions * d * n,
            ..Work::default()
        };

        let vss = layers(c * 2 * d + 9 * d + d * c) + scan;
        let extractor = layers(9 * c + 9 * c * c) + vss * (2 * wide(config.depths[0]));

        let mff = modules.mff().map_or(Work::default(), |parts| {
            let part = |is: bool, work| if is { work } else { 0 };
            let low = part(parts.lffb, c * c + 18 * c * c + (9 + 25) * c + 3 * c * c);
            let high = part(parts.hffb, 4 * 9 * c * c);
            let map = part(parts.map, 9 * c * c);
            let inverse = part(parts.map, 16 * c);
            Work { wavelets: 4 * 16 * c + inverse, ..layers(low + high) } * positions
                + layers(map * pixels)
        });

        let guidance = positions * (2 * c * (c / 4) + (c / 4) * 2 * d);
        let gates = 2 * (2 * d * d);
        let mix = 2 * d * 2 * d;
        // Of a block; gates of the frequencies alone are the same at every pixel.
        let fgm = |halves: u128, at_pixel: u128, at_picture: u128| {
            (layers(2 * (c * halves * d + 9 * d) + at_pixel + d * c) + scan * 2) * pixels
                + layers(at_picture)
        };
        let block = match modules.spatial {
            Spatial::Fgm => fgm(2, mix + gates, guidance),
            Spatial::FgmFrequencyGate => fgm(1, 0, gates + guidance),
            Spatial::FgmOwnGate => fgm(2, mix + gates, 0),
            Spatial::CrossAttention => layers((2 * (3 + 1 + 1) + 1) * c * c * pixels),
            Spatial::ConcatLinear => layers(2 * c * c * pixels),
            Spatial::Sum | Spatial::Concatenate => Work::default(),
        };
        let hidden = 64; // of the reconstruction
        let maps = wide(modules.maps(config.layers())) * c;
        let other = 9 * hidden * (maps + wide(config.pyramid.outputs()));
        Ok(Self {
            extractor: extractor * (2 * pixels),
            mff: mff * wide(config.layers()),
            isf: block * wide(config.depths.iter().sum()),
            other: layers(other * pixels),
        })
    }

    /// Height and width of what the network sees of pictures of `height`×`width`.
    pub fn seen(config: &Config, height: u32, width: u32) -> (u32, u32) {
        let halved = |side: u32| side.div_ceil(1 << config.pyramid.levels.min(31));
        (halved(height), halved(width))
    }

    /// All parts.
    pub fn total(&self) -> Work {
        self.extractor + self.mff + self.isf + self.other
    }
}
