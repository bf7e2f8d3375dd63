use std::f64::consts::FRAC_1_SQRT_2;
use std::str::FromStr;
use std::sync::Arc;

use crate::filters::{BIORTHOGONAL, ORTHOGONAL};
use crate::{Error, Result};

/// A pair of filters as an analysis applies them: output o is Σ_j filter\[j\] · x\[2o + first − j\].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bank {
    pub(crate) lo: Vec<f64>,
    pub(crate) hi: Vec<f64>,
}

impl Bank {
    pub(crate) fn taps(&self) -> usize {
        self.lo.len()
    }

    /// Whether one level is the 2×2 butterfly that has a kernel of its own.
    pub(crate) fn is_haar(&self) -> bool {
        self.lo == [FRAC_1_SQRT_2; 2] && self.hi == [-FRAC_1_SQRT_2, FRAC_1_SQRT_2]
    }

    pub(crate) fn scaled(&self, factor: f64) -> Self {
        let scaled = |f: &[f64]| f.iter().map(|x| x * factor).collect();
        Self { lo: scaled(&self.lo), hi: scaled(&self.hi) }
    }
}

/// A wavelet: two filters that take a signal apart and two that put it together again.
///
/// Cloning is cheap.
#[derive(Clone, Debug, PartialEq)]
pub struct Wavelet {
    name: String,
    decomposition: Arc<Bank>,
    // Held reversed, because a reconstruction is computed as the transpose of an analysis.
    reconstruction: Arc<Bank>,
}

impl Wavelet {
    /// The Haar wavelet, orthonormal: averages and differences of neighbours, over √2.
    pub fn haar() -> Self {
        const S: f64 = FRAC_1_SQRT_2;
        let bank = Arc::new(Bank { lo: vec![S, S], hi: vec![-S, S] });
        Self { name: "haar".into(), decomposition: bank.clone(), reconstruction: bank }
    }

    /// The wavelet of that name, with PyWavelets' filters: `haar`; Daubechies `db1` to `db20`;
    /// symlets `sym2` to `sym20`; coiflets `coif1` to `coif5`; biorthogonal splines `bior1.1` to
    /// `bior6.8` and, with decomposition and reconstruction exchanged, `rbio1.1` to `rbio6.8`.
    ///
    /// [`Self::names`] lists them all. As tabulated, the reconstruction undoes the decomposition to
    /// 4e-11 (the worst is `sym20`).
    ///
    /// ```
    /// use isfm_dwt::Wavelet;
    /// assert_eq!(Wavelet::named("db4")?.taps(), 8);
    /// let parsed: Wavelet = "bior2.2".parse()?;
    /// assert_eq!(parsed.name(), "bior2.2");
    /// # Ok::<(), isfm_dwt::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::UnknownWavelet`] for any other name.
    pub fn named(name: &str) -> Result<Self> {
        if name == "haar" {
            return Ok(Self::haar());
        }
        let reversed = |f: &[f64]| f.iter().rev().copied().collect::<Vec<_>>();
        if let Some((_, dec_lo)) = ORTHOGONAL.iter().find(|(n, _)| *n == name) {
            return Ok(Self::from_low_passes(name, dec_lo.to_vec(), reversed(dec_lo)));
        }
        let of = |family: &str| {
            let order = name.strip_prefix(family)?;
            BIORTHOGONAL.iter().find(|(n, ..)| *n == order)
        };
        if let Some((_, dec_lo, rec_lo)) = of("bior") {
            Ok(Self::from_low_passes(name, dec_lo.to_vec(), rec_lo.to_vec()))
        } else if let Some((_, dec_lo, rec_lo)) = of("rbio") {
            Ok(Self::from_low_passes(name, reversed(rec_lo), reversed(dec_lo)))
        } else {
            Err(Error::UnknownWavelet(name.to_string()))
        }
    }

    /// The names that [`Self::named`] knows, family by family.
    pub fn names() -> impl Iterator<Item = String> {
        let orthogonal = ORTHOGONAL.iter().map(|(name, _)| name.to_string());
        let biorthogonal = |family| BIORTHOGONAL.iter().map(move |(n, ..)| format!("{family}{n}"));
        std::iter::once("haar".to_string())
            .chain(orthogonal)
            .chain(biorthogonal("bior"))
            .chain(biorthogonal("rbio"))
    }

    /// The high-passes are each the other side's low-pass with alternating signs.
    fn from_low_passes(name: &str, dec_lo: Vec<f64>, rec_lo: Vec<f64>) -> Self {
        let alternating = |f: &[f64], first: f64| -> Vec<f64> {
            f.iter().zip([first, -first].into_iter().cycle()).map(|(x, sign)| sign * x).collect()
        };
        let (dec_hi, rec_hi) = (alternating(&rec_lo, -1.), alternating(&dec_lo, 1.));
        Self::new(name, [dec_lo, dec_hi, rec_lo, rec_hi])
    }

    /// A wavelet from its filters, in the order and orientation of PyWavelets' `filter_bank`:
    /// decomposition low-pass, high-pass, reconstruction low-pass, high-pass.
    ///
    /// Whether the second pair inverts the first is not checked; the gradients are exact either
    /// way.
    ///
    /// ```
    /// use isfm_dwt::Wavelet;
    /// let s = std::f64::consts::FRAC_1_SQRT_2;
    /// let haar = Wavelet::from_filters("haar", &[s, s], &[-s, s], &[s, s], &[s, -s])?;
    /// assert_eq!(haar, Wavelet::haar());
    /// # Ok::<(), isfm_dwt::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Filters`] unless all four have the same even number of taps (pad with zeros, as
    /// PyWavelets does), at least two, all finite.
    pub fn from_filters(
        name: &str,
        dec_lo: &[f64],
        dec_hi: &[f64],
        rec_lo: &[f64],
        rec_hi: &[f64],
    ) -> Result<Self> {
        let fail = |problem| Err(Error::Filters { name: name.to_string(), problem });
        let all = [dec_lo, dec_hi, rec_lo, rec_hi];
        let taps = dec_lo.len();
        if taps < 2 || !taps.is_multiple_of(2) || all.iter().any(|f| f.len() != taps) {
            let got = all.map(<[f64]>::len);
            return fail(format!("filters of {got:?} taps, needs one even number, at least 2"));
        }
        if all.iter().any(|f| f.iter().any(|x| !x.is_finite())) {
            return fail("a tap is not finite".to_string());
        }
        Ok(Self::new(name, all.map(<[f64]>::to_vec)))
    }

    fn new(name: &str, [lo, hi, mut rec_lo, mut rec_hi]: [Vec<f64>; 4]) -> Self {
        rec_lo.reverse();
        rec_hi.reverse();
        Self {
            name: name.to_string(),
            decomposition: Arc::new(Bank { lo, hi }),
            reconstruction: Arc::new(Bank { lo: rec_lo, hi: rec_hi }),
        }
    }

    /// The same wavelet with the decomposition filters times `factor` and the reconstruction
    /// filters divided by it.
    ///
    /// With 1/√2 the stationary transform of an orthogonal wavelet keeps the signal's energy
    /// (PyWavelets' `norm=True`).
    pub fn rescaled(&self, factor: f64) -> Self {
        Self {
            name: self.name.clone(),
            decomposition: Arc::new(self.decomposition.scaled(factor)),
            reconstruction: Arc::new(self.reconstruction.scaled(factor.recip())),
        }
    }

    /// The wavelet's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of taps of each filter.
    pub fn taps(&self) -> usize {
        self.decomposition.taps()
    }

    /// The most levels of a signal of `n` samples before the filters are longer than the
    /// approximation they are applied to: PyWavelets' `dwt_max_level`, a good choice where nothing
    /// else decides. More levels can be computed; they say more about the border than the signal.
    ///
    /// ```
    /// use isfm_dwt::Wavelet;
    /// assert_eq!(Wavelet::named("db4")?.max_level(512), 6);
    /// # Ok::<(), isfm_dwt::Error>(())
    /// ```
    pub fn max_level(&self, n: usize) -> usize {
        (n / (self.taps() - 1)).checked_ilog2().unwrap_or(0) as usize
    }

    pub(crate) fn decomposition(&self) -> Arc<Bank> {
        self.decomposition.clone()
    }

    pub(crate) fn reconstruction(&self) -> Arc<Bank> {
        self.reconstruction.clone()
    }
}

impl FromStr for Wavelet {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::named(name)
    }
}
