//! Sending: messages of one record and queue are packed into chunks.

use qd_protocol::Refusal;
use qd_protocol::verbs::{Due, SentRun};

use super::command::Send;
use super::{Outcome, Step};
use crate::store::Result;
use crate::store::chunk::{ChunkBuilder, NewEntry};
use crate::store::lease::Delivered;

impl Step<'_, '_> {
    pub(super) fn send(&mut self, send: &Send) -> Result<Outcome> {
        let number = match self.find(&send.queue) {
            Ok(number) => number,
            Err(refusal) => return Ok(refusal.into()),
        };
        let mut runs = Vec::new();
        for message in &send.messages {
            let queue = self.queue(number);
            if let Err(refusal) = queue.admit(message.size) {
                push_refused(&mut runs, refusal);
                continue;
            }
            let id = queue.next_id;
            queue.next_id += 1;
            let due = message.due.unwrap_or(Due::After(queue.attributes.delay_ms));
            queue.statistics.sent += 1;
            queue.statistics.bytes += message.size;
            push_stored(&mut runs, id);
            let entry = NewEntry {
                crc: message.crc,
                size: message.size,
                fields: &message.fields,
                body: &message.body,
            };
            let due_ms = self.due_ms(due).filter(|due_ms| *due_ms > self.now_ms);
            self.store_message(number, id, &entry, due_ms.is_some())?;
            match due_ms {
                None => self.queue(number).statistics.ready += 1,
                Some(due_ms) => self.delay(number, id, due_ms, Delivered::default())?,
            }
        }
        Ok(Outcome::Sent(runs))
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
