//! What happens by itself when its time has come: leases and delays end, and what is too old is
//! removed.
//!
//! A message's time to live stands in a row of its own; a queue's retention needs none, because the
//! chunks of a queue are in the order of their ages: only the first one is looked at. What is
//! leased when its time is over is removed when its lease ends. What waits for its dead-letter
//! queue is not removed: its life in the queue is over already.

use std::collections::BTreeSet;

use qd_protocol::attributes::UNLIMITED;
use qd_protocol::message::Reason;

use super::place::Place;
use super::{SETTLED_PER_RECORD_MAX, Step};
use crate::store::Result;
use crate::store::lanes::Hold;
use crate::store::lease::Delivered;

impl Step<'_, '_> {
    /// Settles what is due, at most [`SETTLED_PER_RECORD_MAX`] messages.
    pub(super) fn settle_due(&mut self) -> Result<()> {
        // No kind keeps the others waiting: each has a quarter, and what the ones before it left.
        self.end_windows()?;
        let quarter = SETTLED_PER_RECORD_MAX / 4;
        let left = self.end_leases(quarter)?;
        let left = self.end_delays(quarter + left)?;
        let left = self.end_lives(quarter + left)?;
        let left = self.end_retentions(quarter + left)?;
        let left = self.end_leases(left)?;
        self.end_delays(left)?;
        Ok(())
    }

    /// Makes the messages of leases that are over ready again, at their old place in the queue.
    /// Returns how many more messages may be settled.
    fn end_leases(&mut self, mut room: usize) -> Result<usize> {
        while room > 0 {
            let Some((end_ms, number, lease)) = self.tables.first_lease_end()? else {
                break;
            };
            if end_ms > self.now_ms {
                break;
            }
            let row = self.tables.lease(number, lease)?;
            let (Some(mut row), true) = (row, self.queues.contains_key(&number)) else {
                self.tables.remove_lease_end(end_ms, number, lease)?;
                room -= 1;
                continue;
            };
            let runs = row.take_due(self.now_ms, room);
            self.tables.put_lease(number, lease, &row, Some(end_ms))?;
            let messages = runs.iter().map(|run| run.count as usize).sum::<usize>();
            self.queue(number).statistics.leased -= messages as u64;
            self.end_holds(number, &runs)?;
            for run in &runs {
                for id in run.ids() {
                    self.come_back(number, id, run.delivered(row.started_ms), None)?;
                }
            }
            room -= messages;
        }
        Ok(room)
    }

    /// Makes delayed messages ready whose time has come. Returns how many more may be settled.
    fn end_delays(&mut self, mut room: usize) -> Result<usize> {
        while room > 0 {
            let Some((due_ms, number, id)) = self.tables.first_due()? else {
                break;
            };
            if due_ms > self.now_ms {
                break;
            }
            room -= 1;
            if id == 0 {
                self.tables.remove_due(due_ms, number, id)?;
                room = self.retry_blocked(number, room)?;
                continue;
            }
            let delayed = self.tables.remove_delayed(number, id)?;
            let (Some(delayed), true) = (delayed, self.queues.contains_key(&number)) else {
                self.tables.remove_due(due_ms, number, id)?;
                continue;
            };
            self.queue(number).statistics.delayed -= 1;
            self.end_hold(number, id, Hold::Delayed)?;
            self.give_back(number, id, delayed.delivered)?;
        }
        Ok(room)
    }

    /// Puts a message that was leased where it belongs: delayed until `due_ms` or ready, dead when it
    /// was delivered as often as may be, or gone when its time was over meanwhile.
    pub(super) fn come_back(
        &mut self,
        number: u64,
        id: u64,
        delivered: Delivered,
        due_ms: Option<u64>,
    ) -> Result<()> {
        let attempts_max = self.queues[&number].attributes.max_deliveries;
        if u64::from(delivered.attempts) >= attempts_max && self.has_dead_letter(number) {
            return self.dead_letter(number, id, delivered, &Reason::MaxDeliveries);
        }
        if self.is_over(number, id)? {
            return self.expire(number, id, delivered);
        }
        match due_ms {
            Some(due_ms) => self.delay(number, id, due_ms, delivered),
            None => self.give_back(number, id, delivered),
        }
    }

    /// True when a message's time is over.
    pub(super) fn is_over(&self, number: u64, id: u64) -> Result<bool> {
        let queue = &self.queues[&number];
        let retention_ms = queue.attributes.retention_ms;
        if queue.with_ttl == 0 && retention_ms == UNLIMITED {
            return Ok(false);
        }
        let Some(row) = self.tables.chunk_from(number, id)? else {
            return Ok(false);
        };
        let view = row.view()?;
        let expires_ms = view.entry((id - row.first) as usize)?.expires_ms;
        let retained_ms = view.sent_at_ms().saturating_add(retention_ms);
        Ok(retained_ms <= self.now_ms || expires_ms.is_some_and(|ms| ms <= self.now_ms))
    }

    /// Removes a message that is in no place because its time is over, or makes a dead letter of it
    /// where its queue is to.
    fn expire(&mut self, number: u64, id: u64, delivered: Delivered) -> Result<()> {
        self.queue(number).statistics.expired += 1;
        if self.queues[&number].attributes.dead_letter_expired && self.has_dead_letter(number) {
            return self.dead_letter(number, id, delivered, &Reason::Expired);
        }
        let run = self.run_of(number, id)?;
        self.remove_messages(number, &[run])?;
        Ok(())
    }

    /// Removes messages whose time to live is over, but for leased ones. Returns how many more
    /// may be settled.
    fn end_lives(&mut self, mut room: usize) -> Result<usize> {
        while room > 0 {
            let Some((expires_ms, number, id)) = self.tables.first_expiry()? else {
                break;
            };
            if expires_ms > self.now_ms {
                break;
            }
            room -= 1;
            self.tables.remove_expiry(expires_ms, number, id)?;
            if self.queues.contains_key(&number)
                && let Some(place) = self.place(number, id)?
                && may_expire(place)
            {
                let delivered = self.take_out(number, id, place)?;
                self.expire(number, id, delivered)?;
            }
        }
        Ok(room)
    }

    /// Removes messages that their queues keep no longer, but for leased ones. Returns how many
    /// more may be settled.
    fn end_retentions(&mut self, mut room: usize) -> Result<usize> {
        // What memory knows may be too early, never too late, and differ between replicas: the
        // order must not depend on it.
        let early = self.retention.range(..=(self.now_ms, u64::MAX));
        let numbers: BTreeSet<u64> = early.map(|(_, number)| *number).collect();
        for number in numbers {
            while room > 0 && self.find_retention_due(number)?.is_some_and(|ms| ms <= self.now_ms) {
                room = self.end_retention(number, room)?;
            }
        }
        Ok(room)
    }

    /// Removes what is not leased of the first chunk that the retention has not been over.
    fn end_retention(&mut self, number: u64, mut room: usize) -> Result<usize> {
        let from = self.queues[&number].retained_from;
        let Some(row) = self.tables.chunk_from(number, from)? else {
            return Ok(room);
        };
        let (first, count) = (row.first, row.view()?.count());
        drop(row);
        let marks = self.tables.marks(number, first, count)?;
        let live = (0..count).filter(|index| !marks.is_deleted(*index));
        let ids: Vec<u64> = live.map(|index| first + index as u64).collect();
        // Looking at an id takes a small part of settling it.
        room = room.saturating_sub(ids.len() / 16);
        for id in ids {
            let Some(place) = self.place(number, id)?.filter(|place| may_expire(*place)) else {
                continue;
            };
            if room == 0 {
                return Ok(0);
            }
            room -= 1;
            let delivered = self.take_out(number, id, place)?;
            self.expire(number, id, delivered)?;
        }
        self.queue(number).retained_from = first + count as u64;
        Ok(room.saturating_sub(1))
    }

    /// Looks up when the retention has something to remove, and notes it.
    pub(super) fn find_retention_due(&mut self, number: u64) -> Result<Option<u64>> {
        let queue = &self.queues[&number];
        let mut due_ms = queue.find_retention_due(number, self.tables)?;
        let retention_ms = queue.attributes.retention_ms;
        if due_ms.is_none() && retention_ms != UNLIMITED && self.pending.contains_key(&number) {
            // What became a dead letter in this very record is in no row yet. It is not written for
            // the sake of this question, which memory may ask at other times than a replica's.
            due_ms = Some(self.now_ms.saturating_add(retention_ms));
        }
        self.set_retention_due(number, due_ms);
        Ok(due_ms)
    }

    /// Notes when the retention may have something to remove.
    pub(super) fn set_retention_due(&mut self, number: u64, due_ms: Option<u64>) {
        let Some(queue) = self.queues.get_mut(&number) else {
            return;
        };
        let before = std::mem::replace(&mut queue.retention_due_ms, due_ms);
        if before != due_ms {
            if let Some(before) = before {
                self.retention.remove(&(before, number));
            }
            if let Some(due_ms) = due_ms {
                self.retention.insert((due_ms, number));
            }
        }
    }
}

/// True when a message that is there is removed as soon as its time is over.
fn may_expire(place: Place) -> bool {
    !matches!(place, Place::Leased | Place::Blocked)
}
