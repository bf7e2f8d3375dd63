//! What a stream takes from the allocator: a program of its own, because it counts for all of it.
#![cfg(feature = "embedded-weights")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use isfm::{Frame, Isfm, Stream, VideoFormat, VideoLayout};

const SIZE: (u32, u32) = (640, 480);
/// Bytes of a plane of floats.
const PLANE: usize = 4 * (SIZE.0 * SIZE.1) as usize;

struct Counting;

static PLANES: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

fn count(bytes: usize) {
    BYTES.fetch_add(bytes, Relaxed);
    PLANES.fetch_add(usize::from(bytes >= PLANE), Relaxed);
}

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller's promises.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Planes and feature maps are those of the frame before. What is left are the heads of tensors, lists of
/// tasks, a few small maps that are views of others, and what each thread works in.
#[test]
fn a_stream_takes_its_memory_once() {
    let mut stream = Stream::new(Isfm::builder().threads(1).build().unwrap());
    let visible = VideoLayout::new(VideoFormat::I420, SIZE.0, SIZE.1).unwrap();
    let infrared = VideoLayout::new(VideoFormat::Gray16Le, 320, 256).unwrap();
    let colour: Vec<u8> = (0..visible.bytes()).map(|i| (i * 7919 % 251) as u8).collect();
    let counts = (0..infrared.bytes() / 2).map(|i| (3000 + i * 7919 % 1999) as u16);
    let counts: Vec<u8> = counts.flat_map(u16::to_le_bytes).collect();
    let mut fused = vec![0; visible.bytes()];
    let mut number = 0;
    let mut frame = |stream: &mut Stream| {
        let before = [PLANES.load(Relaxed), BYTES.load(Relaxed)];
        let (v, i) = (&visible, &infrared);
        let (v, i) = (Frame { layout: v, data: &colour }, Frame { layout: i, data: &counts });
        stream.fuse_into(v, i, Duration::from_millis(40 * number), &mut fused).unwrap();
        number += 1;
        [PLANES.load(Relaxed) - before[0], BYTES.load(Relaxed) - before[1]]
    };
    let [first_planes, first] = frame(&mut stream);
    assert!(first_planes > 3, "{first_planes}");
    frame(&mut stream);
    for _ in 0..3 {
        let [planes, bytes] = frame(&mut stream);
        assert_eq!(planes, 0);
        assert!(2 * bytes < first, "{bytes} of {first} bytes");
    }
    stream.isfm().release_memory();
    assert!(frame(&mut stream)[0] > 3);
    assert_eq!(frame(&mut stream)[0], 0);
}
