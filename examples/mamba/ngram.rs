//! What counting alone can do: n-gram models with Witten-Bell smoothing.

use std::collections::HashMap;

/// What followed a context.
#[derive(Default)]
struct Followers {
    total: f64,
    counts: HashMap<u32, f64>,
}

/// Bits per byte of `text` under the model that predicts a byte from the `order` before it, as
/// counted in `train`; shorter contexts fill in for what was not seen.
pub(crate) fn bits(train: &[u32], text: &[u32], order: usize, vocabulary: usize) -> f64 {
    let mut seen: HashMap<&[u32], Followers> = HashMap::new();
    for end in 0..train.len() {
        for length in 0..=order.min(end) {
            let followers = seen.entry(&train[end - length..end]).or_default();
            followers.total += 1.;
            *followers.counts.entry(train[end]).or_default() += 1.;
        }
    }
    let surprise = |end: usize| {
        let mut p = 1. / vocabulary as f64;
        for length in 0..=order.min(end) {
            if let Some(followers) = seen.get(&text[end - length..end]) {
                let count = followers.counts.get(&text[end]).copied().unwrap_or(0.);
                let kinds = followers.counts.len() as f64;
                p = (count + kinds * p) / (followers.total + kinds);
            }
        }
        -f64::log2(p)
    };
    (0..text.len()).map(surprise).sum::<f64>() / text.len() as f64
}
