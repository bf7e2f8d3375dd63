//! How GStreamer's buffers lie in memory, as [`isfm`] sees it.

use gst_video::{VideoColorRange, VideoFormat, VideoInfo, VideoMeta};
use isfm::{PlaneLayout, VideoLayout};

/// What the pad `visible` takes, and the element gives.
pub const VISIBLE: [VideoFormat; 17] = [
    VideoFormat::I420,
    VideoFormat::Nv12,
    VideoFormat::Yv12,
    VideoFormat::Nv21,
    VideoFormat::Y42b,
    VideoFormat::Y444,
    VideoFormat::Y41b,
    VideoFormat::Nv16,
    VideoFormat::Nv61,
    VideoFormat::Nv24,
    VideoFormat::Gray8,
    VideoFormat::Rgb,
    VideoFormat::Bgr,
    VideoFormat::Rgbx,
    VideoFormat::Bgrx,
    VideoFormat::Rgba,
    VideoFormat::Bgra,
];

/// What the pad `infrared` takes.
pub const INFRARED: [VideoFormat; 3] =
    [VideoFormat::Gray16Le, VideoFormat::Gray16Be, VideoFormat::Gray8];

/// The format of the first plane, the only one that is read or written: where it is luma, grey.
fn first_plane(format: VideoFormat) -> Option<isfm::VideoFormat> {
    Some(match format {
        VideoFormat::Gray16Le => isfm::VideoFormat::Gray16Le,
        VideoFormat::Gray16Be => isfm::VideoFormat::Gray16Be,
        VideoFormat::Rgb => isfm::VideoFormat::Rgb,
        VideoFormat::Bgr => isfm::VideoFormat::Bgr,
        VideoFormat::Rgbx | VideoFormat::Rgba => isfm::VideoFormat::Rgba,
        VideoFormat::Bgrx | VideoFormat::Bgra => isfm::VideoFormat::Bgra,
        luma if VISIBLE.contains(&luma) => isfm::VideoFormat::Gray8,
        _ => return None,
    })
}

/// Where the first plane of `buffer` lies: as its [`VideoMeta`] says, or else as its caps do.
///
/// # Errors
/// For a buffer that is too short for all its planes, or whose meta is of another picture than its caps.
pub fn layout_of(info: &VideoInfo, buffer: &gst::BufferRef) -> Result<VideoLayout, String> {
    let name = info.format().to_str();
    let format = first_plane(info.format()).ok_or_else(|| format!("the format is {name}"))?;
    let (width, height) = (info.width(), info.height());
    let meta = buffer.meta::<VideoMeta>();
    let (offsets, strides) = match &meta {
        None => (info.offset(), info.stride()),
        Some(meta) => {
            // A larger picture is padded to a decoder's blocks.
            if meta.format() != info.format() || meta.width() < width || meta.height() < height {
                return Err(format!(
                    "the buffer holds {} of {}x{}, its caps say {name} of {width}x{height}",
                    meta.format().to_str(),
                    meta.width(),
                    meta.height()
                ));
            }
            (meta.offset(), meta.stride())
        }
    };
    for component in 0..info.n_components() as u8 {
        let plane = info.comp_plane(component) as usize;
        let end = offsets.get(plane).zip(strides.get(plane)).and_then(|(&offset, &stride)| {
            let rows = (info.comp_height(component) as usize).checked_sub(1)?;
            let pixels = (info.comp_width(component) as usize).checked_sub(1)?;
            let row = pixels.checked_mul(usize::try_from(info.comp_pstride(component)).ok()?)?;
            let last = usize::try_from(stride).ok()?.checked_mul(rows)?;
            let bytes = info.comp_depth(component).div_ceil(8) as usize;
            let within = info.comp_poffset(component) as usize;
            offset.checked_add(last)?.checked_add(row)?.checked_add(within)?.checked_add(bytes)
        });
        if end.is_none_or(|end| end > buffer.size()) {
            return Err(format!(
                "the buffer has {} bytes, too few for {name} of {width}x{height} with rows of {strides:?} bytes",
                buffer.size()
            ));
        }
    }
    // What the loop saw: there is a plane, its stride is not negative.
    let plane = PlaneLayout { offset: offsets[0], stride: strides[0] as usize };
    let layout = VideoLayout::with_planes(format, width, height, &[plane]);
    let layout = layout.map_err(|error| error.to_string())?;
    Ok(layout.limited_range(info.colorimetry().range() == VideoColorRange::Range16_235))
}

/// A copy that lies as its caps say, for elements that do not look at [`VideoMeta`]; none where it does already.
///
/// # Errors
/// If the buffer cannot be mapped.
pub fn tidied(info: &VideoInfo, buffer: &gst::BufferRef) -> Result<Option<gst::Buffer>, String> {
    let Some(meta) = buffer.meta::<VideoMeta>() else { return Ok(None) };
    if meta.offset() == info.offset() && meta.stride() == info.stride() {
        return Ok(None);
    }
    let failed = |_| "a frame cannot be copied".to_owned();
    let mut copy =
        gst::Buffer::with_size(info.size()).map_err(|error| failed(error.to_string()))?;
    {
        let copy = copy.make_mut();
        let from = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, info);
        let from = from.map_err(|error| failed(error.to_string()))?;
        let into = gst_video::VideoFrameRef::from_buffer_ref_writable(copy, info);
        let mut into = into.map_err(|error| failed(error.to_string()))?;
        from.copy(&mut into).map_err(|error| failed(error.to_string()))?;
    }
    let kept = gst::BufferCopyFlags::FLAGS | gst::BufferCopyFlags::TIMESTAMPS;
    buffer.copy_into(copy.make_mut(), kept, ..).map_err(|error| failed(error.to_string()))?;
    Ok(Some(copy))
}
