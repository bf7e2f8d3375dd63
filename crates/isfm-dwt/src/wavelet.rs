use std::f64::consts::FRAC_1_SQRT_2;
use std::sync::Arc;

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
    /// The Haar wavelet, orthonormal: averages and differences of neighbours, over √2 (spec §3).
    pub fn haar() -> Self {
        const S: f64 = FRAC_1_SQRT_2;
        let bank = Arc::new(Bank { lo: vec![S, S], hi: vec![-S, S] });
        Self { name: "haar".into(), decomposition: bank.clone(), reconstruction: bank }
    }

    /// A wavelet from its filters, in the order and orientation of PyWavelets' `filter_bank`:
    /// decomposition low-pass, high-pass, reconstruction low-pass, high-pass.
    ///
    /// Whether the second pair undoes the first is the caller's affair; the gradients are exact
    /// either way.
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
        let reversed = |f: &[f64]| f.iter().rev().copied().collect();
        Ok(Self {
            name: name.to_string(),
            decomposition: Arc::new(Bank { lo: dec_lo.to_vec(), hi: dec_hi.to_vec() }),
            reconstruction: Arc::new(Bank { lo: reversed(rec_lo), hi: reversed(rec_hi) }),
        })
    }

    /// The wavelet's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of taps of each filter.
    pub fn taps(&self) -> usize {
        self.decomposition.taps()
    }

    pub(crate) fn decomposition(&self) -> Arc<Bank> {
        self.decomposition.clone()
    }

    pub(crate) fn reconstruction(&self) -> Arc<Bank> {
        self.reconstruction.clone()
    }
}
