//! The metrics that model the eye's sensitivity to contrast, Qcv and Qcb.

use rayon::prelude::*;

use crate::edges::{Border, Sobel};
use crate::fourier::{Fourier, Spectrum, filtered, frequency};
use crate::moments::same;
use crate::plane::{Grid, Grids, bands};
use crate::simd::{Kernel, dispatch, sum};
use crate::{Sample, Triple};

/// Side of the regions of Qcv.
const REGION: usize = 16;
// Difference of Gaussians, the contrast sensitivity of Qcb.
const F0: f64 = 15.387;
const F1: f64 = 1.3456;
const A: f64 = 0.7622;
/// What keeps Qcb's masked contrast finite.
const Z: f64 = 1e-4;

/// Qcv: the error of the fused image against both sources as the eye sees it, weighted by how
/// salient each region of a source is, Σ(λ_vi D_vi + λ_ir D_ir) / Σ(λ_vi + λ_ir) over regions of
/// 16×16 pixels.
///
/// Each image is first stretched to 0…255 and rounded. D is the mean square of source − fused after
/// the contrast sensitivity filter of Mannos and Sakrison, 2.6 (.0192 + .144 r) e^{−(.144 r)^1.1},
/// r = ¼ of the cycles per image, applied by Fourier transform (so the image repeats at its border).
/// λ is the sum of g⁵, g the strength of the source's Sobel edges with zero padding. Regions that
/// the border cuts count as full of zeros beyond it.
///
/// From 0 (fused like both sources) upwards, typically hundreds; lower is better. A constant image
/// is stretched to 0; where both sources are constant no region is salient and the value is 0.
///
/// Chen, Varshney, "A human perception inspired quality metric for image fusion based on regional
/// information", Information Fusion 2007; the choices above are those of Liu's toolbox (Liu et al.,
/// "Objective assessment of multiresolution image fusion algorithms for context enhancement in night
/// vision", IEEE Trans. PAMI 2012), which the benchmarks copied.
///
/// Checked against plain NumPy written from the papers (`tests/fixtures/make.py`).
pub fn qcv<T: Sample>(triple: &Triple<'_, T>) -> f64 {
    Stretched::of(&Grids::of(triple)).qcv()
}

/// Qcb: how much of the sources' local contrast, as the eye sees it, the fused image kept: the mean
/// of λ_vi Q_vi + λ_ir Q_ir over all pixels.
///
/// Each image is first stretched to 0…255 and rounded, then filtered by Fourier transform with the
/// contrast sensitivity e^{−(r/15.387)²} − .7622 e^{−(r/1.3456)²}, r = 1/15 of the cycles per image.
/// With Gaussians of σ = 2 and σ = 4 (31×31, zero padding) the contrast is C = |G₂/G₄ − 1|, masked
/// to C' = C³/(C² + .0001). For a source, Q = smaller C' / larger; λ is its share of the sum of both
/// sources' C'².
///
/// From 0 to 1; higher is better. Where both C' are 0, Q is 1; where both sources' are, λ is ½ each;
/// C is 0 where G₄ is 0; a constant image is stretched to 0.
///
/// Chen, Blum, "A new automated quality assessment algorithm for image fusion", Image and Vision
/// Computing 2009; the choices above are those of Liu's toolbox, see [`qcv`].
///
/// Checked against plain NumPy written from the papers (`tests/fixtures/make.py`).
pub fn qcb<T: Sample>(triple: &Triple<'_, T>) -> f64 {
    Stretched::of(&Grids::of(triple)).qcb()
}

/// The images stretched to 0…255, and their spectra.
pub(crate) struct Stretched {
    images: Grids,
    fourier: Fourier,
    /// Of visible + i·infrared.
    sources: Spectrum,
    fused: Spectrum,
}

impl Stretched {
    pub(crate) fn of(g: &Grids) -> Self {
        let (w, h) = g.size();
        let images = g.map(stretched);
        let fourier = Fourier::new(w, h);
        let sources = fourier.spectrum(images.visible.pixels(), images.infrared.pixels());
        let fused = fourier.spectrum(images.fused.pixels(), &vec![0.; w * h]);
        Self { images, fourier, sources, fused }
    }

    pub(crate) fn qcv(&self) -> f64 {
        let (w, h) = self.images.size();
        let sensitivity = self.fourier.filter(|u, v| {
            let r = 0.25 * frequency(u, w).hypot(frequency(v, h));
            2.6 * (0.0192 + 0.144 * r) * (-(0.144 * r).powf(1.1)).exp()
        });
        // visible − fused in the real part, infrared − fused in the imaginary one.
        let both = rustfft::num_complex::Complex { re: 1., im: 1. };
        let differences =
            self.sources.par_iter().zip(&self.fused).map(|(s, f)| s - f * both).collect::<Vec<_>>();
        let errors = self.fourier.image(filtered(&differences, &sensitivity));
        let rows_of_regions: Vec<(f64, f64)> = bands(h, REGION)
            .map(|rows| {
                let mut sums = (0., 0.);
                for (source, imaginary) in
                    [(&self.images.visible, false), (&self.images.infrared, true)]
                {
                    let saliency = dispatch(Saliency { g: source, rows: rows.clone() });
                    let mut error = vec![0.; saliency.len()];
                    for y in rows.clone() {
                        for (x, e) in errors[y * w..][..w].iter().enumerate() {
                            let e = if imaginary { e.im } else { e.re };
                            error[x / REGION] += e * e;
                        }
                    }
                    for (l, e) in saliency.iter().zip(&error) {
                        sums.0 += l * e / (REGION * REGION) as f64;
                        sums.1 += l;
                    }
                }
                sums
            })
            .collect();
        let (above, below) = rows_of_regions.iter().fold((0., 0.), |s, r| (s.0 + r.0, s.1 + r.1));
        if below > 0. { above / below } else { 0. }
    }

    pub(crate) fn qcb(&self) -> f64 {
        let (w, h) = self.images.size();
        let sensitivity = self.fourier.filter(|u, v| {
            let r = frequency(u, w).hypot(frequency(v, h)) / 15.;
            (-(r / F0).powi(2)).exp() - A * (-(r / F1).powi(2)).exp()
        });
        let sources = self.fourier.image(filtered(&self.sources, &sensitivity));
        let fused = self.fourier.image(filtered(&self.fused, &sensitivity));
        let [visible, infrared, fused] = [
            sources.iter().map(|z| z.re).collect::<Vec<_>>(),
            sources.iter().map(|z| z.im).collect(),
            fused.iter().map(|z| z.re).collect(),
        ]
        .map(|pixels| contrast(&Grid::from_pixels(pixels, w, h)));
        let rows: Vec<f64> = (fused.par_chunks(w).zip(visible.par_chunks(w)))
            .zip(infrared.par_chunks(w))
            .map(|((f, v), i)| {
                let pixels = f.iter().zip(v).zip(i);
                pixels.map(|((&f, &v), &i)| kept(f, v, i)).sum::<f64>()
            })
            .collect();
        rows.iter().sum::<f64>() / (w * h) as f64
    }
}

fn stretched(g: &Grid) -> Grid {
    let (least, most) = g.range();
    let mut out = Grid::zeros(g.w, g.h);
    if most > least {
        for (o, p) in out.pixels_mut().iter_mut().zip(g.pixels()) {
            *o = ((p - least) / (most - least) * 255.).round();
        }
    }
    out
}

/// Σ g⁵ of each region in one row of regions.
struct Saliency<'a> {
    g: &'a Grid,
    rows: std::ops::Range<usize>,
}

impl Kernel for Saliency<'_> {
    type Output = Vec<f64>;

    #[inline(always)]
    fn run(self) -> Vec<f64> {
        let w = self.g.w;
        let mut sobel = Sobel::new(w);
        let mut powers = vec![0.; w];
        let mut regions = vec![0.; w.div_ceil(REGION)];
        for y in self.rows {
            sobel.row(self.g, y, Border::Zero);
            for ((power, gx), gy) in powers.iter_mut().zip(&sobel.gx).zip(&sobel.gy) {
                let square = gx * gx + gy * gy;
                // g⁵.
                *power = square * square * square.sqrt();
            }
            for (region, powers) in regions.iter_mut().zip(powers.chunks(REGION)) {
                *region += sum(powers);
            }
        }
        regions
    }
}

/// Masked local contrast.
fn contrast(g: &Grid) -> Vec<f64> {
    let (fine, coarse) = rayon::join(|| same(g, &window(2.)), || same(g, &window(4.)));
    let mut out = fine.pixels().to_vec();
    for (fine, &coarse) in out.iter_mut().zip(coarse.pixels()) {
        let c = if coarse == 0. { 0. } else { (*fine / coarse - 1.).abs() };
        *fine = c * c * c / (c * c + Z);
    }
    out
}

/// A Gaussian that is not normalised after it was cut off.
fn window(sigma: f64) -> [f64; 31] {
    let norm = 1. / ((2. * std::f64::consts::PI).sqrt() * sigma);
    std::array::from_fn(|k| norm * (-((k as f64 - 15.) / sigma).powi(2) / 2.).exp())
}

fn kept(fused: f64, visible: f64, infrared: f64) -> f64 {
    let ratio = |c: f64| if c == fused { 1. } else { c.min(fused) / c.max(fused) };
    let (v, i) = (visible * visible, infrared * infrared);
    let share = if v + i > 0. { v / (v + i) } else { 0.5 };
    share * ratio(visible) + (1. - share) * ratio(infrared)
}
