use std::fmt;
use std::str::FromStr;

use crate::differences::Mean;
use crate::nabf::Weights;
use crate::qabf::Scale;
use crate::ssim::{Form, MultiScale};
use crate::{Error, Metric, vif};

/// Whose evaluation program the numbers are to be compared with.
///
/// Programs print different numbers under the same names: logarithms to other bases, other windows,
/// grey levels from 0 to 1 instead of 255, sums or means, other borders, and slips that their tables
/// share. A convention follows one program in all of that;
/// [`Scores::evaluate_as`](crate::Scores::evaluate_as) takes it.
///
/// What each changes is put side by side, metric by metric, in
/// [docs/metrics.md](https://github.com/isfm-rs/isfm/blob/main/docs/metrics.md#conventions-side-by-side),
/// with the commits that were read and how closely the values agree with each program's own.
///
/// The programs read 8-bit files. Under every convention but [`Released`](Self::Released), `f32`
/// pixels are therefore rounded to the nearest grey level first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Convention {
    /// The ISFM authors' evaluation, and for the metrics that it lacks the choices that the single
    /// functions document. [`Scores::evaluate`](crate::Scores::evaluate) and every single function
    /// follow it.
    #[default]
    Released,
    /// The MATLAB program in Linfeng Tang's repositories (SeAFusion, PIAFusion, Image-Fusion), after
    /// which many papers' tables are made.
    ///
    /// MI in bits, SF, MSE and Qabf on grey levels from 0 to 1, PSNR of those with the peak 255; SD
    /// and the first scale of VIF in arithmetic of bytes, which saturates (so SD is below 16); SSIM
    /// and MS-SSIM are the multi-exposure measure MEF-SSIM.
    Linfeng,
    /// `Evaluator.py` of CDDFuse, with which EMMA, DDFM and others are evaluated, too.
    ///
    /// The ISFM authors' program is a copy of it; only SSIM differs: its constants are those of grey
    /// levels that span 2.
    Cddfuse,
    /// The MATLAB program of the benchmark VIFB.
    ///
    /// SSIM with a Gaussian window, SF and AG over other numbers of pixels; RMSE and with it PSNR
    /// divide by √(the number of pixels) once more.
    Vifb,
    /// `eval_torch.py` of the survey IVIF_ZOO.
    ///
    /// MI in bits, MSE on grey levels from 0 to 1, PSNR of those with the peak 255; VIF with zeros
    /// beyond the border and windows off the centre; SSIM and MS-SSIM on grey levels multiplied by
    /// 255 with the constants of 255.
    IvifZoo,
}

impl Convention {
    /// Every convention.
    pub const ALL: &'static [Self] =
        &[Self::Released, Self::Linfeng, Self::Cddfuse, Self::Vifb, Self::IvifZoo];

    /// The name that [`FromStr`] takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::Linfeng => "linfeng",
            Self::Cddfuse => "cddfuse",
            Self::Vifb => "vifb",
            Self::IvifZoo => "ivif-zoo",
        }
    }

    /// The metrics that the program has, in the order of [`Metric::ALL`]; all of them for
    /// [`Released`](Self::Released).
    pub fn metrics(self) -> &'static [Metric] {
        use Metric::*;
        match self {
            Self::Released => Metric::ALL,
            Self::Linfeng => {
                &[En, Sd, Sf, Ag, Mi, Scd, Vif, Qabf, Ssim, Cc, Mse, Psnr, MsSsim, Nabf]
            }
            Self::Cddfuse => &[En, Sd, Sf, Ag, Mi, Scd, Vif, Qabf, Ssim, Cc, Mse, Psnr],
            Self::Vifb => &[En, Sd, Sf, Ag, Mi, Qabf, Ssim, Psnr, Qcv, Qcb, Ce, Ei, Rmse],
            Self::IvifZoo => {
                &[En, Sd, Sf, Ag, Mi, Scd, Vif, Qabf, Ssim, Cc, Mse, Psnr, MsSsim, Nabf]
            }
        }
    }

    pub(crate) fn choices(self) -> Choices {
        match self {
            Self::Released => RELEASED,
            Self::Linfeng => Choices {
                saturated_deviation: true,
                unit_frequency: true,
                gradient: Gradient::Inner,
                information: Information::MergedBits,
                errors: Errors::Unit,
                vif: vif::Form::Saturated,
                qabf: Scale::Unit,
                ssim: Form::MultiExposure,
                ms_ssim: MultiScale::MultiExposure,
                nabf: Weights::Alike,
                ..RELEASED
            },
            Self::Cddfuse => Choices { ssim: Form::UniformOfTwo, ..RELEASED },
            Self::Vifb => Choices {
                frequency: Mean::Pixels,
                gradient: Gradient::Inner,
                errors: Errors::Sums,
                qabf: Scale::Squares,
                ssim: Form::Gaussian,
                ..RELEASED
            },
            Self::IvifZoo => Choices {
                offset_entropy: true,
                information: Information::Bits,
                errors: Errors::Unit,
                vif: vif::Form::Shifted,
                ssim: Form::GaussianOfOne,
                ms_ssim: MultiScale::PaddedOfOne,
                nabf: Weights::StrongOnly,
                ..RELEASED
            },
        }
    }
}

impl fmt::Display for Convention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Convention {
    type Err = Error;

    /// # Errors
    /// [`Error::Convention`] for any other name; case does not matter.
    fn from_str(name: &str) -> Result<Self, Error> {
        let found = Self::ALL.iter().find(|c| c.name().eq_ignore_ascii_case(name));
        found.copied().ok_or_else(|| Error::Convention(name.to_owned()))
    }
}

/// What programs differ in.
pub(crate) struct Choices {
    /// EN with 10⁻⁷ added to each share.
    pub(crate) offset_entropy: bool,
    /// SD in MATLAB's arithmetic of bytes.
    pub(crate) saturated_deviation: bool,
    /// What SF's sums are divided by.
    pub(crate) frequency: Mean,
    /// SF of grey levels from 0 to 1.
    pub(crate) unit_frequency: bool,
    pub(crate) gradient: Gradient,
    pub(crate) information: Information,
    pub(crate) errors: Errors,
    pub(crate) vif: vif::Form,
    pub(crate) qabf: Scale,
    pub(crate) ssim: Form,
    pub(crate) ms_ssim: MultiScale,
    pub(crate) nabf: Weights,
}

/// What the sum of AG is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gradient {
    /// The number of pixels.
    Pixels,
    /// (width − 1)(height − 1).
    Inner,
}

/// The logarithm of MI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Information {
    Nats,
    Bits,
    /// Bits, with 254 and 255 as one level in the joint histogram: MATLAB's bytes plus 1 stop at 255.
    MergedBits,
}

/// MSE, RMSE and PSNR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Errors {
    /// Of grey levels from 0 to 255; the peak is the fused image's own.
    Bytes,
    /// Of grey levels from 0 to 1, the peak 255 nonetheless.
    Unit,
    /// RMSE over √(the number of pixels); its root, not itself, is the error that PSNR divides 255 by.
    Sums,
}

const RELEASED: Choices = Choices {
    offset_entropy: false,
    saturated_deviation: false,
    frequency: Mean::Differences,
    unit_frequency: false,
    gradient: Gradient::Pixels,
    information: Information::Nats,
    errors: Errors::Bytes,
    vif: vif::Form::Whole,
    qabf: Scale::Bytes,
    ssim: Form::Uniform,
    ms_ssim: MultiScale::Wang,
    nabf: Weights::Strong,
};
