//! Settling leased messages by their receipts.

use std::collections::BTreeMap;

use qd_protocol::verbs::delete::Statuses;
use qd_protocol::{ErrorCode, Receipt, Refusal};

use super::command::Delete;
use super::{Outcome, Step};
use crate::store::Result;
use crate::store::lease::Run;

impl Step<'_, '_> {
    pub(super) fn delete(&mut self, delete: &Delete) -> Result<Outcome> {
        match self.find(&delete.queue) {
            Ok(number) => Ok(Outcome::Deleted(self.settle(&[number], &delete.receipts)?)),
            Err(refusal) => Ok(refusal.into()),
        }
    }

    /// Deletes the messages of `receipts`, which must be of one of `queues`.
    pub(super) fn settle(&mut self, queues: &[u64], receipts: &[Receipt]) -> Result<Statuses> {
        let mut refusals: Vec<Option<Refusal>> = vec![None; receipts.len()];
        // Receipts by lease, so that each lease is read and written once.
        let mut leases: BTreeMap<(u64, u64), Vec<usize>> = BTreeMap::new();
        for (index, receipt) in receipts.iter().enumerate() {
            match self.check(queues, receipt) {
                Ok(()) => leases.entry((receipt.queue, receipt.lease)).or_default().push(index),
                Err(refusal) => refusals[index] = Some(refusal),
            }
        }
        for ((queue, lease), indexes) in leases {
            self.settle_lease(queue, lease, receipts, &indexes, &mut refusals)?;
        }
        let mut statuses = Statuses::default();
        for refusal in refusals {
            statuses.push(refusal);
        }
        Ok(statuses)
    }

    /// What can be said of a receipt without its lease's row.
    fn check(&self, queues: &[u64], receipt: &Receipt) -> std::result::Result<(), Refusal> {
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
        receipts: &[Receipt],
        indexes: &[usize],
        refusals: &mut [Option<Refusal>],
    ) -> Result<()> {
        let row = self.tables.lease(number, lease)?;
        let Some(mut row) = row.filter(|row| row.end_ms > self.now_ms) else {
            for &index in indexes {
                refusals[index] = Some(expired());
            }
            return Ok(());
        };
        let mut order: Vec<usize> = Vec::with_capacity(indexes.len());
        for &index in indexes {
            if receipts[index].secret == row.secret {
                order.push(index);
            } else {
                refusals[index] = Some(invalid());
            }
        }
        // The first of equal receipts settles; the sort keeps their order.
        order.sort_by_key(|&index| receipts[index].id);
        let mut ids: Vec<u64> = Vec::with_capacity(order.len());
        for &index in &order {
            let id = receipts[index].id;
            if ids.last() == Some(&id) {
                refusals[index] = Some(expired());
            } else {
                ids.push(id);
            }
        }
        let taken = row.take(&ids);
        let is_taken = |id: u64| taken.iter().any(|run| (run.first..run.end()).contains(&id));
        if taken.iter().map(|run| run.count as usize).sum::<usize>() < ids.len() {
            for &index in &order {
                if refusals[index].is_none() && !is_taken(receipts[index].id) {
                    refusals[index] = Some(expired());
                }
            }
        }
        if taken.is_empty() {
            return Ok(());
        }
        self.tables.shrink_lease(number, lease, &row)?;
        let removed = self.remove_messages(number, &taken)?;
        let queue = self.queue(number);
        queue.statistics.leased -= removed;
        queue.statistics.deleted += removed;
        Ok(())
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
        let row = self.tables.chunk(number, chunk)?;
        let view = row.view()?;
        let count = view.count();
        for id in runs.iter().flat_map(|run| run.first..run.end()) {
            let entry = view.entry((id - chunk) as usize)?;
            bytes += entry.size;
            if entry.parts() > 0 {
                parts.push((id, entry.parts()));
            }
        }
        drop(row);
        for (id, count) in parts {
            self.tables.remove_parts(number, id, count)?;
        }
        let removed: usize = runs.iter().map(|run| run.count as usize).sum();
        if removed == count {
            self.tables.remove_chunk(number, chunk)?;
            return Ok(bytes);
        }
        let mut holes = match self.tables.holes(number, chunk)? {
            Some(holes) => holes,
            None => vec![0; count.div_ceil(8)],
        };
        for id in runs.iter().flat_map(|run| run.first..run.end()) {
            let index = (id - chunk) as usize;
            holes[index / 8] |= 1 << (index % 8);
        }
        let deleted: u32 = holes.iter().map(|byte| byte.count_ones()).sum();
        if deleted as usize == count {
            self.tables.remove_chunk(number, chunk)?;
        } else {
            self.tables.put_holes(number, chunk, &holes)?;
        }
        Ok(bytes)
    }
}

fn expired() -> Refusal {
    ErrorCode::ReceiptExpired
        .refuse("the receipt's lease is over; the message was deleted or delivered again")
}

fn invalid() -> Refusal {
    ErrorCode::ReceiptInvalid.refuse("no lease ever had this receipt")
}
