//! Pictures, pipelines for them, and what [`isfm::Stream`] makes of them.

use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use gst::ClockTime;
use gst::prelude::*;
use gst_video::{VideoFormat, VideoFrameExt, VideoFrameRef, VideoInfo};
use isfm::{Frame, FrameMut, Isfm, Normalize, Stream, StreamRange, VideoLayout};

pub fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        gst::init().unwrap();
        gstisfm::register_static().unwrap();
    });
}

/// How long a pipeline may take for a frame before a test gives up.
pub const PATIENCE: ClockTime = ClockTime::from_seconds(60);

/// The range of counts that tests fix.
pub const RANGE: (f64, f64) = (7000., 9000.);

pub fn element() -> gstisfm::IsfmFuse {
    init();
    gst::ElementFactory::make("isfmfuse").build().unwrap().downcast().unwrap()
}

/// With a range that does not depend on earlier frames.
pub fn fixed_element() -> gstisfm::IsfmFuse {
    let element = element();
    element.set_property_from_str("normalize", "range");
    element.set_property("range-low", RANGE.0);
    element.set_property("range-high", RANGE.1);
    element
}

pub fn fixed_stream() -> Stream {
    let range = Normalize::Range { low: RANGE.0, high: RANGE.1 };
    stream().range(StreamRange::EachFrame(range)).unwrap()
}

pub fn stream() -> Stream {
    Stream::new(Isfm::embedded().unwrap())
}

pub fn info(format: VideoFormat, (width, height): (u32, u32), fps: i32) -> VideoInfo {
    init();
    VideoInfo::builder(format, width, height).fps((fps, 1)).build().unwrap()
}

/// The time of a frame.
pub fn at(number: u64, fps: u64) -> ClockTime {
    ClockTime::SECOND.mul_div_floor(number, fps).unwrap()
}

/// A picture with structure and noise: another for every `seed`, counts within [`RANGE`] where they have 16 bits.
pub fn picture(info: &VideoInfo, seed: u64) -> gst::Buffer {
    let mut buffer = gst::Buffer::with_size(info.size()).unwrap();
    paint(info, buffer.make_mut(), seed);
    let frames = info.fps().numer() as u64;
    if let Some(frames) = std::num::NonZero::new(frames).map(u64::from) {
        let buffer = buffer.make_mut();
        buffer.set_pts(at(seed, frames));
        buffer.set_duration(at(seed + 1, frames) - at(seed, frames));
    }
    buffer
}

pub fn paint(info: &VideoInfo, buffer: &mut gst::BufferRef, seed: u64) {
    let mut noise = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut random = move || {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        (noise >> 32) as u32
    };
    let mut frame = VideoFrameRef::from_buffer_ref_writable(buffer, info).unwrap();
    for plane in 0..info.n_planes() {
        let stride = frame.plane_stride()[plane as usize] as usize;
        let bytes = row_bytes(info, plane);
        for (y, row) in frame.plane_data_mut(plane).unwrap().chunks_mut(stride).enumerate() {
            match info.format() {
                VideoFormat::Gray16Le | VideoFormat::Gray16Be => {
                    for (x, pixel) in row[..bytes].chunks_exact_mut(2).enumerate() {
                        let slope = (x * 29 + y * 17 + seed as usize * 11) % 1500;
                        let count = 7100 + slope as u16 + (random() % 300) as u16;
                        let order = match info.format() {
                            VideoFormat::Gray16Le => count.to_le_bytes(),
                            _ => count.to_be_bytes(),
                        };
                        pixel.copy_from_slice(&order);
                    }
                }
                _ => {
                    for (x, value) in row[..bytes].iter_mut().enumerate() {
                        let slope = (x * 3 + y * 2 + seed as usize * 5) % 180;
                        *value = 20 + slope as u8 + (random() % 40) as u8;
                    }
                }
            }
        }
    }
}

/// Bytes of a plane's row without what pads it.
fn row_bytes(info: &VideoInfo, plane: u32) -> usize {
    let component = (0..info.n_components() as u8).find(|&c| info.comp_plane(c) == plane).unwrap();
    info.comp_width(component) as usize * info.comp_pstride(component) as usize
}

/// All planes without what pads their rows.
pub fn planes(info: &VideoInfo, buffer: &gst::BufferRef) -> Vec<Vec<u8>> {
    let frame = VideoFrameRef::from_buffer_ref_readable(buffer, info).unwrap();
    let plane = |plane: u32| {
        let stride = frame.plane_stride()[plane as usize] as usize;
        let rows = frame.plane_data(plane).unwrap().chunks(stride);
        rows.flat_map(|row| &row[..row_bytes(info, plane)]).copied().collect()
    };
    (0..info.n_planes()).map(plane).collect()
}

/// By isfm's own name, where it has one.
fn format(of: VideoFormat) -> isfm::VideoFormat {
    match of {
        VideoFormat::Gray16Le => isfm::VideoFormat::Gray16Le,
        VideoFormat::Gray16Be => isfm::VideoFormat::Gray16Be,
        VideoFormat::I420 => isfm::VideoFormat::I420,
        VideoFormat::Nv12 => isfm::VideoFormat::Nv12,
        VideoFormat::Rgb => isfm::VideoFormat::Rgb,
        VideoFormat::Bgr => isfm::VideoFormat::Bgr,
        VideoFormat::Rgbx | VideoFormat::Rgba => isfm::VideoFormat::Rgba,
        VideoFormat::Bgrx | VideoFormat::Bgra => isfm::VideoFormat::Bgra,
        _ => isfm::VideoFormat::Gray8,
    }
}

/// The planes as one buffer without gaps, and its layout.
fn tight(info: &VideoInfo, buffer: &gst::BufferRef) -> (VideoLayout, Vec<u8>) {
    let limited = info.colorimetry().range() == gst_video::VideoColorRange::Range16_235;
    let layout = VideoLayout::new(format(info.format()), info.width(), info.height()).unwrap();
    (layout.limited_range(limited), planes(info, buffer).concat())
}

/// What the engine makes of a pair, as planes in a row.
pub fn expected(
    stream: &mut Stream,
    (visible, visible_info): (&gst::BufferRef, &VideoInfo),
    (infrared, infrared_info): (&gst::BufferRef, &VideoInfo),
) -> Vec<u8> {
    let (layout, mut data) = tight(visible_info, visible);
    let (heat_layout, heat) = tight(infrared_info, infrared);
    let time = Duration::from(visible.pts().unwrap());
    let frame = FrameMut { layout: &layout, data: &mut data };
    stream.fuse_in_place(frame, Frame { layout: &heat_layout, data: &heat }, time).unwrap();
    data
}

pub fn sample(info: &VideoInfo, buffer: gst::Buffer) -> gst::Sample {
    gst::Sample::builder().buffer(&buffer).caps(&info.to_caps().unwrap()).build()
}

/// Frames of one stream.
pub fn film(info: &VideoInfo, frames: u64) -> Vec<gst::Sample> {
    (0..frames).map(|number| sample(info, picture(info, number))).collect()
}

/// A pipeline with the element between two `appsrc` and an `appsink`.
pub struct Bench {
    pub pipeline: gst::Pipeline,
    pub element: gstisfm::IsfmFuse,
    pub visible: gst_app::AppSrc,
    pub infrared: gst_app::AppSrc,
    pub sink: gst_app::AppSink,
    warnings: AtomicUsize,
    infos: AtomicUsize,
}

impl Bench {
    pub fn new(element: gstisfm::IsfmFuse, live: bool) -> Self {
        let source = || gst_app::AppSrc::builder().format(gst::Format::Time).is_live(live).build();
        let (visible, infrared) = (source(), source());
        let sink = gst_app::AppSink::builder().sync(false).build();
        let pipeline = gst::Pipeline::new();
        let parts: [&gst::Element; 4] =
            [visible.upcast_ref(), infrared.upcast_ref(), element.upcast_ref(), sink.upcast_ref()];
        pipeline.add_many(parts).unwrap();
        visible.link_pads(None, &element, Some("visible")).unwrap();
        infrared.link_pads(None, &element, Some("infrared")).unwrap();
        element.link(&sink).unwrap();
        let (warnings, infos) = Default::default();
        Self { pipeline, element, visible, infrared, sink, warnings, infos }
    }

    /// All frames at once.
    pub fn feed(&self, visible: &[gst::Sample], infrared: &[gst::Sample]) {
        for (source, film) in [(&self.visible, visible), (&self.infrared, infrared)] {
            for sample in film {
                source.push_sample(sample).unwrap();
            }
            source.end_of_stream().unwrap();
        }
    }

    pub fn play(&self) {
        self.pipeline.set_state(gst::State::Playing).unwrap();
    }

    /// What comes out until the stream ends, or the error that ends it.
    pub fn collect(&self) -> Result<Vec<gst::Sample>, String> {
        let bus = self.pipeline.bus().unwrap();
        let error = || {
            while let Some(message) = bus.pop() {
                match message.view() {
                    gst::MessageView::Error(error) => return Some(error.error().to_string()),
                    gst::MessageView::Warning(_) => self.warnings.fetch_add(1, Relaxed),
                    gst::MessageView::Info(_) => self.infos.fetch_add(1, Relaxed),
                    _ => 0,
                };
            }
            None
        };
        let mut samples = Vec::new();
        loop {
            if let Some(sample) = self.sink.try_pull_sample(ClockTime::from_mseconds(200)) {
                samples.push(sample);
                continue;
            }
            let ended = self.sink.is_eos();
            // The stream ends after an error, too.
            match error() {
                Some(error) => return Err(error),
                None if ended => return Ok(samples),
                None => (),
            }
        }
    }

    /// How many warnings and infos were posted before [`collect`](Self::collect) ended.
    pub fn told(&self) -> [usize; 2] {
        [&self.warnings, &self.infos].map(|count| count.load(Relaxed))
    }

    pub fn stat(&self, name: &str) -> u64 {
        stat(&self.element, name)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // A pipeline that is not in this state complains when it goes.
        _ = self.pipeline.set_state(gst::State::Null);
    }
}

pub fn stat(element: &gstisfm::IsfmFuse, name: &str) -> u64 {
    element.property::<gst::Structure>("stats").get(name).unwrap()
}

/// Both streams whole, and what becomes of them.
pub fn run(
    element: gstisfm::IsfmFuse,
    visible: &[gst::Sample],
    infrared: &[gst::Sample],
) -> Result<Vec<gst::Sample>, String> {
    let bench = Bench::new(element, false);
    bench.feed(visible, infrared);
    bench.play();
    bench.collect()
}

pub fn info_of(sample: &gst::Sample) -> VideoInfo {
    VideoInfo::from_caps(sample.caps().unwrap()).unwrap()
}

/// The sample's planes in a row.
pub fn pixels(sample: &gst::Sample) -> Vec<u8> {
    planes(&info_of(sample), sample.buffer().unwrap()).concat()
}

/// What the engine makes of two samples.
pub fn expected_of(stream: &mut Stream, visible: &gst::Sample, infrared: &gst::Sample) -> Vec<u8> {
    expected(
        stream,
        (visible.buffer().unwrap(), &info_of(visible)),
        (infrared.buffer().unwrap(), &info_of(infrared)),
    )
}

/// Frames that come out are those that went in, with other pixels.
pub fn assert_same_frame(out: &gst::Sample, visible: &gst::Sample) {
    assert_eq!(out.caps(), visible.caps());
    let (out, visible) = (out.buffer().unwrap(), visible.buffer().unwrap());
    assert_eq!((out.pts(), out.duration()), (visible.pts(), visible.duration()));
}
