//! What is wrong is told in one message, and does no harm.

use gst::prelude::*;
use gst_video::{VideoFormat, VideoMeta};

use crate::common::*;

/// Why the element cannot be started; the pipeline says so once.
fn start_refused(element: &gstisfm::IsfmFuse) -> String {
    let bench = Bench::new(element.clone(), false);
    assert!(bench.pipeline.set_state(gst::State::Playing).is_err());
    let bus = bench.pipeline.bus().unwrap();
    let mut errors = Vec::new();
    while let Some(message) = bus.pop() {
        if let gst::MessageView::Error(error) = message.view() {
            assert_eq!(error.src(), Some(element.upcast_ref()));
            errors.push(error.error().to_string());
        }
    }
    assert_eq!(errors.len(), 1, "{errors:?}");
    bench.pipeline.set_state(gst::State::Null).unwrap();
    bench.pipeline.remove(element).unwrap();
    errors.remove(0)
}

#[test]
fn settings_are_refused_and_can_be_mended() {
    let (visible, heat) = (
        film(&info(VideoFormat::I420, (24, 16), 30), 2),
        film(&info(VideoFormat::Gray16Le, (12, 8), 30), 2),
    );
    for (property, wrong, right, says) in [
        ("weights", "no/such/file.safetensors", "", "no/such/file.safetensors"),
        ("homography", "[1, 2, 3, 2, 4, 6, 0, 0, 1]", "[1, 0, 0, 0, 1, 0, 0, 0, 1]", "inverted"),
        ("homography", "no/such/file.json", "", "no/such/file.json"),
        ("device", "abacus", "cpu", "abacus"),
        ("pyramid-levels", "2", "-1", "pyramid"),
        ("range-high", "1", "9000", "range"),
    ] {
        let element = fixed_element();
        element.set_property_from_str(property, wrong);
        let problem = start_refused(&element);
        assert!(problem.contains(says), "{property}: {problem:?} does not say {says:?}");
        element.set_property_from_str(property, right);
        assert_eq!(run(element, &visible, &heat).unwrap().len(), 2, "{property}={right}");
    }
}

#[test]
fn damaged_weights() {
    let file = tempfile::Builder::new().suffix(".safetensors").tempfile().unwrap();
    std::fs::write(file.path(), b"no weights").unwrap();
    let element = fixed_element();
    element.set_property("weights", file.path().to_str().unwrap());
    assert!(start_refused(&element).contains(file.path().to_str().unwrap()));
}

/// The error of a run with these frames on the pads.
fn refused(visible: gst::Sample, heat: gst::Sample) -> String {
    run(fixed_element(), &[visible], &[heat]).expect_err("these frames are wrong")
}

fn pair() -> [(gst_video::VideoInfo, gst::Buffer); 2] {
    let visible = info(VideoFormat::I420, (24, 16), 30);
    let heat = info(VideoFormat::Gray16Le, (12, 8), 30);
    [(visible.clone(), picture(&visible, 0)), (heat.clone(), picture(&heat, 0))]
}

#[test]
fn frames_without_time() {
    for side in 0..2 {
        let mut pair = pair();
        pair[side].1.make_mut().set_pts(None);
        let [visible, heat] = pair.map(|(info, buffer)| sample(&info, buffer));
        let problem = refused(visible, heat);
        assert!(problem.contains("no time stamp"), "{problem}");
        assert!(problem.contains(["visible", "infrared"][side]), "{problem}");
    }
}

#[test]
fn buffers_that_are_too_short() {
    for side in 0..2 {
        for bytes in [0, 1, 50] {
            let mut pair = pair();
            let whole = pair[side].1.size();
            pair[side].1.make_mut().set_size(whole - 1 - bytes.min(whole - 1));
            let left = pair[side].1.size();
            let [visible, heat] = pair.map(|(info, buffer)| sample(&info, buffer));
            let problem = refused(visible, heat);
            assert!(problem.contains(["visible", "infrared"][side]), "{problem}");
            assert!(problem.contains(&format!("{left} bytes")), "{problem}");
        }
    }
}

/// A meta that points outside of its buffer, or is of another picture.
#[test]
fn metas_that_lie() {
    let flags = gst_video::VideoFrameFlags::empty();
    for side in 0..2 {
        for lie in 0..4 {
            let mut pair = pair();
            let (info, buffer) = &mut pair[side];
            let format = match lie {
                0 if side == 0 => VideoFormat::Nv12,
                0 => VideoFormat::Gray8,
                _ => info.format(),
            };
            let planes = if format == VideoFormat::Nv12 { 2 } else { info.n_planes() as usize };
            let height = if lie == 1 { info.height() - 1 } else { info.height() };
            let mut offsets = info.offset()[..planes].to_vec();
            let mut strides = info.stride()[..planes].to_vec();
            if lie == 2 {
                strides[0] *= 40;
            }
            if lie == 3 {
                offsets[planes - 1] = usize::MAX / 2;
            }
            VideoMeta::add_full(
                buffer.make_mut(),
                flags,
                format,
                info.width(),
                height,
                &offsets,
                &strides,
            )
            .unwrap();
            let [visible, heat] = pair.map(|(info, buffer)| sample(&info, buffer));
            let problem = refused(visible, heat);
            assert!(problem.contains(["visible", "infrared"][side]), "{lie}: {problem}");
        }
    }
}

#[test]
fn segments_that_are_not_in_time() {
    let bench = Bench::new(fixed_element(), false);
    bench.visible.set_format(gst::Format::Bytes);
    let [visible, heat] = pair().map(|(info, buffer)| sample(&info, buffer));
    bench.feed(&[visible], &[heat]);
    bench.play();
    assert!(bench.collect().unwrap_err().contains("segments in time"));
}

#[test]
fn frames_that_are_too_large() {
    let info = info(VideoFormat::Gray8, (70_000, 1), 30);
    let [_, (heat_info, heat)] = pair();
    let problem = refused(sample(&info, picture(&info, 0)), sample(&heat_info, heat));
    assert!(problem.contains("70000x1"), "{problem}");
}

/// Colour on the infrared pad, counts of 16 bits on the visible one: the pads do not take them.
#[test]
fn formats_are_refused_by_the_pads() {
    let element = element();
    for (pad, format, taken) in [
        ("infrared", VideoFormat::Rgb, false),
        ("infrared", VideoFormat::Gray16Le, true),
        ("visible", VideoFormat::Gray16Le, false),
        ("visible", VideoFormat::Yuy2, false),
        ("visible", VideoFormat::I420, true),
    ] {
        let caps = info(format, (8, 8), 30).to_caps().unwrap();
        let answer = element.static_pad(pad).unwrap().query_accept_caps(&caps);
        assert_eq!(answer, taken, "{pad} {format}");
    }
}

/// The visible stream is asked for what comes after the element; the infrared one is not.
#[test]
fn downstream_chooses_the_format() {
    init();
    let pipeline = gst::parse::launch(
        "isfmfuse name=f ! video/x-raw,format=NV12,width=48 ! fakesink \
         videotestsrc num-buffers=2 ! f.visible \
         videotestsrc num-buffers=2 ! video/x-raw,format=GRAY16_LE,width=32,height=24 ! f.infrared",
    )
    .unwrap();
    pipeline.set_state(gst::State::Paused).unwrap();
    pipeline.state(PATIENCE).0.unwrap();
    let element = pipeline.downcast_ref::<gst::Bin>().unwrap().by_name("f").unwrap();
    let caps = |pad: &str| element.static_pad(pad).unwrap().current_caps().unwrap();
    let visible = gst_video::VideoInfo::from_caps(&caps("visible")).unwrap();
    assert_eq!((visible.format(), visible.width()), (VideoFormat::Nv12, 48));
    assert_eq!(caps("src"), caps("visible"));
    let heat = gst_video::VideoInfo::from_caps(&caps("infrared")).unwrap();
    assert_eq!((heat.format(), heat.width()), (VideoFormat::Gray16Le, 32));
    pipeline.set_state(gst::State::Null).unwrap();
}
