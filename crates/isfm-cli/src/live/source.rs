//! Frames of uncompressed video: YUV4MPEG2, or nothing but pixels.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use isfm::{VideoFormat, VideoLayout};

/// The longest header of a file or frame.
const LONGEST: usize = 4096;
const MAGIC: &[u8] = b"YUV4MPEG2";

/// What is said of a stream that is nothing but pixels.
#[derive(Clone, Copy, Debug)]
pub struct Raw {
    /// How pixels are stored.
    pub format: VideoFormat,
    /// Width and height.
    pub size: (u32, u32),
    /// Frames a second, as a fraction.
    pub rate: (u32, u32),
}

/// A stream that frames are read from.
pub struct Source {
    path: PathBuf,
    from: Box<dyn Read + Send>,
    /// What stands above a YUV4MPEG2 stream, with its line's end.
    header: Option<Vec<u8>>,
    layout: VideoLayout,
    bytes: usize,
    rate: (u32, u32),
    frames: usize,
}

/// Which luma is black and white.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LumaRange {
    /// 0 to 255
    Full,
    /// 16 to 235
    Limited,
}

impl Source {
    /// Opens a stream: of `raw` pixels, or YUV4MPEG2.
    ///
    /// # Errors
    /// If it cannot be read, or its header is not understood.
    pub fn open(path: &Path, raw: Option<Raw>, range: Option<LumaRange>) -> Result<Self> {
        let from: Box<dyn Read + Send> = match path.to_str() {
            Some("-") => Box::new(std::io::stdin()),
            _ => Box::new(
                File::open(path).with_context(|| format!("cannot open {}", path.display()))?,
            ),
        };
        // Frames are read whole; the buffer is for headers.
        let from = BufReader::with_capacity(1 << 16, from);
        Self::from_reader(path, Box::new(from), raw, range)
    }

    /// A stream that `from` gives; `path` names it in errors.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_reader(
        path: &Path,
        from: Box<dyn Read + Send>,
        raw: Option<Raw>,
        range: Option<LumaRange>,
    ) -> Result<Self> {
        Self::read_header(path, from, raw, range).with_context(|| path.display().to_string())
    }

    fn read_header(
        path: &Path,
        mut from: Box<dyn Read + Send>,
        raw: Option<Raw>,
        range: Option<LumaRange>,
    ) -> Result<Self> {
        let path = path.to_path_buf();
        if let Some(Raw { format, size: (width, height), rate }) = raw {
            let limited = range == Some(LumaRange::Limited);
            let layout = VideoLayout::new(format, width, height)?.limited_range(limited);
            let bytes = layout.bytes();
            return Ok(Self { path, from, header: None, layout, bytes, rate, frames: 0 });
        }
        let mut header = vec![0; MAGIC.len()];
        let whole = fill(&mut from, &mut header)? == header.len();
        ensure!(
            whole && header == MAGIC,
            "it is no YUV4MPEG2 stream; of raw video say the format and the size"
        );
        line(&mut from, &mut header)?;
        let text = String::from_utf8_lossy(&header[MAGIC.len()..header.len() - 1]).into_owned();
        let parameters: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
        let value = |key: char| parameters.iter().find_map(|word| word.strip_prefix(key));
        let side = |key: char| {
            let text = value(key).with_context(|| format!("its header has no {key}"))?;
            text.parse::<u32>().ok().with_context(|| format!("its header says {key}{text}"))
        };
        let (width, height) = (side('W')?, side('H')?);
        let rate = value('F').map_or(Ok((30, 1)), |text| {
            let (frames, seconds) = text.split_once(':').unwrap_or((text, "1"));
            let both = frames.parse().ok().zip(seconds.parse().ok());
            both.filter(|&(f, s): &(u32, u32)| f > 0 && s > 0)
                .with_context(|| format!("its header says a rate of {text}"))
        })?;
        ensure!(
            matches!(value('I'), None | Some("p" | "?")),
            "it is interlaced (I{}): deinterlace it first",
            value('I').unwrap_or("")
        );
        let colours = value('C').unwrap_or("420");
        let half = |side: u32| u64::from(side.div_ceil(2));
        let (w, h) = (u64::from(width), u64::from(height));
        // Chroma follows the luma, whatever there is of it, and stays as it is.
        let (format, chroma) = match colours {
            "mono" => (VideoFormat::Gray8, 0),
            "mono16" => (VideoFormat::Gray16Le, 0),
            "420" | "420jpeg" | "420mpeg2" | "420paldv" => {
                (VideoFormat::Gray8, 2 * half(width) * half(height))
            }
            "422" => (VideoFormat::Gray8, 2 * half(width) * h),
            "444" => (VideoFormat::Gray8, 2 * w * h),
            other => bail!(
                "its pixels are C{other}, needs C420, C422, C444, Cmono or Cmono16: with ffmpeg, \
                 -pix_fmt yuv420p, gray or gray16le"
            ),
        };
        let says = |range: &str| parameters.contains(&range);
        let full =
            says("XCOLORRANGE=FULL") || colours.starts_with("mono") && !says("XCOLORRANGE=LIMITED");
        let limited = range.map_or(!full, |range| range == LumaRange::Limited);
        let layout = VideoLayout::new(format, width, height)?.limited_range(limited);
        let bytes = usize::try_from(layout.bytes() as u64 + chroma)?;
        Ok(Self { path, from, header: Some(header), layout, bytes, rate, frames: 0 })
    }

    /// Size and format of what is fused of a frame.
    pub fn layout(&self) -> &VideoLayout {
        &self.layout
    }

    /// The header of a YUV4MPEG2 stream, with the end of its line.
    pub fn header(&self) -> Option<&[u8]> {
        self.header.as_deref()
    }

    /// Frames a second, as a fraction.
    pub fn rate(&self) -> (u32, u32) {
        self.rate
    }

    /// Bytes of a frame.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Reads the next frame; whether there was one.
    ///
    /// # Errors
    /// If it is cut off, or not what it should be.
    pub fn next(&mut self, frame: &mut Vec<u8>) -> Result<bool> {
        let (path, number) = (self.path.display(), self.frames + 1);
        if self.header.is_some() {
            let mut word = [0; 5];
            match fill(&mut self.from, &mut word).with_context(|| path.to_string())? {
                0 => return Ok(false),
                5 if &word == b"FRAME" => {}
                _ => bail!("{path}: frame {number} begins with something else than FRAME"),
            }
            let mut rest = Vec::new();
            line(&mut self.from, &mut rest)
                .with_context(|| format!("{path}: the header of frame {number}"))?;
        }
        let read = if frame.len() == self.bytes {
            fill(&mut self.from, frame)
        } else {
            // Memory grows with what is there, not with what a header promises.
            frame.clear();
            let rest = (&mut self.from).take(self.bytes as u64).read_to_end(frame);
            rest.map_err(Into::into)
        };
        let read = read.with_context(|| path.to_string())?;
        if read == 0 && self.header.is_none() {
            return Ok(false);
        }
        ensure!(
            read == self.bytes,
            "{path}: frame {number} is cut off: {read} of {} bytes are there",
            self.bytes
        );
        self.frames += 1;
        Ok(true)
    }
}

/// Reads as many bytes as there are, up to the buffer's end.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match from.read(&mut buffer[read..]) {
            Ok(0) => break,
            Ok(bytes) => read += bytes,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(read)
}

/// Reads up to the end of a line, which is short, and adds it with that end.
fn line(from: &mut impl Read, to: &mut Vec<u8>) -> Result<()> {
    let mut byte = [0];
    loop {
        ensure!(fill(from, &mut byte)? == 1, "its header is cut off");
        to.push(byte[0]);
        if byte[0] == b'\n' {
            return Ok(());
        }
        ensure!(to.len() < LONGEST, "its header is longer than {LONGEST} bytes");
    }
}
