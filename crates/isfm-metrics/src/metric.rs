use std::fmt;

/// Which end of a metric's scale is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Larger is better.
    Higher,
    /// Smaller is better.
    Lower,
}

/// The metrics with the names that papers print and the good ends of their scales.
macro_rules! metrics {
    ($($(#[$doc:meta])* $metric:ident $name:literal $direction:ident,)*) => {
        /// The metrics of this crate.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Metric {
            $($(#[$doc])* $metric,)*
        }

        impl Metric {
            /// Every metric, in the order of the tables.
            pub const ALL: &'static [Metric] = &[$(Metric::$metric),*];

            /// The name that papers print.
            pub fn name(self) -> &'static str {
                match self {
                    $(Metric::$metric => $name,)*
                }
            }

            /// Which end of its scale is good.
            pub fn direction(self) -> Direction {
                match self {
                    $(Metric::$metric => Direction::$direction,)*
                }
            }
        }
    };
}

metrics! {
    /// [`entropy`](crate::entropy), bits.
    En "EN" Higher,
    /// [`standard_deviation`](crate::standard_deviation), grey levels.
    Sd "SD" Higher,
    /// [`spatial_frequency`](crate::spatial_frequency), grey levels.
    Sf "SF" Higher,
    /// [`average_gradient`](crate::average_gradient), grey levels.
    Ag "AG" Higher,
    /// [`mutual_information`](crate::mutual_information), nats.
    Mi "MI" Higher,
    /// [`scd`](crate::scd).
    Scd "SCD" Higher,
    /// [`vif`](crate::vif).
    Vif "VIF" Higher,
    /// [`qabf`](crate::qabf).
    Qabf "Qabf" Higher,
    /// [`ssim`](crate::ssim()).
    Ssim "SSIM" Higher,
    /// [`correlation`](crate::correlation).
    Cc "CC" Higher,
    /// [`mse`](crate::mse), squared grey levels.
    Mse "MSE" Lower,
    /// [`psnr`](crate::psnr), decibels.
    Psnr "PSNR" Higher,
    /// [`ms_ssim`](crate::ms_ssim).
    MsSsim "MS-SSIM" Higher,
    /// [`fmi`](crate::fmi()) of [`Feature::Pixel`](crate::Feature::Pixel).
    FmiPixel "FMI_pixel" Higher,
    /// [`fmi`](crate::fmi()) of [`Feature::Gradient`](crate::Feature::Gradient).
    FmiGradient "FMI_gradient" Higher,
    /// [`fmi`](crate::fmi()) of [`Feature::Dct`](crate::Feature::Dct).
    FmiDct "FMI_dct" Higher,
    /// [`fmi`](crate::fmi()) of [`Feature::Wavelet`](crate::Feature::Wavelet).
    FmiWavelet "FMI_w" Higher,
    /// [`nabf`](crate::nabf).
    Nabf "Nabf" Lower,
    /// [`qcv`](crate::qcv).
    Qcv "Qcv" Lower,
    /// [`qcb`](crate::qcb).
    Qcb "Qcb" Higher,
    /// [`qp`](crate::qp).
    Qp "Qp" Higher,
    /// [`cross_entropy`](crate::cross_entropy), bits.
    Ce "CE" Lower,
    /// [`edge_intensity`](crate::edge_intensity), sums of grey levels.
    Ei "EI" Higher,
    /// [`rmse`](crate::rmse), grey levels.
    Rmse "RMSE" Lower,
    /// [`qmi`](crate::qmi).
    Qmi "Qmi" Higher,
    /// [`qte`](crate::qte).
    Qte "Qte" Higher,
    /// [`qncie`](crate::qncie).
    Qncie "Qncie" Higher,
}

impl Metric {
    /// The nine that the ISFM authors' evaluation prints: the first of [`Self::ALL`].
    pub const RELEASED: &'static [Self] = Self::ALL.split_at(9).0;

    /// The seven that the ISFM paper's tables average a method's rank over.
    pub const RANKED: &'static [Self] =
        &[Self::En, Self::Sf, Self::Ag, Self::Vif, Self::Mi, Self::Qabf, Self::Scd];
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
