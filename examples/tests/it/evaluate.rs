//! The `evaluate` example, from its arguments to the files it writes.

use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};
use image::DynamicImage;
use isfm_examples::evaluate::{Args, inputs, pictures, report, table};
use isfm_files::Pairing;
use isfm_metrics::{Metric, Plane, Scores, Triple};
use report::Report;
use serde_json::Value;

use crate::common::{evaluate, scene, set, text};

fn fault(args: &[&str]) -> String {
    crate::fault(evaluate(args))
}

#[test]
fn arguments_make_sense() {
    Args::command().debug_assert();
    let ok = ["--visible", "v", "--infrared", "i"];
    let bad: [&[&str]; 8] = [
        &["--baseline", "max", "--metrics", "EN,XY"],
        &[],
        &["--fused", "folder"],
        &["--fused", "=folder"],
        &["--fused", "name="],
        &["--baseline", "median"],
        &["--baseline", "max", "--threads", "many"],
        &["--baseline", "max", "stray"],
    ];
    for args in bad {
        let parsed = Args::try_parse_from([&["evaluate"], &ok[..], args].concat());
        assert!(parsed.is_err(), "{args:?}");
    }
    let args =
        ["evaluate", "--visible", "v", "--infrared", "i", "--fused", "A=x/y=z", "--fused", "B=b"];
    let args = Args::try_parse_from(args).unwrap();
    assert_eq!(args.fused[0], ("A".to_owned(), PathBuf::from("x/y=z")));
    assert_eq!(args.fused.len(), 2);
}

#[test]
fn scores_are_those_of_the_crate() {
    let folder = tempfile::tempdir().unwrap();
    let [vi, ir, sharp, flat] = set(folder.path(), 3, (61, 47));
    let (json, csv) = (folder.path().join("deep/s.json"), folder.path().join("s.csv"));
    let fused = [format!("Sharp={}", text(&sharp)), format!("a, \"b\"={}", text(&flat))];
    let args = [
        "--visible",
        text(&vi),
        "--infrared",
        text(&ir),
        "--fused",
        &fused[0],
        "--fused",
        &fused[1],
    ];
    let more = ["--baseline", "average,max", "--metrics", "all"];
    let more = [&more[..], &["--json", text(&json), "--csv", text(&csv)]].concat();
    assert_eq!(evaluate(&[&args[..], &more].concat()).unwrap(), []);

    let json: Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    let methods: Vec<_> = json["methods"].as_array().unwrap().iter().collect();
    let names: Vec<_> = methods.iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["Sharp", "a, \"b\"", "Average", "Max"]);
    assert_eq!(json["images"].as_array().unwrap().len(), 3);
    assert_eq!(json["problems"].as_array().unwrap().len(), 0);

    let mut sums = vec![0.; Metric::ALL.len()];
    for k in 0..3 {
        let [visible, infrared, sharp, _] = scene(k, 61, 47).map(|i| inputs::Grey::of(&i));
        let plane = |g: &'static inputs::Grey| Plane::new(&g.data, 61, 47).unwrap();
        let [v, i, f] = [visible, infrared, sharp].map(|g| plane(Box::leak(Box::new(g))));
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

    let csv = std::fs::read_to_string(csv).unwrap();
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
    let (json, html) = (folder.path().join("s.json"), folder.path().join("s.html"));
    let fused = [format!("Sharp={}", text(&sharp)), format!("<Flat>={}", text(&flat))];
    let problems = evaluate(&[
        "--visible",
        text(&vi),
        "--infrared",
        text(&ir),
        "--fused",
        &fused[0],
        "--fused",
        &fused[1],
        "--baseline",
        "max",
        "--json",
        text(&json),
        "--html",
        text(&html),
        "--threads",
        "2",
    ])
    .unwrap();
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
    let json: Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    let images: Vec<_> = json["methods"].as_array().unwrap().iter().map(|m| &m["images"]).collect();
    assert_eq!(images, [2, 1, 3]);
    // Only Max has every picture of the three sound pairs: nobody else is ranked.
    let ranks: Vec<_> =
        json["methods"].as_array().unwrap().iter().map(|m| m["average_rank"].as_f64()).collect();
    assert_eq!(ranks, [None, None, Some(1.)]);
    // 18 rows are too few for VIF.
    assert_eq!(json["images"][0]["scores"]["Max"]["VIF"], Value::Null);
    assert!(json["images"][0]["scores"]["Max"]["SSIM"].is_f64());
    assert_eq!(json["problems"].as_array().unwrap().len(), 5);
    let html = std::fs::read_to_string(html).unwrap();
    assert!(
        html.contains("5 problems") && html.contains("&lt;Flat&gt;") && !html.contains("<Flat>")
    );
}

#[test]
fn clear_errors() {
    let folder = tempfile::tempdir().unwrap();
    let [vi, ir, sharp, flat] = set(folder.path(), 2, (20, 16));
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let pair = ["--visible", text(&vi), "--infrared", text(&ir)];
    let fused = |name: &str, folder: &Path| format!("{name}={}", text(folder));
    let told = |more: &[&str]| fault(&[&pair, more].concat());

    assert!(told(&["--fused", &fused("A", &empty)]).contains("no pictures"));
    assert!(told(&["--fused", "A=gone"]).contains("gone"));
    let twice = told(&["--fused", &fused("A", &sharp), "--fused", &fused("A", &flat)]);
    assert!(twice.contains("\"A\""), "{twice}");
    let twice = told(&["--fused", &fused("Max", &sharp), "--baseline", "max"]);
    assert!(twice.contains("\"Max\""), "{twice}");
    assert!(told(&["--baseline", "max", "--threads", "0"]).contains("--threads"));
    assert!(told(&["--baseline", "max", "--json", text(&empty)]).contains("is a folder"));
    assert!(told(&["--baseline", "max", "--json", "x", "--csv", "x"]).contains("twice"));
    let under_a_file = vi.join("a.png/s.json");
    assert!(told(&["--baseline", "max", "--json", text(&under_a_file)]).contains("cannot write"));
    let nobody = fault(&["--visible", text(&vi), "--infrared", text(&empty), "--baseline", "max"]);
    assert!(nobody.contains("no pictures"), "{nobody}");

    let other = folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    scene(0, 20, 16)[2].save(other.join("z.png")).unwrap();
    assert!(told(&["--fused", &fused("A", &other)]).contains("such as a"));
    // Two files that could be the result, by extension and by prefix.
    scene(0, 20, 16)[2].save(sharp.join("a.png")).unwrap();
    let either = told(&["--fused", &fused("A", &sharp)]);
    assert!(either.contains("VIF_a.png") && either.contains("could both"), "{either}");
    scene(0, 20, 16)[2].save(flat.join("a.png")).unwrap();
    let either = told(&["--fused", &fused("A", &flat)]);
    assert!(either.contains("a.bmp") && either.contains("could both"), "{either}");
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
    let methods =
        inputs::methods(&[("F".to_owned(), names[2].clone())], &[], &found.pairs).unwrap();
    let file = |name: &str| inputs::Source::File(names[2].join(name));
    assert_eq!(methods[0].sources, [file("VIF_x.png"), file("x.png")]);
    assert!(methods[0].unused.is_empty());
}

#[test]
fn average_rounds_halves_to_even() {
    let grey = |data: Vec<u8>| inputs::Grey { width: data.len() as u32, height: 1, data };
    let (mut v, mut i, mut want) = (vec![], vec![], vec![]);
    for a in 0..=255u8 {
        for b in [0, 1, 2, 3, 127, 254, 255] {
            v.push(a);
            i.push(b);
            want.push(((f64::from(a) + f64::from(b)) / 2.).round_ties_even() as u8);
        }
    }
    assert_eq!(inputs::Baseline::Average.fuse(&grey(v.clone()), &grey(i.clone())).data, want);
    let max: Vec<u8> = v.iter().zip(&i).map(|(&a, &b)| a.max(b)).collect();
    assert_eq!(inputs::Baseline::Max.fuse(&grey(v), &grey(i)).data, max);
}

/// Pixels of libjpeg-turbo, by way of Pillow: not one may differ.
#[test]
fn jpeg_is_read_as_libjpeg_reads_it() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for name in ["420", "422", "444", "progressive", "grey"] {
        let jpeg = inputs::read(&fixtures.join(format!("jpeg_{name}.jpg"))).unwrap();
        let want = inputs::read(&fixtures.join(format!("jpeg_{name}.png"))).unwrap();
        assert_eq!(jpeg.color(), want.color(), "{name}");
        assert!(jpeg == want, "{name}: pixels differ");
    }
    let whole = std::fs::read(fixtures.join("jpeg_420.jpg")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let cut = folder.path().join("cut.jpg");
    for length in [3, 20, 200, whole.len() / 2] {
        std::fs::write(&cut, &whole[..length]).unwrap();
        let error = format!("{:#}", inputs::read(&cut).unwrap_err());
        assert!(error.contains("cut.jpg"), "{length}: {error}");
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

#[test]
fn marks_and_table() {
    let folder = tempfile::tempdir().unwrap();
    let [vi, ir, sharp, flat] = set(folder.path(), 2, (61, 47));
    let found = Pairing::find(&vi, &ir).unwrap();
    let fused = [
        ("Sharp".to_owned(), sharp.clone()),
        ("Same".to_owned(), sharp),
        ("Flat".to_owned(), flat),
    ];
    let methods = inputs::methods(&fused, &[], &found.pairs).unwrap();
    let score = |(at, pair)| {
        let sources: Vec<_> = methods.iter().map(|m| &m.sources[at]).collect();
        report::score(pair, &sources, Metric::ALL, None)
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
    let [vi, ir, ..] = set(folder.path(), 1, (20, 16));
    let (json, csv) = (folder.path().join("s.json"), folder.path().join("s.csv"));
    let args = ["--visible", text(&vi), "--infrared", text(&ir), "--baseline", "average,max"];
    let more = ["--metrics", "psnr,SD", "--json", text(&json), "--csv", text(&csv)];
    assert_eq!(evaluate(&[&args[..], &more].concat()).unwrap(), []);
    let csv = std::fs::read_to_string(csv).unwrap();
    assert!(csv.starts_with("image,method,SD,PSNR\n"), "{csv}");
    let json: Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
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
    let out = ["s.json", "s.csv", "s.html"].map(|name| folder.path().join(name));
    let fused = format!("F={}", text(&names[2]));
    let args = ["--visible", text(&names[0]), "--infrared", text(&names[1]), "--fused", &fused];
    let more = ["--json", text(&out[0]), "--csv", text(&out[1]), "--html", text(&out[2])];
    assert_eq!(evaluate(&[&args[..], &more].concat()).unwrap(), []);
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let json: Value = serde_json::from_str(&read(&out[0])).unwrap();
    assert_eq!(json["methods"][0]["mean"]["PSNR"], "inf");
    let csv = read(&out[1]);
    let mut lines = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let (head, row) = (lines.next().unwrap(), lines.next().unwrap());
    let psnr = head.iter().position(|h| *h == "PSNR").unwrap();
    assert_eq!(row[psnr].parse::<f64>(), Ok(f64::INFINITY));
    assert!(read(&out[2]).contains("no finite values"));
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
