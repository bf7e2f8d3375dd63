//! Pictures that lie in somebody else's memory.

use crate::{Error, Result};

mod sealed {
    pub trait Sealed {}
    impl Sealed for u8 {}
    impl Sealed for u16 {}
    impl Sealed for f32 {}
}

/// A pixel type: `u8`, `u16` or `f32`.
pub trait Sample: sealed::Sealed + Copy + Default + Send + Sync + 'static {
    /// As a float, exactly.
    fn to_f32(self) -> f32;

    /// The nearest value that the type has; halves go up.
    fn from_f32(value: f32) -> Self;
}

impl Sample for u8 {
    fn to_f32(self) -> f32 {
        f32::from(self)
    }

    fn from_f32(value: f32) -> Self {
        (value + 0.5) as u8
    }
}

impl Sample for u16 {
    fn to_f32(self) -> f32 {
        f32::from(self)
    }

    fn from_f32(value: f32) -> Self {
        (value + 0.5) as u16
    }
}

impl Sample for f32 {
    fn to_f32(self) -> f32 {
        self
    }

    fn from_f32(value: f32) -> Self {
        value
    }
}

/// A borrowed picture: row-major pixels, channels interleaved, values on any scale.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a, T> {
    data: &'a [T],
    width: usize,
    height: usize,
    channels: usize,
}

impl<'a, T: Sample> Image<'a, T> {
    /// The longest side of a picture, in pixels.
    pub const MOST: usize = 65_536;

    /// `height` rows of `width` grey pixels.
    ///
    /// # Errors
    /// As [`with_channels`](Self::with_channels).
    pub fn new(data: &'a [T], width: usize, height: usize) -> Result<Self> {
        Self::with_channels(data, width, height, 1)
    }

    /// `height` rows of `width` pixels of 1 to 4 values: grey, grey and alpha, RGB, or RGB and alpha.
    ///
    /// # Errors
    /// If a side is 0 or beyond [`MOST`](Self::MOST), for another number of channels, or if there are
    /// not exactly width × height × channels values.
    pub fn with_channels(
        data: &'a [T],
        width: usize,
        height: usize,
        channels: usize,
    ) -> Result<Self> {
        if !(1..=Self::MOST).contains(&width) || !(1..=Self::MOST).contains(&height) {
            return Err(Error::Size { width, height });
        }
        if !(1..=4).contains(&channels) {
            return Err(Error::Channels(channels));
        }
        if width.checked_mul(height).and_then(|n| n.checked_mul(channels)) != Some(data.len()) {
            return Err(Error::Length { got: data.len(), width, height, channels });
        }
        Ok(Self { data, width, height, channels })
    }

    /// The values, row by row.
    pub fn data(&self) -> &'a [T] {
        self.data
    }

    /// Width and height in pixels.
    pub fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// Values in a pixel.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Brightness: .299 R + .587 G + .114 B of colour. Alpha is not looked at.
    pub(crate) fn luma(&self) -> Vec<f32> {
        let pixels = self.data.chunks_exact(self.channels);
        match self.channels {
            1 | 2 => pixels.map(|p| p[0].to_f32()).collect(),
            _ => pixels
                .map(|p| 0.299 * p[0].to_f32() + 0.587 * p[1].to_f32() + 0.114 * p[2].to_f32())
                .collect(),
        }
    }
}
