//! Pictures laid on the other camera's grid.

use rayon::prelude::*;

use crate::{Alignment, Error, Image, Rectangle, Result, Sample, Sizes};

/// Whose pixels the result has; pictures of the other camera are warped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Reference {
    /// The visible camera's: infrared pictures are warped.
    #[default]
    Visible,
    /// The infrared camera's: visible pictures are warped.
    Infrared,
}

/// What lies between pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Interpolation {
    /// From four pixels, linear both ways: never beyond their values.
    Bilinear,
    /// From sixteen pixels, Catmull and Rom's cubic both ways: sharper; beyond the neighbours' values at edges, but
    /// never beyond the type's.
    #[default]
    CatmullRom,
}

/// A picture on the other camera's grid.
#[derive(Clone, Debug, PartialEq)]
pub struct Warped<T> {
    /// Row-major pixels, channels interleaved; the type's zero where nothing is seen.
    pub data: Vec<T>,
    /// Whether the warped camera sees a pixel; row by row.
    pub mask: Vec<bool>,
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Values in a pixel.
    pub channels: usize,
}

impl<T: Sample> Warped<T> {
    /// The largest upright rectangle that both cameras see; none where they have nothing in common.
    pub fn common(&self) -> Option<Rectangle> {
        Rectangle::largest(&self.mask, self.width)
    }
}

impl Alignment {
    fn known_sizes(&self) -> Result<Sizes> {
        self.sizes.ok_or(Error::NoSizes)
    }

    /// Lays a picture of one camera on the grid of the `reference`, the other one.
    ///
    /// Where it shrinks by more than two, squares of its pixels are averaged first, so that nothing aliases.
    ///
    /// # Errors
    /// [`Error::NoSizes`] of a bare matrix ([`for_sizes`](Self::for_sizes) gives it sizes), and [`Error::Sizes`] if
    /// the picture has another size than the alignment was made for.
    pub fn warp<T: Sample>(
        &self,
        image: &Image<'_, T>,
        reference: Reference,
        interpolation: Interpolation,
    ) -> Result<Warped<T>> {
        let sizes = self.known_sizes()?;
        let (own, to) = match reference {
            Reference::Visible => (sizes.infrared, sizes.visible),
            Reference::Infrared => (sizes.visible, sizes.infrared),
        };
        if image.size() != own {
            let got = match reference {
                Reference::Visible => Sizes { infrared: image.size(), ..sizes },
                Reference::Infrared => Sizes { visible: image.size(), ..sizes },
            };
            return Err(Error::Sizes { what: "the picture".to_owned(), got, needed: sizes });
        }
        let grid = Grid::of(self, reference, own, to);
        let channels = image.channels();
        let mut out = Warped {
            data: vec![T::default(); to.0 * to.1 * channels],
            mask: vec![false; to.0 * to.1],
            width: to.0,
            height: to.1,
            channels,
        };
        let factor = grid.shrinks();
        let source = Source::of(image, factor);
        let scale = 1. / factor as f64;
        out.data
            .par_chunks_exact_mut(to.0 * channels)
            .zip(out.mask.par_chunks_exact_mut(to.0))
            .enumerate()
            .for_each(|(y, (row, mask))| {
                for (x, (pixel, mask)) in row.chunks_exact_mut(channels).zip(mask).enumerate() {
                    let Some([at_x, at_y]) = grid.at(x, y) else { continue };
                    *mask = true;
                    // Centres of the averaged squares.
                    let at = [(at_x + 0.5) * scale - 0.5, (at_y + 0.5) * scale - 0.5];
                    source.sample(at, interpolation, pixel);
                }
            });
        Ok(out)
    }

    /// Which pixels of the `reference` the other camera sees, row by row.
    ///
    /// # Errors
    /// [`Error::NoSizes`].
    pub fn mask(&self, reference: Reference) -> Result<Vec<bool>> {
        let sizes = self.known_sizes()?;
        let (own, to) = match reference {
            Reference::Visible => (sizes.infrared, sizes.visible),
            Reference::Infrared => (sizes.visible, sizes.infrared),
        };
        let grid = Grid::of(self, reference, own, to);
        let mut mask = vec![false; to.0 * to.1];
        mask.par_chunks_exact_mut(to.0).enumerate().for_each(|(y, row)| {
            row.iter_mut().enumerate().for_each(|(x, seen)| *seen = grid.at(x, y).is_some());
        });
        Ok(mask)
    }

    /// The largest upright rectangle of the `reference` that both cameras see; none where they have nothing in
    /// common.
    ///
    /// # Errors
    /// [`Error::NoSizes`].
    pub fn common(&self, reference: Reference) -> Result<Option<Rectangle>> {
        let sizes = self.known_sizes()?;
        let width = match reference {
            Reference::Visible => sizes.visible.0,
            Reference::Infrared => sizes.infrared.0,
        };
        Ok(Rectangle::largest(&self.mask(reference)?, width))
    }
}

/// Where the pixels of a grid lie in another picture.
struct Grid {
    matrix: [f64; 9],
    own: (usize, usize),
    to: (usize, usize),
    sign: f64,
}

impl Grid {
    fn of(
        alignment: &Alignment,
        reference: Reference,
        own: (usize, usize),
        to: (usize, usize),
    ) -> Self {
        let homography = alignment.homography;
        let (matrix, forward) = match reference {
            Reference::Visible => (homography.inverse_matrix(), homography.matrix()),
            Reference::Infrared => (homography.matrix(), homography.inverse_matrix()),
        };
        // The side of the line at infinity on which the picture's middle lies: the other one is behind the camera.
        let (x, y) = ((own.0 as f64 - 1.) / 2., (own.1 as f64 - 1.) / 2.);
        let row = |m: &[f64; 9], p: [f64; 2]| m[6] * p[0] + m[7] * p[1] + m[8];
        let middle = crate::homography::applied(&forward, [x, y]);
        Self { matrix, own, to, sign: row(&matrix, middle) }
    }

    /// Where a pixel lies, if that is in the picture: half a pixel around the centres of the outermost ones is.
    #[inline]
    fn at(&self, x: usize, y: usize) -> Option<[f64; 2]> {
        let (x, y) = (x as f64, y as f64);
        let m = &self.matrix;
        let w = m[6] * x + m[7] * y + m[8];
        let (at_x, at_y) = ((m[0] * x + m[1] * y + m[2]) / w, (m[3] * x + m[4] * y + m[5]) / w);
        let inside = |at: f64, n: usize| at >= -0.5 && at <= n as f64 - 0.5;
        let seen = w * self.sign > 0. && inside(at_x, self.own.0) && inside(at_y, self.own.1);
        seen.then_some([at_x, at_y])
    }

    /// By how many pixels the picture moves for one of the grid, rounded down; 1 where it does not shrink by two.
    fn shrinks(&self) -> usize {
        let (x, y) = (self.to.0 / 2, self.to.1 / 2);
        let at =
            |x: usize, y: usize| crate::homography::applied(&self.matrix, [x as f64, y as f64]);
        let (a, b, c) = (at(x, y), at(x + 1, y), at(x, y + 1));
        let area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
        let step = area.abs().sqrt();
        let most = self.own.0.min(self.own.1).clamp(1, 64) as f64;
        if step.is_finite() { step.clamp(1., most) as usize } else { 1 }
    }
}

/// A picture whose pixels are asked for between their centres.
enum Source<'a, T> {
    Own(Image<'a, T>),
    /// Means of squares; those at the right and lower border are of what is left.
    Reduced {
        data: Vec<f32>,
        width: usize,
        height: usize,
        channels: usize,
    },
}

impl<'a, T: Sample> Source<'a, T> {
    fn of(image: &Image<'a, T>, factor: usize) -> Self {
        if factor < 2 {
            return Self::Own(*image);
        }
        let ((w, h), channels) = (image.size(), image.channels());
        let (width, height) = (w.div_ceil(factor), h.div_ceil(factor));
        let mut data = vec![0_f32; width * height * channels];
        data.par_chunks_exact_mut(width * channels).enumerate().for_each(|(y, row)| {
            let rows = y * factor..((y + 1) * factor).min(h);
            for (x, pixel) in row.chunks_exact_mut(channels).enumerate() {
                let columns = x * factor..((x + 1) * factor).min(w);
                let count = (rows.len() * columns.len()) as f32;
                for (c, out) in pixel.iter_mut().enumerate() {
                    let values = rows
                        .clone()
                        .flat_map(|y| columns.clone().map(move |x| (y * w + x) * channels + c));
                    *out = values.map(|at| image.data()[at].to_f32()).sum::<f32>() / count;
                }
            }
        });
        Self::Reduced { data, width, height, channels }
    }

    #[inline]
    fn sample(&self, at: [f64; 2], interpolation: Interpolation, out: &mut [T]) {
        match self {
            Self::Own(image) => {
                let (w, h) = image.size();
                between((w, h), image.channels(), at, interpolation, out, |i| {
                    image.data()[i].to_f32()
                });
            }
            Self::Reduced { data, width, height, channels } => {
                between((*width, *height), *channels, at, interpolation, out, |i| data[i]);
            }
        }
    }
}

#[inline]
fn between<T: Sample>(
    (width, height): (usize, usize),
    channels: usize,
    [x, y]: [f64; 2],
    interpolation: Interpolation,
    out: &mut [T],
    value: impl Fn(usize) -> f32,
) {
    let split = |at: f64, n: usize| {
        let at = at.clamp(0., (n - 1) as f64);
        let base = at.floor();
        (base as usize, (at - base) as f32)
    };
    let ((left, fx), (top, fy)) = (split(x, width), split(y, height));
    match interpolation {
        Interpolation::Bilinear => {
            let right = if fx > 0. { left + 1 } else { left };
            let below = if fy > 0. { top + 1 } else { top };
            for (c, out) in out.iter_mut().enumerate() {
                let at = |x: usize, y: usize| value((y * width + x) * channels + c);
                let upper = at(left, top) + fx * (at(right, top) - at(left, top));
                let lower = at(left, below) + fx * (at(right, below) - at(left, below));
                *out = T::from_f32(upper + fy * (lower - upper));
            }
        }
        Interpolation::CatmullRom => {
            let (wx, wy) = (cubic(fx), cubic(fy));
            let near = |base: usize, k: usize, n: usize| (base + k).saturating_sub(1).min(n - 1);
            for (c, out) in out.iter_mut().enumerate() {
                let mut sum = 0.;
                for (k, wy) in wy.iter().enumerate().filter(|(_, w)| **w != 0.) {
                    let row = near(top, k, height) * width;
                    for (j, wx) in wx.iter().enumerate().filter(|(_, w)| **w != 0.) {
                        sum += wx * wy * value((row + near(left, j, width)) * channels + c);
                    }
                }
                *out = T::from_f32(sum);
            }
        }
    }
}

/// Catmull and Rom's weights of the four neighbours; exact at a pixel.
#[inline]
fn cubic(t: f32) -> [f32; 4] {
    if t == 0. {
        return [0., 1., 0., 0.];
    }
    let (t2, t3) = (t * t, t * t * t);
    [
        0.5 * (-t3 + 2. * t2 - t),
        0.5 * (3. * t3 - 5. * t2 + 2.),
        0.5 * (-3. * t3 + 4. * t2 + t),
        0.5 * (t3 - t2),
    ]
}
