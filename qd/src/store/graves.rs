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

    /// Frees up to about `most` rows of dropped queues. Returns how many.
    pub fn free_rows(&mut self, most: usize) -> Result<usize> {
        let mut room = most;
        while room > 0 {
            let first = self.graves.first()?;
            let Some((queue, has_ttl)) = first.map(|(key, row)| (key.value(), row.value())) else {
                break;
            };
            let freed = self.free_rows_of(queue, has_ttl != 0, room)?;
            room = room.saturating_sub(freed);
            if room > 0 {
                self.graves.remove(queue)?;
            }
        }
        Ok(most - room)
    }

    /// Frees the first chunks of a dropped queue and the times to live of their messages, about `most`
    /// rows of both; fewer only when none is left. Returns how many.
    fn free_chunks(&mut self, queue: u64, has_ttl: bool, most: usize) -> Result<usize> {
        let (mut chunks, mut lives) = (Vec::new(), Vec::new());
        for row in self.chunks.range((queue, 0)..=(queue, u64::MAX))? {
            if chunks.len() + lives.len() >= most {
                break;
            }
            let (key, row) = row?;
            let view = ChunkView::new(row.value())?;
            // Reading all entries takes many times as long as freeing them.
            for index in 0..if has_ttl { view.count() } else { 0 } {
                if let Some(expires_ms) = view.entry(index)?.expires_ms {
                    lives.push((expires_ms, queue, key.value().1 + index as u64));
                }
            }
            chunks.push(key.value());
        }
        for key in &lives {
            self.expiry.remove(key)?;
        }
        for key in &chunks {
            self.chunks.remove(key)?;
        }
        Ok(chunks.len() + lives.len())
    }

    /// Frees up to about `most` rows of one queue; fewer only when none is left.
    fn free_rows_of(&mut self, queue: u64, has_ttl: bool, most: usize) -> Result<usize> {
        let whole = (queue, 0)..=(queue, u64::MAX);
        let mut freed = self.free_chunks(queue, has_ttl, most)?;
        if freed >= most {
            return Ok(freed);
        }
        macro_rules! free {
            ($($table:ident: $range:expr),+) => {$(
                let found = keys(self.$table.range($range)?, most - freed)?;
                freed += found.len();
                for key in found {
                    self.$table.remove(key)?;
                }
            )+};
        }
        free!(
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
