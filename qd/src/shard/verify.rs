//! Holding the rows against the state machine's own invariants, for tests and for operators.

mod dedup;
mod lanes;

use std::collections::{BTreeMap, BTreeSet};

use super::Machine;
use super::lanes::lane_in_chunk;
use super::queue::Queue;
use crate::store::lease::Run;
use crate::store::{Result, Tables};

impl Machine {
    /// Reads every row and returns what contradicts the invariants: one line each, none if the
    /// state is sound. Takes time and memory in proportion to the number of messages.
    pub fn verify(&self) -> Result<Vec<String>> {
        self.store.read(|tables| {
            let mut faults = Vec::new();
            for (number, queue) in &self.queues {
                for fault in verify_queue(tables, *number, queue)? {
                    faults.push(format!("queue {:?}: {fault}", queue.name.as_str()));
                }
            }
            faults.extend(tables.dedup_orphans(|number| self.queues.contains_key(&number))?);
            faults.extend(tables.orphans(|number| self.queues.contains_key(&number))?);
            Ok(faults)
        })
    }
}

fn verify_queue(tables: &Tables<'_>, number: u64, queue: &Queue) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    let mut live = 0;
    let mut bytes = 0;
    let mut with_ttl = 0;
    let mut with_lane = 0;
    let mut next = 1;
    let mut untouched = 0;
    let mut touched = BTreeSet::new();
    let mut laned = BTreeMap::new();
    tables.each_chunk(number, |first, view, marks| {
        if first < next {
            faults.push(format!("chunk {first} overlaps the one before it"));
        }
        next = first + view.count() as u64;
        let before = live;
        for index in 0..view.count() {
            let id = first + index as u64;
            if marks.is_deleted(index) {
                continue;
            }
            live += 1;
            let entry = view.entry(index)?;
            bytes += entry.size;
            with_ttl += u64::from(entry.expires_ms.is_some());
            with_lane += u64::from(entry.has_lane);
            if let Some(lane) = lane_in_chunk(tables, number, queue, id, (&view, &entry))? {
                laned.insert(id, (lane, first));
            }
            if view.is_apart() || marks.is_marked(index) || id < queue.cursor {
                touched.insert(id);
            } else {
                untouched += 1;
            }
        }
        if live == before {
            faults.push(format!("chunk {first} holds no live message"));
        }
        Ok(())
    })?;
    if next > queue.next_id {
        faults.push(format!("message {} is at or above the next id {}", next - 1, queue.next_id));
    }
    let places = count_places(tables, (number, queue), touched, &laned, &mut faults)?;
    faults.extend(lanes::verify_groups(tables, number, queue, &laned)?);
    let statistics = &queue.statistics;
    let retries: Vec<u64> = queue.retry_ms.into_iter().collect();
    if tables.retries(number)? != retries || retries.is_empty() != (places.blocked == 0) {
        faults.push(format!("{} blocked messages are tried again at {retries:?}", places.blocked));
    }
    for (what, counter, counted) in [
        ("ready", statistics.ready, places.returned + places.waiting + untouched),
        ("waiting", queue.waiting, places.waiting),
        ("tried", queue.tried, tables.tried_ids(number)?.len() as u64),
        ("returned", queue.returned, places.returned),
        ("delayed", statistics.delayed, places.delayed + places.blocked),
        ("dead_letter_blocked", statistics.dead_letter_blocked, places.blocked),
        ("leased", statistics.leased, places.leased),
        ("bytes", statistics.bytes, bytes),
        ("with_ttl", queue.with_ttl, with_ttl),
        ("with_lane", queue.with_lane, with_lane),
    ] {
        if counter != counted {
            faults.push(format!("counter {what} is {counter}, counted {counted}"));
        }
    }
    faults.extend(dedup::verify_dedup(tables, number, queue)?);
    Ok(faults)
}

/// Touched messages by the rows that say where they are.
#[derive(Default)]
struct Places {
    returned: u64,
    waiting: u64,
    leased: u64,
    delayed: u64,
    blocked: u64,
}

/// Counts the rows of touched messages, each of which must be in just one place.
fn count_places(
    tables: &Tables<'_>,
    (number, queue): (u64, &Queue),
    mut touched: BTreeSet<u64>,
    laned: &lanes::Laned,
    faults: &mut Vec<String>,
) -> Result<Places> {
    let mut places = Places::default();
    let mut find = |id: u64, place: &str| {
        if !touched.remove(&id) {
            faults.push(format!("message {id} is {place}, but not live or in two places"));
        }
    };
    for (id, _) in tables.returned(number, 0, usize::MAX)? {
        places.returned += 1;
        find(id, "returned");
        if laned.contains_key(&id) {
            find(id, "returned to the default lane, not its own");
        }
    }
    let waiting = lanes::waiting_ids(tables, number, laned)?;
    for id in &waiting {
        places.waiting += 1;
        find(*id, "waiting");
        if *id < queue.waiting_from {
            find(*id, "waiting where none is to be looked for");
        }
    }
    for id in tables.tried_ids(number)?.iter().filter(|id| !waiting.contains(id)) {
        find(*id, "tried, but not waiting");
    }
    for (_, row) in tables.leases(number)? {
        for id in row.runs.iter().flat_map(Run::ids) {
            places.leased += 1;
            find(id, "leased");
        }
    }
    for id in tables.blocked_ids(number)? {
        places.blocked += 1;
        find(id, "blocked");
    }
    for id in tables.delayed_ids(number)? {
        places.delayed += 1;
        find(id, "delayed");
    }
    for id in touched {
        faults.push(format!("message {id} is in no place"));
    }
    Ok(places)
}
