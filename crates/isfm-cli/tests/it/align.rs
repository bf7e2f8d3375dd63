//! `isfm align`, and what takes its result.

use std::path::Path;

use clap::{CommandFactory, Parser};
use image::{DynamicImage, GrayImage, ImageBuffer, Luma, RgbImage};
use isfm_align::{Alignment, Homography, Sizes};
use isfm_cli::align::{Args, run as align};
use isfm_cli::fuse;
use isfm_cli::fuse::Failed;
use isfm_testing::Numbers;
use isfm_train::PairFolder;

use crate::common::{evaluate, json, parsed, text};

const VISIBLE: (u32, u32) = (320, 240);
const INFRARED: (u32, u32) = (200, 150);

/// Where infrared pixels of these tests lie.
fn truth() -> Homography {
    Homography::new([1.3, -0.04, 34., 0.05, 1.31, 16., 1e-5, -2e-5, 1.]).unwrap()
}

/// Boxes that both cameras see, in other brightness; the infrared one counts in 16 bits and has another size.
fn pair(seed: u64) -> (RgbImage, ImageBuffer<Luma<u16>, Vec<u16>>) {
    let mut numbers = Numbers(seed);
    let boxes: Vec<[f64; 6]> = (0..70)
        .map(|_| {
            let mut draw = |low: f64, high: f64| low + (high - low) * numbers.unit();
            let (w, h) = (f64::from(VISIBLE.0), f64::from(VISIBLE.1));
            let (x, y) = (draw(-20., w), draw(-20., h));
            [x, y, x + draw(8., 70.), y + draw(8., 70.), draw(0., 255.), draw(7000., 9000.)]
        })
        .collect();
    let look = |[x, y]: [f64; 2]| {
        let inside = |b: &&[f64; 6]| x >= b[0] && y >= b[1] && x < b[2] && y < b[3];
        boxes.iter().rev().find(inside).map_or([90., 7800.], |b| [b[4], b[5]])
    };
    let visible = RgbImage::from_fn(VISIBLE.0, VISIBLE.1, |x, y| {
        image::Rgb([look([f64::from(x), f64::from(y)])[0] as u8; 3])
    });
    let infrared = ImageBuffer::from_fn(INFRARED.0, INFRARED.1, |x, y| {
        Luma([look(truth().apply([f64::from(x), f64::from(y)]))[1] as u16])
    });
    (visible, infrared)
}

fn pairs(folder: &Path, count: u64) {
    for name in ["vi", "ir"] {
        std::fs::create_dir(folder.join(name)).unwrap();
    }
    for k in 0..count {
        let (visible, infrared) = pair(k + 1);
        visible.save(folder.join(format!("vi/{k}.png"))).unwrap();
        infrared.save(folder.join(format!("ir/{k}.png"))).unwrap();
    }
}

fn run(folder: &Path, args: &[&str]) -> anyhow::Result<Vec<Failed>> {
    let args = args.iter().map(|arg| arg.replace('@', text(folder)));
    align(&parsed(Args::try_parse_from(std::iter::once("align".to_owned()).chain(args)))?)
}

#[test]
fn a_rig_is_aligned_and_its_pairs_are_fused_scored_and_trained_on() {
    Args::command().debug_assert();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    pairs(folder, 3);
    // One of another size is left out and told.
    GrayImage::new(10, 10).save(folder.join("vi/9.png")).unwrap();
    GrayImage::new(10, 10).save(folder.join("ir/9.png")).unwrap();
    let left_out = run(
        folder,
        &[
            "--visible",
            "@/vi",
            "--infrared",
            "@/ir",
            "-o",
            "@/rig.json",
            "--sheet",
            "@/rig.png",
            "--quiet",
        ],
    )
    .unwrap();
    assert_eq!(left_out.len(), 1);
    assert!(left_out[0].to_string().contains("10x10"), "{}", left_out[0]);
    let found = Alignment::read(folder.join("rig.json")).unwrap();
    for p in [[0., 0.], [199., 0.], [0., 149.], [199., 149.]] {
        let (a, b) = (found.homography().apply(p), truth().apply(p));
        // Edges of painted boxes lie on whole pixels, of which an infrared one is 1.3.
        assert!((a[0] - b[0]).hypot(a[1] - b[1]) < 1.5, "{a:?} {b:?}");
    }
    assert!(found.confidence().unwrap().corner_error < 3.);
    let sheet = image::open(folder.join("rig.png")).unwrap();
    assert_eq!((sheet.width(), sheet.height()), (2 * VISIBLE.0 + 6, 3 * VISIBLE.1 + 12));

    std::fs::remove_file(folder.join("vi/9.png")).unwrap();
    std::fs::remove_file(folder.join("ir/9.png")).unwrap();
    let own = |(w, h): (u32, u32)| (w as usize, h as usize);
    let sizes = Sizes { visible: own(VISIBLE), infrared: own(INFRARED) };
    let common = found.for_sizes(sizes).unwrap().common(Default::default()).unwrap().unwrap();
    let fused = |more: &[&str], to: &str| {
        let args = [
            &[
                "fuse",
                "--visible",
                "@/vi",
                "--infrared",
                "@/ir",
                "--align",
                "@/rig.json",
                "--quiet",
                "-o",
                to,
            ],
            more,
        ]
        .concat();
        let args = args.iter().map(|arg| arg.replace('@', text(folder)));
        let failed = fuse::run(&parsed(fuse::Args::try_parse_from(args)).unwrap()).unwrap();
        assert!(failed.is_empty(), "{failed:?}");
        image::open(folder.join(to.replace("@/", "")).join("0.png")).unwrap()
    };
    let whole = fused(&[], "@/whole");
    assert_eq!((whole.width(), whole.height()), VISIBLE);
    // Far from the infrared picture the visible one stays, within two levels.
    let visible = image::open(folder.join("vi/0.png")).unwrap().to_rgb8();
    let (a, b) = (whole.to_rgb8().get_pixel(3, 230).0, visible.get_pixel(3, 230).0);
    assert!(a[0].abs_diff(b[0]) <= 2, "{a:?} {b:?}");
    let cropped = fused(&["--crop"], "@/cropped");
    assert_eq!(
        (cropped.width() as usize, cropped.height() as usize),
        (common.width, common.height)
    );
    assert_eq!(
        cropped,
        whole.crop_imm(
            common.left as u32,
            common.top as u32,
            common.width as u32,
            common.height as u32
        )
    );

    // Whole results are cropped to score them: the same scores.
    let problems = evaluate(
        folder,
        &[
            "--visible",
            "@/vi",
            "--infrared",
            "@/ir",
            "--align",
            "@/rig.json",
            "--crop",
            "--fused",
            "a=@/whole",
            "--fused",
            "b=@/cropped",
            "--json",
            "@/s.json",
            "--quiet",
        ],
    );
    assert!(problems.unwrap().is_empty());
    let scores = json(&folder.join("s.json")).to_string();
    assert!(scores.contains("\"a\"") && scores.contains("\"b\""));

    let data = PairFolder::open_aligned(folder, found).unwrap();
    assert!(data.problems().is_empty());
    let one = data.pair(0).unwrap();
    assert_eq!((one.width, one.height), (common.width, common.height));
    assert_ne!(data.fingerprint(), PairFolder::open(folder).unwrap().fingerprint());
}

#[test]
fn points_are_taken_and_what_cannot_be_trusted_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    pairs(folder, 1);
    let mut table = "infrared_x,infrared_y,visible_x,visible_y\n".to_owned();
    for p in [[5., 5.], [190., 8.], [10., 140.], [180., 130.], [100., 70.]] {
        let to = truth().apply(p);
        table += &format!("{},{},{},{}\n", p[0], p[1], to[0], to[1]);
    }
    std::fs::write(folder.join("p.csv"), &table).unwrap();
    let one = ["--visible", "@/vi/0.png", "--infrared", "@/ir/0.png", "--quiet"];
    let with = |more: &[&str]| run(folder, &[&one[..], more].concat());
    with(&["--points", "@/p.csv", "-o", "@/hand.json"]).unwrap();
    let found = Alignment::read(folder.join("hand.json")).unwrap();
    let (a, b) = (found.homography().apply([150., 100.]), truth().apply([150., 100.]));
    assert!((a[0] - b[0]).hypot(a[1] - b[1]) < 1e-6);
    with(&["--start", "@/hand.json", "-o", "@/start.json"]).unwrap();

    std::fs::write(
        folder.join("line.csv"),
        "infrared_x,infrared_y,visible_x,visible_y\n0,0,0,0\n1,1,1,1\n2,2,2,2\n3,3,3,3\n",
    )
    .unwrap();
    DynamicImage::from(GrayImage::new(200, 150)).save(folder.join("black.png")).unwrap();
    for (args, words) in [
        (&["--points", "@/line.csv", "-o", "@/no.json"][..], "line"),
        (&["--points", "@/vi/0.png", "-o", "@/no.json"], "UTF-8"),
        (&["--coverage", "2,1", "-o", "@/no.json"], "coverage"),
        (&["--start", "@/gone.json", "-o", "@/no.json"], "gone.json"),
        (&["-o", "@/vi/0.png"], "input"),
    ] {
        let told = crate::fault(with(args));
        assert!(told.contains(words), "{told}");
    }
    let black =
        ["--visible", "@/vi/0.png", "--infrared", "@/black.png", "-o", "@/no.json", "--quiet"];
    let told = crate::fault(run(folder, &black));
    assert!(told.contains("more frames") && told.contains("four points"), "{told}");
    assert!(!folder.join("no.json").exists());
}
