//! What happens by itself when its time has come.

use super::{SETTLED_PER_RECORD_MAX, Step};
use crate::store::Result;

impl Step<'_, '_> {
    /// Makes the messages of leases that are over ready again, at their old place in the queue.
    pub(super) fn settle_due(&mut self) -> Result<()> {
        let mut room = SETTLED_PER_RECORD_MAX;
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
            let runs = row.take_front(room);
            self.tables.shrink_lease(number, lease, &row)?;
            let mut messages = 0;
            for run in &runs {
                for id in run.first..run.end() {
                    self.tables.put_returned(number, id, run.attempt)?;
                }
                messages += u64::from(run.count);
            }
            let queue = self.queue(number);
            queue.statistics.leased -= messages;
            queue.statistics.ready += messages;
            queue.returned += messages;
            *self.became_ready.entry(number).or_default() += messages;
            room -= messages as usize;
        }
        Ok(())
    }
}
