//! `isfm live`: two streams of frames into one.

pub mod source;

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use isfm::{Alignment, Frame, FrameMut, Isfm, Normalize, Stream, StreamRange, VideoFormat};
use serde_json::json;

use crate::options::{low_high, size, threads};
use crate::{Console, ConsoleArgs, Usage};
use source::{LumaRange, Raw, Source};

/// Fuse two streams of video, frame by frame.
///
/// Streams are YUV4MPEG2 (.y4m: C420, C422, C444, Cmono, and of 16 bits Cmono16), or raw pixels where a format is
/// given. They come from files, FIFOs or, for one of them, standard input (-); the result goes to a file, a FIFO or
/// standard output (-), as the visible stream with other luma: its format, its size, its chroma.
///
/// The infrared stream may have another size: it is resized, or laid where --align says. Counts of 16 bits
/// are spread over a range that is followed without flicker.
///
/// Frames are read and written beside the fusing. With --drop a frame that comes while another is being fused
/// takes the place of the one that waits, so that what is written is never two frames old; how many were dropped
/// is said. A frame that is cut off ends the run: all before it are written.
#[derive(Parser, Debug)]
#[command(
    name = "live",
    after_help = "Examples:\n  \
        isfm live --visible V.y4m --infrared I.y4m -o F.y4m\n  \
        mkfifo v i\n  \
        ffmpeg -i V.mp4 -pix_fmt yuv420p -f yuv4mpegpipe -y v & \\\n  \
        ffmpeg -i I.mkv -pix_fmt gray16le -strict -1 -f yuv4mpegpipe -y i & \\\n  \
        isfm live --visible v --infrared i -o - | ffmpeg -i - F.mp4\n  \
        isfm live --visible v --format nv12 --size 640x480 --infrared i --infrared-format gray16le \\\n    \
          --infrared-size 320x256 --drop -o f"
)]
pub struct Args {
    /// The visible stream; - for standard input
    #[arg(long, value_name = "FILE")]
    pub visible: PathBuf,
    /// The infrared stream; - for standard input
    #[arg(long, value_name = "FILE")]
    pub infrared: PathBuf,
    /// Where the fused stream goes; - for standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// The visible stream is raw pixels of this kind: gray, yuv420p, nv12, rgb24, bgr24, rgba or bgra
    #[arg(long, value_name = "FORMAT", requires = "size")]
    pub format: Option<VideoFormat>,
    /// The size of raw visible frames
    #[arg(long, value_name = "WxH", value_parser = size, requires = "format")]
    pub size: Option<(u32, u32)>,
    /// The infrared stream is raw pixels of this kind: gray, gray16le or gray16be
    #[arg(long, value_name = "FORMAT", requires = "infrared_size")]
    pub infrared_format: Option<VideoFormat>,
    /// The size of raw infrared frames
    #[arg(long, value_name = "WxH", value_parser = size, requires = "infrared_format")]
    pub infrared_size: Option<(u32, u32)>,
    /// Frames a second of raw video, for --time-constant
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: u32,
    /// Which luma of the visible stream is black and white [default: what its header says; without one limited
    /// for C420, C422 and C444, else full]
    #[arg(long, value_name = "RANGE")]
    pub luma: Option<LumaRange>,
    /// Fixed counts that are black and white in infrared frames of 16 bits, such as 7000,9000
    #[arg(long, value_name = "LOW,HIGH", value_parser = low_high, conflicts_with_all = ["each_frame", "time_constant"])]
    pub infrared_range: Option<(f64, f64)>,
    /// Choose black and white for each infrared frame alone
    #[arg(long, conflicts_with = "time_constant")]
    pub each_frame: bool,
    /// Seconds in which two thirds of a change of the infrared range are followed
    #[arg(long, value_name = "SECONDS", default_value = "0.5", value_parser = seconds)]
    pub time_constant: Duration,
    /// Where infrared frames lie on visible ones: what `isfm align` writes, or JSON of nine numbers row by row that
    /// take an infrared pixel to its visible one
    #[arg(long, value_name = "H.json", alias = "homography")]
    pub align: Option<PathBuf>,
    /// Weights (.safetensors or .pth) instead of those inside the program
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
    /// Leave frames out where they come faster than they can be fused
    #[arg(long)]
    pub drop: bool,
    /// End after so many frames
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub frames: Option<u64>,
    /// Threads to use, at most as many as the machine has; all by default
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
    /// What is said.
    #[command(flatten)]
    pub console: ConsoleArgs,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
    seconds.ok_or_else(|| "needs a number of seconds, 0 or more".to_owned())
}

/// Two frames that belong together, or what was fused of them.
struct Pair {
    visible: Vec<u8>,
    infrared: Vec<u8>,
    /// From 0; those that were dropped count.
    number: u64,
}

/// Does what the arguments ask.
///
/// # Errors
/// [`Usage`] if it cannot be begun; if a frame cannot be read, fused or written.
pub fn run(args: &Args) -> Result<Vec<String>> {
    let output = match args.output.to_str() {
        Some("-") => Path::new("/dev/stdout"),
        _ => &args.output,
    };
    let console = Console::new(args.console, [output]);
    let (stream, visible, infrared) = begin(args, output).map_err(Usage::of)?;
    let header = visible.header().map(<[u8]>::to_vec);
    let mut to: Box<dyn Write + Send> = match args.output.to_str() {
        Some("-") => Box::new(std::io::stdout()),
        _ => {
            let cannot = || format!("cannot write {}", args.output.display());
            Box::new(File::create(&args.output).with_context(cannot).map_err(Usage::of)?)
        }
    };
    let start = Instant::now();
    if let Some(header) = &header {
        to.write_all(header).with_context(|| format!("cannot write {}", output.display()))?;
    }
    let done = pipeline(args, stream, [visible, infrared], to, header.is_some());
    let Done { mut times, dropped, ended } = done;
    let frames = times.len();
    times.sort_unstable();
    let at = |percent: usize| {
        let place = (frames * percent / 100).min(frames.saturating_sub(1));
        times.get(place).map_or(0., |time| 1e3 * time.as_secs_f64())
    };
    let took = start.elapsed().as_secs_f64();
    let left_out = if args.drop { format!(", {dropped} dropped") } else { String::new() };
    console.say(format_args!(
        "{frames} frames{left_out} in {took:.1} s, {:.1} a second; fusing took {:.1} ms, of one in a \
         hundred {:.1}",
        frames as f64 / took.max(1e-9),
        at(50),
        at(99)
    ));
    console.tell(&json!({
        "type": "summary", "frames": frames, "dropped": dropped, "seconds": took,
        "milliseconds": { "p50": at(50), "p99": at(99) },
    }));
    match ended {
        Err(error) => Err(error.context(format!("after {frames} frames"))),
        Ok(()) if frames == 0 => bail!("there was no pair of frames"),
        Ok(()) => Ok(Vec::new()),
    }
}

/// What came of a run.
struct Done {
    /// Of each frame, what fusing it took.
    times: Vec<Duration>,
    dropped: u64,
    ended: Result<()>,
}

/// The place between two threads, for one pair.
#[derive(Default)]
struct Slot {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    pair: Option<Result<Pair>>,
    /// Nobody gives, or nobody takes, any more.
    closed: bool,
    dropped: u64,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a pair, in the place of one that still waits or after it; whether anybody will take it.
    fn give(&self, pair: Result<Pair>, replace: bool) -> bool {
        let mut state = self.lock();
        while !replace && state.pair.is_some() && !state.closed {
            state = self.wait(state);
        }
        state.dropped += u64::from(state.pair.is_some());
        state.pair = Some(pair);
        self.changed.notify_all();
        !state.closed
    }

    /// Takes the pair that waits, or comes; none if there will be none.
    fn take(&self) -> Option<Result<Pair>> {
        let mut state = self.lock();
        while state.pair.is_none() && !state.closed {
            state = self.wait(state);
        }
        let pair = state.pair.take();
        self.changed.notify_all();
        pair
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

/// Reads, fuses and writes beside each other.
fn pipeline(
    args: &Args,
    mut stream: Stream,
    sources: [Source; 2],
    mut to: impl Write + Send + 'static,
    framed: bool,
) -> Done {
    let layouts = [sources[0].layout().clone(), sources[1].layout().clone()];
    let (frames, seconds) = sources[0].rate();
    let frame_time = f64::from(seconds) / f64::from(frames);
    let slot = Arc::new(Slot::default());
    let (empty, spare) = mpsc::channel::<Pair>();
    let (own, drop_old, most) = (slot.clone(), args.drop, args.frames.unwrap_or(u64::MAX));
    // Not waited for: it may wait for a camera that sends nothing any more.
    std::thread::spawn(move || {
        read_all(sources, &own, &spare, drop_old, most);
        own.close();
    });
    let (fused, finished) = mpsc::sync_channel::<Pair>(1);
    let writer = std::thread::spawn(move || -> std::io::Result<()> {
        for pair in finished {
            if framed {
                to.write_all(b"FRAME\n")?;
            }
            to.write_all(&pair.visible)?;
            // Somebody watches.
            to.flush()?;
            _ = empty.send(pair);
        }
        to.flush()
    });
    let mut times = Vec::new();
    let mut fuse = |mut pair: Pair| -> Result<(Pair, Duration)> {
        let start = Instant::now();
        let time = Duration::from_secs_f64(frame_time * pair.number as f64);
        let visible = FrameMut { layout: &layouts[0], data: &mut pair.visible };
        let infrared = Frame { layout: &layouts[1], data: &pair.infrared };
        stream.fuse_in_place(visible, infrared, time)?;
        Ok((pair, start.elapsed()))
    };
    let mut read = Ok(());
    while let Some(pair) = slot.take() {
        match pair.and_then(&mut fuse) {
            Ok((pair, time)) => {
                // If the writer has ended, it says why.
                if fused.send(pair).is_err() {
                    break;
                }
                times.push(time);
            }
            Err(error) => {
                read = Err(error);
                break;
            }
        }
    }
    slot.close();
    drop(fused);
    let written = writer.join().unwrap_or_else(|_| Err(std::io::Error::other("writing panicked")));
    let ended = match (read, written) {
        // Who reads the result has seen enough.
        (Ok(()), Err(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        (Ok(()), Err(error)) => Err(anyhow!(error).context("cannot write the result")),
        (read, _) => read,
    };
    let dropped = slot.lock().dropped;
    Done { times, dropped, ended }
}

/// Reads pairs until one of the streams ends or nobody wants more.
fn read_all(
    [mut visible, mut infrared]: [Source; 2],
    slot: &Slot,
    spare: &Receiver<Pair>,
    drop_old: bool,
    most: u64,
) {
    let new = || Pair { visible: Vec::new(), infrared: Vec::new(), number: 0 };
    for number in 0..most {
        let mut pair = spare.try_recv().unwrap_or_else(|_| new());
        pair.number = number;
        let mut read =
            || Ok(visible.next(&mut pair.visible)? && infrared.next(&mut pair.infrared)?);
        let go_on = match read() {
            Ok(true) => slot.give(Ok(pair), drop_old),
            Ok(false) => false,
            Err(error) => {
                slot.give(Err(error), false);
                false
            }
        };
        if !go_on {
            return;
        }
    }
}

/// What is fused, and what of.
fn begin(args: &Args, output: &Path) -> Result<(Stream, Source, Source)> {
    let stdin = [&args.visible, &args.infrared].into_iter().filter(|path| path.as_os_str() == "-");
    if stdin.count() > 1 {
        bail!("both streams cannot come from standard input: give a file or a FIFO for one");
    }
    for input in [&args.visible, &args.infrared] {
        let same = |input: &Path| Some(input.canonicalize().ok()? == output.canonicalize().ok()?);
        if input.as_os_str() != "-" && output.is_file() && same(input) == Some(true) {
            bail!("{} is a stream that is read: the result needs another file", output.display());
        }
    }
    let mut builder = Isfm::builder();
    if let Some(threads) = args.threads {
        builder = builder.threads(threads);
    }
    if let Some(path) = &args.weights {
        builder = builder.weights(path);
    }
    let range = match args.infrared_range {
        Some((low, high)) => StreamRange::EachFrame(Normalize::Range { low, high }),
        None if args.each_frame => StreamRange::EachFrame(Normalize::Auto),
        None => StreamRange::Steady { time_constant: args.time_constant },
    };
    let mut stream = Stream::new(builder.build()?).range(range)?;
    if let Some(path) = &args.align {
        stream = stream.alignment(Alignment::read(path)?);
    }
    let rate = (args.rate, 1);
    let raw = |format: Option<VideoFormat>, size: Option<(u32, u32)>| {
        format.zip(size).map(|(format, size)| Raw { format, size, rate })
    };
    // In this order: who writes two FIFOs opens the visible one first.
    let visible = Source::open(&args.visible, raw(args.format, args.size), args.luma)?;
    let infrared = raw(args.infrared_format, args.infrared_size);
    let infrared = Source::open(&args.infrared, infrared, None)?;
    Ok((stream, visible, infrared))
}
