//! `isfm evaluate`, from its arguments to the files it writes.

use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};
use image::{DynamicImage, GrayImage};
use isfm::Side;
use isfm_cli::evaluate::{Args, inputs, laplacian, pictures, report, table};
use isfm_files::Pairing;
use isfm_metrics::{Convention, Metric, Plane, Scores, Triple};
use report::Report;
use serde_json::Value;

use crate::common::{evaluate, json, scene, set, text};

#[test]
fn arguments_make_sense() {
    Args::command().debug_assert();
    let ok = ["--visible", "v", "--infrared", "i"];
    let bad: [&[&str]; 12] = [
        &["--baseline", "max", "--metrics", "EN,XY"],
        &[],
        &["--fused", "folder"],
        &["--fused", "=folder"],
        &["--fused", "name="],
        &["--baseline", "median"],
        &["--baseline", "laplacian:0"],
        &["--baseline", "laplacian:9"],
        &["--baseline", "laplacian:"],
        &["--baseline", "max,laplacian2"],
        &["--baseline", "max", "--threads", "many"],
        &["--baseline", "max", "stray"],
    ];
    for args in bad {
        let parsed = Args::try_parse_from([&["evaluate"], &ok[..], args].concat());
        assert!(parsed.is_err(), "{args:?}");
    }
    let args = [&["evaluate"], &ok[..], &["--fused", "A=x/y=z", "--fused", "B=b"]].concat();
    let args = Args::try_parse_from(args).unwrap();
    assert_eq!(args.fused[0], ("A".to_owned(), PathBuf::from("x/y=z")));
    assert_eq!(args.fused.len(), 2);
    let args = [&["evaluate"], &ok[..], &["--baseline", "max,laplacian,laplacian:3"]].concat();
    let baselines = Args::try_parse_from(args).unwrap().baseline;
    let names: Vec<_> = baselines.into_iter().map(inputs::Baseline::name).collect();
    assert_eq!(names, ["Max", "Laplacian2", "Laplacian3"]);
}

#[test]
fn scores_are_those_of_the_crate() {
    let folder = tempfile::tempdir().unwrap();
    set(folder.path(), 3, (61, 47));
    let args = [
        "--visible=@/vi",
        "--infrared=@/ir",
        "--fused=Sharp=@/sharp",
        "--fused=a, \"b\"=@/flat",
        "--baseline=average,max",
        "--metrics=all",
        "--json=@/deep/s.json",
        "--csv=@/s.csv",
    ];
    assert_eq!(evaluate(folder.path(), &args).unwrap(), []);

    let json = json(&folder.path().join("deep/s.json"));
    let methods: Vec<_> = json["methods"].as_array().unwrap().iter().collect();
    let names: Vec<_> = methods.iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["Sharp", "a, \"b\"", "Average", "Max"]);
    assert_eq!(json["images"].as_array().unwrap().len(), 3);
    assert_eq!(json["problems"].as_array().unwrap().len(), 0);

    let mut sums = vec![0.; Metric::ALL.len()];
    for k in 0..3 {
        let grey = scene(k, 61, 47).map(|image| inputs::luminance(&image));
        let [v, i, f, _] = grey.each_ref().map(|grey| Plane::new(grey, 61, 47).unwrap());
        let want = Scores::evaluate(&Triple::new(v, i, f).unwrap());
        let image = &json["images"][k as usize];
        assert_eq!(image["name"], char::from(b'a' + k as u8).to_string());
        assert_eq!((&image["width"], &image["height"]), (&61.into(), &47.into()));
        for (sum, metric) in sums.iter_mut().zip(Metric::ALL) {
            let got = image["scores"]["Sharp"][metric.name()].as_f64();
            let (Some(got), Some(want)) = (got, want.get(*metric)) else {
                // The pictures are too small for a metric of large windows.
                assert_eq!((got, want.get(*metric)), (None, None), "{metric}");
                *sum = f64::NAN;
                continue;
            };
            // The file has all digits; serde_json's reader may miss the last one.
            assert!((got - want).abs() <= f64::EPSILON * want.abs(), "{metric}: {got}, not {want}");
            *sum += got;
        }
    }
    for (sum, metric) in sums.iter().zip(Metric::ALL) {
        match methods[0]["mean"][metric.name()].as_f64() {
            Some(mean) => {
                assert!((mean - sum / 3.).abs() <= 1e-12 * mean.abs(), "{metric}: {mean}");
            }
            None => assert!(sum.is_nan(), "{metric}"),
        }
    }
    let ranks: Vec<_> = methods.iter().map(|m| m["average_rank"].as_f64().unwrap()).collect();
    assert!((ranks.iter().sum::<f64>() - 10.).abs() < 1e-12, "{ranks:?}");

    let csv = std::fs::read_to_string(folder.path().join("s.csv")).unwrap();
    let lines: Vec<_> = csv.lines().collect();
    assert_eq!(lines.len(), 1 + 3 * 4);
    assert!(lines[0].starts_with("image,method,EN,SD,"));
    let first: Vec<_> = lines[1].split(',').collect();
    assert_eq!(first[..2], ["a", "Sharp"]);
    assert_eq!(first[2].parse::<f64>().ok(), json["images"][0]["scores"]["Sharp"]["EN"].as_f64());
    assert!(lines[2].starts_with("a,\"a, \"\"b\"\"\","), "{}", lines[2]);
}

#[test]
fn what_is_wrong_is_told_and_the_rest_done() {
    let folder = tempfile::tempdir().unwrap();
    let [vi, ir, sharp, flat] = set(folder.path(), 5, (24, 18));
    let [wide, ..] = scene(0, 30, 18);
    std::fs::write(ir.join("a.png"), "no picture").unwrap();
    wide.save(vi.join("b.png")).unwrap();
    wide.save(sharp.join("VIF_c.png")).unwrap();
    std::fs::remove_file(flat.join("d.bmp")).unwrap();
    std::fs::write(flat.join("e.bmp"), "no picture").unwrap();
    std::fs::write(flat.join("notes.txt"), "no picture").unwrap();
    wide.save(flat.join("stray.png")).unwrap();
    let args = [
        "--visible=@/vi",
        "--infrared=@/ir",
        "--fused=Sharp=@/sharp",
        "--fused=<Flat>=@/flat",
        "--baseline=max",
        "--json=@/s.json",
        "--html=@/s.html",
        "--threads=2",
    ];
    let problems = evaluate(folder.path(), &args).unwrap();
    let told: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 5, "{told:?}");
    for (line, parts) in told.iter().zip([
        &["a:", "a.png"][..],
        &["b:", "30x18", "24x18"],
        &["c, Sharp:", "30x18", "24x18"],
        &["d, <Flat>:", "no result"],
        &["e, <Flat>:", "e.bmp"],
    ]) {
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
    }
    let json = json(&folder.path().join("s.json"));
    let methods = json["methods"].as_array().unwrap();
    let images: Vec<_> = methods.iter().map(|m| &m["images"]).collect();
    assert_eq!(images, [2, 1, 3]);
    // Only Max has every picture of the three sound pairs: nobody else is ranked.
    let ranks: Vec<_> = methods.iter().map(|m| m["average_rank"].as_f64()).collect();
    assert_eq!(ranks, [None, None, Some(1.)]);
    // 18 rows are too few for VIF.
    assert_eq!(json["images"][0]["scores"]["Max"]["VIF"], Value::Null);
    assert!(json["images"][0]["scores"]["Max"]["SSIM"].is_f64());
    assert_eq!(json["problems"].as_array().unwrap().len(), 5);
    let html = std::fs::read_to_string(folder.path().join("s.html")).unwrap();
    assert!(html.contains("5 problems") && html.contains("&lt;Flat&gt;"));
    assert!(!html.contains("<Flat>"));
}

#[test]
fn clear_errors() {
    let folder = tempfile::tempdir().unwrap();
    let [_, _, sharp, flat] = set(folder.path(), 2, (20, 16));
    let [empty, other] = ["empty", "other"].map(|name| folder.path().join(name));
    std::fs::create_dir(&empty).unwrap();
    std::fs::create_dir(&other).unwrap();
    scene(0, 20, 16)[2].save(other.join("z.png")).unwrap();
    // Two files that could be the result, by prefix and by extension.
    scene(0, 20, 16)[2].save(sharp.join("a.png")).unwrap();
    scene(0, 20, 16)[2].save(flat.join("a.png")).unwrap();
    let pair = ["--visible=@/vi", "--infrared=@/ir"];
    let cases: [(&[&str], &[&str]); 9] = [
        (&["--fused=A=@/empty"], &["no pictures"]),
        (&["--fused=A=gone"], &["gone"]),
        (&["--fused=A=@/vi", "--fused=A=@/ir"], &["\"A\""]),
        (&["--fused=Max=@/vi", "--baseline=max"], &["\"Max\""]),
        (&["--baseline=max", "--threads=0"], &["--threads"]),
        (&["--baseline=max", "--json=@/empty"], &["is a folder"]),
        (&["--baseline=max", "--json=x", "--csv=x"], &["twice"]),
        (&["--baseline=max", "--json=@/vi/a.png/s.json"], &["cannot write"]),
        (&["--fused=A=@/other"], &["such as a"]),
    ];
    for (args, parts) in cases {
        let told = crate::fault(evaluate(folder.path(), &[&pair, args].concat()));
        assert!(parts.iter().all(|part| told.contains(part)), "{args:?}: {told}");
    }
    // They spoil only their own pair.
    for (fused, name) in [("--fused=A=@/sharp", "VIF_a.png"), ("--fused=A=@/flat", "a.bmp")] {
        let problems = evaluate(folder.path(), &[&pair, &[fused][..]].concat()).unwrap();
        let told = problems[0].to_string();
        assert!(told.contains(name) && told.contains("a.png") && told.contains("which"), "{told}");
        assert_eq!(problems.iter().filter(|p| p.pair == "a").count(), 1, "{problems:?}");
    }
    let nobody = ["--visible=@/vi", "--infrared=@/empty", "--baseline=max"];
    let nobody = crate::fault(evaluate(folder.path(), &nobody));
    assert!(nobody.contains("no pictures"), "{nobody}");
}

/// A pair that is itself called VIF_… keeps its own result.
#[test]
fn a_prefix_may_be_a_name() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["vi", "ir", "fused"].map(|name| folder.path().join(name));
    for (folder, image) in names.iter().zip(scene(0, 20, 16)) {
        std::fs::create_dir(folder).unwrap();
        for name in ["x", "VIF_x"] {
            image.save(folder.join(format!("{name}.png"))).unwrap();
        }
    }
    let found = Pairing::find(&names[0], &names[1]).unwrap();
    let fused = format!("F={}", text(&names[2]));
    let args = Args::try_parse_from(["evaluate", "--fused", &fused]).unwrap();
    let methods = inputs::methods(&args, &found.pairs, false).unwrap();
    let file = |name: &str| inputs::Source::File(names[2].join(name));
    assert_eq!(methods[0].sources, [file("VIF_x.png"), file("x.png")]);
    assert!(methods[0].unused.is_empty());
}

#[test]
fn average_rounds_halves_to_even() {
    let grey = |data: Vec<u8>| GrayImage::from_raw(data.len() as u32, 1, data).unwrap();
    let (mut v, mut i, mut want) = (vec![], vec![], vec![]);
    for a in 0..=255u8 {
        for b in [0, 1, 2, 3, 127, 254, 255] {
            v.push(a);
            i.push(b);
            want.push(((f64::from(a) + f64::from(b)) / 2.).round_ties_even() as u8);
        }
    }
    let max: Vec<u8> = v.iter().zip(&i).map(|(&a, &b)| a.max(b)).collect();
    let (v, i) = (grey(v), grey(i));
    assert_eq!(inputs::Baseline::Average.fuse(&v, &i).into_raw(), want);
    assert_eq!(inputs::Baseline::Max.fuse(&v, &i).into_raw(), max);
}

/// Two pictures of any size, with sharp edges and values that wrap around.
fn patterns(width: u32, height: u32) -> [GrayImage; 2] {
    let picture = |f: fn(u32, u32) -> u32| {
        GrayImage::from_fn(width, height, |x, y| image::Luma([(f(x, y) % 256) as u8]))
    };
    [
        picture(|x, y| 29 * x * x + 61 * y + 7 * x * y),
        picture(|x, y| 37 * y * y + 23 * x + 90 * ((x / 3 + y / 2) % 2)),
    ]
}

/// The same in OpenCV 5.0.0: `pyrDown`, `pyrUp` and `blur` with `BORDER_REFLECT_101`, NumPy's `rint`.
#[test]
fn laplacian_is_what_opencv_makes() {
    let square = [
        [0, 23, 46, 159, 255, 255, 55, 164, 74, 36, 59],
        [37, 81, 192, 113, 84, 89, 144, 255, 186, 158, 190],
        [103, 152, 10, 183, 151, 161, 226, 103, 39, 24, 67],
        [173, 228, 86, 146, 169, 192, 49, 72, 151, 149, 205],
        [247, 49, 162, 70, 35, 29, 159, 54, 7, 18, 86],
        [65, 125, 237, 145, 114, 154, 0, 156, 114, 198, 217],
        [136, 198, 54, 222, 144, 167, 24, 47, 70, 3, 91],
    ];
    let cases = [
        ((11, 7), 3, square.concat()),
        ((1, 7), 2, vec![0, 31, 231, 176, 249, 54, 115]),
        ((9, 1), 3, vec![0, 28, 125, 24, 238, 254, 72, 202, 132]),
        ((2, 2), 2, vec![0, 29, 61, 97]),
    ];
    for ((width, height), levels, want) in cases {
        let [v, i] = patterns(width, height);
        let fused = laplacian::fuse(&v, &i, levels);
        assert_eq!(fused.into_raw(), want, "{width}x{height}, {levels} levels");
    }
}

#[test]
fn laplacian_gives_back_what_both_show() {
    for (width, height) in [(1, 1), (1, 9), (8, 1), (2, 2), (3, 5), (16, 12), (31, 17), (0, 4)] {
        let [v, i] = patterns(width, height);
        for levels in [0, 1, 2, 8, usize::MAX] {
            assert_eq!(laplacian::fuse(&v, &v, levels), v, "{width}x{height}, {levels} levels");
            let black = GrayImage::new(width, height);
            let grey = GrayImage::from_pixel(width, height, image::Luma([90]));
            assert_eq!(laplacian::fuse(&black, &grey, levels), grey);
        }
        let max = inputs::Baseline::Max.fuse(&v, &i);
        assert_eq!(laplacian::fuse(&v, &i, 0), max);
    }
}

/// Pixels of libjpeg-turbo, by way of Pillow: not one may differ.
#[test]
fn jpeg_is_read_as_libjpeg_reads_it() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for name in ["420", "422", "444", "progressive", "grey"] {
        let jpeg = inputs::read(&fixtures.join(format!("jpeg_{name}.jpg")), Side::Visible).unwrap();
        let want = inputs::read(&fixtures.join(format!("jpeg_{name}.png")), Side::Visible).unwrap();
        assert_eq!(jpeg.color(), want.color(), "{name}");
        assert!(jpeg == want, "{name}: pixels differ");
    }
    let whole = std::fs::read(fixtures.join("jpeg_420.jpg")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let cut = folder.path().join("cut.jpg");
    for length in [3, 20, 200, whole.len() / 2] {
        std::fs::write(&cut, &whole[..length]).unwrap();
        let error = format!("{:#}", inputs::read(&cut, Side::Visible).unwrap_err());
        assert!(error.contains("cut.jpg"), "{length}: {error}");
    }
    let fixtures_of_isfm = Path::new(env!("CARGO_MANIFEST_DIR")).join("../isfm/tests/fixtures");
    for name in ["trunc.jpg", "tr_rst_30.jpg"] {
        let error = inputs::read(&fixtures_of_isfm.join(name), Side::Visible).unwrap_err();
        assert!(format!("{error:#}").contains("cut off"), "{error:#}");
    }
    // Bytes changed anywhere: a picture or an error, no panic.
    for name in ["420", "422", "progressive", "grey"] {
        let whole = std::fs::read(fixtures.join(format!("jpeg_{name}.jpg"))).unwrap();
        for at in 0..whole.len() {
            for change in [0x01, 0x10, 0x55, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= change;
                let _ = inputs::read_jpeg(&bytes);
            }
        }
    }
}

/// A raw thermal frame is scored as fusing sees it, not by its upper bytes.
#[test]
fn deep_frames_are_scored_as_they_are_fused() {
    let folder = tempfile::tempdir().unwrap();
    let [vi, ir, ..] = set(folder.path(), 1, (61, 47));
    let sources =
        |path: &Path| inputs::luminance(&inputs::read_source(path, Side::Infrared).unwrap());
    let eight = sources(&ir.join("a.png"));
    let frame = GrayImage::from_fn(61, 47, |x, y| image::Luma([(x + 4 * y) as u8]));
    let raw = |x, y| image::Luma([7000 + 5 * u16::from(frame.get_pixel(x, y)[0])]);
    let raw = DynamicImage::from(image::ImageBuffer::from_fn(61, 47, raw));
    raw.save(ir.join("a.png")).unwrap();
    let seen = isfm::to_8_bits(&raw, Side::Infrared, isfm::Normalize::Auto).unwrap();
    assert_eq!(sources(&ir.join("a.png")), seen.to_luma8());
    assert!(seen.to_luma8().iter().max() == Some(&255) && eight != seen.to_luma8());
    let args = ["--visible=@/vi", "--infrared=@/ir", "--baseline=max", "--json=@/s.json"];
    assert_eq!(evaluate(folder.path(), &args).unwrap(), []);
    let got =
        json(&folder.path().join("s.json"))["images"][0]["scores"]["Max"]["EN"].as_f64().unwrap();
    let v = inputs::luminance(&inputs::read(&vi.join("a.png"), Side::Visible).unwrap());
    let i = seen.to_luma8();
    let fused = inputs::Baseline::Max.fuse(&v, &i);
    let [v, i, f] = [&v, &i, &fused].map(|p| Plane::new(&p.as_raw()[..], 61, 47).unwrap());
    let want = Scores::evaluate(&Triple::new(v, i, f).unwrap()).get(Metric::ALL[0]).unwrap();
    assert!((got - want).abs() < 1e-12, "{got} {want}");
}

#[test]
fn marks_and_table() {
    let folder = tempfile::tempdir().unwrap();
    let [vi, ir, sharp, flat] = set(folder.path(), 2, (61, 47));
    let found = Pairing::find(&vi, &ir).unwrap();
    let fused = [("Sharp", &sharp), ("Same", &sharp), ("Flat", &flat)];
    let fused = fused.map(|(name, folder)| format!("--fused={name}={}", text(folder)));
    let args = ["evaluate".to_owned()].into_iter().chain(fused);
    let methods =
        inputs::methods(&Args::try_parse_from(args).unwrap(), &found.pairs, false).unwrap();
    let score = |(at, pair)| {
        let sources: Vec<_> = methods.iter().map(|m| &m.sources[at]).collect();
        report::score(pair, &sources, Metric::ALL, Convention::Released, None, &report::unplaced)
    };
    let pairs = found.pairs.iter().enumerate().map(score).collect();
    let names = methods.iter().map(|m| m.name.clone()).collect();
    let report = Report::new(names, pairs, Metric::ALL.to_vec());
    use report::Mark::{Best, Second};
    // Equal methods are best together, and the next is second.
    assert_eq!(report.marks(Metric::Ag), [Some(Best), Some(Best), Some(Second)]);
    assert_eq!(report.methods[0].average_rank, report.methods[1].average_rank);
    let table = table::text(&report);
    assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
    for metric in Metric::ALL {
        assert!(table.contains(metric.name()), "{metric} is not in\n{table}");
    }
    let ag = report.methods[0].mean.as_ref().unwrap().get(Metric::Ag).unwrap();
    assert!(table.contains(&format!("{ag:.4}¹")), "{table}");
    assert_eq!(table::number(Some(f64::INFINITY)), "∞");
    assert_eq!(table::number(None), "–");
}

#[test]
fn only_the_metrics_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    set(folder.path(), 1, (20, 16));
    let pair = ["--visible=@/vi", "--infrared=@/ir", "--baseline=average,max"];
    let more = ["--metrics=psnr,SD", "--json=@/s.json", "--csv=@/s.csv"];
    assert_eq!(evaluate(folder.path(), &[pair, more].concat()).unwrap(), []);
    let csv = std::fs::read_to_string(folder.path().join("s.csv")).unwrap();
    assert!(csv.starts_with("image,method,SD,PSNR\n"), "{csv}");
    let json = json(&folder.path().join("s.json"));
    assert_eq!(json["metrics"].as_array().unwrap().len(), 2);
    assert_eq!(json["methods"][0]["mean"].as_object().unwrap().len(), 2);
    // Neither is one that the papers rank by.
    assert_eq!(json["methods"][0]["average_rank"], Value::Null);
}

/// An identical result has infinite PSNR: valid JSON, readable CSV, a page that plots the rest.
#[test]
fn infinite_values() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["vi", "ir", "fused"].map(|name| folder.path().join(name));
    for f in &names {
        std::fs::create_dir(f).unwrap();
        scene(0, 50, 44)[1].save(f.join("a.png")).unwrap();
    }
    let pair = ["--visible=@/vi", "--infrared=@/ir", "--fused=F=@/fused"];
    let more = ["--json=@/s.json", "--csv=@/s.csv", "--html=@/s.html"];
    assert_eq!(evaluate(folder.path(), &[pair, more].concat()).unwrap(), []);
    let json = json(&folder.path().join("s.json"));
    assert_eq!(json["methods"][0]["mean"]["PSNR"], "inf");
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let csv = read("s.csv");
    let mut lines = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let (head, row) = (lines.next().unwrap(), lines.next().unwrap());
    let psnr = head.iter().position(|h| *h == "PSNR").unwrap();
    assert_eq!(row[psnr].parse::<f64>(), Ok(f64::INFINITY));
    assert!(read("s.html").contains("no finite values"));
}

#[test]
fn pictures_keep_to_their_budget() {
    let big: DynamicImage = scene(3, 900, 700)[0].clone();
    for (pairs, methods) in [(1, 1), (50, 5), (400, 10)] {
        let budget = pictures::budget(pairs, methods);
        let uri = pictures::data_uri(&big, budget).unwrap();
        assert!(uri.starts_with("data:image/jpeg;base64,/9j/"));
        assert!(uri.len() <= budget * 4 / 3 + 100, "{pairs} {methods}: {} for {budget}", uri.len());
    }
    // 50 pairs × 5 methods, all pictures as large as they may be, stay under 20 MB.
    assert!(50 * 7 * (pictures::budget(50, 5) * 4 / 3 + 100) < 19_500_000);
}

/// Values by another program's definitions, in the crate's own numbers, and said everywhere.
#[test]
fn conventions() {
    let folder = tempfile::tempdir().unwrap();
    set(folder.path(), 2, (61, 47));
    let pair = ["--visible=@/vi", "--infrared=@/ir", "--fused=Sharp=@/sharp", "--quiet"];
    for convention in Convention::ALL {
        let named = format!("--convention={convention}");
        let files = ["--json=@/c.json", "--latex=@/c.tex", "--html=@/c.html"];
        let args = [&pair, &[named.as_str()][..], &files].concat();
        assert_eq!(evaluate(folder.path(), &args).unwrap(), []);
        let json = json(&folder.path().join("c.json"));
        assert_eq!(json["convention"], convention.name());
        let grey = scene(1, 61, 47).map(|image| inputs::luminance(&image));
        let [v, i, f, _] = grey.each_ref().map(|grey| Plane::new(grey, 61, 47).unwrap());
        let triple = Triple::new(v, i, f).unwrap();
        let want = Scores::evaluate_as(&triple, convention.metrics(), *convention);
        let got = json["images"][1]["scores"]["Sharp"].as_object().unwrap();
        assert!(got.len() >= 12, "{convention}: {got:?}");
        for (name, value) in got {
            let metric = *Metric::ALL.iter().find(|metric| metric.name() == name).unwrap();
            assert_eq!(value.as_f64(), want.get(metric), "{convention}: {name}");
        }
        for file in ["c.tex", "c.html"] {
            let text = std::fs::read_to_string(folder.path().join(file)).unwrap();
            let said = text.contains(&format!("alues as {convention} defines"));
            assert_eq!(said, *convention != Convention::Released, "{convention}: {file}");
        }
    }
    let told = crate::fault(evaluate(
        folder.path(),
        &[&pair[..], &["--convention=cddfuse", "--metrics=Qcb"]].concat(),
    ));
    assert!(told.contains("cddfuse has no Qcb"), "{told}");
}
