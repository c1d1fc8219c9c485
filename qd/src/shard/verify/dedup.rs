//! Holding the rows of dedup ids against the messages.

use std::collections::BTreeSet;

use crate::shard::dedup::{dedup_id_of, stored_properties};
use crate::shard::queue::Queue;
use crate::store::{Result, Tables};

/// What is wrong with the dedup ids of a queue.
pub(super) fn verify_dedup(tables: &Tables<'_>, number: u64, queue: &Queue) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    let mut rows: BTreeSet<(String, u64)> = tables.dedup_rows(number)?.into_iter().collect();
    tables.each_chunk(number, |first, view, marks| {
        for index in (0..view.count()).filter(|index| !marks.is_deleted(*index)) {
            let id = first + index as u64;
            let entry = view.entry(index)?;
            let dedup_id = stored_properties(tables, number, id, view, &entry)?.dedup_id;
            if dedup_id != dedup_id_of(tables, number, id, view, &entry)? {
                faults.push(format!("message {id} is not marked as one with a dedup id"));
            }
            if let Some(dedup_id) = dedup_id
                && !rows.remove(&(dedup_id, id))
            {
                faults.push(format!("message {id} has no row for its dedup id"));
            }
        }
        Ok(())
    })?;
    for (dedup_id, id) in rows {
        faults.push(format!("message {id} is not live with dedup id {dedup_id:?}"));
    }
    for (dedup_id, window) in tables.dedup_window_rows(number)? {
        if window.message >= queue.next_id || window.until_ms == 0 {
            faults.push(format!("the window of dedup id {dedup_id:?} is {window:?}"));
        }
    }
    Ok(faults)
}
