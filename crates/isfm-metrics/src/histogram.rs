use crate::{Plane, Sample, Triple};

pub(crate) const LEVELS: usize = 256;

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

/// The entropy of a histogram in bits.
pub(crate) fn entropy_of(counts: &[u64], n: usize) -> f64 {
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
    Histograms::of(triple).information()
}

/// The joint histograms of the fused image with each source.
pub(crate) struct Histograms {
    pub(crate) visible: Joint,
    pub(crate) infrared: Joint,
}

impl Histograms {
    pub(crate) fn of<T: Sample>(triple: &Triple<'_, T>) -> Self {
        let of = |source: &Plane<'_, T>| Joint::of(source.data(), triple.fused.data());
        let (visible, infrared) = rayon::join(|| of(&triple.visible), || of(&triple.infrared));
        Self { visible, infrared }
    }

    pub(crate) fn entropy(&self) -> f64 {
        entropy_of(&self.visible.second, self.visible.n)
    }

    /// EN with 10⁻⁷ added to each share before its logarithm is taken.
    pub(crate) fn offset_entropy(&self) -> f64 {
        let n = self.visible.n as f64;
        let shares = self.visible.second.iter().filter(|&&c| c > 0).map(|&c| c as f64 / n);
        -shares.map(|p| p * (p + 1e-7).log2()).sum::<f64>()
    }

    pub(crate) fn information(&self) -> f64 {
        self.visible.information() + self.infrared.information()
    }

    /// In bits, of entropies whose joint one takes the levels 254 and 255 for one.
    pub(crate) fn merged_information(&self) -> f64 {
        let of = |joint: &Joint| {
            let entropies = entropy_of(&joint.first, joint.n) + entropy_of(&joint.second, joint.n);
            (entropies - joint.merged_entropy()).max(0.)
        };
        of(&self.visible) + of(&self.infrared)
    }
}

/// How often each pair of levels of two images occurs.
pub(crate) struct Joint {
    counts: Vec<u64>,
    /// The histograms of both images.
    pub(crate) first: [u64; LEVELS],
    pub(crate) second: [u64; LEVELS],
    /// Pixels of each.
    pub(crate) n: usize,
}

impl Joint {
    pub(crate) fn of<T: Sample>(first: &[T], second: &[T]) -> Self {
        let mut counts = vec![0; LEVELS * LEVELS];
        for (a, b) in first.iter().zip(second) {
            counts[usize::from(a.level()) * LEVELS + usize::from(b.level())] += 1;
        }
        let mut joint = Self { counts, first: [0; LEVELS], second: [0; LEVELS], n: first.len() };
        for (a, row) in joint.first.iter_mut().zip(joint.counts.chunks_exact(LEVELS)) {
            *a = row.iter().sum();
            for (b, c) in joint.second.iter_mut().zip(row) {
                *b += c;
            }
        }
        joint
    }

    /// The pairs of levels that occur, and how often.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = ([usize; 2], u64)> + '_ {
        let rows = self.counts.chunks_exact(LEVELS).enumerate();
        rows.flat_map(|(a, row)| {
            row.iter().enumerate().filter(|&(_, &c)| c > 0).map(move |(b, &c)| ([a, b], c))
        })
    }

    /// The joint entropy in bits, with 254 and 255 as one level.
    fn merged_entropy(&self) -> f64 {
        let mut merged = self.counts.clone();
        let (last, other) = (LEVELS - 1, LEVELS - 2);
        for a in 0..LEVELS {
            merged[a * LEVELS + other] += std::mem::take(&mut merged[a * LEVELS + last]);
        }
        for b in 0..LEVELS {
            merged[other * LEVELS + b] += std::mem::take(&mut merged[last * LEVELS + b]);
        }
        entropy_of(&merged, self.n)
    }

    /// The mutual information of both images in nats.
    pub(crate) fn information(&self) -> f64 {
        let n = self.n as f64;
        let mut sum = 0.;
        for ([a, b], c) in self.pairs() {
            let c = c as f64;
            sum += c * (c * n / (self.first[a] as f64 * self.second[b] as f64)).ln();
        }
        // Independent images can round to just below 0.
        (sum / n).max(0.)
    }
}
