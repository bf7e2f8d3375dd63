use std::ops::Range;

use rayon::prelude::*;

use crate::simd::LANES;
use crate::{Error, Metric, Result};

mod sealed {
    pub trait Sealed {}
    impl Sealed for u8 {}
    impl Sealed for f32 {}
}

/// A pixel type: `u8`, or `f32` on the same scale of 0 to 255.
pub trait Sample: sealed::Sealed + Copy + Send + Sync + Into<f64> {
    /// The nearest of the 256 grey levels, halves up; what histograms count.
    fn level(self) -> u8;
}

impl Sample for u8 {
    fn level(self) -> u8 {
        self
    }
}

impl Sample for f32 {
    fn level(self) -> u8 {
        self.round() as u8
    }
}

/// A borrowed grey image: row-major pixels on a scale of 0 to 255.
#[derive(Clone, Copy, Debug)]
pub struct Plane<'a, T> {
    data: &'a [T],
    width: usize,
    height: usize,
}

impl<'a, T: Sample> Plane<'a, T> {
    /// An image of `height` rows of `width` pixels each.
    ///
    /// # Errors
    /// If a dimension is 0, if there are not exactly width × height pixels, or if a pixel is below
    /// 0, above 255 or not a number.
    pub fn new(data: &'a [T], width: usize, height: usize) -> Result<Self> {
        if width == 0 || height == 0 {
            return Err(Error::Empty { width, height });
        }
        if width.checked_mul(height) != Some(data.len()) {
            return Err(Error::Length { got: data.len(), width, height });
        }
        let mut values = data.iter().map(|&v| v.into()).enumerate();
        if let Some((at, value)) = values.find(|(_, v)| !(0. ..=255.).contains(v)) {
            return Err(Error::Pixel { value, x: at % width, y: at / width });
        }
        Ok(Self { data, width, height })
    }

    /// The pixels, row by row.
    pub fn data(&self) -> &'a [T] {
        self.data
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    pub(crate) fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }
}

/// A fused image and the two it was made of, all of one size.
#[derive(Clone, Copy, Debug)]
pub struct Triple<'a, T> {
    pub(crate) visible: Plane<'a, T>,
    pub(crate) infrared: Plane<'a, T>,
    pub(crate) fused: Plane<'a, T>,
}

impl<'a, T: Sample> Triple<'a, T> {
    /// The images to compare. For a medical pair PET, SPECT or CT takes the visible image's place
    /// and MRI the infrared's; no metric here changes when the two are exchanged.
    ///
    /// # Errors
    /// If the images are not of one size.
    pub fn new(visible: Plane<'a, T>, infrared: Plane<'a, T>, fused: Plane<'a, T>) -> Result<Self> {
        let sizes = [visible.size(), infrared.size(), fused.size()];
        if sizes[0] != sizes[2] || sizes[1] != sizes[2] {
            let [visible, infrared, fused] = sizes;
            return Err(Error::SizeMismatch { visible, infrared, fused });
        }
        Ok(Self { visible, infrared, fused })
    }

    /// The fused image, for the metrics that need no sources.
    pub fn fused(&self) -> Plane<'a, T> {
        self.fused
    }
}

/// The grey level of a colour pixel, .299 R + .587 G + .114 B rounded (halves up): how a colour
/// image is read before it is scored.
pub fn luma_u8(r: u8, g: u8, b: u8) -> u8 {
    ((299 * u32::from(r) + 587 * u32::from(g) + 114 * u32::from(b) + 500) / 1000) as u8
}

/// A plane in `f64`, which everything but the histograms is computed from.
#[derive(Clone, Debug)]
pub(crate) struct Grid {
    /// The pixels, and then one vector more, so that a vector can be read from every pixel on.
    data: Vec<f64>,
    pub(crate) w: usize,
    pub(crate) h: usize,
}

impl Grid {
    pub(crate) fn of<T: Sample>(plane: &Plane<'_, T>) -> Self {
        let mut data = Vec::with_capacity(plane.data.len() + LANES);
        data.extend(plane.data.iter().map(|&v| v.into()));
        Self::from_pixels(data, plane.width, plane.height)
    }

    pub(crate) fn from_pixels(mut data: Vec<f64>, w: usize, h: usize) -> Self {
        debug_assert_eq!(data.len(), w * h);
        data.resize(w * h + LANES, 0.);
        Self { data, w, h }
    }

    pub(crate) fn zeros(w: usize, h: usize) -> Self {
        Self { data: vec![0.; w * h + LANES], w, h }
    }

    pub(crate) fn pixels(&self) -> &[f64] {
        &self.data[..self.w * self.h]
    }

    /// The least and the greatest pixel.
    pub(crate) fn range(&self) -> (f64, f64) {
        let ends = (f64::INFINITY, f64::NEG_INFINITY);
        self.pixels().iter().fold(ends, |(least, most), &p| (least.min(p), most.max(p)))
    }

    pub(crate) fn pixels_mut(&mut self) -> &mut [f64] {
        &mut self.data[..self.w * self.h]
    }

    /// Every pixel times a factor.
    pub(crate) fn times(&self, factor: f64) -> Self {
        self.changed(|p| p * factor)
    }

    /// Grey levels from 0 to 1. A division, as in MATLAB's `im2double`: it rounds otherwise than a
    /// product.
    pub(crate) fn unit(&self) -> Self {
        self.changed(|p| p / 255.)
    }

    fn changed(&self, change: impl Fn(f64) -> f64) -> Self {
        let mut out = Grid::zeros(self.w, self.h);
        for (out, &p) in out.pixels_mut().iter_mut().zip(self.pixels()) {
            *out = change(p);
        }
        out
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = &[f64]> {
        self.pixels().chunks_exact(self.w)
    }

    pub(crate) fn row(&self, y: usize) -> &[f64] {
        &self.data[y * self.w..][..self.w]
    }

    /// A row, and numbers that mean nothing up to a whole number of vectors.
    #[inline(always)]
    pub(crate) fn vectors(&self, y: usize) -> &[f64] {
        &self.data[y * self.w..][..self.w.next_multiple_of(LANES)]
    }
}

/// The `n` rows of an image in bands of `rows`, which are fixed, so that sums do not depend on the
/// threads.
pub(crate) fn bands(n: usize, rows: usize) -> impl IndexedParallelIterator<Item = Range<usize>> {
    (0..n.div_ceil(rows)).into_par_iter().map(move |band| band * rows..(band * rows + rows).min(n))
}

/// The three images in `f64`.
pub(crate) struct Grids {
    pub(crate) visible: Grid,
    pub(crate) infrared: Grid,
    pub(crate) fused: Grid,
}

impl Grids {
    pub(crate) fn of<T: Sample>(triple: &Triple<'_, T>) -> Self {
        Self::made([&triple.visible, &triple.infrared, &triple.fused], Grid::of)
    }

    /// The images rounded to whole grey levels.
    pub(crate) fn levels<T: Sample>(triple: &Triple<'_, T>) -> Self {
        Self::made([&triple.visible, &triple.infrared, &triple.fused], |plane| {
            let mut data = Vec::with_capacity(plane.data.len() + LANES);
            data.extend(plane.data.iter().map(|&v| f64::from(v.level())));
            Grid::from_pixels(data, plane.width, plane.height)
        })
    }

    /// What `f` makes of each.
    pub(crate) fn map(&self, f: impl Fn(&Grid) -> Grid + Sync) -> Self {
        Self::made([&self.visible, &self.infrared, &self.fused], f)
    }

    fn made<T: Sync>([v, i, f]: [&T; 3], make: impl Fn(&T) -> Grid + Sync) -> Self {
        let (fused, (visible, infrared)) =
            rayon::join(|| make(f), || rayon::join(|| make(v), || make(i)));
        Self { visible, infrared, fused }
    }

    /// Refuses images of fewer than `needed` pixels either way.
    pub(crate) fn at_least(&self, needed: usize, metric: Metric) -> Result<()> {
        let (width, height) = self.size();
        if width.min(height) >= needed {
            return Ok(());
        }
        Err(Error::TooSmall { metric, width, height, needed })
    }

    pub(crate) fn size(&self) -> (usize, usize) {
        (self.fused.w, self.fused.h)
    }
}
