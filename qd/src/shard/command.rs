//! The log's own vocabulary: records of commands.
//!
//! Everything that a command's effect depends on besides the state is in it: time in the
//! record, random secrets and seeds in the commands.

mod encoding;

use bytes::Bytes;
use qd_protocol::verbs::{Due, IfExists, Until};
use qd_protocol::{AttributeChanges, QueueName, Receipt};

/// Commands applied as one step: one sequence number, one time, one sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// 1 for the first record of a shard, then without gaps.
    pub sequence: u64,
    /// State time, ms since 1970 UTC.
    pub now_ms: u64,
    /// In the order in which they take effect; none: only what is due is settled.
    pub entries: Vec<Entry>,
}

/// A command and whose request it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `None`: the request is not numbered.
    pub origin: Option<Origin>,
    /// What to do.
    pub command: Command,
}

/// The request that a command carries out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Random number of the producer.
    pub producer: u64,
    /// Number of the request.
    pub number: u64,
    /// Requests below this number are answered and will not come again.
    pub answered_below: u64,
    /// No repeat but the same request once more: a receive that was carried out, its receipts and
    /// all, found nothing, and goes on.
    pub continued: bool,
}

/// A change of the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Make a queue.
    Create(Create),
    /// Remove a queue.
    Drop(Drop),
    /// Add messages.
    Send(Send),
    /// Settle receipts, then lease messages.
    Receive(Receive),
    /// Settle receipts.
    Settle(Settle),
    /// Change messages that nobody holds.
    ById(ById),
    /// Change attributes of a queue.
    Update(Update),
    /// Move messages out of a dead-letter queue.
    Redrive(Redrive),
    /// Remove messages.
    Purge(Purge),
    /// Settle receipts and add messages, all or nothing.
    Transact(Transact),
}

/// Make a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Create {
    /// Its name.
    pub queue: QueueName,
    /// What to do when it exists.
    pub if_exists: IfExists,
    /// Attributes that differ from their defaults.
    pub attributes: AttributeChanges,
    /// A queue that must be there, on this shard.
    pub with: Option<QueueName>,
}

/// Remove a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drop {
    /// Its name.
    pub queue: QueueName,
    /// Refuse when it holds messages.
    pub only_if_empty: bool,
}

/// Add messages to a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Send {
    /// Its name.
    pub queue: QueueName,
    /// In order.
    pub messages: Vec<NewMessage>,
}

/// A message to be added; checked for damage before it came here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// CRC-32C of the body.
    pub crc: u32,
    /// Body and header bytes.
    pub size: u64,
    /// When it becomes visible; `None`: after the queue's delay.
    pub due: Option<Due>,
    /// How long it lives, in ms; `None`: as long as the queue lets it.
    pub ttl_ms: Option<u64>,
    /// A duplicate while a message with its dedup id is live, instead of within the window.
    pub unique: bool,
    /// Optional fields, encoded as on the wire: headers, and what decides about its place.
    pub fields: Bytes,
    /// The body.
    pub body: Bytes,
}

/// Lease messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receive {
    /// In order of preference.
    pub queues: Vec<QueueName>,
    /// Most messages.
    pub max: u32,
    /// Bytes of bodies and stored fields after which no further message is taken.
    pub bytes_max: u64,
    /// `None`: the queue's own.
    pub visibility_timeout_ms: Option<u64>,
    /// Delete in the same step.
    pub delete: bool,
    /// Receipts to delete first.
    pub settle: Vec<Receipt>,
    /// Random part of the receipts.
    pub secret: u64,
}

/// Settle receipts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settle {
    /// The queue they are of.
    pub queue: QueueName,
    /// What to do with the messages.
    pub action: Action,
    /// The receipts.
    pub receipts: Vec<Receipt>,
    /// Random, for the jitter of retry delays.
    pub seed: u64,
}

/// What becomes of leased messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// They are removed.
    Delete,
    /// Their lease gets another end.
    Extend(Until),
    /// They are given back.
    Release {
        /// Whether the delivery counts as an attempt.
        counted: bool,
        /// When they are visible again; `None`: at once.
        due: Option<Due>,
    },
    /// They become dead letters.
    Reject {
        /// Why.
        reason: String,
    },
}

/// Change messages that nobody holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ById {
    /// Their queue.
    pub queue: QueueName,
    /// What to do.
    pub action: ByIdAction,
    /// The ids.
    pub ids: Vec<u64>,
}

/// What becomes of messages that nobody holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByIdAction {
    /// They are removed.
    Discard,
    /// They become visible at another time.
    Reschedule(Due),
}

/// Change attributes of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// Its name.
    pub queue: QueueName,
    /// What is to be different.
    pub attributes: AttributeChanges,
}

/// Move messages out of a dead-letter queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redrive {
    /// Their queue.
    pub queue: QueueName,
    /// Where they go; `None`: where they came from.
    pub to: Option<QueueName>,
    /// Ids up to this one are passed over.
    pub after: u64,
    /// Ids above this one are passed over; 0: the newest one now.
    pub through: u64,
    /// Most messages moved.
    pub max: u32,
    /// Headers that they must have.
    pub headers: Vec<(String, String)>,
    /// Change nothing.
    pub dry_run: bool,
}

/// Remove messages of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purge {
    /// The queue.
    pub queue: QueueName,
    /// Only messages of at least this age in ms.
    pub older_than_ms: Option<u64>,
    /// Headers that they must have.
    pub headers: Vec<(String, String)>,
    /// Change nothing.
    pub dry_run: bool,
    /// Ids up to this one are passed over.
    pub after: u64,
    /// Ids above this one are passed over; 0: the newest one now.
    pub through: u64,
}

impl Purge {
    /// True when not all messages are meant.
    pub fn is_filtered(&self) -> bool {
        self.older_than_ms.is_some() || !self.headers.is_empty()
    }
}

/// Settle receipts and add messages, all or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transact {
    /// Receipts of messages to delete, by queue.
    pub deletes: Vec<(QueueName, Vec<Receipt>)>,
    /// Messages to add, by queue.
    pub sends: Vec<Send>,
}
