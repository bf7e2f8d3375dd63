//! Frames of two cameras.

use std::time::Duration;

use image::{DynamicImage, GrayImage, ImageBuffer, Luma, RgbImage};
use isfm::{
    Alignment, Frame, FrameMut, Homography, Isfm, Normalize, PlaneLayout, Side, Stream,
    StreamRange, VideoFormat, VideoLayout,
};
use isfm_testing::{Numbers, refused};
use proptest::prelude::*;

const RANGE: Normalize = Normalize::Range { low: 7000., high: 9000. };

fn stream() -> Stream {
    Stream::new(Isfm::embedded().unwrap())
}

fn fixed() -> Stream {
    stream().range(StreamRange::EachFrame(RANGE)).unwrap()
}

fn bytes(count: usize, seed: u64) -> Vec<u8> {
    let mut random = Numbers(seed);
    let smooth = |i: usize| (i as f64 / 9.).sin() * 60. + 120.;
    (0..count).map(|i| (smooth(i) + 40. * random.unit()) as u8).collect()
}

/// Counts around 8000, as bytes.
fn counts(count: usize, seed: u64) -> (Vec<u16>, Vec<u8>) {
    let values: Vec<u16> =
        bytes(count, seed).into_iter().map(|v| 7400 + 6 * u16::from(v)).collect();
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    (values, bytes)
}

fn grey16(values: &[u16], width: u32, height: u32) -> DynamicImage {
    ImageBuffer::<Luma<u16>, _>::from_raw(width, height, values.to_vec()).unwrap().into()
}

/// The result of a frame is that of the same picture.
#[test]
fn a_frame_is_fused_as_a_picture_is() {
    let (width, height) = (70, 53);
    let pixels = (width * height) as usize;
    let isfm = Isfm::builder().normalize_infrared(RANGE).build().unwrap();
    let (values, heat) = counts(pixels, 2);
    let thermal = grey16(&values, width, height);
    let infrared = VideoLayout::new(VideoFormat::Gray16Le, width, height).unwrap();
    let infrared = Frame { layout: &infrared, data: &heat };
    let mut stream = fixed();

    let grey = bytes(pixels, 1);
    let picture = GrayImage::from_raw(width, height, grey.clone()).unwrap().into();
    let want = isfm.fuse(&picture, &thermal).unwrap().to_luma8().into_raw();
    for format in [VideoFormat::Gray8, VideoFormat::I420, VideoFormat::Nv12] {
        let layout = VideoLayout::new(format, width, height).unwrap();
        let mut frame = bytes(layout.bytes(), 5);
        frame[..pixels].copy_from_slice(&grey);
        let chroma = frame[pixels..].to_vec();
        let visible = FrameMut { layout: &layout, data: &mut frame };
        stream.fuse_in_place(visible, infrared, Duration::ZERO).unwrap();
        assert!(frame[..pixels] == want, "{format}");
        assert_eq!(frame[pixels..], chroma, "{format}");
    }

    let colour = bytes(3 * pixels, 3);
    let picture = RgbImage::from_raw(width, height, colour.clone()).unwrap().into();
    let want = isfm.fuse(&picture, &thermal).unwrap().to_rgb8().into_raw();
    for (format, order, alpha) in [
        (VideoFormat::Rgb, [0, 1, 2], false),
        (VideoFormat::Bgr, [2, 1, 0], false),
        (VideoFormat::Rgba, [0, 1, 2], true),
        (VideoFormat::Bgra, [2, 1, 0], true),
    ] {
        let stored = |rgb: &[u8]| -> Vec<u8> {
            let pixels = rgb.chunks_exact(3);
            let pixel = |p: &[u8]| {
                order.into_iter().map(|at| p[at]).chain(alpha.then_some(77)).collect::<Vec<_>>()
            };
            pixels.flat_map(pixel).collect()
        };
        let layout = VideoLayout::new(format, width, height).unwrap();
        let frame = stored(&colour);
        let mut out = vec![0; frame.len() + 3];
        let visible = Frame { layout: &layout, data: &frame };
        stream.fuse_into(visible, infrared, Duration::ZERO, &mut out).unwrap();
        assert!(out[..frame.len()] == stored(&want), "{format}");
        assert_eq!(out[frame.len()..], [0; 3], "nothing behind the frame");
        assert_eq!(frame, stored(&colour), "the source stays");
    }
}

#[test]
fn bytes_of_either_order_are_the_same_counts() {
    let (_, little) = counts(40 * 30, 1);
    let big: Vec<u8> = little.chunks_exact(2).flat_map(|pair| [pair[1], pair[0]]).collect();
    let layout = VideoLayout::new(VideoFormat::Gray8, 40, 30).unwrap();
    let mut results = [little, big]
        .into_iter()
        .zip([VideoFormat::Gray16Le, VideoFormat::Gray16Be])
        .map(|(data, format)| {
            let infrared = VideoLayout::new(format, 40, 30).unwrap();
            let mut frame = bytes(layout.bytes(), 9);
            let visible = FrameMut { layout: &layout, data: &mut frame };
            let infrared = Frame { layout: &infrared, data: &data };
            stream().fuse_in_place(visible, infrared, Duration::ZERO).unwrap();
            frame
        });
    assert_eq!(results.next(), results.next());
}

#[test]
fn an_infrared_frame_of_another_size_is_resized_as_pictures_are() {
    let isfm = Isfm::builder().normalize_infrared(RANGE).resize_infrared(true).build().unwrap();
    let grey = bytes(64 * 48, 1);
    let picture = GrayImage::from_raw(64, 48, grey.clone()).unwrap().into();
    let layout = VideoLayout::new(VideoFormat::Gray8, 64, 48).unwrap();
    let mut stream = fixed();
    for (width, height) in [(32, 24), (160, 120), (1, 1), (7, 90), (64, 48)] {
        let (values, heat) = counts((width * height) as usize, 4);
        let want = isfm.fuse(&picture, &grey16(&values, width, height)).unwrap();
        let infrared = VideoLayout::new(VideoFormat::Gray16Le, width, height).unwrap();
        let mut frame = grey.clone();
        let visible = FrameMut { layout: &layout, data: &mut frame };
        let infrared = Frame { layout: &infrared, data: &heat };
        stream.fuse_in_place(visible, infrared, Duration::ZERO).unwrap();
        assert_eq!(frame, want.to_luma8().into_raw(), "{width}x{height}");
    }
}

/// Luma of video, 16 to 235, is that of the whole range brought there.
#[test]
fn limited_luma_stays_limited() {
    let full = bytes(60 * 40, 1);
    let limited: Vec<u8> =
        full.iter().map(|&v| (16. + f64::from(v) * 219. / 255.).round() as u8).collect();
    let (_, heat) = counts(60 * 40, 2);
    let infrared = VideoLayout::new(VideoFormat::Gray16Le, 60, 40).unwrap();
    let run = |mut frame: Vec<u8>, is_limited| {
        let layout = VideoLayout::new(VideoFormat::Gray8, 60, 40).unwrap();
        let layout = layout.limited_range(is_limited);
        let visible = FrameMut { layout: &layout, data: &mut frame };
        let infrared = Frame { layout: &infrared, data: &heat };
        fixed().fuse_in_place(visible, infrared, Duration::ZERO).unwrap();
        frame
    };
    for (full, limited) in run(full, false).into_iter().zip(run(limited, true)) {
        assert!((16..=235).contains(&limited));
        let back = (f64::from(limited) - 16.) * 255. / 219.;
        // Two roundings, of which the first is of what is fused and may be enlarged.
        assert!((back - f64::from(full)).abs() < 5., "{full} {limited}");
    }
}

#[test]
fn a_homography_lays_the_infrared_frame_where_it_says() {
    let (width, height) = (64, 48);
    let layout = VideoLayout::new(VideoFormat::Gray8, width, height).unwrap();
    let grey = bytes(layout.bytes(), 1);
    let run = |stream: &mut Stream, layout_of: &VideoLayout, heat: &[u8]| {
        let mut frame = grey.clone();
        let visible = FrameMut { layout: &layout, data: &mut frame };
        let infrared = Frame { layout: layout_of, data: heat };
        stream.fuse_in_place(visible, infrared, Duration::ZERO).unwrap();
        frame
    };
    let heat = bytes(layout.bytes(), 2);
    let identity = Homography::new([3., 0., 0., 0., 3., 0., 0., 0., 3.]).unwrap();
    let same = run(&mut stream().alignment(identity), &layout, &heat);
    assert_eq!(same, run(&mut stream(), &layout, &heat));

    // A small frame in the middle: beyond it and what the pyramid carries from it nothing changes.
    let small = VideoLayout::new(VideoFormat::Gray8, 8, 6).unwrap();
    let white = vec![255; small.bytes()];
    let big = VideoLayout::new(VideoFormat::Gray8, 256, 192).unwrap();
    let scene = bytes(big.bytes(), 3);
    let there = Homography::new([1., 0., 120., 0., 1., 90., 0., 0., 1.]).unwrap();
    let mut frame = scene.clone();
    let visible = FrameMut { layout: &big, data: &mut frame };
    let infrared = Frame { layout: &small, data: &white };
    stream().alignment(there).fuse_in_place(visible, infrared, Duration::ZERO).unwrap();
    let at = |frame: &[u8], x: usize, y: usize| frame[y * 256 + x];
    assert!(at(&frame, 124, 93) > at(&scene, 124, 93));
    for (x, y) in [(2, 2), (250, 5), (10, 180), (245, 188)] {
        assert!(at(&frame, x, y).abs_diff(at(&scene, x, y)) <= 2, "{x}, {y}");
    }
}

#[test]
fn homographies_are_read_and_bad_ones_refused() {
    let text = "[1, 0, 5, 0, 1, -3, 0, 0, 1]";
    let one = Alignment::from_json(text).unwrap();
    assert_eq!(one, Alignment::from_json(&format!("{{\"matrix\": {text}, \"note\": 1}}")).unwrap());
    assert_eq!(one.homography().apply([2., 2.]), [7., -1.]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.json");
    std::fs::write(&path, format!("\u{feff}{text}")).unwrap();
    assert_eq!(Alignment::read(&path).unwrap(), one);
    refused(Alignment::read(folder.path().join("gone")), &["gone"]);
    for (text, word) in [
        ("[1,2,3]", "3 numbers"),
        ("{}", "nine numbers"),
        ("no", "JSON"),
        ("[1,2,3,4,5,6,7,8,9]", "inverted"),
        ("[0,0,0,0,0,0,0,0,0]", "not all 0"),
        ("[1,0,0,0,1e-300,0,0,0,1]", ""),
        ("[1,0,0,1,0,0,0,0,1]", "inverted"),
    ] {
        match Alignment::from_json(text) {
            Err(error) => assert!(error.to_string().contains(word), "{text}: {error}"),
            Ok(_) => assert_eq!(word, "", "{text}"),
        }
    }
    refused(Homography::new([f64::NAN; 9]), &["finite"]);
}

#[test]
fn frames_that_are_none_are_refused_and_nothing_is_written() {
    let grey = VideoLayout::new(VideoFormat::Gray8, 16, 12).unwrap();
    let deep = VideoLayout::new(VideoFormat::Gray16Le, 16, 12).unwrap();
    let colour = VideoLayout::new(VideoFormat::Rgb, 16, 12).unwrap();
    let mut stream = stream();
    let full = vec![9; 4 * 16 * 12];
    let mut check =
        |visible: (&VideoLayout, usize), infrared: (&VideoLayout, usize), words: &[&str]| {
            let mut frame = full[..visible.1].to_vec();
            let before = frame.clone();
            let visible = FrameMut { layout: visible.0, data: &mut frame };
            let infrared = Frame { layout: infrared.0, data: &full[..infrared.1] };
            refused(stream.fuse_in_place(visible, infrared, Duration::ZERO), words);
            assert_eq!(frame, before);
        };
    check((&grey, 191), (&grey, 192), &["visible", "191 bytes", "192"]);
    check((&grey, 192), (&deep, 383), &["infrared", "383 bytes", "384"]);
    check((&deep, 384), (&grey, 192), &["visible", "gray16le", "nv12"]);
    check((&grey, 192), (&colour, 576), &["infrared", "rgb24", "gray16le"]);
    let mut out = vec![0; 191];
    let visible = Frame { layout: &grey, data: &full };
    refused(stream.fuse_into(visible, visible, Duration::ZERO, &mut out), &["fused", "191 bytes"]);
    assert_eq!(out, [0; 191]);

    for (format, width, height, planes, word) in [
        (VideoFormat::Gray8, 0, 4, vec![(0, 4)], "sides of 1"),
        (VideoFormat::Gray8, 65_536, 1, vec![(0, 65_536)], "65535"),
        (VideoFormat::Gray8, 4, 4, vec![(0, 3)], "4 or more"),
        (VideoFormat::Gray16Le, 4, 4, vec![(0, 7)], "8 or more"),
        (VideoFormat::I420, 4, 4, vec![(0, 4)], "3 for yuv420p"),
        (VideoFormat::I420, 5, 5, vec![(0, 5), (25, 2), (40, 3)], "3 or more"),
        (VideoFormat::Nv12, 4, 4, vec![(0, 4), (15, 4)], "16 or more"),
        (VideoFormat::Gray8, 4, 4, vec![(usize::MAX, 4)], "memory"),
        (VideoFormat::Gray8, 4, 4, vec![(0, usize::MAX)], "memory"),
    ] {
        let planes: Vec<_> =
            planes.into_iter().map(|(offset, stride)| PlaneLayout { offset, stride }).collect();
        refused(VideoLayout::with_planes(format, width, height, &planes), &[word]);
    }
    let range = StreamRange::EachFrame(Normalize::Range { low: 5., high: 5. });
    refused(Stream::new(Isfm::embedded().unwrap()).range(range), &["low < high"]);
    refused("yuv".parse::<VideoFormat>(), &["yuv", "yuv420p"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Only pixels are written: neither what lies between rows and planes nor beyond the frame.
    #[test]
    fn nothing_else_is_written(
        format in prop::sample::select(VideoFormat::ALL.to_vec()),
        (width, height) in (1_u32..40, 1_u32..40),
        (inner_width, inner_height) in (1_u32..30, 1_u32..30),
        gaps in prop::array::uniform4(0_usize..9),
        short in 0_usize..4,
    ) {
        let tight = VideoLayout::new(format, width, height).unwrap();
        let mut end = 0;
        let starts: Vec<usize> = tight.planes().iter().map(|plane| plane.offset).chain([tight.bytes()]).collect();
        let mut planes = Vec::new();
        for (plane, (sides, gap)) in tight.planes().iter().zip(starts.windows(2).zip(gaps)) {
            let rows = (sides[1] - sides[0]) / plane.stride;
            let stride = plane.stride + gap;
            planes.push(PlaneLayout { offset: end + gaps[3], stride });
            end += gaps[3] + rows * stride;
        }
        let layout = VideoLayout::with_planes(format, width, height, &planes).unwrap();
        let infrared = VideoLayout::new(VideoFormat::Gray16Be, inner_width, inner_height).unwrap();
        let heat = bytes(infrared.bytes(), 3);
        let infrared = Frame { layout: &infrared, data: &heat };
        let mut stream = stream();
        let mut frame = bytes(layout.bytes() + 5 - short.min(layout.bytes()), 4);
        let before = frame.clone();
        let result = stream.fuse_in_place(FrameMut { layout: &layout, data: &mut frame }, infrared, Duration::ZERO);
        prop_assert_eq!(result.is_ok(), !format.is_16_bit() && before.len() >= layout.bytes());
        let step = match format {
            VideoFormat::Gray8 | VideoFormat::I420 | VideoFormat::Nv12 => 1,
            VideoFormat::Rgb | VideoFormat::Bgr => 3,
            _ => 4,
        };
        let row = width as usize * step;
        for (at, (now, then)) in frame.iter().zip(&before).enumerate() {
            let place = at.wrapping_sub(planes[0].offset);
            let (y, x) = (place / planes[0].stride, place % planes[0].stride);
            let pixel = at >= planes[0].offset && y < height as usize && x < row && (step < 4 || x % 4 < 3);
            prop_assert!(pixel || now == then, "byte {at}");
        }
    }
}

/// A scene of 80×60 around `offset`, with noise of a few counts and, if wanted, something hot.
fn scene(offset: f64, hot: Option<f64>, frame: u64) -> Vec<u16> {
    let mut random = Numbers(1000 + frame);
    let mut pixels = Vec::with_capacity(80 * 60);
    for y in 0..60 {
        for x in 0..80 {
            let texture = 150. * (f64::from(x) / 7.).sin() + 120. * (f64::from(y) / 5.).cos();
            let noise = 6. * (random.unit() + random.unit() - 1.);
            let inside = (20..34).contains(&x) && (20..34).contains(&y);
            let heat = hot.filter(|_| inside).unwrap_or(0.);
            pixels.push((offset + texture + noise + heat).clamp(0., 65_535.) as u16);
        }
    }
    pixels
}

/// Follows frames with a stream; the mean level of the pixels outside of what gets hot, in each.
fn levels(frames: impl Iterator<Item = Vec<u16>>) -> (Vec<f64>, Vec<(f32, f32)>) {
    let layout = VideoLayout::new(VideoFormat::Gray8, 80, 60).unwrap();
    let infrared = VideoLayout::new(VideoFormat::Gray16Le, 80, 60).unwrap();
    let mut stream = stream();
    let (mut means, mut ranges) = (Vec::new(), Vec::new());
    for (number, frame) in frames.enumerate() {
        let data: Vec<u8> = frame.iter().flat_map(|v| v.to_le_bytes()).collect();
        let mut visible = vec![90; layout.bytes()];
        let visible = FrameMut { layout: &layout, data: &mut visible };
        let time = Duration::from_secs(1) * number as u32 / 30;
        stream.fuse_in_place(visible, Frame { layout: &infrared, data: &data }, time).unwrap();
        let (low, high) = stream.last_range().unwrap();
        let still = frame.iter().enumerate().filter(|(at, _)| {
            let (x, y) = (at % 80, at / 80);
            !((20..34).contains(&x) && (20..34).contains(&y))
        });
        let level = |v: u16| {
            (255. * (f64::from(v) - f64::from(low)) / f64::from(high - low)).clamp(0., 255.)
        };
        let all: Vec<f64> = still.map(|(_, &v)| level(v)).collect();
        means.push(all.iter().sum::<f64>() / all.len() as f64);
        ranges.push((low, high));
    }
    (means, ranges)
}

fn largest_step(means: &[f64]) -> f64 {
    means.windows(2).map(|pair| (pair[1] - pair[0]).abs()).fold(0., f64::max)
}

fn auto(frame: &[u16]) -> (f32, f32) {
    Normalize::Auto.range_of(&grey16(frame, 80, 60), Side::Infrared).unwrap()
}

#[test]
fn the_first_frame_has_the_range_of_a_picture() {
    let mut frames = vec![scene(8000., None, 1), scene(300., Some(900.), 2), vec![500; 4800]];
    frames.push(vec![0; 4800]);
    frames.push(vec![65_535; 4800]);
    let mut broken = scene(30_000., None, 3);
    broken[..60].fill(0);
    broken[60..90].fill(65_535);
    frames.push(broken);
    let mut random = Numbers(7);
    frames.push((0..4800).map(|_| (65_536. * random.unit()) as u16).collect());
    frames.push((0..4800).map(|_| (4. * random.unit()) as u16 * 9).collect());
    for frame in frames {
        let want = auto(&frame);
        let (_, ranges) = levels([frame].into_iter());
        assert_eq!(ranges[0], want);
    }
}

#[test]
fn noise_does_not_flicker() {
    let (means, _) = levels((0..60).map(|n| scene(8000., None, n)));
    assert!(largest_step(&means) < 0.3, "{}", largest_step(&means));
}

/// Something hot comes into view and leaves again: the range follows, no frame shows it.
#[test]
fn something_hot_does_not_flash() {
    let hot = |n: u64| (30..120).contains(&n).then_some(700.);
    let (means, ranges) = levels((0..300).map(|n| scene(8000., hot(n), n)));
    assert!(largest_step(&means) <= 1., "{}", largest_step(&means));
    let with = auto(&scene(8000., Some(700.), 119));
    let without = auto(&scene(8000., None, 299));
    let near = |got: (f32, f32), want: (f32, f32)| {
        (got.0 - want.0).abs() < 60. && (got.1 - want.1).abs() < 0.15 * (want.1 - want.0)
    };
    assert!(with.1 > without.1 + 100., "{with:?} {without:?}");
    assert!(near(ranges[299], without), "{:?} {without:?}", ranges[299]);
    assert!(ranges[119].1 > ranges[29].1 + 50., "{:?}", ranges[119]);
}

/// All counts jump by hundreds, up and down: within a second, and here at once, the picture is as before.
#[test]
fn an_offset_jump_is_followed() {
    let offset = |n: u64| match n {
        0..30 => 8000.,
        30..60 => 8700.,
        60..90 => 7600.,
        _ => 20_000.,
    };
    let (means, ranges) = levels((0..120).map(|n| scene(offset(n), None, n)));
    assert!(largest_step(&means) <= 1., "{}", largest_step(&means));
    let want = auto(&scene(20_000., None, 119));
    assert!((ranges[119].0 - want.0).abs() < 30. && (ranges[119].1 - want.1).abs() < 30.);
}

#[test]
fn drift_is_followed() {
    let (means, _) = levels((0..150).map(|n| scene(8000. + 8. * n as f64, None, n)));
    assert!(largest_step(&means) <= 1., "{}", largest_step(&means));
    assert!((means[149] - means[0]).abs() < 3., "{} {}", means[149], means[0]);
}

/// The shutter closes for ten frames, and afterwards all counts are others: what follows looks like what was.
#[test]
fn a_shutter_event_is_over_at_once() {
    let frame = |n: u64| match n {
        0..30 => scene(8000., None, n),
        30..40 => scene(8050., None, n).iter().map(|v| 8050 + v % 5).collect(),
        _ => scene(8400., None, n),
    };
    let (means, ranges) = levels((0..80).map(frame));
    assert_eq!(ranges[29], ranges[39], "a closed shutter changes nothing");
    assert!((means[40] - means[29]).abs() <= 1., "{} {}", means[40], means[29]);
    assert!(largest_step(&means[40..]) <= 1.);
}

/// A scene that is flat for good is shown after a second, another one at once.
#[test]
fn other_scenes_begin_anew() {
    let flat = |n: u64| -> Vec<u16> {
        scene(0., None, n).iter().enumerate().map(|(i, _)| 8000 + (i % 7) as u16).collect()
    };
    let frame = |n: u64| if n < 10 { scene(8000., None, n) } else { flat(n) };
    let (_, ranges) = levels((0..400).map(frame));
    assert_eq!(ranges[9], ranges[38]);
    let width = |(low, high): (f32, f32)| high - low;
    assert!(width(ranges[399]) < 0.3 * width(ranges[9]), "{:?}", ranges[399]);
    let other = |n: u64| -> Vec<u16> {
        match n {
            0..5 => scene(8000., None, n),
            _ => scene(10_000., None, n).into_iter().rev().map(|v| 3 * v).collect(),
        }
    };
    let (_, ranges) = levels((0..8).map(other));
    let want = auto(&other(5));
    assert_eq!(ranges[5], want);
}

#[test]
fn a_stream_that_is_reset_begins_anew() {
    let layout = VideoLayout::new(VideoFormat::Gray8, 80, 60).unwrap();
    let infrared = VideoLayout::new(VideoFormat::Gray16Le, 80, 60).unwrap();
    let mut stream = stream();
    assert_eq!(stream.last_range(), None);
    let run = |stream: &mut Stream, offset: f64| {
        let data: Vec<u8> = scene(offset, None, 1).iter().flat_map(|v| v.to_le_bytes()).collect();
        let mut visible = vec![90; layout.bytes()];
        let visible = FrameMut { layout: &layout, data: &mut visible };
        stream
            .fuse_in_place(visible, Frame { layout: &infrared, data: &data }, Duration::ZERO)
            .unwrap();
        stream.last_range().unwrap()
    };
    run(&mut stream, 8000.);
    stream.reset();
    assert_eq!(run(&mut stream, 9000.), auto(&scene(9000., None, 1)));
}
