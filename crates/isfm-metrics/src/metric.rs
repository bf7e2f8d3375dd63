use std::fmt;

/// Which end of a metric's scale is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Larger is better.
    Higher,
    /// Smaller is better.
    Lower,
}

/// The metrics of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Metric {
    /// [`entropy`](crate::entropy), bits.
    En,
    /// [`standard_deviation`](crate::standard_deviation), grey levels.
    Sd,
    /// [`spatial_frequency`](crate::spatial_frequency), grey levels.
    Sf,
    /// [`average_gradient`](crate::average_gradient), grey levels.
    Ag,
    /// [`mutual_information`](crate::mutual_information), nats.
    Mi,
    /// [`scd`](crate::scd).
    Scd,
    /// [`vif`](crate::vif).
    Vif,
    /// [`qabf`](crate::qabf).
    Qabf,
    /// [`ssim`](crate::ssim()).
    Ssim,
    /// [`correlation`](crate::correlation).
    Cc,
    /// [`mse`](crate::mse), squared grey levels.
    Mse,
    /// [`psnr`](crate::psnr), decibels.
    Psnr,
    /// [`ms_ssim`](crate::ms_ssim).
    MsSsim,
    /// [`fmi`](crate::fmi()) of [`Feature::Pixel`](crate::Feature::Pixel).
    FmiPixel,
    /// [`fmi`](crate::fmi()) of [`Feature::Gradient`](crate::Feature::Gradient).
    FmiGradient,
    /// [`fmi`](crate::fmi()) of [`Feature::Dct`](crate::Feature::Dct).
    FmiDct,
    /// [`fmi`](crate::fmi()) of [`Feature::Wavelet`](crate::Feature::Wavelet).
    FmiWavelet,
    /// [`nabf`](crate::nabf).
    Nabf,
    /// [`qcv`](crate::qcv).
    Qcv,
    /// [`qcb`](crate::qcb).
    Qcb,
    /// [`qp`](crate::qp).
    Qp,
}

impl Metric {
    /// Every metric, in the order of the tables.
    pub const ALL: &'static [Metric] = &[
        Metric::En,
        Metric::Sd,
        Metric::Sf,
        Metric::Ag,
        Metric::Mi,
        Metric::Scd,
        Metric::Vif,
        Metric::Qabf,
        Metric::Ssim,
        Metric::Cc,
        Metric::Mse,
        Metric::Psnr,
        Metric::MsSsim,
        Metric::FmiPixel,
        Metric::FmiGradient,
        Metric::FmiDct,
        Metric::FmiWavelet,
        Metric::Nabf,
        Metric::Qcv,
        Metric::Qcb,
        Metric::Qp,
    ];

    /// The nine that the ISFM authors' evaluation prints.
    pub const RELEASED: &'static [Metric] = &[
        Metric::En,
        Metric::Sd,
        Metric::Sf,
        Metric::Ag,
        Metric::Mi,
        Metric::Scd,
        Metric::Vif,
        Metric::Qabf,
        Metric::Ssim,
    ];

    /// The seven that the ISFM paper's tables average a method's rank over.
    pub const RANKED: &'static [Metric] =
        &[Metric::En, Metric::Sf, Metric::Ag, Metric::Vif, Metric::Mi, Metric::Qabf, Metric::Scd];

    /// The name that papers print.
    pub fn name(self) -> &'static str {
        match self {
            Metric::En => "EN",
            Metric::Sd => "SD",
            Metric::Sf => "SF",
            Metric::Ag => "AG",
            Metric::Mi => "MI",
            Metric::Scd => "SCD",
            Metric::Vif => "VIF",
            Metric::Qabf => "Qabf",
            Metric::Ssim => "SSIM",
            Metric::Cc => "CC",
            Metric::Mse => "MSE",
            Metric::Psnr => "PSNR",
            Metric::MsSsim => "MS-SSIM",
            Metric::FmiPixel => "FMI_pixel",
            Metric::FmiGradient => "FMI_gradient",
            Metric::FmiDct => "FMI_dct",
            Metric::FmiWavelet => "FMI_w",
            Metric::Nabf => "Nabf",
            Metric::Qcv => "Qcv",
            Metric::Qcb => "Qcb",
            Metric::Qp => "Qp",
        }
    }

    /// Which end of its scale is good.
    pub fn direction(self) -> Direction {
        match self {
            Metric::Mse | Metric::Nabf | Metric::Qcv => Direction::Lower,
            _ => Direction::Higher,
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
