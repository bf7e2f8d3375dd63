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
    /// [`entropy`](crate::entropy).
    En,
    /// [`standard_deviation`](crate::standard_deviation).
    Sd,
    /// [`spatial_frequency`](crate::spatial_frequency).
    Sf,
    /// [`average_gradient`](crate::average_gradient).
    Ag,
    /// [`mutual_information`](crate::mutual_information).
    Mi,
    /// [`scd`](crate::scd).
    Scd,
    /// [`vif`](crate::vif).
    Vif,
    /// [`qabf`](crate::qabf).
    Qabf,
    /// [`ssim`](crate::ssim).
    Ssim,
    /// [`correlation`](crate::correlation).
    Cc,
    /// [`mse`](crate::mse).
    Mse,
    /// [`psnr`](crate::psnr).
    Psnr,
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
        }
    }

    /// Which end of its scale is good.
    pub fn direction(self) -> Direction {
        match self {
            Metric::Mse => Direction::Lower,
            _ => Direction::Higher,
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
