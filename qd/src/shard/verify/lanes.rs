//! Holding the rows of lanes against the messages.

use std::collections::{BTreeMap, BTreeSet};

use super::super::queue::Queue;
use crate::store::lanes::{Hold, Lane};
use crate::store::lease::Run;
use crate::store::{Result, StoreError, Tables};

/// Lane and chunk of every live message that is not in the default lane.
pub(super) type Laned = BTreeMap<u64, (Lane, u64)>;

/// Ids of the messages that are ready in a lane of their own.
pub(super) fn waiting_ids(
    tables: &Tables<'_>,
    number: u64,
    laned: &Laned,
) -> Result<BTreeSet<u64>> {
    let mut found = BTreeSet::new();
    for row in tables.all_waiting(number)? {
        for index in row.spans.indexes() {
            let id = row.chunk + u64::from(index);
            if laned.get(&id) != Some(&(row.lane.clone(), row.chunk)) {
                let what = format!("message {id} of queue {number} waits in a lane not its own");
                return Err(StoreError::Damaged(what));
            }
            found.insert(id);
        }
    }
    Ok(found)
}

/// What contradicts the holds and the ring of an ordered queue, or of one that is none.
pub(super) fn verify_groups(
    tables: &Tables<'_>,
    number: u64,
    queue: &Queue,
    laned: &Laned,
) -> Result<Vec<String>> {
    let mut expected = BTreeSet::new();
    if queue.attributes.ordered {
        let rows = tables.leases(number)?;
        let leased = rows.iter().flat_map(|(_, row)| row.runs.iter().flat_map(Run::ids));
        let leased = leased.map(|id| (Hold::Leased as u8, id));
        let delayed = tables.delayed_ids(number)?.into_iter().map(|id| (Hold::Delayed as u8, id));
        for (hold, id) in leased.chain(delayed) {
            let group = laned.get(&id).map(|(lane, _)| lane.group.clone());
            expected.insert((group.unwrap_or_default(), hold, id));
        }
    }
    let mut faults = Vec::new();
    let holds = tables.holds(number)?;
    let holds: BTreeSet<(Vec<u8>, u8, u64)> =
        holds.into_iter().map(|(group, hold, id)| (group, hold as u8, id)).collect();
    for (group, hold, id) in holds.symmetric_difference(&expected) {
        let group = String::from_utf8_lossy(group);
        faults.push(format!("hold {hold} of message {id} on group {group:?}"));
    }
    let mut servable = BTreeSet::new();
    let mut first = BTreeMap::new();
    if queue.attributes.ordered {
        for id in waiting_ids(tables, number, laned)? {
            first.entry(laned[&id].0.group.clone()).or_insert(id);
        }
        servable.extend(first.into_iter().filter_map(|(group, first)| {
            let mut held = expected.range((group.clone(), 0, 0)..=(group.clone(), 1, u64::MAX));
            let free = held.all(|(_, hold, id)| *hold == Hold::Delayed as u8 && *id > first);
            free.then_some(group)
        }));
    }
    let mut ring = BTreeSet::new();
    let mut after: Option<Vec<u8>> = None;
    while let Some(group) = tables.next_servable(number, after.as_deref())? {
        after = Some(group.clone());
        ring.insert(group);
    }
    if ring != servable || ring.len() as u64 != queue.servable {
        let (is, said) = (ring.len(), queue.servable);
        let should = servable.len();
        faults.push(format!("{should} groups can be served, {is} are in the ring, counted {said}"));
    }
    Ok(faults)
}
