//! Rows of dedup ids.
//!
//! Always true here: a queue has at most one window for a dedup id, and each window has one end.

use redb::ReadableTable;

use super::scan::Orphans;
use super::tables::Tables;
use super::{Result, StoreError};

/// How long the newest message that was sent with a dedup id keeps others out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DedupWindow {
    /// Id of that message, which may be gone.
    pub message: u64,
    /// When the window ends, in state ms.
    pub until_ms: u64,
}

impl Tables<'_> {
    /// Notes that a message with a dedup id is live.
    pub fn put_dedup(&mut self, queue: u64, dedup_id: &str, message: u64) -> Result<()> {
        self.dedup.insert((queue, dedup_id.as_bytes(), message), ())?;
        Ok(())
    }

    /// Forgets a message with a dedup id that is not live any more.
    pub fn remove_dedup(&mut self, queue: u64, dedup_id: &str, message: u64) -> Result<()> {
        self.dedup.remove((queue, dedup_id.as_bytes(), message))?;
        Ok(())
    }

    /// The lowest id, from `message` on, of the live messages with a dedup id.
    pub fn dedup_from(&self, queue: u64, dedup_id: &str, message: u64) -> Result<Option<u64>> {
        let dedup_id = dedup_id.as_bytes();
        let mut rows =
            self.dedup.range((queue, dedup_id, message)..=(queue, dedup_id, u64::MAX))?;
        Ok(rows.next().transpose()?.map(|(key, _)| key.value().2))
    }

    /// The window of a dedup id, which may be over.
    pub fn dedup_window(&self, queue: u64, dedup_id: &str) -> Result<Option<DedupWindow>> {
        let row = self.dedup_windows.get((queue, dedup_id.as_bytes()))?;
        let window = row.map(|row| row.value());
        Ok(window.map(|(message, until_ms)| DedupWindow { message, until_ms }))
    }

    /// Gives a dedup id another window, or none.
    pub fn set_dedup_window(
        &mut self,
        queue: u64,
        dedup_id: &str,
        window: Option<DedupWindow>,
    ) -> Result<()> {
        let key = (queue, dedup_id.as_bytes());
        let before = match window {
            Some(DedupWindow { message, until_ms }) => {
                self.dedup_ends.insert((until_ms, queue, message), key.1)?;
                self.dedup_windows.insert(key, (message, until_ms))?
            }
            None => self.dedup_windows.remove(key)?,
        };
        if let Some((message, until_ms)) = before.map(|row| row.value()) {
            self.dedup_ends.remove((until_ms, queue, message))?;
        }
        Ok(())
    }

    /// When the window ends that ends first, in state ms.
    pub fn first_dedup_end(&self) -> Result<Option<u64>> {
        Ok(self.dedup_ends.first()?.map(|(key, _)| key.value().0))
    }

    /// Frees the rows of up to `most` windows that are over at `now_ms`. Returns how many.
    pub fn end_dedup_windows(&mut self, now_ms: u64, most: usize) -> Result<usize> {
        for ended in 0..most {
            let Some((key, dedup_id)) = self.dedup_ends.first()? else {
                return Ok(ended);
            };
            let (until_ms, queue, _) = key.value();
            if until_ms > now_ms {
                return Ok(ended);
            }
            self.dedup_windows.remove((queue, dedup_id.value()))?;
            drop((key, dedup_id));
            self.dedup_ends.pop_first()?;
        }
        Ok(most)
    }

    /// Frees up to `most` rows of dedup ids of a queue that is gone. Returns how many.
    pub(super) fn free_dedup(&mut self, queue: u64, most: usize) -> Result<usize> {
        let none: &[u8] = &[];
        let mut live = Vec::new();
        for row in self.dedup.range((queue, none, 0)..(queue + 1, none, 0))?.take(most) {
            let key = row?.0;
            let (_, dedup_id, message) = key.value();
            live.push((dedup_id.to_vec(), message));
        }
        for (dedup_id, message) in &live {
            self.dedup.remove((queue, &dedup_id[..], *message))?;
        }
        let mut windows = Vec::new();
        let rows = self.dedup_windows.range((queue, none)..(queue + 1, none))?;
        for row in rows.take(most - live.len()) {
            let (key, window) = row?;
            windows.push((key.value().1.to_vec(), window.value()));
        }
        for (dedup_id, (message, until_ms)) in &windows {
            self.dedup_windows.remove((queue, &dedup_id[..]))?;
            self.dedup_ends.remove((*until_ms, queue, *message))?;
        }
        Ok(live.len() + windows.len())
    }

    /// True when there is a row for a live message with this dedup id.
    pub fn has_dedup(&self, queue: u64, dedup_id: &str, message: u64) -> Result<bool> {
        Ok(self.dedup.get((queue, dedup_id.as_bytes(), message))?.is_some())
    }

    /// Shows dedup ids and live messages of a queue, in the order of the ids.
    pub fn each_dedup(
        &self,
        queue: u64,
        mut show: impl FnMut(&str, u64) -> Result<()>,
    ) -> Result<()> {
        let none: &[u8] = &[];
        for row in self.dedup.range((queue, none, 0)..(queue + 1, none, 0))? {
            let key = row?.0;
            let (_, dedup_id, message) = key.value();
            show(text(dedup_id)?, message)?;
        }
        Ok(())
    }

    /// Shows dedup ids of a queue and their windows, in the order of the ids.
    pub fn each_dedup_window(
        &self,
        queue: u64,
        mut show: impl FnMut(&str, DedupWindow) -> Result<()>,
    ) -> Result<()> {
        let none: &[u8] = &[];
        for row in self.dedup_windows.range((queue, none)..(queue + 1, none))? {
            let (key, window) = row?;
            let (message, until_ms) = window.value();
            show(text(key.value().1)?, DedupWindow { message, until_ms })?;
        }
        Ok(())
    }

    /// Shows rows of dedup ids that belong to nothing.
    pub fn dedup_orphans(
        &self,
        is_live: impl Fn(u64) -> bool,
        show: &mut Orphans<'_>,
    ) -> Result<()> {
        let known = |queue: u64| Ok::<bool, StoreError>(is_live(queue) || self.is_buried(queue)?);
        for row in self.dedup.iter()? {
            let (queue, _, message) = row?.0.value();
            if !known(queue)? {
                show(queue, Some(message), "it has a dedup id, but no queue".to_owned());
            }
        }
        for row in self.dedup_windows.iter()? {
            let (key, window) = row?;
            let (queue, dedup_id) = key.value();
            let (message, until_ms) = window.value();
            let end = self.dedup_ends.get((until_ms, queue, message))?;
            if !known(queue)? {
                show(queue, Some(message), "it has a dedup window, but no queue".to_owned());
            }
            if end.is_none_or(|end| end.value() != dedup_id) {
                show(queue, Some(message), "its dedup window has no end".to_owned());
            }
        }
        for row in self.dedup_ends.iter()? {
            let (key, dedup_id) = row?;
            let (until_ms, queue, message) = key.value();
            let window = self.dedup_windows.get((queue, dedup_id.value()))?;
            if window.is_none_or(|window| window.value() != (message, until_ms)) {
                show(queue, Some(message), "its dedup window ends, but there is none".to_owned());
            }
        }
        Ok(())
    }
}

fn text(dedup_id: &[u8]) -> Result<&str> {
    let text = std::str::from_utf8(dedup_id);
    text.map_err(|_| StoreError::Damaged("dedup id: it is not UTF-8".to_owned()))
}
