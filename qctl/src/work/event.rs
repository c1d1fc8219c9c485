//! What the worker's tasks end with.

use std::time::Duration;

use qd_protocol::verbs::delete::Statuses;
use qd_protocol::verbs::{Extended, Received};

use super::job::Ended;
use super::ledger::{Held, Lease};
use crate::exit::Failure;

/// Something that has happened.
#[derive(Debug)]
pub enum Event {
    /// A command has ended.
    Ended(Ended),
    /// A receive was answered.
    Received(Answer),
    /// Messages were settled, or not.
    Settled {
        /// How.
        how: Settle,
        /// Which: all of one queue.
        held: Vec<Held>,
        /// The server's answer.
        result: Result<Statuses, Failure>,
    },
    /// Leases were renewed, or not.
    Renewed {
        /// All of one queue.
        leases: Vec<Lease>,
        /// When that was asked for.
        from: Duration,
        /// The server's answer.
        result: Result<Extended, Failure>,
    },
}

/// The end of a receive.
#[derive(Debug)]
pub struct Answer {
    /// What it was to delete first.
    pub settled: Vec<Held>,
    /// Whether it could wait for messages.
    pub waited: bool,
    /// How long it took.
    pub took: Duration,
    /// The server's answer.
    pub result: Result<Received, Failure>,
}

/// What is done with messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settle {
    /// The work is done.
    Delete,
    /// It has failed, which counts.
    Fail,
    /// It was not begun, or is to be done later.
    Release,
    /// It never will be done, for this reason.
    Reject(String),
}
