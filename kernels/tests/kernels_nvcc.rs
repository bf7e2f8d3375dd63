//! nvcc, where there is one, takes every source without a warning, and no scan kernel needs memory
//! for its registers.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use isfm_kernels::haar::{self, Bands};
use isfm_kernels::pointwise::{self, AdamStep, Gate};
use isfm_kernels::scan::Scan;
use isfm_kernels::window::{self, Depthwise};
use isfm_kernels::{Map, Module, Plan, Type, conv, norm, resize, sums};

/// `NVCC`, else nvcc on the `PATH`, else the one in `CUDA_HOME`.
fn nvcc() -> Option<PathBuf> {
    let runs = |p: &PathBuf| Command::new(p).arg("--version").output().is_ok();
    if let Ok(given) = std::env::var("NVCC") {
        let given = PathBuf::from(given);
        assert!(runs(&given), "NVCC={} cannot be run", given.display());
        return Some(given);
    }
    let mut all = vec![PathBuf::from("nvcc")];
    if let Ok(home) = std::env::var("CUDA_HOME") {
        all.push(PathBuf::from(home).join("bin/nvcc"));
    }
    all.into_iter().find(runs)
}

#[test]
fn nvcc_compiles_without_a_warning_or_a_spill() {
    let Some(nvcc) = nvcc() else {
        // Not `eprintln!`, which the test harness hides when a test passes.
        let said = writeln!(std::io::stderr(), "SKIPPED: no nvcc, the kernels were not compiled");
        assert!(said.is_ok());
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for arch in ["sm_80", "sm_90"] {
        let mut entries = BTreeSet::new();
        for module in Module::ALL {
            let done = Command::new(&nvcc)
                .arg("-cubin")
                .arg(format!("-arch={arch}"))
                .args(["-std=c++17", "-O3", "-Werror", "all-warnings", "-Xptxas", "-v"])
                .arg("-Xptxas=-warn-spills,-warn-lmem-usage,-Werror")
                .arg("-o")
                .arg(folder.path().join("out.cubin"))
                .arg(sources.join(format!("{}.cu", module.name())))
                .output()
                .unwrap();
            let report = String::from_utf8_lossy(&done.stderr);
            assert!(done.status.success(), "{} {arch}: {report}", module.name());
            let compiled: Vec<&str> = report
                .lines()
                .filter_map(|l| l.split_once("Compiling entry function '")?.1.split('\'').next())
                .collect();
            assert!(!compiled.is_empty(), "the compiler's report is not as expected: {report}");
            // ptxas has refused spills already; but do not trust a flag alone.
            let clean = report.matches("0 bytes spill stores, 0 bytes spill loads").count();
            let all = report.matches("bytes spill stores").count();
            assert!(clean == all && all >= compiled.len(), "{} {arch}: {report}", module.name());
            entries.extend(compiled.into_iter().map(String::from));
        }
        let launched: BTreeSet<String> =
            plans().iter().flat_map(|p| p.launches().iter().map(|l| l.kernel.clone())).collect();
        assert_eq!(entries, launched, "{arch}: kernels compiled, and kernels that plans launch");
    }
}

const ADAM: AdamStep = AdamStep {
    gain: 1.,
    mean_rest: 1.,
    square_keep: 1.,
    square_rest: 1.,
    keep: 1.,
    rate: 1.,
    root: 1.,
    eps: 1.,
};

/// Plans that launch every kernel.
fn plans() -> Vec<Plan> {
    let map = Map { batch: 1, height: 4, width: 4, channels: 2 };
    let mut all = Vec::new();
    for t in [Type::F32, Type::F16, Type::Bf16] {
        for gate in [Gate::Silu, Gate::Sigmoid] {
            all.extend([pointwise::gate(t, gate, 4), pointwise::gate_backward(t, gate, 4)]);
        }
        all.extend([
            pointwise::silu(t, 4),
            pointwise::silu_backward(t, 4),
            pointwise::weighted_sum(t, 1., 1., 4),
            pointwise::adam(4, &ADAM),
            sums::magnitudes(4),
            pointwise::scale_add(t, [1, 2, 2], false, true),
            sums::product_sums(t, [1, 2, 2]),
            pointwise::add_bias(t, 2, 2, false),
            sums::column_sums(t, 2, 2),
            norm::layer_norm(t, 2, 2, 1e-5),
            norm::layer_norm_backward(t, 2, 2, 1e-5),
            window::depthwise(t, map, 3, Depthwise::default()),
            window::depthwise_weight(t, map, 3),
            window::avg_pool(t, map, 3),
            window::max_pool(t, map, 3),
            window::max_pool_backward(t, map, 3),
            resize::resize(t, map, 5, 5),
            resize::resize_backward(t, map, 5, 5),
            haar::haar(t, map, Bands::Both),
            haar::haar_inverse(t, map, Bands::Both),
            conv::conv(t, map, 2, 3, None, false),
            conv::conv(t, map, 20, 3, None, true),
            conv::conv(t, Map { channels: 32, ..map }, 2, 3, None, true),
            conv::conv(t, Map { channels: 32, ..map }, 128, 3, None, true),
            conv::conv_weight(t, map, 2, 3),
        ]);
        for states in [8, 16] {
            let scan = Scan::map(1, 4, 4, 2, states).rank(2).bias(true).skip(true);
            let scan = scan.softplus(true).log_a(true);
            all.extend([scan.forward(t, true), scan.backward(t)]);
        }
    }
    all.into_iter().collect::<Result<_, _>>().unwrap()
}

#[cfg(feature = "cuda")]
#[test]
fn built_ptx_has_the_kernels_that_plans_launch() {
    for launch in plans().iter().flat_map(|p| p.launches()) {
        let entry = format!(".entry {}(", launch.kernel);
        assert!(launch.module.ptx().contains(&entry), "{entry}");
    }
}
