//! From the values a file holds to the [0, 1] that the network knows.

use image::DynamicImage;
use rayon::prelude::*;

use crate::colour::Samples;
use crate::{Error, Result, Side};

/// Which stored values become black (0) and white (1).
///
/// What lies between is spread evenly, what lies outside is clamped. On the visible side one rule
/// serves all three channels, so hues stay; on the infrared side the rule works on the luma.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
#[non_exhaustive]
pub enum Normalize {
    /// The default, which does what each kind of file needs:
    /// - 8-bit images: [`FullRange`](Self::FullRange). They were made to be looked at.
    /// - 16-bit infrared: the 0.1 to 99.9 percentiles of the values that belong to the scene. Raw
    ///   thermal frames fill a few hundred or thousand of the 65,536 counts around an offset that
    ///   drifts with the camera. The scene's core are its 3 to 97 percentiles, found without the values
    ///   that fill, mark or break pixels: 0, 65,535, and the least and greatest of the image, however
    ///   many there are, such as the border that warping leaves. What lies further from the core
    ///   than twice the core's width (those values: once) does not belong to the scene: dead and hot
    ///   pixels (up to 3 % on a side), the border, a small object far hotter than all else, which is
    ///   white.
    ///   The range is at least 64 counts wide, with the scene in its middle: one or two kelvin with
    ///   common cameras, so that the few counts of noise in a picture of the closed shutter stay a
    ///   flat grey.
    /// - Infrared floats: the same where they are no picture in [0, 1], such as kelvin, degrees
    ///   Celsius or whole numbers that 16 bits do not hold. The range is at least 2 wide, of whole
    ///   numbers 64. Floats that are in [0, 1] (from their 3 to their 97 percentile) are taken as
    ///   stored, unless they span less than a quarter of it, as counts divided by 65,535 do.
    /// - 16-bit visible: [`FullRange`](Self::FullRange), so that a picture keeps its exposure;
    ///   but if its 0.1 to 99.9 percentiles span less than a quarter of the range (10, 12 or
    ///   14-bit camera frames stored as they are) and they are 64 counts apart, these percentiles.
    /// - Visible floats: as stored if they are in [0, 1], otherwise their 0.1 to 99.9 percentiles.
    ///
    /// What it chose, [`range_of`](Self::range_of) tells. The choice is made for each image alone. For
    /// video, where the brightness should not breathe with the scene, take [`Range`](Self::Range), such
    /// as that of a first or typical frame.
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

/// The percentiles of a scene that are black and white: a pixel in a thousand on either side is less
/// than a walker in the distance.
const SCENE: (f64, f64) = (0.1, 99.9);
/// The percentiles that a scene's core lies between, whatever 2 % of pixels are dead, hot or odd.
const CORE: (f64, f64) = (3., 97.);
/// Below this share of the range a 16-bit visible image counts as raw camera data.
const SLIVER: f32 = 0.25;
/// The least width of a range that is found, in counts. Uncooled cameras have some 10 to 40 mK to a count
/// and a few counts of noise.
pub(crate) const LEAST_COUNTS: f32 = 64.;
/// The same of floats, in kelvin or degrees Celsius.
const LEAST_DEGREES: f32 = 2.;

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

    /// The stored values that this rule makes black and white in an image.
    ///
    /// # Errors
    /// Those of [`to_8_bits`](crate::to_8_bits).
    pub fn range_of(self, image: &DynamicImage, side: Side) -> Result<(f32, f32)> {
        self.validate("the normalisation")?;
        let Span { low, high } = Samples::new(image, side)?.span(side, self)?;
        Ok((low, high))
    }

    /// The range this rule takes for an image of `depth` whose values `values` collects.
    ///
    /// Where a rule that is not [`Auto`](Self::Auto) finds no contrast, values are taken as stored.
    pub(crate) fn span(self, side: Side, depth: Depth, values: impl FnOnce() -> Vec<f32>) -> Span {
        let full = Span { low: 0., high: depth.full_scale() };
        let found = match self {
            Self::Auto if depth == Depth::Eight => full,
            Self::Auto => automatic(side, depth, values()),
            Self::FullRange => full,
            Self::MinMax => percentiles(&mut values(), (0., 100.)),
            Self::Percentile { low, high } => percentiles(&mut values(), (low, high)),
            Self::Range { low, high } => Span { low: low as f32, high: high as f32 },
        };
        // So that differences are finite, too.
        let [low, high] = [found.low, found.high].map(|v| v.clamp(-MOST, MOST));
        if high <= low { full } else { Span { low, high } }
    }
}

/// The largest value that is black or white.
const MOST: f32 = f32::MAX / 4.;

/// [`Normalize::Auto`] of values that are not of 8 bits.
fn automatic(side: Side, depth: Depth, mut values: Vec<f32>) -> Span {
    let full = Span { low: 0., high: depth.full_scale() };
    let core = percentiles(&mut values, CORE);
    let in_unit = depth == Depth::Float && core.low >= 0. && core.high <= 1.;
    let least = match depth {
        Depth::Float if in_unit => LEAST_COUNTS / 65535.,
        Depth::Float if !values.iter().all(|&v| is_whole(v)) => LEAST_DEGREES,
        _ => LEAST_COUNTS,
    };
    let found = match side {
        Side::Visible if in_unit => return full,
        Side::Visible => percentiles(&mut values, SCENE),
        Side::Infrared => scene(values, least, depth),
    };
    let exposed = found.width() >= SLIVER * full.high;
    let even = found.width() < least;
    match side {
        Side::Visible if depth == Depth::Sixteen && (exposed || even) => return full,
        Side::Infrared if in_unit && exposed => return full,
        _ => {}
    }
    // The floats around a large value are further apart than these.
    let least = least.max(16. * f32::EPSILON * found.low.abs().max(found.high.abs()));
    widened(found, least, if depth == Depth::Sixteen { full.high } else { f32::INFINITY })
}

/// A span at least so wide, its middle where it was, but for the ends of a type from 0 to `most`; without
/// an end if that is infinite.
fn widened(found: Span, least: f32, most: f32) -> Span {
    let grow = (least - found.width()).max(0.) / 2.;
    let (low, high) = (found.low - grow, found.high + grow);
    let into_type = if most.is_finite() { (-low).max(0.) + (most - high).min(0.) } else { 0. };
    Span { low: low + into_type, high: high + into_type }
}

/// [`Normalize::Auto`] of an infrared frame of 16 bits, from how often each count is in it.
pub(crate) fn counted_scene(counts: &[u32]) -> Span {
    let total = |counted: &dyn Fn(usize) -> bool| -> u64 {
        counts.iter().enumerate().filter(|&(v, _)| counted(v)).map(|(_, &n)| u64::from(n)).sum()
    };
    let percentiles = |(low, high): (f64, f64), counted: &dyn Fn(usize) -> bool| {
        let last = total(counted).saturating_sub(1);
        let at = |percent: f64| {
            let rank = ((percent / 100. * last as f64).round() as u64).min(last);
            let mut below = 0;
            let found = counts.iter().enumerate().filter(|&(v, _)| counted(v)).find(|&(_, &n)| {
                below += u64::from(n);
                below > rank
            });
            found.map_or(0., |(v, _)| v as f32)
        };
        Span { low: at(low), high: at(high) }
    };
    let ends = percentiles((0., 100.), &|_| true);
    let (low, high) = (ends.low as usize, ends.high as usize);
    let stands_out = |v: usize| v == 0 || v == low || v == high || v == 65_535;
    let inner = |v: usize| !stands_out(v);
    let any = total(&inner) > 0;
    let core = percentiles(CORE, &|v| !any || inner(v));
    let reach = core.width().max(LEAST_COUNTS);
    let scene = percentiles(SCENE, &|v| {
        let reach = if stands_out(v) { reach } else { 2. * reach };
        (core.low - reach..=core.high + reach).contains(&(v as f32))
    });
    widened(scene, LEAST_COUNTS, Depth::Sixteen.full_scale())
}

/// Whether a value is a whole number, but for what the luma of three equal ones is off.
fn is_whole(value: f32) -> bool {
    (value - value.round()).abs() <= 4. * f32::EPSILON * value.abs()
}

/// The range of an infrared scene, without what fills, marks or breaks pixels.
fn scene(mut values: Vec<f32>, least: f32, depth: Depth) -> Span {
    let ends = percentiles(&mut values, (0., 100.));
    let white = depth.full_scale();
    let stands_out = |v: f32| {
        v == 0. || v == ends.low || v == ends.high || depth == Depth::Sixteen && v == white
    };
    let mut inner: Vec<f32> = values.iter().copied().filter(|&v| !stands_out(v)).collect();
    let core = percentiles(if inner.is_empty() { &mut values } else { &mut inner }, CORE);
    let reach = core.width().max(least);
    values.retain(|&v| {
        let reach = if stands_out(v) { reach } else { 2. * reach };
        (core.low - reach..=core.high + reach).contains(&v)
    });
    percentiles(&mut values, SCENE)
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
    /// Levels of 8 bits: 0 to 255, or those of video, 16 to 235.
    pub(crate) fn of_levels(limited: bool) -> Self {
        if limited { Self { low: 16., high: 235. } } else { Self { low: 0., high: 255. } }
    }

    pub(crate) fn width(self) -> f32 {
        self.high - self.low
    }

    pub(crate) fn ends(self) -> (f32, f32) {
        (self.low, self.high)
    }

    pub(crate) fn moved(self, by: f32) -> Self {
        Self { low: self.low + by, high: self.high + by }
    }

    /// A share of the way to `other`, each end by no more than `most`.
    pub(crate) fn toward(self, other: Self, share: f32, most: f32) -> Self {
        let step = |from: f32, to: f32| from + ((to - from) * share).clamp(-most, most);
        Self { low: step(self.low, other.low), high: step(self.high, other.high) }
    }

    /// What the two have in common, as a share of the wider one.
    pub(crate) fn overlap(self, other: Self) -> f32 {
        let common = self.high.min(other.high) - self.low.max(other.low);
        common.max(0.) / self.width().max(other.width())
    }

    /// The level of 8 bits at `unit` of the way, which is in [0, 1].
    #[inline]
    pub(crate) fn level(self, unit: f32) -> u8 {
        (self.low + unit * (self.high - self.low)).round() as u8
    }

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
    let span = percentiles(&mut luma.to_vec(), (low, high));
    if span.high - span.low >= 1. / 255. {
        luma.par_iter_mut().for_each(|v| *v = span.place(*v));
    }
}

/// The values below which `low` and `high` per cent of `values` lie, nearest rank; of no values 0.
fn percentiles(values: &mut [f32], (low, high): (f64, f64)) -> Span {
    let Some(last) = values.len().checked_sub(1) else { return Span { low: 0., high: 0. } };
    let rank = |percent: f64| ((percent / 100. * last as f64).round() as usize).min(last);
    let mut at = |percent: f64| *values.select_nth_unstable_by(rank(percent), f32::total_cmp).1;
    Span { low: at(low), high: at(high) }
}
