//! Long runs and many short ones. The memory is the process's, so they have a program of their own.

#[path = "it/common.rs"]
#[allow(dead_code)]
mod common;

use std::sync::{Mutex, PoisonError};

use gst::prelude::*;

use common::{PATIENCE, init, stat};

/// One at a time.
static ONE: Mutex<()> = Mutex::new(());

/// The memory that this process has, in KiB.
fn resident() -> i64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: i64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    // 4 KiB is the page of x86-64, and of most Arm systems; larger ones only make the test stricter.
    pages * 4
}

fn pipeline(frames: u32) -> (gst::Pipeline, gstisfm::IsfmFuse) {
    init();
    let description = format!(
        "isfmfuse name=f threads=1 ! fakesink sync=false \
         videotestsrc num-buffers={frames} ! video/x-raw,format=I420,width=64,height=48 ! f.visible \
         videotestsrc num-buffers={frames} pattern=ball ! video/x-raw,format=GRAY16_LE,width=32,height=24 \
         ! f.infrared"
    );
    let pipeline = gst::parse::launch(&description).unwrap().downcast::<gst::Pipeline>().unwrap();
    let element = pipeline.by_name("f").unwrap().downcast().unwrap();
    (pipeline, element)
}

fn wait_for_end(pipeline: &gst::Pipeline) {
    let kinds = [gst::MessageType::Eos, gst::MessageType::Error];
    let message = pipeline.bus().unwrap().timed_pop_filtered(PATIENCE * 10, &kinds);
    let message = message.expect("the stream ends");
    assert_eq!(message.type_(), gst::MessageType::Eos, "{message:?}");
}

/// The two halves that are compared lie 4,000 frames apart: a leak of one visible frame (4.5 KiB) in fifty would be
/// 360 KiB, of one infrared frame (1.5 KiB) in ten 600 KiB. What is allowed is for the allocator, which takes a page now
/// and then when threads meet; mostly it is none.
#[test]
fn ten_thousand_frames_in_flat_memory() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (pipeline, element) = pipeline(10_000);
    pipeline.set_state(gst::State::Playing).unwrap();
    let mut marks = Vec::new();
    let mut next = 2000;
    while next < 10_000 {
        if stat(&element, "fused") >= next {
            marks.push(resident());
            next += 500;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
        let errors = [gst::MessageType::Error];
        assert!(pipeline.bus().unwrap().pop_filtered(&errors).is_none());
    }
    wait_for_end(&pipeline);
    assert_eq!(stat(&element, "fused"), 10_000);
    pipeline.set_state(gst::State::Null).unwrap();
    println!("KiB from frame 2000 on, every 500: {marks:?}");
    let half = marks.len() / 2;
    let least = |marks: &[i64]| *marks.iter().min().unwrap();
    let grown = least(&marks[half..]) - least(&marks[..half]);
    assert!(grown < 256, "{grown} KiB more in the second half: {marks:?}");
}

/// NULL to PLAYING and back, by turns at the end of the stream and in the midst of it.
#[test]
fn a_hundred_cycles() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (pipeline, element) = pipeline(4);
    let mut marks = Vec::new();
    for cycle in 0..100 {
        pipeline.set_state(gst::State::Playing).unwrap();
        if cycle % 2 == 0 {
            wait_for_end(&pipeline);
            assert_eq!(stat(&element, "fused"), 4, "cycle {cycle}");
        }
        pipeline.set_state(gst::State::Null).unwrap();
        marks.push(resident());
    }
    println!("KiB after each cycle: {marks:?}");
    // The counts of a range of 16 bits alone are 256 KiB: kept in each cycle, they would be 12 MiB.
    let grown = marks[99] - marks[50];
    assert!(grown < 2 * 1024, "{grown} KiB more in 50 cycles: {marks:?}");
}

/// An element that comes and goes leaves nothing behind.
#[test]
fn elements_are_freed() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (pipeline, element) = pipeline(2);
    pipeline.set_state(gst::State::Playing).unwrap();
    wait_for_end(&pipeline);
    pipeline.set_state(gst::State::Null).unwrap();
    let weak = element.downgrade();
    drop((pipeline, element));
    assert!(weak.upgrade().is_none());
}
