use crate::{Plane, Sample, Triple};

const LEVELS: usize = 256;

/// EN: the Shannon entropy of the grey levels, −Σ p log₂ p, in bits.
///
/// From 0 (one level only) to 8; higher is better: the fused image carries more information, or
/// more noise. p is the 256-bin histogram; `f32` pixels are rounded to the nearest level.
///
/// Roberts, van Aardt, Ahmed, "Assessment of image fusion procedures using entropy, image quality,
/// and multispectral classification", J. Appl. Remote Sens. 2008.
///
/// Checked against the ISFM authors' program and scikit-image's `shannon_entropy`.
pub fn entropy<T: Sample>(fused: &Plane<'_, T>) -> f64 {
    let mut counts = [0u64; LEVELS];
    for v in fused.data() {
        counts[usize::from(v.level())] += 1;
    }
    entropy_of(&counts, fused.data().len())
}

fn entropy_of(counts: &[u64], n: usize) -> f64 {
    let p = counts.iter().filter(|&&c| c > 0).map(|&c| c as f64 / n as f64);
    // Not −Σ p log p, which is −0 for a single level.
    p.map(|p| p * (1. / p).log2()).sum()
}

/// MI: how much the fused image tells of each source, MI(f, vi) + MI(f, ir), in nats.
///
/// MI(a, b) = Σ p(a,b) ln(p(a,b) / (p(a) p(b))) over the 256×256 joint histogram; `f32` pixels are
/// rounded to the nearest level. From 0 (a constant fused image, or constant sources) to
/// 2 ln 256 = 11.09; higher is better.
///
/// Qu, Zhang, Yan, "Information measure for performance of image fusion", Electronics Letters
/// 2002. That paper, like many programs, uses log₂; divide by ln 2 to compare.
///
/// Checked against the ISFM authors' program.
pub fn mutual_information<T: Sample>(triple: &Triple<'_, T>) -> f64 {
    entropy_and_information(triple).1
}

/// EN and MI from the same joint histograms.
pub(crate) fn entropy_and_information<T: Sample>(triple: &Triple<'_, T>) -> (f64, f64) {
    let fused = triple.fused.data();
    let of = |source: &Plane<'_, T>| {
        let joint = Joint::of(source.data(), fused);
        (entropy_of(&joint.marginals().1, fused.len()), joint.information())
    };
    let ((entropy, visible), (_, infrared)) =
        rayon::join(|| of(&triple.visible), || of(&triple.infrared));
    (entropy, visible + infrared)
}

/// How often each pair of levels (source, fused) occurs.
struct Joint {
    counts: Vec<u64>,
    n: usize,
}

impl Joint {
    fn of<T: Sample>(source: &[T], fused: &[T]) -> Self {
        let mut counts = vec![0; LEVELS * LEVELS];
        for (s, f) in source.iter().zip(fused) {
            counts[usize::from(s.level()) * LEVELS + usize::from(f.level())] += 1;
        }
        Self { counts, n: fused.len() }
    }

    /// The histograms of the source and of the fused image.
    fn marginals(&self) -> ([u64; LEVELS], [u64; LEVELS]) {
        let (mut source, mut fused) = ([0; LEVELS], [0; LEVELS]);
        for (s, row) in source.iter_mut().zip(self.counts.chunks_exact(LEVELS)) {
            *s = row.iter().sum();
            for (f, c) in fused.iter_mut().zip(row) {
                *f += c;
            }
        }
        (source, fused)
    }

    fn information(&self) -> f64 {
        let (source, fused) = self.marginals();
        let n = self.n as f64;
        let mut sum = 0.;
        for (&s, row) in source.iter().zip(self.counts.chunks_exact(LEVELS)) {
            for (&f, &c) in fused.iter().zip(row).filter(|&(_, &c)| c > 0) {
                let c = c as f64;
                sum += c * (c * n / (s as f64 * f as f64)).ln();
            }
        }
        // Independent images can round to just below 0.
        (sum / n).max(0.)
    }
}
