//! Moving messages whose life in their queue is over to its dead-letter queue.
//!
//! Always true here:
//!
//! - A message that is to become a dead letter is never destroyed. Where its dead-letter queue is
//!   missing or full it stays, *blocked*: counted as delayed, with its reason in a row of
//!   `blocked`. The blocked messages of a queue are tried again together, every [`RETRY_MS`] of
//!   state time, in the order of their ids, until [`RETRIES_FAILED_MAX`] could not be moved; the
//!   next time begins behind those.
//! - A record moves messages of at most [`MOVED_BYTES_PER_RECORD_MAX`]; what is left over is
//!   blocked until the next one.
//! - A dead letter is visible at once, whatever the delay of its new queue, and of any size. It has
//!   no time to live. Where it came from and why stands in its fields
//!   ([`qd_protocol::message::DeadLettered`]).
//!
//! The reason in a row of `blocked`: u8 kind (1 max-deliveries, 2 rejected, 3 expired,
//! 4 overflow), and of a rejection its text.

use bytes::Bytes;
use qd_protocol::attributes::{DeadLetter, UNLIMITED};
use qd_protocol::message::{DeadLettered, Reason};
use qd_protocol::wire::DecodeError;
use qd_protocol::{Attributes, QueueName};

use super::dedup::properties_of;
use super::queue::Amount;
use super::{Queue, Step};
use crate::store::chunk::{Content, NewEntry};
use crate::store::lease::{Delivered, Run};
use crate::store::{Blocked, Result, StoreError};

/// How often a dead-letter queue is tried that could not take a message: every minute.
const RETRY_MS: u64 = 60_000;
/// Blocked messages that cannot be moved after which the others of their queue wait for another
/// try: most stay for the same reason.
const RETRIES_FAILED_MAX: usize = 100;
/// Bytes of messages after which a record moves no more: 32 MiB.
const MOVED_BYTES_PER_RECORD_MAX: u64 = 32 << 20;
/// Most queues that make room one for the other, each dropping into the next.
const DROPS_NESTED_MAX: u8 = 8;

/// A message as it is stored.
pub(super) struct Stored {
    pub crc: u32,
    pub size: u64,
    pub sent_at_ms: u64,
    pub fields: Bytes,
    pub body: Bytes,
}

impl Stored {
    /// The same message with other fields and no time to live.
    pub fn with_fields<'a>(&'a self, fields: &'a [u8]) -> NewEntry<'a> {
        let Self { crc, size, ref body, .. } = *self;
        // What the fields say besides is found out when the message is added.
        NewEntry { crc, size, expires_ms: None, has_lane: false, has_dedup: false, fields, body }
    }
}

impl Step<'_, '_> {
    /// True when messages of the queue can become dead letters.
    pub(super) fn has_dead_letter(&self, number: u64) -> bool {
        let queue = &self.queues[&number];
        queue.attributes.dead_letter.queue_of(&queue.name).is_some()
    }

    /// Moves a message that is in no place to its queue's dead-letter queue, or blocks it. Where the
    /// queue has none any more the message is ready again, or removed when its time is over.
    pub(super) fn dead_letter(
        &mut self,
        number: u64,
        id: u64,
        delivered: Delivered,
        reason: &Reason,
    ) -> Result<()> {
        if !self.has_dead_letter(number) {
            if !self.is_over(number, id)? {
                return self.give_back(number, id, delivered);
            }
            self.queue(number).statistics.expired += u64::from(*reason != Reason::Expired);
            let run = self.run_of(number, id)?;
            return self.remove_messages(number, &[run]).map(|_| ());
        }
        if self.has_moved_enough() {
            return self.block(number, id, self.now_ms, delivered, reason);
        }
        let size = self.stored_size(number, id)?;
        let Some(target) = self.room_in_dead_letter(number, size)? else {
            let due_ms = self.now_ms.saturating_add(RETRY_MS);
            return self.block(number, id, due_ms, delivered, reason);
        };
        self.move_to(target, (number, id), delivered, reason)
    }

    /// Moves a message that is in no place to a dead-letter queue that has room for it.
    pub(super) fn move_to(
        &mut self,
        target: u64,
        (number, id): (u64, u64),
        delivered: Delivered,
        reason: &Reason,
    ) -> Result<()> {
        let stored = self.stored(number, id)?;
        let hop = DeadLettered {
            queue: self.queues[&number].name.clone(),
            id,
            sent_at_ms: stored.sent_at_ms,
            attempts: delivered.attempts,
            first_delivered_ms: delivered.first_ms,
            last_delivered_ms: delivered.last_ms,
            reason: reason.clone(),
        };
        let fields = hop.appended_to(&stored.fields).map_err(|error| damaged_fields(&error))?;
        self.move_message((number, id), target, &stored.with_fields(&fields))?;
        self.queue(number).statistics.dead_lettered += 1;
        Ok(())
    }

    /// Moves a message that is in no place to the end of another queue.
    pub(super) fn move_message(
        &mut self,
        (number, id): (u64, u64),
        target: u64,
        entry: &NewEntry<'_>,
    ) -> Result<()> {
        self.moved_bytes += entry.size;
        let run = self.run_of(number, id)?;
        self.remove_messages(number, &[run])?;
        let properties = properties_of(&Bytes::copy_from_slice(entry.fields))?;
        self.add(target, entry, &properties, None)?;
        Ok(())
    }

    /// True when what else is to be moved is for the next record.
    pub(super) fn has_moved_enough(&self) -> bool {
        self.moved_bytes >= MOVED_BYTES_PER_RECORD_MAX
    }

    /// The dead-letter queue, if it takes a message that is about to be dropped now.
    pub(super) fn dead_letter_for(&mut self, number: u64, id: u64) -> Result<Option<u64>> {
        if self.has_moved_enough() {
            return Ok(None);
        }
        let size = self.stored_size(number, id)?;
        self.room_in_dead_letter(number, size)
    }

    /// The dead-letter queue, made where it is to be, if it takes a message of `size` now.
    fn room_in_dead_letter(&mut self, number: u64, size: u64) -> Result<Option<u64>> {
        let queue = &self.queues[&number];
        let attributes = &queue.attributes;
        let Some(name) = attributes.dead_letter.queue_of(&queue.name) else {
            return Ok(None);
        };
        let target = match self.names.get(&name).copied() {
            Some(target) if target == number => return Ok(None),
            Some(target) => target,
            None if attributes.dead_letter == DeadLetter::Default => {
                self.make_dead_letter_queue(name, attributes.max_message_size)
            }
            None => return Ok(None),
        };
        // A queue that drops its oldest message to make room may have to move it on itself.
        if self.drops_nested >= DROPS_NESTED_MAX {
            return Ok(None);
        }
        self.drops_nested += 1;
        let room = self.make_room(target, Amount::one(size), Amount::default());
        self.drops_nested -= 1;
        Ok(room?.is_ok().then_some(target))
    }

    /// Makes a queue from which nothing is ever taken away but by whoever reads it.
    fn make_dead_letter_queue(&mut self, name: QueueName, max_message_size: u64) -> u64 {
        let attributes = Attributes {
            max_message_size,
            dead_letter: DeadLetter::None,
            max_deliveries: UNLIMITED,
            ..Attributes::default()
        };
        self.make_queue(name, attributes)
    }

    /// Lets a message that is in no place wait for its dead-letter queue; the queue's messages are
    /// tried again at `due_ms` unless they are earlier.
    fn block(
        &mut self,
        number: u64,
        id: u64,
        due_ms: u64,
        delivered: Delivered,
        reason: &Reason,
    ) -> Result<()> {
        self.tables.put_blocked(number, id, &Blocked { delivered, reason: encode(reason) })?;
        let queue = self.queue(number);
        queue.statistics.delayed += 1;
        queue.statistics.dead_letter_blocked += 1;
        let (retry_ms, retry_from) = (queue.retry_ms, queue.retry_from);
        if retry_ms.is_none_or(|before| due_ms < before) {
            self.retry_at(number, due_ms, retry_from)?;
        }
        Ok(())
    }

    /// Takes a blocked message out of its place.
    pub(super) fn unblock(&mut self, number: u64, id: u64) -> Result<Option<Blocked>> {
        let blocked = self.tables.remove_blocked(number, id)?;
        let statistics = &mut self.queue(number).statistics;
        statistics.delayed -= 1;
        statistics.dead_letter_blocked -= 1;
        if statistics.dead_letter_blocked == 0
            && let Some(retry_ms) = self.queue(number).retry_ms.take()
        {
            self.tables.remove_due(retry_ms, number, 0)?;
        }
        Ok(blocked)
    }

    /// Tries the blocked messages of a queue again at `due_ms`, those from `from` on first.
    pub(super) fn retry_at(&mut self, number: u64, due_ms: u64, from: u64) -> Result<()> {
        let queue = self.queue(number);
        queue.retry_from = from;
        if queue.statistics.dead_letter_blocked == 0 {
            return Ok(());
        }
        if let Some(before) = queue.retry_ms.replace(due_ms) {
            self.tables.remove_due(before, number, 0)?;
        }
        self.tables.put_retry(due_ms, number)
    }

    /// Tries the blocked messages of a queue again, whose time has come, at most `room` of them.
    /// Returns how many more messages may be settled.
    pub(super) fn retry_blocked(&mut self, number: u64, mut room: usize) -> Result<usize> {
        let Some(queue) = self.queues.get(&number) else {
            return Ok(room);
        };
        let (mut from, mut left) = (queue.retry_from, queue.statistics.dead_letter_blocked);
        let mut failed = 0;
        // One that is in the way of none but itself must not be either: all are tried in turn.
        while left > 0 && failed < RETRIES_FAILED_MAX {
            let behind = self.tables.blocked_from(number, from)?;
            let Some(id) =
                behind.map_or_else(|| self.tables.blocked_from(number, 0), |id| Ok(Some(id)))?
            else {
                break;
            };
            if room == 0 || self.has_moved_enough() {
                self.retry_at(number, self.now_ms, id)?;
                return Ok(0);
            }
            room -= 1;
            left -= 1;
            from = id + 1;
            if let Some(Blocked { delivered, reason }) = self.unblock(number, id)? {
                let before = self.queues[&number].statistics.dead_letter_blocked;
                self.dead_letter(number, id, delivered, &decode(&reason)?)?;
                failed += usize::from(self.queues[&number].statistics.dead_letter_blocked > before);
            }
        }
        self.retry_at(number, self.now_ms.saturating_add(RETRY_MS), from)?;
        Ok(room)
    }

    /// What a live message counts towards limits.
    pub(super) fn stored_size(&mut self, number: u64, id: u64) -> Result<u64> {
        self.flush(number)?;
        let Run { chunk, .. } = self.run_of(number, id)?;
        Ok(self.tables.chunk(number, chunk)?.view()?.entry((id - chunk) as usize)?.size)
    }

    /// A live message's content.
    pub(super) fn stored(&mut self, number: u64, id: u64) -> Result<Stored> {
        self.flush(number)?;
        let Run { chunk, .. } = self.run_of(number, id)?;
        let row = self.tables.chunk(number, chunk)?;
        let view = row.view()?;
        let entry = view.entry((id - chunk) as usize)?;
        let (fields, body) = match entry.content {
            Content::Inline { fields, body, end } => (
                Bytes::copy_from_slice(view.bytes(fields, body)?),
                Bytes::copy_from_slice(view.bytes(body, end)?),
            ),
            Content::External { fields, body } => {
                let mut whole = Bytes::from(self.tables.parts(number, id, fields + body)?);
                (whole.split_to(fields), whole)
            }
        };
        let sent_at_ms = view.sent_at_ms();
        Ok(Stored { crc: entry.crc, size: entry.size, sent_at_ms, fields, body })
    }

    /// A live message's fields alone.
    pub(super) fn stored_fields(&mut self, number: u64, id: u64) -> Result<Bytes> {
        self.flush(number)?;
        let Run { chunk, .. } = self.run_of(number, id)?;
        let row = self.tables.chunk(number, chunk)?;
        let view = row.view()?;
        Ok(match view.entry((id - chunk) as usize)?.content {
            Content::Inline { fields, body, .. } => {
                Bytes::copy_from_slice(view.bytes(fields, body)?)
            }
            Content::External { fields, .. } => {
                Bytes::from(self.tables.parts_start(number, id, fields)?)
            }
        })
    }

    /// Adds a queue.
    pub(super) fn make_queue(&mut self, name: QueueName, attributes: Attributes) -> u64 {
        let number = *self.next_queue;
        *self.next_queue += 1;
        let queue = Queue::new(name.clone(), attributes, self.now_ms);
        self.names.insert(name, number);
        self.queues.insert(number, queue);
        self.touched.insert(number);
        number
    }
}

/// A message's fields do not have their layout.
pub(super) fn damaged_fields(error: &DecodeError) -> StoreError {
    StoreError::Damaged(format!("fields of a message: {error}"))
}

fn encode(reason: &Reason) -> Vec<u8> {
    match reason {
        Reason::MaxDeliveries => vec![1],
        Reason::Rejected(text) => [&[2], text.as_bytes()].concat(),
        Reason::Expired => vec![3],
        Reason::Overflow => vec![4],
    }
}

fn decode(dead: &[u8]) -> Result<Reason> {
    let damaged = || StoreError::Damaged("delayed: unknown reason of a dead letter".to_owned());
    match dead {
        [1] => Ok(Reason::MaxDeliveries),
        [2, text @ ..] => {
            let text = String::from_utf8(text.to_vec()).map_err(|_| damaged())?;
            Ok(Reason::Rejected(text))
        }
        [3] => Ok(Reason::Expired),
        [4] => Ok(Reason::Overflow),
        _ => Err(damaged()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_survive_their_bytes() {
        let rejected = Reason::Rejected("größer".to_owned());
        for reason in [Reason::MaxDeliveries, rejected, Reason::Expired, Reason::Overflow] {
            assert_eq!(decode(&encode(&reason)).unwrap(), reason);
        }
        for bad in [&b""[..], &[0], &[1, 1], &[2, 0xff], &[5]] {
            assert!(decode(bad).is_err(), "{bad:?}");
        }
    }
}
