//! Painted scenes as two cameras see them, and warps of them.

use isfm_align::{Alignment, Homography, Image, Interpolation, Reference, Sizes};
use isfm_testing::Numbers;

/// A grey picture.
#[derive(Clone)]
pub struct Grey {
    pub width: usize,
    pub height: usize,
    pub data: Vec<u8>,
}

impl Grey {
    pub fn image(&self) -> Image<'_, u8> {
        Image::new(&self.data, self.width, self.height).unwrap()
    }

    /// The picture of a camera of this size, whose pixels lie where `truth` says.
    pub fn warped(&self, truth: &Homography, size: (usize, usize)) -> Self {
        let sizes = Sizes { visible: size, infrared: (self.width, self.height) };
        let alignment = Alignment::from(truth.invert()).for_sizes(sizes).unwrap();
        let warped =
            alignment.warp(&self.image(), Reference::Visible, Interpolation::Bilinear).unwrap();
        Self { width: size.0, height: size.1, data: warped.data }
    }
}

/// A scene of rectangles and discs. The infrared camera sees the same outlines with other brightness (brighter or
/// darker than their ground, by chance), a third of them not at all, some that are its own, and more noise.
pub fn scene(seed: u64, (width, height): (usize, usize)) -> (Grey, Grey) {
    let mut numbers = Numbers(seed);
    let mut visible = vec![120_f64; width * height];
    let mut infrared = vec![90_f64; width * height];
    for _ in 0..70 {
        let mut draw = |low: f64, high: f64| low + (high - low) * numbers.unit();
        let (x, y) = (draw(0., width as f64), draw(0., height as f64));
        let (a, b) = (draw(4., 0.14 * width as f64), draw(4., 0.14 * width as f64));
        let turned = draw(0., 3.);
        let round = draw(0., 1.) < 0.3;
        let (v, i, seen) = (draw(10., 245.), draw(10., 245.), draw(0., 1.));
        let (sin, cos) = turned.sin_cos();
        for row in 0..height {
            for column in 0..width {
                let (dx, dy) = (column as f64 - x, row as f64 - y);
                let (p, q) = ((dx * cos + dy * sin) / a, (dy * cos - dx * sin) / b);
                if if round { p * p + q * q < 1. } else { p.abs() < 1. && q.abs() < 1. } {
                    let at = row * width + column;
                    if seen < 0.85 {
                        visible[at] = v;
                    }
                    if seen > 0.2 {
                        infrared[at] = i;
                    }
                }
            }
        }
    }
    let mut picture = |plane: Vec<f64>, noise: f64| {
        let mut noisy =
            |v: f64| (v + noise * (numbers.unit() + numbers.unit() - 1.)).clamp(1., 255.) as u8;
        let data = plane.into_iter().map(&mut noisy).collect();
        Grey { width, height, data }
    };
    (picture(visible, 6.), picture(infrared, 16.))
}

/// A map that scales and turns about the middle of a picture and moves it; in pixels and degrees.
pub fn map(
    size: (usize, usize),
    to: (f64, f64),
    scale: f64,
    degrees: f64,
    perspective: [f64; 2],
) -> Homography {
    let (x, y) = ((size.0 as f64 - 1.) / 2., (size.1 as f64 - 1.) / 2.);
    let (sin, cos) = degrees.to_radians().sin_cos();
    let centre = Homography::new([1., 0., -x, 0., 1., -y, 0., 0., 1.]).unwrap();
    let [g, h] = perspective.map(|p| p / x);
    let own = Homography::new([
        scale * cos,
        -scale * sin,
        to.0,
        scale * sin,
        scale * cos,
        to.1,
        g,
        h,
        1.,
    ])
    .unwrap();
    own.after(&centre).unwrap()
}

/// The mean distance of the corners of an infrared picture under two maps.
pub fn corner_error(a: &Homography, b: &Homography, (width, height): (usize, usize)) -> f64 {
    let (w, h) = (width as f64 - 1., height as f64 - 1.);
    let corners = [[0., 0.], [w, 0.], [0., h], [w, h]].map(|corner| {
        let (p, q) = (a.apply(corner), b.apply(corner));
        (p[0] - q[0]).hypot(p[1] - q[1])
    });
    corners.iter().sum::<f64>() / 4.
}
