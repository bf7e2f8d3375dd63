//! [`Stream`]: frames of two cameras, fused where they lie.

use std::time::Duration;

use fast_image_resize::Resizer;
use isfm_align::{Alignment, Sizes};
use rayon::prelude::*;

use crate::colour::recoloured;
use crate::normalize::{Depth, Span};
use crate::placement;
use crate::plane::View;
use crate::steady::Steady;
use crate::video::{Frame, FrameMut, VideoFormat};
use crate::{Error, Isfm, Normalize, Result, Side};

/// Which counts of a 16-bit infrared stream are black and white. Frames of 8 bits are taken as they are.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum StreamRange {
    /// The range of [`Normalize::Auto`], followed without flicker.
    ///
    /// A jump or drift of all counts together moves it at once, so that the picture does not change. What else
    /// changes it is followed with this time constant, and by no more than half a level of 8 bits in a frame
    /// while most of the picture stands still. A closed shutter changes nothing for a second.
    Steady {
        /// After so long some two thirds of a change are followed.
        time_constant: Duration,
    },
    /// This rule for each frame alone; [`Normalize::Range`] for counts that are fixed.
    EachFrame(Normalize),
}

impl Default for StreamRange {
    fn default() -> Self {
        Self::Steady { time_constant: Duration::from_millis(500) }
    }
}

/// Fuses the frames of two cameras, one pair after another, with memory of what was before: the infrared range
/// stays steady, and buffers are used again.
///
/// Of the visible frame only the luma is read and replaced: of I420 and NV12 the first plane, of RGB and its
/// relatives the colour stays and the luma changes. The infrared frame is grey, of any size: it is resized to the
/// visible one (Catmull-Rom), or laid where an [`Alignment`] says.
///
/// ```no_run
/// use std::time::Duration;
/// use isfm::{Frame, FrameMut, Isfm, Stream, VideoFormat, VideoLayout};
///
/// let mut stream = Stream::new(Isfm::embedded()?);
/// let visible = VideoLayout::new(VideoFormat::I420, 640, 480)?.limited_range(true);
/// let infrared = VideoLayout::new(VideoFormat::Gray16Le, 320, 256)?;
/// let (mut colour, mut heat) = (vec![0; visible.bytes()], vec![0; infrared.bytes()]);
/// for number in 0.. {
///     // … read both cameras into the buffers …
///     # let _ = (&mut colour, &mut heat);
///     let time = Duration::from_secs(1) * number / 30;
///     let infrared = Frame { layout: &infrared, data: &heat };
///     stream.fuse_in_place(FrameMut { layout: &visible, data: &mut colour }, infrared, time)?;
/// }
/// # Ok::<(), isfm::Error>(())
/// ```
#[derive(Debug)]
pub struct Stream {
    isfm: Isfm,
    range: StreamRange,
    alignment: Option<Alignment>,
    steady: Steady,
    buffers: Buffers,
    span: Option<Span>,
}

#[derive(Default)]
struct Buffers {
    /// The visible luma.
    luma: Vec<f32>,
    /// The infrared frame in [0, 1], of its own size.
    heat: Vec<f32>,
    /// The same where it lies on the visible frame.
    placed: Vec<f32>,
    resizer: Resizer,
}

impl std::fmt::Debug for Buffers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffers").finish_non_exhaustive()
    }
}

impl Stream {
    /// With a steady range, and infrared frames that show what visible ones do.
    pub fn new(isfm: Isfm) -> Self {
        Self {
            isfm,
            range: StreamRange::default(),
            alignment: None,
            steady: Steady::default(),
            buffers: Buffers::default(),
            span: None,
        }
    }

    /// Which counts of 16-bit frames are black and white.
    ///
    /// # Errors
    /// [`Error::Option`] for a rule that makes no sense.
    pub fn range(mut self, range: StreamRange) -> Result<Self> {
        if let StreamRange::EachFrame(rule) = range {
            rule.validate("the range of the stream")?;
        }
        self.range = range;
        Ok(self)
    }

    /// Where the infrared frames lie on the visible ones. Outside of them the visible frame stays what it
    /// is, as nearly as the weights give back two equal pictures (with the embedded ones: within a level or
    /// two).
    ///
    /// One with sizes serves frames of other sizes with the same proportions too.
    #[must_use]
    pub fn alignment(mut self, alignment: impl Into<Alignment>) -> Self {
        self.alignment = Some(alignment.into());
        self
    }

    /// The network.
    pub fn isfm(&self) -> &Isfm {
        &self.isfm
    }

    /// The counts that were black and white in the last frame.
    pub fn last_range(&self) -> Option<(f32, f32)> {
        self.span.map(Span::ends)
    }

    /// Forgets all frames: the next one begins a new recording.
    pub fn reset(&mut self) {
        self.steady = Steady::default();
        self.span = None;
    }

    /// Replaces the luma of `visible` by the fused one; `time` is the frame's, of which only differences
    /// count.
    ///
    /// Never anything but pixels is written, and nothing where an error is returned, with one exception: weights
    /// without a pyramid that are fused in tiles, of which a later one is not finite
    /// ([`Error::NotFiniteOutput`]).
    ///
    /// # Errors
    /// [`Error::Option`] for a buffer that is shorter than its layout, for visible frames of 16 bits and for
    /// infrared ones with colour; [`Error::Alignment`] for frames that do not have its proportions; and as
    /// [`Isfm::fuse`].
    pub fn fuse_in_place(
        &mut self,
        visible: FrameMut<'_>,
        infrared: Frame<'_>,
        time: Duration,
    ) -> Result<()> {
        let FrameMut { layout, data } = visible;
        let seen = Frame { layout, data };
        check(seen, Side::Visible)?;
        check(infrared, Side::Infrared)?;
        let Self { isfm, buffers, .. } = &mut *self;
        let (width, height) = size(seen);
        let black_and_white = Span::of_levels(layout.is_limited());
        // Rows may be finished while others are still to be read.
        isfm.install(|| luma_of(seen, black_and_white, &mut buffers.luma));
        let sizes = Sizes { visible: (width, height), infrared: size(infrared) };
        let alignment = self.alignment.map(|a| a.for_sizes(sizes)).transpose()?;
        let span = self.span_of(infrared, time)?;
        self.span = Some(span);
        let Self { isfm, buffers, .. } = self;
        isfm.install(|| {
            heat_of(infrared, span, &mut buffers.heat);
            buffers.place((width, height), size(infrared), alignment.as_ref())?;
            let placed = if buffers.placed.is_empty() { &buffers.heat } else { &buffers.placed };
            let view = |data| View { width, height, data };
            let (luma, heat) = (view(&buffers.luma), view(placed));
            // On a pyramid all that can fail comes before the first row is written.
            isfm.fuse_channels(&luma, &heat, &mut |first, rows| {
                for (y, row) in (first..height).zip(rows.data.chunks_exact(rows.width)) {
                    let pixels = layout.row_mut(data, y);
                    write_row(layout.format(), black_and_white, &row[..width], pixels);
                }
            })
        })
    }

    /// As [`fuse_in_place`](Self::fuse_in_place), into `out`, a buffer of the visible frame's layout: chroma
    /// and what lies between rows is copied.
    ///
    /// # Errors
    /// As [`fuse_in_place`](Self::fuse_in_place), and for an `out` shorter than the layout.
    pub fn fuse_into(
        &mut self,
        visible: Frame<'_>,
        infrared: Frame<'_>,
        time: Duration,
        out: &mut [u8],
    ) -> Result<()> {
        check(visible, Side::Visible)?;
        check(infrared, Side::Infrared)?;
        let bytes = visible.layout.bytes();
        let Some(into) = out.get_mut(..bytes) else {
            return Err(too_short("the buffer for the fused frame", out.len(), bytes));
        };
        into.copy_from_slice(&visible.data[..bytes]);
        self.fuse_in_place(FrameMut { layout: visible.layout, data: into }, infrared, time)
    }

    fn span_of(&mut self, infrared: Frame<'_>, time: Duration) -> Result<Span> {
        let Frame { layout, data } = infrared;
        let format = layout.format();
        if !format.is_16_bit() {
            return Ok(Span::of_levels(layout.is_limited()));
        }
        let (width, height) = size(infrared);
        let rows = (0..height).map(|y| layout.row(data, y));
        let value = count_of(format);
        match self.range {
            StreamRange::Steady { time_constant } => {
                Ok(self.steady.next(rows, value, width * height, time, time_constant))
            }
            StreamRange::EachFrame(rule) => Ok(rule.span(Side::Infrared, Depth::Sixteen, || {
                let pixels = rows.flat_map(|row| row.as_chunks::<2>().0);
                pixels.map(|&pixel| f32::from(value(pixel))).collect()
            })),
        }
    }
}

impl Buffers {
    /// Lays the infrared plane on the visible one; `placed` stays empty where it lies there already.
    fn place(
        &mut self,
        visible: (usize, usize),
        infrared: (usize, usize),
        alignment: Option<&Alignment>,
    ) -> Result<()> {
        if alignment.is_none() && visible == infrared {
            self.placed.clear();
            return Ok(());
        }
        self.placed.resize(visible.0 * visible.1, 0.);
        match alignment {
            Some(alignment) => {
                let (heat, luma) = (&self.heat, &self.luma);
                placement::place(alignment, heat, infrared, luma, visible.0, &mut self.placed);
                Ok(())
            }
            None => placement::resize(
                &mut self.resizer,
                &self.heat,
                infrared,
                &mut self.placed,
                visible,
            ),
        }
    }
}

fn size(frame: Frame<'_>) -> (usize, usize) {
    let (width, height) = frame.layout.size();
    (width as usize, height as usize)
}

fn too_short(what: &'static str, got: usize, needed: usize) -> Error {
    Error::Option { what, got: format!("{got} bytes"), needed: format!("{needed}") }
}

fn check(frame: Frame<'_>, side: Side) -> Result<()> {
    let (format, needed) = (frame.layout.format(), frame.layout.bytes());
    let (what, fits, formats) = match side {
        Side::Visible => (
            "the visible frame",
            !format.is_16_bit(),
            "gray, yuv420p, nv12, rgb24, bgr24, rgba or bgra",
        ),
        Side::Infrared => (
            "the infrared frame",
            format.is_16_bit() || format == VideoFormat::Gray8,
            "gray, gray16le or gray16be",
        ),
    };
    if !fits {
        let (got, needed) = (format.to_string(), formats.to_string());
        return Err(Error::Option { what, got, needed });
    }
    if frame.data.len() < needed {
        return Err(too_short(what, frame.data.len(), needed));
    }
    Ok(())
}

fn count_of(format: VideoFormat) -> fn([u8; 2]) -> u16 {
    match format {
        VideoFormat::Gray16Be => u16::from_be_bytes,
        _ => u16::from_le_bytes,
    }
}

/// Runs `row` on every row of `out`, a plane of the frame's size, beside the frame's own.
fn each_row(frame: Frame<'_>, out: &mut Vec<f32>, row: impl Fn(&[u8], &mut [f32]) + Sync) {
    let (width, height) = size(frame);
    out.resize(width * height, 0.);
    out.par_chunks_mut(width)
        .enumerate()
        .for_each(|(y, out)| row(frame.layout.row(frame.data, y), out));
}

fn luma_of(frame: Frame<'_>, span: Span, out: &mut Vec<f32>) {
    let format = frame.layout.format();
    each_row(frame, out, |row, out| match order(format) {
        None => out.iter_mut().zip(row).for_each(|(y, &v)| *y = span.place(f32::from(v))),
        Some([r, g, b]) => {
            for (y, pixel) in out.iter_mut().zip(row.chunks_exact(format.step())) {
                let [r, g, b] = [r, g, b].map(|at| span.place(f32::from(pixel[at])));
                *y = crate::colour::luma(r, g, b).clamp(0., 1.);
            }
        }
    });
}

fn heat_of(frame: Frame<'_>, span: Span, out: &mut Vec<f32>) {
    let format = frame.layout.format();
    let value = count_of(format);
    each_row(frame, out, |row, out| match format.is_16_bit() {
        false => out.iter_mut().zip(row).for_each(|(y, &v)| *y = span.place(f32::from(v))),
        true => {
            let pixels = row.as_chunks::<2>().0;
            out.iter_mut().zip(pixels).for_each(|(y, &p)| *y = span.place(f32::from(value(p))));
        }
    });
}

/// Where red, green and blue are in a pixel; none where there is luma alone.
fn order(format: VideoFormat) -> Option<[usize; 3]> {
    match format {
        VideoFormat::Rgb | VideoFormat::Rgba => Some([0, 1, 2]),
        VideoFormat::Bgr | VideoFormat::Bgra => Some([2, 1, 0]),
        _ => None,
    }
}

/// Writes fused luma over a row of pixels.
fn write_row(format: VideoFormat, span: Span, fused: &[f32], pixels: &mut [u8]) {
    match order(format) {
        None => pixels.iter_mut().zip(fused).for_each(|(v, &y)| *v = span.level(y)),
        Some(order) => {
            for (pixel, &y) in pixels.chunks_exact_mut(format.step()).zip(fused) {
                let rgb = recoloured(order.map(|at| pixel[at]), y);
                for (at, level) in order.into_iter().zip(rgb) {
                    pixel[at] = level;
                }
            }
        }
    }
}
