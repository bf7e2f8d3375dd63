//! What becomes of scores: LaTeX, workbooks, plots, means and subsets, of names and values of any kind.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use calamine::{Data, Reader, Xlsx};
use clap::Parser;
use isfm_cli::evaluate::workbook::sheet_name;
use isfm_cli::evaluate::{latex, report, stored};
use isfm_cli::merge;
use isfm_metrics::Metric;
use serde_json::Value;

use crate::common::{evaluate, json, parsed, scene, set, text};

const PAIR: [&str; 3] = ["--visible=@/vi", "--infrared=@/ir", "--quiet"];

fn go(folder: &Path, args: &[&str]) -> Vec<report::Problem> {
    evaluate(folder, &[&PAIR[..], args].concat()).unwrap()
}

fn merge(folder: &Path, args: &[&str]) -> anyhow::Result<Vec<String>> {
    let args = args.iter().map(|arg| arg.replace('@', text(folder)));
    merge::run(&parsed(merge::Args::try_parse_from(["merge".to_owned()].into_iter().chain(args)))?)
}

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap()
}

/// Names that mean something to TeX, HTML, sheets and CSV.
const HOSTILE: [&str; 6] =
    ["a & b_1 %", "<b>bold</b>", "[x]*", "+1+2", "\"q\" 'r' \\^~{}$#--|`", "-,;<script>"];

/// Four pairs and [`HOSTILE`] methods; the third lacks a picture, the fourth is equal to the first, the
/// fifth equal to its sources on the first pair.
fn hostile(folder: &Path) -> Vec<String> {
    let [vi, ir, ..] = set(folder, 4, (61, 47));
    std::fs::rename(vi.join("b.png"), vi.join("b<i> & \"c\",.png")).unwrap();
    std::fs::rename(ir.join("b.png"), ir.join("b<i> & \"c\",.png")).unwrap();
    let same = scene(9, 61, 47)[1].clone();
    same.save(vi.join("a.png")).unwrap();
    same.save(ir.join("a.png")).unwrap();
    HOSTILE
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let results = folder.join(format!("m{at}"));
            std::fs::create_dir(&results).unwrap();
            for (k, pair) in ["a", "b<i> & \"c\",", "c", "d"].into_iter().enumerate() {
                if at == 2 && k == 3 {
                    continue;
                }
                let [visible, _, sharp, flat] = scene(k as u32, 61, 47);
                let picture = match at {
                    4 if k == 0 => same.clone(),
                    0 | 3 => sharp,
                    1 => flat,
                    _ => visible.adjust_contrast(10. * at as f32),
                };
                picture.save(results.join(format!("{pair}.png"))).unwrap();
            }
            format!("--fused={name}=@/m{at}")
        })
        .collect()
}

fn scores(folder: &Path, more: &[&str]) -> Value {
    let fused = hostile(folder);
    let fused: Vec<&str> = fused.iter().map(String::as_str).collect();
    let problems = go(folder, &[&fused, more, &["--json=@/s.json"]].concat());
    assert_eq!(problems.len(), 1, "{problems:?}");
    json(&folder.join("s.json"))
}

/// The best and the second best of the methods that have all pictures, the plainest way.
fn marked(scores: &Value, metric: &str) -> [Vec<usize>; 2] {
    let methods = scores["methods"].as_array().unwrap();
    let known = scores["metrics"].as_array().unwrap().iter().find(|m| m["name"] == metric);
    let value = |method: &Value| match metric {
        "rank" => -method["average_rank"].as_f64().unwrap(),
        _ if method["mean"][metric] == "inf" => f64::INFINITY,
        _ => method["mean"][metric].as_f64().unwrap(),
    };
    let sign = if known.is_some_and(|m| m["better"] == "lower") { -1. } else { 1. };
    let complete = methods.iter().enumerate().filter(|(_, m)| m["images"] == 4);
    let values: Vec<(usize, f64)> = complete.map(|(at, m)| (at, sign * value(m))).collect();
    let best = values.iter().map(|v| v.1).fold(f64::NEG_INFINITY, f64::max);
    let rest = values.iter().map(|v| v.1).filter(|v| *v < best).fold(f64::NEG_INFINITY, f64::max);
    [best, rest].map(|want| values.iter().filter(|v| v.1 == want).map(|v| v.0).collect())
}

#[test]
fn latex_has_the_means_and_marks_them() {
    let folder = tempfile::tempdir().unwrap();
    let scores = scores(folder.path(), &["--latex=@/t.tex", "--metrics=EN,MSE,PSNR,AG,MS-SSIM"]);
    let table = read(folder.path(), "t.tex");
    assert!(table.contains("% Needs \\usepackage{booktabs}"));
    assert!(table.contains("% [x]* has 3 of 4 pictures"), "{table}");
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.ends_with("\\\\"))
        // An escaped & is none.
        .map(|line| line.trim_end_matches("\\\\").split(" & ").map(str::trim).collect())
        .collect();
    assert_eq!(
        rows[0],
        [
            "Method",
            "EN $\\uparrow$",
            "AG $\\uparrow$",
            "MSE $\\downarrow$",
            "PSNR $\\uparrow$",
            "MS{-}SSIM $\\uparrow$",
            "Avg.\\ rank $\\downarrow$"
        ]
    );
    let names: Vec<&str> = rows[1..].iter().map(|row| row[0]).collect();
    assert_eq!(
        names,
        [
            "a \\& b\\_1 \\%",
            "\\textless{}b\\textgreater{}bold\\textless{}/b\\textgreater{}",
            "{[}x{]}{*}",
            "+1+2",
            "{\\char`\\\"}q{\\char`\\\"} 'r' \\textbackslash{}\\textasciicircum{}\\textasciitilde{}\
             \\{\\}\\$\\#{-}{-}\\textbar{}\\textasciigrave{}",
            "{-},;\\textless{}script\\textgreater{}",
        ]
    );
    for (column, metric) in (1..).zip(["EN", "AG", "MSE", "PSNR", "MS-SSIM", "rank"]) {
        let [best, second] = match metric {
            // The pictures are too small for it.
            "MS-SSIM" => Default::default(),
            _ => marked(&scores, metric),
        };
        for (at, row) in rows[1..].iter().enumerate() {
            let method = &scores["methods"][at];
            let value = match metric {
                "rank" => method["average_rank"].as_f64().map(|rank| format!("{rank:.2}")),
                _ if method["mean"][metric] == "inf" => Some("$\\infty$".to_owned()),
                _ => method["mean"][metric]
                    .as_f64()
                    .map(|mean| format!("{mean:.4}").replace("-", "$-$")),
            };
            let value = value.unwrap_or("--".to_owned());
            let want = match () {
                () if best.contains(&at) => format!("\\textbf{{{value}}}"),
                () if second.contains(&at) => format!("\\underline{{{value}}}"),
                () => value,
            };
            assert_eq!(row[column], want, "{metric}, method {at}");
        }
    }
    // What is checked above was there: equal ones, an infinite one, a missing one.
    assert_eq!(marked(&scores, "AG")[0].len().max(marked(&scores, "AG")[1].len()), 2);
    assert!(rows[5][4] == "\\textbf{$\\infty$}" && rows[1][5] == "--" && rows[3][6] == "--");
    compiles(folder.path(), "t.tex");
}

/// Where TeX is installed.
fn compiles(folder: &Path, table: &str) {
    let paper = format!(
        "\\documentclass{{article}}\n\\usepackage{{booktabs}}\n\\begin{{document}}\n\
         \\input{{{table}}}\n\\end{{document}}\n"
    );
    std::fs::write(folder.join("paper.tex"), paper).unwrap();
    let latex = Command::new("pdflatex")
        .args(["-interaction=nonstopmode", "-halt-on-error", "paper.tex"])
        .current_dir(folder)
        .output();
    match latex {
        Ok(done) => assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout)),
        Err(why) => eprintln!("the table is not compiled: pdflatex: {why}"),
    }
}

#[test]
fn nothing_in_latex_is_minus_nothing() {
    assert_eq!(latex::escape("two\nlines\r"), "two lines ");
    let report = |value: f64| {
        let json = format!(
            "{{\"metrics\":[{{\"name\":\"SCD\"}}],\"methods\":[{{\"name\":\"A\"}}],\"problems\":[],\
             \"images\":[{{\"name\":\"a\",\"width\":1,\"height\":1,\
             \"scores\":{{\"A\":{{\"SCD\":{value}}}}}}}]}}"
        );
        latex::table(&stored::read(&json).unwrap())
    };
    assert!(report(-0.5).contains("A & $-$0.5000 & 1.00"), "{}", report(-0.5));
    assert!(report(-0.00001).contains("A & 0.0000 &"));
}

fn workbook(path: &Path) -> Xlsx<std::io::BufReader<std::fs::File>> {
    calamine::open_workbook(path).unwrap()
}

fn rows(book: &mut Xlsx<std::io::BufReader<std::fs::File>>, sheet: &str) -> Vec<Vec<Data>> {
    book.worksheet_range(sheet).unwrap().rows().map(<[Data]>::to_vec).collect()
}

fn cell(value: &Value) -> Data {
    match value {
        Value::Null => Data::Empty,
        Value::String(text) => Data::String(text.clone()),
        number => Data::Float(number.as_f64().unwrap()),
    }
}

#[test]
fn workbooks_have_all_values() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("day.txt"), "a\nc\n").unwrap();
    let more = [
        "--xlsx=@/s.xlsx",
        "--metrics=EN,MSE,PSNR,VIF,MS-SSIM",
        "--subset=a[b]:c*?/\\ and a very long name of many letters=@/day.txt",
        "--intervals=90",
        "--resamples=100",
        "--against=+1+2",
    ];
    let scores = scores(folder.path(), &more);
    let mut book = workbook(&folder.path().join("s.xlsx"));
    let subset =
        "Means a[b]:c*?/\\ and a very long name".replace(['[', ']', ':', '*', '?', '/', '\\'], "_");
    let subset: String = subset.chars().take(31).collect();
    let sheets =
        ["Means", subset.trim(), "Intervals 90 %", "Tests", "EN", "VIF", "MSE", "PSNR", "MS-SSIM"];
    assert_eq!(book.sheet_names(), sheets);
    let metrics = ["EN", "VIF", "MSE", "PSNR", "MS-SSIM"];

    let means = rows(&mut book, "Means");
    assert_eq!(means[0].last(), Some(&Data::String("Avg. rank ↓".into())));
    assert_eq!(means[0][4], Data::String("MSE ↓".into()));
    for (at, row) in means[1..].iter().enumerate() {
        let method = &scores["methods"][at];
        let mut want = vec![cell(&method["name"]), cell(&method["images"])];
        want.extend(metrics.map(|metric| cell(&method["mean"][metric])));
        want.push(cell(&method["average_rank"]));
        assert_eq!(*row, want);
    }
    for metric in metrics {
        let values = rows(&mut book, metric);
        assert_eq!(values.len(), 1 + 4 + 1, "{metric}");
        for (at, name) in HOSTILE.iter().enumerate() {
            assert_eq!(values[0][at + 1], Data::String((*name).into()));
            for (image, row) in scores["images"].as_array().unwrap().iter().zip(&values[1..]) {
                assert_eq!(row[0], cell(&image["name"]));
                assert_eq!(row[at + 1], cell(&image["scores"][name][metric]), "{metric}, {name}");
            }
            assert_eq!(values[5][at + 1], cell(&scores["methods"][at]["mean"][metric]));
        }
        assert_eq!(values[5][0], Data::String("mean".into()));
    }
    let psnr = rows(&mut book, "PSNR");
    assert!(psnr[1][5] == Data::String("inf".into()) && psnr[4][3] == Data::Empty);

    let tests = rows(&mut book, "Tests");
    // Five methods against one, by four metrics that there are.
    assert_eq!(tests.len(), 1 + 5 * 4);
    let intervals = rows(&mut book, "Intervals 90 %");
    assert_eq!((intervals.len(), intervals[0].len()), (7, 11));
    let bounds = &scores["intervals"]["methods"][1]["mean"]["EN"];
    assert_eq!(intervals[2][1..3], [cell(&bounds[0]), cell(&bounds[1])]);

    // Bold and underlined, by the file's own tables of styles.
    let [best, second] = marked(&scores, "MSE");
    let styles = styles(&folder.path().join("s.xlsx"));
    for at in 0..HOSTILE.len() {
        let style = &styles[&format!("E{}", at + 2)];
        assert_eq!(style, &(best.contains(&at), second.contains(&at)), "method {at}");
    }
}

/// Whether each cell of the first sheet is bold, and underlined.
fn styles(path: &Path) -> HashMap<String, (bool, bool)> {
    let mut file = zip::ZipArchive::new(std::fs::File::open(path).unwrap()).unwrap();
    let mut part = |name: &str| {
        let mut text = String::new();
        file.by_name(name).unwrap().read_to_string(&mut text).unwrap();
        text
    };
    let (styles, sheet) = (part("xl/styles.xml"), part("xl/worksheets/sheet1.xml"));
    let styles = roxmltree::Document::parse(&styles).unwrap();
    let all = |parent: &str, name: &str| {
        let parent = styles.descendants().find(|n| n.tag_name().name() == parent).unwrap();
        parent.children().filter(|n| n.tag_name().name() == name).collect::<Vec<_>>()
    };
    let (fonts, formats) = (all("fonts", "font"), all("cellXfs", "xf"));
    let sheet = roxmltree::Document::parse(&sheet).unwrap();
    let cells = sheet.descendants().filter(|n| n.tag_name().name() == "c");
    let styled = cells.map(|cell| {
        let format = cell.attribute("s").map_or(0, |s| s.parse::<usize>().unwrap());
        let font = fonts[formats[format].attribute("fontId").unwrap().parse::<usize>().unwrap()];
        let has = |name| font.children().any(|n| n.tag_name().name() == name);
        (cell.attribute("r").unwrap().to_owned(), (has("b"), has("u")))
    });
    styled.collect()
}

#[test]
fn sheets_have_names_that_excel_takes() {
    let mut taken: Vec<String> = Vec::new();
    let long = "x".repeat(40);
    for wanted in [
        "A/B",
        "a:b",
        "",
        "'quoted'",
        "History",
        &long,
        &long,
        "🙂🙂🙂🙂🙂🙂🙂🙂🙂🙂🙂🙂🙂🙂🙂🙂",
        " ",
        "'",
        "tab\there",
    ] {
        let name = sheet_name(wanted, &taken);
        assert!(name.encode_utf16().count() <= 31 && !name.is_empty(), "{wanted}: {name}");
        assert!(!name.contains(['[', ']', ':', '*', '?', '/', '\\', '\t']), "{name}");
        assert!(!name.starts_with('\'') && !name.ends_with('\''), "{name}");
        assert!(!taken.iter().any(|t| t.to_lowercase() == name.to_lowercase()), "{name}");
        taken.push(name);
    }
    assert_eq!(taken[..3], ["A_B", "a_b (2)", "Sheet"]);
    // As the crate that writes them sees it.
    let mut book = rust_xlsxwriter::Workbook::new();
    for name in &taken {
        book.add_worksheet().set_name(name).unwrap();
    }
    book.save_to_buffer().unwrap();
}

#[test]
fn plots_are_files_that_stand_alone() {
    let folder = tempfile::tempdir().unwrap();
    let more = ["--plots=@/deep/plots", "--html=@/s.html", "--metrics=EN,PSNR,MS-SSIM"];
    scores(folder.path(), &more);
    let plots = folder.path().join("deep/plots");
    let mut names: Vec<_> =
        std::fs::read_dir(&plots).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["EN.svg", "MS-SSIM.svg", "PSNR.svg"]);
    let html = read(folder.path(), "s.html");
    for (name, points) in [("EN", 23), ("PSNR", 22), ("MS-SSIM", 0)] {
        let text = read(&plots, &format!("{name}.svg"));
        let svg = roxmltree::Document::parse(&text).unwrap();
        assert_eq!(svg.root_element().tag_name().namespace(), Some("http://www.w3.org/2000/svg"));
        let of = |class: &str| {
            let class = class.to_owned();
            svg.descendants().filter(move |n| n.attribute("class") == Some(&*class))
        };
        let dots: usize = of("dots").map(|n| n.attribute("d").unwrap().matches('M').count()).sum();
        assert_eq!(dots, points, "{name}");
        assert_eq!(of("box").count(), if points > 0 { 6 } else { 0 });
        // The very drawing of the page.
        let drawing = text.split_once("translate(0 22)\">").unwrap().1;
        let drawing = drawing.split_once("</g></svg>").unwrap().0;
        assert!(html.contains(drawing), "{name}");
    }
    let psnr = read(&plots, "PSNR.svg");
    assert!(psnr.contains("1 infinite") && psnr.contains("&lt;b&gt;bold"));
    assert!(read(&plots, "MS-SSIM.svg").contains("no finite values"));
    for bad in ["@/s.html", "@/s.html/plots"] {
        let bad = format!("--plots={bad}");
        let args = [&PAIR[..], &["--baseline=max", &bad]].concat();
        let told = crate::fault(evaluate(folder.path(), &args));
        assert!(told.contains("s.html"), "{told}");
    }
}

/// No name gets out of its place, in text or in an attribute.
#[test]
fn pages_escape_what_they_show() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("day.txt"), "a\nc.png\n").unwrap();
    let more = ["--html=@/s.html", "--subset=<u>day</u>=@/day.txt", "--intervals", "--against"];
    scores(folder.path(), &more);
    let html = read(folder.path(), "s.html");
    for name in ["<b>bold", "<u>day", "b<i>", "<script>\n", "-,;<script>", "\"q\" 'r'"] {
        assert!(!html.contains(name), "{name}");
    }
    assert_eq!(html.matches("<script>").count(), 1);
    for name in [
        "&lt;b&gt;bold&lt;/b&gt;",
        "&lt;u&gt;day&lt;/u&gt;",
        "alt=\"&quot;q&quot; 'r'",
        "b&lt;i&gt; &amp; &quot;c&quot;,",
    ] {
        assert!(html.contains(name), "{name}");
    }
    // Means, one subset, tests and values.
    assert_eq!(html.matches("<table class=\"sortable\">").count(), 4);
    assert!(html.contains("class=\"interval\"") && html.contains("Differences to a &amp; b_1 %"));
}

#[test]
fn subsets_are_evaluations_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    set(folder.path(), 5, (61, 47));
    let at = |name: &str| folder.path().join(name);
    // A mark, Windows' ends of lines, extensions, a name twice, spaces.
    std::fs::write(at("day.txt"), "\u{feff}a\r\n  c.png \r\n\r\na\r\nd.JPG").unwrap();
    std::fs::write(at("night.txt"), "b\ne\nnobody\na.tar\n").unwrap();
    let methods = ["--fused=Sharp=@/sharp", "--fused=Flat=@/flat", "--baseline=max"];
    let more = [
        "--subset=day=@/day.txt",
        "--subset=night=@/night.txt",
        "--json=@/all.json",
        "--means=@/m.csv",
        "--latex=@/t.tex",
    ];
    go(folder.path(), &[&methods[..], &more].concat());
    let all = json(&at("all.json"));
    let names = |at: usize| all["subsets"][at]["images"].clone();
    assert_eq!(names(0), serde_json::json!(["a", "c", "d"]));
    assert_eq!(names(1), serde_json::json!(["b", "e"]));

    // The same of folders with these pairs alone.
    for folder in ["vi", "ir"] {
        for name in ["b", "e"] {
            std::fs::remove_file(at(&format!("{folder}/{name}.png"))).unwrap();
        }
    }
    go(folder.path(), &[&methods[..], &["--json=@/day.json"]].concat());
    assert_eq!(all["subsets"][0]["methods"], json(&at("day.json"))["methods"]);

    let mut means = csv::Reader::from_path(at("m.csv")).unwrap();
    let rows: Vec<csv::StringRecord> = means.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 3 * 3 * 13);
    for row in &rows {
        let methods = match &row[0] {
            "" => &all["methods"],
            subset => &all["subsets"][usize::from(subset == "night")]["methods"],
        };
        let method = methods.as_array().unwrap().iter().find(|m| m["name"] == row[1]).unwrap();
        let want = match &row[3] {
            "Avg. rank" => &method["average_rank"],
            metric => &method["mean"][metric],
        };
        assert_eq!(row[4].parse::<f64>().ok(), want.as_f64(), "{row:?}");
        assert_eq!(row[2].parse::<u64>().ok(), method["images"].as_u64());
        assert!(row.iter().skip(5).all(str::is_empty));
    }
    let table = read(folder.path(), "t.tex");
    assert_eq!(table.matches("\\begin{tabular}").count(), 3);
    assert!(table.contains("{c}{day, 3 pairs}") && table.contains("{c}{night, 2 pairs}"));
    compiles(folder.path(), "t.tex");
}

#[test]
fn what_is_asked_for_is_shown_and_named() {
    let folder = tempfile::tempdir().unwrap();
    set(folder.path(), 5, (24, 18));
    std::fs::write(folder.path().join("night.txt"), "b\ne\nnobody\n").unwrap();
    let run = |args: &[&str]| {
        let fixed = ["evaluate", "--visible=vi", "--infrared=ir", "--metrics=EN,AG"];
        let mut program = Command::new(env!("CARGO_BIN_EXE_isfm"));
        let output = program.args(fixed).args(args).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let methods = ["--fused=Sharp=sharp", "--fused=Flat=flat", "--baseline=max"];
    let more = ["--subset=night=night.txt", "--intervals=90", "--against=Flat", "--json=s.json"];
    let told = run(&[&methods[..], &more].concat());
    let scores = json(&folder.path().join("s.json"));
    assert!(told.contains("1 names of night (night.txt) are no pairs:\n  nobody"), "{told}");
    assert!(told.contains("night: 2 pairs"), "{told}");
    assert!(told.contains("90 % intervals of the means"), "{told}");
    let [low, high] =
        [0, 1].map(|side| scores["intervals"]["methods"][0]["mean"]["EN"][side].as_f64().unwrap());
    assert!(told.contains(&format!("{low:.4}…{high:.4}")), "{told}");
    assert!(told.contains("to Flat"), "{told}");
    // Five pictures, all better: 2 of 32 signs, and two methods.
    let sharp = &scores["comparison"]["methods"][0];
    assert_eq!(
        (&sharp["name"], &scores["comparison"]["against"]),
        (&"Sharp".into(), &"Flat".into())
    );
    assert_eq!(sharp["tests"]["EN"]["p"], 0.0625);
    assert_eq!(sharp["tests"]["EN"]["p_holm"], 0.125);
    assert!(told.contains("0.1250+") || told.contains("0.1250-"), "{told}");
    // The first if none is named; nothing of this if nobody asks.
    assert!(run(&[&methods[..], &["--against"]].concat()).contains("to Sharp"));
    let plain = run(&methods);
    assert!(
        !plain.contains("intervals") && !plain.contains("Wilcoxon") && !plain.contains("night")
    );
    // One method and one pair.
    let one = ["--baseline=max", "--intervals", "--subset=x=night.txt"];
    assert!(run(&one).contains("95 % intervals"));
}

#[test]
fn clear_errors() {
    let folder = tempfile::tempdir().unwrap();
    set(folder.path(), 2, (24, 18));
    std::fs::write(folder.path().join("none.txt"), "x\ny\n").unwrap();
    std::fs::write(folder.path().join("a.txt"), "a\n").unwrap();
    let cases: [(&[&str], &[&str]); 14] = [
        (&["--subset=day=@/gone.txt"], &["subset day", "gone.txt"]),
        (&["--subset=day=@/none.txt"], &["none.txt", "such as a"]),
        (&["--subset=day=@/a.txt", "--subset=day=@/a.txt"], &["\"day\""]),
        (&["--subset=day"], &["NAME=FILE"]),
        (&["--subset==x"], &["NAME=FILE"]),
        (&["--intervals=0.95"], &["percent", "such as 95"]),
        (&["--intervals=100"], &["percent"]),
        (&["--intervals=NaN"], &["percent"]),
        (&["--intervals", "--resamples=5"], &["100 to 100000"]),
        (&["--resamples=500"], &["--intervals"]),
        (&["--against=Nobody"], &["\"Nobody\"", "Max, Average"]),
        (&["--latex=@/vi"], &["is a folder"]),
        (&["--latex=@/x", "--xlsx=@/x"], &["twice"]),
        (&["--xlsx=@/vi/a.png/x"], &["cannot write"]),
    ];
    for (args, parts) in cases {
        let args = [&PAIR[..], &["--baseline=max,average"], args].concat();
        let told = crate::fault(evaluate(folder.path(), &args));
        assert!(parts.iter().all(|part| told.contains(part)), "{args:?}: {told}");
    }
    let alone = [&PAIR[..], &["--baseline=max", "--against"]].concat();
    assert!(crate::fault(evaluate(folder.path(), &alone)).contains("two methods"));
    // A share may have none of a subset.
    let share = ["--baseline=max", "--shard=1/2", "--subset=x=@/none.txt", "--json=@/s.json"];
    go(folder.path(), &share);
}

/// Scores of shards become the same files as those of one process.
#[test]
fn merged_scores_have_the_same_outputs() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("day.txt"), "a\nc\n").unwrap();
    let more = ["--subset=day=@/day.txt", "--intervals=80", "--resamples=200", "--against"];
    let outputs = |to: &str| {
        let kinds = [
            "json=@/T.json",
            "csv=@/T.csv",
            "means=@/Tm.csv",
            "latex=@/T.tex",
            "xlsx=@/T.xlsx",
            "plots=@/T",
        ];
        kinds.map(|kind| format!("--{}", kind.replace('T', to)))
    };
    let fused = hostile(folder.path());
    let fused: Vec<&str> = fused.iter().map(String::as_str).collect();
    let whole = outputs("whole");
    let whole: Vec<&str> = whole.iter().map(String::as_str).collect();
    assert_eq!(go(folder.path(), &[&fused, &more[..], &whole].concat()).len(), 1);
    for shard in ["1", "2"] {
        let [share, file] = [format!("--shard={shard}/2"), format!("--json=@/{shard}.json")];
        go(folder.path(), &[&fused[..], &[&share, &file]].concat());
    }
    let merged = outputs("merged");
    let merged: Vec<&str> = merged.iter().map(String::as_str).collect();
    let files = ["@/1.json", "@/2.json", "--quiet", "--html=@/merged.html"];
    let told = merge(folder.path(), &[&files[..], &more, &merged].concat()).unwrap();
    assert!(told.len() == 1 && told[0].contains("no result"), "{told:?}");
    for name in [".json", ".csv", "m.csv", ".tex"] {
        let [whole, merged] =
            ["whole", "merged"].map(|kind| read(folder.path(), &format!("{kind}{name}")));
        assert!(whole == merged, "{name}");
    }
    for metric in &Metric::ALL[..isfm_cli::evaluate::DEFAULT] {
        let [whole, merged] =
            ["whole", "merged"].map(|kind| read(folder.path(), &format!("{kind}/{metric}.svg")));
        assert!(whole == merged, "{metric}");
    }
    let [mut whole, mut merged] =
        ["whole", "merged"].map(|kind| workbook(&folder.path().join(format!("{kind}.xlsx"))));
    assert_eq!(whole.sheet_names(), merged.sheet_names());
    for sheet in whole.sheet_names() {
        assert_eq!(rows(&mut whole, &sheet), rows(&mut merged, &sheet), "{sheet}");
    }
    // A page without pictures is one.
    let html = read(folder.path(), "merged.html");
    assert!(
        !html.contains("<img") && !html.contains("#pictures\"") && html.contains("id=\"values\"")
    );

    for args in [["@/1.json", "--against=Nobody"], ["@/1.json", "--latex=@/vi"]] {
        assert!(merge(folder.path(), &args).is_err(), "{args:?}");
    }
    std::fs::write(folder.path().join("m.jsonl"), "").unwrap();
    let told = crate::fault(merge(folder.path(), &["@/m.jsonl", "--latex=@/t.tex"]));
    assert!(told.contains("--output"), "{told}");
    assert!(!folder.path().join("t.tex").exists());
}
