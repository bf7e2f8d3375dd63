//! `isfm evaluate detect` and `segment`, from their files to their numbers.

use std::fs;
use std::path::Path;

use image::{GrayImage, Luma};
use serde_json::{Value, json};

use crate::common::{evaluate, text};

/// With `@` for `folder`; what was told, and the JSON.
fn task(folder: &Path, args: &[&str]) -> anyhow::Result<(Vec<String>, Value)> {
    let args = [args, &["--quiet", "--json=@/scores.json"]].concat();
    let problems = evaluate(folder, &args)?;
    let json = crate::common::json(&folder.join("scores.json"));
    Ok((problems.iter().map(ToString::to_string).collect(), json))
}

/// Two pictures of 100×50, three objects of two classes. By hand: of `cat` one object is found at .9 and one at
/// .7, and .8 is wrong, so precision is 1 up to recall ½ and ⅔ up to 1, and AP50 is (51 + 50 · ⅔) / 101. `dog`
/// is found with an IoU of .6: AP50 1, AP75 0.
const OBJECTS: [(usize, usize, [f64; 4]); 3] =
    [(0, 0, [10., 10., 20., 20.]), (1, 0, [50., 10., 30., 30.]), (1, 1, [10., 10., 20., 20.])];
const FOUND: [(usize, usize, [f64; 4], f64); 4] = [
    (0, 0, [10., 10., 20., 20.], 0.9),
    (0, 0, [70., 10., 20., 20.], 0.8),
    (1, 0, [50., 10., 30., 30.], 0.7),
    (1, 1, [10., 15., 20., 20.], 0.6),
];

fn coco(folder: &Path) {
    let images: Vec<Value> = ["a.png", "b.png"]
        .iter()
        .enumerate()
        .map(|(id, name)| json!({ "id": 7 + id, "file_name": name, "width": 100, "height": 50 }))
        .collect();
    let object = |(image, class, bbox): &(usize, usize, [f64; 4])| json!({ "id": 1, "image_id": 7 + image, "category_id": 3 + class, "bbox": bbox, "iscrowd": 0 });
    let truth = json!({
        "images": images,
        "annotations": OBJECTS.iter().map(object).collect::<Vec<_>>(),
        "categories": [{ "id": 3, "name": "cat" }, { "id": 4, "name": "dog" }],
    });
    fs::write(folder.join("truth.json"), truth.to_string()).unwrap();
    let found = |(image, class, bbox, score): &(usize, usize, [f64; 4], f64)| json!({ "image_id": 7 + image, "category_id": 3 + class, "bbox": bbox, "score": score });
    let found = FOUND.iter().map(found).collect::<Vec<_>>();
    fs::write(folder.join("found.json"), json!(found).to_string()).unwrap();
}

fn yolo(folder: &Path) {
    let line = |class: usize, [x, y, w, h]: [f64; 4]| {
        format!("{class} {} {} {} {}", (x + w / 2.) / 100., (y + h / 2.) / 50., w / 100., h / 50.)
    };
    let [truth, found] = ["labels", "found"].map(|name| folder.join(name));
    for at in [&truth, &found] {
        fs::create_dir(at).unwrap();
    }
    for (image, name) in ["a", "b"].iter().enumerate() {
        let objects = OBJECTS.iter().filter(|object| object.0 == image);
        let objects: Vec<String> = objects.map(|&(_, class, bbox)| line(class, bbox)).collect();
        fs::write(truth.join(format!("{name}.txt")), objects.join("\n")).unwrap();
        let boxes = FOUND.iter().filter(|found| found.0 == image);
        let boxes: Vec<String> = boxes
            .map(|&(_, class, bbox, score)| format!("{} {score}", line(class, bbox)))
            .collect();
        fs::write(found.join(format!("{name}.txt")), boxes.join("\r\n") + "\n").unwrap();
    }
    fs::write(truth.join("classes.txt"), "cat\ndog\n").unwrap();
}

#[test]
fn coco_and_yolo_give_the_same_numbers() {
    let folder = tempfile::tempdir().unwrap();
    coco(folder.path());
    yolo(folder.path());
    for (truth, found) in
        [("@/truth.json", "@/found.json"), ("@/labels", "@/found"), ("@/truth.json", "@/found")]
    {
        let (truth, found) = (format!("--truth={truth}"), format!("--detections=A={found}"));
        let args = ["detect", &truth, &found, "--per-class", "--csv=@/s.csv", "--latex=@/s.tex"];
        let (told, json) = task(folder.path(), &args).unwrap();
        assert!(told.is_empty(), "{told:?}");
        let method = &json["methods"][0];
        let near = |value: &Value, want: f64| {
            let got = value.as_f64().unwrap();
            assert!((got - want).abs() < 1e-9, "{truth}: {got}, not {want}");
        };
        let cat = (51. + 50. * 2. / 3.) / 101.;
        near(&method["classes"]["cat"]["AP50"], cat);
        near(&method["classes"]["dog"]["AP50"], 1.);
        near(&method["classes"]["dog"]["AP75"], 0.);
        near(&method["all"]["AP50"], (cat + 1.) / 2.);
        near(&method["all"]["AP75"], cat / 2.);
        // The dog counts at .50, .55 and .60.
        near(&method["all"]["AP50:95"], (cat + 0.3) / 2.);
        // F1 is highest with all four counted: three right of four, all three found.
        near(&method["all"]["precision"], 0.75);
        near(&method["all"]["recall"], 1.);
        let csv = fs::read_to_string(folder.path().join("s.csv")).unwrap();
        assert!(csv.lines().count() == 4 && csv.contains("A,cat,2,"), "{csv}");
        assert!(fs::read_to_string(folder.path().join("s.tex")).unwrap().contains("\\toprule"));
    }
}

#[test]
fn wrong_boxes_are_named() {
    let folder = tempfile::tempdir().unwrap();
    coco(folder.path());
    yolo(folder.path());
    let at = |name: &str| folder.path().join(name);
    let go = |truth: &str, found: &str| {
        let (truth, found) = (format!("--truth={truth}"), format!("--detections=A={found}"));
        task(folder.path(), &["detect", &truth, &found])
    };
    // What is wrong with one detection leaves the others.
    let mut found: Value = serde_json::from_slice(&fs::read(at("found.json")).unwrap()).unwrap();
    let list = found.as_array_mut().unwrap();
    list.push(json!({ "image_id": 99, "category_id": 3, "bbox": [0, 0, 1, 1], "score": 0.5 }));
    list.push(json!({ "image_id": 7, "category_id": 99, "bbox": [0, 0, 1, 1], "score": 0.5 }));
    list.push(json!({ "image_id": 7, "category_id": 3, "bbox": [0, 0, -1, 1], "score": 0.5 }));
    fs::write(at("some.json"), found.to_string()).unwrap();
    let (told, json) = go("@/truth.json", "@/some.json").unwrap();
    assert!(told.len() == 3 && told.iter().all(|line| line.starts_with("A: ")), "{told:?}");
    assert!(told.iter().any(|line| line.contains("99")), "{told:?}");
    assert_eq!(json["methods"][0]["detections"], 4);
    // A fault of the ground truth, or of all that was found, ends it.
    for (name, text, words) in [
        ("bad.json", "{", "EOF"),
        ("bad.json", "[]", "COCO"),
        ("bad.json", "{\"images\":[],\"annotations\":[],\"categories\":[]}", "no objects"),
        ("labels/a.txt", "0 10 10 20 20\n", "line 1"),
        ("labels/a.txt", "0 .5 .5 .1\n", "5 fields"),
        ("labels/a.txt", "x .5 .5 .1 .1\n", "class is x"),
        ("labels/a.txt", "0 .5 NaN .1 .1\n", "y is NaN"),
        ("labels/a.txt", "9 .5 .5 .1 .1\n", "class 9"),
    ] {
        fs::write(at(name), text).unwrap();
        let truth = if name == "bad.json" { "@/bad.json" } else { "@/labels" };
        let told = crate::fault(go(truth, "@/found.json"));
        let words = words.replace("5 fields", "4 fields");
        assert!(told.contains(&words) && told.contains(name.rsplit('/').next().unwrap()), "{told}");
    }
    fs::write(at("found/a.txt"), "0 .5 .5 .1 .1\n").unwrap();
    fs::write(at("found/b.txt"), "0 .5 .5 .1 .1 1.5\n").unwrap();
    let told = crate::fault(go("@/truth.json", "@/found"));
    assert!(told.contains("confidence"), "{told}");
    assert!(crate::fault(go("@/gone.json", "@/found")).contains("gone.json"));
    let twice = ["detect", "--truth=@/truth.json", "--detections=A=@/found.json"];
    let twice = [&twice[..], &["--detections=A=@/found"]].concat();
    assert!(crate::fault(task(folder.path(), &twice)).contains("called A"));
}

/// Labels 0 and 1 in a picture of 4×2; of the four pixels of 1, three are labelled so, and one of 0 is too.
#[test]
fn labels_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let save = |name: &str, labels: [u8; 8]| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        GrayImage::from_raw(4, 2, labels.to_vec()).unwrap().save(path).unwrap();
    };
    save("truth/a.png", [0, 0, 0, 255, 1, 1, 1, 1]);
    save("good/a.png", [0, 0, 1, 9, 1, 1, 1, 0]);
    save("same/a.png", [0, 0, 0, 0, 1, 1, 1, 1]);
    fs::write(folder.path().join("classes.txt"), "road\nperson & co\n").unwrap();
    let args = ["segment", "--truth=@/truth", "--predictions=Good=@/good"];
    let more = ["--predictions=Same=@/same", "--ignore=255", "--classes=@/classes.txt"];
    let args = [&args[..], &more, &["--latex=@/s.tex", "--csv=@/s.csv"]].concat();
    let (told, json) = task(folder.path(), &args).unwrap();
    assert!(told.is_empty(), "{told:?}");
    let [good, same] = [0, 1].map(|at| &json["methods"][at]["all"]);
    let near = |value: &Value, want: f64| {
        assert!((value.as_f64().unwrap() - want).abs() < 1e-12, "{value}, not {want}");
    };
    // road: 2 hits of 3 pixels, 3 labelled so: 2/4. person: 3 of 4, 4 labelled so: 3/5.
    near(&good["mIoU"], (0.5 + 0.6) / 2.);
    near(&good["mAcc"], (2. / 3. + 0.75) / 2.);
    near(&good["Acc"], 5. / 7.);
    near(&same["mIoU"], 1.);
    let latex = fs::read_to_string(folder.path().join("s.tex")).unwrap();
    assert!(latex.contains("person \\& co") && latex.contains("\\textbf{1.0000}"), "{latex}");

    // A palette's indices, at 2 bits a pixel.
    let file = fs::File::create(folder.path().join("good/a.png")).unwrap();
    let mut encoder = png::Encoder::new(file, 4, 2);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Two);
    encoder.set_palette(vec![9, 9, 9, 80, 0, 0, 1, 1, 1, 2, 2, 2]);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&[0b00_00_01_00, 0b01_01_01_00]).unwrap();
    drop(writer);
    let (_, again) = task(folder.path(), &args).unwrap();
    assert_eq!(again["methods"][0]["all"]["mIoU"], json["methods"][0]["all"]["mIoU"]);

    // What is wrong is told; the rest is counted.
    let rows = GrayImage::from_pixel(4, 2, Luma([1]));
    rows.save(folder.path().join("truth/b.png")).unwrap();
    GrayImage::new(3, 2).save(folder.path().join("good/b.png")).unwrap();
    fs::write(folder.path().join("same/b.png"), "no picture").unwrap();
    let (told, json) = task(folder.path(), &args).unwrap();
    assert!(told.len() == 2 && told[0].contains("3x2") && told[1].contains("b.png"), "{told:?}");
    assert_eq!(json["methods"][0]["images"], 1);
    save("good/a.png", [0, 0, 1, 0, 1, 1, 1, 7]);
    let (told, _) = task(folder.path(), &args).unwrap();
    assert!(told.iter().any(|line| line.contains("is 7: needs 0 to 1")), "{told:?}");
    let gone = ["segment", "--truth=@/truth", "--predictions=A=@/gone"];
    assert!(crate::fault(task(folder.path(), &gone)).contains("gone"));
    assert!(text(folder.path()).len() > 1);
}

/// The boxes and scores of `isfm-metrics`, whose numbers are those of `pycocotools` (its make_detection.py), as
/// files of both forms. Some boxes reach out of the picture. YOLO's text has no crowds.
#[test]
fn files_give_cocos_numbers() {
    const CASES: &str = include_str!("../../../isfm-metrics/tests/fixtures/detection.json");
    const SIZE: f64 = 150.;
    let cases: Vec<Value> = serde_json::from_str(CASES).unwrap();
    let mut without_crowds = 0;
    for case in &cases {
        let folder = tempfile::tempdir().unwrap();
        let [truth, found] = ["truth", "found"].map(|key| case[key].as_array().unwrap());
        let numbers = |key: &str| {
            let all = truth.iter().chain(found);
            all.map(|one| one[key].as_u64().unwrap()).collect::<std::collections::BTreeSet<_>>()
        };
        let image = |id: &u64| json!({ "id": id, "file_name": format!("day/{id:03}.png"), "width": SIZE, "height": SIZE });
        let class = |id: &u64| json!({ "id": id, "name": format!("class {id}") });
        let object = |one: &Value| {
            json!({
                "image_id": one["image"], "category_id": one["cls"], "bbox": one["bbox"],
                "iscrowd": u8::from(one["crowd"] == true), "score": one["score"],
            })
        };
        let objects = |of: &[Value]| of.iter().map(object).collect::<Vec<_>>();
        let coco = json!({
            "images": numbers("image").iter().map(image).collect::<Vec<_>>(),
            "categories": numbers("cls").iter().map(class).collect::<Vec<_>>(),
            "annotations": objects(truth),
        });
        fs::write(folder.path().join("truth.json"), coco.to_string()).unwrap();
        fs::write(folder.path().join("found.json"), json!(objects(found)).to_string()).unwrap();
        for (name, of) in [("labels", truth), ("boxes", found)] {
            fs::create_dir(folder.path().join(name)).unwrap();
            for id in numbers("image") {
                let lines = of.iter().filter(|one| one["image"] == id).map(|one| {
                    let [x, y, w, h] = [0, 1, 2, 3].map(|at| one["bbox"][at].as_f64().unwrap());
                    let class = one["cls"].as_u64().unwrap() - 1;
                    let (x, y) = ((x + w / 2.) / SIZE, (y + h / 2.) / SIZE);
                    let score = one["score"].as_f64().map_or(String::new(), |s| s.to_string());
                    format!("{class} {x} {y} {} {} {score}\n", w / SIZE, h / SIZE)
                });
                let text: String = lines.collect();
                fs::write(folder.path().join(name).join(format!("{id:03}.txt")), text).unwrap();
            }
        }
        let mut forms = vec![("@/truth.json", "@/found.json"), ("@/truth.json", "@/boxes")];
        if truth.iter().all(|one| one["crowd"] == false) {
            forms.push(("@/labels", "@/boxes"));
            without_crowds += 1;
        }
        let most = format!("--max-detections={}", case["max_detections"]);
        for (truth, found) in forms {
            let args = [format!("--truth={truth}"), format!("--detections=A={found}")];
            let (told, json) = task(folder.path(), &["detect", &args[0], &args[1], &most]).unwrap();
            assert!(told.is_empty(), "{told:?}");
            let scores = &json["methods"][0]["all"];
            for (name, key) in [("AP50:95", "map"), ("AP50", "map50")] {
                let [got, want] = [&scores[name], &case["expected"][key]].map(Value::as_f64);
                let (got, want) = (got.unwrap(), want.unwrap());
                // Parts of an image are rounded: what was equal may not be, an IoU and its threshold or
                // the IoUs with two objects.
                let tolerance = if found == "@/found.json" { 1e-12 } else { 5e-3 };
                let name = (&case["name"], truth, found, name);
                assert!((got - want).abs() < tolerance, "{name:?}: {got}, not {want}");
            }
        }
    }
    assert!(without_crowds > 0);
}

/// Of two detections of one score in two images the first image's comes first, whatever else was found where: the
/// right one here, so that precision is 1 up to recall 1.
#[test]
fn other_methods_do_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("truth/b.txt", "0 .5 .5 .2 .2\n");
    write("A/b.txt", "0 .5 .5 .2 .2 .5\n");
    write("A/c.txt", "0 .5 .5 .2 .2 .5\n");
    write("B/a.txt", "0 .5 .5 .2 .2 .5\n");
    write("B/b.txt", "0 .5 .5 .2 .2 .5\n");
    let [a, b] = ["--detections=A=@/A", "--detections=B=@/B"];
    for methods in [&[a][..], &[b], &[a, b], &[b, a]] {
        let args = [&["detect", "--truth=@/truth"], methods].concat();
        let (told, json) = task(folder.path(), &args).unwrap();
        assert!(told.is_empty(), "{told:?}");
        for method in json["methods"].as_array().unwrap() {
            let want = if method["name"] == "A" { 1. } else { 0.5 };
            assert_eq!(method["all"]["AP50"], want, "{methods:?}");
        }
    }
}

/// What the definitions are is in the long help.
#[test]
fn the_help_says_what_is_counted() {
    use clap::CommandFactory;
    let mut command = isfm_cli::evaluate::Args::command();
    for (task, words) in [("detect", "101 recalls"), ("segment", "hits")] {
        let help = command.find_subcommand_mut(task).unwrap().render_long_help().to_string();
        assert!(help.contains(words) && help.contains("exit code"), "{help}");
    }
}
