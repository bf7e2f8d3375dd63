//! Long use and many threads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use image::DynamicImage;
use isfm::Isfm;

use crate::common::{Random, asked, scene};

/// Of this process, in KiB, where the system tells.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn pair(k: u32, width: u32, height: u32) -> [DynamicImage; 2] {
    let (visible, infrared) = scene(k, width, height);
    [visible.into(), infrared.into()]
}

/// Pictures of ever changing sizes through one instance: the second half of them takes no more memory
/// than the first did.
pub(crate) fn memory_stays_flat() {
    const GROWTH_KIB: u64 = 4096;
    let fusions = asked("ISFM_FUSIONS", 600);
    isfm::keep_freed_memory();
    let isfm = Isfm::embedded().unwrap();
    let mut random = Random::new(20_000);
    let started = Instant::now();
    let mut peaks = [0, 0];
    for n in 0..fusions {
        let [width, height] = [1, 1].map(|least| least + random.below(128) as u32);
        let [visible, infrared] = pair(n as u32, width, height);
        let fused = isfm.fuse(&visible, &infrared).unwrap();
        assert_eq!((fused.width(), fused.height()), (width, height));
        let peak = &mut peaks[2 * n / fusions];
        *peak = resident().unwrap_or(0).max(*peak);
    }
    let took = started.elapsed().as_secs_f64();
    println!(
        "  {fusions} fusions of 1x1 to 128x128 in {took:.1} s: at most {} KiB resident in the first half, \
         {} KiB in the second",
        peaks[0], peaks[1]
    );
    assert!(peaks[1] <= peaks[0] + GROWTH_KIB);
}

/// As many threads as calls, all at once on one instance.
pub(crate) fn calls_at_once_give_the_same_bits() {
    let calls = asked("ISFM_CALLS", 60);
    let isfm = Isfm::embedded().unwrap();
    let sizes = [(1, 1), (40, 31), (64, 64), (97, 50), (128, 96), (33, 150)];
    let pairs: Vec<_> = (0..).zip(sizes).map(|(k, (w, h))| pair(k, w, h)).collect();
    let want: Vec<_> = pairs.iter().map(|[v, i]| isfm.fuse(v, i).unwrap()).collect();
    let (same, started) = (AtomicUsize::new(0), Instant::now());
    std::thread::scope(|scope| {
        for n in 0..calls {
            let ([visible, infrared], want) = (&pairs[n % pairs.len()], &want[n % pairs.len()]);
            let (isfm, same) = (&isfm, &same);
            scope.spawn(move || {
                let fused = isfm.fuse(visible, infrared).unwrap();
                same.fetch_add(usize::from(fused == *want), Ordering::Relaxed);
            });
        }
    });
    let (same, took) = (same.into_inner(), started.elapsed().as_secs_f64());
    println!("  {same} of {calls} calls at once gave the same bits as one alone, in {took:.1} s");
    assert_eq!(same, calls);
}
