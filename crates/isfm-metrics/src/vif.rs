use crate::math::ln;
use crate::moments::{Consumer, Moments, filter, gaussian, slide};
use crate::plane::{Grid, Grids};
use crate::simd::{LANES, V};
use crate::{Error, Metric, Result, Sample, Triple};

/// The smallest width and height whose fourth scale still holds a window.
pub(crate) const SMALLEST: usize = 41;
/// Variance of the noise of the eye.
const NOISE: f64 = 2.;
const EPSILON: f64 = 1e-10;
/// Factors multiplied before one logarithm is taken of all. Each is between 1 and
/// 1 + (255/2)²/2 < 2¹³, so the product stays inside the range of `f64`.
const LOG_BATCH: usize = 64;

/// VIF: visual information fidelity in the pixel domain (VIFp), the source as the reference and
/// the fused image as the distorted one, VIF(vi, f) + VIF(ir, f).
///
/// Four scales; at scale s the Gaussian window has N = 2^(5−s) + 1 taps (17, 9, 5, 3) and σ = N/5;
/// before scales 2 to 4 both images are filtered with that scale's window and every second row and
/// column is kept. Filters see whole windows only ('valid'). With local variances σ1² (source),
/// σ2² (fused), covariance σ12, gain g = σ12/σ1² and rest sv = σ2² − g σ12,
///
/// VIF = Σ log(1 + g²σ1²/(sv + 2)) / Σ log(1 + σ1²/2) over all scales and pixels.
///
/// About 0 to 2, and above 2 where the fused image has more contrast than the sources; higher is
/// better. A source without any variation says nothing and counts as 1.
///
/// Sheikh, Bovik, "Image information and visual quality", IEEE Trans. Image Process. 2006.
/// Conventions are those of the authors' `vifp_mscale` (noise variance 2); the sum over sources is
/// the fusion papers'.
///
/// Checked against the ISFM authors' program and sewar's `vifp`.
///
/// # Errors
/// [`Error::TooSmall`] below 41 pixels in width or height, where the fourth scale is empty: a value
/// from fewer scales could not be compared with others.
pub fn vif<T: Sample>(triple: &Triple<'_, T>) -> Result<f64> {
    vif_of(&Grids::of(triple))
}

pub(crate) fn vif_of(images: &Grids) -> Result<f64> {
    let (width, height) = images.size();
    if width.min(height) < SMALLEST {
        let (metric, needed) = (Metric::Vif, SMALLEST);
        return Err(Error::TooSmall { metric, width, height, needed });
    }
    let sums = scale::<17>(images);
    let g = halved::<9>(images);
    let sums = sums.add(scale::<9>(&g));
    let g = halved::<5>(&g);
    let sums = sums.add(scale::<5>(&g));
    let g = halved::<3>(&g);
    let sums = sums.add(scale::<3>(&g));
    Ok(sums.visible.ratio() + sums.infrared.ratio())
}

fn window<const N: usize>() -> [f64; N] {
    gaussian(N as f64 / 5.)
}

/// One scale's contribution; both sources share the fused image's moments.
fn scale<const N: usize>(images: &Grids) -> Sums {
    let bands: Vec<Sums> = slide(images, &window::<N>());
    bands.into_iter().fold(Sums::default(), Sums::add)
}

/// Numerator and denominator for one source.
#[derive(Clone, Copy, Default)]
struct Fraction {
    above: f64,
    below: f64,
}

impl Fraction {
    fn ratio(self) -> f64 {
        if self.below > 0. { self.above / self.below } else { 1. }
    }
    fn add(self, other: Self) -> Self {
        Self { above: self.above + other.above, below: self.below + other.below }
    }
}

#[derive(Clone, Copy, Default)]
struct Sums {
    visible: Fraction,
    infrared: Fraction,
}

impl Sums {
    fn add(self, other: Self) -> Self {
        Self {
            visible: self.visible.add(other.visible),
            infrared: self.infrared.add(other.infrared),
        }
    }
}

impl Consumer for Sums {
    #[inline(always)]
    fn row(&mut self, moments: &Moments, places: usize) {
        let [f, ff, v, vv, fv, i, ii, fi] = moments;
        add_row(&mut self.visible, [v, vv, f, ff, fv], places);
        add_row(&mut self.infrared, [i, ii, f, ff, fi], places);
    }
}

/// Adds one row's terms, from the windowed source, its square, the fused image, its square and the
/// product of both.
#[inline(always)]
fn add_row(sum: &mut Fraction, [m1, e1, m2, e2, e12]: [&Vec<f64>; 5], places: usize) {
    let mut x = 0;
    while x < places {
        let end = (x + LOG_BATCH * LANES).min(places);
        let (mut above, mut below) = (V::splat(1.), V::splat(1.));
        while x < end {
            let (mut a, mut b) = terms(
                V::load(m1, x),
                V::load(e1, x),
                V::load(m2, x),
                V::load(e2, x),
                V::load(e12, x),
            );
            if places - x < LANES {
                (a, b) = (a.first(places - x, 1.), b.first(places - x, 1.));
            }
            above = above * a;
            below = below * b;
            x += LANES;
        }
        sum.above += ln(above).sum();
        sum.below += ln(below).sum();
    }
}

/// What the two logarithms of a pixel are taken of.
#[inline(always)]
fn terms(m1: V, e1: V, m2: V, e2: V, e12: V) -> (V, V) {
    let (zero, epsilon) = (V::splat(0.), V::splat(EPSILON));
    let var1 = (e1 - m1 * m1).max(zero);
    let var2 = (e2 - m2 * m2).max(zero);
    let covariance = e12 - m1 * m2;
    let gain = covariance / (var1 + EPSILON);
    let rest = var2 - gain * covariance;

    let (gain, rest) =
        (var1.select_less(epsilon, zero, gain), var1.select_less(epsilon, var2, rest));
    let var1 = var1.select_less(epsilon, zero, var1);
    let (gain, rest) =
        (var2.select_less(epsilon, zero, gain), var2.select_less(epsilon, zero, rest));
    let (gain, rest) = (gain.max(zero), gain.select_less(zero, var2, rest));
    let rest = rest.max(epsilon);
    (gain * gain * var1 / (rest + NOISE) + 1., var1 * (1. / NOISE) + 1.)
}

/// The images of the next scale: the window over each, every second row and column of the result.
fn halved<const N: usize>(g: &Grids) -> Grids {
    let (fused, (visible, infrared)) = rayon::join(
        || halve::<N>(&g.fused),
        || rayon::join(|| halve::<N>(&g.visible), || halve::<N>(&g.infrared)),
    );
    Grids { visible, infrared, fused }
}

fn halve<const N: usize>(g: &Grid) -> Grid {
    filter(g, &window::<N>(), 2)
}
