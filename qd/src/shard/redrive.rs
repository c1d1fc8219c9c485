//! Moving messages out of a dead-letter queue: back to where they came from, or elsewhere.

use std::ops::Range;

use bytes::Bytes;
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

/// One redrive being carried out.
struct Redriving<'a> {
    redrive: &'a Redrive,
    number: u64,
    /// Where all messages go; `None`: where they came from.
    to: Option<u64>,
    looked_at: usize,
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
        let mut redriving = Redriving { redrive, number, to, looked_at: 0, redriven };
        self.flush(number)?;
        while redriving.redriven.last < through {
            if redriving.is_over() || self.has_moved_enough() {
                redriving.redriven.more = true;
                break;
            }
            let Some(row) = self.tables.chunk_from(number, redriving.redriven.last + 1)? else {
                redriving.redriven.last = through;
                break;
            };
            let count = row.view()?.count() as u64;
            let first = row.first.max(redriving.redriven.last + 1);
            let ids = first..(row.first + count).min(through.saturating_add(1));
            drop(row);
            // The chunk itself counts too, for it may hold nothing but deleted messages.
            redriving.looked_at += 1;
            if ids.is_empty() {
                redriving.redriven.last = through;
                break;
            }
            self.redrive_chunk(&mut redriving, ids)?;
        }
        Ok(Outcome::Redriven(redriving.redriven))
    }

    fn redrive_chunk(&mut self, redriving: &mut Redriving<'_>, ids: Range<u64>) -> Result<()> {
        for id in ids {
            if redriving.is_over() || self.has_moved_enough() {
                return Ok(());
            }
            redriving.redriven.last = id;
            let Some(place) = self.place(redriving.number, id)? else {
                continue;
            };
            redriving.looked_at += 1;
            if !self.is_meant(redriving, id)? {
                continue;
            }
            match self.redrive_one(redriving, id, place)? {
                Ok(()) => redriving.redriven.moved += 1,
                Err(refusal) => redriving.skip(refusal),
            }
        }
        Ok(())
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
        redriving: &Redriving<'_>,
        id: u64,
        place: Place,
    ) -> Result<std::result::Result<(), Refusal>> {
        let (number, dry_run) = (redriving.number, redriving.redrive.dry_run);
        let name = redriving.redrive.queue.as_str();
        if place == Place::Leased {
            return Ok(Err(by_id::leased(name, id)));
        }
        let stored = self.stored(number, id)?;
        let target = match redriving.to {
            Some(to) => Ok(to),
            None => self.source(number, name, id, &stored.fields)?,
        };
        let target = match target {
            Ok(target) => target,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if dry_run {
            return Ok(self.queues[&target].admit(stored.size));
        }
        if let Err(refusal) = self.admit(target, stored.size)? {
            return Ok(Err(refusal));
        }
        // Making room may have dropped messages: into this queue, and then out of it.
        let Some(place) = self.place(number, id)? else {
            return Ok(Err(by_id::no_such_message(name, id)));
        };
        self.take_out(number, id, place)?;
        let fields =
            without_dead_letters(&stored.fields).map_err(|error| damaged_fields(&error))?;
        self.move_message((number, id), target, &stored.with_fields(&fields))?;
        self.queue(number).statistics.redriven += 1;
        Ok(Ok(()))
    }

    /// The queue that a message came from.
    fn source(
        &self,
        number: u64,
        name: &str,
        id: u64,
        fields: &Bytes,
    ) -> Result<std::result::Result<u64, Refusal>> {
        let hop = DeadLettered::newest(fields).map_err(|error| damaged_fields(&error))?;
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
