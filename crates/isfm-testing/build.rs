//! Finds out whether the pictures that are no part of the repository are here.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(shared)");
    println!("cargo::rerun-if-changed=build.rs");
    let shared = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared");
    let needed = ["data/README.md", "golden/metrics_real/expected.json"];
    let needed = needed.map(|file| format!("{shared}/{file}"));
    if needed.iter().all(|file| std::path::Path::new(file).exists()) {
        println!("cargo::rustc-cfg=shared");
        // Cargo takes a missing file for a changed one, so only what is there can be watched.
        needed.iter().for_each(|file| println!("cargo::rerun-if-changed={file}"));
    }
}
