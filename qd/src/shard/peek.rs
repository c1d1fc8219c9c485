//! Showing messages of a queue, in the order of their ids, without changing anything.
//!
//! Always true here: one page takes a bounded time whatever the queue holds. It looks at
//! [`LOOKED_AT_MAX`] messages, each of which is live, and copies [`BYTES_MAX`] of them or one larger
//! message. Where many messages are passed over (another state, other headers) a page may be empty
//! and there is more; delayed ones alone are found by their own rows. Which lease holds a message
//! stands only with the leases: of those [`RUNS_MAX`] runs are looked through, and a message that is
//! in none of them is shown without the end of its lease and its deliveries.

use std::collections::BTreeMap;

use bytes::Bytes;
use qd_protocol::message::Headers;
use qd_protocol::verbs::peek::State;
use qd_protocol::verbs::{Peek, Peeked, PeekedMessage};
use qd_protocol::{Body, Refusal};

use super::by_id::no_such_message;
use super::dead_letter::damaged_fields;
use super::place::{Place, place_of};
use super::queue::Queue;
use super::walk::live_from;
use super::{Machine, no_such_queue};
use crate::store::chunk::Content;
use crate::store::{Result, StoreError, Tables};

/// Most messages that one page looks at.
const LOOKED_AT_MAX: usize = 500;
/// Bytes of fields and bodies after which a page ends: 1 MiB. The first message always fits.
const BYTES_MAX: u64 = 1 << 20;
/// Most runs of neighbouring messages in leases that one page looks through.
const RUNS_MAX: usize = 20_000;

impl Machine {
    /// A page of messages.
    pub fn peek(&self, peek: &Peek) -> Result<std::result::Result<Peeked, Refusal>> {
        let Some(&number) = self.names.get(&peek.queue) else {
            return Ok(Err(no_such_queue(&peek.queue)));
        };
        self.store.read(|tables| {
            let page = Page {
                tables,
                number,
                queue: &self.queues[&number],
                peek,
                looked_at: 0,
                bytes: 0,
                ids: Vec::new().into_iter(),
                peeked: Peeked { more: false, last: peek.after, messages: Vec::new() },
            };
            page.fill()
        })
    }
}

/// A page being filled.
struct Page<'a, 't> {
    tables: &'a Tables<'t>,
    number: u64,
    queue: &'a Queue,
    peek: &'a Peek,
    looked_at: usize,
    bytes: u64,
    /// What is left of the chunk at hand.
    ids: std::vec::IntoIter<u64>,
    peeked: Peeked,
}

impl Page<'_, '_> {
    fn fill(mut self) -> Result<std::result::Result<Peeked, Refusal>> {
        if let Some(id) = self.peek.id {
            let Some(place) = place_of(self.tables, self.number, self.queue, id)? else {
                return Ok(Err(no_such_message(self.peek.queue.as_str(), id)));
            };
            if id > self.peek.after {
                self.peeked.last = id;
                self.look(id, place)?;
            }
        } else {
            self.peeked.more = self.look_through()?;
        }
        self.find_leases()?;
        Ok(Ok(self.peeked))
    }

    /// Looks at messages until the page is full. Returns whether there are more.
    fn look_through(&mut self) -> Result<bool> {
        while let Some(id) = self.next_live()? {
            let is_full = self.peeked.messages.len() >= self.peek.max as usize;
            if is_full || self.looked_at >= LOOKED_AT_MAX {
                return Ok(true);
            }
            if let Some(place) = place_of(self.tables, self.number, self.queue, id)?
                && !self.look(id, place)?
            {
                return Ok(true);
            }
            self.peeked.last = id;
        }
        Ok(false)
    }

    /// The live message behind the last one looked at.
    fn next_live(&mut self) -> Result<Option<u64>> {
        let from = self.peeked.last.saturating_add(1);
        if matches!(self.peek.state, Some(State::Delayed | State::Blocked)) {
            let blocked = self.tables.blocked_from(self.number, from)?;
            if self.peek.state == Some(State::Blocked) {
                return Ok(blocked);
            }
            let delayed = self.tables.delayed_from(self.number, from)?;
            return Ok([blocked, delayed].into_iter().flatten().min());
        }
        let mut id = self.ids.next();
        let mut next = from;
        while id.is_none()
            && let Some((ids, end)) = live_from(self.tables, self.number, next)?
        {
            self.ids = ids.into_iter();
            id = self.ids.next();
            next = end;
        }
        Ok(id)
    }

    /// Adds a message to the page if it matches. False: it has no room there.
    fn look(&mut self, id: u64, place: Place) -> Result<bool> {
        self.looked_at += 1;
        let state = match place {
            Place::Untouched(_) | Place::Returned | Place::Waiting(_) => State::Ready,
            Place::Delayed => State::Delayed,
            Place::Blocked => State::Blocked,
            Place::Leased => State::Leased,
        };
        let matches = match self.peek.state {
            None => true,
            Some(State::Delayed) => matches!(state, State::Delayed | State::Blocked),
            Some(asked) => asked == state,
        };
        let chunk = self.tables.chunk_from(self.number, id)?.filter(|chunk| chunk.first <= id);
        let (true, Some(chunk)) = (matches, chunk) else {
            return Ok(true);
        };
        let view = chunk.view()?;
        let entry = view.entry((id - chunk.first) as usize)?;
        let fields = match entry.content {
            Content::Inline { fields, body, .. } => {
                Bytes::copy_from_slice(view.bytes(fields, body)?)
            }
            Content::External { fields, .. } => {
                Bytes::from(self.tables.parts_start(self.number, id, fields)?)
            }
        };
        for (key, value) in &self.peek.headers.0 {
            if !Headers::stored_have(&fields, key, value).map_err(|error| damaged_fields(&error))? {
                return Ok(true);
            }
        }
        if !self.peeked.messages.is_empty() && self.bytes + entry.bytes() > BYTES_MAX {
            return Ok(false);
        }
        self.bytes += entry.bytes();
        let bytes = match entry.content {
            Content::Inline { body, end, .. } => Bytes::copy_from_slice(view.bytes(body, end)?),
            Content::External { fields, body } => {
                Bytes::from(self.tables.parts(self.number, id, fields + body)?).split_off(fields)
            }
        };
        let body = Body { bytes, crc: entry.crc };
        if !body.is_intact() {
            let number = self.number;
            let what = format!("message {id} of queue {number} does not have its CRC-32C");
            return Err(StoreError::Damaged(what));
        }
        let (attempts, until_ms) = self.history(id, state)?;
        let sent_at_ms = view.sent_at_ms();
        let message = PeekedMessage { id, state, attempts, sent_at_ms, until_ms, fields, body };
        self.peeked.messages.push(message);
        Ok(true)
    }

    /// How often a message was delivered, and when it leaves its place; of a leased one neither.
    fn history(&self, id: u64, state: State) -> Result<(u32, u64)> {
        let (delivered, until_ms) = match state {
            State::Leased => (None, 0),
            State::Ready => {
                let returned = self.tables.returned_at(self.number, id)?;
                (returned.or(self.tables.tried(self.number, id)?), 0)
            }
            State::Delayed => {
                let delayed = self.tables.delayed(self.number, id)?;
                let due_ms = delayed.as_ref().map_or(0, |delayed| delayed.due_ms);
                (delayed.map(|delayed| delayed.delivered), due_ms)
            }
            State::Blocked => {
                let retry_ms = self.queue.retry_ms.unwrap_or(0);
                (self.tables.blocked_at(self.number, id)?, retry_ms)
            }
        };
        Ok((delivered.map_or(0, |delivered| delivered.attempts), until_ms))
    }

    /// Adds to leased messages what stands with their leases.
    fn find_leases(&mut self) -> Result<()> {
        let messages = self.peeked.messages.iter_mut();
        let leased = messages.filter(|message| message.state == State::Leased);
        let mut leased: BTreeMap<u64, &mut PeekedMessage> =
            leased.map(|message| (message.id, message)).collect();
        if leased.is_empty() {
            return Ok(());
        }
        let (mut runs, mut found) = (0, 0);
        self.tables.each_lease(self.number, |lease| {
            for run in &lease.runs {
                for (_, message) in leased.range_mut(run.ids()) {
                    (message.attempts, message.until_ms) = (run.attempt, run.end_ms);
                    found += 1;
                }
            }
            runs += lease.runs.len();
            found < leased.len() && runs < RUNS_MAX
        })
    }
}
