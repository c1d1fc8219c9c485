//! Reading all rows, to hold them against the invariants.

use redb::ReadableTable;

use super::Result;
use super::chunk::ChunkView;
use super::lease::LeaseRow;
use super::marks::Marks;
use super::tables::{RowOf, Tables};

impl Tables<'_> {
    /// Every lease of a queue.
    pub fn leases(&self, queue: u64) -> Result<Vec<(u64, LeaseRow)>> {
        let row = |row: RowOf<'_, (u64, u64), &[u8]>| {
            let (key, row) = row?;
            Ok((key.value().1, LeaseRow::from_bytes(row.value())?))
        };
        self.leases.range((queue, 0)..=(queue, u64::MAX))?.map(row).collect()
    }

    /// Ids of the delayed messages of a queue.
    pub fn delayed_ids(&self, queue: u64) -> Result<Vec<u64>> {
        let rows = self.delayed.range((queue, 0)..=(queue, u64::MAX))?;
        rows.map(|row| Ok(row?.0.value().1)).collect()
    }

    /// Ids of the blocked messages of a queue.
    pub fn blocked_ids(&self, queue: u64) -> Result<Vec<u64>> {
        let rows = self.blocked.range((queue, 0)..=(queue, u64::MAX))?;
        rows.map(|row| Ok(row?.0.value().1)).collect()
    }

    /// When the blocked messages of a queue are tried again, in state ms.
    pub fn retries(&self, queue: u64) -> Result<Vec<u64>> {
        let mut found = Vec::new();
        for row in self.due.iter()? {
            let (due_ms, of, id) = row?.0.value();
            if (of, id) == (queue, 0) {
                found.push(due_ms);
            }
        }
        Ok(found)
    }

    /// Shows every chunk of a queue with its marks.
    pub fn each_chunk(
        &self,
        queue: u64,
        mut show: impl FnMut(u64, ChunkView<'_>, &Marks) -> Result<()>,
    ) -> Result<()> {
        for row in self.chunks.range((queue, 0)..=(queue, u64::MAX))? {
            let (key, row) = row?;
            let first = key.value().1;
            let view = ChunkView::new(row.value())?;
            show(first, view, &self.marks(queue, first, view.count())?)?;
        }
        Ok(())
    }

    /// Rows that belong to nothing, one line each.
    pub fn orphans(&self, is_live: impl Fn(u64) -> bool) -> Result<Vec<String>> {
        let mut faults = Vec::new();
        for row in self.chunks.iter()? {
            let (queue, first) = row?.0.value();
            if !is_live(queue) && self.graves.get(queue)?.is_none() {
                faults.push(format!("chunk {first} of queue {queue}, which does not exist"));
            }
        }
        for queue in self.queues_with_lanes()? {
            if !is_live(queue) && self.graves.get(queue)?.is_none() {
                faults.push(format!("lanes of queue {queue}, which does not exist"));
            }
        }
        for row in self.marks.iter()? {
            let (queue, first) = row?.0.value();
            // The rows of a queue that is gone are freed one after the other.
            if self.chunks.get((queue, first))?.is_none() && !self.is_buried(queue)? {
                faults.push(format!("marks of chunk {first} of queue {queue}: there is none"));
            }
        }
        for row in self.parts.iter()? {
            let (queue, id, part) = row?.0.value();
            let has_chunk = self.chunk_from(queue, id)?.is_some_and(|row| row.first <= id);
            if !has_chunk && !self.is_buried(queue)? {
                faults.push(format!("part {part} of message {id} of queue {queue}: there is none"));
            }
        }
        for row in self.lease_ends.iter()? {
            let (end_ms, queue, lease) = row?.0.value();
            if self.lease(queue, lease)?.is_none_or(|row| row.end_ms() != end_ms) {
                faults.push(format!("end of lease {lease} of queue {queue}: there is none"));
            }
        }
        for row in self.leases.iter()? {
            let (key, row) = row?;
            let ((queue, lease), row) = (key.value(), LeaseRow::from_bytes(row.value())?);
            let ends = self.lease_ends.get((row.end_ms(), queue, lease))?.is_some();
            if !ends && !self.is_buried(queue)? {
                faults.push(format!("lease {lease} of queue {queue} never ends"));
            }
        }
        for row in self.due.iter()? {
            let (due_ms, queue, id) = row?.0.value();
            if id > 0 && self.delayed(queue, id)?.is_none_or(|delayed| delayed.due_ms != due_ms) {
                faults.push(format!("due time of message {id} of queue {queue}: not delayed"));
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
                faults
                    .push(format!("time to live of message {id} of queue {queue}: there is none"));
            }
        }
        for row in self.delayed.iter()? {
            let (queue, id) = row?.0.value();
            let due_ms = self.delayed(queue, id)?.map_or(0, |delayed| delayed.due_ms);
            if self.due.get((due_ms, queue, id))?.is_none() {
                faults.push(format!("message {id} of queue {queue} is never due"));
            }
        }
        Ok(faults)
    }
}
