//! Moving messages between their places: untouched, returned, delayed, leased, gone.

use qd_protocol::verbs::Due;

use super::Step;
use super::lanes::lane_in_chunk;
use super::queue::Queue;
use crate::store::lanes::Hold;
use crate::store::lease::{Delivered, Run};
use crate::store::{Delayed, Result, Tables};

/// Where a live message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Ready and never touched, in the chunk with this first id.
    Untouched(u64),
    /// Ready again.
    Returned,
    /// Ready in a lane, in the chunk with this first id.
    Waiting(u64),
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
        place_of(self.tables, number, &self.queues[&number], id)
    }

    /// Makes a message that is in no place ready again, at its old place in its lane.
    pub(super) fn give_back(&mut self, number: u64, id: u64, delivered: Delivered) -> Result<()> {
        if let Some((lane, chunk)) = self.lane_of(number, id)? {
            return self.give_back_to(number, &lane, chunk, id, delivered);
        }
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
        let group = self.group_of(number, id)?;
        self.delay_in(number, group.as_deref(), id, due_ms, delivered)
    }

    /// Delays a message that is in no place; `group`: of an ordered queue its own.
    pub(super) fn delay_in(
        &mut self,
        number: u64,
        group: Option<&[u8]>,
        id: u64,
        due_ms: u64,
        delivered: Delivered,
    ) -> Result<()> {
        if let Some(group) = group.filter(|_| self.queues[&number].attributes.ordered) {
            self.tables.put_hold(number, group, Hold::Delayed, id)?;
            self.group_changed(number, group);
        }
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
            Place::Waiting(chunk) => self.take_out_of_lane(number, chunk, id),
            Place::Blocked => {
                let blocked = self.unblock(number, id)?;
                Ok(blocked.map(|blocked| blocked.delivered).unwrap_or_default())
            }
            Place::Delayed => {
                let delayed = self.tables.remove_delayed(number, id)?;
                self.queue(number).statistics.delayed -= 1;
                self.end_hold(number, id, Hold::Delayed)?;
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

/// Where a message of a queue is that has nothing unwritten; `None`: it is not there.
pub(super) fn place_of(
    tables: &Tables<'_>,
    number: u64,
    queue: &Queue,
    id: u64,
) -> Result<Option<Place>> {
    if tables.delayed(number, id)?.is_some() {
        return Ok(Some(Place::Delayed));
    }
    if queue.statistics.dead_letter_blocked > 0 && tables.is_blocked(number, id)? {
        return Ok(Some(Place::Blocked));
    }
    if tables.is_returned(number, id)? {
        return Ok(Some(Place::Returned));
    }
    let Some(row) = tables.chunk_from(number, id)?.filter(|row| row.first <= id) else {
        return Ok(None);
    };
    let view = row.view()?;
    let marks = tables.marks(number, row.first, view.count())?;
    let index = (id - row.first) as usize;
    if marks.is_deleted(index) {
        return Ok(None);
    }
    let chunk = row.first;
    if !view.is_apart() && id >= queue.cursor && !marks.is_marked(index) {
        return Ok(Some(Place::Untouched(chunk)));
    }
    if queue.waiting > 0 {
        let entry = view.entry(index)?;
        let lane = lane_in_chunk(tables, number, queue, id, (&view, &entry))?;
        if let Some(lane) = lane
            && tables.is_waiting(number, &lane, chunk, index as u16)?
        {
            return Ok(Some(Place::Waiting(chunk)));
        }
    }
    Ok(Some(Place::Leased))
}
