//! Compiles the CUDA sources to PTX when the feature `cuda` asks for it.

#[cfg(not(feature = "cuda"))]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}

#[cfg(feature = "cuda")]
fn main() -> std::process::ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "CUDA_COMPUTE_CAP", "NVCC_CCBIN", "DOCS_RS"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    if std::env::var_os("DOCS_RS").is_some() {
        return documentation();
    }
    let problems = problems();
    for problem in &problems {
        println!("cargo::error={problem}");
    }
    if problems.is_empty()
        && let Err(e) = compile()
    {
        // A failing status makes Cargo show what nvcc wrote.
        eprintln!("{e}");
        return std::process::ExitCode::FAILURE;
    }
    std::process::ExitCode::SUCCESS
}

/// Files without PTX in them, so that the documentation can be built where there is no nvcc.
#[cfg(feature = "cuda")]
fn documentation() -> std::process::ExitCode {
    macro_rules! sources {
        (
            modules { $($(#[$doc:meta])* $module:ident = $name:literal,)* }
            headers { $($header:literal),* }
        ) => {
            [$($name),*]
        };
    }
    let folder = std::env::var("OUT_DIR").expect("Cargo sets it");
    for name in include!("src/sources.rs") {
        if let Err(e) = std::fs::write(format!("{folder}/{name}.ptx"), "") {
            eprintln!("{folder}/{name}.ptx: {e}");
            return std::process::ExitCode::FAILURE;
        }
    }
    std::process::ExitCode::SUCCESS
}

/// What is missing on this machine, each with what to do about it.
#[cfg(feature = "cuda")]
fn problems() -> Vec<String> {
    let mut problems = Vec::new();
    if cudaforge::CudaToolkit::detect().is_err() {
        problems.push(
            "the feature `cuda` needs the CUDA compiler nvcc, which is not there. Install the CUDA \
             toolkit and put nvcc on the PATH, or set NVCC to the compiler or CUDA_HOME to the \
             toolkit; or build without the feature"
                .to_string(),
        );
    }
    if cudaforge::detect_compute_cap().is_err() {
        let found = match std::env::var("CUDA_COMPUTE_CAP") {
            Ok(given) => format!("CUDA_COMPUTE_CAP={given} is not a compute capability"),
            Err(_) => "CUDA_COMPUTE_CAP is not set and nvidia-smi names none".to_string(),
        };
        problems.push(format!(
            "the feature `cuda` needs to know the GPU to compile for: {found}. Set CUDA_COMPUTE_CAP \
             to the GPU's, without the dot: 80 runs on everything from an A100 on"
        ));
    }
    problems
}

#[cfg(feature = "cuda")]
fn compile() -> Result<(), cudaforge::Error> {
    macro_rules! sources {
        (
            modules { $($(#[$doc:meta])* $module:ident = $name:literal,)* }
            headers { $($header:literal),* }
        ) => {
            cudaforge::KernelBuilder::new()
                .source_files([$(concat!("src/", $name, ".cu")),*])
                .watch([$(concat!("src/", $header)),*])
        };
    }
    include!("src/sources.rs")
        .arg("-std=c++17")
        .arg("-O3")
        // Cargo already knows when to run this; a second cache would miss a change of compiler.
        .no_incremental()
        .build_ptx()?;
    Ok(())
}
