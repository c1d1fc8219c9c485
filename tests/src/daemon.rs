//! Private daemons.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use qd_protocol::client::Options;
use qd_protocol::{Address, Client};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::wait::SOON;
use crate::{Raw, Run, programs, wait_until};

/// A daemon on a data directory and a Unix socket of its own.
#[derive(Debug)]
pub struct Daemon {
    directory: TempDir,
    flags: Vec<String>,
    child: Child,
    /// Where the log of this start begins.
    log_start: usize,
}

impl Daemon {
    /// A new daemon on an empty directory.
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// A new daemon with more flags.
    ///
    /// # Panics
    ///
    /// When it does not get ready.
    pub fn with(flags: &[&str]) -> Self {
        Self::within(temporary_directory(), flags)
    }

    /// A new daemon in this directory.
    ///
    /// # Panics
    ///
    /// When it does not get ready.
    pub fn within(directory: TempDir, flags: &[&str]) -> Self {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect::<Vec<_>>();
        let (child, log_start) = start(directory.path(), &flags);
        let mut daemon = Self { directory, flags, child, log_start };
        let is_ready = daemon.wait_until_ready();
        assert!(is_ready, "qd ended:\n{}", daemon.log());
        daemon
    }

    /// Its temporary directory, which also has room for files of the test.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The path of its socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    /// The address of its socket, as `qctl --server` takes it.
    pub fn server(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    /// The address of its socket.
    pub fn address(&self) -> Address {
        Address::Unix(self.socket())
    }

    /// Its pid.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// What it has logged since it was started last.
    ///
    /// # Panics
    ///
    /// When the log cannot be read.
    pub fn log(&self) -> String {
        let log = fs::read(log_path(self.directory.path())).expect("the log can be read");
        String::from_utf8_lossy(&log[self.log_start..]).into_owned()
    }

    /// Waits until the log has a line with all of `parts`. Returns the line.
    pub fn wait_for_log(&self, parts: &[&str]) -> String {
        wait_until(&format!("log with {parts:?}"), SOON, || {
            let log = self.log();
            log.lines().find(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned)
        })
    }

    /// The port that it was given for `--listen 127.0.0.1:0`.
    ///
    /// # Panics
    ///
    /// When the log does not tell.
    pub fn tcp(&self) -> Address {
        let line = self.wait_for_log(&["listening on", "127.0.0.1:"]);
        let port: String = line
            .split("127.0.0.1:")
            .nth(1)
            .expect("the line was found by it")
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        Address::Tcp(format!("127.0.0.1:{port}"))
    }

    /// Memory that it has in use, in bytes: `VmRSS` of proc(5).
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid().as_raw_nonzero());
        let status = fs::read_to_string(path).expect("the daemon runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.expect("VmRSS of a process") << 10
    }

    /// `qctl` with the words of `line` for this daemon.
    pub fn qctl(&self, line: &str) -> Run {
        Run::qctl(&self.server(), line)
    }

    /// A raw connection after the preamble and a hello without numbering.
    pub fn raw(&self) -> Raw {
        let mut raw = Raw::connect(&self.address());
        raw.greet();
        raw.hello(0);
        raw
    }

    /// A client without repeats.
    ///
    /// # Panics
    ///
    /// When it cannot connect.
    pub async fn client(&self) -> Client {
        let options = Options { client: "qd-tests".to_owned(), ..Options::default() };
        Client::connect(&[self.address()], options).await.expect("the daemon answers")
    }

    /// Kills it: SIGKILL. Waits for its end.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait_for_end();
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        // It may have ended in this moment, which its exit status tells.
        let _ = kill_process(self.pid(), signal);
    }

    /// Waits for its end.
    pub fn wait_for_end(&mut self) -> ExitStatus {
        wait_until("the daemon ends", SOON, || self.child.try_wait().ok().flatten())
    }

    /// Starts it again on the same data, after it has ended.
    ///
    /// # Panics
    ///
    /// When it ends before it is ready.
    pub fn restart(&mut self) {
        let is_ready = self.try_restart();
        assert!(is_ready, "qd ended:\n{}", self.log());
    }

    /// The same; false: it has ended before it was ready.
    pub fn try_restart(&mut self) -> bool {
        let (child, log_start) = start(self.directory.path(), &self.flags);
        (self.child, self.log_start) = (child, log_start);
        self.wait_until_ready()
    }

    fn wait_until_ready(&mut self) -> bool {
        let socket = self.socket();
        wait_until("the daemon gets ready", SOON, || {
            if let Ok(Some(_)) = self.child.try_wait() {
                return Some(false);
            }
            UnixStream::connect(&socket).is_ok().then_some(true)
        })
    }
}

impl Default for Daemon {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("log of qd:\n{}", self.log());
        }
    }
}

/// A temporary directory with a path short enough for sockets.
///
/// # Panics
///
/// When it cannot be made.
pub fn temporary_directory() -> TempDir {
    tempfile::Builder::new().prefix("qd-").tempdir().expect("a temporary directory")
}

fn log_path(directory: &Path) -> PathBuf {
    directory.join("qd.log")
}

fn start(directory: &Path, flags: &[String]) -> (Child, usize) {
    let path = log_path(directory);
    let log = File::options().append(true).create(true).open(path).expect("the log is written");
    let log_start = log.metadata().expect("the log is there").len();
    let mut command = Command::new(programs::qd());
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("QD_")) {
            command.env_remove(name);
        }
    }
    let child = command
        .arg("--data")
        .arg(directory.join("data"))
        .arg("--listen")
        .arg(format!("unix:{}", directory.join("s").display()))
        .args(flags)
        // However little room there is where the tests run.
        .env("QD_DISK_RESERVE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("qd starts");
    (child, usize::try_from(log_start).expect("a small log"))
}

/// A daemon that is expected to end by itself: its exit status and what it logged.
pub fn run_qd(args: &[&str]) -> crate::Done {
    Run::new(programs::qd()).args(args).limit(Duration::from_secs(20)).run()
}
