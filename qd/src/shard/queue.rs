//! A queue's row, which is also what memory holds of it.
//!
//! ```text
//! u8 layout (2), u64 created at (ms since 1970 UTC), u64 next id, u64 cursor, u64 next lease,
//! u64 returned, u64 messages with a time to live, u64 retained from, u64 blocked messages are
//! tried again at (state ms; 0: there are none), u64 and from which id on, u64 waiting, u64 tried,
//! u64 servable, u64 messages that name a priority or a group, u64 waiting from, short string name,
//! optional fields: 1 attributes, 2 statistics, both as optional fields of their own
//! ```

use std::cell::Cell;

use bytes::{BufMut, Bytes, BytesMut};
use qd_protocol::attributes::UNLIMITED;
use qd_protocol::wire::{DecodeError, Payload, Reader, put_field, put_string};
use qd_protocol::{AttributeChanges, Attributes, ErrorCode, QueueName, Refusal, Statistics};

use crate::store::{Result, StoreError, Tables};

const LAYOUT: u8 = 2;

/// Messages and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub messages: u64,
    pub bytes: u64,
}

impl Amount {
    /// One message of `size` bytes.
    pub fn one(size: u64) -> Self {
        Self { messages: 1, bytes: size }
    }

    /// One message of `size` bytes more.
    pub fn add(&mut self, size: u64) {
        self.messages += 1;
        self.bytes = self.bytes.saturating_add(size);
    }
}

/// One queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Queue {
    pub name: QueueName,
    pub created_at_ms: u64,
    pub attributes: Attributes,
    /// Exact counters; `oldest_age_s` is computed when asked for and 0 here.
    pub statistics: Statistics,
    /// The id that the next message gets; from 1 on, never reused.
    pub next_id: u64,
    /// Messages at or above this id are untouched.
    pub cursor: u64,
    /// The number that the next lease gets; from 1 on, never reused.
    pub next_lease: u64,
    /// Ready messages of the default lane that are not untouched: rows in `returned`.
    pub returned: u64,
    /// Ready messages of other lanes: their indexes are in rows of `waiting`.
    pub waiting: u64,
    /// None of them has an id below this one.
    pub waiting_from: u64,
    /// Those of them that were delivered before: rows in `tried`.
    pub tried: u64,
    /// Of an ordered queue, groups that can be served: rows in `ring`.
    pub servable: u64,
    /// Live messages that have a time to live of their own.
    pub with_ttl: u64,
    /// Live messages that name a priority or a group.
    pub with_lane: u64,
    /// The retention has been over all messages below this id; those of them that were leased
    /// then are looked at when their leases end.
    pub retained_from: u64,
    /// When the blocked messages are tried again, in state ms; `None`: there are none.
    pub retry_ms: Option<u64>,
    /// Id of the blocked message that is tried first then.
    pub retry_from: u64,
    /// Memory only: the first id of the chunk with the oldest message and when that was sent, where it
    /// has been looked up and the chunk is still there.
    pub oldest: Cell<Option<(u64, u64)>>,
    /// Memory only: when the retention may have something to remove, in state ms; never too late.
    pub retention_due_ms: Option<u64>,
}

impl Queue {
    pub fn new(name: QueueName, attributes: Attributes, created_at_ms: u64) -> Self {
        Self {
            name,
            created_at_ms,
            attributes,
            statistics: Statistics::default(),
            next_id: 1,
            cursor: 1,
            next_lease: 1,
            returned: 0,
            waiting: 0,
            waiting_from: 0,
            tried: 0,
            servable: 0,
            with_ttl: 0,
            with_lane: 0,
            retained_from: 0,
            retry_ms: None,
            retry_from: 0,
            oldest: Cell::new(None),
            retention_due_ms: None,
        }
    }

    /// Live messages.
    pub fn live(&self) -> u64 {
        self.statistics.ready + self.statistics.delayed + self.statistics.leased
    }

    /// Ready messages of the default lane that have no row of their own.
    pub fn untouched(&self) -> u64 {
        self.statistics.ready - self.returned - self.waiting
    }

    /// True when all live messages are in the default lane.
    pub fn has_one_lane(&self) -> bool {
        self.with_lane == 0 && !self.attributes.ordered
    }

    /// How many messages can be delivered now, at least, but for `max-in-flight`; 0: none.
    pub fn deliverable(&self) -> u64 {
        match (self.attributes.paused, self.attributes.ordered) {
            (true, _) => 0,
            (false, true) => self.statistics.ready.min(self.servable),
            (false, false) => self.statistics.ready,
        }
    }

    /// When the retention has something to remove, in state ms.
    pub fn find_retention_due(&self, number: u64, tables: &Tables<'_>) -> Result<Option<u64>> {
        if self.attributes.retention_ms == UNLIMITED {
            return Ok(None);
        }
        let Some(first) = tables.chunk_from(number, self.retained_from)? else {
            return Ok(None);
        };
        Ok(Some(first.view()?.sent_at_ms().saturating_add(self.attributes.retention_ms)))
    }

    /// When the oldest live message was sent, in ms since 1970 UTC; `None`: there is none.
    pub fn oldest_sent_at_ms(&self, number: u64, tables: &Tables<'_>) -> Result<Option<u64>> {
        if self.live() == 0 {
            return Ok(None);
        }
        if self.oldest.get().is_none()
            // A chunk lives as long as one of its messages: the first one holds the oldest.
            && let Some(first) = tables.chunk_from(number, 0)?
        {
            self.oldest.set(Some((first.first, first.view()?.sent_at_ms())));
        }
        Ok(self.oldest.get().map(|(_, sent_at_ms)| sent_at_ms))
    }

    /// The counters; `now_ms` is state time, for the age.
    pub fn counters(&self, number: u64, tables: &Tables<'_>, now_ms: u64) -> Result<Statistics> {
        let sent_at_ms = self.oldest_sent_at_ms(number, tables)?.unwrap_or(now_ms);
        let oldest_age_s = now_ms.saturating_sub(sent_at_ms) / 1000;
        Ok(Statistics { oldest_age_s, ..self.statistics })
    }

    /// How many more messages may be leased.
    pub fn room_in_flight(&self) -> u64 {
        self.attributes.max_in_flight.saturating_sub(self.statistics.leased)
    }

    /// Whether a message with this priority may be sent here.
    pub fn check_order(&self, priority: u8) -> std::result::Result<(), Refusal> {
        if priority == 0 || !self.attributes.ordered {
            return Ok(());
        }
        let name = self.name.as_str();
        let text = format!("queue {name:?} is ordered: its messages have no priority");
        Err(ErrorCode::PriorityOnOrdered.refuse(text).with_queue(name))
    }

    /// Whether a message of `size` bytes may come in now.
    pub fn admit(&self, size: u64) -> std::result::Result<(), Refusal> {
        self.check_size(size)?;
        self.has_room(Amount::one(size), Amount::default())
    }

    /// Whether a message of `size` bytes may come in at all.
    pub fn check_size(&self, size: u64) -> std::result::Result<(), Refusal> {
        let Attributes { max_bytes, max_message_size, .. } = self.attributes;
        let name = self.name.as_str();
        // What is over `max-bytes` will never fit, so it is not worth another try.
        for (limit, maximum) in [("max-message-size", max_message_size), ("max-bytes", max_bytes)] {
            if size > maximum {
                let text = format!(
                    "message of {size} bytes is too large for queue {name:?}: at most {maximum} bytes ({limit})"
                );
                let refusal = ErrorCode::MessageTooLarge.refuse(text).with_queue(name);
                return Err(refusal.with_limit(limit, size, maximum));
            }
        }
        Ok(())
    }

    /// Whether messages fit, whatever the size of one may be, once what is `freed` has gone.
    pub fn has_room(&self, wanted: Amount, freed: Amount) -> std::result::Result<(), Refusal> {
        let Attributes { max_messages, max_bytes, .. } = self.attributes;
        let name = self.name.as_str();
        let live = self.live().saturating_sub(freed.messages);
        let full = |limit, current, maximum, unit| {
            let text = format!("queue {name:?} is full: {current} of {maximum} {unit} ({limit})");
            ErrorCode::QueueFull.refuse(text).with_queue(name).with_limit(limit, current, maximum)
        };
        if live.saturating_add(wanted.messages) > max_messages {
            return Err(full("max-messages", live, max_messages, "messages"));
        }
        let bytes = self.statistics.bytes.saturating_sub(freed.bytes);
        if bytes.saturating_add(wanted.bytes) > max_bytes {
            return Err(full("max-bytes", bytes, max_bytes, "bytes"));
        }
        Ok(())
    }

    /// Messages that are not dropped to make room, once what is `freed` has gone: those that consumers
    /// hold, and those that wait for their dead-letter queue.
    pub fn undroppable(&self, freed: Amount) -> u64 {
        let Statistics { leased, dead_letter_blocked, .. } = self.statistics;
        (leased + dead_letter_blocked).saturating_sub(freed.messages)
    }

    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(400);
        out.put_u8(LAYOUT);
        for number in [
            self.created_at_ms,
            self.next_id,
            self.cursor,
            self.next_lease,
            self.returned,
            self.with_ttl,
            self.retained_from,
            self.retry_ms.unwrap_or(0),
            self.retry_from,
            self.waiting,
            self.tried,
            self.servable,
            self.with_lane,
            self.waiting_from,
        ] {
            out.put_u64_le(number);
        }
        put_string(&mut out, self.name.as_str());
        put_field(&mut out, 1, |out| AttributeChanges::from(&self.attributes).encode(out));
        put_field(&mut out, 2, |out| self.statistics.encode(out));
        out.freeze()
    }

    pub fn from_bytes(row: &[u8]) -> Result<Self> {
        Self::read(&mut Reader::new(Bytes::copy_from_slice(row)))
            .map_err(|error| StoreError::Damaged(format!("queue: {error}")))
    }

    fn read(input: &mut Reader) -> std::result::Result<Self, DecodeError> {
        let layout = input.u8("layout")?;
        if layout != LAYOUT {
            return Err(DecodeError::value("layout", format!("{layout} is not {LAYOUT}")));
        }
        let created_at_ms = input.u64("created at")?;
        let next_id = input.u64("next id")?;
        let cursor = input.u64("cursor")?;
        let next_lease = input.u64("next lease")?;
        let returned = input.u64("returned")?;
        let with_ttl = input.u64("messages with a time to live")?;
        let retained_from = input.u64("retained from")?;
        let retry_ms = Some(input.u64("retry at")?).filter(|ms| *ms > 0);
        let retry_from = input.u64("retry from")?;
        let waiting = input.u64("waiting")?;
        let tried = input.u64("tried")?;
        let servable = input.u64("servable")?;
        let with_lane = input.u64("messages with a lane")?;
        let waiting_from = input.u64("waiting from")?;
        let name = QueueName::new(input.string("name")?)
            .map_err(|error| DecodeError::value("name", error.to_string()))?;
        let mut queue = Self {
            next_id,
            cursor,
            next_lease,
            returned,
            waiting,
            waiting_from,
            tried,
            servable,
            with_ttl,
            with_lane,
            retained_from,
            retry_ms,
            retry_from,
            ..Self::new(name, Attributes::default(), created_at_ms)
        };
        while let Some((tag, mut value)) = input.field()? {
            match tag {
                1 => {
                    let changes = AttributeChanges::decode(&mut value)?;
                    queue.attributes = queue.attributes.changed(&changes);
                }
                2 => queue.statistics = Statistics::decode(&mut value)?,
                _ => {}
            }
        }
        Ok(queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_survives_its_bytes() {
        let mut queue =
            Queue::new(QueueName::new("jobs").unwrap(), Attributes::default(), 1_700_000_000_000);
        queue.attributes.max_messages = 7;
        queue.statistics.ready = 3;
        queue.returned = 2;
        queue.cursor = 9;
        queue.retry_ms = Some(10);
        queue.retry_from = 11;
        queue.waiting_from = 16;
        (queue.waiting, queue.tried, queue.servable, queue.with_lane) = (12, 13, 14, 15);
        assert_eq!(Queue::from_bytes(&queue.to_bytes()).unwrap(), queue);
        assert!(Queue::from_bytes(&queue.to_bytes()[..20]).is_err());
    }
}
