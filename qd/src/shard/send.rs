//! Sending: messages of one record and queue are packed into chunks.

use qd_protocol::attributes::{OVERFLOW_DROP_OLDEST, UNLIMITED};
use qd_protocol::message::{Properties, Reason};
use qd_protocol::verbs::{Due, SentRun};
use qd_protocol::{ErrorCode, Refusal};

use super::command::{NewMessage, Send};
use super::dedup::properties_of;
use super::lanes::has_lane;
use super::place::Place;
use super::queue::Amount;
use super::{CHUNKS_WALKED_PER_RECORD_MAX, Outcome, Step};
use crate::store::Result;
use crate::store::chunk::{ChunkBuilder, NewEntry};
use crate::store::lanes::Lane;
use crate::store::lease::Delivered;
use crate::store::waiting::Spot;

/// Most messages that one record removes to make room; sends behind that are refused.
const DROPPED_PER_RECORD_MAX: usize = 10_000;

/// Messages of a record and queue that are in no chunk yet.
pub(super) struct Pending {
    /// Id of the first one.
    first: u64,
    chunk: ChunkBuilder,
    /// Those that are ready in a lane: the lane, the index of the first of neighbours, how many.
    waiting: Vec<(Lane, u16, u16)>,
}

impl Step<'_, '_> {
    pub(super) fn send(&mut self, send: &Send) -> Result<Outcome> {
        let number = match self.find(&send.queue) {
            Ok(number) => number,
            Err(refusal) => return Ok(refusal.into()),
        };
        let mut runs = Vec::new();
        for message in &send.messages {
            let properties = properties_of(&message.fields)?;
            if let Some(id) = self.original(number, &properties, message.unique)? {
                self.queue(number).statistics.duplicates += 1;
                push_duplicate(&mut runs, id);
                continue;
            }
            let ordered = self.queues[&number].check_order(properties.priority);
            let admitted = match ordered {
                Ok(()) => self.admit(number, message.size)?,
                refused => refused,
            };
            match admitted {
                Ok(()) => push_stored(&mut runs, self.add_sent(number, message, &properties)?),
                Err(refusal) => push_refused(&mut runs, refusal),
            }
        }
        Ok(Outcome::Sent(runs))
    }

    /// Adds a message that was sent, is no duplicate, and was admitted. Returns its id.
    pub(super) fn add_sent(
        &mut self,
        number: u64,
        message: &NewMessage,
        properties: &Properties,
    ) -> Result<u64> {
        let expires_ms = message.ttl_ms.map(|ttl_ms| self.now_ms.saturating_add(ttl_ms));
        let due = message.due.unwrap_or(Due::After(self.queues[&number].attributes.delay_ms));
        let entry = NewEntry {
            crc: message.crc,
            size: message.size,
            expires_ms,
            has_lane: false,
            has_dedup: false,
            fields: &message.fields,
            body: &message.body,
        };
        let id = self.add(number, &entry, properties, self.due_ms(due))?;
        if let Some(dedup_id) = &properties.dedup_id {
            self.open_window(number, dedup_id, id)?;
        }
        Ok(id)
    }

    /// Adds a message that was admitted; `properties` are those in its fields. Returns its id.
    pub(super) fn add(
        &mut self,
        number: u64,
        entry: &NewEntry<'_>,
        properties: &Properties,
        due_ms: Option<u64>,
    ) -> Result<u64> {
        let has_dedup = properties.dedup_id.is_some();
        let entry = &NewEntry { has_lane: has_lane(properties), has_dedup, ..*entry };
        let now_ms = self.now_ms;
        let lane = self.lane_for(number, properties);
        let due_ms = due_ms.filter(|due_ms| *due_ms > now_ms);
        let queue = self.queue(number);
        let id = queue.next_id;
        queue.next_id += 1;
        queue.with_ttl += u64::from(entry.expires_ms.is_some());
        queue.with_lane += u64::from(entry.has_lane);
        queue.statistics.sent += 1;
        queue.statistics.bytes += entry.size;
        if due_ms.is_none() && lane.is_none() && queue.untouched() == 0 {
            // Nothing before it is untouched: no receive has to walk there.
            queue.cursor = id;
        }
        let (apart, has_lane) = (due_ms.is_some() || lane.is_some(), lane.is_some());
        if let Some(lane) = &lane {
            self.group_changed(number, &lane.group);
        }
        let (ready_in, delayed_in) =
            if due_ms.is_none() { (lane, None) } else { (None, lane.map(|lane| lane.group)) };
        self.store_message(number, id, entry, apart, ready_in)?;
        if let Some(expires_ms) = entry.expires_ms {
            self.tables.put_expiry(expires_ms, number, id)?;
        }
        if let Some(dedup_id) = &properties.dedup_id {
            self.tables.put_dedup(number, dedup_id, id)?;
        }
        match due_ms {
            None => {
                let queue = self.queue(number);
                queue.statistics.ready += 1;
                if has_lane {
                    // Nothing before it waits: nobody has to look there.
                    let is_first = queue.waiting == 0;
                    queue.waiting_from = if is_first { id } else { queue.waiting_from };
                    queue.waiting += 1;
                }
            }
            Some(due_ms) => {
                self.delay_in(number, delayed_in.as_deref(), id, due_ms, Delivered::default())?;
            }
        }
        let queue = &self.queues[&number];
        let retention_ms = queue.attributes.retention_ms;
        if retention_ms != UNLIMITED && queue.retention_due_ms.is_none() {
            self.set_retention_due(number, Some(now_ms.saturating_add(retention_ms)));
        }
        Ok(id)
    }

    /// Whether a message of `size` may come in, after making room for it where the queue is to.
    pub(super) fn admit(
        &mut self,
        number: u64,
        size: u64,
    ) -> Result<std::result::Result<(), Refusal>> {
        match self.queues[&number].admit(size) {
            Err(refusal) if refusal.code != ErrorCode::QueueFull => Ok(Err(refusal)),
            _ => self.make_room(number, Amount::one(size), Amount::default()),
        }
    }

    /// Whether there is room for messages once what is `freed` has gone, after dropping the oldest
    /// ones where the queue is to.
    pub(super) fn make_room(
        &mut self,
        number: u64,
        wanted: Amount,
        freed: Amount,
    ) -> Result<std::result::Result<(), Refusal>> {
        loop {
            let queue = &self.queues[&number];
            let Err(refusal) = queue.has_room(wanted, freed) else {
                return Ok(Ok(()));
            };
            let drops = queue.attributes.overflow == OVERFLOW_DROP_OLDEST
                && wanted.messages <= queue.attributes.max_messages
                && wanted.bytes <= queue.attributes.max_bytes
                && queue.undroppable(freed) + wanted.messages <= queue.attributes.max_messages
                && self.dropped < DROPPED_PER_RECORD_MAX;
            if !drops {
                return Ok(Err(refusal));
            }
            if !self.drop_oldest(number)? {
                return Ok(Err(self.with_reason(number, refusal)));
            }
        }
    }

    /// Says of a queue that drops its oldest message why it did not.
    fn with_reason(&self, number: u64, mut refusal: Refusal) -> Refusal {
        let queue = &self.queues[&number];
        let target = queue.attributes.dead_letter.queue_of(&queue.name);
        if let Some(target) = target.filter(|_| queue.attributes.dead_letter_overflow) {
            let target = target.as_str();
            refusal.text = format!(
                "{}, and its oldest message cannot move to the dead-letter queue {target:?} now",
                refusal.text
            );
        }
        refusal
    }

    /// Drops the oldest message that nobody holds. False: there is none, or its dead-letter queue
    /// cannot take it.
    fn drop_oldest(&mut self, number: u64) -> Result<bool> {
        let Some((id, place)) = self.oldest(number)? else {
            return Ok(false);
        };
        let mut target = None;
        if self.queues[&number].attributes.dead_letter_overflow {
            target = self.dead_letter_for(number, id)?;
            if target.is_none() {
                return Ok(false);
            }
        }
        self.dropped += 1;
        let delivered = self.take_out(number, id, place)?;
        self.queue(number).statistics.dropped += 1;
        if let Some(target) = target {
            self.move_to(target, (number, id), delivered, &Reason::Overflow)?;
        } else {
            let run = self.run_of(number, id)?;
            self.remove_messages(number, &[run])?;
        }
        Ok(true)
    }

    /// The message with the lowest id that nobody holds; `None` also when a record would have to
    /// look too far for it.
    fn oldest(&mut self, number: u64) -> Result<Option<(u64, Place)>> {
        self.flush(number)?;
        let returned = self.tables.returned(number, 0, 1)?.first().map(|(id, _)| *id);
        let delayed = self.tables.first_delayed(number)?;
        let untouched = self.first_untouched(number)?;
        let waiting = self.oldest_waiting(number)?;
        let apart = [
            returned.map(|id| (id, Place::Returned)),
            delayed.map(|id| (id, Place::Delayed)),
            waiting,
        ];
        let first = apart.into_iter().flatten().min_by_key(|(id, _)| *id);
        let queue = &self.queues[&number];
        if waiting.is_none() && queue.waiting > 0 {
            // Those of lanes that were not reached are behind what was looked at.
            let from = queue.waiting_from;
            let untouched = untouched.map(|(id, chunk)| (id, Place::Untouched(chunk)));
            let first = first.into_iter().chain(untouched).min_by_key(|(id, _)| *id);
            return Ok(first.filter(|(id, _)| *id < from));
        }
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

    /// `apart`: the message begins its life delayed or in a lane; `lane`: it is ready there.
    fn store_message(
        &mut self,
        number: u64,
        id: u64,
        entry: &NewEntry<'_>,
        apart: bool,
        lane: Option<Lane>,
    ) -> Result<()> {
        if self.pending.get(&number).is_some_and(|pending| pending.chunk.is_full_for(entry)) {
            self.flush(number)?;
        }
        let pending = self.pending.entry(number).or_insert_with(|| Pending {
            first: id,
            chunk: ChunkBuilder::default(),
            waiting: Vec::new(),
        });
        if let Some(lane) = lane {
            let index = pending.chunk.count() as u16;
            match pending.waiting.last_mut() {
                Some((last, first, count)) if *last == lane && *first + *count == index => {
                    *count += 1;
                }
                _ => pending.waiting.push((lane, index, 1)),
            }
        }
        pending.chunk.push(entry, apart);
        if entry.is_external() {
            self.tables.put_parts(number, id, entry.fields, entry.body)?;
        }
        Ok(())
    }

    /// Writes the chunk that is being built for the queue.
    pub(super) fn flush(&mut self, number: u64) -> Result<()> {
        if let Some(Pending { first, chunk, waiting }) = self.pending.remove(&number) {
            let (row, marks) = chunk.finish(self.now_ms);
            self.tables.put_chunk(number, first, &row)?;
            if let Some(marks) = marks {
                self.tables.put_marks(number, first, &marks)?;
            }
            let chunk = first;
            let spots = waiting.iter().map(|(lane, first, count)| Spot {
                lane,
                chunk,
                first: *first,
                count: *count,
            });
            let mut spots: Vec<Spot<'_>> = spots.collect();
            self.tables.add_waiting(number, &mut spots)?;
        }
        Ok(())
    }
}

pub(super) fn push_stored(runs: &mut Vec<SentRun>, id: u64) {
    match runs.last_mut() {
        Some(SentRun::Stored { first, count }) if *first + u64::from(*count) == id => *count += 1,
        _ => runs.push(SentRun::Stored { first: id, count: 1 }),
    }
}

pub(super) fn push_duplicate(runs: &mut Vec<SentRun>, original: u64) {
    match runs.last_mut() {
        Some(SentRun::Duplicate { id, count }) if *id == original => *count += 1,
        _ => runs.push(SentRun::Duplicate { id: original, count: 1 }),
    }
}

fn push_refused(runs: &mut Vec<SentRun>, new: Refusal) {
    match runs.last_mut() {
        Some(SentRun::Refused { refusal, count }) if **refusal == new => *count += 1,
        _ => runs.push(SentRun::Refused { refusal: Box::new(new), count: 1 }),
    }
}
