//! The seam between requests and the state machine: how a record becomes durable and applied.
//!
//! [`Local`] is a single machine: a record is applied and durable in one step. Whoever hands
//! records in sees only their outcomes, so that a replicated log can take this place.

use crate::shard::{Applied, Entry, Machine, Record};
use crate::store::Result;

/// Sees every record before it is applied, for tests that replay them.
pub type Tap = Box<dyn FnMut(&Record) + Send>;

/// Records are applied here, by this machine alone.
pub struct Local {
    machine: Machine,
    tap: Option<Tap>,
}

impl Local {
    /// Goes on with the state of `machine`.
    pub fn new(machine: Machine) -> Self {
        Self { machine, tap: None }
    }

    /// Shows every record to `tap`.
    #[must_use]
    pub fn with_tap(self, tap: Tap) -> Self {
        Self { tap: Some(tap), ..self }
    }

    /// Makes one record of `entries`, applies it, and returns when it is durable.
    ///
    /// After an error the caller must end: what was answered is on disk, the record may be or not.
    pub fn replicate(&mut self, now_ms: u64, entries: Vec<Entry>) -> Result<Applied> {
        let sequence = self.machine.position().applied + 1;
        let record = Record { sequence, now_ms, entries };
        if let Some(tap) = &mut self.tap {
            tap(&record);
        }
        self.machine.apply(&record)
    }

    /// The state, as of the last record.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }
}
