//! SIGINT, SIGTERM and `--timeout`: what ends a command from outside.
//!
//! Signals are taken by a thread of their own, so that they also end a command that is stuck in
//! a write to a pipe nobody reads. Always true here: a one-shot command ends at the latest half a
//! second after the signal, with 128 + its number.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::exit::{Exit, Failure};
use crate::units::show_duration;

/// Time that a command has to end by itself, so that it can say how far it got.
const GRACE: Duration = Duration::from_millis(500);

/// What ends the process from outside, once it is known: for a write that blocks.
static ENDED_BY: Mutex<Option<Failure>> = Mutex::new(None);

/// What ends the running command, if anything does.
pub fn ended_by() -> Option<Failure> {
    ENDED_BY.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn set_ended_by(failure: Option<Failure>) {
    *ENDED_BY.lock().unwrap_or_else(PoisonError::into_inner) = failure;
}

/// The signals this process got.
#[derive(Debug, Clone)]
pub struct Listener {
    sender: Arc<watch::Sender<Option<i32>>>,
    /// At the prompt SIGINT ends the running command alone.
    at_prompt: Arc<AtomicBool>,
}

impl Listener {
    /// Starts the thread that takes SIGINT and SIGTERM.
    pub fn start() -> Result<Self, Failure> {
        let listener =
            Self { sender: Arc::new(watch::Sender::new(None)), at_prompt: Arc::default() };
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
        let again = self.sender.send_replace(Some(signal)).is_some();
        set_ended_by(Some(failure_of(signal)));
        let prompt = self.at_prompt.load(Ordering::Relaxed);
        if prompt && signal == SIGINT {
            return;
        }
        if !again && !prompt {
            std::thread::sleep(GRACE);
        }
        crate::prompt::restore_terminal();
        std::process::exit(i32::from(exit_of(signal).code()));
    }

    /// From now on SIGINT ends only the running command.
    pub fn at_prompt(&self) {
        self.at_prompt.store(true, Ordering::Relaxed);
    }

    /// Forgets a signal that ended the command before.
    pub fn forget(&self) {
        self.sender.send_replace(None);
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
        set_ended_by(Some(Failure::Timeout(show_duration(timeout_ms))));
        std::thread::sleep(GRACE);
        eprintln!("qctl: not done within {} (--timeout)", show_duration(timeout_ms));
        std::process::exit(i32::from(Exit::Timeout.code()));
    }));
}

/// What ends one command.
#[derive(Debug, Clone)]
pub struct Stop {
    signals: watch::Receiver<Option<i32>>,
    deadline: Option<(Instant, u64)>,
}

impl Stop {
    /// Waits for the signal or the deadline.
    pub async fn stopped(&self) -> Failure {
        tokio::select! {
            failure = self.signalled() => failure,
            failure = self.timed_out() => failure,
        }
    }

    async fn signalled(&self) -> Failure {
        let mut signals = self.signals.clone();
        let signal = match signals.wait_for(Option::is_some).await {
            Ok(signal) => signal.unwrap_or(SIGTERM),
            Err(_) => return std::future::pending().await,
        };
        failure_of(signal)
    }

    async fn timed_out(&self) -> Failure {
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
