//! A home of its own for `qctl` without an address: the daemon that it starts for its user lives
//! in there, and ends with it.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::daemon::temporary_directory;
use crate::wait::SOON;
use crate::{Run, cases, programs, wait_until};

/// A home directory, empty at first.
#[derive(Debug)]
pub struct Sandbox {
    directory: TempDir,
}

impl Sandbox {
    /// An empty home.
    ///
    /// # Panics
    ///
    /// When the machine has a system-wide `qd`, which `qctl` would talk to instead.
    pub fn new() -> Self {
        let system = Path::new("/run/qd/qd.sock");
        assert!(!system.exists(), "this test cannot run beside a qd on {}", system.display());
        let directory = temporary_directory();
        fs::create_dir(directory.path().join("home")).expect("a home directory");
        Self { directory }
    }

    /// The home directory.
    pub fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    /// Where the user's daemon has its data.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("state/qd")
    }

    /// A program that finds `qd` and `qctl` in its `PATH`, and no server but the user's own.
    pub fn run(&self, program: impl AsRef<std::ffi::OsStr>) -> Run {
        Run::new(program)
            .env("PATH", cases::path_with_programs())
            .env("HOME", self.home())
            .env("XDG_STATE_HOME", self.directory.path().join("state"))
            .current_dir(&self.home())
    }

    /// `qctl` with the words of `line`, split at spaces.
    pub fn qctl(&self, line: &str) -> Run {
        self.run(programs::qctl()).args(line.split_whitespace())
    }

    /// The pids of the daemons that run on this home's data.
    pub fn daemons(&self) -> Vec<Pid> {
        let data = self.data().into_os_string().into_encoded_bytes();
        let processes = fs::read_dir("/proc").expect("proc(5)").flatten();
        let pids = processes.filter_map(|entry| {
            let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
            let command = fs::read(entry.path().join("cmdline")).ok()?;
            let words: Vec<_> = command.split(|byte| *byte == 0).collect();
            let is_qd = words.first()?.ends_with(b"qd");
            (is_qd && words.contains(&&data[..])).then_some(pid)
        });
        pids.collect()
    }

    /// Waits until no daemon runs on this home's data.
    pub fn wait_until_stopped(&self) {
        wait_until("the user's daemon ends", SOON, || self.daemons().is_empty().then_some(()));
    }
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for pid in self.daemons() {
            // It may have ended in this moment.
            let _ = kill_process(pid, Signal::KILL);
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(self.data().join("qd.log")).unwrap_or_default();
            eprintln!("log of the user's qd:\n{log}");
        }
    }
}
