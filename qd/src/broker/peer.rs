//! One connection as the engine sees it: whom to answer, and how much it has not read yet.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::UnboundedSender;

use super::{Answer, UNREAD_BYTES_MAX};

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
    /// The request's place among the unanswered ones, free when the answer is written.
    pub slot: OwnedSemaphorePermit,
}

/// One connection.
#[derive(Debug)]
pub struct Peer {
    id: u64,
    /// Unbounded as a channel; bounded by the places of unanswered requests and by `unread`.
    replies: UnboundedSender<Reply>,
    unread: AtomicUsize,
    /// The engine holds receives back until the connection has read its answers.
    held_back: AtomicBool,
}

impl Peer {
    /// A connection with a number that no other one ever has.
    pub fn new(id: u64, replies: UnboundedSender<Reply>) -> Self {
        Self { id, replies, unread: AtomicUsize::new(0), held_back: AtomicBool::new(false) }
    }

    /// The connection's number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Sends an answer.
    pub fn reply(&self, correlation: u32, opcode: u16, answer: Answer, slot: OwnedSemaphorePermit) {
        let bytes = answer.bytes();
        self.unread.fetch_add(bytes, Ordering::SeqCst);
        // A connection that is closed needs no answer.
        let _ = self.replies.send(Reply { correlation, opcode, answer, bytes, slot });
    }

    /// Notes that answers of `bytes` are written. Returns true when receives were held back
    /// and may go on.
    pub fn written(&self, bytes: usize) -> bool {
        let before = self.unread.fetch_sub(bytes, Ordering::SeqCst);
        before - bytes <= UNREAD_BYTES_MAX / 2 && self.held_back.swap(false, Ordering::SeqCst)
    }

    /// True when the connection has too much to read: its receives are to be held back until
    /// [`Peer::written`] says otherwise.
    pub(super) fn hold_back(&self) -> bool {
        if self.unread.load(Ordering::SeqCst) <= UNREAD_BYTES_MAX {
            return false;
        }
        self.held_back.store(true, Ordering::SeqCst);
        // Everything may have been written between the two looks.
        let still = self.unread.load(Ordering::SeqCst) > UNREAD_BYTES_MAX / 2;
        still || !self.held_back.swap(false, Ordering::SeqCst)
    }
}
