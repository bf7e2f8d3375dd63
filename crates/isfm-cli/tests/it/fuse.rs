//! `isfm fuse`, from its arguments to the files it writes.

use clap::{CommandFactory, Parser};
use image::{DynamicImage, GrayImage, ImageBuffer, Luma, Rgb, RgbImage};
use isfm_cli::fuse::{Args, Failed, run as fuse};
use isfm_files::Pairing;
use isfm_testing::paint;

use crate::common::{parsed, text};

fn visible(width: u32, height: u32) -> DynamicImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(7 * x) as u8, (5 * y) as u8, (x + y) as u8]))
        .into()
}

fn infrared(width: u32, height: u32) -> DynamicImage {
    GrayImage::from_fn(width, height, |x, y| Luma([(11 * x + 3 * y) as u8])).into()
}

fn run(args: &[&str]) -> anyhow::Result<Vec<Failed>> {
    fuse(&parsed(Args::try_parse_from([&["fuse"], args].concat()))?)
}

fn fault(args: &[&str]) -> String {
    crate::fault(run(args))
}

#[test]
fn arguments_make_sense() {
    Args::command().debug_assert();
    let bad: [&[&str]; 16] = [
        &[],
        &["--visible", "v.png"],
        &["--visible", "v.png", "--infrared", "i.png"],
        &["--infrared", "i.png"],
        &["--preset", "small", "--config", "c.json"],
        &["--tile", "many"],
        &["--stretch", "5"],
        &["--stretch", "5,"],
        &["--stretch", "low,high"],
        &["--infrared-range", "7000"],
        &["--visible-range", "0;1"],
        &["--infrared-range", "1,2", "--infrared-percentiles", "1,99"],
        &["stray"],
        &["--list", "l.csv", "--visible", "v"],
        &["--shard", "4/3"],
        &["--jobs", "0"],
    ];
    let output = ["fuse", "--output", "o.png"];
    for args in bad {
        let parsed = Args::try_parse_from([&output, args].concat());
        let refused = parsed.map_err(Into::into).and_then(|args| fuse(&args)).is_err();
        assert!(refused, "{args:?}");
    }
}

#[test]
fn two_files_become_a_third() {
    let folder = tempfile::tempdir().unwrap();
    let (v, i) = (folder.path().join("v.png"), folder.path().join("i.png"));
    visible(33, 21).save(&v).unwrap();
    infrared(33, 21).save(&i).unwrap();
    let plain = ["--visible", text(&v), "--infrared", text(&i), "--output"];
    let go = |output: &str, more: &[&str]| run(&[&plain, &[output][..], more].concat());
    let out = folder.path().join("a/b/o.png");
    assert!(go(text(&out), &[]).unwrap().is_empty());
    let first = isfm::read_image(&out).unwrap();
    assert_eq!((first.width(), first.height()), (33, 21));
    assert_eq!(first.color(), image::ColorType::Rgb8);
    for more in [&["--preset", "live"][..], &["--threads", "2"], &["--device", "cpu"]] {
        assert!(go(text(&out), more).unwrap().is_empty());
        assert_eq!(isfm::read_image(&out).unwrap(), first, "{more:?}");
    }
    assert!(go(text(&folder.path().join("o.jpg")), &["--tile", "512"]).unwrap().is_empty());
    let config = folder.path().join("c.json");
    let live = isfm_model::Config::from(isfm_model::Preset::Live);
    std::fs::write(&config, serde_json::to_string(&live).unwrap()).unwrap();
    assert!(go(text(&out), &["--config", text(&config)]).unwrap().is_empty());

    assert!(go(text(&out), &["--stretch", "10,90"]).unwrap().is_empty());
    let stretched = isfm::read_image(&out).unwrap().to_luma8();
    let range = |picture: &GrayImage| picture.iter().max().unwrap() - picture.iter().min().unwrap();
    assert!(range(&stretched) >= range(&first.to_luma8()));
    assert_ne!(stretched, first.to_luma8());

    let out = text(&out);
    let broken = folder.path().join("broken.json");
    std::fs::write(&broken, "{ not json").unwrap();
    std::fs::write(&config, r#"{"embed_dim": 5}"#).unwrap();
    for (option, value, word) in [
        ("--device", "cuda", "CUDA"),
        ("--device", "cuda:1", "CUDA"),
        ("--device", "tpu", "tpu"),
        ("--device", "cuda:x", "cuda:x"),
        ("--preset", "huge", "huge"),
        ("--preset", "paper", "weights"),
        ("--weights", "gone.pth", "gone.pth"),
        ("--weights", text(&v), "v.png"),
        ("--config", "gone.json", "gone.json"),
        ("--config", text(&broken), "broken.json"),
        ("--config", text(&config), "embed_dim"),
        ("--tile", "3", "3"),
        ("--threads", "0", "threads"),
        ("--stretch", "60,40", "low < high"),
        ("--stretch", "0,100.5", "100.5"),
        ("--stretch", "nan,99", "NaN"),
        ("--infrared-range", "-3,-5", "low < high"),
        ("--infrared-percentiles", "50,101", "infrared"),
        ("--visible-range", "5,5", "visible"),
    ] {
        let told = fault(&[&plain, &[out, option, value][..]].concat());
        assert!(told.contains(word), "{option} {value}: {told}");
    }

    let told = |v: &str, i: &str, o: &str| fault(&["--visible", v, "--infrared", i, "--output", o]);
    let (v, i, root) = (text(&v), text(&i), text(folder.path()));
    for (visible, infrared, output, word) in [
        ("gone.png", i, out, "gone.png"),
        (v, "gone.png", out, "gone.png"),
        (v, root, out, "folder"),
        (root, i, out, "folder"),
        (v, i, root, "folder"),
        (v, i, v, "overwritten"),
        (v, i, "o.xyz", "o.xyz"),
    ] {
        let told = told(visible, infrared, output);
        assert!(told.contains(word), "{word}: {told}");
    }
    for cut in ["trunc.jpg", "tr_rst_30.jpg"] {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../isfm/tests/fixtures/");
        let path = format!("{path}{cut}");
        for [v, i] in [[&path[..], i], [v, &path[..]]] {
            let told = told(v, i, out);
            assert!(told.contains(cut) && told.contains("cut off"), "{told}");
        }
    }
    let small = folder.path().join("small.png");
    infrared(10, 12).save(&small).unwrap();
    let error = told(v, text(&small), out);
    assert!(error.contains("33x21") && error.contains("10x12"), "{error}");
    assert!(error.contains("v.png") && error.contains("small.png"), "{error}");
}

#[test]
fn a_range_is_what_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    visible(33, 21).save(at("v.png")).unwrap();
    infrared(33, 21).save(at("i.png")).unwrap();
    // The same frame as thermal counts and, smaller, in kelvin.
    let eight = infrared(33, 21).to_luma8();
    let count = |x, y| Luma([7000 + 4 * u16::from(eight.get_pixel(x, y)[0])]);
    ImageBuffer::from_fn(33, 21, count).save(at("counts.png")).unwrap();
    let kelvin = |x, y| Rgb([250. + f32::from(eight.get_pixel(3 * x, 3 * y)[0]) / 4.; 3]);
    DynamicImage::from(ImageBuffer::from_fn(11, 7, kelvin)).save(at("kelvin.tif")).unwrap();
    let fused = |infrared: &str, more: &[&str]| {
        let [v, i, o] = ["v.png", infrared, "o.png"].map(at);
        let plain = ["--visible", text(&v), "--infrared", text(&i), "--output", text(&o)];
        assert!(run(&[&plain, more].concat()).unwrap().is_empty());
        isfm::read_image(&o).unwrap()
    };
    let want = fused("i.png", &[]);
    assert_eq!(fused("counts.png", &["--infrared-range", "7000,8020", "--verbose"]), want);
    assert_eq!(fused("i.png", &["--visible-range", "0,255"]), want);
    assert_ne!(fused("counts.png", &["--infrared-percentiles", "20,80"]), want);
    let small = fused("kelvin.tif", &["--infrared-range", "250,313.75", "--resize-infrared"]);
    assert_eq!((small.width(), small.height()), (33, 21));
}

#[test]
fn folders_are_gone_through_to_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let (vi, ir) = (folder.path().join("vi"), folder.path().join("ir"));
    let out = folder.path().join("deep/out");
    std::fs::create_dir(&vi).unwrap();
    std::fs::create_dir(&ir).unwrap();
    let go = || run(&["--visible", text(&vi), "--infrared", text(&ir), "--output", text(&out)]);
    assert!(crate::fault(go()).contains("no pictures"));
    for name in ["a", "b", "c", "d"] {
        visible(20, 14).save(vi.join(format!("{name}.png"))).unwrap();
    }
    std::fs::write(vi.join("notes.txt"), "no picture").unwrap();
    infrared(20, 14).save(ir.join("e.png")).unwrap();
    assert!(crate::fault(go()).contains("no pairs"));
    infrared(20, 14).save(ir.join("a.jpg")).unwrap();
    infrared(20, 13).save(ir.join("b.png")).unwrap();
    std::fs::write(ir.join("c.png"), "no picture").unwrap();
    infrared(20, 14).save(ir.join("d.bmp")).unwrap();
    let failed = go().unwrap();
    let names: Vec<_> = failed.iter().map(|f| f.pair.as_str()).collect();
    assert_eq!(names, ["b", "c"]);
    let told: Vec<_> = failed.into_iter().map(|f| crate::fault::<()>(Err(f.error))).collect();
    assert!(told[0].contains("20x13") && told[1].contains("c.png"), "{told:?}");
    let mut written: Vec<_> =
        std::fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name()).collect();
    written.sort();
    assert_eq!(written, ["a.png", "d.png"]);
    let found = Pairing::find(&vi, &ir).unwrap();
    assert_eq!(found.pairs.len(), 4);
    assert_eq!(found.infrared_alone, [ir.join("e.png")]);
    // The inputs are not written over.
    let same = fault(&["--visible", text(&vi), "--infrared", text(&ir), "--output", text(&vi)]);
    assert!(same.contains("overwritten"), "{same}");
}

/// One stem twice spoils only itself, and is told as what failed.
#[test]
fn ambiguous_pictures_fail_alone() {
    let folder = tempfile::tempdir().unwrap();
    let [vi, ir, out] = ["vi", "ir", "out"].map(|name| folder.path().join(name));
    std::fs::create_dir(&vi).unwrap();
    std::fs::create_dir(&ir).unwrap();
    for name in ["a.png", "b.png", "b.bmp"] {
        visible(20, 14).save(vi.join(name)).unwrap();
    }
    for name in ["a.png", "b.tif"] {
        infrared(20, 14).save(ir.join(name)).unwrap();
    }
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("a.jpg"), "of another program").unwrap();
    let args = ["--visible", text(&vi), "--infrared", text(&ir), "--output", text(&out)];
    let failed = run(&[&args[..], &["--format", "tiff"]].concat()).unwrap();
    let [failed] = &failed[..] else { panic!("{failed:?}") };
    let told = failed.to_string();
    assert!(
        told.starts_with("b: which") && told.contains("b.bmp, ") && told.contains("b.tif"),
        "{told}"
    );
    let mut written: Vec<_> =
        std::fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name()).collect();
    written.sort();
    assert_eq!(written, ["a.jpg", "a.tif"]);
    assert_eq!(isfm::read_image(out.join("a.tif")).unwrap().width(), 20);
}

#[test]
fn threads_are_no_more_than_there_are() {
    let most = std::thread::available_parallelism().unwrap().get();
    let threads = |asked: &str| isfm_cli::options::threads(asked);
    assert_eq!(threads("1"), Ok(1));
    for asked in [most, most + 1, 1_000_000_000, usize::MAX] {
        assert_eq!(threads(&asked.to_string()), Ok(most));
    }
    for bad in ["0", "-1", "many", ""] {
        assert!(threads(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_painted_pair_shows_what_it_should() {
    let (visible, infrared) = paint::night_road();
    assert_eq!((visible.dimensions(), infrared.dimensions()), (paint::SIZE, paint::SIZE));
    assert_eq!(paint::night_road(), (visible.clone(), infrared.clone()), "not reproducible");
    let spread = |values: Vec<f32>| {
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        (values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / values.len() as f32).sqrt()
    };
    let grey = DynamicImage::ImageRgb8(visible).to_luma8();
    let patch = |image: &GrayImage, x, y, w, h| {
        let view = image::imageops::crop_imm(image, x, y, w, h).to_image();
        view.iter().map(|&v| f32::from(v)).collect::<Vec<_>>()
    };
    let mean = |values: Vec<f32>| values.iter().sum::<f32>() / values.len() as f32;
    // The sign's text: strong in the visible picture, nothing in the infrared one.
    assert!(spread(patch(&grey, 498, 115, 100, 50)) > 25.);
    assert!(spread(patch(&infrared, 498, 115, 100, 50)) < 6.);
    // The man on the verge: as dark as the grass to one camera, the brightest thing to the other.
    assert!(mean(patch(&grey, 446, 205, 14, 60)) < 40.);
    assert!(mean(patch(&infrared, 446, 205, 14, 60)) > 150.);
    // The bonnet of the parked car is warm, and dark red.
    assert!(mean(patch(&infrared, 95, 238, 35, 8)) > 160.);
    assert!(mean(patch(&grey, 95, 238, 35, 8)) < 60.);
}
