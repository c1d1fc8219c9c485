//! Programs with a time limit.

use std::ffi::OsStr;
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use crate::programs;

/// How long a program may run unless something else is said.
const LIMIT: Duration = Duration::from_secs(60);

/// A program to be run, its input, and how long it may take.
#[derive(Debug)]
pub struct Run {
    command: Command,
    stdin: Option<Vec<u8>>,
    keep_stdin: bool,
    limit: Duration,
}

/// What a program left behind.
#[derive(Clone, PartialEq, Eq)]
pub struct Done {
    /// Its exit status; 128 and the signal's number when a signal ended it.
    pub exit: i32,
    /// Everything it wrote to standard output.
    pub stdout: Vec<u8>,
    /// Everything it wrote to standard error, as text.
    pub stderr: String,
}

/// A program that runs; it is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    name: String,
    until: Instant,
    limit: Duration,
    output: Receiver<(Stream, Vec<u8>)>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    open: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Stdout,
    Stderr,
    Closed,
}

impl Run {
    /// `program`, with nothing on its standard input and the tests' own environment less the
    /// variables that steer `qd`, `qctl` and terminals.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            let steers = |prefix: &str| name.to_str().is_some_and(|name| name.starts_with(prefix));
            if steers("QD_") || steers("QCTL_") || steers("XDG_") || name == "NO_COLOR" {
                command.env_remove(&name);
            }
        }
        command.env("TERM", "dumb");
        Self { command, stdin: None, keep_stdin: false, limit: LIMIT }
    }

    /// `qctl` with the words of `line`, split at spaces, for the server at `server`.
    pub fn qctl(server: &str, line: &str) -> Self {
        Self::new(programs::qctl()).env("QCTL_SERVER", server).args(line.split_whitespace())
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable of the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Removes a variable of the environment.
    #[must_use]
    pub fn env_remove(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Where it runs.
    #[must_use]
    pub fn current_dir(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// What it reads from standard input.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Leaves its standard input open until [`Running::close_stdin`].
    #[must_use]
    pub fn keep_stdin(mut self) -> Self {
        self.keep_stdin = true;
        self
    }

    /// How long it may take.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Starts it.
    ///
    /// # Panics
    ///
    /// When the program cannot be started.
    pub fn start(mut self) -> Running {
        let name = format!("{:?}", self.command);
        let reads = self.stdin.is_some() || self.keep_stdin;
        let stdin = if reads { Stdio::piped() } else { Stdio::null() };
        self.command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        if !self.keep_stdin
            && let Some(mut stdin) = child.stdin.take()
        {
            let bytes = self.stdin.unwrap_or_default();
            // A program that ends without reading all of it is none of this thread's business.
            thread::spawn(move || drop(stdin.write_all(&bytes)));
        } else if let (Some(stdin), Some(bytes)) = (child.stdin.as_mut(), self.stdin) {
            stdin.write_all(&bytes).expect("the program reads its input");
        }
        let (sender, output) = channel();
        for (stream, pipe) in [
            (
                Stream::Stdout,
                child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
            ),
            (
                Stream::Stderr,
                child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
            ),
        ] {
            let sender = sender.clone();
            let mut pipe = pipe.expect("the pipe was asked for");
            thread::spawn(move || {
                let mut buffer = vec![0; 64 << 10];
                while let Ok(read) = pipe.read(&mut buffer)
                    && read > 0
                {
                    // A test that is over needs no output.
                    let _ = sender.send((stream, buffer[..read].to_vec()));
                }
                let _ = sender.send((Stream::Closed, Vec::new()));
            });
        }
        let limit = self.limit;
        let until = Instant::now() + limit;
        let (stdout, stderr) = (Vec::new(), Vec::new());
        Running { child, name, until, limit, output, stdout, stderr, open: 2 }
    }

    /// Runs it to its end.
    ///
    /// # Panics
    ///
    /// When it does not end, or does not close its output, within its limit.
    pub fn run(self) -> Done {
        self.start().finish()
    }

    /// Runs it to its end, which must be a good one. Returns its standard output.
    ///
    /// # Panics
    ///
    /// When it fails.
    pub fn ok(self) -> String {
        let name = format!("{:?}", self.command);
        let done = self.run();
        assert_eq!(done.exit, 0, "{name}: {done:?}");
        done.text()
    }
}

impl Running {
    /// Its pid.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        // It may have ended in this moment.
        let _ = kill_process(self.pid(), signal);
    }

    /// Writes to its standard input, which [`Run::keep_stdin`] left open.
    ///
    /// # Panics
    ///
    /// When the program does not read.
    pub fn write(&mut self, bytes: &[u8]) {
        let stdin = self.child.stdin.as_mut().expect("its input was kept open");
        stdin.write_all(bytes).and_then(|()| stdin.flush()).expect("the program reads its input");
    }

    /// Ends its standard input.
    pub fn close_stdin(&mut self) {
        self.child.stdin = None;
    }

    /// Waits until its standard output, from byte `from` on, holds `text`. Returns the place
    /// behind it.
    ///
    /// # Panics
    ///
    /// When it does not within the program's limit.
    pub fn wait_for(&mut self, from: usize, text: &str) -> usize {
        loop {
            let seen = self.stdout.get(from..).unwrap_or_default();
            if let Some(at) = find(seen, text.as_bytes()) {
                return from + at + text.len();
            }
            let seen = String::from_utf8_lossy(seen).into_owned();
            let Self { name, limit, .. } = &*self;
            let missing = format!("{name} did not write {text:?} within {limit:?} but {seen:?}");
            assert!(self.read_more(), "{missing}");
        }
    }

    /// Whether its standard output, from byte `from` on, holds `text` within a while: the place behind
    /// it.
    pub fn shows(&mut self, from: usize, text: &str, within: Duration) -> Option<usize> {
        let last = std::mem::replace(&mut self.until, Instant::now() + within);
        let place = loop {
            let seen = self.stdout.get(from..).unwrap_or_default();
            if let Some(at) = find(seen, text.as_bytes()) {
                break Some(from + at + text.len());
            }
            if !self.read_more() {
                break None;
            }
        };
        self.until = last;
        place
    }

    /// Waits until what it has written to standard output, all of it, has what is looked for.
    ///
    /// # Panics
    ///
    /// When it has not within the program's limit.
    pub fn wait_until<T>(&mut self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        loop {
            let seen = self.stdout();
            if let Some(found) = find(&seen) {
                return found;
            }
            let Self { name, limit, .. } = &*self;
            let end = seen.chars().rev().take(2_000).collect::<Vec<_>>();
            let end: String = end.into_iter().rev().collect();
            let missing = format!("{name}: no {what} within {limit:?} in … {end:?}");
            assert!(self.read_more(), "{missing}");
        }
    }

    /// What it has written to standard output, as far as it was read.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Takes more output in. False when there is no more, or the time is over.
    fn read_more(&mut self) -> bool {
        if self.open == 0 {
            return false;
        }
        match self.output.recv_timeout(self.until.saturating_duration_since(Instant::now())) {
            Ok((Stream::Stdout, bytes)) => self.stdout.extend(bytes),
            Ok((Stream::Stderr, bytes)) => self.stderr.extend(bytes),
            Ok((Stream::Closed, _)) => self.open -= 1,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return false,
        }
        true
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// When it does not end, or does not close its output, within its limit.
    pub fn finish(mut self) -> Done {
        while self.open > 0 {
            if !self.read_more() {
                let (out, err) = (self.stdout(), String::from_utf8_lossy(&self.stderr));
                panic!("{} did not end within {:?}: {out:?} {err:?}", self.name, self.limit);
            }
        }
        let status = crate::wait_until(&self.name, Duration::from_secs(10), || {
            self.child.try_wait().expect("it is our child")
        });
        Done {
            exit: exit_number(status),
            stdout: std::mem::take(&mut self.stdout),
            stderr: String::from_utf8_lossy(&self.stderr).into_owned(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Done {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl fmt::Debug for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit {}, stdout {:?}, stderr {:?}", self.exit, self.text(), self.stderr)
    }
}

/// The number that a shell sees.
pub fn exit_number(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text)
}
