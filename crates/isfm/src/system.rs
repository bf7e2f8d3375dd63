//! How much memory the system leaves to this process.

use std::fs;
use std::path::{Path, PathBuf};

/// What the heaps of two threads and their stacks take of a limit on addresses.
const RESERVED: u64 = 128 << 20;

/// Bytes that this process can still take, as far as the system tells: the least of what the machine
/// has available, of what the control groups around the process (version 1 or 2, each as deep as they
/// are nested) have left, files that they can drop counted as free, and of the process's own limits on
/// address space and data (`ulimit -v`, `ulimit -d`), less 128 MiB, which the heaps of threads reserve
/// without using them. Swap does not count.
///
/// `None` where nothing tells: on other systems than Linux, or without `/proc`.
pub fn available_memory() -> Option<usize> {
    if cfg!(target_os = "linux") { available(Path::new("/")) } else { None }
}

/// Of the system whose `/proc` and control groups lie in `root`.
fn available(root: &Path) -> Option<usize> {
    let proc = |name: &str| fs::read_to_string(root.join("proc").join(name)).unwrap_or_default();
    let (status, limits) = (proc("self/status"), proc("self/limits"));
    let rest = |limit: &str, used: &str| {
        let limit = limits.lines().find_map(|line| line.strip_prefix(limit))?;
        let limit: u64 = limit.split_whitespace().next()?.parse().ok()?;
        Some(limit.saturating_sub(field(&status, used)?.saturating_mul(1024)))
    };
    let reserved = |rest: u64| rest.saturating_sub(RESERVED);
    let own = [rest("Max address space", "VmSize:"), rest("Max data size", "VmData:")];
    let own = own.into_iter().flatten().map(reserved);
    let machine = field(&proc("meminfo"), "MemAvailable:").map(|kib| kib.saturating_mul(1024));
    let groups = groups(root, &proc("self/cgroup"), &proc("self/mountinfo"));
    let least = own.chain(machine).chain(groups).min()?;
    Some(usize::try_from(least).unwrap_or(usize::MAX))
}

/// The number after a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_whitespace().next()?.parse().ok()
}

/// What each control group has left, from that of the process up to the outermost to be seen.
fn groups(root: &Path, own: &str, mounts: &str) -> Vec<u64> {
    let mut left = Vec::new();
    for mount in mounts.lines() {
        // id, parent, device, root, mount point, options … - type, source, options of the type.
        let Some((mount, kind)) = mount.split_once(" - ") else { continue };
        let (mount, kind): (Vec<_>, Vec<_>) =
            (mount.split(' ').collect(), kind.split(' ').collect());
        let (&[_, _, _, top, point, ..], &[kind, _, options]) = (&mount[..], &kind[..]) else {
            continue;
        };
        let second = match kind {
            "cgroup2" => true,
            "cgroup" if options.split(',').any(|o| o == "memory") => false,
            _ => continue,
        };
        // hierarchy:controllers:path, of version 2 without controllers.
        let path = own.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let its = if second {
                controllers.is_empty()
            } else {
                controllers.split(',').any(|c| c == "memory")
            };
            its.then_some(path)
        });
        // In a container the path can be one outside of what is mounted: then the mount is the group.
        let inside =
            path.and_then(|path| Path::new(path).strip_prefix(top).ok()).unwrap_or(Path::new(""));
        let point = root.join(point.trim_start_matches('/'));
        let mut group: PathBuf = point.join(inside);
        loop {
            left.extend(of_group(&group, second));
            if group == point || !group.pop() {
                break;
            }
        }
    }
    left
}

/// What a control group has left, if it has a limit.
fn of_group(group: &Path, second: bool) -> Option<u64> {
    let read = |name: &str| fs::read_to_string(group.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    let (limit, used, droppable) = if second {
        let limit = ["memory.max", "memory.high"].into_iter().filter_map(number).min()?;
        (limit, number("memory.current")?, "inactive_file ")
    } else {
        let limit = number("memory.limit_in_bytes")?;
        (limit, number("memory.usage_in_bytes")?, "total_inactive_file ")
    };
    let droppable = read("memory.stat").and_then(|stat| field(&stat, droppable)).unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(droppable)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// A made-up system.
    struct System(tempfile::TempDir);

    impl System {
        fn new(files: &[(&str, &str)]) -> Self {
            let system = Self(tempfile::tempdir().unwrap());
            system.put("proc/meminfo", "MemTotal: 99999999 kB\nMemAvailable:   8388608 kB\n");
            system.put("proc/self/status", "VmSize:\t 1048576 kB\nVmData:\t  524288 kB\n");
            files.iter().for_each(|(path, text)| system.put(path, text));
            system
        }

        fn put(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn available(&self) -> Option<u64> {
            available(self.0.path()).map(|n| n as u64)
        }
    }

    #[test]
    fn a_machine_without_limits_has_what_it_says() {
        let unlimited = "Max address space  unlimited  unlimited  bytes\n";
        assert_eq!(System::new(&[("proc/self/limits", unlimited)]).available(), Some(8 * GIB));
        let nothing = tempfile::tempdir().unwrap();
        assert_eq!(available(nothing.path()), None);
    }

    #[test]
    fn a_limit_of_the_process_counts_less_what_it_has() {
        for (line, left) in [
            (
                "Max address space         3221225472           unlimited            bytes",
                2 * GIB - RESERVED,
            ),
            (
                "Max data size             1073741824           unlimited            bytes",
                GIB / 2 - RESERVED,
            ),
            ("Max address space         4096                 unlimited            bytes", 0),
        ] {
            assert_eq!(
                System::new(&[("proc/self/limits", line)]).available(),
                Some(left),
                "{line}"
            );
        }
    }

    const SECOND: &str =
        "29 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    /// The narrowest of nested groups counts, whichever it is.
    #[test]
    fn groups_of_version_2() {
        let system = System::new(&[
            ("proc/self/cgroup", "0::/a.slice/b.service\n"),
            ("proc/self/mountinfo", SECOND),
            ("sys/fs/cgroup/memory.stat", "inactive_file 5\n"),
            ("sys/fs/cgroup/a.slice/memory.max", "2147483648\n"),
            ("sys/fs/cgroup/a.slice/memory.current", "1610612736\n"),
            ("sys/fs/cgroup/a.slice/memory.stat", "anon 1\nfile 2\ninactive_file 536870912\n"),
            ("sys/fs/cgroup/a.slice/b.service/memory.max", "max\n"),
            ("sys/fs/cgroup/a.slice/b.service/memory.current", "1073741824\n"),
        ]);
        assert_eq!(system.available(), Some(GIB));
        system.put("sys/fs/cgroup/a.slice/b.service/memory.high", "1073742336\n");
        assert_eq!(system.available(), Some(512));
    }

    #[test]
    fn groups_of_version_1_and_both_at_once() {
        let mounts = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      35 31 0:32 /docker/7 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let system = System::new(&[
            ("proc/self/cgroup", "4:memory:/docker/7/inner\n1:cpu:/docker/7\n0::/\n"),
            ("proc/self/mountinfo", mounts),
            ("sys/fs/cgroup/cpu/inner/memory.limit_in_bytes", "1"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "4096"),
            ("sys/fs/cgroup/memory/inner/memory.limit_in_bytes", "3221225472"),
            ("sys/fs/cgroup/memory/inner/memory.usage_in_bytes", "2147483648"),
            (
                "sys/fs/cgroup/memory/inner/memory.stat",
                "inactive_file 7\ntotal_inactive_file 1024\n",
            ),
        ]);
        assert_eq!(system.available(), Some(GIB + 1024));
    }

    /// What a container sees whose path is outside of what is mounted in it.
    #[test]
    fn a_group_that_is_not_to_be_found_is_the_mount() {
        for own in ["0::/../..\n", "0::/elsewhere\n", "rubbish\n", ""] {
            let system = System::new(&[
                ("proc/self/cgroup", own),
                ("proc/self/mountinfo", &SECOND.replace("/ /sys", "/pod /sys")),
                ("sys/fs/cgroup/memory.max", "1073741824\n"),
                ("sys/fs/cgroup/memory.current", "1000\n"),
            ]);
            assert_eq!(system.available(), Some(GIB - 1000), "{own:?}");
        }
    }

    /// Whatever the system writes, nothing panics.
    #[test]
    fn rubbish_counts_for_nothing() {
        let mounts = format!("{SECOND}\n - \n1 2 3 - cgroup2\n1 2 3 4 5 - cgroup2 a b c\n");
        for text in ["", "\n", "max", "-5", "99999999999999999999999", "0x10", "\u{fffd}"] {
            let system = System::new(&[
                ("proc/self/limits", &format!("Max address space {text}")),
                ("proc/self/cgroup", text),
                ("proc/self/mountinfo", &mounts),
                ("sys/fs/cgroup/memory.max", text),
                ("sys/fs/cgroup/memory.current", text),
            ]);
            assert_eq!(system.available(), Some(8 * GIB), "{text:?}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_system_tells() {
        assert!(available_memory().is_some_and(|bytes| bytes > 1 << 20));
    }
}
