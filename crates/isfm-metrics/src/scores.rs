use crate::differences::{average_gradient_of, spatial_frequency_of};
use crate::histogram::entropy_and_information;
use crate::plane::Grids;
use crate::qabf::qabf_of;
use crate::ssim::ssim_of;
use crate::statistics::Statistics;
use crate::vif::vif_of;
use crate::{Metric, Sample, Triple};

/// Every metric of one fused image, or their means over many.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Scores {
    /// [`entropy`](crate::entropy), bits.
    pub en: f64,
    /// [`standard_deviation`](crate::standard_deviation), grey levels.
    pub sd: f64,
    /// [`spatial_frequency`](crate::spatial_frequency), grey levels.
    pub sf: f64,
    /// [`average_gradient`](crate::average_gradient), grey levels.
    pub ag: f64,
    /// [`mutual_information`](crate::mutual_information), nats.
    pub mi: f64,
    /// [`scd`](crate::scd).
    pub scd: f64,
    /// [`vif`](crate::vif); none for images below 41 pixels in width or height.
    pub vif: Option<f64>,
    /// [`qabf`](crate::qabf).
    pub qabf: f64,
    /// [`ssim`](crate::ssim); none for images below 7 pixels in width or height.
    pub ssim: Option<f64>,
    /// [`correlation`](crate::correlation).
    pub cc: f64,
    /// [`mse`](crate::mse), squared grey levels.
    pub mse: f64,
    /// [`psnr`](crate::psnr), decibels; infinite where the MSE is 0 or the fused image black.
    pub psnr: f64,
}

impl Scores {
    /// All metrics at once, sharing what they have in common, on rayon's current pool. The values
    /// are those of the single functions and do not depend on the number of threads.
    pub fn evaluate<T: Sample>(triple: &Triple<'_, T>) -> Self {
        let images = Grids::of(triple);
        let ((qabf, ssim), ((en, mi), (statistics, (sf, ag)))) = rayon::join(
            || rayon::join(|| qabf_of(&images), || ssim_of(&images).ok()),
            || {
                let differences =
                    || (spatial_frequency_of(&images.fused), average_gradient_of(&images.fused));
                rayon::join(
                    || entropy_and_information(triple),
                    || rayon::join(|| Statistics::of(&images), differences),
                )
            },
        );
        Self {
            en,
            sd: statistics.standard_deviation(),
            sf,
            ag,
            mi,
            scd: statistics.scd(),
            // Last, because it can then consume the images; it uses all threads by itself.
            vif: vif_of(images).ok(),
            qabf,
            ssim,
            cc: statistics.correlation(),
            mse: statistics.mse(),
            psnr: statistics.psnr(),
        }
    }

    /// The value of one metric; none where the images were too small for it.
    pub fn get(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::En => Some(self.en),
            Metric::Sd => Some(self.sd),
            Metric::Sf => Some(self.sf),
            Metric::Ag => Some(self.ag),
            Metric::Mi => Some(self.mi),
            Metric::Scd => Some(self.scd),
            Metric::Vif => self.vif,
            Metric::Qabf => Some(self.qabf),
            Metric::Ssim => self.ssim,
            Metric::Cc => Some(self.cc),
            Metric::Mse => Some(self.mse),
            Metric::Psnr => Some(self.psnr),
        }
    }

    /// Each metric's mean over a set of images, none for no images. A metric that one of them
    /// lacks has no mean.
    pub fn mean(scores: &[Scores]) -> Option<Scores> {
        if scores.is_empty() {
            return None;
        }
        let optional = |get: fn(&Scores) -> Option<f64>| {
            let sum: Option<f64> = scores.iter().map(get).sum();
            sum.map(|sum| sum / scores.len() as f64)
        };
        let mean =
            |get: fn(&Scores) -> f64| scores.iter().map(get).sum::<f64>() / scores.len() as f64;
        Some(Scores {
            en: mean(|s| s.en),
            sd: mean(|s| s.sd),
            sf: mean(|s| s.sf),
            ag: mean(|s| s.ag),
            mi: mean(|s| s.mi),
            scd: mean(|s| s.scd),
            vif: optional(|s| s.vif),
            qabf: mean(|s| s.qabf),
            ssim: optional(|s| s.ssim),
            cc: mean(|s| s.cc),
            mse: mean(|s| s.mse),
            psnr: mean(|s| s.psnr),
        })
    }
}
