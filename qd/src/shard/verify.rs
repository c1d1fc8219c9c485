//! Holding the rows against the state machine's own invariants, for tests and for operators.

use std::collections::BTreeSet;

use super::Machine;
use super::queue::Queue;
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
            faults.extend(tables.orphans(|number| self.queues.contains_key(&number))?);
            Ok(faults)
        })
    }
}

fn verify_queue(tables: &Tables<'_>, number: u64, queue: &Queue) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    let mut live = BTreeSet::new();
    let mut bytes = 0;
    let mut next = 1;
    tables.each_chunk(number, |first, view, holes| {
        if first < next {
            faults.push(format!("chunk {first} overlaps the one before it"));
        }
        next = first + view.count() as u64;
        let before = live.len();
        for index in 0..view.count() {
            let deleted = holes.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1);
            if !deleted {
                live.insert(first + index as u64);
                bytes += view.entry(index)?.size;
            }
        }
        if live.len() == before {
            faults.push(format!("chunk {first} holds no live message"));
        }
        Ok(())
    })?;
    if next > queue.next_id {
        faults.push(format!("message {} is at or above the next id {}", next - 1, queue.next_id));
    }
    let untouched = live.range(queue.cursor..).count() as u64;
    let mut touched: BTreeSet<u64> = live.range(..queue.cursor).copied().collect();
    let mut returned = 0;
    for (id, _) in tables.returned(number, usize::MAX)? {
        returned += 1;
        if !touched.remove(&id) {
            faults.push(format!("message {id} is returned, but not live or in two places"));
        }
    }
    let mut leased = 0;
    for (lease, row) in tables.leases(number)? {
        for id in row.runs.iter().flat_map(|run| run.first..run.end()) {
            leased += 1;
            if !touched.remove(&id) {
                faults.push(format!("message {id} of lease {lease} is not live or in two places"));
            }
        }
    }
    for id in touched {
        faults.push(format!("message {id} is in no place"));
    }
    let statistics = &queue.statistics;
    for (what, counter, counted) in [
        ("ready", statistics.ready, returned + untouched),
        ("returned", queue.returned, returned),
        ("leased", statistics.leased, leased),
        ("bytes", statistics.bytes, bytes),
    ] {
        if counter != counted {
            faults.push(format!("counter {what} is {counter}, counted {counted}"));
        }
    }
    Ok(faults)
}
