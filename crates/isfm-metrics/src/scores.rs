use std::f64::consts::LN_2;

use rayon::prelude::*;

use crate::convention::{Errors, Gradient, Information};
use crate::differences::{average_gradient_of, edge_intensity_of, spatial_frequency_of};
use crate::fmi::{Feature, fmi_of};
use crate::histogram::Histograms;
use crate::information::between;
use crate::nabf::nabf_of;
use crate::perception::Stretched;
use crate::phase::qp_of;
use crate::plane::Grids;
use crate::qabf::qabf_of;
use crate::ssim::{ms_ssim_of, ssim_of};
use crate::statistics::{Statistics, decibels, saturated_deviation};
use crate::vif::vif_of;
use crate::{Convention, Metric, Sample, Triple};

/// The brightest grey level.
const PEAK: f64 = 255.;

/// The metrics of one fused image, or their means over many.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scores {
    values: [Option<f64>; Metric::ALL.len()],
}

impl Scores {
    /// Values that were computed before, such as those of a file; of a metric that is there twice the
    /// last.
    pub fn of(values: impl IntoIterator<Item = (Metric, f64)>) -> Self {
        let mut scores = Self::default();
        for (metric, value) in values {
            scores.values[metric as usize] = Some(value);
        }
        scores
    }

    /// All metrics at once, sharing what they have in common, on rayon's current pool. The values
    /// are those of the single functions and do not depend on the number of threads.
    ///
    /// FMI and Qp take nearly all of the time; [`evaluate_only`](Self::evaluate_only) can leave
    /// them out.
    pub fn evaluate<T: Sample>(triple: &Triple<'_, T>) -> Self {
        Self::evaluate_only(triple, Metric::ALL)
    }

    /// The metrics asked for and no others, for example [`Metric::RELEASED`].
    pub fn evaluate_only<T: Sample>(triple: &Triple<'_, T>, metrics: &[Metric]) -> Self {
        Self::evaluate_as(triple, metrics, Convention::Released)
    }

    /// The metrics asked for, each as the convention's program computes it: what to compare with the
    /// tables made with that program. A metric that the program does not have
    /// ([`Convention::metrics`]) has no value.
    ///
    /// ```
    /// # use isfm_metrics::{Convention, Metric, Plane, Scores, Triple};
    /// # let [a, b, f] = [3, 5, 4].map(|k| (0..64 * 48).map(|p| (p % 64 * k / 2) as u8).collect::<Vec<_>>());
    /// # let plane = |data| Plane::new(data, 64, 48).unwrap();
    /// # let triple = Triple::new(plane(&a), plane(&b), plane(&f))?;
    /// let convention: Convention = "vifb".parse()?;
    /// let scores = Scores::evaluate_as(&triple, convention.metrics(), convention);
    /// assert!(scores.get(Metric::Ssim).is_some());
    /// assert_eq!(scores.get(Metric::Scd), None); // VIFB has no SCD.
    /// # Ok::<(), isfm_metrics::Error>(())
    /// ```
    pub fn evaluate_as<T: Sample>(
        triple: &Triple<'_, T>,
        metrics: &[Metric],
        convention: Convention,
    ) -> Self {
        let images = &match convention {
            Convention::Released => Grids::of(triple),
            _ => Grids::levels(triple),
        };
        let choices = convention.choices();
        let metrics: Vec<Metric> =
            convention.metrics().iter().copied().filter(|m| metrics.contains(m)).collect();
        let asked = |of: &[Metric]| of.iter().any(|m| metrics.contains(m));
        // Each group has something to share. The longest tasks come first, so that the short ones
        // fill the gaps at the end.
        type Group<'a> = (&'a [Metric], Box<dyn Fn() -> Vec<Option<f64>> + Sync + 'a>);
        let fmi = |feature| move || vec![fmi_of(images, feature).ok()];
        let groups: Vec<Group<'_>> = vec![
            (&[Metric::Qp], Box::new(|| vec![Some(qp_of(images))])),
            (&[Metric::FmiWavelet], Box::new(fmi(Feature::Wavelet))),
            (&[Metric::FmiDct], Box::new(fmi(Feature::Dct))),
            (&[Metric::FmiGradient], Box::new(fmi(Feature::Gradient))),
            (&[Metric::FmiPixel], Box::new(fmi(Feature::Pixel))),
            (
                &[Metric::Qcv, Metric::Qcb],
                Box::new(|| {
                    let stretched = Stretched::of(images);
                    let qcv = asked(&[Metric::Qcv]).then(|| stretched.qcv());
                    vec![qcv, asked(&[Metric::Qcb]).then(|| stretched.qcb())]
                }),
            ),
            (&[Metric::MsSsim], Box::new(|| vec![ms_ssim_of(images, choices.ms_ssim).ok()])),
            (&[Metric::Vif], Box::new(|| vec![vif_of(images, choices.vif).ok()])),
            (&[Metric::Qabf], Box::new(|| vec![Some(qabf_of(images, choices.qabf))])),
            (&[Metric::Nabf], Box::new(|| vec![Some(nabf_of(images, choices.nabf))])),
            (&[Metric::Ssim], Box::new(|| vec![ssim_of(images, choices.ssim).ok()])),
            (
                &[Metric::En, Metric::Mi, Metric::Ce, Metric::Qmi, Metric::Qte, Metric::Qncie],
                Box::new(|| {
                    let h = Histograms::of(triple);
                    let sources = asked(&[Metric::Qte, Metric::Qncie]).then(|| between(triple));
                    vec![
                        Some(if choices.offset_entropy { h.offset_entropy() } else { h.entropy() }),
                        Some(match choices.information {
                            Information::Nats => h.information(),
                            Information::Bits => h.information() / LN_2,
                            Information::MergedBits => h.merged_information(),
                        }),
                        Some(h.cross_entropy()),
                        Some(h.qmi()),
                        sources.as_ref().map(|sources| h.qte(sources)),
                        sources.as_ref().map(|sources| h.qncie(sources)),
                    ]
                }),
            ),
            (
                &[Metric::Sd, Metric::Scd, Metric::Cc, Metric::Mse, Metric::Psnr, Metric::Rmse],
                Box::new(|| {
                    let s = Statistics::of(images);
                    let deviation = if choices.saturated_deviation {
                        saturated_deviation(&images.fused)
                    } else {
                        s.standard_deviation()
                    };
                    let (mse, psnr, rmse) = match choices.errors {
                        Errors::Bytes => (s.mse(), s.psnr(), s.rmse()),
                        Errors::Unit => {
                            let mse = s.mse() / (PEAK * PEAK);
                            (mse, decibels(PEAK, mse), s.rmse() / PEAK)
                        }
                        Errors::Sums => {
                            let rmse = s.rmse_of_sums();
                            (s.mse(), decibels(PEAK, rmse), rmse)
                        }
                    };
                    let values = [deviation, s.scd(), s.correlation(), mse, psnr, rmse];
                    values.map(Some).to_vec()
                }),
            ),
            (
                &[Metric::Ag],
                Box::new(|| {
                    let mean = average_gradient_of(&images.fused);
                    let (w, h) = images.size();
                    let inner = (w - 1) * (h - 1);
                    vec![match choices.gradient {
                        Gradient::Pixels => Some(mean),
                        Gradient::Inner if inner == 0 => None,
                        Gradient::Inner => Some(mean * (w * h) as f64 / inner as f64),
                    }]
                }),
            ),
            (&[Metric::Ei], Box::new(|| vec![Some(edge_intensity_of(&images.fused))])),
            (
                &[Metric::Sf],
                Box::new(|| {
                    let frequency = spatial_frequency_of(&images.fused, choices.frequency);
                    vec![Some(if choices.unit_frequency { frequency / PEAK } else { frequency })]
                }),
            ),
        ];
        let results: Vec<(Metric, Option<f64>)> = groups
            .par_iter()
            .with_max_len(1)
            .filter(|(group, _)| asked(group))
            .flat_map_iter(|(group, compute)| group.iter().copied().zip(compute()))
            .collect();
        let mut scores = Self::default();
        for (metric, value) in results {
            if metrics.contains(&metric) {
                scores.values[metric as usize] = value;
            }
        }
        scores
    }

    /// The value of one metric; none where it was not asked for or the images were too small for
    /// it.
    pub fn get(&self, metric: Metric) -> Option<f64> {
        self.values[metric as usize]
    }

    /// The metrics that have a value, in the order of [`Metric::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (Metric, f64)> + '_ {
        Metric::ALL.iter().filter_map(|&m| self.get(m).map(|value| (m, value)))
    }

    /// Each metric's mean over a set of images, none for no images. A metric that one of them
    /// lacks has no mean.
    pub fn mean(scores: &[Scores]) -> Option<Scores> {
        if scores.is_empty() {
            return None;
        }
        let mut mean = Scores::default();
        for (k, mean) in mean.values.iter_mut().enumerate() {
            let sum: Option<f64> = scores.iter().map(|s| s.values[k]).sum();
            *mean = sum.map(|sum| sum / scores.len() as f64);
        }
        Some(mean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Plane;
    use crate::simd::{ALLOWED, Level};

    #[test]
    fn the_same_bits_for_any_instruction_set() {
        let (w, h) = (173, 165);
        let image = |seed: usize| -> Vec<u8> {
            (0..w * h).map(|p| ((p % w * seed + p / w * 7 + p * p % 61) % 256) as u8).collect()
        };
        let images = [3, 5, 4].map(image);
        let [v, i, f] = images.each_ref().map(|data| Plane::new(data, w, h).unwrap());
        let triple = Triple::new(v, i, f).unwrap();
        let [portable, avx2, avx512] = [Level::Portable, Level::Avx2, Level::Avx512].map(|level| {
            isfm_testing::on_threads(1, || {
                ALLOWED.set(level);
                Scores::evaluate(&triple)
            })
        });
        assert_eq!(portable, avx2);
        assert_eq!(portable, avx512);
    }
}
