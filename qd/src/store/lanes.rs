//! Lanes: whose turn it is, what has been delivered before, and what holds a group of an ordered queue.
//! Which messages are ready in them stands in [`super::waiting`].
//!
//! ```text
//! key of a group: u64 queue, u8 length of the group, group (big-endian, so that keys sort by their
//!                 parts)
//! ```

use std::cmp::Ordering;
use std::collections::BTreeSet;

use redb::ReadableTable;

use super::lease::Delivered;
use super::tables::Tables;
use super::{Result, StoreError};

/// Priority and group of messages that take turns as one. Lanes stand in the order of their turns: by
/// priority, highest first, then by the length of the group, then by its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Lane {
    /// Higher ones go first; 0 for all of an ordered queue.
    pub priority: u8,
    /// At most 128 bytes.
    pub group: Vec<u8>,
}

impl Lane {
    /// True for the messages that say nothing of priority and group.
    pub fn is_default(&self) -> bool {
        self.priority == 0 && self.group.is_empty()
    }
}

impl Ord for Lane {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_priority = other.priority.cmp(&self.priority);
        by_priority
            .then_with(|| self.group.len().cmp(&other.group.len()))
            .then_with(|| self.group.cmp(&other.group))
    }
}

impl PartialOrd for Lane {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn group_key(queue: u64, group: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(18 + group.len());
    key.extend_from_slice(&queue.to_be_bytes());
    key.push(group.len() as u8);
    key.extend_from_slice(group);
    key
}

/// Takes `queue` off the front of a key; what is behind it.
fn behind_queue(key: &[u8]) -> Result<(u64, &[u8])> {
    let (queue, rest) = key.split_first_chunk().ok_or_else(|| damaged("lanes: key"))?;
    Ok((u64::from_be_bytes(*queue), rest))
}

/// Takes a group off the front of a key; what is behind it.
fn behind_group(key: &[u8]) -> Result<(&[u8], &[u8])> {
    let (length, rest) = key.split_first().ok_or_else(|| damaged("lanes: key"))?;
    rest.split_at_checked(usize::from(*length)).ok_or_else(|| damaged("lanes: key"))
}

/// Where keys of a queue begin, and where those of the next one do.
fn bounds(queue: u64) -> ([u8; 8], [u8; 8]) {
    (queue.to_be_bytes(), (queue + 1).to_be_bytes())
}

impl Tables<'_> {
    /// Notes what a message that is ready in a lane has behind it.
    pub fn put_tried(&mut self, queue: u64, id: u64, delivered: Delivered) -> Result<()> {
        self.tried.insert((queue, id), &delivered.to_bytes()[..])?;
        Ok(())
    }

    /// What a message that is ready in a lane has behind it.
    pub fn tried(&self, queue: u64, id: u64) -> Result<Option<Delivered>> {
        let row = self.tried.get((queue, id))?;
        row.map(|row| Delivered::from_bytes(row.value())).transpose()
    }

    /// Forgets what a message had behind it when it was ready in a lane.
    pub fn remove_tried(&mut self, queue: u64, id: u64) -> Result<Option<Delivered>> {
        let row = self.tried.remove((queue, id))?;
        row.map(|row| Delivered::from_bytes(row.value())).transpose()
    }

    /// The group of a priority that was served last.
    pub fn turn(&self, queue: u64, priority: u8) -> Result<Option<Vec<u8>>> {
        Ok(self.turns.get((queue, priority))?.map(|row| row.value().to_vec()))
    }

    /// Notes the group of a priority that was served last.
    pub fn put_turn(&mut self, queue: u64, priority: u8, group: &[u8]) -> Result<()> {
        self.turns.insert((queue, priority), group)?;
        Ok(())
    }
}

/// Why a message holds its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hold {
    /// A consumer has it: nothing of the group can be delivered.
    Leased,
    /// It is not visible yet: nothing behind it can be delivered.
    Delayed,
}

fn hold_key(queue: u64, group: &[u8], hold: Hold, id: u64) -> Vec<u8> {
    let mut key = group_key(queue, group);
    key.push(hold as u8);
    key.extend_from_slice(&id.to_be_bytes());
    key
}

/// Groups of ordered queues.
impl Tables<'_> {
    /// Lets a message hold its group.
    pub fn put_hold(&mut self, queue: u64, group: &[u8], hold: Hold, id: u64) -> Result<()> {
        self.holds.insert(&hold_key(queue, group, hold, id)[..], ())?;
        Ok(())
    }

    /// Ends a message's hold.
    pub fn remove_hold(&mut self, queue: u64, group: &[u8], hold: Hold, id: u64) -> Result<()> {
        self.holds.remove(&hold_key(queue, group, hold, id)[..])?;
        Ok(())
    }

    /// What holds a group: a leased message, or else the delayed one with the lowest id.
    pub fn hold(&self, queue: u64, group: &[u8]) -> Result<Option<(Hold, u64)>> {
        let from = hold_key(queue, group, Hold::Leased, 0);
        let to = hold_key(queue, group, Hold::Delayed, u64::MAX);
        let row = self.holds.range(&from[..]..=&to[..])?.next().transpose()?;
        row.map(|(key, _)| Ok(hold_of(key.value())?.1)).transpose()
    }

    /// True when a message holds its group for this reason.
    pub fn has_hold(&self, queue: u64, group: &[u8], hold: Hold, id: u64) -> Result<bool> {
        Ok(self.holds.get(&hold_key(queue, group, hold, id)[..])?.is_some())
    }

    /// Shows every hold of a queue: group, why, id.
    pub fn each_hold(
        &self,
        queue: u64,
        mut show: impl FnMut(&[u8], Hold, u64) -> Result<()>,
    ) -> Result<()> {
        let (from, to) = bounds(queue);
        for row in self.holds.range(&from[..]..&to[..])? {
            let key = row?.0;
            let (group, (hold, id)) = hold_of(key.value())?;
            show(group, hold, id)?;
        }
        Ok(())
    }

    /// Notes whether a group can be served. Returns whether it was so before.
    pub fn set_servable(&mut self, queue: u64, group: &[u8], can_be: bool) -> Result<bool> {
        let key = group_key(queue, group);
        let before = if can_be {
            self.ring.insert(&key[..], ())?.is_some()
        } else {
            self.ring.remove(&key[..])?.is_some()
        };
        Ok(before)
    }

    /// True when it is noted that a group can be served.
    pub fn is_servable(&self, queue: u64, group: &[u8]) -> Result<bool> {
        Ok(self.ring.get(&group_key(queue, group)[..])?.is_some())
    }

    /// How many groups of a queue can be served.
    pub fn servable(&self, queue: u64) -> Result<u64> {
        let (from, to) = bounds(queue);
        let mut groups = 0;
        for row in self.ring.range(&from[..]..&to[..])? {
            row?;
            groups += 1;
        }
        Ok(groups)
    }

    /// The next group that can be served, in the order of turns: behind `after`, or the first one.
    pub fn next_servable(&self, queue: u64, after: Option<&[u8]>) -> Result<Option<Vec<u8>>> {
        use std::ops::Bound::{Excluded, Included};
        let (start, end) = bounds(queue);
        let key = after.map(|group| group_key(queue, group));
        let from = key.as_deref().map_or(Included(&start[..]), Excluded);
        let row = self.ring.range::<&[u8]>((from, Excluded(&end[..])))?.next().transpose()?;
        row.map(|(key, _)| Ok(behind_group(behind_queue(key.value())?.1)?.0.to_vec())).transpose()
    }
}

/// All lanes of a queue.
impl Tables<'_> {
    /// Frees up to `most` rows of the lanes of a dropped queue; fewer only when none is left.
    pub(super) fn free_lanes(&mut self, queue: u64, most: usize) -> Result<usize> {
        let (from, to) = bounds(queue);
        let mut freed = 0;
        macro_rules! free {
            ($($table:ident),+) => {$(
                let mut found: Vec<Vec<u8>> = Vec::new();
                for row in self.$table.range(&from[..]..&to[..])?.take(most - freed) {
                    found.push(row?.0.value().to_vec());
                }
                freed += found.len();
                for key in found {
                    self.$table.remove(&key[..])?;
                }
            )+};
        }
        free!(waiting, holds, ring);
        Ok(freed)
    }

    /// Numbers of the queues that have rows of lanes.
    pub(super) fn queues_with_lanes(&self) -> Result<BTreeSet<u64>> {
        let mut found = BTreeSet::new();
        for row in self.waiting.iter()? {
            found.insert(behind_queue(row?.0.value())?.0);
        }
        for table in [&self.holds, &self.ring] {
            for row in table.iter()? {
                found.insert(behind_queue(row?.0.value())?.0);
            }
        }
        for row in self.tried.iter()? {
            found.insert(row?.0.value().0);
        }
        for row in self.turns.iter()? {
            found.insert(row?.0.value().0);
        }
        Ok(found)
    }
}

fn hold_of(key: &[u8]) -> Result<(&[u8], (Hold, u64))> {
    let (group, rest) = behind_group(behind_queue(key)?.1)?;
    let (kind, id) = rest.split_first().ok_or_else(|| damaged("holds: key"))?;
    let id = id.try_into().map_err(|_| damaged("holds: key"))?;
    let hold = match kind {
        0 => Hold::Leased,
        1 => Hold::Delayed,
        _ => return Err(damaged("holds: kind")),
    };
    Ok((group, (hold, u64::from_be_bytes(id))))
}

fn damaged(what: &str) -> StoreError {
    StoreError::Damaged(what.to_owned())
}
