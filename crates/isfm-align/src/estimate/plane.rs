//! Pictures as the search sees them: floats in [0, 1], reduced, and what of them is known.

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::F32;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};

use crate::homography::product;
use crate::{Image, Sample};

/// Brightness in [0, 1] and a mask of the same size: 1 where it is known, 0 where it is not.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plane {
    pub width: usize,
    pub height: usize,
    pub value: Vec<f32>,
    pub known: Vec<f32>,
}

impl Plane {
    /// The brightness of a picture, stretched so that one pixel in 1000 lies below 0 and one above 1; these are
    /// clamped. Unknown are pixels that are not finite, and black ones that hang together with the border: what
    /// undistorting leaves.
    pub fn of<T: Sample>(image: &Image<'_, T>) -> Self {
        let (width, height) = image.size();
        let mut value = image.luma();
        let known = known(&value, width, height);
        let step = (value.len() >> 18).max(1);
        let mut sorted: Vec<f32> =
            value.iter().step_by(step).copied().filter(|v| v.is_finite()).collect();
        sorted.sort_unstable_by(f32::total_cmp);
        let at = |share: f64| {
            let index = (share * sorted.len().saturating_sub(1) as f64).round() as usize;
            sorted.get(index).map_or(0., |&v| f64::from(v))
        };
        let (low, high) = (at(0.001), at(0.999));
        let scale = if high > low { 1. / (high - low) } else { 0. };
        for v in &mut value {
            let placed = ((f64::from(*v) - low) * scale).clamp(0., 1.) as f32;
            *v = if placed.is_finite() { placed } else { 0. };
        }
        Self { width, height, value, known }
    }

    /// The part from (`left`, `top`) of `width`×`height` pixels, averaged to `to` pixels. What lies beyond the
    /// picture is unknown.
    pub fn reduced(
        &self,
        left: f64,
        top: f64,
        width: f64,
        height: f64,
        to: (usize, usize),
    ) -> Self {
        let mut out = Self {
            width: to.0,
            height: to.1,
            value: vec![0.; to.0 * to.1],
            known: vec![0.; to.0 * to.1],
        };
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
            .crop(left, top, width, height);
        let mut resizer = Resizer::new();
        for (from, into) in [(&self.value, &mut out.value), (&self.known, &mut out.known)] {
            let (w, h) = (self.width as u32, self.height as u32);
            let from = TypedImageRef::<F32>::new(w, h, bytemuck::cast_slice(from));
            let (w, h) = (to.0 as u32, to.1 as u32);
            let into = TypedImage::<F32>::from_pixels_slice(w, h, bytemuck::cast_slice_mut(into));
            // Sizes fit by construction; a part without pixels stays black and unknown.
            if let (Ok(from), Ok(mut into)) = (from, into) {
                _ = resizer.resize_typed(&from, &mut into, &options);
            }
        }
        out
    }

    /// Half the size, each pixel the mean of four; an odd last row or column is left out.
    pub fn halved(&self) -> Self {
        let (width, height) = ((self.width / 2).max(1), (self.height / 2).max(1));
        let half = |data: &[f32]| {
            let mut out = Vec::with_capacity(width * height);
            for y in 0..height {
                let rows =
                    [2 * y, (2 * y + 1).min(self.height - 1)].map(|y| &data[y * self.width..]);
                out.extend((0..width).map(|x| {
                    let (l, r) = (2 * x, (2 * x + 1).min(self.width - 1));
                    0.25 * (rows[0][l] + rows[0][r] + rows[1][l] + rows[1][r])
                }));
            }
            out
        };
        Self { width, height, value: half(&self.value), known: half(&self.known) }
    }
}

/// 1 where a pixel is known.
fn known(value: &[f32], width: usize, height: usize) -> Vec<f32> {
    let mut known: Vec<f32> = value.iter().map(|v| f32::from(v.is_finite())).collect();
    // From the border on, along black pixels.
    let mut open: Vec<usize> = Vec::new();
    let visit = |at: usize, known: &mut [f32], open: &mut Vec<usize>| {
        if known[at] > 0. && value[at] == 0. {
            known[at] = 0.;
            open.push(at);
        }
    };
    for x in 0..width {
        visit(x, &mut known, &mut open);
        visit((height - 1) * width + x, &mut known, &mut open);
    }
    for y in 0..height {
        visit(y * width, &mut known, &mut open);
        visit(y * width + width - 1, &mut known, &mut open);
    }
    while let Some(at) = open.pop() {
        let (x, y) = (at % width, at / width);
        if x > 0 {
            visit(at - 1, &mut known, &mut open);
        }
        if x + 1 < width {
            visit(at + 1, &mut known, &mut open);
        }
        if y > 0 {
            visit(at - width, &mut known, &mut open);
        }
        if y + 1 < height {
            visit(at + width, &mut known, &mut open);
        }
    }
    known
}

/// A picture and its halves.
#[derive(Clone, Debug)]
pub(super) struct Octaves(Vec<Plane>);

impl Octaves {
    pub fn of(plane: Plane) -> Self {
        let mut all = vec![plane];
        while let Some(last) = all.last()
            && last.width.min(last.height) >= 16
        {
            let half = last.halved();
            all.push(half);
        }
        Self(all)
    }

    pub fn full(&self) -> &Plane {
        &self.0[0]
    }

    /// A plane of `size`, each pixel of which is where `matrix` takes it in this picture; `step` is how far apart
    /// neighbours land. Beyond the picture its outermost pixels are repeated, and unknown.
    pub fn sampled(&self, matrix: &[f64; 9], step: f64, (width, height): (usize, usize)) -> Plane {
        let octave = (step.max(1.).log2() + 0.2).floor() as usize;
        let octave = octave.min(self.0.len() - 1);
        let plane = &self.0[octave];
        let shrink = 0.5_f64.powi(octave as i32);
        let to_octave =
            [shrink, 0., (shrink - 1.) / 2., 0., shrink, (shrink - 1.) / 2., 0., 0., 1.];
        let m = product(&to_octave, matrix);
        let sign = m[6] * (width as f64 / 2.) + m[7] * (height as f64 / 2.) + m[8];
        let (right, bottom) = ((plane.width - 1) as f64, (plane.height - 1) as f64);
        let mut out = Plane {
            width,
            height,
            value: Vec::with_capacity(width * height),
            known: Vec::with_capacity(width * height),
        };
        for y in 0..height {
            let y = y as f64;
            let row = [0, 3, 6].map(|r: usize| m[r + 1] * y + m[r + 2]);
            for x in 0..width {
                let x = x as f64;
                let w = m[6] * x + row[2];
                let (at_x, at_y) = ((m[0] * x + row[0]) / w, (m[3] * x + row[1]) / w);
                let inside = w * sign > 0.
                    && at_x >= -0.5
                    && at_x <= right + 0.5
                    && at_y >= -0.5
                    && at_y <= bottom + 0.5;
                let (at_x, at_y) = (at_x.clamp(0., right), at_y.clamp(0., bottom));
                let (left, top) = (at_x as usize, at_y as usize);
                let (fx, fy) = ((at_x - left as f64) as f32, (at_y - top as f64) as f32);
                let (across, down) = (
                    usize::from(left + 1 < plane.width),
                    if top + 1 < plane.height { plane.width } else { 0 },
                );
                let start = top * plane.width + left;
                let between = |data: &[f32]| {
                    let upper = data[start] + fx * (data[start + across] - data[start]);
                    let (l, r) = (data[start + down], data[start + down + across]);
                    upper + fy * (l + fx * (r - l) - upper)
                };
                out.value.push(between(&plane.value));
                out.known.push(if inside { between(&plane.known) } else { 0. });
            }
        }
        out
    }
}
