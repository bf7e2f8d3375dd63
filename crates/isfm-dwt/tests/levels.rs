//! Every instruction set gives the values of the portable code.

use candle_core::DType;
use isfm_dwt::{Border, DataFormat, Wavelet, dwt2, idwt2};
use isfm_ops::simd::{Level, set_level};
use isfm_testing::{difference, random, same_bits};

/// One test, because the level is one setting for the whole process.
#[test]
fn levels_agree() {
    // Haar with zeros around it: the same transform, but not the one with a kernel of its own.
    const S: f64 = std::f64::consts::FRAC_1_SQRT_2;
    let (lo, hi) = ([0., S, S, 0.], [0., -S, S, 0.]);
    let padded = Wavelet::from_filters("padded", &lo, &hi, &lo, &[0., S, -S, 0.]).unwrap();
    for layout in [DataFormat::ChannelsLast, DataFormat::ChannelsFirst] {
        for wavelet in [Wavelet::haar(), padded.clone(), Wavelet::named("db4").unwrap()] {
            for dims in [[2, 3, 5, 7], [1, 16, 4, 6], [1, 37, 3, 4], [1, 2, 2, 83]] {
                let x = random(&dims, 1).to_dtype(DType::F32).unwrap();
                let x = match layout {
                    DataFormat::ChannelsFirst => x,
                    DataFormat::ChannelsLast => {
                        x.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap()
                    }
                };
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
