//! How much memory this process may take: what the machine has, or less where a control group says so.
//!
//! Always true here: a limit that cannot be read is none. Each control group limits all that are in it and
//! below it, so the least limit from the process's own group up to the root counts, in version 2
//! (`memory.max`) and version 1 (`memory.limit_in_bytes`), wherever they are mounted.

use std::fs;
use std::path::{Path, PathBuf};

/// Part of the memory that the page cache of the state takes where nothing is said: an eighth.
const CACHE_PART: u64 = 8;
/// Most that it takes where nothing is said: 128 MiB.
const CACHE_BYTES_MAX: u64 = 128 << 20;

/// Bytes of the state's page cache where nothing is said.
pub fn cache_bytes() -> usize {
    cache_bytes_of(limit(Path::new("/")))
}

fn cache_bytes_of(limit: Option<u64>) -> usize {
    let part = limit.map_or(u64::MAX, |limit| limit / CACHE_PART);
    part.min(CACHE_BYTES_MAX) as usize
}

/// Bytes of memory that this process may take, seen in the file system under `root`; `None`: nobody
/// says.
fn limit(root: &Path) -> Option<u64> {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let groups = read("proc/self/cgroup");
    let mounts = read("proc/self/mountinfo");
    let of_groups = mounts.lines().filter_map(|mount| limit_of_mount(root, mount, &groups));
    of_groups.chain(of_machine(&read("proc/meminfo"))).min()
}

/// `MemTotal` of `proc_meminfo(5)`.
fn of_machine(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1 << 10)
}

/// The least limit that a line of `proc_pid_mountinfo(5)` leads to; `None` also where it is no mount of
/// control groups that limit memory.
fn limit_of_mount(root: &Path, mount: &str, groups: &str) -> Option<u64> {
    let (before, after) = mount.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (mounted, at) = (before.next()?, before.next()?);
    let mut after = after.split(' ');
    let (kind, options) = (after.next()?, after.nth(1)?);
    let (file, group) = match kind {
        "cgroup2" => ("memory.max", group(groups, "")?),
        "cgroup" if options.split(',').any(|option| option == "memory") => {
            ("memory.limit_in_bytes", group(groups, "memory")?)
        }
        _ => return None,
    };
    // In a container only a part of the groups is mounted, perhaps under a name that is told from
    // outside: then what is mounted is the group.
    let within = Path::new(group).strip_prefix(mounted).unwrap_or(Path::new(""));
    let top = root.join(at.trim_start_matches('/'));
    let directories: Vec<PathBuf> = within.ancestors().map(|group| top.join(group)).collect();
    let limit = |directory: &PathBuf| {
        let text = fs::read_to_string(directory.join(file)).ok()?;
        // "max" is no number, and no limit.
        text.trim().parse().ok()
    };
    directories.iter().filter_map(limit).min()
}

/// The group of this process in the hierarchy with this controller, of cgroups(7); version 2 has none.
fn group<'a>(groups: &'a str, controller: &str) -> Option<&'a str> {
    groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let controllers = parts.next()?;
        let path = parts.next()?;
        controllers.split(',').any(|of| of == controller).then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str =
        "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "33 25 0:30 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
                      34 25 0:31 / /sys/fs/cgroup/cpu rw shared:10 - cgroup cgroup rw,cpu\n";
    const MEMINFO: &str = "MemTotal:        2000000 kB\nMemFree:         1000000 kB\n";

    /// What is seen where these files are.
    fn seen(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        limit(root.path())
    }

    #[test]
    fn without_groups_the_machine_is_the_limit() {
        assert_eq!(seen(&[("proc/meminfo", MEMINFO)]), Some(2_000_000 << 10));
        assert_eq!(seen(&[]), None);
    }

    #[test]
    fn least_limit_from_the_own_group_to_the_root_counts() {
        let of = |own: &str, above: &str| {
            seen(&[
                ("proc/meminfo", MEMINFO),
                ("proc/self/mountinfo", V2),
                ("proc/self/cgroup", "0::/system.slice/qd.service\n"),
                ("sys/fs/cgroup/system.slice/memory.max", above),
                ("sys/fs/cgroup/system.slice/qd.service/memory.max", own),
            ])
        };
        assert_eq!(of("max\n", "max\n"), Some(2_000_000 << 10));
        assert_eq!(of("104857600\n", "max\n"), Some(100 << 20));
        assert_eq!(of("104857600\n", "52428800\n"), Some(50 << 20));
        assert_eq!(of("9223372036854771712\n", "max\n"), Some(2_000_000 << 10));
    }

    #[test]
    fn version_1_beside_version_2_counts() {
        let files = [
            ("proc/meminfo", MEMINFO),
            (
                "proc/self/mountinfo",
                &[V1, "40 1 0:9 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n"].concat(),
            ),
            ("proc/self/cgroup", "4:cpu:/\n3:hugetlb,memory:/docker/abc\n0::/\n"),
            ("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "67108864\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        assert_eq!(seen(&files), Some(64 << 20));
    }

    #[test]
    fn group_that_is_mounted_alone_counts() {
        let mount = "33 25 0:30 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        for group in ["/docker/abc", "/", "/docker/of-another-view"] {
            let files = [
                ("proc/meminfo", MEMINFO),
                ("proc/self/mountinfo", mount),
                ("proc/self/cgroup", &format!("3:memory:{group}\n")),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "33554432\n"),
            ];
            assert_eq!(seen(&files), Some(32 << 20), "{group}");
        }
    }

    #[test]
    fn cache_takes_an_eighth_and_at_most_128_mib() {
        assert_eq!(cache_bytes_of(None), 128 << 20);
        assert_eq!(cache_bytes_of(Some(16 << 30)), 128 << 20);
        assert_eq!(cache_bytes_of(Some(256 << 20)), 32 << 20);
    }
}
