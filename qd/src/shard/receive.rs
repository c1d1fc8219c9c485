//! Receiving: the ready messages with the lowest ids are leased.
//!
//! Two sources are merged by id: messages that were delivered before (`returned`), and untouched
//! ones from the queue's cursor on. Both are read a chunk at a time, and the bytes that go to
//! the consumer are copied out of the chunk once.

use bytes::Bytes;
use qd_protocol::verbs::ReceivedMessage;
use qd_protocol::verbs::delete::Statuses;
use qd_protocol::{Body, Receipt};

use super::command::Receive;
use super::outcome::Received;
use super::{Outcome, Step};
use crate::store::chunk::{ChunkView, Content};
use crate::store::lease::{LeaseRow, Run, push_message};
use crate::store::{Result, StoreError, Tables};

/// What one receive may still take.
struct Room {
    messages: usize,
    bytes: u64,
    used: u64,
    /// A first message fits whatever its size.
    any: bool,
    /// A message did not fit; nothing behind it may overtake it.
    full: bool,
}

impl Room {
    fn new(messages: usize, bytes: u64) -> Self {
        Self { messages, bytes, used: 0, any: false, full: messages == 0 }
    }

    /// Takes a message of `size` if it fits.
    fn take(&mut self, size: u64) -> bool {
        self.full |= self.messages == 0 || (self.any && self.used + size > self.bytes);
        if !self.full {
            self.messages -= 1;
            self.used += size;
            self.any = true;
        }
        !self.full
    }
}

/// What a receive took of one queue.
#[derive(Default)]
struct Taken {
    messages: Vec<ReceivedMessage>,
    runs: Vec<Run>,
    redelivered: u64,
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
            None => self.settle(&numbers, &receive.settle)?,
        };
        let mut received = Received { settled, deleted: receive.delete, ..Received::default() };
        let mut room = Room::new(receive.max as usize, receive.bytes_max);
        for (index, &number) in numbers.iter().enumerate() {
            let twice = numbers[..index].contains(&number);
            if !room.full && !twice && self.queues[&number].statistics.ready > 0 {
                self.receive_from(index as u16, number, receive, &mut room, &mut received)?;
            }
        }
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
        let mut taken = self.take(number, room)?;
        let count = taken.messages.len() as u64;
        if count == 0 {
            return Ok(());
        }
        let now_ms = self.now_ms;
        let queue = self.queue(number);
        queue.statistics.ready -= count;
        queue.statistics.received += count;
        queue.statistics.redelivered += taken.redelivered;
        if receive.delete {
            queue.statistics.deleted += count;
            self.remove_messages(number, &taken.runs)?;
        } else {
            let timeout = receive.visibility_timeout_ms;
            let timeout = timeout.unwrap_or(queue.attributes.visibility_timeout_ms);
            let lease = queue.next_lease;
            queue.next_lease += 1;
            queue.statistics.leased += count;
            let row = LeaseRow {
                end_ms: now_ms.saturating_add(timeout),
                secret: receive.secret,
                runs: taken.runs,
            };
            self.tables.put_lease(number, lease, &row)?;
            received.leases.push((index, number, lease));
            stamp(&mut taken.messages, number, lease, &row);
        }
        for message in &mut taken.messages {
            message.queue = index;
        }
        received.messages.append(&mut taken.messages);
        Ok(())
    }

    /// Takes ready messages of a queue out of their places, lowest ids first.
    fn take(&mut self, number: u64, room: &mut Room) -> Result<Taken> {
        let queue = &self.queues[&number];
        let (mut cursor, mut untouched) = (queue.cursor, queue.untouched());
        let mut returned = Vec::new();
        if queue.returned > 0 {
            returned = self.tables.returned(number, room.messages)?;
        }
        let mut taken = Taken::default();
        let mut used = 0;
        loop {
            let before = taken.messages.len();
            let front = returned.get(used).copied();
            if let Some((id, _)) = front.filter(|(id, _)| untouched == 0 || *id < cursor) {
                let row = self.tables.chunk_from(number, id)?;
                let row = row.ok_or_else(|| missing(number, id))?;
                let view = row.view()?;
                let end = row.first + view.count() as u64;
                let ids = returned[used..].iter().copied();
                let ids = ids.take_while(|(id, _)| *id < end && (untouched == 0 || *id < cursor));
                take_chunk(self.tables, number, row.first, view, ids, room, &mut taken)?;
                used += taken.messages.len() - before;
            } else if untouched > 0 {
                let row = self.tables.chunk_from(number, cursor)?;
                let row = row.ok_or_else(|| missing(number, cursor))?;
                let view = row.view()?;
                let holes = self.tables.holes(number, row.first)?;
                let end = row.first + view.count() as u64;
                let is_live = |id: &u64| !is_hole(holes.as_deref(), id - row.first);
                let ids = (cursor.max(row.first)..end).filter(is_live).map(|id| (id, 0));
                let whole =
                    take_chunk(self.tables, number, row.first, view, ids, room, &mut taken)?;
                untouched -= (taken.messages.len() - before) as u64;
                cursor = match taken.messages.last() {
                    _ if whole => end,
                    Some(last) if taken.messages.len() > before => last.id + 1,
                    _ => cursor,
                };
                if !whole {
                    break;
                }
                continue;
            } else {
                break;
            }
            if taken.messages.len() == before {
                break;
            }
        }
        for (id, _) in &returned[..used] {
            self.tables.remove_returned(number, *id)?;
        }
        taken.redelivered = used as u64;
        let queue = self.queue(number);
        queue.returned -= used as u64;
        queue.cursor = cursor;
        Ok(taken)
    }

    /// The messages that leases of an earlier, recorded receive still hold.
    pub(super) fn deliver_again(
        &mut self,
        leases: Vec<(u16, u64, u64)>,
        settled: Statuses,
    ) -> Result<Outcome> {
        let mut received = Received { settled, ..Received::default() };
        for (index, number, lease) in leases {
            let row = self.tables.lease(number, lease)?;
            let Some(row) = row.filter(|row| row.end_ms > self.now_ms) else {
                continue;
            };
            let mut room = Room::new(usize::MAX, u64::MAX);
            let mut taken = Taken::default();
            for run in &row.runs {
                let chunk = self.tables.chunk(number, run.chunk)?;
                let ids = (run.first..run.end()).map(|id| (id, run.attempt - 1));
                let view = chunk.view()?;
                take_chunk(self.tables, number, run.chunk, view, ids, &mut room, &mut taken)?;
            }
            stamp(&mut taken.messages, number, lease, &row);
            for message in &mut taken.messages {
                message.queue = index;
            }
            received.messages.append(&mut taken.messages);
            received.leases.push((index, number, lease));
        }
        Ok(Outcome::Received(received))
    }
}

/// Adds receipt and end of the lease to its messages.
fn stamp(messages: &mut [ReceivedMessage], queue: u64, lease: u64, row: &LeaseRow) {
    for message in messages {
        message.receipt = Receipt { queue, lease, id: message.id, secret: row.secret };
        message.lease_until_ms = row.end_ms;
    }
}

/// Adds messages of one chunk to `taken`: ids and how often they were delivered before, rising.
/// Returns whether all of them fitted.
fn take_chunk(
    tables: &Tables<'_>,
    queue: u64,
    chunk: u64,
    view: ChunkView<'_>,
    ids: impl Iterator<Item = (u64, u32)>,
    room: &mut Room,
    taken: &mut Taken,
) -> Result<bool> {
    let mut entries = Vec::new();
    let mut whole = true;
    let (mut span_start, mut span_end) = (usize::MAX, 0);
    for (id, delivered) in ids {
        let entry = view.entry((id - chunk) as usize)?;
        if !room.take(entry.size) {
            whole = false;
            break;
        }
        push_message(&mut taken.runs, chunk, id, delivered + 1);
        if let Content::Inline { fields, end, .. } = entry.content {
            span_start = span_start.min(fields);
            span_end = span_end.max(end);
        }
        entries.push((id, delivered + 1, entry));
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

fn is_hole(holes: Option<&[u8]>, index: u64) -> bool {
    let byte = holes.and_then(|holes| holes.get((index / 8) as usize));
    byte.is_some_and(|byte| byte >> (index % 8) & 1 == 1)
}

fn missing(queue: u64, id: u64) -> StoreError {
    StoreError::Damaged(format!("queue {queue} has no chunk that holds message {id}"))
}
