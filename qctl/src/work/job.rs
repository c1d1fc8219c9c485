//! One command that runs: its input, its output, and its end.
//!
//! Always true here: when a job is over its process is reaped, and all that it wrote itself is on its
//! way to our output. What it has left running in the background may write on, for as long as we live.

use std::io::{ErrorKind, PipeReader, PipeWriter};
use std::os::fd::OwnedFd;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::command::Started;
use super::output::{Lines, Output, Stream};

/// From SIGTERM to SIGKILL.
pub const GRACE: Duration = Duration::from_secs(5);
/// How long output is waited for that somebody else than the command itself may still write.
const SILENCE: Duration = Duration::from_millis(200);
/// Most of standard error that is kept: enough for a reason, and for the line before it.
const TAIL_BYTES: usize = 4_096;
/// Read at once; what a pipe holds.
const READ_BYTES: usize = 64 << 10;

/// What a job is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Nothing.
    Work,
    /// End: SIGTERM, and after [`GRACE`] SIGKILL.
    End,
    /// End at once: SIGKILL.
    Kill,
}

/// The process group of a command, until it is reaped.
#[derive(Debug)]
pub struct Group(AtomicI32);

impl Group {
    /// Sends a signal to all of it.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.0.load(Ordering::Relaxed)) {
            // It may have ended in this moment.
            let _ = kill_process_group(pid, signal);
        }
    }

    fn end(&self) {
        self.signal(Signal::TERM);
        // A process that is stopped would not see it.
        self.signal(Signal::CONT);
    }
}

/// How a job ended.
#[derive(Debug)]
pub struct Ended {
    /// Which one.
    pub number: u64,
    /// The exit status.
    pub status: std::io::Result<ExitStatus>,
    /// The end of what it wrote to standard error.
    pub stderr: Vec<u8>,
    /// It ran for longer than it may.
    pub overdue: bool,
    /// How long it ran.
    pub took: Duration,
}

/// A command that runs.
#[derive(Debug)]
pub struct Job {
    number: u64,
    child: Child,
    group: Arc<Group>,
    input: Option<(PipeWriter, Vec<u8>)>,
    copies: Vec<Copying>,
    tail: Arc<Mutex<Vec<u8>>>,
    orders: watch::Receiver<Order>,
    limit: Option<Duration>,
    start: Instant,
}

impl Job {
    /// Takes a command that has been started; `limit`: how long it may run. Its output is passed on in
    /// `whole` lines, or as it comes.
    pub fn new(
        number: u64,
        started: Started,
        output: &Output,
        whole: bool,
        limit: Option<Duration>,
    ) -> std::io::Result<(Self, Arc<Group>, watch::Sender<Order>)> {
        let Started { child, input, output: stdout, errors } = started;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
        let group = Arc::new(Group(AtomicI32::new(pid)));
        let tail = Arc::new(Mutex::new(Vec::new()));
        let mut copies = Vec::new();
        let keep = Some(Arc::clone(&tail));
        copies.push(Copying::start(errors, Stream::Err, output, whole, keep)?);
        if let Some(stdout) = stdout {
            copies.push(Copying::start(stdout, Stream::Out, output, whole, None)?);
        }
        let (sender, orders) = watch::channel(Order::Work);
        let start = Instant::now();
        let own = Arc::clone(&group);
        let job = Self { number, child, group: own, input, copies, tail, orders, limit, start };
        Ok((job, group, sender))
    }

    /// Runs it to its end.
    pub async fn run(mut self) -> Ended {
        let mut overdue = false;
        let mut end_at = self.limit.map(|limit| self.start + limit);
        let mut kill_at = None;
        let mut feeding = std::pin::pin!(feed(self.input.take()));
        let mut fed = false;
        let status = loop {
            tokio::select! {
                status = self.child.wait() => break status,
                () = &mut feeding, if !fed => fed = true,
                () = at(end_at) => {
                    self.group.end();
                    (overdue, end_at, kill_at) = (true, None, Some(Instant::now() + GRACE));
                }
                () = at(kill_at) => {
                    self.group.signal(Signal::KILL);
                    kill_at = None;
                }
                order = ordered(&mut self.orders) => match order {
                    Order::Work => {}
                    Order::End => {
                        self.group.end();
                        (end_at, kill_at) = (None, Some(Instant::now() + GRACE));
                    }
                    Order::Kill => self.group.signal(Signal::KILL),
                },
            }
        };
        // From here on the number may be another process's.
        self.group.0.store(0, Ordering::Relaxed);
        let took = self.start.elapsed();
        for copy in &mut self.copies {
            copy.wait(&mut self.orders).await;
        }
        let stderr = std::mem::take(&mut *self.tail.lock().unwrap_or_else(PoisonError::into_inner));
        Ended { number: self.number, status, stderr, overdue, took }
    }
}

/// Writes the bodies; a command that does not read them is none of our business.
async fn feed(input: Option<(PipeWriter, Vec<u8>)>) {
    let Some((writer, bytes)) = input else {
        return;
    };
    if let Ok(mut writer) = pipe::Sender::from_owned_fd(OwnedFd::from(writer)) {
        let _ = writer.write_all(&bytes).await;
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn ordered(orders: &mut watch::Receiver<Order>) -> Order {
    match orders.changed().await {
        Ok(()) => *orders.borrow_and_update(),
        // The worker has forgotten it: nothing more is to come.
        Err(_) => std::future::pending().await,
    }
}

/// A stream of a command on its way to ours.
#[derive(Debug)]
struct Copying {
    task: JoinHandle<()>,
    /// It has read all that there is by now.
    idle: Arc<AtomicBool>,
}

impl Copying {
    fn start(
        from: PipeReader,
        stream: Stream,
        output: &Output,
        whole: bool,
        tail: Option<Arc<Mutex<Vec<u8>>>>,
    ) -> std::io::Result<Self> {
        let from = pipe::Receiver::from_owned_fd(OwnedFd::from(from))?;
        let idle = Arc::new(AtomicBool::new(false));
        let copy = Copy { from, stream, output: output.clone(), tail, idle: Arc::clone(&idle) };
        Ok(Self { task: tokio::spawn(copy.run(Lines::new(whole))), idle })
    }

    /// Waits for the end of the stream, or, where something in the background keeps it open, until
    /// nothing comes any more.
    async fn wait(&mut self, orders: &mut watch::Receiver<Order>) {
        loop {
            let killed = *orders.borrow() == Order::Kill;
            tokio::select! {
                _ = &mut self.task => return,
                () = sleep(SILENCE) => {
                    if killed || self.idle.load(Ordering::Relaxed) {
                        return;
                    }
                }
            }
        }
    }
}

struct Copy {
    from: pipe::Receiver,
    stream: Stream,
    output: Output,
    tail: Option<Arc<Mutex<Vec<u8>>>>,
    idle: Arc<AtomicBool>,
}

impl Copy {
    async fn run(self, mut lines: Lines) {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            self.idle.store(true, Ordering::Relaxed);
            if self.from.readable().await.is_err() {
                break;
            }
            match self.from.try_read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => {
                    self.idle.store(false, Ordering::Relaxed);
                    let bytes = buffer.get(..read).unwrap_or_default();
                    self.keep(bytes);
                    if !self.output.pass(self.stream, lines.push(bytes)).await {
                        // The command gets to know it with its next write.
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
        self.idle.store(false, Ordering::Relaxed);
        self.output.pass(self.stream, lines.finish()).await;
    }

    fn keep(&self, bytes: &[u8]) {
        let Some(tail) = &self.tail else {
            return;
        };
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend_from_slice(bytes);
        let over = tail.len().saturating_sub(TAIL_BYTES);
        tail.drain(..over);
    }
}
