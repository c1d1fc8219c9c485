//! Between connections and the replicator: turns requests into records, outcomes into answers,
//! and lets receives wait.
//!
//! Always true here:
//!
//! - The *engine* makes the records of a shard, at its own pace: it takes everything that waits in its
//!   mailbox and makes one record of it (group commit). It has a thread of its own; a request that is
//!   alone is carried out by the thread that brings it (see `mailbox`).
//! - An answer leaves when the last record that it may tell of is durable, whatever it is an answer
//!   to; until then it waits with the log. Reads run between records, a few milliseconds at a time.
//! - The mailbox is bounded in bytes ([`MAILBOX_BYTES_MAX`]); a connection that waits for room
//!   stops reading. The answers that a connection has not read yet are bounded too
//!   ([`UNREAD_BYTES_MAX`], less when all together have a lot to read): a receive waits until they
//!   are read, also beyond its own time, for an answer that nothing is there would not be true. Its
//!   receipts are settled at once.
//! - A receive that waits for a message keeps none of its connection's entries, which would keep
//!   other requests from being read.
//! - While the disk is low sends are refused ([`Space`]); everything else goes on.
//! - Receives that wait are served first come, first served per queue. A send takes the receives
//!   that wait for its queue into its own record: one sync brings the message to its consumer.

mod answer;
mod batch;
mod engine;
mod glob;
mod kept;
mod mailbox;
mod peer;
mod reads;
mod space;
mod waiters;
mod work;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use qd_protocol::{ErrorCode, Refusal};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use answer::Answer;
pub use engine::Engine;
pub use mailbox::Mailbox;
pub use peer::{Peer, Reply};
pub use space::Space;
pub use work::Work;

use crate::shard::Origin;

/// Most bytes of requests that wait for the engine or are in its hands: 64 MiB.
pub const MAILBOX_BYTES_MAX: usize = 64 << 20;
/// Bytes of unread answers of one connection past which its receives wait: 2 MiB.
pub const UNREAD_BYTES_MAX: usize = 2 << 20;
/// Bytes of unread answers of all connections past which each may have only
/// [`UNREAD_SHORT_BYTES_MAX`]: 128 MiB.
pub const UNREAD_ALL_BYTES_MAX: usize = 128 << 20;
/// Bytes of messages in one answer, and of unread answers of one connection past which its
/// receives wait, while memory is short: 64 KiB.
pub const UNREAD_SHORT_BYTES_MAX: usize = 64 << 10;
/// Bytes of statuses of receipts that the waiting receives of one connection keep for their answers,
/// past which a receive with many different ones does not wait: 1 MiB, 25 of 10,000 receipts each.
pub const STATUSES_KEPT_BYTES_MAX: usize = 1 << 20;
/// What a request takes of the mailbox besides its payload.
const REQUEST_BYTES: usize = 256;

/// A handle on the engine; clones share it.
#[derive(Debug, Clone)]
pub struct Broker {
    mailbox: Arc<mailbox::Shared>,
    room: Arc<Semaphore>,
    unread_all: Arc<AtomicUsize>,
    space: Option<Arc<Space>>,
}

/// A request on its way to the engine.
#[derive(Debug)]
pub struct Job {
    /// Whom to answer.
    pub peer: Arc<Peer>,
    /// The request's correlation id.
    pub correlation: u32,
    /// What it takes of the connection's room for unanswered requests.
    pub slot: Slot,
    /// Its number, when it has one.
    pub origin: Option<Origin>,
    /// What to do.
    pub work: Work,
}

/// What an unanswered request takes of its connection's room, given back when its answer is
/// written: a place, and where it has many entries as many of the connection's entries.
#[derive(Debug)]
pub struct Slot {
    _place: OwnedSemaphorePermit,
    entries: Option<OwnedSemaphorePermit>,
}

impl Slot {
    /// Room for a request.
    pub fn new(place: OwnedSemaphorePermit, entries: Option<OwnedSemaphorePermit>) -> Self {
        Self { _place: place, entries }
    }

    /// Gives back the entries of a request of which little is left to be answered.
    fn release_entries(&mut self) {
        self.entries = None;
    }

    /// True when the request has many entries that are to be answered.
    fn has_entries(&self) -> bool {
        self.entries.is_some()
    }
}

/// What the engine is told.
#[derive(Debug)]
enum Mail {
    /// Carry a request out; the permit is its room in the mailbox.
    Job(Box<Job>, OwnedSemaphorePermit),
    /// End the connection's waiting receive with this correlation id; the permit is as of a job.
    Cancel(u64, u32, OwnedSemaphorePermit),
    /// The connection is closed: nobody waits for its answers.
    Gone(u64),
    /// The connection has read its answers.
    Drained(u64),
    /// Finish what was asked for so far, and end.
    Stop,
    /// The log has failed.
    Failed,
}

impl Broker {
    /// A handle and the mailbox for an [`Engine`].
    pub fn new() -> (Self, Mailbox) {
        let shared = Arc::<mailbox::Shared>::default();
        let room = Arc::new(Semaphore::new(MAILBOX_BYTES_MAX));
        let mailbox = Mailbox { shared: Arc::clone(&shared) };
        (Self { mailbox: shared, room, unread_all: Arc::default(), space: None }, mailbox)
    }

    /// Refuses sends while the disk is low.
    #[must_use]
    pub fn watching(self, space: Space) -> Self {
        Self { space: Some(Arc::new(space)), ..self }
    }

    /// A connection with a number that no other one ever has, and where its answers go.
    pub fn peer(&self, id: u64, replies: UnboundedSender<Reply>) -> Peer {
        Peer::new(id, replies, Arc::clone(&self.unread_all))
    }

    /// Waits for room in the mailbox. `None`: never, for the semaphore is closed; nobody does so.
    async fn room_for(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        // A frame is far smaller than the mailbox.
        let room = (bytes + REQUEST_BYTES).min(MAILBOX_BYTES_MAX) as u32;
        match Arc::clone(&self.room).try_acquire_many_owned(room) {
            Ok(permit) => Some(permit),
            Err(_) => Arc::clone(&self.room).acquire_many_owned(room).await.ok(),
        }
    }

    /// Hands a request of `bytes` to the engine, waiting for room in the mailbox; `is_last`: its
    /// connection has sent nothing more yet.
    pub async fn submit(&self, job: Job, bytes: usize, is_last: bool) {
        if let (Some(space), true) = (&self.space, job.work.sends())
            && let Err(refusal) = space.check()
        {
            let opcode = job.work.opcode();
            job.peer.reply(job.correlation, opcode, Answer::Refused(refusal), job.slot);
            return;
        }
        let Some(permit) = self.room_for(bytes).await else {
            return;
        };
        let mail = Mail::Job(Box::new(job), permit);
        let unsent = if is_last { self.mailbox.post_last(mail) } else { self.mailbox.post(mail) };
        if let Some(Mail::Job(job, _)) = unsent {
            let opcode = job.work.opcode();
            job.peer.reply(job.correlation, opcode, Answer::Refused(closing()), job.slot);
        }
    }

    /// Ends a waiting receive of the connection, waiting for room in the mailbox.
    pub async fn cancel(&self, peer: u64, correlation: u32) {
        if let Some(permit) = self.room_for(0).await {
            self.tell(Mail::Cancel(peer, correlation, permit));
        }
    }

    /// Says that a connection is closed.
    pub fn gone(&self, peer: u64) {
        self.tell(Mail::Gone(peer));
    }

    /// Says that a connection has read its answers.
    pub fn drained(&self, peer: u64) {
        self.tell(Mail::Drained(peer));
    }

    /// Asks the engine to finish and end.
    pub fn stop(&self) {
        self.tell(Mail::Stop);
    }

    fn tell(&self, mail: Mail) {
        // An engine that has ended needs no telling.
        drop(self.mailbox.post(mail));
    }
}

fn closing() -> Refusal {
    ErrorCode::Closing.refuse("the server is shutting down")
}
