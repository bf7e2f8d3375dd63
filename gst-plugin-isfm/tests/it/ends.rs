//! One stream ends before the other, or has holes.

use gst::ClockTime;
use gst::prelude::*;
use gst_video::VideoFormat;

use crate::common::*;

fn films(visible: u64, infrared: u64) -> (Vec<gst::Sample>, Vec<gst::Sample>) {
    (
        film(&info(VideoFormat::I420, (24, 16), 30), visible),
        film(&info(VideoFormat::Gray16Le, (12, 8), 30), infrared),
    )
}

/// The last infrared frame serves for a second after its end; then visible frames pass as they are.
#[test]
fn infrared_ends_first() {
    let (visible, heat) = films(60, 10);
    let bench = Bench::new(fixed_element(), false);
    bench.feed(&visible, &heat);
    bench.play();
    let out = bench.collect().unwrap();
    assert_eq!(out.len(), 60);
    // It ends with frame 10, a second later is frame 40.
    assert_eq!((bench.stat("fused"), bench.stat("passed")), (41, 19));
    let mut stream = fixed_stream();
    for (number, (out, visible)) in out.iter().zip(&visible).enumerate() {
        assert_same_frame(out, visible);
        let wanted = match number {
            0..=40 => expected_of(&mut stream, visible, &heat[number.min(9)]),
            _ => pixels(visible),
        };
        assert_eq!(pixels(out), wanted, "frame {number}");
    }
    assert_eq!(bench.told(), [1, 0]);
}

#[test]
fn infrared_ends_and_so_does_the_fused_stream() {
    let (visible, heat) = films(60, 10);
    for (hold, frames) in [(ClockTime::ZERO, 11), (ClockTime::from_mseconds(500), 26)] {
        let element = fixed_element();
        element.set_property_from_str("infrared-loss", "eos");
        element.set_property("infrared-hold", hold.nseconds());
        let out = run(element, &visible, &heat).unwrap();
        assert_eq!(out.len(), frames, "hold {hold}");
    }
}

#[test]
fn the_last_infrared_frame_for_ever() {
    let (visible, heat) = films(60, 1);
    let element = fixed_element();
    element.set_property("infrared-hold", u64::MAX);
    let bench = Bench::new(element, false);
    bench.feed(&visible, &heat);
    bench.play();
    let out = bench.collect().unwrap();
    assert_eq!(bench.stat("fused"), 60);
    assert_eq!(pixels(&out[59]), expected_of(&mut fixed_stream(), &visible[59], &heat[0]));
    assert_eq!(bench.told(), [0, 0]);
}

#[test]
fn visible_ends_first() {
    let (visible, heat) = films(7, 60);
    let out = run(fixed_element(), &visible, &heat).unwrap();
    assert_eq!(out.len(), 7);
}

#[test]
fn nothing_at_all() {
    assert_eq!(run(fixed_element(), &[], &[]).unwrap().len(), 0);
    let (visible, heat) = films(3, 3);
    assert_eq!(run(fixed_element(), &[], &heat).unwrap().len(), 0);
    // There was no infrared frame whose loss could end the stream.
    let element = fixed_element();
    element.set_property_from_str("infrared-loss", "eos");
    let out = run(element, &visible, &[]).unwrap();
    assert_eq!(out.len(), 3);
    assert_eq!(pixels(&out[2]), pixels(&visible[2]));
}

/// Infrared frames from 0.5 s on, and a hole from 1 to 3 s: what lies before and after is fused.
#[test]
fn infrared_begins_late_and_has_a_hole() {
    let (visible, heat) = films(120, 120);
    let heat = [&heat[15..30], &heat[90..]].concat();
    let element = fixed_element();
    element.set_property("infrared-hold", ClockTime::from_mseconds(500).nseconds());
    let bench = Bench::new(element, false);
    bench.feed(&visible, &heat);
    bench.play();
    let out = bench.collect().unwrap();
    let fused: Vec<_> = out
        .iter()
        .zip(&visible)
        .enumerate()
        .filter(|(_, (out, visible))| pixels(out) != pixels(visible))
        .map(|(number, _)| number)
        .collect();
    let wanted: Vec<_> = (15..=45).chain(90..120).collect();
    assert_eq!(fused, wanted);
    assert_eq!(bench.told(), [1, 1]);
}

/// A stream that says that it has nothing for a while.
#[test]
fn gaps_are_waited_over() {
    let (visible, heat) = films(10, 10);
    let bench = Bench::new(fixed_element(), false);
    let gap = |number| gst::event::Gap::builder(at(number, 30)).duration(at(1, 30)).build();
    for number in 0..10 {
        for (source, film) in [(&bench.visible, &visible), (&bench.infrared, &heat)] {
            match number {
                4 if source == &bench.infrared => assert!(source.send_event(gap(number))),
                7 if source == &bench.visible => assert!(source.send_event(gap(number))),
                _ => _ = source.push_sample(&film[number as usize]).unwrap(),
            }
        }
    }
    bench.visible.end_of_stream().unwrap();
    bench.infrared.end_of_stream().unwrap();
    bench.play();
    let out = bench.collect().unwrap();
    assert_eq!(out.len(), 9);
    let mut stream = fixed_stream();
    let fused = expected_of(&mut stream, &visible[4], &heat[3]);
    assert_eq!(pixels(&out[4]), fused, "the frame before the gap serves");
    assert_eq!(pixels(&out[8]), expected_of(&mut stream, &visible[9], &heat[9]));
}

/// After a seek, streams begin anew.
#[test]
fn seeking() {
    init();
    let pipeline = gst::parse::launch(
        "isfmfuse name=f ! appsink name=s sync=false \
         videotestsrc num-buffers=90 ! video/x-raw,format=I420,width=32,height=24 ! f.visible \
         videotestsrc num-buffers=90 ! video/x-raw,format=GRAY16_LE,width=16,height=12 ! f.infrared",
    )
    .unwrap();
    let pipeline = pipeline.downcast::<gst::Pipeline>().unwrap();
    let sink = pipeline.by_name("s").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Paused).unwrap();
    pipeline.state(PATIENCE).0.unwrap();
    let target = ClockTime::from_mseconds(1500);
    pipeline.seek_simple(gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE, target).unwrap();
    pipeline.state(PATIENCE).0.unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let sample = sink.try_pull_sample(PATIENCE).unwrap();
    let segment = sample.segment().unwrap().downcast_ref::<ClockTime>().unwrap();
    let pts = sample.buffer().unwrap().pts();
    assert_eq!(segment.to_stream_time(pts), Some(target));
    assert_eq!(segment.to_running_time(pts), Some(ClockTime::ZERO));
    while sink.try_pull_sample(PATIENCE).is_some() {}
    assert!(sink.is_eos());
    pipeline.set_state(gst::State::Null).unwrap();
}
