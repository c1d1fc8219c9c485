//! Dedup ids: what is sent once more is known again.
//!
//! Always true here:
//!
//! - Each live message with a dedup id has a row of its own, by queue, dedup id and id, also one that
//!   came from another queue. It goes with the message.
//! - The newest message that was *sent* with a dedup id has a window beside that, however it fares, if
//!   its queue had a dedup window then. One that is sent behind it takes its place, also with none.
//! - Windows that are over mean nothing, and their rows are freed: [`ENDED_PER_RECORD_MAX`] a
//!   record, and two more for each that is opened, so that they cannot pile up.
//! - Memory holds nothing of it: a look-up is one or two rows.

use bytes::Bytes;
use qd_protocol::message::Properties;

use super::Step;
use super::dead_letter::damaged_fields;
use crate::store::chunk::{ChunkView, Content, EntryView};
use crate::store::{DedupWindow, Result, Tables};

/// Most windows that are over whose rows a record frees by itself.
const ENDED_PER_RECORD_MAX: usize = 250;
/// Windows that are over whose rows are freed when one is opened.
const ENDED_PER_WINDOW: usize = 2;
/// Nobody waits for the end of a window: those that end within a second are freed together.
const ENDED_TOGETHER_MS: u64 = 1_000;

impl Step<'_, '_> {
    /// The message that one with these properties would be a duplicate of.
    pub(super) fn original(
        &self,
        number: u64,
        properties: &Properties,
        unique: bool,
    ) -> Result<Option<u64>> {
        let Some(dedup_id) = &properties.dedup_id else {
            return Ok(None);
        };
        if unique {
            return self.tables.dedup_from(number, dedup_id, 0);
        }
        let window = self.tables.dedup_window(number, dedup_id)?;
        Ok(window.filter(|window| window.until_ms > self.now_ms).map(|window| window.message))
    }

    /// Opens the window of a message that was just sent.
    pub(super) fn open_window(&mut self, number: u64, dedup_id: &str, message: u64) -> Result<()> {
        self.tables.end_dedup_windows(self.now_ms, ENDED_PER_WINDOW)?;
        let window_ms = self.queues[&number].attributes.dedup_window_ms;
        let until_ms = self.now_ms.saturating_add(window_ms);
        let window = (window_ms > 0).then_some(DedupWindow { message, until_ms });
        self.tables.set_dedup_window(number, dedup_id, window)
    }

    /// Frees rows of windows that are over.
    pub(super) fn end_windows(&mut self) -> Result<()> {
        self.tables.end_dedup_windows(self.now_ms, ENDED_PER_RECORD_MAX).map(|_| ())
    }
}

/// When a record is to free rows of windows that are over, in state ms.
pub(super) fn next_end_ms(tables: &Tables<'_>) -> Result<Option<u64>> {
    let first = tables.first_dedup_end()?;
    Ok(first.map(|ms| ms.checked_next_multiple_of(ENDED_TOGETHER_MS).unwrap_or(ms)))
}

/// What stands in a message's stored fields besides its headers.
pub(super) fn properties_of(fields: &Bytes) -> Result<Properties> {
    if fields.is_empty() {
        return Ok(Properties::default());
    }
    Properties::of(fields).map_err(|error| damaged_fields(&error))
}

/// The dedup id of a message in a chunk.
pub(super) fn dedup_id_of(
    tables: &Tables<'_>,
    number: u64,
    id: u64,
    view: ChunkView<'_>,
    entry: &EntryView,
) -> Result<Option<String>> {
    if !entry.has_dedup {
        return Ok(None);
    }
    Ok(stored_properties(tables, number, id, view, entry)?.dedup_id)
}

/// What stands in the fields of a message in a chunk.
pub(super) fn stored_properties(
    tables: &Tables<'_>,
    number: u64,
    id: u64,
    view: ChunkView<'_>,
    entry: &EntryView,
) -> Result<Properties> {
    let fields = match entry.content {
        Content::Inline { fields, body, .. } => Bytes::copy_from_slice(view.bytes(fields, body)?),
        Content::External { fields, .. } => Bytes::from(tables.parts_start(number, id, fields)?),
    };
    properties_of(&fields)
}
