use crate::plane::{Grid, Grids};
use crate::{Plane, Sample, Triple};

/// A standard deviation below this many grey levels is a constant plus rounding.
const CONSTANT: f64 = 1e-9;

/// SD: the population standard deviation of the grey levels, √(mean (f − mean f)²).
///
/// From 0 (constant) to 127.5; higher is better: more contrast.
///
/// Rao, "In-fibre Bragg grating sensors", Meas. Sci. Technol. 1997, is what fusion papers cite.
pub fn standard_deviation<T: Sample>(fused: &Plane<'_, T>) -> f64 {
    let fused = Grid::of(fused);
    let mean = mean(&fused);
    let squares: f64 = fused.data.iter().map(|f| (f - mean) * (f - mean)).sum();
    (squares / fused.data.len() as f64).sqrt()
}

/// CC: the mean of Pearson's correlations of the fused image with each source,
/// ½(r(f, vi) + r(f, ir)).
///
/// From −1 to 1; higher is better. With a constant image r is undefined and counts as 0.
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
pub fn scd<T: Sample>(triple: &Triple<'_, T>) -> f64 {
    Statistics::of(&Grids::of(triple)).scd()
}

/// MSE: the mean of the mean squared errors against each source,
/// ½(mean (f − vi)² + mean (f − ir)²).
///
/// From 0 to 255²; lower is better.
pub fn mse<T: Sample>(triple: &Triple<'_, T>) -> f64 {
    Statistics::of(&Grids::of(triple)).mse()
}

/// PSNR: 10 log₁₀(max(f)² / [`mse`]) in decibels, max(f) the fused image's own maximum (not 255).
///
/// Higher is better. +∞ where the MSE is 0 (all three images alike, black ones too); −∞ for a
/// black fused image of other sources.
pub fn psnr<T: Sample>(triple: &Triple<'_, T>) -> f64 {
    Statistics::of(&Grids::of(triple)).psnr()
}

fn mean(grid: &Grid) -> f64 {
    grid.data.iter().sum::<f64>() / grid.data.len() as f64
}

/// The second moments of the three images and of the differences f − vi and f − ir.
#[derive(Default)]
pub(crate) struct Statistics {
    n: f64,
    max_fused: f64,
    /// Sums of squared differences, means included.
    error_visible: f64,
    error_infrared: f64,
    // Centred sums: of a square, or of a product of two.
    fused: f64,
    visible: f64,
    infrared: f64,
    without_visible: f64,
    without_infrared: f64,
    fused_visible: f64,
    fused_infrared: f64,
    visible_without_infrared: f64,
    infrared_without_visible: f64,
}

impl Statistics {
    pub(crate) fn of(g: &Grids) -> Self {
        let (mean_f, mean_v, mean_i) = (mean(&g.fused), mean(&g.visible), mean(&g.infrared));
        let mut s = Statistics { n: g.fused.data.len() as f64, ..Default::default() };
        let sources = g.visible.data.iter().zip(&g.infrared.data);
        for (&f, (&v, &i)) in g.fused.data.iter().zip(sources) {
            s.max_fused = s.max_fused.max(f);
            s.error_visible += (f - v) * (f - v);
            s.error_infrared += (f - i) * (f - i);
            let (f, v, i) = (f - mean_f, v - mean_v, i - mean_i);
            s.fused += f * f;
            s.visible += v * v;
            s.infrared += i * i;
            s.without_visible += (f - v) * (f - v);
            s.without_infrared += (f - i) * (f - i);
            s.fused_visible += f * v;
            s.fused_infrared += f * i;
            s.visible_without_infrared += v * (f - i);
            s.infrared_without_visible += i * (f - v);
        }
        s
    }

    pub(crate) fn standard_deviation(&self) -> f64 {
        (self.fused / self.n).sqrt()
    }

    pub(crate) fn correlation(&self) -> f64 {
        let visible = self.pearson(self.fused_visible, self.fused, self.visible);
        let infrared = self.pearson(self.fused_infrared, self.fused, self.infrared);
        0.5 * (visible + infrared)
    }

    pub(crate) fn scd(&self) -> f64 {
        self.pearson(self.visible_without_infrared, self.visible, self.without_infrared)
            + self.pearson(self.infrared_without_visible, self.infrared, self.without_visible)
    }

    pub(crate) fn mse(&self) -> f64 {
        0.5 * (self.error_visible + self.error_infrared) / self.n
    }

    pub(crate) fn psnr(&self) -> f64 {
        match self.mse() {
            0. => f64::INFINITY,
            mse => 10. * (self.max_fused * self.max_fused / mse).log10(),
        }
    }

    /// Pearson's correlation from centred sums; 0 where a side is constant.
    fn pearson(&self, product: f64, a: f64, b: f64) -> f64 {
        let constant = self.n * CONSTANT * CONSTANT;
        if a <= constant || b <= constant { 0. } else { product / (a.sqrt() * b.sqrt()) }
    }
}
