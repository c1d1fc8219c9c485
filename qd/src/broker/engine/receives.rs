//! Receives: into a record, and out of it with messages or to wait.
//!
//! Always true here: whoever was to take messages and ends without any leaves them to the next one
//! ([`Engine::leave`]), for that one was not woken for their sake.

use qd_protocol::verbs::Verb;
use qd_protocol::verbs::delete::Statuses;
use qd_protocol::{ErrorCode, QueueName};

use super::{Batch, CANCELLED, Engine, WOKEN_PER_RECORD_MAX};
use crate::broker::kept::Kept;
use crate::broker::waiters::Take;
use crate::broker::{Answer, Job, Work};
use crate::shard::{Origin, Outcome, Received};

const SUPERSEDED: &str = "the request came again over another connection";

impl Engine {
    pub(super) fn take_in_receive(&mut self, job: Job, batch: &mut Batch) {
        let Job { peer, correlation, slot, origin, work: Work::Receive(command, wait_ms) } = job
        else {
            return;
        };
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        if let Some(origin) = origin {
            self.supersede(origin, batch);
        }
        let take = Take {
            peer,
            correlation,
            slot,
            origin,
            command,
            settled: Kept::default(),
            wait_until_ms: self.uptime_ms().saturating_add(wait_ms),
            ticket,
            cancelled: false,
            settling: false,
        };
        self.push_take(take, batch);
    }

    /// Ends a receive that its client does not want any more.
    pub(super) fn cancel(&mut self, peer: u64, correlation: u32, batch: &mut Batch) {
        match self.waiters.cancel(peer, correlation) {
            Some(take) => self.end(take, CANCELLED, batch),
            None => batch.cancel(peer, Some(correlation)),
        }
    }

    /// Ends the receives of a connection that is closed.
    pub(super) fn forget(&mut self, peer: u64, batch: &mut Batch) {
        batch.cancel(peer, None);
        for take in self.waiters.forget(peer) {
            // Nobody waits for an answer.
            if take.command.settle.is_empty() {
                self.leave(&take);
            } else {
                push_ended(take, batch);
            }
        }
    }

    /// Ends the receive that is now repeated: its connection is lost, and what it took would be
    /// known to nobody before the lease ends.
    fn supersede(&mut self, origin: Origin, batch: &mut Batch) {
        batch.supersede(origin);
        if let Some(take) = self.waiters.supersede(origin) {
            self.end(take, SUPERSEDED, batch);
        }
    }

    /// Ends a receive that is in no record; its receipts are settled all the same.
    fn end(&mut self, take: Take, text: &str, batch: &mut Batch) {
        if take.command.settle.is_empty() {
            self.leave(&take);
            self.refuse(take, ErrorCode::Cancelled, text);
        } else {
            push_ended(take, batch);
        }
    }

    /// Notes that a receive takes no messages: others may wait beside them.
    fn leave(&mut self, take: &Take) {
        for queue in &take.command.queues {
            if !self.left.contains(queue) {
                self.left.insert(queue.clone());
            }
        }
    }

    /// Takes out the waiting receives that came first for a queue: enough for `ready` messages,
    /// of which `room` may be leased.
    pub(super) fn wake(&mut self, queue: &QueueName, mut ready: u64, mut room: u64) -> Vec<Take> {
        let mut woken = Vec::new();
        while ready > 0
            && let Some(take) = self.waiters.pop(queue, room == 0)
        {
            if take.peer.hold_back() {
                self.waiters.hold_back(take);
                continue;
            }
            let most = u64::from(take.command.max);
            ready = ready.saturating_sub(most);
            if !take.command.delete {
                room = room.saturating_sub(most);
            }
            woken.push(take);
        }
        woken
    }

    /// Wakes receives for what can be delivered in queues that a record has touched or that its
    /// receives named, or that others have left: messages that became ready by themselves, that a
    /// receive left because its answer was full or another queue had enough, or that came behind it
    /// in the record.
    pub(super) fn wake_for(&mut self, queues: impl IntoIterator<Item = QueueName>) {
        if !self.waiters.any_waits() {
            return;
        }
        for queue in queues {
            let (ready, room) = self.local.machine().ready(&queue);
            for take in self.wake(&queue, ready, room) {
                self.waiters.wake(take);
            }
        }
    }

    /// Adds the receives that were woken to the record.
    pub(super) fn push_woken(&mut self, batch: &mut Batch) {
        for _ in 0..WOKEN_PER_RECORD_MAX {
            let Some(take) = self.waiters.pop_woken() else {
                return;
            };
            self.push_take(take, batch);
        }
    }

    /// Adds receives of a connection that has read its answers to the record.
    pub(super) fn push_held_back(&mut self, peer: u64, batch: &mut Batch) {
        for take in self.waiters.pop_held_back(peer) {
            self.push_take(take, batch);
        }
    }

    /// Adds a receive to the record, unless its connection has too much to read already: then only its
    /// receipts are settled.
    pub(super) fn push_take(&mut self, mut take: Take, batch: &mut Batch) {
        if take.peer.hold_back() {
            self.leave(&take);
            if take.command.settle.is_empty() {
                return self.waiters.hold_back(take);
            }
            take.settling = true;
        }
        let bytes_max = take.peer.answer_bytes_max().min(take.command.bytes_max);
        batch.push_take(take, bytes_max);
    }

    pub(super) fn answer_take(&mut self, mut take: Take, outcome: Outcome) {
        match outcome {
            Outcome::Received(received) if received.messages.is_empty() => {
                if take.cancelled {
                    self.leave(&take);
                    return self.refuse(take, ErrorCode::Cancelled, CANCELLED);
                }
                keep(&mut take, received.settled);
                if std::mem::take(&mut take.settling) || received.unfinished {
                    self.waiters.wake(take);
                } else if take.wait_until_ms <= self.uptime_ms() || take.slot.has_entries() {
                    self.leave(&take);
                    self.answer_empty(take);
                } else {
                    self.waiters.park(take);
                }
            }
            Outcome::Received(mut received) => {
                if received.settled.runs.is_empty() {
                    received.settled = take.settled.take();
                }
                self.reply_to_take(take, Outcome::Received(received).into());
            }
            other => {
                self.leave(&take);
                self.reply_to_take(take, other.into());
            }
        }
    }

    /// Answers those whose wait is over with nothing.
    pub(super) fn expire_waits(&mut self) {
        if !self.waiters.any_waits() {
            return;
        }
        for take in self.waiters.expire(self.uptime_ms()) {
            self.answer_empty(take);
        }
    }

    /// Answers with no messages.
    fn answer_empty(&mut self, mut take: Take) {
        let received = Received { settled: take.settled.take(), ..Received::default() };
        self.reply_to_take(take, Outcome::Received(received).into());
    }

    fn reply_to_take(&mut self, take: Take, answer: Answer) {
        let opcode = qd_protocol::verbs::Receive::OPCODE;
        self.reply(take.peer, (take.correlation, opcode), answer, take.slot);
    }

    pub(super) fn refuse(&mut self, take: Take, code: ErrorCode, text: &str) {
        self.reply_to_take(take, Answer::Refused(code.refuse(text)));
    }
}

/// Adds a receive to the record of which only the receipts are to be settled.
fn push_ended(mut take: Take, batch: &mut Batch) {
    take.cancelled = true;
    batch.push_take(take, 0);
}

/// Keeps what became of the receipts of a receive that goes on, and gives its entries back unless
/// that is too much.
fn keep(take: &mut Take, settled: Statuses) {
    take.command.settle = Vec::new();
    if let Some(origin) = &mut take.origin {
        origin.continued = true;
    }
    if take.settled.is_empty() {
        take.settled = Kept::new(settled);
    }
    if take.settled.count(&take.peer) {
        take.slot.release_entries();
    }
}
