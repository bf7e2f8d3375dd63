//! What holds for any images.

use isfm_metrics::Metric;
use proptest::prelude::*;

use crate::scores;

fn image(seed: u64, w: usize, h: usize) -> Vec<u8> {
    crate::picture(seed, w, h).into_iter().map(|p| p as u8).collect()
}

fn mirrored(image: &[u8], w: usize) -> Vec<u8> {
    image.chunks_exact(w).flat_map(|row| row.iter().rev().copied()).collect()
}

/// The least and the greatest value a metric can have.
fn range(metric: Metric) -> (f64, f64) {
    match metric {
        Metric::En => (0., 8.),
        Metric::Sd => (0., 127.5),
        Metric::Sf => (0., 255. * 2f64.sqrt()),
        Metric::Ag => (0., 255.),
        Metric::Mi => (0., 2. * 256f64.ln()),
        Metric::Scd | Metric::Ssim => (-2., 2.),
        Metric::Cc => (-1., 1.),
        Metric::Qabf => (0., 0.9994 * 0.9879),
        Metric::Mse => (0., 65025.),
        Metric::MsSsim => (0., 2.),
        Metric::Nabf | Metric::Qcb => (0., 1.),
        Metric::Ce => (-1. / (std::f64::consts::E * 2f64.ln()), f64::INFINITY),
        Metric::Ei => (0., 255. * 3. * 2f64.sqrt()),
        Metric::Rmse => (0., 255.),
        Metric::Qmi => (0., 2.),
        Metric::Qte => (0., f64::INFINITY),
        Metric::Qncie => (1. - 3f64.log(256.), 1.),
        // φ above 1 can give a little less or more.
        Metric::FmiPixel | Metric::FmiGradient | Metric::FmiDct | Metric::FmiWavelet => (-0.1, 1.1),
        _ => (f64::NEG_INFINITY, f64::INFINITY),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn ranges_and_exchange(w in 3usize..70, h in 3usize..70, seed in 1u64..10_000) {
        let [v, i, f] = [0, 1, 2].map(|k| image(3 * seed + k, w, h));
        let one = scores([&v, &i, &f], w, h);
        let exchanged = scores([&i, &v, &f], w, h);
        for (metric, value) in one.iter() {
            let (least, most) = range(metric);
            let slack = 1e-9 * most.abs().min(1e5);
            prop_assert!(value >= least - slack && value <= most + slack, "{metric}: {value}");
            let other = exchanged.get(metric).unwrap();
            // Qcv, Qcb and Qp transform two images at once; Qcb divides by what comes out.
            prop_assert!((value - other).abs() <= 1e-9 * value.abs(), "{metric}: {value} {other}");
        }
    }

    /// Left for right changes nothing for metrics that look at all sides alike.
    #[test]
    fn mirror(w in 41usize..64, h in 41usize..64, seed in 1u64..10_000) {
        let images = [0, 1, 2].map(|k| image(3 * seed + k, w, h));
        let mirrors = images.each_ref().map(|g| mirrored(g, w));
        let one = scores(images.each_ref().map(|g| &g[..]), w, h);
        let other = scores(mirrors.each_ref().map(|g| &g[..]), w, h);
        // Not VIF, which keeps every second pixel from the left; not FMI, whose densities have an
        // order; not Qabf, whose vertical edges have the orientation +π/2 on both sides; not Qcv,
        // whose regions start on the left.
        use Metric::*;
        let all = [
            En, Sd, Sf, Ag, Mi, Scd, Ssim, Cc, Mse, Psnr, Nabf, Qcb, Ce, Ei, Rmse, Qmi, Qte, Qncie,
        ];
        for metric in all {
            let (a, b) = (one.get(metric).unwrap(), other.get(metric).unwrap());
            prop_assert!((a - b).abs() <= 1e-9 * a.abs(), "{metric}: {a} {b}");
        }
    }

    /// A brighter fused image has the same differences, deviations and correlations.
    #[test]
    fn brightness(w in 3usize..60, h in 3usize..60, seed in 1u64..10_000, more in 1u8..50) {
        let [v, i, f] = [0, 1, 2].map(|k| image(3 * seed + k, w, h));
        let f: Vec<u8> = f.iter().map(|p| p / 2 + 10).collect();
        let brighter: Vec<u8> = f.iter().map(|p| p + more).collect();
        let (one, other) = (scores([&v, &i, &f], w, h), scores([&v, &i, &brighter], w, h));
        use Metric::*;
        let all = [
            En, Sd, Sf, Ag, Mi, Scd, Cc, FmiPixel, FmiGradient, Nabf, Qcv, Qcb, Qp, Ei, Qmi, Qte,
            Qncie,
        ];
        for metric in all {
            let (a, b) = (one.get(metric).unwrap(), other.get(metric).unwrap());
            // The constant goes through the transforms, too.
            prop_assert!((a - b).abs() <= 1e-8 * a.abs().max(1e-3), "{metric}: {a} {b}");
        }
    }

    /// A copy of a source keeps at least as much of it as a worse copy does.
    #[test]
    fn noise_makes_it_worse(seed in 1u64..10_000) {
        let (w, h) = (165, 163);
        let source = image(seed, w, h);
        let noise = image(seed + 77, w, h);
        let noisy: Vec<u8> = source
            .iter()
            .zip(&noise)
            .map(|(&s, &n)| s.saturating_add(n.wrapping_mul(37) % 32))
            .collect();
        let (clean, worse) = (scores([&source; 3].map(|s| &s[..]), w, h), scores([&source, &source, &noisy], w, h));
        for &metric in Metric::ALL {
            // These reward noise, or what the fused image has beyond the sources; CE can fall below
            // the 0 of a copy.
            use Metric::*;
            if matches!(metric, En | Sd | Sf | Ag | Scd | Ei | Ce) {
                continue;
            }
            let (a, b) = (clean.get(metric).unwrap(), worse.get(metric).unwrap());
            let better = match metric.direction() {
                isfm_metrics::Direction::Higher => a > b,
                isfm_metrics::Direction::Lower => a < b,
            };
            prop_assert!(better, "{metric}: {a} {b}");
        }
    }
}
