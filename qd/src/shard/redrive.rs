//! Moving messages out of a dead-letter queue: back to where they came from, or elsewhere.

use std::collections::BTreeMap;

use qd_protocol::attributes::OVERFLOW_DROP_OLDEST;
use qd_protocol::message::{DeadLettered, Headers, without_dead_letters};
use qd_protocol::verbs::Redriven;
use qd_protocol::{ErrorCode, Refusal};

use super::command::Redrive;
use super::dead_letter::damaged_fields;
use super::place::Place;
use super::{Outcome, Step, by_id, no_such_queue};
use crate::store::Result;

/// Most messages that one redrive looks at.
const LOOKED_AT_MAX: usize = 1_000;
/// Most messages and chunks that all redrives of a record look at.
const LOOKED_AT_PER_RECORD_MAX: usize = 4_000;

/// One redrive being carried out.
struct Redriving<'a> {
    redrive: &'a Redrive,
    number: u64,
    /// Where all messages go; `None`: where they came from.
    to: Option<u64>,
    looked_at: usize,
    /// What a dry run would have moved to each queue: messages and bytes.
    planned: BTreeMap<u64, (u64, u64)>,
    redriven: Redriven,
}

impl Redriving<'_> {
    /// True when what is left is for another request.
    fn is_over(&self) -> bool {
        self.looked_at >= LOOKED_AT_MAX || self.redriven.moved >= u64::from(self.redrive.max)
    }

    fn skip(&mut self, refusal: Refusal) {
        self.redriven.skipped += 1;
        self.redriven.refusal.get_or_insert_with(|| Box::new(refusal));
    }
}

impl Step<'_, '_> {
    pub(super) fn redrive(&mut self, redrive: &Redrive) -> Result<Outcome> {
        let number = match self.find(&redrive.queue) {
            Ok(number) => number,
            Err(refusal) => return Ok(refusal.into()),
        };
        let to = match redrive.to.as_ref().map(|name| self.find(name)).transpose() {
            Ok(to) => to,
            Err(refusal) => return Ok(refusal.into()),
        };
        let newest = self.queues[&number].next_id - 1;
        let through = if redrive.through == 0 { newest } else { redrive.through.min(newest) };
        let redriven = Redriven {
            moved: 0,
            skipped: 0,
            last: redrive.after,
            through,
            more: false,
            refusal: None,
        };
        let planned = BTreeMap::new();
        let mut redriving = Redriving { redrive, number, to, looked_at: 0, planned, redriven };
        self.flush(number)?;
        while redriving.redriven.last < through {
            if redriving.is_over() || self.has_redriven_enough() {
                redriving.redriven.more = true;
                break;
            }
            let Some(row) = self.tables.chunk_from(number, redriving.redriven.last + 1)? else {
                redriving.redriven.last = through;
                break;
            };
            let (chunk, count) = (row.first, row.view()?.count());
            drop(row);
            // The chunk itself counts too, for it may hold nothing but deleted messages.
            redriving.looked_at += 1;
            self.redrive_looked += 1;
            let marks = self.tables.marks(number, chunk, count)?;
            let wanted = redriving.redriven.last + 1..through.saturating_add(1);
            let live = (0..count).filter(|index| !marks.is_deleted(*index));
            let ids = live.map(|index| chunk + index as u64).filter(|id| wanted.contains(id));
            let ids: Vec<u64> = ids.collect();
            if self.redrive_chunk(&mut redriving, ids)? && !redriving.is_over() {
                let end = chunk + count as u64 - 1;
                redriving.redriven.last = end.max(redriving.redriven.last).min(through);
            }
        }
        Ok(Outcome::Redriven(redriving.redriven))
    }

    /// True when what else is to be redriven is for the next record.
    fn has_redriven_enough(&self) -> bool {
        self.redrive_looked >= LOOKED_AT_PER_RECORD_MAX || self.has_moved_enough()
    }

    /// Moves messages of one chunk. Returns whether it came to their end.
    fn redrive_chunk(&mut self, redriving: &mut Redriving<'_>, ids: Vec<u64>) -> Result<bool> {
        for id in ids {
            if redriving.is_over() || self.has_redriven_enough() {
                return Ok(false);
            }
            redriving.redriven.last = id;
            redriving.looked_at += 1;
            self.redrive_looked += 1;
            let Some(place) = self.place(redriving.number, id)? else {
                continue;
            };
            if !self.is_meant(redriving, id)? {
                continue;
            }
            match self.redrive_one(redriving, id, place)? {
                Ok(()) => redriving.redriven.moved += 1,
                Err(refusal) => redriving.skip(refusal),
            }
        }
        Ok(true)
    }

    /// True when the message has the headers that are asked for.
    fn is_meant(&mut self, redriving: &Redriving<'_>, id: u64) -> Result<bool> {
        if redriving.redrive.headers.is_empty() {
            return Ok(true);
        }
        let fields = self.stored_fields(redriving.number, id)?;
        for (key, value) in &redriving.redrive.headers {
            if !Headers::stored_have(&fields, key, value).map_err(|error| damaged_fields(&error))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Moves one message, or says why it stays.
    fn redrive_one(
        &mut self,
        redriving: &mut Redriving<'_>,
        id: u64,
        place: Place,
    ) -> Result<std::result::Result<(), Refusal>> {
        let number = redriving.number;
        let name = redriving.redrive.queue.as_str();
        if place == Place::Leased {
            return Ok(Err(by_id::leased(name, id)));
        }
        let target = match redriving.to {
            Some(to) => Ok(to),
            None => self.source(number, name, id)?,
        };
        let target = match target {
            Ok(target) => target,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let size = self.stored_size(number, id)?;
        if redriving.redrive.dry_run {
            return Ok(self.plan(redriving, target, size));
        }
        if let Err(refusal) = self.admit(target, size)? {
            return Ok(Err(refusal));
        }
        // Making room may have dropped messages: into this queue, and then out of it.
        let Some(place) = self.place(number, id)? else {
            return Ok(Err(by_id::no_such_message(name, id)));
        };
        let stored = self.stored(number, id)?;
        self.take_out(number, id, place)?;
        let fields =
            without_dead_letters(&stored.fields).map_err(|error| damaged_fields(&error))?;
        self.move_message((number, id), target, &stored.with_fields(&fields))?;
        self.queue(number).statistics.redriven += 1;
        Ok(Ok(()))
    }

    /// Whether a message would be moved behind those that would be already.
    fn plan(
        &self,
        redriving: &mut Redriving<'_>,
        target: u64,
        size: u64,
    ) -> std::result::Result<(), Refusal> {
        let queue = &self.queues[&target];
        let (messages, bytes) = redriving.planned.entry(target).or_default();
        let mut then = queue.clone();
        then.statistics.ready += *messages;
        then.statistics.bytes += *bytes;
        let makes_room = queue.attributes.overflow == OVERFLOW_DROP_OLDEST;
        match then.admit(size) {
            // It would drop its oldest message.
            Err(refusal) if refusal.code == ErrorCode::QueueFull && makes_room => Ok(()),
            Err(refusal) => Err(refusal),
            Ok(()) => {
                *messages += 1;
                *bytes += size;
                Ok(())
            }
        }
    }

    /// The queue that a message came from.
    fn source(
        &mut self,
        number: u64,
        name: &str,
        id: u64,
    ) -> Result<std::result::Result<u64, Refusal>> {
        let fields = self.stored_fields(number, id)?;
        let hop = DeadLettered::newest(&fields).map_err(|error| damaged_fields(&error))?;
        Ok(match hop.map(|hop| (self.names.get(&hop.queue).copied(), hop)) {
            Some((Some(source), _)) if source != number => Ok(source),
            Some((None, hop)) => Err(no_such_queue(&hop.queue)),
            Some(_) | None => Err(no_source(name, id)),
        })
    }
}

fn no_source(queue: &str, id: u64) -> Refusal {
    let text = format!(
        "message {id} of queue {queue:?} did not come from another queue: say where it is to go"
    );
    ErrorCode::NoSuchQueue.refuse(text).with_queue(queue)
}
