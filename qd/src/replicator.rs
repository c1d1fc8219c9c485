//! The seam between requests and the state machine: how a record becomes durable and applied.
//!
//! [`Local`] is a single machine: a record goes into the log, and while the disk works it is
//! applied. What it gives may be told to somebody when the log says that the record is on disk
//! ([`Local::when_durable`]). The state becomes durable with checkpoints, each behind the log, and
//! written while records go on: what it lacks after a failure of the machine is in the log, which is
//! replayed when the data is opened. Whoever hands records in sees only their outcomes, so that a
//! replicated log can take this place.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use bytesize::ByteSize;
use qd_protocol::wire::DecodeError;

use crate::clock;
use crate::log::files::Files;
use crate::log::{self, LogError, OnDurable, Options, Synced};
use crate::shard::{Applied, Entry, Machine, Record};
use crate::store::StoreError;

/// Bytes of records behind which a checkpoint is due: 4 MiB. Everybody waits while its pages are
/// handed over.
const CHECKPOINT_BYTES: usize = 4 << 20;
/// Bytes of records behind which the next checkpoint does not wait for the end of the one before:
/// 64 MiB. It is what a disk that is too slow for both lets be replayed when the data is opened.
const CHECKPOINT_BYTES_MAX: usize = 64 << 20;
/// How often it is looked whether a checkpoint is durable, while nothing else happens: every 10 ms.
const SAVED_POLL_MS: u64 = 10;
/// What a row that was freed counts towards the next checkpoint, so that it has at most 512 of them: each
/// takes it 1 us, and everybody waits meanwhile.
const CHECKPOINT_BYTES_PER_ROW_FREED: usize = 8 << 10;
/// Longest time without a checkpoint while there is something to be saved: 1 s.
const CHECKPOINT_MS: u64 = 1_000;

/// How often a replay says how far it is: every second.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// The machine goes only as the last thing of all.
const ALIVE: &str = "a machine until the end";

/// Sees every record before it is applied, for tests that replay them.
pub type Tap = Box<dyn FnMut(&Record) + Send>;

/// Why records cannot be replicated any more. What was not durable was told to nobody.
#[derive(Debug, thiserror::Error)]
pub enum ReplicatorError {
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The state failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record of the log is not one of this release.
    #[error("log: record {sequence}: {error}")]
    Record {
        /// Its number.
        sequence: u64,
        /// What is wrong with it.
        error: DecodeError,
    },
    /// The operating system refused.
    #[error("start the thread of the log: {0}")]
    Thread(std::io::Error),
}

/// Result of a replicator's operation.
pub type Result<T> = std::result::Result<T, ReplicatorError>;

/// Tells how far a replay is, for whoever waits for it.
struct Progress {
    start: Duration,
    told: Duration,
    records: u64,
    bytes: usize,
}

impl Progress {
    fn new(now: Duration) -> Self {
        Self { start: now, told: now, records: 0, bytes: 0 }
    }

    /// A record is about to be applied.
    fn saw(&mut self, bytes: usize, now: Duration) {
        if now.saturating_sub(self.told) >= PROGRESS_EVERY {
            self.told = now;
            tracing::info!("replaying the log: {} so far", self.seen());
        }
        self.records += 1;
        self.bytes += bytes;
    }

    fn end(&self, now: Duration) {
        let ms = now.saturating_sub(self.start).as_millis();
        tracing::info!(
            "{} of the log were not in the state yet, and are after {ms} ms",
            self.seen()
        );
    }

    fn seen(&self) -> String {
        format!("{} records, {}", self.records, ByteSize(self.bytes as u64))
    }
}

/// Applies to `machine` what its log in `files` has behind it, and changes nothing in the log. Each record
/// is shown to `saw` by its bytes.
pub fn replay(
    machine: &mut Machine,
    files: &dyn Files,
    mut saw: impl FnMut(usize),
) -> Result<log::Seen> {
    let (node, from) = (machine.node(), machine.position().applied);
    log::look(files, node, from, |sequence, payload: Bytes| {
        saw(payload.len());
        apply(machine, sequence, payload)
    })
}

fn apply(machine: &mut Machine, sequence: u64, payload: Bytes) -> Result<()> {
    let record =
        Record::decode(payload).map_err(|error| ReplicatorError::Record { sequence, error })?;
    machine.apply(&record)?;
    Ok(())
}

/// Records are logged and applied here, by this machine alone.
pub struct Local {
    /// redb saves what it has when it is dropped, which must not get ahead of the log.
    machine: Option<Machine>,
    log: Synced,
    tap: Option<Tap>,
    /// Bytes of records since the last checkpoint.
    unsaved_bytes: usize,
    /// Uptime at which the first record since the last checkpoint was seen, in ms.
    unsaved_since_ms: Option<u64>,
    /// The last record of a checkpoint that is not durable yet.
    saving: Option<u64>,
    /// See [`Local::live`].
    live: Arc<AtomicU64>,
}

impl Local {
    /// Replays what the state of `machine` lacks and goes on behind it. `on_failure` is told when
    /// the log fails later on.
    pub fn open(
        mut machine: Machine,
        files: Box<dyn Files>,
        segment_bytes: u64,
        on_failure: Box<dyn Fn() + Send + Sync>,
    ) -> Result<Self> {
        let options = Options { node: machine.node(), segment_bytes };
        let from = machine.position().applied;
        let mut progress = Progress::new(clock::boot_time());
        let appender = log::recover(files, options, from, |sequence, payload: Bytes| {
            progress.saw(payload.len(), clock::boot_time());
            apply(&mut machine, sequence, payload)
        })?;
        let applied = machine.position().applied;
        if applied > from {
            machine.checkpoint()?;
            progress.end(clock::boot_time());
        }
        let log = Synced::start(appender, applied, on_failure).map_err(ReplicatorError::Thread)?;
        log.recycle(applied);
        let live = Arc::new(AtomicU64::new(machine.live_bytes()));
        Ok(Self {
            machine: Some(machine),
            log,
            tap: None,
            unsaved_bytes: 0,
            unsaved_since_ms: None,
            saving: None,
            live,
        })
    }

    /// Shows every record to `tap`.
    #[must_use]
    pub fn with_tap(mut self, tap: Tap) -> Self {
        self.tap = Some(tap);
        self
    }

    /// Makes one record of `entries`, logs and applies it. `alone`: nothing else waits to be
    /// done meanwhile.
    ///
    /// After an error the caller must end: nothing of the record may be told to anybody.
    pub fn replicate(&mut self, now_ms: u64, entries: Vec<Entry>, alone: bool) -> Result<Applied> {
        let sequence = self.machine().position().applied + 1;
        let record = Record { sequence, now_ms, entries };
        if let Some(tap) = &mut self.tap {
            tap(&record);
        }
        let mut payload = BytesMut::new();
        record.encode(&mut payload);
        self.unsaved_bytes += payload.len();
        self.log.append(sequence, payload.freeze(), alone)?;
        let applied = self.machine.as_mut().expect(ALIVE).apply(&record)?;
        self.unsaved_bytes += applied.freed * CHECKPOINT_BYTES_PER_ROW_FREED;
        Ok(applied)
    }

    /// Runs `callback` when all records so far are durable; never, when that fails.
    pub fn when_durable(&self, callback: OnDurable) {
        self.log.when_durable(self.machine().position().applied, callback);
    }

    /// Waits until all records so far are durable.
    pub fn wait(&self) -> Result<()> {
        Ok(self.log.wait(self.machine().position().applied)?)
    }

    /// An error when the log has failed.
    pub fn check(&self) -> Result<()> {
        Ok(self.log.check()?)
    }

    /// When a checkpoint is due, or one that is under way is to be looked at, in ms of uptime, seen at
    /// `uptime_ms`.
    pub fn save_due_ms(&mut self, uptime_ms: u64) -> Option<u64> {
        let look_ms = self.saving.map(|_| uptime_ms + SAVED_POLL_MS);
        if self.unsaved_bytes == 0 {
            return look_ms;
        }
        let due_ms = *self.unsaved_since_ms.get_or_insert(uptime_ms) + CHECKPOINT_MS;
        let bytes = if look_ms.is_some() { CHECKPOINT_BYTES_MAX } else { CHECKPOINT_BYTES };
        if self.unsaved_bytes >= bytes {
            return Some(uptime_ms);
        }
        Some(look_ms.unwrap_or(due_ms))
    }

    /// Makes a checkpoint if one is due at `uptime_ms`. Returns when to come again.
    pub fn save(&mut self, uptime_ms: u64) -> Result<Option<u64>> {
        self.is_saved()?;
        match self.save_due_ms(uptime_ms) {
            Some(due_ms) if due_ms <= uptime_ms => {
                self.begin_checkpoint()?;
                Ok(self.save_due_ms(uptime_ms))
            }
            due_ms => Ok(due_ms),
        }
    }

    /// Waits until everything is in the log, and begins to make the state durable too.
    pub fn begin_checkpoint(&mut self) -> Result<()> {
        self.wait()?;
        self.machine.as_mut().expect(ALIVE).begin_checkpoint()?;
        self.saving = Some(self.machine().position().applied);
        self.live.store(self.machine().live_bytes(), Ordering::Relaxed);
        self.unsaved_bytes = 0;
        self.unsaved_since_ms = None;
        Ok(())
    }

    /// True when every checkpoint that was begun is durable. The log does not need what is in one.
    pub fn is_saved(&mut self) -> Result<bool> {
        let Some(sequence) = self.saving else {
            return Ok(true);
        };
        let is_saved = self.machine().is_saved()?;
        if is_saved {
            self.saving = None;
            self.log.recycle(sequence);
        }
        Ok(is_saved)
    }

    /// Waits until everything is in the log, and makes the state durable too.
    pub fn checkpoint(&mut self) -> Result<()> {
        self.begin_checkpoint()?;
        self.machine.as_mut().expect(ALIVE).wait_saved()?;
        self.is_saved()?;
        Ok(())
    }

    /// What [`Machine::live_bytes`] was at the last checkpoint.
    pub fn live(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.live)
    }

    /// The state, as of the last record.
    pub fn machine(&self) -> &Machine {
        self.machine.as_ref().expect(ALIVE)
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        // Whatever is not in the log for sure must not be in the state either. The process is about
        // to end then: what is left in memory goes with it.
        if self.wait().is_err() {
            std::mem::forget(self.machine.take());
        }
    }
}
