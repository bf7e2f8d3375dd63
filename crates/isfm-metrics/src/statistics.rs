use rayon::prelude::*;

use crate::plane::{Grid, Grids};
use crate::simd::{Kernel, LANES, V, dispatch, sum};
use crate::{Plane, Sample, Triple};

/// Pixels of one task; fixed, so that sums do not depend on the threads. A multiple of the lanes.
const CHUNK: usize = 1 << 14;

/// A standard deviation below this many grey levels is a constant plus rounding.
const CONSTANT: f64 = 1e-9;

/// SD: the population standard deviation of the grey levels, √(mean (f − mean f)²).
///
/// From 0 (constant) to 127.5; higher is better: more contrast.
///
/// Rao, "In-fibre Bragg grating sensors", Meas. Sci. Technol. 1997, is what fusion papers cite.
///
/// Checked against the ISFM authors' program and NumPy's `std`.
pub fn standard_deviation<T: Sample>(fused: &Plane<'_, T>) -> f64 {
    let fused = &Grid::of(fused);
    Statistics::of_images([fused; 3]).standard_deviation()
}

/// CC: the mean of Pearson's correlations of the fused image with each source,
/// ½(r(f, vi) + r(f, ir)).
///
/// From −1 to 1; higher is better. With a constant image r is undefined and counts as 0.
///
/// Checked against the ISFM authors' program and NumPy's `corrcoef`.
pub fn correlation<T: Sample>(triple: &Triple<'_, T>) -> f64 {
    Statistics::of(&Grids::of(triple)).correlation()
}

/// SCD: the sum of the correlations of differences, r(vi, f − ir) + r(ir, f − vi), r Pearson's
/// correlation: what is left of the fused image without one source should be the other source.
///
/// From −2 to 2; higher is better. Where an image or a difference is constant (f = ir, say) r is
/// undefined and counts as 0.
///
/// Aslantas, Bendes, "A new image quality metric for image fusion: the sum of the correlations of
/// differences", AEÜ 2015.
///
/// Checked against the ISFM authors' program and NumPy's `corrcoef`.
pub fn scd<T: Sample>(triple: &Triple<'_, T>) -> f64 {
    Statistics::of(&Grids::of(triple)).scd()
}

/// MSE: the mean of the mean squared errors against each source,
/// ½(mean (f − vi)² + mean (f − ir)²).
///
/// From 0 to 255²; lower is better.
///
/// Checked against the ISFM authors' program and scikit-image's `mean_squared_error`.
pub fn mse<T: Sample>(triple: &Triple<'_, T>) -> f64 {
    Statistics::of(&Grids::of(triple)).mse()
}

/// RMSE: the mean of the root mean squared errors against each source,
/// ½(√mean (f − vi)² + √mean (f − ir)²).
///
/// From 0 to 255; lower is better.
///
/// Jagalingam, Hegde, "A review of quality metrics for fused image", Aquatic Procedia 2015. VIFB's
/// program divides by √(the number of pixels) once more.
///
/// Checked against scikit-image's `mean_squared_error`, and VIFB's form against its program.
pub fn rmse<T: Sample>(triple: &Triple<'_, T>) -> f64 {
    Statistics::of(&Grids::of(triple)).rmse()
}

/// PSNR: 10 log₁₀(max(f)² / [`mse`]) in decibels, max(f) the fused image's own maximum (not 255).
///
/// Higher is better. +∞ where the MSE is 0 (all three images alike, black ones too); −∞ for a
/// black fused image of other sources.
///
/// Checked against the ISFM authors' program.
pub fn psnr<T: Sample>(triple: &Triple<'_, T>) -> f64 {
    Statistics::of(&Grids::of(triple)).psnr()
}

/// 10 log₁₀(peak² / error).
pub(crate) fn decibels(peak: f64, error: f64) -> f64 {
    if error == 0. { f64::INFINITY } else { 10. * (peak * peak / error).log10() }
}

/// SD in MATLAB's arithmetic of bytes: differences from the mean are rounded, negative ones are 0,
/// and squares stop at 255.
pub(crate) fn saturated_deviation(levels: &Grid) -> f64 {
    let mean = mean(levels);
    let squares = levels.pixels().iter().map(|p| {
        let difference = (p - mean).round().max(0.);
        (difference * difference).min(255.)
    });
    (squares.sum::<f64>() / levels.pixels().len() as f64).sqrt()
}

fn mean(grid: &Grid) -> f64 {
    struct Sum<'a>(&'a [f64]);
    impl Kernel for Sum<'_> {
        type Output = f64;
        #[inline(always)]
        fn run(self) -> f64 {
            sum(self.0)
        }
    }
    let sums: Vec<f64> = grid.pixels().par_chunks(CHUNK).map(|c| dispatch(Sum(c))).collect();
    sums.iter().sum::<f64>() / grid.pixels().len() as f64
}

/// The second moments of the three images and of the differences f − vi and f − ir.
#[derive(Default)]
pub(crate) struct Statistics {
    n: f64,
    max_fused: f64,
    /// The sums of squared differences from the sources, means included.
    errors: [f64; 2],
    // Centred sums of squares, and of products with the fused image and with the difference from
    // the other source.
    fused: f64,
    sources: [f64; 2],
    differences: [f64; 2],
    with_fused: [f64; 2],
    with_difference: [f64; 2],
}

impl Statistics {
    pub(crate) fn of(g: &Grids) -> Self {
        Self::of_images([&g.fused, &g.visible, &g.infrared])
    }

    fn of_images(grids: [&Grid; 3]) -> Self {
        let means = grids.map(mean);
        let images = grids.map(Grid::pixels);
        let n = images[0].len();
        let starts = (0..n).into_par_iter().step_by(CHUNK);
        let parts: Vec<([f64; 11], f64)> = starts
            .map(|first| {
                let last = (first + CHUNK).min(n);
                dispatch(Chunk { images: images.map(|i| &i[first..last]), means })
            })
            .collect();
        let mut sums = [0.; 11];
        let mut max_fused: f64 = 0.;
        for (part, max) in parts {
            for (sum, part) in sums.iter_mut().zip(part) {
                *sum += part;
            }
            max_fused = max_fused.max(max);
        }
        let [ev, ei, fused, v, i, wv, wi, fv, fi, vwi, iwv] = sums;
        Self {
            n: n as f64,
            max_fused,
            errors: [ev, ei],
            fused,
            sources: [v, i],
            differences: [wv, wi],
            with_fused: [fv, fi],
            with_difference: [vwi, iwv],
        }
    }

    pub(crate) fn standard_deviation(&self) -> f64 {
        (self.fused / self.n).sqrt()
    }

    pub(crate) fn correlation(&self) -> f64 {
        let of = |s: usize| self.pearson(self.with_fused[s], self.fused, self.sources[s]);
        0.5 * (of(0) + of(1))
    }

    pub(crate) fn scd(&self) -> f64 {
        let of = |s: usize| {
            self.pearson(self.with_difference[s], self.sources[s], self.differences[1 - s])
        };
        of(0) + of(1)
    }

    pub(crate) fn mse(&self) -> f64 {
        0.5 * (self.errors[0] + self.errors[1]) / self.n
    }

    pub(crate) fn rmse(&self) -> f64 {
        let [visible, infrared] = self.errors.map(|sum| (sum / self.n).sqrt());
        0.5 * (visible + infrared)
    }

    pub(crate) fn psnr(&self) -> f64 {
        decibels(self.max_fused, self.mse())
    }

    /// √ of the sum, not the mean, of the squared errors, over the number of pixels; the mean of both
    /// sources.
    pub(crate) fn rmse_of_sums(&self) -> f64 {
        self.rmse() / self.n.sqrt()
    }

    /// Pearson's correlation from centred sums; 0 where a side is constant.
    fn pearson(&self, product: f64, a: f64, b: f64) -> f64 {
        let constant = self.n * CONSTANT * CONSTANT;
        if a <= constant || b <= constant { 0. } else { product / (a.sqrt() * b.sqrt()) }
    }
}

/// Some pixels of the fused, the visible and the infrared image.
struct Chunk<'a> {
    images: [&'a [f64]; 3],
    means: [f64; 3],
}

impl Kernel for Chunk<'_> {
    /// The sums in the order of [`Statistics`], and the fused image's maximum.
    type Output = ([f64; 11], f64);

    #[inline(always)]
    fn run(self) -> ([f64; 11], f64) {
        let mut sums = [V::splat(0.); 11];
        let mut max = V::splat(0.);
        let n = self.images[0].len();
        let whole = n - n % LANES;
        for x in (0..whole).step_by(LANES) {
            let [f, v, i] = self.images;
            let (f, v, i) = (V::load(f, x), V::load(v, x), V::load(i, x));
            max = max.max(f);
            add(&mut sums, f, v, i, self.means);
        }
        if whole < n {
            let mut rest = [V::splat(0.); 3];
            for ((rest, image), mean) in rest.iter_mut().zip(self.images).zip(self.means) {
                let mut lanes = [mean; LANES];
                lanes[..n - whole].copy_from_slice(&image[whole..]);
                *rest = V(lanes);
            }
            max = max.max(rest[0].first(n - whole, 0.));
            let mut last = [V::splat(0.); 11];
            add(&mut last, rest[0], rest[1], rest[2], self.means);
            for (sum, last) in sums.iter_mut().zip(last) {
                *sum += last.first(n - whole, 0.);
            }
        }
        (sums.map(V::sum), max.0.iter().fold(0., |a, &b| a.max(b)))
    }
}

#[inline(always)]
fn add(sums: &mut [V; 11], f: V, v: V, i: V, [mean_f, mean_v, mean_i]: [f64; 3]) {
    let (to_visible, to_infrared) = (f - v, f - i);
    let (f, v, i) = (f - mean_f, v - mean_v, i - mean_i);
    let (wv, wi) = (f - v, f - i);
    let terms = [
        to_visible * to_visible,
        to_infrared * to_infrared,
        f * f,
        v * v,
        i * i,
        wv * wv,
        wi * wi,
        f * v,
        f * i,
        v * wi,
        i * wv,
    ];
    for k in 0..11 {
        sums[k] += terms[k];
    }
}
