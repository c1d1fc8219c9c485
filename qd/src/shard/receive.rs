//! Receiving: ready messages are leased.
//!
//! Where a queue has no lanes but the default one, those with the lowest ids come first; for the others
//! see `take`. Two sources are merged by id: messages that were delivered before (`returned`), and untouched
//! ones from the queue's cursor on. Both are read a chunk at a time, and the bytes that go to
//! the consumer are copied out of the chunk once.

use bytes::Bytes;
use qd_protocol::verbs::ReceivedMessage;
use qd_protocol::verbs::delete::Statuses;
use qd_protocol::{Body, Receipt};

use super::command::Receive;
use super::outcome::Received;
use super::{CHUNKS_WALKED_PER_RECORD_MAX, DELIVERED_BYTES_PER_RECORD_MAX, Outcome, Step};
use crate::store::chunk::{ChunkView, Content, EntryView};
use crate::store::lease::{Delivered, LeaseRow, Run, push_run};
use crate::store::{Result, StoreError, Tables};

/// What a delivered message takes besides its fields and body, about.
const MESSAGE_BYTES: usize = 128;

/// Rows of returned messages that are read at once.
const RETURNED_PAGE: usize = 512;

/// What one receive may still take.
pub(super) struct Room {
    messages: usize,
    /// Of the queue at hand.
    of_queue: usize,
    bytes: u64,
    used: u64,
    /// A first message fits whatever its size.
    any: bool,
    /// A message did not fit; nothing behind it may overtake it.
    pub full: bool,
}

impl Room {
    fn new(messages: usize, bytes: u64) -> Self {
        let full = messages == 0;
        Self { messages, of_queue: usize::MAX, bytes, used: 0, any: false, full }
    }

    /// Most messages that the queue at hand may give.
    pub fn left(&self) -> usize {
        self.messages.min(self.of_queue)
    }

    /// Bytes that are left for messages; a first one may take more.
    pub fn bytes_left(&self) -> u64 {
        self.bytes.saturating_sub(self.used)
    }

    /// Takes a message of `size` if it fits.
    pub fn take(&mut self, size: u64) -> bool {
        // What its queue may not give is in nobody's way.
        if self.of_queue == 0 {
            return false;
        }
        self.full |= self.messages == 0 || (self.any && self.used + size > self.bytes);
        if self.full {
            return false;
        }
        self.messages -= 1;
        self.of_queue -= 1;
        self.used += size;
        self.any = true;
        true
    }
}

/// What is too old to be delivered.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub now_ms: u64,
    pub retention_ms: u64,
}

impl Limits {
    /// Nothing is.
    const NONE: Self = Self { now_ms: 0, retention_ms: u64::MAX };

    pub fn is_over(self, entry: &EntryView, sent_at_ms: u64) -> bool {
        sent_at_ms.saturating_add(self.retention_ms) <= self.now_ms
            || entry.expires_ms.is_some_and(|ms| ms <= self.now_ms)
    }
}

/// What a receive took of one queue.
#[derive(Default)]
pub(super) struct Taken {
    pub messages: Vec<ReceivedMessage>,
    pub runs: Vec<Run>,
    pub redelivered: u64,
    /// The record has looked at enough chunks without a ready message: there may be one behind.
    pub unfinished: bool,
}

impl Step<'_, '_> {
    /// `settled` is what an earlier try of the same request settled.
    pub(super) fn receive(
        &mut self,
        receive: &Receive,
        settled: Option<Statuses>,
    ) -> Result<Outcome> {
        let found = receive.queues.iter().map(|name| self.find(name)).collect();
        let numbers: Vec<u64> = match found {
            Ok(numbers) => numbers,
            Err(refusal) => return Ok(Outcome::Refused(refusal)),
        };
        let settled = match settled {
            Some(settled) => settled,
            None => self.delete(&numbers, &receive.settle)?,
        };
        let mut received = Received { settled, deleted: receive.delete, ..Received::default() };
        if receive.max > 0 && self.has_delivered_enough() {
            received.unfinished = true;
            return Ok(Outcome::Received(received));
        }
        let mut room = Room::new(receive.max as usize, receive.bytes_max);
        for (index, &number) in numbers.iter().enumerate() {
            let queue = &self.queues[&number];
            let room_in_flight = if receive.delete { u64::MAX } else { queue.room_in_flight() };
            let ready = if queue.attributes.paused { 0 } else { queue.statistics.ready };
            let ready = ready.min(room_in_flight);
            let twice = numbers[..index].contains(&number);
            if !room.full && !twice && ready > 0 && !received.unfinished {
                room.of_queue = usize::try_from(ready).unwrap_or(usize::MAX);
                self.receive_from(index as u16, number, receive, &mut room, &mut received)?;
            }
        }
        self.delivered_bytes += answer_bytes(&received.messages);
        received.unfinished &= received.messages.is_empty();
        Ok(Outcome::Received(received))
    }

    fn receive_from(
        &mut self,
        index: u16,
        number: u64,
        receive: &Receive,
        room: &mut Room,
        received: &mut Received,
    ) -> Result<()> {
        self.flush(number)?;
        let now_ms = self.now_ms;
        let timeout = receive.visibility_timeout_ms;
        let timeout = timeout.unwrap_or(self.queues[&number].attributes.visibility_timeout_ms);
        let end_ms = now_ms.saturating_add(timeout);
        let queue = &self.queues[&number];
        let mut taken = if queue.waiting > 0 {
            self.take_from_lanes(number, end_ms, receive.delete, room)?
        } else {
            self.take(number, end_ms, room)?
        };
        received.unfinished |= taken.unfinished;
        let count = taken.messages.len() as u64;
        if count == 0 {
            return Ok(());
        }
        let queue = self.queue(number);
        queue.statistics.ready -= count;
        queue.statistics.received += count;
        queue.statistics.redelivered += taken.redelivered;
        if receive.delete {
            queue.statistics.deleted += count;
            self.remove_messages(number, &taken.runs)?;
        } else {
            let lease = queue.next_lease;
            queue.next_lease += 1;
            queue.statistics.leased += count;
            let row = LeaseRow { secret: receive.secret, started_ms: now_ms, runs: taken.runs };
            self.tables.put_lease(number, lease, &row, None)?;
            received.leases.push((index, number, lease));
            for message in &mut taken.messages {
                stamp(message, number, lease, row.secret, end_ms);
            }
        }
        for message in &mut taken.messages {
            message.queue = index;
        }
        received.messages.append(&mut taken.messages);
        Ok(())
    }

    /// Takes ready messages of a queue out of their places, lowest ids first, for a lease that
    /// ends at `end_ms`.
    fn take(&mut self, number: u64, end_ms: u64, room: &mut Room) -> Result<Taken> {
        let queue = &self.queues[&number];
        let (mut cursor, mut untouched) = (queue.cursor, queue.untouched());
        let (mut returned, queue_returned) = (Vec::new(), queue.returned);
        let mut taken = Taken::default();
        let mut used = 0;
        let lease = (self.now_ms, end_ms);
        let limits = Limits { now_ms: self.now_ms, retention_ms: queue.attributes.retention_ms };
        loop {
            let before = taken.messages.len();
            if used == returned.len() && (used as u64) < queue_returned {
                let from = returned.last().map_or(0, |(id, _): &(u64, Delivered)| id + 1);
                returned.extend(self.tables.returned(number, from, RETURNED_PAGE)?);
            }
            let front = returned.get(used).map(|(id, _)| *id);
            let next = if untouched > 0 { Some(cursor) } else { None };
            match (front, next) {
                // What is returned is not untouched: at the cursor's own place it goes first too.
                (Some(id), next) if next.is_none_or(|next| id <= next) => {
                    let row = self.tables.chunk_from(number, id)?;
                    let row = row.ok_or_else(|| missing(number, id))?;
                    let view = row.view()?;
                    let bound = next.map_or(u64::MAX, |next| next + 1);
                    let end = (row.first + view.count() as u64).min(bound);
                    let ids = returned[used..].iter().copied().take_while(|(id, _)| *id < end);
                    let chunk = (number, row.first, view);
                    take_chunk(self.tables, chunk, ids, lease, limits, room, &mut taken)?;
                    used += taken.messages.len() - before;
                    if taken.messages.len() == before {
                        break;
                    }
                }
                (front, Some(_)) => {
                    let row = self.tables.chunk_from(number, cursor)?;
                    let row = row.ok_or_else(|| missing(number, cursor))?;
                    let view = row.view()?;
                    let marks = self.tables.marks(number, row.first, view.count())?;
                    let first = cursor.max(row.first);
                    // A returned message from behind the cursor has its turn before what follows.
                    let end = (row.first + view.count() as u64).min(front.unwrap_or(u64::MAX));
                    let untouched_only =
                        |id: &u64| !view.is_apart() && !marks.is_marked((id - row.first) as usize);
                    let ids = (first..end).filter(untouched_only);
                    let ids = ids.map(|id| (id, Delivered::default()));
                    let chunk = (number, row.first, view);
                    let whole =
                        take_chunk(self.tables, chunk, ids, lease, limits, room, &mut taken)?;
                    untouched -= (taken.messages.len() - before) as u64;
                    cursor = match taken.messages.last() {
                        _ if whole => end.max(first),
                        Some(last) if taken.messages.len() > before => last.id + 1,
                        _ => cursor,
                    };
                    if !whole {
                        break;
                    }
                    self.walked += usize::from(taken.messages.len() == before);
                    if self.walked >= CHUNKS_WALKED_PER_RECORD_MAX {
                        taken.unfinished = true;
                        break;
                    }
                }
                (_, None) => break,
            }
        }
        for (id, delivered) in &returned[..used] {
            self.tables.remove_returned(number, *id)?;
            taken.redelivered += u64::from(delivered.attempts > 0);
        }
        let queue = self.queue(number);
        queue.returned -= used as u64;
        queue.cursor = cursor;
        Ok(taken)
    }

    /// True when what else is to be delivered is for the next record.
    pub(super) fn has_delivered_enough(&self) -> bool {
        self.delivered_bytes >= DELIVERED_BYTES_PER_RECORD_MAX
            || self.walked >= CHUNKS_WALKED_PER_RECORD_MAX
    }

    /// The messages that leases of an earlier, recorded receive still hold.
    pub(super) fn deliver_again(
        &mut self,
        leases: Vec<(u16, u64, u64)>,
        settled: Statuses,
    ) -> Result<Received> {
        let mut received = Received { settled, ..Received::default() };
        for (index, number, lease) in leases {
            if !self.queues.contains_key(&number) {
                continue;
            }
            let Some(row) = self.tables.lease(number, lease)? else {
                continue;
            };
            let mut room = Room::new(usize::MAX, u64::MAX);
            let before = received.messages.len();
            for run in row.runs.iter().filter(|run| run.end_ms > self.now_ms) {
                let chunk = self.tables.chunk(number, run.chunk)?;
                let mut taken = Taken::default();
                let delivered = Delivered { attempts: run.attempt - 1, ..Delivered::default() };
                let ids = run.ids().map(|id| (id, delivered));
                let chunk = (number, run.chunk, chunk.view()?);
                take_chunk(self.tables, chunk, ids, (0, 0), Limits::NONE, &mut room, &mut taken)?;
                for message in &mut taken.messages {
                    stamp(message, number, lease, row.secret, run.end_ms);
                    message.queue = index;
                }
                received.messages.append(&mut taken.messages);
            }
            if received.messages.len() > before {
                received.leases.push((index, number, lease));
            }
        }
        self.delivered_bytes += answer_bytes(&received.messages);
        Ok(received)
    }
}

/// About the memory that messages take until they are written to the client.
fn answer_bytes(messages: &[ReceivedMessage]) -> u64 {
    let bytes = |message: &ReceivedMessage| {
        (message.body.bytes.len() + message.fields.len() + MESSAGE_BYTES) as u64
    };
    messages.iter().map(bytes).sum()
}

/// Adds receipt and end of the lease to a message.
fn stamp(message: &mut ReceivedMessage, queue: u64, lease: u64, secret: u64, end_ms: u64) {
    message.receipt = Receipt { queue, lease, id: message.id, secret };
    message.lease_until_ms = end_ms;
}

/// Adds messages of one chunk to `taken`: ids and what they have behind them, rising; `lease` is
/// begin and end in state ms. Returns whether all of them fitted.
fn take_chunk(
    tables: &Tables<'_>,
    (queue, chunk, view): (u64, u64, ChunkView<'_>),
    ids: impl Iterator<Item = (u64, Delivered)>,
    (now_ms, end_ms): (u64, u64),
    limits: Limits,
    room: &mut Room,
    taken: &mut Taken,
) -> Result<bool> {
    let mut entries = Vec::new();
    let mut whole = true;
    let (mut span_start, mut span_end) = (usize::MAX, 0);
    for (id, delivered) in ids {
        let entry = view.entry((id - chunk) as usize)?;
        // What is over and not removed yet is not delivered either.
        if limits.is_over(&entry, view.sent_at_ms()) || !room.take(entry.bytes()) {
            whole = false;
            break;
        }
        let attempt = delivered.attempts + 1;
        let first_ms = if delivered.first_ms == 0 { now_ms } else { delivered.first_ms };
        push_run(&mut taken.runs, Run { chunk, first: id, count: 1, attempt, end_ms, first_ms });
        if let Content::Inline { fields, end, .. } = entry.content {
            span_start = span_start.min(fields);
            span_end = span_end.max(end);
        }
        entries.push((id, attempt, entry));
    }
    let span = match span_start {
        usize::MAX => Bytes::new(),
        start => Bytes::copy_from_slice(view.bytes(start, span_end)?),
    };
    taken.messages.reserve(entries.len());
    for (id, attempt, entry) in entries {
        let (fields, bytes) = match entry.content {
            Content::Inline { fields, body, end } => {
                let at = |offset: usize| offset - span_start;
                (span.slice(at(fields)..at(body)), span.slice(at(body)..at(end)))
            }
            Content::External { fields, body } => {
                let mut whole = Bytes::from(tables.parts(queue, id, fields + body)?);
                (whole.split_to(fields), whole)
            }
        };
        let body = Body { bytes, crc: entry.crc };
        if !body.is_intact() {
            let what = format!("message {id} of queue {queue} does not have its CRC-32C");
            return Err(StoreError::Damaged(what));
        }
        taken.messages.push(ReceivedMessage {
            queue: 0,
            id,
            receipt: Receipt { queue: 0, lease: 0, id: 0, secret: 0 },
            attempt,
            sent_at_ms: view.sent_at_ms(),
            lease_until_ms: 0,
            fields,
            body,
        });
    }
    Ok(whole)
}

fn missing(queue: u64, id: u64) -> StoreError {
    StoreError::Damaged(format!("queue {queue} has no chunk that holds message {id}"))
}
