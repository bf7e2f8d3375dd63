//! A folder in three shards, one of which is killed in the middle and gone on with.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use isfm_cli::fuse::manifest;

use crate::child::fuse;
use crate::common::{asked, pairs};

/// From so many pairs on, memory is compared.
const ENOUGH: usize = 2000;

/// The union of the shards is the whole, bit for bit, nothing lost or doubled; memory does not grow with the
/// number of pairs.
pub(crate) fn the_union_is_the_whole() {
    let count = asked("ISFM_PAIRS", 60);
    let folder = tempfile::tempdir().unwrap();
    pairs(folder.path(), count as u32, (64, 64));
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let start = |output: &str, more: &[&str]| {
        let (vi, ir, output, manifest) =
            (at("vi"), at("ir"), at(output), at(&format!("{output}.jsonl")));
        let args =
            ["--visible", &vi, "--infrared", &ir, "-o", &output, "--manifest", &manifest, "-q"];
        let mut command = fuse(&[&args, more].concat());
        command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap()
    };
    let begun = Instant::now();
    let [first, second] = watch(start("whole", &[]), &at("whole"), count);
    let took = begun.elapsed().as_secs_f64();
    println!("  {count} pairs in {took:.1} s, at most {first} and {second} KiB in the halves");
    // An allocator's arenas move by some MiB.
    assert!(count < ENOUGH || second < first + (8 << 10), "{first} KiB, then {second}");

    for shard in ["1/3", "3/3"] {
        assert!(start("parts", &["--shard", shard]).wait().unwrap().success());
    }
    // The second is killed when half of its pairs are there.
    let before = files(&at("parts"));
    let mut child = start("parts", &["--shard", "2/3"]);
    while files(&at("parts")) < before + count / 6 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
        sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let left = count - files(&at("parts"));
    assert!(left > 0, "it was killed too late");
    println!("  killed with {left} of {count} pairs left");
    assert!(start("parts", &["--shard", "2/3", "--resume"]).wait().unwrap().success());

    let names = |folder: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let done = entries.filter(|path| !isfm_files::is_unfinished(path));
        done.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    };
    let whole = names(&at("whole"));
    assert!(whole.len() == count && names(&at("parts")) == whole);
    for name in &whole {
        let read = |folder: &str| fs::read(Path::new(&at(folder)).join(name)).unwrap();
        assert!(read("whole") == read("parts"), "{name}");
    }
    // Each pair once, in one shard; the one that was being told of when the process ended is found.
    let mut seen = BTreeSet::new();
    for shard in 1..=3 {
        let path = at(&format!("parts.{shard}-of-3.jsonl"));
        for record in manifest::read(Path::new(&path)).unwrap() {
            assert!(record.error.is_none() && seen.insert(record.pair.clone()), "{}", record.pair);
        }
    }
    assert_eq!(seen.len(), count);
}

fn files(folder: &str) -> usize {
    let entries = fs::read_dir(folder).map(|entries| entries.flatten().collect::<Vec<_>>());
    let done = entries.unwrap_or_default();
    done.into_iter().filter(|entry| !isfm_files::is_unfinished(&entry.path())).count()
}

/// The most KiB that the process held in the first and in the second half of its work; 0 where the system
/// does not tell.
fn watch(mut child: Child, output: &str, count: usize) -> [u64; 2] {
    let mut most = [0; 2];
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        let half = usize::from(files(output) > count / 2);
        let text = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let resident = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = resident.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        most[half] = most[half].max(kib.unwrap_or(0));
        sleep(Duration::from_millis(50));
    };
    assert!(status.success(), "{status}");
    most
}
