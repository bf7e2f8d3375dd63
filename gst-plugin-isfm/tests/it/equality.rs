//! Fused frames are [`isfm::Stream`]'s.

use gst::prelude::*;
use gst_video::{VideoFormat, VideoMeta};

use crate::common::*;

const VISIBLE: [VideoFormat; 17] = [
    VideoFormat::I420,
    VideoFormat::Nv12,
    VideoFormat::Gray8,
    VideoFormat::Rgb,
    VideoFormat::Bgr,
    VideoFormat::Rgbx,
    VideoFormat::Bgrx,
    VideoFormat::Rgba,
    VideoFormat::Bgra,
    VideoFormat::Yv12,
    VideoFormat::Nv21,
    VideoFormat::Y42b,
    VideoFormat::Y444,
    VideoFormat::Y41b,
    VideoFormat::Nv16,
    VideoFormat::Nv61,
    VideoFormat::Nv24,
];

const INFRARED: [VideoFormat; 3] =
    [VideoFormat::Gray16Le, VideoFormat::Gray16Be, VideoFormat::Gray8];

/// Every pair of formats, of odd sizes, whose rows GStreamer pads.
#[test]
fn all_formats() {
    for (number, format) in VISIBLE.into_iter().enumerate() {
        for infrared in INFRARED {
            let visible = film(&info(format, (61, 47), 30), 2);
            let heat = film(&info(infrared, (33, 25 + number as u32), 30), 2);
            let out = run(fixed_element(), &visible, &heat).unwrap();
            assert_eq!(out.len(), 2);
            let mut stream = fixed_stream();
            for ((out, visible), heat) in out.iter().zip(&visible).zip(&heat) {
                assert_same_frame(out, visible);
                let fused = pixels(out);
                assert_eq!(fused, expected_of(&mut stream, visible, heat), "{format} {infrared}");
                assert_ne!(fused, pixels(visible), "{format} {infrared}: nothing was fused");
            }
        }
    }
}

/// The range of one frame depends on those before it, and on their times.
#[test]
fn a_steady_range() {
    let (visible, heat) = (
        film(&info(VideoFormat::I420, (64, 48), 10), 12),
        film(&info(VideoFormat::Gray16Le, (32, 24), 10), 12),
    );
    let out = run(element(), &visible, &heat).unwrap();
    assert_eq!(out.len(), visible.len());
    let mut stream = stream();
    for ((out, visible), heat) in out.iter().zip(&visible).zip(&heat) {
        assert_eq!(pixels(out), expected_of(&mut stream, visible, heat));
    }
}

#[test]
fn the_smallest_sizes() {
    for size in [(1, 1), (1, 9), (7, 1), (2, 2)] {
        let visible = film(&info(VideoFormat::Nv12, size, 30), 1);
        let heat = film(&info(VideoFormat::Gray16Le, (1, 1), 30), 1);
        let out = run(fixed_element(), &visible, &heat).unwrap();
        let fused = expected_of(&mut fixed_stream(), &visible[0], &heat[0]);
        assert_eq!(pixels(&out[0]), fused, "{size:?}");
    }
}

/// Two frames that differ in the lower byte alone: a conversion to 8 bits would make them one.
#[test]
fn counts_arrive_as_they_are() {
    let visible = film(&info(VideoFormat::Gray8, (32, 32), 30), 1);
    let fused = |count: u16, format: VideoFormat| {
        let info = info(format, (32, 32), 30);
        let mut buffer = picture(&info, 0);
        {
            let mut map = buffer.make_mut().map_writable().unwrap();
            let bytes = match format {
                VideoFormat::Gray16Le => count.to_le_bytes(),
                _ => count.to_be_bytes(),
            };
            map.chunks_exact_mut(2).for_each(|pixel| pixel.copy_from_slice(&bytes));
        }
        let element = fixed_element();
        element.set_property("range-low", 0x1B00_u16 as f64);
        element.set_property("range-high", 0x1BFF_u16 as f64);
        let bench = Bench::new(element, false);
        bench.feed(&visible, &[sample(&info, buffer)]);
        bench.play();
        let out = bench.collect().unwrap();
        let caps = bench.element.static_pad("infrared").unwrap().current_caps().unwrap();
        assert_eq!(caps, info.to_caps().unwrap());
        pixels(&out[0])
    };
    for format in [VideoFormat::Gray16Le, VideoFormat::Gray16Be] {
        let (cold, hot) = (fused(0x1B10, format), fused(0x1BF0, format));
        let brightness = |pixels: &[u8]| pixels.iter().map(|&v| u64::from(v)).sum::<u64>();
        assert!(brightness(&hot) > brightness(&cold) + 32 * 32, "{format}");
    }
}

/// Black and white of luma are what the caps say.
#[test]
fn limited_and_full_luma() {
    let heat = film(&info(VideoFormat::Gray8, (40, 30), 30), 1);
    let mut results = Vec::new();
    for colorimetry in ["bt709", "1:3:5:1"] {
        let colorimetry = colorimetry.parse().unwrap();
        let info = gst_video::VideoInfo::builder(VideoFormat::I420, 40, 30)
            .fps((30, 1))
            .colorimetry(&colorimetry)
            .build()
            .unwrap();
        let visible = film(&info, 1);
        let out = run(fixed_element(), &visible, &heat).unwrap();
        assert_eq!(pixels(&out[0]), expected_of(&mut fixed_stream(), &visible[0], &heat[0]));
        results.push(pixels(&out[0]));
    }
    assert_ne!(results[0], results[1]);
}

#[test]
fn a_homography_and_a_thread() {
    let (visible, heat) = (
        film(&info(VideoFormat::I420, (64, 48), 30), 2),
        film(&info(VideoFormat::Gray16Le, (20, 16), 30), 2),
    );
    let text = "[2, 0, 10, 0, 2, 5, 0, 0, 1]";
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{{\"matrix\": {text}}}")).unwrap();
    for homography in [text, file.path().to_str().unwrap()] {
        let element = fixed_element();
        element.set_property("homography", homography);
        element.set_property("threads", 1_u32);
        let out = run(element, &visible, &heat).unwrap();
        let homography = isfm::Alignment::from_json(text).unwrap();
        let mut stream = fixed_stream().alignment(homography);
        for ((out, visible), heat) in out.iter().zip(&visible).zip(&heat) {
            assert_eq!(pixels(out), expected_of(&mut stream, visible, heat));
        }
    }
}

/// The bytes of a buffer whose planes have gaps, and the buffer.
fn gappy(info: &gst_video::VideoInfo, seed: u64) -> gst::Buffer {
    const GUARD: u8 = 0xA5;
    let tight = picture(info, seed);
    let (mut offset, mut offsets, mut strides) = (13, Vec::new(), Vec::new());
    let all = planes(info, &tight);
    let rows = |plane: usize| {
        let component =
            (0..info.n_components() as u8).find(|&c| info.comp_plane(c) as usize == plane).unwrap();
        info.comp_height(component) as usize
    };
    for (number, plane) in all.iter().enumerate() {
        let stride = plane.len() / rows(number) + 18;
        offsets.push(offset);
        strides.push(stride as i32);
        offset += stride * rows(number) + 29;
    }
    let mut buffer = gst::Buffer::from_mut_slice(vec![GUARD; offset]);
    {
        let buffer = buffer.make_mut();
        {
            let mut map = buffer.map_writable().unwrap();
            for (number, plane) in all.iter().enumerate() {
                let bytes = plane.len() / rows(number);
                for (y, row) in plane.chunks_exact(bytes).enumerate() {
                    let start = offsets[number] + y * strides[number] as usize;
                    map[start..][..bytes].copy_from_slice(row);
                }
            }
        }
        let (width, height) = (info.width(), info.height());
        let flags = gst_video::VideoFrameFlags::empty();
        VideoMeta::add_full(buffer, flags, info.format(), width, height, &offsets, &strides)
            .unwrap();
        buffer.set_pts(tight.pts());
        buffer.set_duration(tight.duration());
    }
    buffer
}

/// Buffers with gaps before, between and in planes, where only pixels change: in place for an element that knows
/// of them, copied for one that does not.
#[test]
fn strides_and_offsets() {
    for (format, metas) in
        [VideoFormat::I420, VideoFormat::Nv12, VideoFormat::Rgb, VideoFormat::Gray8]
            .into_iter()
            .flat_map(|format| [(format, false), (format, true)])
    {
        let visible_info = info(format, (37, 29), 30);
        let heat_info = info(VideoFormat::Gray16Le, (21, 15), 30);
        let visible: Vec<_> =
            (0..2).map(|n| sample(&visible_info, gappy(&visible_info, n))).collect();
        let heat: Vec<_> = (0..2).map(|n| sample(&heat_info, gappy(&heat_info, n))).collect();
        let bench = Bench::new(fixed_element(), false);
        if metas {
            let pad = bench.sink.static_pad("sink").unwrap();
            pad.add_probe(gst::PadProbeType::QUERY_DOWNSTREAM, |_, probe| {
                let query = probe.query_mut().map(gst::QueryRef::view_mut);
                let Some(gst::QueryViewMut::Allocation(query)) = query else {
                    return gst::PadProbeReturn::Ok;
                };
                query.add_allocation_meta::<VideoMeta>(None);
                gst::PadProbeReturn::Handled
            });
        }
        bench.feed(&visible, &heat);
        bench.play();
        let out = bench.collect().unwrap();
        assert_eq!(out.len(), 2);
        let mut stream = fixed_stream();
        for ((out, visible), heat) in out.iter().zip(&visible).zip(&heat) {
            assert_same_frame(out, visible);
            let fused = expected_of(&mut stream, visible, heat);
            assert_eq!(pixels(out), fused, "{format}, metas {metas}");
            let buffer = out.buffer().unwrap();
            if !metas {
                assert!(buffer.meta::<VideoMeta>().is_none());
                assert_eq!(buffer.size(), visible_info.size());
                continue;
            }
            // With the fused pixels put into what came in, every other byte is as it was.
            let mut with = visible.buffer_owned().unwrap();
            {
                let tight = picture(&visible_info, 0);
                let with = with.make_mut();
                let meta = with.meta::<VideoMeta>().unwrap();
                let (offsets, strides) = (meta.offset().to_vec(), meta.stride().to_vec());
                let mut map = with.map_writable().unwrap();
                let mut fused = &fused[..];
                for (number, plane) in planes(&visible_info, &tight).iter().enumerate() {
                    let component = (0..visible_info.n_components() as u8)
                        .find(|&c| visible_info.comp_plane(c) as usize == number)
                        .unwrap();
                    let rows = visible_info.comp_height(component) as usize;
                    let bytes = plane.len() / rows;
                    for y in 0..rows {
                        let (row, rest) = fused.split_at(bytes);
                        let start = offsets[number] + y * strides[number] as usize;
                        map[start..][..bytes].copy_from_slice(row);
                        fused = rest;
                    }
                }
            }
            assert_eq!(
                buffer.map_readable().unwrap().as_slice(),
                with.map_readable().unwrap().as_slice()
            );
        }
    }
}

/// What others hold of a frame stays as it was.
#[test]
fn shared_buffers_are_not_written() {
    let visible = film(&info(VideoFormat::Gray8, (32, 24), 30), 1);
    let before = pixels(&visible[0]);
    let held = visible[0].buffer_owned().unwrap();
    // One buffer as both streams.
    let out = run(fixed_element(), &visible, &visible).unwrap();
    assert_eq!(pixels(&visible[0]), before);
    assert_eq!(held.map_readable().unwrap().as_slice().len(), 32 * 24);
    assert_eq!(pixels(&out[0]), expected_of(&mut fixed_stream(), &visible[0], &visible[0]));
}

/// Either stream changes its caps in the middle.
#[test]
fn caps_change() {
    let frame = |format, size, number| {
        let info = info(format, size, 30);
        sample(&info, picture(&info, number))
    };
    let visible: Vec<_> = (0..12)
        .map(|n| match n {
            0..4 => frame(VideoFormat::I420, (61, 47), n),
            4..8 => frame(VideoFormat::Rgb, (32, 24), n),
            _ => frame(VideoFormat::I420, (80, 20), n),
        })
        .collect();
    let heat: Vec<_> = (0..12)
        .map(|n| match n {
            0..2 => frame(VideoFormat::Gray16Le, (33, 25), n),
            2..6 => frame(VideoFormat::Gray8, (20, 20), n),
            6..10 => frame(VideoFormat::Gray16Be, (20, 20), n),
            _ => frame(VideoFormat::Gray16Le, (90, 70), n),
        })
        .collect();
    let out = run(fixed_element(), &visible, &heat).unwrap();
    assert_eq!(out.len(), 12);
    let mut stream = fixed_stream();
    for ((out, visible), heat) in out.iter().zip(&visible).zip(&heat) {
        assert_same_frame(out, visible);
        assert_eq!(pixels(out), expected_of(&mut stream, visible, heat));
    }
}

/// Each visible frame gets the infrared frame of its middle, whatever the two rates are.
#[test]
fn rates_differ() {
    for (fps, heat_fps) in [(30, 9), (30, 60), (25, 30), (10, 10)] {
        let visible = film(&info(VideoFormat::Gray8, (24, 16), fps), 20);
        let heat = film(&info(VideoFormat::Gray16Le, (12, 8), heat_fps), 80);
        let out = run(fixed_element(), &visible, &heat).unwrap();
        assert_eq!(out.len(), 20);
        let mut stream = fixed_stream();
        for (number, (out, visible)) in out.iter().zip(&visible).enumerate() {
            // (number + 1/2) / fps, in infrared frames. None of these falls on a border but by rounding.
            let pair = (2 * number as i32 + 1) * heat_fps / (2 * fps);
            let near = [pair - 1, pair].map(|pair| pair.max(0) as usize);
            let exact = (2 * number as i32 + 1) * heat_fps % (2 * fps) != 0;
            let fused = near.map(|pair| expected_of(&mut stream, visible, &heat[pair]));
            let out = pixels(out);
            assert!(
                out == fused[1] || (!exact && out == fused[0]),
                "frame {number} at {fps} and {heat_fps} a second"
            );
        }
    }
}

/// Streams without a frame rate, whose buffers have times but no durations.
#[test]
fn no_frame_rate() {
    let frame = |format, size, number| {
        let info = info(format, size, 0);
        let mut buffer = picture(&info, number);
        buffer.make_mut().set_pts(at(number * number, 30));
        sample(&info, buffer)
    };
    let visible: Vec<_> = (0..6).map(|n| frame(VideoFormat::Gray8, (24, 16), n)).collect();
    let heat: Vec<_> = (0..6).map(|n| frame(VideoFormat::Gray16Le, (12, 8), n)).collect();
    let out = run(fixed_element(), &visible, &heat).unwrap();
    assert_eq!(out.len(), 6);
    let mut stream = fixed_stream();
    for ((out, visible), heat) in out.iter().zip(&visible).zip(&heat) {
        assert_eq!(pixels(out), expected_of(&mut stream, visible, heat));
    }
}
