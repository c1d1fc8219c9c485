//! What became of a command.

use qd_protocol::Refusal;
use qd_protocol::verbs::delete::Statuses;
use qd_protocol::verbs::{Purged, ReceivedMessage, Redriven, Sent, SentRun};

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The queue is there; true when it was made now.
    Created(bool),
    /// The queue is gone, and this many live messages with it.
    Dropped(u64),
    /// What became of each message.
    Sent(Vec<SentRun>),
    /// What was settled and delivered.
    Received(Received),
    /// What became of each receipt or id.
    Settled(Statuses),
    /// What became of each receipt, and the new ends of leases in state ms.
    Extended(Statuses, Vec<u64>),
    /// Whether an attribute has changed.
    Updated(bool),
    /// What was moved.
    Redriven(Redriven),
    /// What was removed.
    Purged(Purged),
    /// What became of the messages of each send.
    Transacted(Vec<Sent>),
    /// Nothing was done.
    Refused(Refusal),
}

/// What a receive settled and delivered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Received {
    /// What became of the receipts.
    pub settled: Statuses,
    /// The messages, in the order of delivery.
    pub messages: Vec<ReceivedMessage>,
    /// The leases that hold them: index of the queue in the command, queue, lease.
    pub leases: Vec<(u16, u64, u64)>,
    /// The messages were deleted as they were delivered.
    pub deleted: bool,
    /// There are no messages because the record has delivered, or looked through, as much as one
    /// may: the receive is to be tried again with the next record. Its receipts are settled.
    pub unfinished: bool,
}

impl From<Refusal> for Outcome {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}
