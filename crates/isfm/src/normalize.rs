//! From the values a file holds to the [0, 1] that the network knows.

use rayon::prelude::*;

use crate::{Error, Result, Side};

/// Which stored values become black (0) and white (1).
///
/// What lies between is spread evenly, what lies outside is clamped. On the visible side one rule
/// serves all three channels, so hues stay; on the infrared side the rule works on the luma.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
#[non_exhaustive]
pub enum Normalize {
    /// The default, which does what each kind of file needs:
    /// - 8-bit and float images: [`FullRange`](Self::FullRange). They were made to be looked at.
    /// - 16-bit infrared: [`Percentile`](Self::Percentile) 0.1 to 99.9. Raw thermal frames fill a
    ///   few hundred or thousand of the 65,536 counts around an offset that drifts with the
    ///   camera; a pixel in a thousand on either side is more than the dead and hot pixels that a
    ///   sensor has, and less than a walker in the distance.
    /// - 16-bit visible: [`FullRange`](Self::FullRange), so that a picture keeps its exposure;
    ///   but if its 0.1 to 99.9 percentiles span less than a quarter of the range (10, 12 or
    ///   14-bit camera frames stored as they are), the percentiles, as for infrared.
    ///
    /// The choice is made for each image alone. For video, where the brightness should not
    /// breathe with the scene, take [`Range`](Self::Range).
    #[default]
    Auto,
    /// The whole range of the type: 0 to 255, 0 to 65,535, or 0 to 1 for floats.
    FullRange,
    /// The darkest to the brightest value in the image.
    MinMax,
    /// The values below which `low` and `high` per cent of the image lie.
    Percentile {
        /// Black, in per cent from 0.
        low: f64,
        /// White, in per cent up to 100.
        high: f64,
    },
    /// Fixed stored values, for frames that must be comparable: `Range { low: 0., high: 16383. }`
    /// for a 14-bit camera, or the counts of 0 °C and 50 °C.
    Range {
        /// The stored value that is black.
        low: f64,
        /// The stored value that is white.
        high: f64,
    },
}

/// The percentiles that [`Normalize::Auto`] takes from a 16-bit frame.
const AUTO: (f64, f64) = (0.1, 99.9);
/// Below this share of the range a 16-bit visible image counts as raw camera data.
const SLIVER: f64 = 0.25;

impl Normalize {
    /// # Errors
    /// [`Error::Option`] for percentiles or ranges that are none.
    pub(crate) fn validate(self, what: &'static str) -> Result<()> {
        let refuse = |needed: &str| {
            Err(Error::Option { what, got: format!("{self:?}"), needed: needed.to_string() })
        };
        match self {
            Self::Percentile { low, high } if !(0. <= low && low < high && high <= 100.) => {
                refuse("0 <= low < high <= 100")
            }
            Self::Range { low, high } if !(low < high && (high - low).is_finite()) => {
                refuse("finite values with low < high")
            }
            _ => Ok(()),
        }
    }

    /// The range this rule takes for an image of `depth` whose values `values` collects.
    ///
    /// An image without contrast has no range of its own; it is taken as stored.
    pub(crate) fn span(self, side: Side, depth: Depth, values: impl FnOnce() -> Vec<f32>) -> Span {
        let full = Span { low: 0., high: depth.full_scale() };
        let auto = self == Self::Auto && depth == Depth::Sixteen;
        let found = match self {
            Self::Auto if auto => percentiles(values(), AUTO.0, AUTO.1),
            Self::Auto | Self::FullRange => full,
            Self::MinMax => percentiles(values(), 0., 100.),
            Self::Percentile { low, high } => percentiles(values(), low, high),
            Self::Range { low, high } => Span { low: low as f32, high: high as f32 },
        };
        let width = f64::from(found.high - found.low);
        let exposed = auto && side == Side::Visible && width >= SLIVER * f64::from(full.high);
        if exposed || found.high <= found.low { full } else { found }
    }
}

/// How an image stores its values.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Depth {
    Eight,
    Sixteen,
    Float,
}

impl Depth {
    /// The stored value of full white.
    fn full_scale(self) -> f32 {
        match self {
            Self::Eight => 255.,
            Self::Sixteen => 65535.,
            Self::Float => 1.,
        }
    }
}

/// The stored values that become 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Span {
    low: f32,
    high: f32,
}

impl Span {
    /// The place of a stored value between black and white.
    #[inline]
    pub(crate) fn place(self, stored: f32) -> f32 {
        ((stored - self.low) / (self.high - self.low)).clamp(0., 1.)
    }

    /// [`place`](Self::place) in 8 bits; exactly `stored`, rounded, in the full range of 8 bits.
    #[inline]
    pub(crate) fn place_8_bit(self, stored: f32) -> u8 {
        let levels = 255. / (self.high - self.low);
        ((stored - self.low) * levels).clamp(0., 255.).round() as u8
    }
}

/// Spreads fused luma so that the values below which `low` and `high` per cent of it lie become 0
/// and 1. Where these are less than a level of 8 bits apart, it stays as it is.
pub(crate) fn stretch(luma: &mut [f32], low: f64, high: f64) {
    let span = percentiles(luma.to_vec(), low, high);
    if span.high - span.low >= 1. / 255. {
        luma.par_iter_mut().for_each(|v| *v = span.place(*v));
    }
}

/// The values below which `low` and `high` per cent of `values` lie, nearest rank.
fn percentiles(mut values: Vec<f32>, low: f64, high: f64) -> Span {
    let last = values.len().saturating_sub(1);
    let rank = |percent: f64| ((percent / 100. * last as f64).round() as usize).min(last);
    let mut at = |percent: f64| *values.select_nth_unstable_by(rank(percent), f32::total_cmp).1;
    Span { low: at(low), high: at(high) }
}
