//! Results that go to no file, and files that are not finished.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use image::ImageFormat;

use crate::child::{self, command};
use crate::common::pairs;

/// Nothing but the picture comes out of standard output, a pipe, a file, one that is added to or a FIFO.
pub(crate) fn results_go_to_standard_output() {
    let folder = tempfile::tempdir().unwrap();
    pairs(folder.path(), 1, (40, 30));
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (v, i, file) = (at("vi/0.png"), at("ir/0.png"), at("file.png"));
    let fuse = |output: &str, more: &[&str]| {
        let args = ["--visible", &v, "--infrared", &i, "--output", output];
        child::fuse(&[&args, more].concat())
    };
    assert!(fuse(&file, &[]).stdout(Stdio::null()).status().unwrap().success());
    let want = isfm::read_image(&file).unwrap();
    let read = |bytes: &[u8], format| image::load_from_memory_with_format(bytes, format).unwrap();

    for (more, format) in [
        (&[][..], ImageFormat::Png),
        (&["--format", "bmp"], ImageFormat::Bmp),
        (&["--format", "tiff"], ImageFormat::Tiff),
        (&["--stretch", "1,99", "--format", "PNG"], ImageFormat::Png),
    ] {
        let out = fuse("/dev/stdout", more).output().unwrap();
        assert!(out.status.success() && !out.stderr.is_empty(), "{more:?}");
        let picture = read(&out.stdout, format);
        assert!(more.contains(&"--stretch") || picture == want, "{more:?}");
    }
    let lossy = fuse("/dev/stdout", &["--format", "jpg"]).output().unwrap();
    assert_eq!(image::guess_format(&lossy.stdout).unwrap(), ImageFormat::Jpeg);

    // A shell's `>` and `>>`: the file is not replaced, and what it has stays.
    fs::write(at("kept"), "before").unwrap();
    let kept = fs::OpenOptions::new().append(true).open(at("kept")).unwrap();
    assert!(fuse("/dev/stdout", &[]).stdout(kept).status().unwrap().success());
    let bytes = fs::read(at("kept")).unwrap();
    assert_eq!(read(bytes.strip_prefix(b"before").unwrap(), ImageFormat::Png), want);

    let fifo = at("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mut writer = fuse(&fifo, &[]).stdout(Stdio::null()).spawn().unwrap();
    assert_eq!(read(&fs::read(&fifo).unwrap(), ImageFormat::Png), want);
    assert!(writer.wait().unwrap().success());

    std::os::unix::fs::symlink("file.png", at("link.png")).unwrap();
    assert!(fuse(&at("link.png"), &[]).status().unwrap().success());
    assert!(fs::symlink_metadata(at("link.png")).unwrap().is_symlink());

    // Refused before the weights are read.
    for (output, more) in
        [(at("o.xyz"), &[][..]), (at("o"), &[]), (at("o.png"), &["--format", "xyz"])]
    {
        let out = fuse(&output, &[more, &["--weights", "gone"]].concat()).output().unwrap();
        let told = String::from_utf8(out.stderr).unwrap();
        assert!(!out.status.success() && !told.contains("gone"), "{told}");
        assert!(told.contains("png, jpg"), "{told}");
    }
}

/// A command that heeds the signals which this process may have been started to ignore, as a shell's `&` does.
fn heeding_signals(command: &mut Command) -> &mut Command {
    let heed = || {
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            // SAFETY: `signal` may be called between fork and exec, and SIG_DFL is no function of ours.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: between fork and exec nothing but `signal` is called.
    unsafe { command.pre_exec(heed) }
}

/// Ctrl-C and SIGTERM in the middle of a file.
pub(crate) fn interrupted_programs_leave_nothing() {
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = command("wait", &[folder.path().to_str().unwrap()]);
        let mut child = heeding_signals(&mut command).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let kill = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(code), "{signal}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{signal}");
    }
}
