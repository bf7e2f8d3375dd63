//! Every instruction set gives the values of the portable code.

mod common;

use candle_core::DType;
use common::{LAYOUTS, difference, from_nchw, padded_haar, random, same_bits};
use isfm_dwt::{Border, Wavelet, dwt2, idwt2};
use isfm_ops::simd::{Level, set_level};

/// One test, because the level is one setting for the whole process.
#[test]
fn levels_agree() {
    for layout in LAYOUTS {
        for wavelet in [Wavelet::haar(), padded_haar(), Wavelet::named("db4").unwrap()] {
            for dims in [[2, 3, 5, 7], [1, 16, 4, 6], [1, 37, 3, 4], [1, 2, 2, 83]] {
                let x = from_nchw(&random(&dims, 1).to_dtype(DType::F32).unwrap(), layout);
                let run = |level| {
                    set_level(Some(level)).unwrap();
                    let bands = dwt2(&x, &wavelet, Border::Drop, layout).unwrap();
                    let back = idwt2(&bands.approx, &bands.details, &wavelet, Border::Drop, layout)
                        .unwrap();
                    [bands.approx, bands.details, back]
                };
                let portable = run(Level::Portable);
                for level in [Level::Avx2, Level::Avx512] {
                    if level <= Level::detected() {
                        for (a, b) in portable.iter().zip(run(level)) {
                            if wavelet == Wavelet::haar() {
                                // Only sums and products that no instruction set rounds
                                // differently.
                                assert!(same_bits(a, &b), "{level:?} {layout:?} {dims:?}");
                            } else {
                                // Fused multiply-add rounds once where portable code rounds twice;
                                // values are of order 1.
                                let d = difference(a, &b);
                                assert!(d < 1e-6, "{level:?} {layout:?} {dims:?}: {d}");
                            }
                        }
                    }
                }
            }
        }
    }
    set_level(None).unwrap();
}
