//! Freeing the rows of dropped queues, a few at a time.

use redb::ReadableTable;

use super::Result;
use super::chunk::ChunkView;
use super::tables::{Tables, keys};

impl Tables<'_> {
    /// True when rows of a dropped queue are still to be freed.
    pub fn has_graves(&self) -> Result<bool> {
        Ok(self.graves.first()?.is_some())
    }

    /// True when rows of this queue are still to be freed.
    pub(super) fn is_buried(&self, queue: u64) -> Result<bool> {
        Ok(self.graves.get(queue)?.is_some())
    }

    /// Frees up to about `most` rows of dropped queues.
    pub fn free_rows(&mut self, most: usize) -> Result<()> {
        let mut room = most;
        while room > 0 {
            let Some(queue) = self.graves.first()?.map(|(key, _)| key.value()) else {
                break;
            };
            let freed = self.free_rows_of(queue, room)?;
            room = room.saturating_sub(freed);
            if room > 0 {
                self.graves.remove(queue)?;
            }
        }
        Ok(())
    }

    /// Forgets the times to live in the first chunks of a dropped queue, which are freed next.
    fn forget_expiries(&mut self, queue: u64, most: usize) -> Result<()> {
        let mut found = Vec::new();
        for row in self.chunks.range((queue, 0)..=(queue, u64::MAX))?.take(most) {
            let (key, row) = row?;
            let view = ChunkView::new(row.value())?;
            for index in 0..view.count() {
                if let Some(expires_ms) = view.entry(index)?.expires_ms {
                    found.push((expires_ms, queue, key.value().1 + index as u64));
                }
            }
        }
        for key in found {
            self.expiry.remove(key)?;
        }
        Ok(())
    }

    /// Frees up to `most` rows of one queue; fewer only when none is left.
    fn free_rows_of(&mut self, queue: u64, most: usize) -> Result<usize> {
        let whole = (queue, 0)..=(queue, u64::MAX);
        let mut freed = 0;
        macro_rules! free {
            ($($table:ident: $range:expr),+) => {$(
                let found = keys(self.$table.range($range)?, most - freed)?;
                freed += found.len();
                for key in found {
                    self.$table.remove(key)?;
                }
            )+};
        }
        self.forget_expiries(queue, most)?;
        free!(
            chunks: whole.clone(),
            parts: (queue, 0, 0)..=(queue, u64::MAX, u32::MAX),
            marks: whole.clone(),
            returned: whole.clone(),
            blocked: whole.clone(),
            tried: whole.clone(),
            turns: (queue, 0)..=(queue, u8::MAX)
        );
        freed += self.free_lanes(queue, most - freed)?;
        freed += self.free_dedup(queue, most - freed)?;
        for key in keys(self.delayed.range(whole.clone())?, most - freed)? {
            freed += 1;
            self.remove_delayed(key.0, key.1)?;
        }
        for key in keys(self.leases.range(whole)?, most - freed)? {
            freed += 1;
            if let Some(row) = self.lease(key.0, key.1)? {
                self.lease_ends.remove((row.end_ms(), key.0, key.1))?;
            }
            self.leases.remove(key)?;
        }
        Ok(freed)
    }
}
