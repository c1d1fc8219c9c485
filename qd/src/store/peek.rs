//! Looking rows up that say where messages are, without changing any.

use redb::ReadableTable;

use super::Result;
use super::lease::{Delivered, LeaseRow};
use super::tables::Tables;

impl Tables<'_> {
    /// The delayed message of a queue with the lowest id from `id` on.
    pub fn delayed_from(&self, queue: u64, id: u64) -> Result<Option<u64>> {
        let row = self.delayed.range((queue, id)..=(queue, u64::MAX))?.next().transpose()?;
        Ok(row.map(|(key, _)| key.value().1))
    }

    /// What a returned message has behind it; `None`: it is not among them.
    pub fn returned_at(&self, queue: u64, id: u64) -> Result<Option<Delivered>> {
        let row = self.returned.get((queue, id))?;
        row.map(|row| Delivered::from_bytes(row.value())).transpose()
    }

    /// What a blocked message has behind it; `None`: it is not among them.
    pub fn blocked_at(&self, queue: u64, id: u64) -> Result<Option<Delivered>> {
        let row = self.blocked.get((queue, id))?;
        // The reason stands behind it.
        row.map(|row| Delivered::from_bytes(row.value())).transpose()
    }

    /// Shows the leases of a queue, in the order of their numbers, until `show` says false.
    pub fn each_lease(&self, queue: u64, mut show: impl FnMut(&LeaseRow) -> bool) -> Result<()> {
        for row in self.leases.range((queue, 0)..=(queue, u64::MAX))? {
            if !show(&LeaseRow::from_bytes(row?.1.value())?) {
                break;
            }
        }
        Ok(())
    }
}
