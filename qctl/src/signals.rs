//! SIGINT, SIGTERM and `--timeout`: what ends a command from outside.
//!
//! Signals are taken by a thread of their own, so that they also end a command that is stuck in
//! a write to a pipe nobody reads. Always true here: a one-shot command ends at the latest a second
//! after the signal, and at once with the second one, with 128 + its number, unless it has asked for
//! patience: then it decides itself what the first signals mean.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::exit::{Exit, Failure};
use crate::output::say;
use crate::units::show_duration;

/// Time that a command has to end by itself, so that it can say how far it got.
const GRACE: Duration = Duration::from_secs(1);
/// How long of that it may wait for answers to what is under way; the rest is for saying it, on a
/// machine that has much to do.
pub const ANSWERS_WITHIN: Duration = Duration::from_millis(500);

/// Signals that a command with [`patience`] gets to see; the next one ends the process.
const PATIENCE_SIGNALS: u32 = 3;

/// Whether the running command ends by itself after a signal and after `--timeout`.
static PATIENT: AtomicBool = AtomicBool::new(false);

/// What ends the process from outside, once it is known: for a write that blocks.
static ENDED_BY: Mutex<Option<Failure>> = Mutex::new(None);

/// What ends the running command, if anything does.
pub fn ended_by() -> Option<Failure> {
    ENDED_BY.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn set_ended_by(failure: Option<Failure>) {
    *ENDED_BY.lock().unwrap_or_else(PoisonError::into_inner) = failure;
}

/// The last signal, and how many there were.
#[derive(Debug, Clone, Copy, Default)]
struct Got {
    last: Option<i32>,
    count: u32,
}

/// Leaves the running command to end by itself, however long that takes, for as long as this lives.
#[derive(Debug)]
#[must_use = "dropping it ends the patience"]
pub struct Patience(());

/// See [`Patience`].
pub fn patience() -> Patience {
    PATIENT.store(true, Ordering::Relaxed);
    Patience(())
}

impl Drop for Patience {
    fn drop(&mut self) {
        PATIENT.store(false, Ordering::Relaxed);
    }
}

/// The signals this process got.
#[derive(Debug, Clone)]
pub struct Listener {
    sender: Arc<watch::Sender<Got>>,
    /// At the prompt SIGINT ends the running command alone.
    at_prompt: Arc<AtomicBool>,
}

impl Listener {
    /// Starts the thread that takes SIGINT and SIGTERM.
    pub fn start() -> Result<Self, Failure> {
        let listener = Self {
            sender: Arc::new(watch::Sender::new(Got::default())),
            at_prompt: Arc::default(),
        };
        let own = listener.clone();
        let failed = |error| Failure::Io(format!("cannot take signals: {error}"));
        let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
        let thread = std::thread::Builder::new().name("signals".to_owned()).stack_size(64 << 10);
        let spawned = thread.spawn(move || {
            for signal in signals.forever() {
                own.take(signal);
            }
        });
        spawned.map_err(failed)?;
        Ok(listener)
    }

    fn take(&self, signal: i32) {
        let mut count = 0;
        self.sender.send_modify(|got| {
            count = got.count + 1;
            *got = Got { last: Some(signal), count };
        });
        if PATIENT.load(Ordering::Relaxed) && count <= PATIENCE_SIGNALS {
            return;
        }
        set_ended_by(Some(failure_of(signal)));
        let prompt = self.at_prompt.load(Ordering::Relaxed);
        if prompt && signal == SIGINT {
            return;
        }
        let exit = move || {
            crate::top::give_back();
            crate::prompt::restore_terminal();
            crate::progress::clear();
            std::process::exit(i32::from(exit_of(signal).code()))
        };
        if count > 1 || prompt {
            exit();
        }
        // Not here: the next signal must be taken meanwhile.
        let later = std::thread::Builder::new().stack_size(64 << 10);
        let spawned = later.spawn(move || {
            std::thread::sleep(GRACE);
            exit();
        });
        if spawned.is_err() {
            exit();
        }
    }

    /// From now on SIGINT ends only the running command.
    pub fn at_prompt(&self) {
        self.at_prompt.store(true, Ordering::Relaxed);
    }

    /// Forgets a signal that ended the command before.
    pub fn forget(&self) {
        self.sender.send_replace(Got::default());
        set_ended_by(None);
    }

    /// What ends a command that starts now.
    pub fn stop(&self, timeout_ms: Option<u64>) -> Stop {
        let deadline = timeout_ms.map(|ms| (Instant::now() + Duration::from_millis(ms), ms));
        Stop { signals: self.sender.subscribe(), deadline }
    }
}

/// Ends a process whose `--timeout` passed while it was stuck in a write.
pub fn end_after(timeout_ms: u64) {
    let wait = Duration::from_millis(timeout_ms);
    // Without the thread the command still ends by its own timer, unless it is stuck.
    let thread = std::thread::Builder::new().stack_size(64 << 10);
    drop(thread.spawn(move || {
        std::thread::sleep(wait);
        if PATIENT.load(Ordering::Relaxed) {
            return;
        }
        set_ended_by(Some(Failure::Timeout(show_duration(timeout_ms))));
        std::thread::sleep(GRACE);
        crate::top::give_back();
        say(&Failure::Timeout(show_duration(timeout_ms)).to_string());
        std::process::exit(i32::from(Exit::Timeout.code()));
    }));
}

/// What ends one command.
#[derive(Debug, Clone)]
pub struct Stop {
    signals: watch::Receiver<Got>,
    deadline: Option<(Instant, u64)>,
}

impl Stop {
    /// Waits for the signal or the deadline.
    pub async fn stopped(&self) -> Failure {
        tokio::select! {
            failure = self.signal(1) => failure,
            failure = self.timed_out() => failure,
        }
    }

    /// Waits until there were this many signals.
    pub async fn signal(&self, count: u32) -> Failure {
        let mut signals = self.signals.clone();
        let got = match signals.wait_for(|got| got.count >= count).await {
            Ok(got) => *got,
            Err(_) => return std::future::pending().await,
        };
        failure_of(got.last.unwrap_or(SIGTERM))
    }

    /// Waits for the deadline.
    pub async fn timed_out(&self) -> Failure {
        let Some((deadline, ms)) = self.deadline else {
            return std::future::pending().await;
        };
        tokio::time::sleep_until(deadline).await;
        Failure::Timeout(show_duration(ms))
    }
}

fn failure_of(signal: i32) -> Failure {
    if signal == SIGINT { Failure::Interrupted } else { Failure::Terminated }
}

fn exit_of(signal: i32) -> Exit {
    if signal == SIGINT { Exit::Interrupted } else { Exit::Terminated }
}
