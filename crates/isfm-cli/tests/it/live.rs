//! `isfm live`: streams in, a stream out.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use image::{DynamicImage, GrayImage, ImageBuffer, Luma};
use isfm::{Isfm, Normalize};

use crate::program::isfm;

const SIZE: (u32, u32) = (48, 36);
const PIXELS: usize = 48 * 36;
const CHROMA: usize = PIXELS / 2;

/// Luma of visible frame `n`, and its chroma.
fn visible(n: usize) -> (Vec<u8>, Vec<u8>) {
    let luma = (0..PIXELS).map(|i| ((i % 48 * 5 + 11 * n) % 200 + 20) as u8).collect();
    (luma, (0..CHROMA).map(|i| (i * 7 + n) as u8).collect())
}

/// Counts of infrared frame `n`.
fn infrared(n: usize) -> Vec<u16> {
    (0..PIXELS).map(|i| (8000 + i / 48 * 20 + 9 * n) as u16).collect()
}

fn raw_visible(frames: usize) -> Vec<u8> {
    let frame = |n| [visible(n).0, visible(n).1].concat();
    (0..frames).flat_map(frame).collect()
}

fn raw_infrared(frames: usize) -> Vec<u8> {
    (0..frames).flat_map(infrared).flat_map(u16::to_le_bytes).collect()
}

/// A YUV4MPEG2 stream of raw frames.
fn y4m(parameters: &str, raw: &[u8], bytes: usize) -> Vec<u8> {
    let mut stream = format!("YUV4MPEG2 W48 H36 {parameters}\n").into_bytes();
    for frame in raw.chunks(bytes) {
        stream.extend(b"FRAME\n");
        stream.extend(frame);
    }
    stream
}

fn folder(frames: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write =
        |name: &str, bytes: Vec<u8>| std::fs::write(folder.path().join(name), bytes).unwrap();
    let (colour, heat) = (raw_visible(frames), raw_infrared(frames));
    write("v.y4m", y4m("F25:1 Ip A1:1 C420jpeg XCOLORRANGE=FULL", &colour, PIXELS + CHROMA));
    write("i.y4m", y4m("F25:1 Ip A1:1 Cmono16", &heat, 2 * PIXELS));
    write("v.yuv", colour);
    write("i.raw", heat);
    folder
}

fn run(folder: &Path, code: i32, args: &[&str]) -> String {
    let output = isfm(folder, &[&["live"], args].concat());
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8_lossy(&told).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
    assert!(!told.contains("panicked"), "{told}");
    told
}

const RANGE: [&str; 2] = ["--infrared-range", "7000,10000"];

/// What becomes of frame `n`: luma, then chroma.
fn fused(isfm: &Isfm, n: usize) -> Vec<u8> {
    let (luma, chroma) = visible(n);
    let picture: DynamicImage = GrayImage::from_raw(SIZE.0, SIZE.1, luma).unwrap().into();
    let thermal = ImageBuffer::<Luma<u16>, _>::from_raw(SIZE.0, SIZE.1, infrared(n)).unwrap();
    let fused = isfm.fuse(&picture, &thermal.into()).unwrap().to_luma8().into_raw();
    [fused, chroma].concat()
}

fn network() -> Isfm {
    let range = Normalize::Range { low: 7000., high: 10_000. };
    Isfm::builder().normalize_infrared(range).build().unwrap()
}

#[test]
fn streams_become_a_stream() {
    let folder = folder(4);
    let network = network();
    let want: Vec<u8> = (0..4).flat_map(|n| fused(&network, n)).collect();
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    let files = ["--visible", "v.y4m", "--infrared", "i.y4m", "-o", "f.y4m"];
    let told = run(folder.path(), 0, &[&files[..], &RANGE].concat());
    assert!(told.contains("4 frames in"), "{told}");
    let header = "F25:1 Ip A1:1 C420jpeg XCOLORRANGE=FULL";
    assert!(read("f.y4m") == y4m(header, &want, PIXELS + CHROMA));

    let raw = [
        "--visible",
        "v.yuv",
        "--format",
        "yuv420p",
        "--size",
        "48x36",
        "--infrared",
        "i.raw",
        "--infrared-format",
        "gray16le",
        "--infrared-size",
        "48x36",
        "-o",
        "f.yuv",
    ];
    run(folder.path(), 0, &[&raw[..], &RANGE].concat());
    assert!(read("f.yuv") == want);
    let told = run(folder.path(), 0, &[&raw[..], &RANGE, &["--frames", "3", "--json"]].concat());
    assert!(read("f.yuv") == want[..3 * (PIXELS + CHROMA)]);
    assert!(told.contains("\"frames\":3"), "{told}");

    // Where they lie one on the other already.
    std::fs::write(folder.path().join("h.json"), "{\"matrix\": [1,0,0,0,1,0,0,0,1]}").unwrap();
    run(folder.path(), 0, &[&raw[..], &RANGE, &["--align", "h.json"]].concat());
    assert!(read("f.yuv") == want);
}

/// Standard input and output, and a stream that ends before the other.
#[test]
fn pipes_are_streams() {
    let folder = folder(3);
    let mut child = Command::new(env!("CARGO_BIN_EXE_isfm"))
        .current_dir(folder.path())
        .args(["live", "--visible", "-", "--infrared", "i.y4m", "-o", "-"])
        .args(RANGE)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stream = y4m("F25:1 C420jpeg XCOLORRANGE=FULL", &raw_visible(2), PIXELS + CHROMA);
    child.stdin.take().unwrap().write_all(&stream).unwrap();
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.contains("2 frames in"), "{told}");
    let network = network();
    let want: Vec<u8> = (0..2).flat_map(|n| fused(&network, n)).collect();
    let header = "F25:1 C420jpeg XCOLORRANGE=FULL";
    assert!(output.stdout == y4m(header, &want, PIXELS + CHROMA));
}

/// Luma of video, 16 to 235, stays inside; chroma of any kind stays as it is.
#[test]
fn other_kinds_of_pixels() {
    let folder = folder(1);
    let (luma, _) = visible(0);
    for (kind, chroma) in [
        ("C422", PIXELS),
        ("Cmono XYSCSS=400 XCOLORRANGE=LIMITED", 0),
        ("C444 XCOLORRANGE=LIMITED", 2 * PIXELS),
        ("C420", CHROMA),
    ] {
        let colours: Vec<u8> = (0..chroma).map(|i| (i * 3) as u8).collect();
        let frame = [&luma[..], &colours].concat();
        let stream = y4m(kind, &frame, frame.len());
        std::fs::write(folder.path().join("k.y4m"), stream).unwrap();
        run(folder.path(), 0, &["--visible", "k.y4m", "--infrared", "i.y4m", "-o", "o.y4m"]);
        let out = std::fs::read(folder.path().join("o.y4m")).unwrap();
        let frame = &out[out.len() - luma.len() - chroma..];
        assert_eq!(frame[luma.len()..], colours, "{kind}");
        assert!(frame[..luma.len()].iter().all(|v| (16..=235).contains(v)), "{kind}");
    }
    // 8 bits of infrared, and of colour its luma.
    for kind in ["Cmono", "C420jpeg XCOLORRANGE=FULL"] {
        let chroma = if kind == "Cmono" { vec![] } else { vec![128; CHROMA] };
        let frame = [luma.clone(), chroma].concat();
        std::fs::write(folder.path().join("k.y4m"), y4m(kind, &frame, frame.len())).unwrap();
        run(folder.path(), 0, &["--visible", "v.y4m", "--infrared", "k.y4m", "-o", kind]);
    }
    let [mono, colour] = ["Cmono", "C420jpeg XCOLORRANGE=FULL"]
        .map(|name| std::fs::read(folder.path().join(name)).unwrap());
    assert!(mono == colour);
}

#[test]
fn a_frame_that_is_cut_off_ends_the_run() {
    let folder = folder(4);
    let whole = std::fs::read(folder.path().join("i.y4m")).unwrap();
    std::fs::write(folder.path().join("cut.y4m"), &whole[..whole.len() - 100]).unwrap();
    let mut odd = whole.clone();
    let third = whole.len() - 2 * (2 * PIXELS + 6);
    odd[third] = b'X';
    std::fs::write(folder.path().join("odd.y4m"), odd).unwrap();
    let network = network();
    for (name, good, words) in [
        ("cut.y4m", 3, ["after 3 frames", "frame 4 is cut off: 3356 of 3456 bytes"]),
        ("odd.y4m", 2, ["after 2 frames", "frame 3 begins with something else"]),
    ] {
        let files = ["--visible", "v.y4m", "--infrared", name, "-o", "f.y4m"];
        let told = run(folder.path(), 1, &[&files[..], &RANGE].concat());
        assert!(words.iter().all(|word| told.contains(word)), "{told}");
        let want: Vec<u8> = (0..good).flat_map(|n| fused(&network, n)).collect();
        let out = std::fs::read(folder.path().join("f.y4m")).unwrap();
        let header = "F25:1 Ip A1:1 C420jpeg XCOLORRANGE=FULL";
        assert!(out == y4m(header, &want, PIXELS + CHROMA), "{name}");
    }
}

/// Files come faster than frames are fused: some are left out, and the last one is there.
#[test]
fn frames_are_dropped_where_they_come_too_fast() {
    let folder = folder(60);
    let files = ["--visible", "v.y4m", "--infrared", "i.y4m", "-o", "f.y4m", "--drop", "--json"];
    let output = isfm(folder.path(), &[&["live"], &files[..], &RANGE].concat());
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let count = |key: &str| told[key].as_u64().unwrap();
    assert_eq!(count("frames") + count("dropped"), 60, "{told}");
    let out = std::fs::read(folder.path().join("f.y4m")).unwrap();
    assert!(out.ends_with(&fused(&network(), 59)));
}

#[test]
fn what_is_no_stream_is_refused() {
    let folder = folder(1);
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("none.y4m", "RIFF is something else");
    write("empty.y4m", "");
    write("deep.y4m", "YUV4MPEG2 W8 H8 C420p10\n");
    write("laced.y4m", "YUV4MPEG2 W8 H8 It C420\n");
    write("sizeless.y4m", "YUV4MPEG2 W8 C420\n");
    write("zero.y4m", "YUV4MPEG2 W0 H8 C420\n");
    write("huge.y4m", "YUV4MPEG2 W99999999 H8 C420\n");
    write("rate.y4m", "YUV4MPEG2 W8 H8 F25:0 C420\n");
    write("long.y4m", &format!("YUV4MPEG2 {}", "X".repeat(5000)));
    write("cut.y4m", "YUV4MPEG2 W8 H8");
    write("flat.json", "[1,0,0,1,0,0,0,0,1]");
    let base =
        |visible: &'static str| vec!["--visible", visible, "--infrared", "i.y4m", "-o", "f.y4m"];
    let more = |more: &[&'static str]| [&base("v.y4m")[..], more].concat();
    for (args, word) in [
        (base("gone.y4m"), "gone.y4m"),
        (base("none.y4m"), "no YUV4MPEG2"),
        (base("empty.y4m"), "no YUV4MPEG2"),
        (base("deep.y4m"), "C420p10, needs C420"),
        (base("laced.y4m"), "interlaced"),
        (base("sizeless.y4m"), "has no H"),
        (base("zero.y4m"), "sides of 1"),
        (base("huge.y4m"), "65535"),
        (base("rate.y4m"), "a rate of 25:0"),
        (base("long.y4m"), "longer than"),
        (base("cut.y4m"), "cut off"),
        (
            base("-").into_iter().map(|a| if a == "i.y4m" { "-" } else { a }).collect(),
            "standard input",
        ),
        (
            base("v.y4m").into_iter().map(|a| if a == "f.y4m" { "v.y4m" } else { a }).collect(),
            "another file",
        ),
        (more(&["--format", "nv12"]), "--size"),
        (more(&["--format", "yuy2", "--size", "4x4"]), "yuv420p"),
        (more(&["--homography", "flat.json"]), "flat.json"),
        (more(&["--homography", "gone.json"]), "gone.json"),
        (more(&["--infrared-range", "5,5"]), "low < high"),
        (more(&["--infrared-range", "5,9", "--each-frame"]), "--each-frame"),
        (more(&["--time-constant=-1"]), "seconds"),
        (more(&["--weights", "gone.pth"]), "gone.pth"),
        // What has no luma cannot take the visible side.
        (vec!["--visible", "i.y4m", "--infrared", "i.y4m", "-o", "f"], "gray16le"),
    ] {
        let output = isfm(folder.path(), &[&["live"], &args[..]].concat());
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains(word), "{args:?}: {told}");
        assert_eq!(told.matches("error:").count(), 1, "{told}");
    }
    assert!(std::fs::read(folder.path().join("v.y4m")).unwrap().len() > PIXELS);
}
