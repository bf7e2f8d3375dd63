//! What the programs and the library hold out: `kill -9`, Ctrl-C, little memory, streams in the place of
//! files, long use and many threads.
//!
//! Short by default. As docs/reliability.md has it:
//!
//! ```text
//! ISFM_KILLS=200 ISFM_FUSIONS=20000 ISFM_CALLS=1000 cargo test --release -p isfm-cli --test reliability
//! ```
//!
//! A word after `--` runs what has it in its name alone. A main function of its own, because the tests
//! start this program again to do what is killed, with standard output as it leaves it.

mod child;
mod common;
#[cfg(unix)]
mod kill;
#[cfg(target_os = "linux")]
mod limits;
#[cfg(unix)]
mod shards;
mod soak;
#[cfg(unix)]
mod streams;

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = child::run() {
        return code;
    }
    let only: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let tests: &[(&str, fn())] = &[
        ("soak::memory_stays_flat", soak::memory_stays_flat),
        ("soak::calls_at_once_give_the_same_bits", soak::calls_at_once_give_the_same_bits),
        #[cfg(unix)]
        ("kill::training", kill::training),
        #[cfg(unix)]
        ("kill::saving", kill::saving),
        #[cfg(unix)]
        ("kill::fusing", kill::fusing),
        #[cfg(unix)]
        ("kill::converting", kill::converting),
        #[cfg(unix)]
        ("shards::the_union_is_the_whole", shards::the_union_is_the_whole),
        #[cfg(unix)]
        ("streams::results_go_to_standard_output", streams::results_go_to_standard_output),
        #[cfg(unix)]
        (
            "streams::interrupted_programs_leave_nothing",
            streams::interrupted_programs_leave_nothing,
        ),
        #[cfg(target_os = "linux")]
        ("limits::little_memory_is_no_abort", limits::little_memory_is_no_abort),
    ];
    for (name, test) in tests {
        if only.is_empty() || only.iter().any(|word| name.contains(word.as_str())) {
            println!("{name}");
            test();
        }
    }
    ExitCode::SUCCESS
}
