//! One connection as the engine sees it: whom to answer, and how much it has not read yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use qd_protocol::verbs::receive::ANSWER_BYTES_MAX;
use tokio::sync::mpsc::UnboundedSender;

use super::{
    Answer, STATUSES_KEPT_BYTES_MAX, Slot, UNREAD_ALL_BYTES_MAX, UNREAD_BYTES_MAX,
    UNREAD_SHORT_BYTES_MAX,
};

/// An answer on its way to the connection.
#[derive(Debug)]
pub struct Reply {
    /// The request's.
    pub correlation: u32,
    /// The request's.
    pub opcode: u16,
    /// What to say.
    pub answer: Answer,
    /// What the answer counts as in `unread` of the connection.
    pub bytes: usize,
    /// The request's place among the unanswered ones, free when the answer is written; with the last part of
    /// one that comes in several.
    pub slot: Option<Slot>,
}

/// One connection.
#[derive(Debug)]
pub struct Peer {
    id: u64,
    /// Unbounded as a channel; bounded by the places of unanswered requests and by `unread`.
    replies: UnboundedSender<Reply>,
    /// Bytes of answers that are made and not written yet.
    unread: AtomicUsize,
    /// Of all connections.
    unread_all: Arc<AtomicUsize>,
    /// The engine holds receives back until the connection has read its answers.
    held_back: AtomicBool,
    /// Bytes of statuses that its waiting receives keep.
    kept: AtomicUsize,
}

impl Peer {
    /// A connection with a number that no other one ever has.
    pub(super) fn new(
        id: u64,
        replies: UnboundedSender<Reply>,
        unread_all: Arc<AtomicUsize>,
    ) -> Self {
        let (unread, held_back) = (AtomicUsize::new(0), AtomicBool::new(false));
        Self { id, replies, unread, unread_all, held_back, kept: AtomicUsize::new(0) }
    }

    /// The connection's number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Sends an answer.
    pub fn reply(&self, correlation: u32, opcode: u16, answer: Answer, slot: Slot) {
        self.send(self.count(correlation, opcode, answer, Some(slot)));
    }

    /// Counts an answer as unread, to be sent when it may.
    pub(super) fn count(
        &self,
        correlation: u32,
        opcode: u16,
        answer: Answer,
        slot: Option<Slot>,
    ) -> Reply {
        let bytes = answer.bytes();
        self.unread.fetch_add(bytes, Ordering::SeqCst);
        self.unread_all.fetch_add(bytes, Ordering::SeqCst);
        Reply { correlation, opcode, answer, bytes, slot }
    }

    /// Sends an answer that is counted.
    pub(super) fn send(&self, reply: Reply) {
        // A connection that is closed needs no answer.
        let _ = self.replies.send(reply);
    }

    /// Notes that answers of `bytes` are written. Returns true when receives were held back
    /// and may go on.
    pub fn written(&self, bytes: usize) -> bool {
        let before = self.unread.fetch_sub(bytes, Ordering::SeqCst);
        self.unread_all.fetch_sub(bytes, Ordering::SeqCst);
        before - bytes <= self.unread_max() / 2 && self.held_back.swap(false, Ordering::SeqCst)
    }

    /// Counts statuses that a waiting receive keeps, unless that is too much. Only the engine's thread
    /// counts.
    pub(super) fn keep(&self, bytes: usize) -> bool {
        let kept = self.kept.load(Ordering::SeqCst) + bytes;
        let fits = kept <= STATUSES_KEPT_BYTES_MAX;
        if fits {
            self.kept.store(kept, Ordering::SeqCst);
        }
        fits
    }

    /// Notes that statuses are not kept any more.
    pub(super) fn forget_kept(&self, bytes: usize) {
        self.kept.fetch_sub(bytes, Ordering::SeqCst);
    }

    /// True when all connections together have so much to read that each gets only a little more.
    fn is_short(&self) -> bool {
        self.unread_all.load(Ordering::SeqCst) > UNREAD_ALL_BYTES_MAX
    }

    /// Bytes of unread answers past which receives are held back.
    fn unread_max(&self) -> usize {
        if self.is_short() { UNREAD_SHORT_BYTES_MAX } else { UNREAD_BYTES_MAX }
    }

    /// Bytes of messages that one answer to this connection may hold now.
    pub(super) fn answer_bytes_max(&self) -> u64 {
        if self.is_short() { UNREAD_SHORT_BYTES_MAX as u64 } else { ANSWER_BYTES_MAX }
    }

    /// True when an answer of any length may be made for the connection: neither it nor all together have
    /// much to read, or nobody reads its answers any more.
    pub(super) fn has_room(&self) -> bool {
        let has_little = self.unread.load(Ordering::SeqCst) <= UNREAD_SHORT_BYTES_MAX;
        has_little && !self.is_short() || self.replies.is_closed()
    }

    /// True when the connection has too much to read: its receives are to be held back until
    /// [`Peer::written`] says otherwise.
    pub(super) fn hold_back(&self) -> bool {
        if self.unread.load(Ordering::SeqCst) <= self.unread_max() {
            return false;
        }
        self.held_back.store(true, Ordering::SeqCst);
        // Everything may have been written between the two looks. The limit may have moved too:
        // whoever writes the last answer sees nothing left, which is below any limit.
        let still = self.unread.load(Ordering::SeqCst) > self.unread_max() / 2;
        still || !self.held_back.swap(false, Ordering::SeqCst)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // What was not written when the connection closed is nobody's any more.
        let left = self.unread.load(Ordering::SeqCst);
        self.unread_all.fetch_sub(left, Ordering::SeqCst);
    }
}
