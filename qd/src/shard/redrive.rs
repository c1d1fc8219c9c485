//! Moving messages out of a dead-letter queue: back to where they came from, or elsewhere.

use std::collections::BTreeMap;

use qd_protocol::attributes::OVERFLOW_DROP_OLDEST;
use qd_protocol::message::{DeadLettered, without_dead_letters};
use qd_protocol::verbs::Redriven;
use qd_protocol::{ErrorCode, Refusal};

use super::command::Redrive;
use super::dead_letter::damaged_fields;
use super::place::Place;
use super::walk::Walk;
use super::{Outcome, Step, by_id, no_such_queue};
use crate::store::Result;

/// One redrive being carried out.
struct Redriving<'a> {
    redrive: &'a Redrive,
    number: u64,
    /// Where all messages go; `None`: where they came from.
    to: Option<u64>,
    /// What a dry run would have moved to each queue: messages and bytes.
    planned: BTreeMap<u64, (u64, u64)>,
    redriven: Redriven,
}

impl Redriving<'_> {
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
        let mut walk = self.walk(number, redrive.after, redrive.through)?;
        let redriven =
            Redriven { moved: 0, skipped: 0, last: 0, through: 0, more: false, refusal: None };
        let mut redriving = Redriving { redrive, number, to, planned: BTreeMap::new(), redriven };
        loop {
            let moved = redriving.redriven.moved;
            let enough = moved >= u64::from(redrive.max) || self.has_moved_enough();
            let Some((id, place)) = self.walk_on(&mut walk, enough)? else {
                break;
            };
            if !self.has_headers(number, id, &redrive.headers)? {
                continue;
            }
            match self.redrive_one(&mut redriving, id, place)? {
                Ok(()) => redriving.redriven.moved += 1,
                Err(refusal) => redriving.skip(refusal),
            }
        }
        let Walk { last, through, more, .. } = walk;
        Ok(Outcome::Redriven(Redriven { last, through, more, ..redriving.redriven }))
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
