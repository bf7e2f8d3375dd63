//! Ctrl-C, and the system's wish that a process ends.

use std::io::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Calls `answer`, on a thread of its own, each time that the process is asked to end: by Ctrl-C, and on
/// Unix by SIGTERM and the closing of its terminal, unless whoever started it had these ignored (as
/// `nohup` does). `answer` is given the exit code that belongs to it.
///
/// # Errors
/// The system's.
#[cfg(unix)]
pub fn on_interrupt(answer: impl Fn(i32) + Send + 'static) -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let bit = |signal: i32| 1u64 << (signal - 1);
    // Where it is not to be known: a hang-up may be.
    let ignored = ignored.unwrap_or(bit(SIGHUP));
    let heeded = [SIGHUP, SIGINT, SIGTERM].into_iter().filter(|&signal| ignored & bit(signal) == 0);
    let mut signals = signal_hook::iterator::Signals::new(heeded)?;
    std::thread::Builder::new()
        .name("interrupt".into())
        .spawn(move || signals.forever().for_each(|signal| answer(128 + signal)))?;
    Ok(())
}

/// Calls `answer`, on a thread of its own, each time that Ctrl-C asks the process to end. `answer` is
/// given the exit code that belongs to it.
///
/// # Errors
/// The system's.
#[cfg(not(unix))]
pub fn on_interrupt(answer: impl Fn(i32) + Send + 'static) -> Result<()> {
    ctrlc::set_handler(move || answer(130)).map_err(std::io::Error::other)
}

/// What becomes true when the process is asked to end, for work that ends after its step; asked a second time
/// the process ends at once. It is said if `say`.
///
/// # Errors
/// The system's.
pub fn stop_after_step(say: bool) -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = stop.clone();
    on_interrupt(move |code| {
        if asked.swap(true, Ordering::Relaxed) {
            isfm_files::exit(code);
        }
        if say {
            eprintln!("stopping after this step; again to stop at once");
        }
    })?;
    Ok(stop)
}
