//! How frames of video lie in memory.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// How the pixels of a frame are stored, by FFmpeg's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum VideoFormat {
    /// `gray`: 8 bits a pixel.
    Gray8,
    /// `gray16le`: 16 bits a pixel, the lower byte first, as thermal cameras send them (V4L2's `Y16`);
    /// frames of 10 to 14 significant bits are stored so.
    Gray16Le,
    /// `gray16be`: the upper byte first.
    Gray16Be,
    /// `yuv420p`: a plane of luma, one of Cb and one of Cr of half its width and height, rounded up.
    I420,
    /// `nv12`: a plane of luma, and one of Cb and Cr in turn.
    Nv12,
    /// `rgb24`.
    Rgb,
    /// `bgr24`.
    Bgr,
    /// `rgba`, also `rgb0`: the fourth byte is left as it is.
    Rgba,
    /// `bgra`, also `bgr0`.
    Bgra,
}

impl VideoFormat {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Gray8,
        Self::Gray16Le,
        Self::Gray16Be,
        Self::I420,
        Self::Nv12,
        Self::Rgb,
        Self::Bgr,
        Self::Rgba,
        Self::Bgra,
    ];

    /// FFmpeg's name for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gray8 => "gray",
            Self::Gray16Le => "gray16le",
            Self::Gray16Be => "gray16be",
            Self::I420 => "yuv420p",
            Self::Nv12 => "nv12",
            Self::Rgb => "rgb24",
            Self::Bgr => "bgr24",
            Self::Rgba => "rgba",
            Self::Bgra => "bgra",
        }
    }

    /// Bytes from one pixel of the first plane to the next.
    pub(crate) const fn step(self) -> usize {
        match self {
            Self::Gray8 | Self::I420 | Self::Nv12 => 1,
            Self::Gray16Le | Self::Gray16Be => 2,
            Self::Rgb | Self::Bgr => 3,
            Self::Rgba | Self::Bgra => 4,
        }
    }

    /// Whether it has 16 bits a pixel.
    pub const fn is_16_bit(self) -> bool {
        matches!(self, Self::Gray16Le | Self::Gray16Be)
    }

    /// Bytes of a row and rows of each plane of a frame.
    fn planes(self, width: usize, height: usize) -> Vec<(usize, usize)> {
        let (half, rows) = (width.div_ceil(2), height.div_ceil(2));
        let first = (width * self.step(), height);
        match self {
            Self::I420 => vec![first, (half, rows), (half, rows)],
            Self::Nv12 => vec![first, (2 * half, rows)],
            _ => vec![first],
        }
    }
}

impl fmt::Display for VideoFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for VideoFormat {
    type Err = Error;

    /// Reads FFmpeg's name.
    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|format| format.name() == name);
        found.ok_or_else(|| Error::Option {
            what: "the video format",
            got: name.to_string(),
            needed: format!("one of {}", Self::ALL.map(Self::name).join(", ")),
        })
    }
}

/// Where a plane of a frame begins in its buffer, and how many bytes lie between its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaneLayout {
    /// Bytes before its first row.
    pub offset: usize,
    /// Bytes from one row to the next.
    pub stride: usize,
}

/// Size and format of frames, and where their planes lie in a buffer.
///
/// ```
/// use isfm::{VideoFormat, VideoLayout};
/// let layout = VideoLayout::new(VideoFormat::I420, 5, 3)?;
/// assert_eq!(layout.bytes(), 5 * 3 + 2 * (3 * 2));
/// # Ok::<(), isfm::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoLayout {
    format: VideoFormat,
    width: usize,
    height: usize,
    planes: Vec<PlaneLayout>,
    limited: bool,
    bytes: usize,
}

impl VideoLayout {
    /// The longest side of a frame, in pixels.
    pub const MOST: u32 = 65_535;

    /// Frames without gaps between rows or planes.
    ///
    /// # Errors
    /// [`Error::Option`] for a side of 0 or beyond [`MOST`](Self::MOST).
    pub fn new(format: VideoFormat, width: u32, height: u32) -> Result<Self> {
        let mut offset = 0usize;
        let planes = sized(format, width, height)?;
        let tight = planes.into_iter().map(|(bytes, rows)| {
            let plane = PlaneLayout { offset, stride: bytes };
            offset = offset.saturating_add(bytes.saturating_mul(rows));
            plane
        });
        Self::with_planes(format, width, height, &tight.collect::<Vec<_>>())
    }

    /// Frames whose planes lie so.
    ///
    /// # Errors
    /// [`Error::Option`] for another number of planes than the format has, a stride shorter than a row,
    /// planes that overlap, or a side as for [`new`](Self::new).
    pub fn with_planes(
        format: VideoFormat,
        width: u32,
        height: u32,
        planes: &[PlaneLayout],
    ) -> Result<Self> {
        let sizes = sized(format, width, height)?;
        let refuse = |what, got: String, needed: String| Err(Error::Option { what, got, needed });
        if planes.len() != sizes.len() {
            let needed = format!("{} for {format}", sizes.len());
            return refuse("the number of planes", planes.len().to_string(), needed);
        }
        let mut spans = Vec::with_capacity(planes.len());
        for (plane, &(bytes, rows)) in planes.iter().zip(&sizes) {
            if plane.stride < bytes {
                let needed = format!("{bytes} or more, for {format} of {width}x{height}");
                return refuse("a stride", plane.stride.to_string(), needed);
            }
            let end = plane.stride.checked_mul(rows - 1).and_then(|last| {
                let end = last.checked_add(bytes)?.checked_add(plane.offset)?;
                isize::try_from(end).ok().map(|_| end)
            });
            let Some(end) = end else {
                let got = format!("{} with a stride of {}", plane.offset, plane.stride);
                return refuse("a plane's offset", got, "an end in memory".to_string());
            };
            spans.push((plane.offset, end));
        }
        spans.sort_unstable();
        if let Some(pair) = spans.windows(2).find(|pair| pair[1].0 < pair[0].1) {
            let needed = format!("{} or more, where the plane before it ends", pair[0].1);
            return refuse("a plane's offset", pair[1].0.to_string(), needed);
        }
        let bytes = spans.iter().map(|span| span.1).max().unwrap_or(0);
        let (width, height) = (width as usize, height as usize);
        Ok(Self { format, width, height, planes: planes.to_vec(), limited: false, bytes })
    }

    /// Luma from 16 (black) to 235 (white), as most video has it, instead of 0 to 255. Formats of colour or
    /// of 16 bits have no such luma and stay as they are.
    #[must_use]
    pub fn limited_range(mut self, limited: bool) -> Self {
        let luma =
            matches!(self.format, VideoFormat::Gray8 | VideoFormat::I420 | VideoFormat::Nv12);
        self.limited = limited && luma;
        self
    }

    /// The format.
    pub fn format(&self) -> VideoFormat {
        self.format
    }

    /// Width and height in pixels.
    pub fn size(&self) -> (u32, u32) {
        (self.width as u32, self.height as u32)
    }

    /// Where the planes lie.
    pub fn planes(&self) -> &[PlaneLayout] {
        &self.planes
    }

    /// The least bytes that a buffer has.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.limited
    }

    /// A row of the first plane: luma, or pixels of all channels.
    pub(crate) fn row<'a>(&self, data: &'a [u8], y: usize) -> &'a [u8] {
        &data[self.start(y)..][..self.width * self.format.step()]
    }

    pub(crate) fn row_mut<'a>(&self, data: &'a mut [u8], y: usize) -> &'a mut [u8] {
        &mut data[self.start(y)..][..self.width * self.format.step()]
    }

    fn start(&self, y: usize) -> usize {
        self.planes[0].offset + y * self.planes[0].stride
    }
}

fn sized(format: VideoFormat, width: u32, height: u32) -> Result<Vec<(usize, usize)>> {
    let fits = |side: u32| (1..=VideoLayout::MOST).contains(&side);
    if !fits(width) || !fits(height) {
        let needed = format!("sides of 1 to {}", VideoLayout::MOST);
        let got = format!("{width}x{height}");
        return Err(Error::Option { what: "the size of frames", got, needed });
    }
    Ok(format.planes(width as usize, height as usize))
}

/// A frame that is read.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// How it lies in the buffer.
    pub layout: &'a VideoLayout,
    /// The buffer.
    pub data: &'a [u8],
}

/// A frame whose luma is replaced.
#[derive(Debug)]
pub struct FrameMut<'a> {
    /// How it lies in the buffer.
    pub layout: &'a VideoLayout,
    /// The buffer.
    pub data: &'a mut [u8],
}
