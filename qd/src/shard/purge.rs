//! Removing messages of a queue: all of them at once, or those that match one by one.
//!
//! A purge of all gives the queue another number, under which it has no rows; those of the old number
//! are freed by the records that follow, like those of a dropped queue. To whoever holds a receipt
//! the old number is that of a queue that is gone.

use qd_protocol::Statistics;
use qd_protocol::verbs::Purged;

use super::command::Purge;
use super::place::Place;
use super::queue::Queue;
use super::{Outcome, Step};
use crate::store::Result;

impl Step<'_, '_> {
    pub(super) fn purge(&mut self, purge: &Purge) -> Result<Outcome> {
        let number = match self.find(&purge.queue) {
            Ok(number) => number,
            Err(refusal) => return Ok(refusal.into()),
        };
        if purge.is_filtered() {
            return self.purge_some(number, purge);
        }
        let messages = self.queues[&number].live();
        if !purge.dry_run {
            self.purge_all(number)?;
        }
        let purged = Purged { messages, skipped: 0, last: 0, through: 0, more: false };
        Ok(Outcome::Purged(purged))
    }

    /// Puts an empty queue in the place of this one: what it was told and has counted stays, and its
    /// ids go on.
    fn purge_all(&mut self, number: u64) -> Result<()> {
        let Some(old) = self.bury(number)? else {
            return Ok(());
        };
        let new = *self.next_queue;
        *self.next_queue += 1;
        let deleted = old.statistics.deleted + old.live();
        let statistics = Statistics {
            ready: 0,
            delayed: 0,
            leased: 0,
            bytes: 0,
            dead_letter_blocked: 0,
            deleted,
            ..old.statistics
        };
        self.names.insert(old.name.clone(), new);
        let queue = Queue {
            statistics,
            next_id: old.next_id,
            cursor: old.next_id,
            next_lease: old.next_lease,
            ..Queue::new(old.name, old.attributes, old.created_at_ms)
        };
        self.queues.insert(new, queue);
        self.touched.insert(new);
        Ok(())
    }

    /// Takes a queue out and marks its rows to be freed; its name is the caller's affair.
    pub(super) fn bury(&mut self, number: u64) -> Result<Option<Queue>> {
        // Messages of this very record go to disk, to be freed with the others.
        self.flush(number)?;
        self.set_retention_due(number, None);
        let queue = self.queues.remove(&number);
        if let Some(retry_ms) = queue.as_ref().and_then(|queue| queue.retry_ms) {
            self.tables.remove_due(retry_ms, number, 0)?;
        }
        self.touched.remove(&number);
        let has_ttl = queue.as_ref().is_some_and(|queue| queue.with_ttl > 0);
        self.tables.bury_queue(number, has_ttl)?;
        Ok(queue)
    }

    /// Removes the messages that match, as many as one request may look at.
    fn purge_some(&mut self, number: u64, purge: &Purge) -> Result<Outcome> {
        let mut walk = self.walk(number, purge.after, purge.through)?;
        let (mut messages, mut skipped) = (0, 0);
        while let Some((id, place)) = self.walk_on(&mut walk, false)? {
            if !self.is_old_enough(number, id, purge)? {
                // Those behind it are no older.
                walk.end();
                break;
            }
            if !self.has_headers(number, id, &purge.headers)? {
                continue;
            }
            if place == Place::Leased {
                skipped += 1;
                continue;
            }
            messages += 1;
            if !purge.dry_run {
                self.discard(number, id, place)?;
            }
        }
        let (last, through, more) = (walk.last, walk.through, walk.more);
        Ok(Outcome::Purged(Purged { messages, skipped, last, through, more }))
    }

    /// True when a live message has the age that is asked for.
    fn is_old_enough(&self, number: u64, id: u64, purge: &Purge) -> Result<bool> {
        let Some(older_than_ms) = purge.older_than_ms else {
            return Ok(true);
        };
        let Some(row) = self.tables.chunk_from(number, id)? else {
            return Ok(true);
        };
        Ok(row.view()?.sent_at_ms().saturating_add(older_than_ms) <= self.now_ms)
    }
}
