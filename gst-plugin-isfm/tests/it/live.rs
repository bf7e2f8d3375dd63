//! Cameras: streams that come by the clock.
//!
//! Machines that test are busy, so times are asserted with seconds to spare, and numbers with half of them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gst::ClockTime;
use gst::prelude::*;
use gst_base::prelude::*;
use gst_video::VideoFormat;

use crate::common::*;

/// One at a time, so that they do not slow each other down.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Live {
    pipeline: gst::Pipeline,
    element: gstisfm::IsfmFuse,
}

impl Live {
    fn new(description: &str) -> Self {
        init();
        let pipeline = gst::parse::launch(description).unwrap();
        let pipeline = pipeline.downcast::<gst::Pipeline>().unwrap();
        let element = pipeline.by_name("f").unwrap().downcast().unwrap();
        Self { pipeline, element }
    }

    /// Plays to the end; the element's messages of quality of service.
    fn play(&self) -> Vec<gst::Message> {
        self.pipeline.set_state(gst::State::Playing).unwrap();
        let bus = self.pipeline.bus().unwrap();
        let mut quality = Vec::new();
        loop {
            let message = bus.timed_pop(PATIENCE).expect("the stream ends");
            match message.view() {
                gst::MessageView::Eos(_) => return quality,
                gst::MessageView::Error(error) => panic!("{error:?}"),
                gst::MessageView::Qos(_) if message.src() == Some(self.element.upcast_ref()) => {
                    quality.push(message);
                }
                _ => (),
            }
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        _ = self.pipeline.set_state(gst::State::Null);
    }
}

/// 100 large frames within a second, of which no machine can fuse all.
const FLOOD: &str = "videotestsrc is-live=true num-buffers=100 pattern=black ! \
     video/x-raw,format=GRAY8,width=1280,height=720,framerate=100/1 ! f.visible \
     videotestsrc is-live=true num-buffers=100 pattern=black ! \
     video/x-raw,format=GRAY16_LE,width=16,height=12,framerate=100/1 ! f.infrared";

#[test]
fn late_frames_are_dropped() {
    let _alone = alone();
    // With a sink that keeps time, and with one that says nothing about it.
    for sync in [true, false] {
        let live = Live::new(&format!(
            "isfmfuse name=f threads=1 ! fakesink sync={sync} qos={sync} {FLOOD}"
        ));
        let begin = Instant::now();
        let quality = live.play();
        let took = begin.elapsed();
        let [fused, passed, dropped] =
            ["fused", "passed", "dropped"].map(|n| stat(&live.element, n));
        assert!(dropped > 20, "{dropped} dropped, {fused} fused, {passed} passed");
        assert!(fused > 0);
        assert_eq!(quality.len() as u64, dropped);
        let gst::MessageView::Qos(last) = quality[quality.len() - 1].view() else { unreachable!() };
        assert!(last.get().0, "live");
        // Had none been dropped, it would be the time of a hundred.
        let mean = Duration::from_nanos(stat(&live.element, "average-fusing-time"));
        assert!(
            took < Duration::from_secs(1) + mean * 40 + Duration::from_secs(2),
            "{took:?}, {mean:?}"
        );
    }
}

#[test]
fn no_frame_is_dropped_where_that_is_not_wanted() {
    let _alone = alone();
    let flood = FLOOD.replace("num-buffers=100", "num-buffers=12");
    let live =
        Live::new(&format!("isfmfuse name=f threads=1 qos=false ! fakesink sync=true {flood}"));
    assert!(live.play().is_empty());
    assert_eq!(stat(&live.element, "dropped"), 0);
    assert_eq!(stat(&live.element, "fused") + stat(&live.element, "passed"), 12);
}

/// Frames of a file are not dropped for being slow, but if the sink says that they come too late.
#[test]
fn files_are_not_live() {
    let _alone = alone();
    let flood = FLOOD.replace("is-live=true ", "").replace("num-buffers=100", "num-buffers=12");
    let live = Live::new(&format!("isfmfuse name=f threads=1 ! fakesink sync=false {flood}"));
    assert!(live.play().is_empty());
    assert_eq!(stat(&live.element, "fused"), 12);
}

fn latency(of: &gst::Element) -> (bool, ClockTime) {
    let mut query = gst::query::Latency::new();
    assert!(of.query(&mut query));
    let (live, least, _) = query.result();
    (live, least)
}

/// What the sources have, the time for fusing, and half a visible frame.
#[test]
fn latency_is_reported() {
    let _alone = alone();
    let milliseconds = ClockTime::from_mseconds;
    for (setting, processing) in
        [("", milliseconds(50)), ("processing-time=120000000", milliseconds(120))]
    {
        let live = Live::new(&format!(
            "isfmfuse name=f {setting} ! fakesink sync=true name=s \
             videotestsrc is-live=true ! video/x-raw,format=I420,width=32,height=24,framerate=20/1 ! f.visible \
             videotestsrc is-live=true ! video/x-raw,format=GRAY8,width=32,height=24,framerate=10/1 ! f.infrared"
        ));
        live.pipeline.set_state(gst::State::Playing).unwrap();
        let begin = Instant::now();
        while stat(&live.element, "fused") == 0 {
            assert!(begin.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(20));
        }
        // The slower of the two sources has 100 ms.
        let wanted = milliseconds(100) + processing + milliseconds(25);
        assert_eq!(latency(live.element.upcast_ref()), (true, wanted), "{setting}");
        // The pipeline took it on.
        let sink = live.pipeline.by_name("s").unwrap().downcast::<gst_base::BaseSink>().unwrap();
        let bus = live.pipeline.bus().unwrap();
        while sink.latency() < wanted {
            assert!(begin.elapsed() < Duration::from_secs(60), "{}", sink.latency());
            if let Some(message) = bus.timed_pop(milliseconds(50))
                && message.type_() == gst::MessageType::Latency
            {
                live.pipeline.recalculate_latency().unwrap();
            }
        }
    }
}

/// A camera by hand: pushes frames by the clock until told to stop.
fn camera(source: &gst_app::AppSrc, info: &gst_video::VideoInfo, from: ClockTime, frames: u64) {
    let fps = info.fps().numer() as u64;
    for number in 0..frames {
        let until = from + at(number, fps);
        while source.current_running_time().is_none_or(|now| now < until) {
            std::thread::sleep(Duration::from_millis(2));
        }
        let mut buffer = picture(info, number);
        buffer.make_mut().set_pts(until);
        // A stopped pipeline takes none.
        _ = source.push_sample(&sample(info, buffer));
    }
}

/// The infrared camera sends frames for half a second, nothing for two, and frames again.
#[test]
fn infrared_stalls() {
    let _alone = alone();
    let element = fixed_element();
    element.set_property("infrared-hold", ClockTime::from_mseconds(500).nseconds());
    let bench = Bench::new(element, true);
    let (visible, heat) =
        (info(VideoFormat::Gray8, (32, 24), 20), info(VideoFormat::Gray16Le, (16, 12), 20));
    bench.play();
    let out = std::thread::scope(|scope| {
        scope.spawn(|| {
            camera(&bench.visible, &visible, ClockTime::ZERO, 80);
            bench.visible.end_of_stream().unwrap();
        });
        scope.spawn(|| {
            camera(&bench.infrared, &heat, ClockTime::ZERO, 10);
            camera(&bench.infrared, &heat, ClockTime::from_mseconds(2500), 40);
        });
        // Ends though the infrared camera does not.
        bench.collect().unwrap()
    });
    let fused = |out: &gst::Sample| {
        let number = out.buffer().unwrap().pts().unwrap().mseconds() / 50;
        pixels(out) != planes(&visible, &picture(&visible, number)).concat()
    };
    let dropped = bench.stat("dropped");
    assert_eq!(out.len() as u64 + dropped, 80);
    let between = |from: u64, to: u64| {
        let times = ClockTime::from_mseconds(from)..ClockTime::from_mseconds(to);
        let within: Vec<_> = out
            .iter()
            .filter(|out| times.contains(&out.buffer().unwrap().pts().unwrap()))
            .map(fused)
            .collect();
        assert!(!within.is_empty(), "no frames from {from} to {to} ms");
        within
    };
    // Held from 500 to 1000 ms. A busy machine's camera may be late.
    assert!(between(200, 950).into_iter().all(|fused| fused));
    assert!(between(1100, 2400).into_iter().all(|fused| !fused));
    assert!(between(3000, 4000).into_iter().any(|fused| fused));
    let [warnings, infos] = bench.told();
    assert!(warnings > 0 && infos > 0, "{warnings} warnings, {infos} infos");
}

/// The visible camera sends nothing any more: neither do we, and the infrared camera is not held up.
#[test]
fn visible_stalls() {
    let _alone = alone();
    let bench = Bench::new(fixed_element(), true);
    let (visible, heat) =
        (info(VideoFormat::Gray8, (32, 24), 20), info(VideoFormat::Gray16Le, (16, 12), 20));
    bench.play();
    camera(&bench.visible, &visible, ClockTime::ZERO, 1);
    camera(&bench.infrared, &heat, ClockTime::ZERO, 40);
    std::thread::sleep(Duration::from_secs(1));
    let waiting = bench.infrared.current_level_bytes() / heat.size() as u64;
    assert!(waiting <= 4, "{waiting} infrared frames wait");
    let now = bench.infrared.current_running_time().unwrap();
    camera(&bench.visible, &visible, now, 5);
    bench.visible.end_of_stream().unwrap();
    let out = bench.collect().unwrap();
    assert_eq!(out.len() as u64 + bench.stat("dropped"), 6);
    assert!(out.len() > 1);
}
