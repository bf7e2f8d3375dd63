//! Stored pixels to luma planes and back: YCrCb with the released program's factors.

use std::borrow::Cow;

use image::{DynamicImage, GrayImage, ImageBuffer, Luma, Pixel, Primitive, Rgb, RgbImage};
use rayon::prelude::*;

use crate::normalize::{Depth, Normalize, Span};
use crate::plane::{Channel, View};
use crate::system::available_memory;
use crate::{Error, Result, Side};

/// A type pixels are stored in.
trait Stored: Primitive + Into<f32> + Send + Sync {
    /// The value as stored.
    fn stored(self) -> f32 {
        self.into()
    }
    /// What stores `unit`, a value in [0, 1].
    fn from_unit(unit: f32) -> Self;
}

impl Stored for u8 {
    fn from_unit(unit: f32) -> Self {
        (unit * 255.).round() as u8
    }
}

impl Stored for u16 {
    fn from_unit(unit: f32) -> Self {
        (unit * 65535.).round() as u16
    }
}

impl Stored for f32 {
    fn from_unit(unit: f32) -> Self {
        unit
    }
}

enum Data<'a> {
    U8(&'a [u8]),
    U16(&'a [u16]),
    F32(Cow<'a, [f32]>),
}

/// The stored values of an image, whatever its type.
pub(crate) struct Samples<'a> {
    data: Data<'a>,
    /// 1 grey, 2 grey and alpha, 3 colour, 4 colour and alpha.
    channels: usize,
    width: usize,
    height: usize,
}

/// Runs `$body` with `$data` the slice of whatever type the samples are.
macro_rules! each_type {
    ($samples:expr, $data:ident => $body:expr) => {
        match &$samples.data {
            Data::U8($data) => $body,
            Data::U16($data) => $body,
            Data::F32($data) => {
                let $data: &[f32] = $data;
                $body
            }
        }
    };
}

/// Y of stored values as well as of values in [0, 1], because it is linear.
#[inline]
pub(crate) fn luma(r: f32, g: f32, b: f32) -> f32 {
    0.299 * r + 0.587 * g + 0.114 * b
}

/// The stored grey value or luma of a pixel.
#[inline]
fn pixel_luma<T: Stored>(pixel: &[T]) -> f32 {
    match pixel {
        &[r, g, b, ..] => luma(r.stored(), g.stored(), b.stored()),
        &[grey, ..] => grey.stored(),
        [] => 0.,
    }
}

/// A colour pixel with its luma replaced by `y`: its own Cr and Cb, each clamped, and the result
/// clamped.
#[inline]
fn recolour(r: f32, g: f32, b: f32, y: f32) -> [f32; 3] {
    let own = luma(r, g, b).clamp(0., 1.);
    let cr = ((r - own) * 0.713 + 0.5).clamp(0., 1.) - 0.5;
    let cb = ((b - own) * 0.564 + 0.5).clamp(0., 1.) - 0.5;
    [y + 1.403 * cr, y - 0.714 * cr - 0.344 * cb, y + 1.773 * cb].map(|v| v.clamp(0., 1.))
}

/// A pixel of 8 bits with its luma replaced by `y`, as [`Samples::with_luma`] does it.
#[inline]
pub(crate) fn recoloured(rgb: [u8; 3], y: f32) -> [u8; 3] {
    let span = Span::of_levels(false);
    let [r, g, b] = rgb.map(|v| span.place(v.stored()));
    recolour(r, g, b, y).map(u8::from_unit)
}

impl<'a> Samples<'a> {
    /// # Errors
    /// [`Error::Empty`] for an image without pixels.
    pub(crate) fn new(image: &'a DynamicImage, side: Side) -> Result<Self> {
        let (data, channels) = match image {
            DynamicImage::ImageLuma8(b) => (Data::U8(b), 1),
            DynamicImage::ImageLumaA8(b) => (Data::U8(b), 2),
            DynamicImage::ImageRgb8(b) => (Data::U8(b), 3),
            DynamicImage::ImageRgba8(b) => (Data::U8(b), 4),
            DynamicImage::ImageLuma16(b) => (Data::U16(b), 1),
            DynamicImage::ImageLumaA16(b) => (Data::U16(b), 2),
            DynamicImage::ImageRgb16(b) => (Data::U16(b), 3),
            DynamicImage::ImageRgba16(b) => (Data::U16(b), 4),
            DynamicImage::ImageRgb32F(b) => (Data::F32(Cow::Borrowed(b)), 3),
            DynamicImage::ImageRgba32F(b) => (Data::F32(Cow::Borrowed(b)), 4),
            // The enum may grow; every image can be had as floats.
            other => (Data::F32(Cow::Owned(other.to_rgb32f().into_raw())), 3),
        };
        let (width, height) = (image.width() as usize, image.height() as usize);
        if width == 0 || height == 0 {
            return Err(Error::Empty { side, width, height });
        }
        Ok(Self { data, channels, width, height })
    }

    pub(crate) fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    fn depth(&self) -> Depth {
        match self.data {
            Data::U8(_) => Depth::Eight,
            Data::U16(_) => Depth::Sixteen,
            Data::F32(_) => Depth::Float,
        }
    }

    fn is_colour(&self) -> bool {
        self.channels >= 3
    }

    /// `f` of the stored values that count: every colour value of a visible image (so that no channel
    /// is clipped more than a range asks for), the luma of an infrared one; alpha never.
    fn map<T>(&self, side: Side, f: impl Fn(f32) -> T) -> Vec<T> {
        let n = self.channels;
        each_type!(self, data => match side {
            Side::Visible => {
                let colours = if self.is_colour() { 3 } else { 1 };
                let colours = data.chunks_exact(n).flat_map(|p| &p[..colours]);
                colours.map(|&v| f(v.stored())).collect()
            }
            Side::Infrared => data.chunks_exact(n).map(|p| f(pixel_luma(p))).collect(),
        })
    }

    /// The stored values that `rule` makes black and white.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for a NaN or an infinity in a float image.
    pub(crate) fn span(&self, side: Side, rule: Normalize) -> Result<Span> {
        if let Data::F32(data) = &self.data
            && let Some(index) = data.iter().position(|v| !v.is_finite())
        {
            return Err(Error::NotFinite { side, value: data[index], index });
        }
        Ok(rule.span(side, self.depth(), || self.map(side, |v| v)))
    }

    /// The luma in [0, 1], after normalisation by `rule`.
    ///
    /// # Errors
    /// Those of [`span`](Self::span).
    pub(crate) fn luma(&self, side: Side, rule: Normalize) -> Result<SampleLuma<'_>> {
        Ok(SampleLuma { samples: self, side, span: self.span(side, rule)? })
    }

    /// The image with its luma replaced by what `fuse` writes (in [0, 1]): colour stays colour, grey
    /// grey, in the depth of the image itself and without alpha. `fuse` hands on rows, however many
    /// at a time, with the number of the first; what lies right of the image or below it is left
    /// out. `span` is the one that the luma was taken with.
    ///
    /// # Errors
    /// Those of `fuse`.
    pub(crate) fn with_luma(
        &self,
        span: Span,
        fuse: impl FnOnce(&mut dyn FnMut(usize, View<'_>)) -> Result<()>,
    ) -> Result<DynamicImage> {
        Ok(match (&self.data, self.is_colour()) {
            (Data::U8(data), false) => self.filled::<Luma<u8>>(data, span, fuse)?.into(),
            (Data::U8(data), true) => self.filled::<Rgb<u8>>(data, span, fuse)?.into(),
            (Data::U16(data), false) => self.filled::<Luma<u16>>(data, span, fuse)?.into(),
            (Data::U16(data), true) => self.filled::<Rgb<u16>>(data, span, fuse)?.into(),
            // Float images are always colour (the `image` crate has no grey ones).
            (Data::F32(data), _) => self.filled::<Rgb<f32>>(data, span, fuse)?.into(),
        })
    }

    fn filled<P: Pixel<Subpixel: Stored>>(
        &self,
        data: &[P::Subpixel],
        span: Span,
        fuse: impl FnOnce(&mut dyn FnMut(usize, View<'_>)) -> Result<()>,
    ) -> Result<ImageBuffer<P, Vec<P::Subpixel>>> {
        let (len, mut out) = (self.width * self.height * usize::from(P::CHANNEL_COUNT), Vec::new());
        let too_much = |_| {
            let left = available_memory().unwrap_or(0);
            Error::Memory { needed: len * size_of::<P::Subpixel>(), left }
        };
        out.try_reserve_exact(len).map_err(too_much)?;
        out.resize(len, P::Subpixel::DEFAULT_MIN_VALUE);
        let out = ImageBuffer::from_raw(self.width as u32, self.height as u32, out);
        // `from_raw` fails only for a buffer that is too short.
        let mut out = out.unwrap_or_default();
        fuse(&mut |y, rows| self.fill(data, span, y, rows, &mut out))?;
        Ok(out)
    }

    fn fill<T: Stored>(&self, data: &[T], span: Span, y: usize, fused: View<'_>, out: &mut [T]) {
        let n = self.channels;
        let colours = if self.is_colour() { 3 } else { 1 };
        out.par_chunks_mut(self.width * colours)
            .zip(data.par_chunks(self.width * n))
            .skip(y)
            .zip(fused.data.par_chunks(fused.width))
            .for_each(|((out, from), fused)| {
                let pixels = out.chunks_exact_mut(colours).zip(from.chunks_exact(n));
                for ((out, pixel), &y) in pixels.zip(fused) {
                    match (out, pixel) {
                        (out @ [_, _, _], &[r, g, b, ..]) => {
                            let [r, g, b] = [r, g, b].map(|v| span.place(v.stored()));
                            out.copy_from_slice(&recolour(r, g, b, y).map(T::from_unit));
                        }
                        (out, _) => out.fill(T::from_unit(y)),
                    }
                }
            });
    }
}

/// The luma of an image, in [0, 1].
pub(crate) struct SampleLuma<'a> {
    samples: &'a Samples<'a>,
    side: Side,
    pub(crate) span: Span,
}

impl Channel for SampleLuma<'_> {
    fn size(&self) -> (usize, usize) {
        self.samples.size()
    }

    fn read(&self, x: usize, y: usize, out: &mut [f32]) {
        let (n, span) = (self.samples.channels, self.span);
        let start = (y * self.samples.width + x) * n;
        each_type!(self.samples, data => {
            for (y, pixel) in out.iter_mut().zip(data[start..].chunks_exact(n)) {
                *y = match (self.side, pixel) {
                    // Each channel is clamped before the luma is taken, as colour is put back
                    // from the clamped channels.
                    (Side::Visible, &[r, g, b, ..]) => {
                        let [r, g, b] = [r, g, b].map(|v| span.place(v.stored()));
                        luma(r, g, b).clamp(0., 1.)
                    }
                    _ => span.place(pixel_luma(pixel)),
                };
            }
        });
    }
}

/// An image in 8 bits, on the levels that [`Isfm::fuse`](crate::Isfm::fuse) sees with `rule`: of a
/// visible image its colour or grey, of an infrared one the luma; alpha is left out.
///
/// Values that have 8 bits already and whose whole range the rule takes stay what they are.
///
/// # Errors
/// [`Error::Empty`] for an image without pixels, [`Error::NotFinite`] for a NaN or an infinity in a
/// float image, [`Error::Option`] for a rule that makes no sense.
pub fn to_8_bits(image: &DynamicImage, side: Side, rule: Normalize) -> Result<DynamicImage> {
    rule.validate("the normalisation")?;
    let samples = Samples::new(image, side)?;
    let span = samples.span(side, rule)?;
    let data = samples.map(side, |v| span.place_8_bit(v));
    let (width, height) = (image.width(), image.height());
    // `from_raw` fails only for a buffer that is too short, and this one holds every pixel.
    Ok(if side == Side::Visible && samples.is_colour() {
        RgbImage::from_raw(width, height, data).unwrap_or_default().into()
    } else {
        GrayImage::from_raw(width, height, data).unwrap_or_default().into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pixel_keeps_its_colour_when_its_luma_stays() {
        for rgb in [[0.2, 0.5, 0.9], [1., 0., 0.], [0., 0., 1.], [0.3, 0.3, 0.3], [1., 1., 1.]] {
            let [r, g, b] = rgb;
            let back = recolour(r, g, b, luma(r, g, b));
            for (got, want) in back.iter().zip(rgb) {
                // The factors are rounded to three digits, so it is not quite exact.
                assert!((got - want).abs() < 2e-3, "{back:?} {rgb:?}");
            }
        }
    }

    #[test]
    fn chroma_by_hand() {
        // Cr = (R − Y)·.713 + .5 = (1 − .299)·.713 + .5 = .999813, Cb = −.299·.564 + .5 = .331364
        let [r, g, b] = recolour(1., 0., 0., 0.25);
        assert!((r - (0.25 + 1.403 * 0.499_813)).abs() < 1e-6);
        assert!((g - 0.0f32.max(0.25 - 0.714 * 0.499_813 + 0.344 * 0.168_636)).abs() < 1e-6);
        assert!((b - 0.0f32.max(0.25 - 1.773 * 0.168_636)).abs() < 1e-6);
    }
}
