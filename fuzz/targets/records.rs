//! A list of pairs, a manifest or a file of scores, as `isfm` reads them.
#![no_main]

use std::path::Path;

use isfm_cli::evaluate::stored;
use isfm_cli::fuse::manifest;
use isfm_cli::list;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    for lines in [false, true] {
        if let Ok(pairs) = list::parse(text, lines, Path::new("folder")) {
            let mut names: Vec<&str> = pairs.iter().map(|pair| pair.name.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), pairs.len(), "two of one name");
        }
    }
    if let Ok(records) = manifest::parse(text) {
        let best = manifest::best(records.iter().cloned());
        assert!(records.iter().all(|record| best[&record.pair].state >= record.state));
    }
    if let Ok(report) = stored::read(text) {
        _ = report.problems();
    }
});
