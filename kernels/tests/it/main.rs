//! The kernels run as plain C++ with the plans that a GPU gets, against the CPU's operations in f64.

mod host;
mod ops;
mod scan;

use isfm_kernels::{HEADERS, Module};

#[test]
fn every_source_is_a_module_and_every_header_is_given_out() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let names = |end: &str| {
        let all = std::fs::read_dir(&folder).unwrap().map(|f| f.unwrap().file_name());
        let mut all: Vec<_> = all.map(|name| name.into_string().unwrap()).collect();
        all.retain(|name| name.ends_with(end));
        all.sort();
        all
    };
    let sources: Vec<_> = Module::ALL.iter().map(|m| format!("{}.cu", m.name())).collect();
    assert_eq!(names(".cu"), sources);
    let headers: Vec<_> = HEADERS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names(".cuh"), headers);
    for text in Module::ALL.iter().map(|m| m.source()).chain(HEADERS.iter().map(|(_, text)| *text))
    {
        let included =
            text.lines().filter_map(|l| l.strip_prefix("#include \"")?.strip_suffix('"'));
        let included: Vec<_> = included.collect();
        assert!(!included.is_empty());
        for header in included {
            assert!(headers.contains(&header) || header == "host.hpp", "{header}");
        }
    }
}
