//! Elementary functions to a few units in the last place of `f64`.
//!
//! Each is a reduction to a small interval and a Taylor polynomial there, without branches, tables
//! or calls, so that the compiler can vectorise loops over them.

use std::f64::consts::{FRAC_PI_2, FRAC_PI_4, LOG2_E};

/// Adding this to a number below 2⁵¹ leaves the nearest integer in the lowest bits.
const ROUND: f64 = 6_755_399_441_055_744.; // 1.5 · 2⁵²
/// ln 2 in two parts, the first with so few bits that its product with an exponent is exact.
const LN_2_HIGH: f64 = 6.931_471_803_691_238e-1;
const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;

/// 1/12!, …, 1/1!, 1/0!.
const EXP: [f64; 13] = {
    let mut c = [1.; 13];
    let mut k = 12;
    while k > 0 {
        // From the right: c[12 - n] = 1/n!.
        c[k - 1] = c[k] / (13 - k) as f64;
        k -= 1;
    }
    c
};

/// eˣ; outside ±700 that of the nearer bound.
#[inline(always)]
pub(crate) fn exp(x: f64) -> f64 {
    let x = if x < -700. { -700. } else { x };
    let x = if x > 700. { 700. } else { x };
    let shifted = x * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut p = EXP[0];
    for c in &EXP[1..] {
        p = p * r + c;
    }
    // The integer sits in the low bits; 1023 is the exponent's bias.
    let power = shifted.to_bits().wrapping_add(1023) << 52;
    p * f64::from_bits(power)
}

/// ln x for positive normal x.
#[inline(always)]
pub(crate) fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    // Exponent relative to √½, so that the mantissa lies between √½ and √2.
    let offset = bits.wrapping_sub(std::f64::consts::FRAC_1_SQRT_2.to_bits());
    let exponent = offset & 0xfff0_0000_0000_0000;
    let m = f64::from_bits(bits.wrapping_sub(exponent));
    // As a signed number without a conversion instruction, which few processors have.
    let biased = (exponent >> 52) ^ 0x800;
    let n = f64::from_bits(biased | ROUND_BITS) - (ROUND + 2048.);
    let s = (m - 1.) / (m + 1.);
    let z = s * s;
    let mut p = 1. / 21.;
    for k in [19., 17., 15., 13., 11., 9., 7., 5., 3.] {
        p = p * z + 1. / k;
    }
    n * LN_2_HIGH + (n * LN_2_LOW + 2. * (s + s * z * p))
}
const ROUND_BITS: u64 = ROUND.to_bits();

/// The angle of (x, y) from the x-axis, folded into 0 to π/2: arctan |y/x|. Not a number where
/// both are 0.
#[inline(always)]
pub(crate) fn arctan_of_ratio(y: f64, x: f64) -> f64 {
    let (y, x) = (y.abs(), x.abs());
    let steep = y > x;
    let (small, large) = if steep { (x, y) } else { (y, x) };
    // arctan q = arctan c + arctan((q − c) / (1 + qc)), c the nearest of 0, ½ and 1.
    const ARCTAN_HALF: f64 = 0.463_647_609_000_806_1;
    let (c, angle) = if small < 0.25 * large { (0., 0.) } else { (0.5, ARCTAN_HALF) };
    let (c, angle) = if small < 0.75 * large { (c, angle) } else { (1., FRAC_PI_4) };
    let t = (small - c * large) / (large + c * small);
    let z = t * t;
    let mut p = 1. / 25.;
    for k in [23., 21., 19., 17., 15., 13., 11., 9., 7., 5., 3.] {
        p = 1. / k - p * z;
    }
    let angle = angle + (t - t * z * p);
    if steep { FRAC_PI_2 - angle } else { angle }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(got: f64, want: f64) -> Result<(), TestCaseError> {
        prop_assert!((got - want).abs() <= 4. * f64::EPSILON * want.abs(), "{got:e} {want:e}");
        Ok(())
    }

    proptest! {
        #[test]
        fn like_the_standard_library(x in -690f64..690., y in -1e3f64..1e3, z in -1e3f64..1e3) {
            close(exp(x), x.exp())?;
            let positive = x.exp();
            // Near 1 the logarithm itself vanishes; the error is that of the argument.
            let got = ln(positive);
            prop_assert!((got - positive.ln()).abs() <= 4. * f64::EPSILON * got.abs().max(1e-3));
            close(arctan_of_ratio(y, z), (y / z).abs().atan())?;
        }
    }

    #[test]
    fn ends() {
        assert_eq!(exp(0.), 1.);
        assert_eq!(exp(-1e5), exp(-700.));
        assert!(exp(1e300).is_finite());
        assert_eq!(ln(1.), 0.);
        assert_eq!(ln(2.), std::f64::consts::LN_2);
        assert_eq!(arctan_of_ratio(0., -3.), 0.);
        assert_eq!(arctan_of_ratio(-3., 0.), FRAC_PI_2);
        assert_eq!(arctan_of_ratio(3., -3.), FRAC_PI_4);
        assert!(arctan_of_ratio(0., 0.).is_nan());
    }
}
