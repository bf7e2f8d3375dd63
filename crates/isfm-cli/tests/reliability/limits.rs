//! Too little memory.

use std::process::{Command, Stdio};

use crate::child;
use crate::common::pairs;

/// A picture that does not fit into the process's address space is fused in tiles or refused: the
/// process is never ended by a signal, whichever the limit.
pub(crate) fn little_memory_is_no_abort() {
    let folder = tempfile::tempdir().unwrap();
    pairs(folder.path(), 1, (2400, 1800));
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (v, i, o) = (at("vi/0.png"), at("ir/0.png"), at("o.png"));
    let args = ["--visible", &v, "--infrared", &i, "--output", &o, "--threads", "1"];
    let fuse = child::fuse(&args);
    let (mut fused, mut refused) = (0, 0);
    for mib in
        [60, 120, 200, 280, 320, 340, 360, 380, 400, 420, 440, 460, 480, 500, 600, 1000, 4000]
    {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("ulimit -v {}; exec \"$0\" \"$@\"", mib * 1024));
        shell.arg(fuse.get_program()).args(fuse.get_args());
        shell.envs(fuse.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let out = shell.stdout(Stdio::null()).output().unwrap();
        let told = String::from_utf8_lossy(&out.stderr).into_owned();
        match out.status.code() {
            Some(0) => {
                fused += 1;
                assert_eq!(isfm::read_image_size(&o).unwrap(), (2400, 1800));
            }
            Some(1) => {
                refused += 1;
                assert!(
                    told.starts_with("error: ") && told.contains("memory"),
                    "{mib} MiB: {told}"
                );
            }
            _ => panic!("{mib} MiB: {}: {told}", out.status),
        }
    }
    println!("  {fused} times fused, {refused} times refused");
    assert!(fused >= 2 && refused >= 1);
}
