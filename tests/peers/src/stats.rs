//! What the machine did between two moments, read from `/proc` and `/sys`.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::clock::now;

/// `/proc` counts CPU time in hundredths of a second.
const TICKS_PER_SEC: f64 = 100.0;
/// Units of 512 bytes, in which `/sys` counts what was written, in a MiB.
const SECTORS_PER_MIB: f64 = 2048.0;

/// Where to look.
#[derive(Debug)]
pub struct Probe {
    /// Root of the server's process tree.
    server: u32,
    /// The statistics of the disk under the server's data, if it has one.
    disk: Option<PathBuf>,
}

/// The counters at one moment.
#[derive(Debug, Clone)]
pub struct Snap {
    at: Instant,
    server: u64,
    client: u64,
    machine: u64,
    flushes: u64,
    written: u64,
}

/// The difference of two snaps, as rates.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    /// Cores in use by the server's processes.
    pub server: f64,
    /// Cores in use by this process.
    pub client: f64,
    /// Cores in use by all else: the kernel's own work, and whatever disturbs the measurement.
    pub other: f64,
    /// Cache flushes of the disk a second.
    pub flushes: f64,
    /// MiB written to the disk a second.
    pub mib: f64,
}

/// The member of `sorted` that `percent` of all are not above; 0 of none.
pub fn percentile(sorted: &[u32], percent: usize) -> u32 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * percent / 100).copied().unwrap_or(0)
}

impl Probe {
    /// `server` is the root of the server's process tree; `data` is its data folder.
    pub fn new(server: u32, data: &Path) -> Result<Self> {
        let dev = fs::metadata(data).with_context(|| data.display().to_string())?.dev();
        let (major, minor) = ((dev >> 8) & 0xfff, (dev & 0xff) | ((dev >> 12) & 0xf_ff00));
        let disk = PathBuf::from(format!("/sys/dev/block/{major}:{minor}/stat"));
        Ok(Self { server, disk: disk.exists().then_some(disk) })
    }

    /// The counters now.
    pub fn snap(&self) -> Snap {
        let text = self.disk.as_ref().and_then(|path| fs::read_to_string(path).ok());
        let disk = numbers(&text.unwrap_or_default());
        Snap {
            at: now(),
            server: tree_ticks(self.server),
            client: process(std::process::id()).map_or(0, |process| process.own),
            machine: busy_ticks(),
            // The fields of /sys/block/DISK/stat, from 0.
            flushes: disk.get(15).copied().unwrap_or(0),
            written: disk.get(6).copied().unwrap_or(0),
        }
    }
}

impl Snap {
    /// What happened from here to `end`.
    pub fn until(&self, end: &Snap) -> Load {
        let secs = (end.at - self.at).as_secs_f64();
        let rate = |from: u64, to: u64| to.saturating_sub(from) as f64 / secs;
        let cores = |from, to| rate(from, to) / TICKS_PER_SEC;
        let (server, client) = (cores(self.server, end.server), cores(self.client, end.client));
        Load {
            server,
            client,
            other: (cores(self.machine, end.machine) - server - client).max(0.0),
            flushes: rate(self.flushes, end.flushes),
            mib: rate(self.written, end.written) / SECTORS_PER_MIB,
        }
    }
}

/// The words of `text` that are numbers.
fn numbers(text: &str) -> Vec<u64> {
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// CPU ticks of the whole machine that were neither idle nor waiting nor stolen.
fn busy_ticks() -> u64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks = numbers(text.lines().next().unwrap_or(""));
    // user nice system (idle iowait) irq softirq
    [0, 1, 2, 5, 6].iter().filter_map(|at| ticks.get(*at)).sum()
}

struct Process {
    parent: u32,
    /// CPU ticks of the process itself, and of its children that have ended.
    own: u64,
    ended: u64,
}

fn process(pid: u32) -> Option<Process> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold spaces; the fields after it count from 3.
    let (_, rest) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let number = |at: usize| fields.get(at - 3)?.parse::<u64>().ok();
    Some(Process {
        parent: u32::try_from(number(4)?).ok()?,
        own: number(14)? + number(15)?,
        ended: number(16)? + number(17)?,
    })
}

/// CPU ticks of a process and all below it.
fn tree_ticks(root: u32) -> u64 {
    let all: HashMap<u32, Process> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, process(pid)?)))
        .collect();
    let below = |pid: u32| {
        let mut at = pid;
        loop {
            if at == root {
                return true;
            }
            match all.get(&at) {
                Some(process) if process.parent != 0 => at = process.parent,
                _ => return false,
            }
        }
    };
    let tree = all.iter().filter(|(pid, _)| below(**pid));
    tree.map(|(_, process)| process.own + process.ended).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentile_is_a_member() {
        assert_eq!(percentile(&[], 50), 0);
        assert_eq!(percentile(&[7], 99), 7);
        let hundred: Vec<u32> = (0..=100).collect();
        assert_eq!([0, 50, 99, 100].map(|percent| percentile(&hundred, percent)), [0, 50, 99, 100]);
    }

    #[test]
    fn process_knows_its_parent() {
        let this = process(std::process::id()).unwrap();
        assert_eq!(this.parent, std::os::unix::process::parent_id());
    }
}
