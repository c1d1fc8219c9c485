//! Holding the rows of dedup ids against the messages.

use super::Report;
use crate::shard::dedup::dedup_id_of;
use crate::shard::queue::Queue;
use crate::store::{Result, Tables};

/// Looks at the rows of dedup ids of a queue, which has `live` messages with one: each of those has a row
/// of its own.
pub(super) fn verify_dedup(
    tables: &Tables<'_>,
    number: u64,
    queue: &Queue,
    live: u64,
    report: &mut Report<'_, '_>,
) -> Result<()> {
    let mut rows = 0;
    tables.each_dedup(number, |_, _| {
        rows += 1;
        Ok(())
    })?;
    if rows != live {
        report.say(None, format!("{live} messages have a dedup id, and {rows} rows"));
        tables.each_dedup(number, |dedup_id, id| {
            let live = live_dedup_id(tables, number, id);
            if report.damage(live)?.is_some_and(|live| live.as_deref() != Some(dedup_id)) {
                report.of(id, format!("it is not live with dedup id {dedup_id:?}"));
            }
            Ok(())
        })?;
    }
    tables.each_dedup_window(number, |dedup_id, window| {
        if window.message >= queue.next_id || window.until_ms == 0 {
            report.say(None, format!("the window of dedup id {dedup_id:?} is {window:?}"));
        }
        Ok(())
    })
}

/// The dedup id of a message that is there.
fn live_dedup_id(tables: &Tables<'_>, number: u64, id: u64) -> Result<Option<String>> {
    let Some(row) = tables.chunk_from(number, id)?.filter(|row| row.first <= id) else {
        return Ok(None);
    };
    let view = row.view()?;
    let index = (id - row.first) as usize;
    if tables.marks(number, row.first, view.count())?.is_deleted(index) {
        return Ok(None);
    }
    dedup_id_of(tables, number, id, view, &view.entry(index)?)
}
