//! Moving messages between their places: untouched, returned, delayed, leased, gone.

use qd_protocol::verbs::Due;

use super::Step;
use crate::store::lease::{Delivered, Run};
use crate::store::{Delayed, Result};

/// Where a live message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Ready and never touched, in the chunk with this first id.
    Untouched(u64),
    /// Ready again.
    Returned,
    /// Not visible yet.
    Delayed,
    /// Dead, and its dead-letter queue could not take it yet; counted as delayed.
    Blocked,
    /// Held by a consumer.
    Leased,
}

impl Step<'_, '_> {
    /// The state time that is meant; `None`: at once.
    pub(super) fn due_ms(&self, due: Due) -> Option<u64> {
        match due {
            Due::After(0) => None,
            Due::After(ms) => Some(self.now_ms.saturating_add(ms)),
            Due::At(ms) => Some(ms),
        }
    }

    /// Where a message is; `None`: it is not there.
    pub(super) fn place(&mut self, number: u64, id: u64) -> Result<Option<Place>> {
        self.flush(number)?;
        if self.tables.delayed(number, id)?.is_some() {
            return Ok(Some(Place::Delayed));
        }
        let queue = &self.queues[&number];
        if queue.statistics.dead_letter_blocked > 0 && self.tables.is_blocked(number, id)? {
            return Ok(Some(Place::Blocked));
        }
        if self.tables.is_returned(number, id)? {
            return Ok(Some(Place::Returned));
        }
        let Some(row) = self.tables.chunk_from(number, id)?.filter(|row| row.first <= id) else {
            return Ok(None);
        };
        let view = row.view()?;
        let marks = self.tables.marks(number, row.first, view.count())?;
        let index = (id - row.first) as usize;
        if marks.is_deleted(index) {
            return Ok(None);
        }
        let touched = view.is_apart() || id < self.queues[&number].cursor || marks.is_marked(index);
        Ok(Some(if touched { Place::Leased } else { Place::Untouched(row.first) }))
    }

    /// Makes messages that are in no place ready again.
    pub(super) fn give_back(&mut self, number: u64, id: u64, delivered: Delivered) -> Result<()> {
        self.tables.put_returned(number, id, delivered)?;
        let queue = self.queue(number);
        queue.statistics.ready += 1;
        queue.returned += 1;
        Ok(())
    }

    /// Delays a message that is in no place.
    pub(super) fn delay(
        &mut self,
        number: u64,
        id: u64,
        due_ms: u64,
        delivered: Delivered,
    ) -> Result<()> {
        self.tables.put_delayed(number, id, Delayed { due_ms, delivered })?;
        self.queue(number).statistics.delayed += 1;
        Ok(())
    }

    /// Takes a message that nobody holds out of its place. Returns its chunk and history.
    pub(super) fn take_out(&mut self, number: u64, id: u64, place: Place) -> Result<Delivered> {
        match place {
            Place::Untouched(chunk) => {
                let row = self.tables.chunk(number, chunk)?;
                let count = row.view()?.count();
                drop(row);
                let mut marks = self.tables.marks(number, chunk, count)?;
                marks.touch((id - chunk) as usize);
                self.tables.put_marks(number, chunk, &marks)?;
                self.queue(number).statistics.ready -= 1;
                Ok(Delivered::default())
            }
            Place::Returned => {
                let delivered = self.tables.remove_returned(number, id)?;
                let queue = self.queue(number);
                queue.statistics.ready -= 1;
                queue.returned -= 1;
                Ok(delivered.unwrap_or_default())
            }
            Place::Blocked => {
                let blocked = self.unblock(number, id)?;
                Ok(blocked.map(|blocked| blocked.delivered).unwrap_or_default())
            }
            Place::Delayed => {
                let delayed = self.tables.remove_delayed(number, id)?;
                self.queue(number).statistics.delayed -= 1;
                Ok(delayed.map(|delayed| delayed.delivered).unwrap_or_default())
            }
            // Callers refuse leased messages.
            Place::Leased => Ok(Delivered::default()),
        }
    }

    /// The chunk that holds a live message.
    pub(super) fn run_of(&self, number: u64, id: u64) -> Result<Run> {
        let chunk = self.tables.chunk_from(number, id)?.map_or(id, |row| row.first);
        Ok(Run { chunk, first: id, count: 1, attempt: 0, end_ms: 0, first_ms: 0 })
    }
}
