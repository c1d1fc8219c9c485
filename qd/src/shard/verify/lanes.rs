//! Holding the rows of lanes against the messages.
//!
//! Lanes are in another order than messages. So that not each message of a lane has to be looked up, sums
//! of hashes over both are compared; only where they differ the messages are looked for.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::Report;
use super::window::Window;
use crate::shard::lanes::lane_in_chunk;
use crate::shard::queue::Queue;
use crate::store::lanes::{Hold, Lane};
use crate::store::{Result, Tables};

/// Of a message that is ready in a lane.
pub(super) fn lane_hash(id: u64, lane: &Lane) -> u64 {
    let mut hasher = DefaultHasher::new();
    (id, lane).hash(&mut hasher);
    hasher.finish()
}

/// Of a message that holds a group.
pub(super) fn hold_hash(group: &[u8], hold: Hold, id: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (group, hold, id).hash(&mut hasher);
    hasher.finish()
}

/// The lane of a message; `None`: it is not there, or cannot be read.
fn own_lane(tables: &Tables<'_>, (number, queue): (u64, &Queue), id: u64) -> Result<Option<Lane>> {
    let Some(row) = tables.chunk_from(number, id)?.filter(|row| row.first <= id) else {
        return Ok(None);
    };
    let view = row.view()?;
    let entry = view.entry((id - row.first) as usize)?;
    let lane = lane_in_chunk(tables, number, queue, id, (&view, &entry))?;
    Ok(Some(lane.unwrap_or_default()))
}

/// Finds the messages of a window that are ready in a lane not their own.
pub(super) fn find_lane_faults(
    tables: &Tables<'_>,
    (number, queue): (u64, &Queue),
    window: &Window,
    report: &mut Report<'_, '_>,
) -> Result<()> {
    tables.each_waiting(number, |row| {
        if !(window.from..window.to).contains(&row.chunk) {
            return Ok(());
        }
        for index in row.spans.indexes() {
            let id = row.chunk + u64::from(index);
            let own = own_lane(tables, (number, queue), id);
            if report.damage(own)?.flatten().is_some_and(|own| own != row.lane) {
                report.of(id, "it is ready in a lane not its own");
            }
        }
        Ok(())
    })
}

/// Finds the holds of a window that are wrong, and those that are missing.
pub(super) fn find_hold_faults(
    tables: &Tables<'_>,
    (number, queue): (u64, &Queue),
    window: &Window,
    report: &mut Report<'_, '_>,
) -> Result<()> {
    let ordered = queue.attributes.ordered;
    tables.each_hold(number, |group, hold, id| {
        if !(window.from..window.to).contains(&id) {
            return Ok(());
        }
        let is_held = match hold {
            Hold::Leased => window.is_leased(id),
            Hold::Delayed => tables.delayed(number, id)?.is_some(),
        };
        let own = own_lane(tables, (number, queue), id);
        let is_own = report.damage(own)?.flatten().is_some_and(|own| own.group == group);
        if !ordered || !is_held || !is_own {
            let group = String::from_utf8_lossy(group);
            report.of(id, format!("it holds group {group:?} as {hold:?}, which it is not"));
        }
        Ok(())
    })?;
    tables.each_chunk(number, (window.from, window.to), |first, view| {
        for id in (first..first + view.count() as u64).filter(|_| ordered) {
            let is_delayed = tables.delayed(number, id)?.is_some();
            let held = [(window.is_leased(id), Hold::Leased), (is_delayed, Hold::Delayed)];
            for (_, hold) in held.into_iter().filter(|(is_held, _)| *is_held) {
                let own = own_lane(tables, (number, queue), id);
                let own = report.damage(own)?.flatten().unwrap_or_default();
                if !tables.has_hold(number, &own.group, hold, id)? {
                    report.of(id, format!("it does not hold its group as {hold:?}"));
                }
            }
        }
        Ok(true)
    })
}

/// Holds the ring of an ordered queue, or of one that is none, against its lanes.
pub(super) fn verify_ring(
    tables: &Tables<'_>,
    number: u64,
    queue: &Queue,
    report: &mut Report<'_, '_>,
) -> Result<()> {
    let (mut should, mut is_there) = (0, 0);
    let mut last: Option<Lane> = None;
    tables.each_waiting(number, |row| {
        if !queue.attributes.ordered || last.as_ref() == Some(&row.lane) {
            return Ok(());
        }
        last = Some(row.lane.clone());
        let first = row.spans.indexes().next().map(|index| row.chunk + u64::from(index));
        let hold = tables.hold(number, &row.lane.group)?;
        let is_free = hold.is_none_or(|(hold, id)| {
            hold == Hold::Delayed && first.is_some_and(|first| first < id)
        });
        should += u64::from(is_free);
        is_there += u64::from(is_free && tables.is_servable(number, &row.lane.group)?);
        Ok(())
    })?;
    let in_ring = tables.servable(number)?;
    let said = queue.servable;
    if [is_there, in_ring, said] != [should; 3] {
        let text = format!("{should} groups can be served, {in_ring} are in the ring");
        report.say(None, format!("{text}, {is_there} of them rightly, counted {said}"));
    }
    Ok(())
}
