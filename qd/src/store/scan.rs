//! Reading all rows, to hold them against the invariants.
//!
//! Always true here: memory holds one row at a time, and of queues their numbers.

use std::collections::{BTreeMap, BTreeSet};

use redb::{ReadableTable, Table};

use super::Result;
use super::chunk::ChunkView;
use super::lease::LeaseRow;
use super::tables::Tables;

/// Takes what is wrong in: number of the queue, id of the message, and what it is.
pub type Orphans<'a> = dyn FnMut(u64, Option<u64>, String) + 'a;

impl Tables<'_> {
    /// True when a queue has rows of leases or of ready messages in lanes.
    pub fn has_leases_or_lanes(&self, queue: u64) -> Result<bool> {
        let has_leases = self.leases.range((queue, 0)..=(queue, u64::MAX))?.next().is_some();
        Ok(has_leases || self.has_waiting(queue)?)
    }

    /// Shows the chunks of a queue that begin from `from` on and below `to`, until `show` says false.
    pub fn each_chunk(
        &self,
        queue: u64,
        (from, to): (u64, u64),
        mut show: impl FnMut(u64, ChunkView<'_>) -> Result<bool>,
    ) -> Result<()> {
        for row in self.chunks.range((queue, from)..(queue, to))? {
            let (key, row) = row?;
            if !show(key.value().1, ChunkView::new(row.value())?)? {
                break;
            }
        }
        Ok(())
    }

    /// True when it is noted that the message is to be removed then, in state ms.
    pub fn has_expiry(&self, expires_ms: u64, queue: u64, id: u64) -> Result<bool> {
        Ok(self.expiry.get((expires_ms, queue, id))?.is_some())
    }

    /// When the blocked messages of each queue are tried again, in state ms.
    pub fn retries(&self) -> Result<BTreeMap<u64, Vec<u64>>> {
        let mut found: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for row in self.due.iter()? {
            let (due_ms, queue, id) = row?.0.value();
            if id == 0 {
                found.entry(queue).or_default().push(due_ms);
            }
        }
        Ok(found)
    }

    /// Shows rows that belong to nothing, but for those of queues by the ids of their messages.
    pub fn orphans(&self, is_live: impl Fn(u64) -> bool, show: &mut Orphans<'_>) -> Result<()> {
        let mut known = self.queues_with_lanes()?;
        for table in
            [&self.chunks, &self.marks, &self.returned, &self.delayed, &self.blocked, &self.leases]
        {
            known.extend(queues_of(table)?);
        }
        for queue in known {
            if !is_live(queue) && !self.is_buried(queue)? {
                show(queue, None, "it has rows, and does not exist".to_owned());
            }
        }
        self.orphans_of_leases(show)?;
        self.orphans_by_time(show)
    }

    fn orphans_of_leases(&self, show: &mut Orphans<'_>) -> Result<()> {
        for row in self.lease_ends.iter()? {
            let (end_ms, queue, lease) = row?.0.value();
            if self.lease(queue, lease)?.is_none_or(|row| row.end_ms() != end_ms) {
                show(queue, None, format!("end of lease {lease}: there is none"));
            }
        }
        for row in self.leases.iter()? {
            let (key, row) = row?;
            let ((queue, lease), row) = (key.value(), LeaseRow::from_bytes(row.value())?);
            let ends = self.lease_ends.get((row.end_ms(), queue, lease))?.is_some();
            if !ends && !self.is_buried(queue)? {
                show(queue, None, format!("lease {lease} never ends"));
            }
        }
        Ok(())
    }

    fn orphans_by_time(&self, show: &mut Orphans<'_>) -> Result<()> {
        for row in self.due.iter()? {
            let (due_ms, queue, id) = row?.0.value();
            if id > 0 && self.delayed(queue, id)?.is_none_or(|delayed| delayed.due_ms != due_ms) {
                show(queue, Some(id), "it is due, but not delayed".to_owned());
            }
        }
        for row in self.expiry.iter()? {
            let (expires_ms, queue, id) = row?.0.value();
            let row = self.chunk_from(queue, id)?.filter(|row| row.first <= id);
            let noted = match row {
                Some(row) => row.view()?.entry((id - row.first) as usize)?.expires_ms,
                None => None,
            };
            if noted != Some(expires_ms) {
                show(queue, Some(id), "it is to be removed, but has no such time".to_owned());
            }
        }
        for row in self.delayed.iter()? {
            let (queue, id) = row?.0.value();
            let due_ms = self.delayed(queue, id)?.map_or(0, |delayed| delayed.due_ms);
            if self.due.get((due_ms, queue, id))?.is_none() {
                show(queue, Some(id), "it is delayed, but never due".to_owned());
            }
        }
        Ok(())
    }
}

/// Numbers of the queues that have rows in a table: one look-up each.
fn queues_of(table: &Table<'_, (u64, u64), &'static [u8]>) -> Result<BTreeSet<u64>> {
    let mut found = BTreeSet::new();
    let mut from = Some(0);
    while let Some(first) = from {
        let Some(row) = table.range((first, 0)..)?.next() else {
            break;
        };
        let queue = row?.0.value().0;
        found.insert(queue);
        from = queue.checked_add(1);
    }
    Ok(found)
}
