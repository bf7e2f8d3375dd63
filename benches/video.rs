//! Frames of two cameras: `cargo bench -p isfm-benches --bench video [-- --frames 10000]` prints latency,
//! throughput and resident memory as a table of Markdown.
//!
//! `--align FRAMES` prints the median with the infrared frame resized and laid by an alignment, in turns.
//!
//! `--turns FOLDER SIZE` is one side of `benches/python/video_vs_opencv.py`: I420 frames of SIZE from
//! `visible.yuv`, GRAY16 frames of 320x256 from `infrared.raw`; for each line on standard input, a number of
//! frames, a line with their milliseconds is printed.

use std::io::{BufRead, stdin};
use std::time::{Duration, Instant};

use isfm::{Frame, Homography, Isfm, Stream, VideoFormat, VideoLayout};

type Outcome<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const THREADS: usize = 2;
const INFRARED: (u32, u32) = (320, 256);

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["--turns", folder, size] => {
            let (width, height) = size.split_once('x').ok_or("a size such as 640x480")?;
            turns(folder, (width.parse()?, height.parse()?))
        }
        ["--align", frames] => aligned(frames.parse()?),
        ["--frames", frames] => table(frames.parse()?),
        [] => table(10_000),
        _ => Err(format!("{words:?} are no options of this benchmark").into()),
    }
}

struct Camera {
    layout: VideoLayout,
    frames: Vec<Vec<u8>>,
}

impl Camera {
    fn frame(&self, number: usize) -> Frame<'_> {
        Frame { layout: &self.layout, data: &self.frames[number % self.frames.len()] }
    }
}

/// A stream and what it is given.
struct Bench {
    stream: Stream,
    visible: Camera,
    infrared: Camera,
    fused: Vec<u8>,
    next: usize,
}

impl Bench {
    fn new(
        (width, height): (u32, u32),
        frames: impl Fn(&VideoLayout, bool) -> Outcome<Vec<Vec<u8>>>,
    ) -> Outcome<Self> {
        let camera = |layout: VideoLayout, infrared| -> Outcome<Camera> {
            Ok(Camera { frames: frames(&layout, infrared)?, layout })
        };
        let visible = VideoLayout::new(VideoFormat::I420, width, height)?.limited_range(true);
        let infrared = VideoLayout::new(VideoFormat::Gray16Le, INFRARED.0, INFRARED.1)?;
        Ok(Self {
            stream: Stream::new(Isfm::builder().threads(THREADS).build()?),
            fused: vec![0; visible.bytes()],
            visible: camera(visible, false)?,
            infrared: camera(infrared, true)?,
            next: 0,
        })
    }

    /// The milliseconds of the next frame, as a camera of 25 frames a second would time it.
    fn frame(&mut self) -> Outcome<f64> {
        let start = Instant::now();
        let (visible, infrared) = (self.visible.frame(self.next), self.infrared.frame(self.next));
        let time = Duration::from_millis(40 * self.next as u64);
        self.stream.fuse_into(visible, infrared, time, &mut self.fused)?;
        self.next += 1;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }
}

fn turns(folder: &str, size: (u32, u32)) -> Outcome<()> {
    let read = |layout: &VideoLayout, infrared| {
        let name = if infrared { "infrared.raw" } else { "visible.yuv" };
        let bytes = std::fs::read(format!("{folder}/{name}"))?;
        Ok(bytes.chunks_exact(layout.bytes()).map(<[u8]>::to_vec).collect())
    };
    let mut bench = Bench::new(size, read)?;
    for line in stdin().lock().lines() {
        let times = (0..line?.parse()?).map(|_| bench.frame()).collect::<Outcome<Vec<f64>>>()?;
        println!("{times:?}");
    }
    Ok(())
}

/// A scene that moves: waves of both brightness and heat, and noise.
fn painted(layout: &VideoLayout, infrared: bool) -> Outcome<Vec<Vec<u8>>> {
    let (width, height) = layout.size();
    let paint = |number: u32| {
        let mut noise = 0x9e37_79b9u32 ^ number;
        let mut value = |x: u32, y: u32| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let wave = ((x + 3 * number) as f32 / 17.).sin() + (y as f32 / 11.).cos();
            0.5 + 0.2 * wave + 0.05 * (noise >> 8) as f32 / (1 << 24) as f32
        };
        let mut data = vec![128; layout.bytes()];
        for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
            let at = (y * width + x) as usize;
            if infrared {
                let count = 7000 + (2000. * value(x, y)) as u16;
                data[2 * at..2 * at + 2].copy_from_slice(&count.to_le_bytes());
            } else {
                data[at] = 16 + (219. * value(x, y)) as u8;
            }
        }
        data
    };
    Ok((0..30).map(paint).collect())
}

/// The median milliseconds of frames that are resized and of frames that are laid, one after the other.
fn aligned(frames: usize) -> Outcome<()> {
    for size in [(320, 256), (640, 480)] {
        let mut both = [Bench::new(size, painted)?, Bench::new(size, painted)?];
        let scale = f64::from(size.0) / f64::from(INFRARED.0);
        let turned = [scale, -0.02, 4., 0.02, scale, -3., 1e-5, 0., 1.];
        let [_, laid] = &mut both;
        let stream = Stream::new(Isfm::builder().threads(THREADS).build()?);
        laid.stream = stream.alignment(Homography::new(turned)?);
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..frames {
            for (bench, times) in both.iter_mut().zip(&mut times) {
                times.push(bench.frame()?);
            }
        }
        let [resized, laid] = times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        });
        println!("{}x{}: {resized:.2} ms resized, {laid:.2} ms laid", size.0, size.1);
    }
    Ok(())
}

fn resident() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<f64>().ok()? / 1024.)
}

fn table(frames: usize) -> Outcome<()> {
    let mib = |mib: Option<f64>| mib.map_or("unknown".into(), |mib| format!("{mib:.1} MiB"));
    println!(
        "{frames} frames on {THREADS} threads, GRAY16 of {}x{}:\n\n\
         | visible, I420 | median | 99 % within | slowest | frames/s | resident after 100 | after all |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        INFRARED.0, INFRARED.1
    );
    for size in [(320, 256), (640, 480)] {
        let mut bench = Bench::new(size, painted)?;
        let mut times = Vec::with_capacity(frames);
        let mut early = None;
        let start = Instant::now();
        for number in 0..frames {
            times.push(bench.frame()?);
            if number + 1 == frames.min(100) {
                early = resident();
            }
        }
        let rate = frames as f64 / start.elapsed().as_secs_f64();
        let late = resident();
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((share * frames as f64).ceil() as usize).clamp(1, frames) - 1];
        println!(
            "| {}x{} | {:.1} ms | {:.1} ms | {:.1} ms | {rate:.1} | {} | {} |",
            size.0,
            size.1,
            at(0.5),
            at(0.99),
            at(1.),
            mib(early),
            mib(late)
        );
    }
    Ok(())
}
