use crate::plane::Grid;
use crate::{Plane, Sample};

/// SF: spatial frequency, √(mean (f(y,x+1) − f(y,x))² + mean (f(y+1,x) − f(y,x))²).
///
/// Each mean is over its own H×(W−1) or (H−1)×W differences; where there are none (one column or
/// one row) it counts as 0. From 0 (constant) to 255√2; higher is better: sharper, or noisier.
///
/// Eskicioglu, Fisher, "Image quality measures and their performance", IEEE Trans. Commun. 1995.
pub fn spatial_frequency<T: Sample>(fused: &Plane<'_, T>) -> f64 {
    spatial_frequency_of(&Grid::of(fused))
}

/// AG: average gradient, mean √((gx² + gy²) / 2).
///
/// gx and gy are central differences (halved), one-sided at the border (NumPy's `gradient`), and 0
/// along an axis of one pixel. From 0 (constant) to 255; higher is better: sharper, or noisier.
///
/// Cui, Feng, Xu, Li, Chen, "Detail preserved fusion of visible and infrared images using regional
/// saliency extraction and multi-scale image decomposition", Optics Communications 2015.
pub fn average_gradient<T: Sample>(fused: &Plane<'_, T>) -> f64 {
    average_gradient_of(&Grid::of(fused))
}

pub(crate) fn spatial_frequency_of(g: &Grid) -> f64 {
    let mut across = 0.;
    let mut down = 0.;
    for (y, row) in g.rows().enumerate() {
        across += row.windows(2).map(|p| (p[1] - p[0]) * (p[1] - p[0])).sum::<f64>();
        if y > 0 {
            down += row.iter().zip(g.row(y - 1)).map(|(b, a)| (b - a) * (b - a)).sum::<f64>();
        }
    }
    let mean = |sum: f64, n: usize| if n == 0 { 0. } else { sum / n as f64 };
    (mean(across, g.h * (g.w - 1)) + mean(down, (g.h - 1) * g.w)).sqrt()
}

pub(crate) fn average_gradient_of(g: &Grid) -> f64 {
    let mut sum = 0.;
    for (y, row) in g.rows().enumerate() {
        let (above, below) = (y.saturating_sub(1), (y + 1).min(g.h - 1));
        let (top, bottom) = (g.row(above), g.row(below));
        let scale_y = 1. / (below - above).max(1) as f64;
        for x in 0..g.w {
            let (left, right) = (x.saturating_sub(1), (x + 1).min(g.w - 1));
            let gx = (row[right] - row[left]) / (right - left).max(1) as f64;
            let gy = (bottom[x] - top[x]) * scale_y;
            sum += ((gx * gx + gy * gy) * 0.5).sqrt();
        }
    }
    sum / g.data.len() as f64
}
