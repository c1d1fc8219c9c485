//! Sending: messages of one record and queue are packed into chunks.

use qd_protocol::attributes::{OVERFLOW_DROP_OLDEST, UNLIMITED};
use qd_protocol::verbs::{Due, SentRun};
use qd_protocol::{ErrorCode, Refusal};

use super::command::Send;
use super::place::Place;
use super::{CHUNKS_WALKED_PER_RECORD_MAX, Outcome, Step};
use crate::store::Result;
use crate::store::chunk::{ChunkBuilder, NewEntry};
use crate::store::lease::Delivered;

/// Most messages that one record removes to make room; sends behind that are refused.
const DROPPED_PER_RECORD_MAX: usize = 10_000;

impl Step<'_, '_> {
    pub(super) fn send(&mut self, send: &Send) -> Result<Outcome> {
        let number = match self.find(&send.queue) {
            Ok(number) => number,
            Err(refusal) => return Ok(refusal.into()),
        };
        let mut runs = Vec::new();
        for message in &send.messages {
            if let Err(refusal) = self.admit(number, message.size)? {
                push_refused(&mut runs, refusal);
                continue;
            }
            let now_ms = self.now_ms;
            let queue = self.queue(number);
            let expires_ms = message.ttl_ms.map(|ttl_ms| now_ms.saturating_add(ttl_ms));
            let id = queue.next_id;
            queue.with_ttl += u64::from(expires_ms.is_some());
            queue.next_id += 1;
            let due = message.due.unwrap_or(Due::After(queue.attributes.delay_ms));
            queue.statistics.sent += 1;
            queue.statistics.bytes += message.size;
            push_stored(&mut runs, id);
            let entry = NewEntry {
                crc: message.crc,
                size: message.size,
                expires_ms,
                fields: &message.fields,
                body: &message.body,
            };
            let due_ms = self.due_ms(due).filter(|due_ms| *due_ms > self.now_ms);
            let queue = self.queue(number);
            if due_ms.is_none() && queue.untouched() == 0 {
                // Nothing before it is untouched: no receive has to walk there.
                queue.cursor = id;
            }
            self.store_message(number, id, &entry, due_ms.is_some())?;
            if let Some(expires_ms) = expires_ms {
                self.tables.put_expiry(expires_ms, number, id)?;
            }
            match due_ms {
                None => self.queue(number).statistics.ready += 1,
                Some(due_ms) => self.delay(number, id, due_ms, Delivered::default())?,
            }
        }
        let queue = &self.queues[&number];
        let retention_ms = queue.attributes.retention_ms;
        if retention_ms != UNLIMITED && queue.retention_due_ms.is_none() && queue.live() > 0 {
            self.set_retention_due(number, Some(self.now_ms.saturating_add(retention_ms)));
        }
        Ok(Outcome::Sent(runs))
    }

    /// Whether a message of `size` may come in, after making room for it where the queue is to.
    fn admit(&mut self, number: u64, size: u64) -> Result<std::result::Result<(), Refusal>> {
        loop {
            let queue = &self.queues[&number];
            let Err(refusal) = queue.admit(size) else {
                return Ok(Ok(()));
            };
            let drops = queue.attributes.overflow == OVERFLOW_DROP_OLDEST
                && refusal.code == ErrorCode::QueueFull
                && self.dropped < DROPPED_PER_RECORD_MAX;
            if !drops {
                return Ok(Err(refusal));
            }
            let Some((id, place)) = self.oldest(number)? else {
                return Ok(Err(refusal));
            };
            self.dropped += 1;
            self.take_out(number, id, place)?;
            let run = self.run_of(number, id)?;
            self.remove_messages(number, &[run])?;
            self.queue(number).statistics.dropped += 1;
        }
    }

    /// The message with the lowest id that nobody holds; `None` also when a record would have to
    /// look too far for it.
    fn oldest(&mut self, number: u64) -> Result<Option<(u64, Place)>> {
        self.flush(number)?;
        let returned = self.tables.returned(number, 1)?.first().map(|(id, _)| *id);
        let delayed = self.tables.first_delayed(number)?;
        let untouched = self.first_untouched(number)?;
        let apart =
            [returned.map(|id| (id, Place::Returned)), delayed.map(|id| (id, Place::Delayed))];
        let first = apart.into_iter().flatten().min_by_key(|(id, _)| *id);
        let queue = &self.queues[&number];
        Ok(match untouched {
            Some((id, _)) if first.is_some_and(|(apart, _)| apart < id) => first,
            Some((id, chunk)) => Some((id, Place::Untouched(chunk))),
            // The untouched ones that were not reached are at or above the cursor.
            None if queue.untouched() > 0 => first.filter(|(id, _)| *id < queue.cursor),
            None => first,
        })
    }

    /// The first untouched message and its chunk; the cursor moves up to it, or as far as a
    /// record may look.
    fn first_untouched(&mut self, number: u64) -> Result<Option<(u64, u64)>> {
        while self.queues[&number].untouched() > 0 && self.walked < CHUNKS_WALKED_PER_RECORD_MAX {
            let cursor = self.queues[&number].cursor;
            let Some(row) = self.tables.chunk_from(number, cursor)? else {
                break;
            };
            let view = row.view()?;
            let (chunk, count) = (row.first, view.count());
            let marks = self.tables.marks(number, chunk, count)?;
            let mut ids = cursor.max(chunk)..chunk + count as u64;
            let is_untouched = |id: &u64| !marks.is_marked((id - chunk) as usize);
            let end = ids.end;
            let found = if view.is_apart() { None } else { ids.find(is_untouched) };
            drop(row);
            self.queue(number).cursor = found.unwrap_or(end);
            if let Some(id) = found {
                return Ok(Some((id, chunk)));
            }
            self.walked += 1;
        }
        Ok(None)
    }

    /// `apart`: the message begins its life delayed.
    fn store_message(
        &mut self,
        number: u64,
        id: u64,
        entry: &NewEntry<'_>,
        apart: bool,
    ) -> Result<()> {
        let fits = |chunk: &ChunkBuilder| chunk.is_apart() == apart && !chunk.is_full_for(entry);
        if self.pending.get(&number).is_some_and(|(_, chunk)| !fits(chunk)) {
            self.flush(number)?;
        }
        let chunk = self.pending.entry(number).or_insert_with(|| (id, ChunkBuilder::new(apart)));
        chunk.1.push(entry);
        if entry.is_external() {
            self.tables.put_parts(number, id, entry.fields, entry.body)?;
        }
        Ok(())
    }

    /// Writes the chunk that is being built for the queue.
    pub(super) fn flush(&mut self, number: u64) -> Result<()> {
        if let Some((first, chunk)) = self.pending.remove(&number) {
            let row = chunk.finish(self.now_ms);
            self.tables.put_chunk(number, first, &row)?;
        }
        Ok(())
    }
}

fn push_stored(runs: &mut Vec<SentRun>, id: u64) {
    match runs.last_mut() {
        Some(SentRun::Stored { first, count }) if *first + u64::from(*count) == id => *count += 1,
        _ => runs.push(SentRun::Stored { first: id, count: 1 }),
    }
}

fn push_refused(runs: &mut Vec<SentRun>, new: Refusal) {
    match runs.last_mut() {
        Some(SentRun::Refused { refusal, count }) if **refusal == new => *count += 1,
        _ => runs.push(SentRun::Refused { refusal: Box::new(new), count: 1 }),
    }
}
