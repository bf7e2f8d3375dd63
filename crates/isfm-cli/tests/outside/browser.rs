//! The page in a real browser, Chromium without a window.
//!
//! The page is loaded into frames of a phone's and of a screen's width, because a browser's window
//! cannot be made as narrow as a phone. `browser.js` uses it and leaves what it saw in the DOM,
//! which the browser then prints.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use isfm_cli::evaluate::DEFAULT;
use serde_json::{Value, json};

use crate::Outcome;
use crate::common::{evaluate, set};

/// Names that Chromium and its relatives are installed under; `CHROMIUM` names another.
const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

fn browser() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("CHROMIUM") {
        return Some(path.into());
    }
    let path = std::env::var_os("PATH")?;
    let candidates = std::env::split_paths(&path).flat_map(|f| BROWSERS.map(|name| f.join(name)));
    candidates.into_iter().find(|candidate| candidate.is_file())
}

/// Runs the browser on a file and returns what it prints.
fn browse(browser: &Path, folder: &Path, options: &[&str], file: &Path) -> String {
    let printed = folder.join("printed");
    let profile = tempfile::tempdir_in(folder).unwrap();
    let mut child = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        // Whatever the page asked a network for would fail.
        .args(["--host-resolver-rules=MAP * ~NOTFOUND", "--hide-scrollbars"])
        // A new one each time: the page remembers the choice of light or dark.
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(options)
        .arg(format!("file://{}", file.display()))
        .stdout(std::fs::File::create(&printed).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("{}: {e}", browser.display()));
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(120) {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("the browser was not done after two minutes");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    std::fs::read_to_string(printed).unwrap()
}

const PAIRS: u32 = 50;
const METHODS: usize = 12;

pub(crate) fn the_page_works_in_a_browser() -> Outcome {
    let browser = browser().ok_or_else(|| format!("none of {BROWSERS:?} is installed"))?;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    set(folder, PAIRS, (120, 90));
    std::fs::remove_file(folder.join("flat/d.bmp")).unwrap();
    std::fs::write(folder.join("day.txt"), "a\nb\n").unwrap();
    let mut args = vec!["--visible=@/vi".to_owned(), "--infrared=@/ir".to_owned()];
    args.push("--fused=<b>A 'long' name & \"more\"=@/flat".to_owned());
    // Besides it and Max.
    args.extend((2..METHODS).map(|at| format!("--fused=M{at:02}=@/sharp")));
    let more =
        ["--baseline=max", "--html=@/page.html", "--intervals", "--resamples=200", "--quiet"];
    args.extend(more.map(str::to_owned));
    args.extend(["--against", "--subset=<i>day=@/day.txt"].map(str::to_owned));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    assert_eq!(evaluate(folder, &args).unwrap().len(), 1);
    let html = std::fs::read_to_string(folder.join("page.html")).unwrap();
    for address in ["http:", "https:", "src=\"/", "src='/", "url("] {
        assert!(!html.contains(address), "the page asks for {address}");
    }

    for (system, options) in [
        ("light", &["--blink-settings=preferredColorScheme=1"][..]),
        ("dark", &["--blink-settings=preferredColorScheme=0"]),
    ] {
        let harness = folder.join(format!("{system}.html"));
        // `<` would end the script.
        let page = json!(html).to_string().replace('<', "\\u003c");
        std::fs::write(
            &harness,
            format!(
                "<!doctype html><meta charset=utf-8><body><pre id=seen></pre>\
                 <script>const page = {page};\n{}</script>",
                include_str!("browser.js")
            ),
        )
        .unwrap();
        let options = [options, &["--dump-dom", "--virtual-time-budget=60000"]].concat();
        let dom = browse(&browser, folder, &options, &harness);
        let seen = dom.split("<pre id=\"seen\">").nth(1).and_then(|s| s.split("</pre>").next());
        let seen = seen.unwrap_or_else(|| panic!("the browser printed {dom:.500}"));
        let seen: Value = serde_json::from_str(seen).unwrap_or_else(|e| panic!("{e}: {seen:.500}"));
        for (frame, width) in [("phone", 390), ("screen", 1280)] {
            let seen = &seen[frame];
            let name = format!("{system}, {frame}: {seen}");
            assert_eq!(seen["failed"], json!([]), "{name}");
            assert_eq!(seen["inner"], width, "{name}");
            // Nothing makes the page itself scroll sideways.
            assert!(seen["scroll"].as_u64().unwrap() <= width, "{name}");
            // Two sources and a result of each method, one of which is missing.
            let pictures = json!(PAIRS as usize * (2 + METHODS) - 1);
            assert_eq!((&seen["pictures"], &seen["drawn"]), (&pictures, &pictures), "{name}");
            assert_eq!(seen["missing"], 1, "{name}");
            // Every column of the tables of means, of the subset's, of p and of values, in both directions.
            let heads = seen["heads"].as_u64().unwrap();
            assert_eq!(heads, 3 + 3 + 1 + 2 + 4 * DEFAULT as u64, "{name}");
            assert_eq!(seen["sorted"], 2 * heads, "{name}");
            assert_eq!(seen["plots"], DEFAULT, "{name}");
            assert_eq!(seen["theme"], system, "{name}");
            let other = if system == "light" { "dark" } else { "light" };
            assert_eq!(seen["toggled"], other, "{name}");
        }

        // What a person would see: not blank, and of the system's brightness.
        let shot = folder.join(format!("{system}.png"));
        let shoot = format!("--screenshot={}", shot.display());
        let options = [&options[..1], &[&shoot, "--window-size=1000,800"]].concat();
        browse(&browser, folder, &options, &folder.join("page.html"));
        let shot = isfm::read_image(&shot).unwrap().to_luma8();
        let mean = shot.iter().map(|&v| f64::from(v)).sum::<f64>() / shot.len() as f64;
        assert_eq!(mean > 128., system == "light", "{system}: mean level {mean}");
        assert!(shot.iter().any(|&v| (f64::from(v) - mean).abs() > 60.), "{system}: blank");
    }
    Ok(())
}
