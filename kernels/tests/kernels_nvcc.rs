//! What the crate gives out names what it contains, and nvcc, where there is one, takes it.

use std::io::Write;
use std::process::Command;

use isfm_kernels::{MAX_THREADS, haar, silu, sources};

const MODULES: [(&str, &str, &[&str]); 2] = [
    ("haar", sources::HAAR, &[haar::FORWARD, haar::INVERSE]),
    (
        "silu",
        sources::SILU,
        &[silu::FORWARD, silu::BACKWARD, silu::GATE_FORWARD, silu::GATE_BACKWARD],
    ),
];

/// Every kernel of `names`, and no other, is an entry of the PTX.
fn assert_entries(ptx: &str, names: &[&str]) {
    for name in names {
        assert!(ptx.contains(&format!(".entry {name}(")), "no {name} in the PTX");
    }
    assert_eq!(ptx.matches(".entry ").count(), names.len(), "a kernel without a name constant");
}

#[test]
fn sources_define_the_named_kernels() {
    for (module, source, names) in MODULES {
        assert_eq!(source.matches("__global__").count(), names.len(), "{module}");
        for name in names {
            assert!(source.contains(&format!(" {name}(")), "{module} lacks {name}");
        }
        let included: Vec<&str> = source
            .lines()
            .filter_map(|l| l.strip_prefix("#include \"")?.strip_suffix('"'))
            .collect();
        for header in included {
            assert!(sources::HEADERS.iter().any(|(name, _)| *name == header), "{header}");
        }
    }
    let (_, portable) = sources::HEADERS[0];
    assert!(portable.contains(&format!("#define ISFM_THREADS {MAX_THREADS}\n")));
}

#[cfg(feature = "cuda")]
#[test]
fn built_ptx_has_the_named_kernels() {
    assert_entries(isfm_kernels::ptx::HAAR, MODULES[0].2);
    assert_entries(isfm_kernels::ptx::SILU, MODULES[1].2);
}

#[test]
fn nvcc_compiles_without_a_warning_or_a_spill() {
    let nvcc = std::env::var("NVCC").unwrap_or_else(|_| "nvcc".into());
    if Command::new(&nvcc).arg("--version").output().is_err() {
        // Not `eprintln!`, which the test harness hides when a test passes.
        let said = writeln!(std::io::stderr(), "SKIPPED: no nvcc, the kernels were not compiled");
        assert!(said.is_ok());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in sources::HEADERS {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    for (module, source, names) in MODULES {
        let file = folder.path().join(format!("{module}.cu"));
        std::fs::write(&file, source).unwrap();
        for arch in ["sm_80", "sm_90"] {
            let compile = |to: &str| {
                let output = folder.path().join(format!("{module}.{to}"));
                let done = Command::new(&nvcc)
                    .args([format!("-{to}"), format!("-arch={arch}")])
                    .args(["-std=c++17", "-O3", "-Werror", "all-warnings"])
                    .arg("-Xptxas=-warn-spills,-warn-lmem-usage,-Werror")
                    .arg("-o")
                    .args([&output, &file])
                    .output()
                    .unwrap();
                let errors = String::from_utf8_lossy(&done.stderr);
                assert!(done.status.success(), "{module} {to} {arch}: {errors}");
                output
            };
            assert_entries(&std::fs::read_to_string(compile("ptx")).unwrap(), names);
            compile("cubin");
        }
    }
}
