//! The thread that makes records durable while the next ones are applied.
//!
//! Always true here:
//!
//! - Callbacks run one after the other in the order of their records, when these are durable, and
//!   not after a failure.
//! - Whoever appends while nothing else is under way syncs at once, in its own thread: waking another
//!   one costs as much as half a sync.
//! - Nobody waits for a thread that is gone: a panic is a failure of the log.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;

use super::{Appender, LogError, Result};

/// Bytes of records that are not durable past which appending waits: 32 MiB.
const PENDING_BYTES_MAX: usize = 32 << 20;

/// Runs when the records before it are durable.
pub type OnDurable = Box<dyn FnOnce() + Send>;

/// What both threads see.
#[derive(Default)]
struct State {
    /// To be appended.
    records: Vec<(u64, Bytes)>,
    pending_bytes: usize,
    callbacks: VecDeque<(u64, OnDurable)>,
    durable: u64,
    /// Segments up to this record are done with.
    recycle: Option<u64>,
    /// Somebody writes.
    busy: bool,
    /// Somebody runs callbacks, also those that become ready meanwhile.
    calling: bool,
    failed: Option<LogError>,
    stop: bool,
}

struct Shared {
    state: Mutex<State>,
    /// There is something to do.
    work: Condvar,
    /// Something is done.
    done: Condvar,
    appender: Mutex<Appender>,
    /// Told once when the log fails.
    on_failure: Box<dyn Fn() + Send + Sync>,
}

/// The log with its thread, which ends with it.
pub struct Synced {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Synced {
    /// Starts the thread; the last durable record is number `durable`.
    pub fn start(
        appender: Appender,
        durable: u64,
        on_failure: Box<dyn Fn() + Send + Sync>,
    ) -> std::io::Result<Self> {
        let state = State { durable, ..State::default() };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            work: Condvar::new(),
            done: Condvar::new(),
            appender: Mutex::new(appender),
            on_failure,
        });
        let its = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("log".to_owned()).spawn(move || its.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Appends a record, which becomes durable later, or at once when `alone` and nothing else is
    /// under way.
    pub fn append(&self, sequence: u64, payload: Bytes, alone: bool) -> Result<()> {
        let mut state = self.shared.state();
        while state.pending_bytes > PENDING_BYTES_MAX && state.failed.is_none() {
            state = self.shared.wait(&self.shared.done, state);
        }
        if let Some(error) = &state.failed {
            return Err(error.again());
        }
        state.pending_bytes += payload.len();
        if alone && !state.busy && state.records.is_empty() {
            state.busy = true;
            drop(state);
            return self.shared.write(&[(sequence, payload)], None);
        }
        state.records.push((sequence, payload));
        drop(state);
        self.shared.work.notify_one();
        Ok(())
    }

    /// Runs `callback` when the records up to `sequence` are durable.
    pub fn when_durable(&self, sequence: u64, callback: OnDurable) {
        let mut state = self.shared.state();
        if state.failed.is_some() {
            return;
        }
        state.callbacks.push_back((sequence, callback));
        if state.durable >= sequence {
            self.shared.call(state);
        }
    }

    /// Waits until the records up to `sequence` are durable.
    pub fn wait(&self, sequence: u64) -> Result<()> {
        let mut state = self.shared.state();
        loop {
            if let Some(error) = &state.failed {
                return Err(error.again());
            }
            if state.durable >= sequence {
                return Ok(());
            }
            state = self.shared.wait(&self.shared.done, state);
        }
    }

    /// Why the log failed.
    pub fn check(&self) -> Result<()> {
        self.shared.state().failed.as_ref().map_or(Ok(()), |error| Err(error.again()))
    }

    /// Lets segments be used again of which every record is at or below `sequence`.
    pub fn recycle(&self, sequence: u64) {
        self.shared.state().recycle = Some(sequence);
        self.shared.work.notify_one();
    }
}

impl Drop for Synced {
    fn drop(&mut self) {
        self.shared.state().stop = true;
        self.shared.work.notify_one();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[expect(clippy::unused_self, reason = "reads like the condition it waits for")]
    fn wait<'a>(&self, condition: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        condition.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        loop {
            let mut state = self.state();
            while (state.busy || state.records.is_empty() && state.recycle.is_none())
                && !(state.stop && !state.busy && state.records.is_empty())
            {
                state = self.wait(&self.work, state);
            }
            if state.stop && state.records.is_empty() || state.failed.is_some() {
                return;
            }
            let (records, recycle) = (std::mem::take(&mut state.records), state.recycle.take());
            state.busy = true;
            drop(state);
            if self.write(&records, recycle).is_err() {
                return;
            }
        }
    }

    /// Writes and syncs records; the caller has made itself the busy one.
    fn write(&self, records: &[(u64, Bytes)], recycle: Option<u64>) -> Result<()> {
        let _failure = FailureOfPanic(self);
        let written = {
            let mut appender = self.appender.lock().unwrap_or_else(PoisonError::into_inner);
            let written = if records.is_empty() {
                Ok(())
            } else {
                appender.append(records).and_then(|()| appender.sync())
            };
            written.and_then(|()| recycle.map_or(Ok(()), |sequence| appender.recycle(sequence)))
        };
        if let Err(error) = written {
            let again = error.again();
            self.fail(error);
            return Err(again);
        }
        let mut state = self.state();
        state.busy = false;
        state.durable = records.last().map_or(state.durable, |(sequence, _)| *sequence);
        state.pending_bytes -= records.iter().map(|(_, payload)| payload.len()).sum::<usize>();
        let more = !state.records.is_empty() || state.recycle.is_some() || state.stop;
        self.done.notify_all();
        if more {
            self.work.notify_one();
        }
        self.call(state);
        Ok(())
    }

    /// Runs the callbacks whose records are durable, unless another thread is at it, which then runs
    /// these too.
    fn call<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        if state.calling {
            return;
        }
        let _failure = FailureOfPanic(self);
        state.calling = true;
        loop {
            let durable = state.durable;
            let ready = state.callbacks.partition_point(|(sequence, _)| *sequence <= durable);
            if ready == 0 {
                break;
            }
            let ready: Vec<_> = state.callbacks.drain(..ready).collect();
            drop(state);
            for (_, callback) in ready {
                callback();
            }
            state = self.state();
        }
        state.calling = false;
    }

    fn fail(&self, error: LogError) {
        let mut state = self.state();
        state.busy = false;
        state.failed.get_or_insert(error);
        // What is not durable is never answered.
        let never_run = std::mem::take(&mut state.callbacks);
        drop(state);
        drop(never_run);
        self.done.notify_all();
        self.work.notify_one();
        (self.on_failure)();
    }
}

/// Lets the log fail when its thread, or another one that does its work, panics.
struct FailureOfPanic<'a>(&'a Shared);

impl Drop for FailureOfPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(LogError::Failed("a fault in the program".to_owned()));
        }
    }
}

impl std::fmt::Debug for Synced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Synced")
            .field("durable", &self.shared.state().durable)
            .finish_non_exhaustive()
    }
}
