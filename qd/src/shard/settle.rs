//! Settling leased messages by their receipts.

use std::collections::BTreeMap;

use qd_protocol::message::Reason;
use qd_protocol::verbs::Until;
use qd_protocol::verbs::delete::Statuses;
use qd_protocol::{ErrorCode, Receipt, Refusal};

use super::command::{Action, Settle};
use super::dedup::dedup_id_of;
use super::{Outcome, Step};
use crate::store::Result;
use crate::store::lease::Run;

/// What is to be done with receipts.
struct Settling<'a> {
    action: &'a Action,
    /// Random, for the jitter of retry delays.
    seed: u64,
    receipts: &'a [Receipt],
}

/// What became of each receipt: why it was refused, or the new end of its lease.
struct Results {
    refusals: Vec<Option<Refusal>>,
    ends: Vec<u64>,
}

impl Step<'_, '_> {
    pub(super) fn settle(&mut self, settle: &Settle) -> Result<Outcome> {
        let number = match self.find(&settle.queue) {
            Ok(number) => number,
            Err(refusal) => return Ok(refusal.into()),
        };
        let Settle { action, seed, receipts, .. } = settle;
        if matches!(action, Action::Reject { .. }) && !self.has_dead_letter(number) {
            return Ok(Outcome::Settled(no_dead_letter(settle)));
        }
        let settling = Settling { action, seed: *seed, receipts };
        let results = self.settle_receipts(&[number], &settling)?;
        let ends = results.ends.clone();
        let statuses = results.into_statuses();
        Ok(match settle.action {
            Action::Extend(_) => Outcome::Extended(statuses, ends),
            Action::Delete | Action::Release { .. } | Action::Reject { .. } => {
                Outcome::Settled(statuses)
            }
        })
    }

    /// Deletes the messages of `receipts`, which must be of one of `queues`.
    pub(super) fn delete(&mut self, queues: &[u64], receipts: &[Receipt]) -> Result<Statuses> {
        let settling = Settling { action: &Action::Delete, seed: 0, receipts };
        Ok(self.settle_receipts(queues, &settling)?.into_statuses())
    }

    fn settle_receipts(&mut self, queues: &[u64], settling: &Settling<'_>) -> Result<Results> {
        let receipts = settling.receipts;
        let count = receipts.len();
        let mut results = Results { refusals: vec![None; count], ends: vec![0; count] };
        // Receipts by lease, so that each lease is read and written once.
        let mut leases: BTreeMap<(u64, u64), Vec<usize>> = BTreeMap::new();
        for (index, receipt) in receipts.iter().enumerate() {
            match self.check(queues, receipt) {
                Ok(()) => leases.entry((receipt.queue, receipt.lease)).or_default().push(index),
                Err(refusal) => results.refusals[index] = Some(refusal),
            }
        }
        for ((queue, lease), indexes) in leases {
            self.settle_lease(queue, lease, settling, &indexes, &mut results)?;
        }
        Ok(results)
    }

    /// What can be said of a receipt without its lease's row.
    pub(super) fn check(
        &self,
        queues: &[u64],
        receipt: &Receipt,
    ) -> std::result::Result<(), Refusal> {
        if !queues.contains(&receipt.queue) {
            if let Some(other) = self.queues.get(&receipt.queue) {
                let text = format!("the receipt belongs to queue {:?}", other.name.as_str());
                return Err(ErrorCode::ReceiptOfOtherQueue
                    .refuse(text)
                    .with_queue(other.name.as_str()));
            }
            // The queue that it was of is dropped, perhaps made anew under the same name.
            let was = (1..*self.next_queue).contains(&receipt.queue);
            return Err(if was { expired() } else { invalid() });
        }
        match self.queues.get(&receipt.queue) {
            Some(queue) if receipt.lease >= queue.next_lease || receipt.id >= queue.next_id => {
                Err(invalid())
            }
            _ => Ok(()),
        }
    }

    fn settle_lease(
        &mut self,
        number: u64,
        lease: u64,
        settling: &Settling<'_>,
        indexes: &[usize],
        results: &mut Results,
    ) -> Result<()> {
        let Settling { action, receipts, .. } = *settling;
        let Some(mut row) = self.tables.lease(number, lease)? else {
            for &index in indexes {
                results.refusals[index] = Some(expired());
            }
            return Ok(());
        };
        let mut order: Vec<usize> = Vec::with_capacity(indexes.len());
        for &index in indexes {
            if receipts[index].secret == row.secret {
                order.push(index);
            } else {
                results.refusals[index] = Some(invalid());
            }
        }
        // The first of equal receipts settles; the sort keeps their order.
        order.sort_by_key(|&index| receipts[index].id);
        let mut ids: Vec<u64> = Vec::with_capacity(order.len());
        for &index in &order {
            let id = receipts[index].id;
            if ids.last() != Some(&id) {
                ids.push(id);
            } else if !matches!(action, Action::Extend(_)) {
                results.refusals[index] = Some(expired());
            }
        }
        let end_ms = row.end_ms();
        let taken = row.take(&ids, self.now_ms);
        if taken.iter().map(|run| run.count as usize).sum::<usize>() < ids.len() {
            for &index in &order {
                let is_held = run_with(&taken, receipts[index].id).is_some();
                if results.refusals[index].is_none() && !is_held {
                    results.refusals[index] = Some(expired());
                }
            }
        }
        if taken.is_empty() {
            return Ok(());
        }
        if let Action::Extend(until) = action {
            let taken = self.extend(taken, *until);
            for &index in order.iter().filter(|&&index| results.refusals[index].is_none()) {
                let id = receipts[index].id;
                results.ends[index] = run_with(&taken, id).map_or(0, |run| run.end_ms);
            }
            row.put_back(taken);
            return self.tables.put_lease(number, lease, &row, Some(end_ms));
        }
        self.tables.put_lease(number, lease, &row, Some(end_ms))?;
        self.end_lease(number, &taken, row.started_ms, settling)
    }

    /// Does with messages that are leased no more what their consumer wants.
    fn end_lease(
        &mut self,
        number: u64,
        taken: &[Run],
        started_ms: u64,
        settling: &Settling<'_>,
    ) -> Result<()> {
        let messages: u64 = taken.iter().map(|run| u64::from(run.count)).sum();
        self.queue(number).statistics.leased -= messages;
        self.end_holds(number, taken)?;
        match settling.action {
            Action::Delete => {
                self.remove_messages(number, taken)?;
                self.queue(number).statistics.deleted += messages;
            }
            Action::Release { counted, due } => {
                for run in taken {
                    let mut delivered = run.delivered(started_ms);
                    delivered.attempts -= u32::from(!counted);
                    for id in run.ids() {
                        let due_ms = match due {
                            Some(due) => self.due_ms(*due),
                            None if *counted => self.retry_ms(number, id, run, settling.seed),
                            None => None,
                        };
                        let due_ms = due_ms.filter(|due_ms| *due_ms > self.now_ms);
                        self.come_back(number, id, delivered, due_ms)?;
                    }
                }
            }
            Action::Reject { reason } => {
                let reason = Reason::Rejected(reason.clone());
                for run in taken {
                    for id in run.ids() {
                        self.dead_letter(number, id, run.delivered(started_ms), &reason)?;
                    }
                }
            }
            // Its leases go on.
            Action::Extend(_) => {}
        }
        Ok(())
    }

    /// When a message that was released for another try becomes visible: its queue's delay for
    /// this attempt and up to a tenth more, so that messages that failed together do not come
    /// back together.
    fn retry_ms(&self, number: u64, id: u64, run: &Run, seed: u64) -> Option<u64> {
        let delays = &self.queues[&number].attributes.retry_delay_ms;
        let attempt = usize::try_from(run.attempt).unwrap_or(usize::MAX);
        let delay_ms = *delays.get(attempt - 1).or(delays.last())?;
        Some(
            self.now_ms
                .saturating_add(delay_ms)
                .saturating_add(retry_jitter_ms(delay_ms, seed, id)),
        )
    }

    fn extend(&self, mut taken: Vec<Run>, until: Until) -> Vec<Run> {
        for run in &mut taken {
            run.end_ms = match until {
                Until::By(ms) => run.end_ms.saturating_add(ms),
                Until::To(ms) => self.now_ms.saturating_add(ms),
            };
        }
        taken
    }

    /// Removes live messages, whose place the caller accounts for. Returns how many.
    pub(super) fn remove_messages(&mut self, number: u64, runs: &[Run]) -> Result<u64> {
        let mut messages = 0;
        let mut bytes = 0;
        let mut rest = runs;
        while let Some(run) = rest.first() {
            let same = rest.iter().take_while(|other| other.chunk == run.chunk).count();
            let (now, later) = rest.split_at(same);
            bytes += self.remove_from_chunk(number, run.chunk, now)?;
            messages += now.iter().map(|run| u64::from(run.count)).sum::<u64>();
            rest = later;
        }
        self.queue(number).statistics.bytes -= bytes;
        Ok(messages)
    }

    /// Removes live messages of one chunk; frees the chunk with its last one. Returns their size.
    fn remove_from_chunk(&mut self, number: u64, chunk: u64, runs: &[Run]) -> Result<u64> {
        let mut bytes = 0;
        let mut parts = Vec::new();
        let mut expiries = Vec::new();
        let mut dedup_ids = Vec::new();
        let mut with_lane = 0;
        let row = self.tables.chunk(number, chunk)?;
        let view = row.view()?;
        let count = view.count();
        for id in runs.iter().flat_map(Run::ids) {
            let entry = view.entry((id - chunk) as usize)?;
            bytes += entry.size;
            with_lane += u64::from(entry.has_lane);
            if entry.parts() > 0 {
                parts.push((id, entry.parts()));
            }
            if let Some(expires_ms) = entry.expires_ms {
                expiries.push((expires_ms, id));
            }
            let dedup_id = dedup_id_of(self.tables, number, id, view, &entry)?;
            dedup_ids.extend(dedup_id.map(|dedup_id| (dedup_id, id)));
        }
        drop(row);
        let queue = self.queue(number);
        queue.with_ttl -= expiries.len() as u64;
        queue.with_lane -= with_lane;
        for (expires_ms, id) in expiries {
            self.tables.remove_expiry(expires_ms, number, id)?;
        }
        for (dedup_id, id) in dedup_ids {
            self.tables.remove_dedup(number, &dedup_id, id)?;
        }
        for (id, count) in parts {
            self.tables.remove_parts(number, id, count)?;
        }
        let removed: usize = runs.iter().map(|run| run.count as usize).sum();
        if removed == count {
            self.remove_chunk(number, chunk)?;
            return Ok(bytes);
        }
        let mut marks = self.tables.marks(number, chunk, count)?;
        for id in runs.iter().flat_map(Run::ids) {
            marks.delete((id - chunk) as usize);
        }
        if marks.all_deleted() {
            self.remove_chunk(number, chunk)?;
        } else {
            self.tables.put_marks(number, chunk, &marks)?;
        }
        Ok(bytes)
    }

    /// Removes a chunk of which no message is left.
    fn remove_chunk(&mut self, number: u64, chunk: u64) -> Result<()> {
        let oldest = &self.queue(number).oldest;
        oldest.set(oldest.get().filter(|(first, _)| *first != chunk));
        self.tables.remove_chunk(number, chunk)
    }
}

/// The run that holds a message, of runs in the order of their ids.
pub(super) fn run_with(runs: &[Run], id: u64) -> Option<&Run> {
    runs.get(runs.partition_point(|run| run.end() <= id)).filter(|run| run.first <= id)
}

impl Results {
    fn into_statuses(self) -> Statuses {
        let mut statuses = Statuses::default();
        for refusal in self.refusals {
            statuses.push(refusal);
        }
        statuses
    }
}

/// Refuses all of a rejection.
fn no_dead_letter(settle: &Settle) -> Statuses {
    let name = settle.queue.as_str();
    let text = format!("queue {name:?} has no dead-letter queue: delete or release the message");
    let refusal = ErrorCode::NoDeadLetter.refuse(text).with_queue(name);
    let mut statuses = Statuses::default();
    for _ in &settle.receipts {
        statuses.push(Some(refusal.clone()));
    }
    statuses
}

/// What is added to a retry delay: 0 to a tenth of it. The same for the same seed and id, without a pattern otherwise
/// (the finalizer of `SplitMix64`).
pub fn retry_jitter_ms(delay_ms: u64, seed: u64, id: u64) -> u64 {
    let mut mixed = seed.wrapping_add(id.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) % (delay_ms / 10 + 1)
}

pub(super) fn expired() -> Refusal {
    ErrorCode::ReceiptExpired
        .refuse("the receipt's lease is over; the message was deleted, delivered again or removed")
}

pub(super) fn invalid() -> Refusal {
    ErrorCode::ReceiptInvalid.refuse("no lease ever had this receipt")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_up_to_a_tenth_and_spreads() {
        let spread: std::collections::BTreeSet<u64> =
            (0..1_000).map(|id| retry_jitter_ms(1_000, 7, id)).collect();
        assert_eq!((spread.first(), spread.last()), (Some(&0), Some(&100)));
        assert_eq!(spread.len(), 101);
        assert_eq!([0, 9].map(|delay_ms| retry_jitter_ms(delay_ms, 7, 1)), [0, 0]);
    }
}
