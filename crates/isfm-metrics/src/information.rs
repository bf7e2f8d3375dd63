//! Metrics of histograms beyond EN and MI: CE, Qmi, Qte and Qncie.

use crate::histogram::{Histograms, Joint, LEVELS, entropy_of};
use crate::{Sample, Triple};

/// Nava's exponent of Tsallis' entropy.
const Q: f64 = 0.43137;

/// CE: how far the grey levels of the fused image are from each source's, the mean of both,
/// ½(D(vi, f) + D(ir, f)), in bits.
///
/// D(s, f) = Σ p_s log₂(p_s / p_f) over the levels that occur in both images: what the fusion papers
/// call cross entropy is the Kullback–Leibler divergence. `f32` pixels are rounded to the nearest
/// level.
///
/// 0 where the histograms are the same; lower is better. Levels that occur in one image only count
/// as nothing, so the value can be negative (down to −1/(e ln 2) = −.53), and is 0 for images
/// without a common level.
///
/// Bulanon, Burks, Alchanatis, "Image fusion of visible and thermal images for fruit detection",
/// Biosystems Engineering 2009, as the benchmark VIFB computes it.
///
/// Checked against VIFB's program and plain NumPy (`tests/fixtures/make.py`).
pub fn cross_entropy<T: Sample>(triple: &Triple<'_, T>) -> f64 {
    Histograms::of(triple).cross_entropy()
}

/// Qmi: mutual information with each source, normalised,
/// 2(I(f, vi) / (H(f) + H(vi)) + I(f, ir) / (H(f) + H(ir))).
///
/// I is the mutual information of [`mutual_information`](crate::mutual_information) and H the
/// entropy, whatever the logarithm. Some tables call it NMI.
///
/// From 0 to 2, where the fused image's levels name those of both sources and the other way round;
/// higher is better. With two constant images a quotient counts as 0.
///
/// Hossny, Nahavandi, Creighton, "Comments on 'Information measure for performance of image
/// fusion'", Electronics Letters 2008.
///
/// Checked against Liu's toolbox (see [`qcv`](crate::qcv)) and plain NumPy
/// (`tests/fixtures/make.py`).
pub fn qmi<T: Sample>(triple: &Triple<'_, T>) -> f64 {
    Histograms::of(triple).qmi()
}

/// Qte: mutual information with each source by Tsallis' entropy, as Liu's toolbox computes it,
/// (I(vi, f) + I(ir, f)) / (H(vi)^q + H(ir)^q + I(vi, ir)), q = .43137.
///
/// The grey levels of each image are first stretched to 0…255 and rounded. H is Shannon's entropy in
/// bits. I(a, b) = (1 − Σ p(x, y)^q / (p_b(x) p_a(y))^(q−1)) / (1 − q) over the pairs of levels whose
/// denominator is not 0. In the papers' definition that denominator is p_a(x) p_b(y); the toolbox
/// looks each level up in the other image's histogram, and the tables have its numbers.
///
/// From 0, typically .4 to .5; higher is better. 0 where both sources are constant.
///
/// Cvejic, Canagarajah, Bull, "Image fusion metric based on mutual information and Tsallis entropy",
/// Electronics Letters 2006; Nava, Cristóbal, Escalante-Ramírez, "Mutual information improves image
/// fusion quality assessments", SPIE Newsroom 2007; Liu's toolbox, see [`qcv`](crate::qcv). MEFB's TE,
/// in the thousands, is the toolbox's I(vi, f) + I(ir, f) with q = 1.85.
///
/// Checked against Liu's toolbox and plain NumPy (`tests/fixtures/make.py`).
pub fn qte<T: Sample>(triple: &Triple<'_, T>) -> f64 {
    Histograms::of(triple).qte(&between(triple))
}

/// Qncie: nonlinear correlation information entropy, 1 + Σ λ/3 log₂₅₆(λ/3) over the eigenvalues λ of
/// the 3×3 matrix of the nonlinear correlations of the two sources and the fused image.
///
/// The nonlinear correlation of two images is their mutual information (see
/// [`mutual_information`](crate::mutual_information)) with logarithms to the base 256; of an image
/// with itself it counts as 1.
///
/// From 1 − log₂₅₆ 3 = .8019, three independent images, to 1; higher is better. The correlation of
/// the sources with each other is in it, too, and raises it.
///
/// Wang, Shen, Jin, "Performance evaluation of image fusion techniques", in Stathaki (ed.), "Image
/// Fusion: Algorithms and Applications", 2008.
///
/// Checked against Liu's toolbox (see [`qcv`](crate::qcv)) and plain NumPy
/// (`tests/fixtures/make.py`).
pub fn qncie<T: Sample>(triple: &Triple<'_, T>) -> f64 {
    Histograms::of(triple).qncie(&between(triple))
}

/// The joint histogram of the two sources.
pub(crate) fn between<T: Sample>(triple: &Triple<'_, T>) -> Joint {
    Joint::of(triple.visible.data(), triple.infrared.data())
}

impl Histograms {
    pub(crate) fn cross_entropy(&self) -> f64 {
        0.5 * (divergence(&self.visible) + divergence(&self.infrared))
    }

    pub(crate) fn qmi(&self) -> f64 {
        let of = |joint: &Joint| {
            let entropies = entropy_of(&joint.first, joint.n) + entropy_of(&joint.second, joint.n);
            let bits = joint.information() / std::f64::consts::LN_2;
            if entropies > 0. { 2. * bits / entropies } else { 0. }
        };
        of(&self.visible) + of(&self.infrared)
    }

    pub(crate) fn qte(&self, between: &Joint) -> f64 {
        let power = |counts| entropy_of(counts, between.n).powf(Q);
        let above = tsallis(&self.visible) + tsallis(&self.infrared);
        let below = power(&between.first) + power(&between.second) + tsallis(between);
        if below > 0. { above / below } else { 0. }
    }

    pub(crate) fn qncie(&self, between: &Joint) -> f64 {
        let base = (LEVELS as f64).ln();
        let [a, b, c] = [&self.visible, &self.infrared, between].map(|j| j.information() / base);
        // The eigenvalues of 1 on the diagonal and a, b, c beside it: 1 + x, x³ − 3px − 2abc = 0.
        let p = (a * a + b * b + c * c) / 3.;
        let cosine = if p > 0. { a * b * c / p.powf(1.5) } else { 0. };
        let angle = cosine.min(1.).acos() / 3.;
        let third = std::f64::consts::TAU / 3.;
        let terms = [0., third, 2. * third].map(|turn| {
            let share = (1. + 2. * p.sqrt() * (angle + turn).cos()) / 3.;
            if share > 0. { share * share.ln() / base } else { 0. }
        });
        1. + (terms[0] + terms[1] + terms[2])
    }
}

/// The Kullback–Leibler divergence of a source from the fused image, of common levels, in bits.
fn divergence(joint: &Joint) -> f64 {
    let common = joint.first.iter().zip(&joint.second).filter(|&(&s, &f)| s > 0 && f > 0);
    let terms = common.map(|(&s, &f)| s as f64 * (s as f64 / f as f64).log2());
    terms.sum::<f64>() / joint.n as f64
}

fn tsallis(joint: &Joint) -> f64 {
    let n = joint.n as f64;
    let (first, second) = (stretched(&joint.first), stretched(&joint.second));
    let histogram = |counts: &[u64; LEVELS], levels: &[usize; LEVELS]| {
        let mut stretched = [0.; LEVELS];
        for (&count, &level) in counts.iter().zip(levels).filter(|&(&count, _)| count > 0) {
            stretched[level] = count as f64;
        }
        stretched
    };
    let of_first = histogram(&joint.first, &first);
    let of_second = histogram(&joint.second, &second);
    let mut sum = 0.;
    for ([x, y], c) in joint.pairs() {
        // Each level in the histogram of the other image, see `qte`.
        let product = of_second[first[x]] * of_first[second[y]];
        if product > 0. {
            // p^q m^(1−q) = m (p/m)^q.
            sum += product * (c as f64 * n / product).powf(Q);
        }
    }
    (1. - sum / (n * n)) / (1. - Q)
}

/// What each level becomes when those that occur are stretched to 0…255.
fn stretched(counts: &[u64; LEVELS]) -> [usize; LEVELS] {
    let occurs = |&level: &usize| counts[level] > 0;
    let least = (0..LEVELS).find(occurs).unwrap_or(0);
    let most = (0..LEVELS).rfind(occurs).unwrap_or(0);
    std::array::from_fn(|level| {
        if most > least && (least..=most).contains(&level) {
            ((level - least) as f64 / (most - least) as f64 * 255.).round() as usize
        } else {
            0
        }
    })
}
