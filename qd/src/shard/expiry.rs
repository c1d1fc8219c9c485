//! What happens by itself when its time has come.

use super::{SETTLED_PER_RECORD_MAX, Step};
use crate::store::Result;

impl Step<'_, '_> {
    /// Settles what is due, at most [`SETTLED_PER_RECORD_MAX`] messages.
    pub(super) fn settle_due(&mut self) -> Result<()> {
        // Neither kind keeps the other waiting.
        let half = SETTLED_PER_RECORD_MAX / 2;
        let left = self.end_leases(half)?;
        let left = self.end_delays(half + left)?;
        self.end_leases(left)?;
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
            for run in &runs {
                for id in run.ids() {
                    self.give_back(number, id, run.delivered(row.started_ms))?;
                }
            }
            self.queue(number).statistics.leased -= messages as u64;
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
            let delayed = self.tables.remove_delayed(number, id)?;
            let (Some(delayed), true) = (delayed, self.queues.contains_key(&number)) else {
                self.tables.remove_due(due_ms, number, id)?;
                continue;
            };
            self.queue(number).statistics.delayed -= 1;
            self.give_back(number, id, delayed.delivered)?;
        }
        Ok(room)
    }
}
